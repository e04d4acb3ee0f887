"""exam.html: self-contained and well-formed, small however large the exam, and never silent about a fault."""

import dataclasses
import math
import re

import numpy as np
import pytest
from simulated_exam import FAMILIES, RECORD, coarse_interval, header_of, simulated_records
from test_report import page_of

import fifteen.examining.comparing
import fifteen.examining.sheets
from fifteen.charts import COLUMNS, SHADES, Row, Series, chart, estimates, strip
from fifteen.errors import RunError
from fifteen.examining.page import PAGE, WORST, write_exam_page
from fifteen.examining.records import Finding, LearnerNote, append_records, write_header
from fifteen.examining.replays import MOST_SENSORS, MOST_STEPS, REPLAYS, append_replay, read_replays, replay
from fifteen.examining.sheets import sheets
from fifteen.examining.summary import by_split, gaps, headline
from fifteen.examining.wording import figure

TRUTH = {"train": 0.6, "iid": 0.5, "held-out": 0.3, "outside": 0.4}
SECTIONS = (
    "Findings",
    "Train, iid and held-out",
    "Learning by attempt",
    "The worst jobs",
    "Does it know how it is doing?",
    "How steady, and how early",
    "What was run, and what failed",
)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    for room in (fifteen.examining.sheets, fifteen.examining.comparing):
        monkeypatch.setattr(room, "bootstrap_interval", coarse_interval)


def small_exam(truth=None, **changes):
    return simulated_records(truth or {"ours": TRUTH}, families=FAMILIES[:7], jobs=1, runs=2, attempts=4, **changes)


def write(folder, records, runs=2, **changes):
    folder.mkdir(exist_ok=True)
    write_header(folder, dataclasses.replace(header_of(records, runs), **changes))
    append_records(folder, records)
    return write_exam_page(folder)


def test_the_page_shows_the_exam_at_a_glance_and_then_in_depth(tmp_path):
    records = small_exam()
    path = write(tmp_path, records)
    assert path == tmp_path / PAGE
    page = page_of(path)
    assert page.links == [] and "script" not in page.tags
    places = [page.text.index(title) for title in SECTIONS]
    assert places == sorted(places)
    ours = sheets(header_of(records, 2), records)["ours"]
    found = headline(ours, by_split(ours, {}))
    assert found is not None and found.estimate.interval is not None
    interval = found.estimate.interval
    for text in (
        figure(found.estimate.value),
        f"{figure(interval.low)} to {figure(interval.high)}",
        *(figure(gap.estimate.value) for gap in gaps(ours)),
        "Held-out: templates that nobody may school on",
        "of 28 jobs failed; the 95 % bound for such jobs is 10.7 %",  # the rule of three
        "None: nothing failed, and no fault was found.",
        "the suite is not sealed",
        "drawn by the tests; nobody tuned to it",
        "4f1c2ab93d10",
        "5f3a" * 16,
        "minds/ours",
        "0.10.2",
        "All 28 jobs",
    ):
        assert text in page.text, text
    assert places[0] > page.text.index(figure(found.estimate.value))


def test_a_sealed_suite_shows_how_often_it_was_opened(tmp_path):
    page = page_of(write(tmp_path, small_exam(), openings=17, seal="beef" * 16))
    assert re.search(r"times this sealed suite was opened\s+17\b", page.text)
    assert "beef" * 16 in page.text


def test_faults_are_told_first_and_never_pass(tmp_path):
    records = small_exam()
    broken, absent, nan = (f"{family}/held-out-0" for family in FAMILIES[:3])
    records = [r for r in records if r.job != absent]
    for status, job, problem in (("crashed", broken, "KeyError: door"), ("not finite", nan, "the reward was nan")):
        at = next(n for n, r in enumerate(records) if r.job == job)
        records[at] = dataclasses.replace(
            records[at], status=status, problem=problem, return_=None, score=None, terminated=None
        )
    header = header_of(small_exam(), 2)
    findings = (
        Finding("leak", "", "grid/maze/iid-0", "info tells the seed"),
        Finding("twins", "ours", "", "it has met these jobs before"),
    )
    page = page_of(write(tmp_path, records, attempts=header.attempts, findings=findings))
    glance = page.text[: page.text.index("Train, iid and held-out")]
    for text in (
        "Findings: read these before you believe the scores",
        "The environment leaks.",
        "info tells the seed",
        "Better here than on twins of the same jobs.",
        f"Crashed. {broken}",
        f"Missing. {absent}",
        f"Not finite. {nan}",
        "of 28 jobs failed",
    ):
        assert text in " ".join(glance.split()), text
    below = page.text[len(glance) :]
    assert "KeyError: door" in below and "the reward was nan" in below
    clean, faulty = (sheets(header, r)["ours"] for r in (small_exam(), records))
    before, after = headline(clean, by_split(clean, {})), headline(faulty, by_split(faulty, {}))
    assert before is not None and after is not None and after.estimate.value < before.estimate.value
    assert figure(after.estimate.value) in glance


def test_an_exam_that_is_not_finished_says_so(tmp_path):
    page = page_of(write(tmp_path, small_exam(), seconds=None))
    assert "The exam is not finished" in page.text


def test_several_learners_stand_side_by_side(tmp_path):
    lower = {split: score - 0.3 for split, score in TRUTH.items()}
    records = small_exam({"ours": TRUTH, "same": TRUTH, "worse": lower}, run_spread=0.01, attempt_spread=0.01)
    page = page_of(write(tmp_path, records))
    assert "Learners compared" in page.text
    told = page.text[page.text.index("Learners compared") :]
    assert re.search(r"worse\s+better: 0\.3", told)
    assert re.search(r"same\s+tied: ", told)
    assert "after Holm" in told


def test_a_policy_of_one_job_has_the_rest_listed_and_not_passed(tmp_path):
    records = small_exam()
    applicable = f"{FAMILIES[0]}/outside-0"
    other = [
        dataclasses.replace(r, learner="ppo", values=())
        if r.job == applicable
        else dataclasses.replace(r, learner="ppo", status="not applicable", return_=None, score=None, values=())
        for r in records
    ]
    page = page_of(write(tmp_path / "both", records + other))
    assert "ppo, 27 jobs not applicable, neither passed nor failed" in page.text
    assert re.search(
        r"1 job in common, mean score \S+ against \S+, ahead in \d+ % of pairs of lifetimes: too few to decide",
        page.text,
    )
    first_screen = page.text[: page.text.index("Train, iid and held-out")]
    assert "ours, 7 jobs" in first_screen and "ppo, 1 job" in first_screen
    assert "Not of the same jobs, and so not to be compared" in first_screen
    page = page_of(write(tmp_path / "alone", other))
    first_screen = page.text[: page.text.index("Train, iid and held-out")]
    assert re.search(r"jobs not applicable, neither passed nor failed: its spaces are others\s+27\b", first_screen)
    assert "of 1 job failed" in first_screen
    assert "No learner here said what it expected" in page.text
    assert "too few families and lifetimes for an interval" in page.text


def test_an_exam_in_which_nothing_counts(tmp_path):
    records = [dataclasses.replace(RECORD, status="not applicable", return_=None, score=None)]
    page = page_of(write(tmp_path, records, runs=1))
    assert "Nothing could be scored" in page.text
    assert "1 job not applicable" in page.text


def test_a_job_without_a_reference_is_listed(tmp_path):
    records = [*small_exam(), *(dataclasses.replace(RECORD, job="own", score=None, run=n) for n in range(2))]
    assert "1 job without a reference, and so in no score: own" in page_of(write(tmp_path, records)).text


def test_a_folder_that_is_no_exam(tmp_path):
    with pytest.raises(RunError, match=r"not the folder of an exam: it has no exam\.json"):
        write_exam_page(tmp_path)


def test_names_and_problems_are_escaped(tmp_path):
    records = [
        dataclasses.replace(r, job="<b>&job", learner="<i>x", problem="<script>", status="crashed", score=None)
        for r in small_exam()[:1]
    ]
    header = dataclasses.replace(header_of(records, 1), learners=(LearnerNote("<i>x", "callable", "<u>here"),))
    page = page_of(write(tmp_path, records, 1, learners=header.learners, access="<em>all"))
    assert "<b>&job" in page.text and "<script>" in page.text and "<i>x" in page.text and "<em>all" in page.text
    assert not {"u", "em", "script"} & set(page.tags)


def test_a_large_exam_stays_small(tmp_path):
    """300 jobs, 3 lifetimes, 20 attempts: the whole page is far under 5 MB, with replays of full size."""
    records = simulated_records({"ours": TRUTH}, families=[*FAMILIES, "a", "b"], jobs=3, runs=3, attempts=20)
    assert len({r.job for r in records}) == 300 and len(records) == 18_000
    generator = np.random.default_rng(0)
    for r in {r.job: r for r in records}.values():
        if r.family in (FAMILIES[0], FAMILIES[1]):
            seen = generator.standard_normal((MOST_STEPS, MOST_SENSORS))
            append_replay(tmp_path, replay("ours", r.job, 0, 19, seen, seen[:, :8], seen[:, 0]))
    path = write(tmp_path, records, runs=3)
    assert path.stat().st_size < 1_500_000
    page_of(path)


# Replays ------------------------------------------------------------------------------------------


def test_replays_come_back_as_they_were_seen(tmp_path):
    observations = np.arange(12.0).reshape(3, 2, 2)
    observations[1, 0, 0] = math.nan
    append_replay(tmp_path, replay("ours", "a", 1, 4, observations, [0, 1, 2], [0.0, 0.5, math.inf]))
    append_replay(tmp_path, replay("ours", "b", 0, 0, np.zeros((1, 3)), np.ones((1, 2)), [1.0]))
    a, b = read_replays(tmp_path, lambda *_: True)
    assert (a.learner, a.job, a.run, a.attempt, a.length, a.sensors) == ("ours", "a", 1, 4, 3, 4)
    np.testing.assert_array_equal(a.observations, observations.reshape(3, 4))
    np.testing.assert_array_equal(a.actions, [[0.0], [1.0], [2.0]])
    np.testing.assert_array_equal(a.rewards, [0.0, 0.5, math.nan])
    assert b.actions.shape == (1, 2)
    assert [seen.job for seen in read_replays(tmp_path, lambda _, job: job == "b")] == ["b"]


def test_a_long_replay_is_cut_and_says_so(tmp_path):
    seen = replay(
        "ours",
        "a",
        0,
        0,
        np.zeros((MOST_STEPS + 5, MOST_SENSORS + 1)),
        np.zeros(MOST_STEPS + 5),
        np.zeros(MOST_STEPS + 5),
    )
    assert seen.observations.shape == (MOST_STEPS, MOST_SENSORS)
    assert (seen.length, seen.sensors) == (MOST_STEPS + 5, MOST_SENSORS + 1)


@pytest.mark.parametrize(
    ("observations", "actions", "rewards"),
    [(np.zeros((2, 1)), np.zeros(3), np.zeros(3)), (np.zeros((0, 1)), [], []), (0.0, [1.0], [1.0])],
)
def test_a_replay_whose_parts_differ_in_length_is_refused(observations, actions, rewards):
    with pytest.raises(ValueError, match="one of each for every step"):
        replay("ours", "a", 0, 0, observations, actions, rewards)


def test_half_a_last_line_is_left_out_and_a_broken_one_is_named(tmp_path):
    assert list(read_replays(tmp_path, lambda *_: True)) == []
    append_replay(tmp_path, replay("ours", "a", 0, 0, [[1.0]], [0], [1.0]))
    text = (tmp_path / REPLAYS).read_text(encoding="utf-8")
    (tmp_path / REPLAYS).write_text(text + text[:20], encoding="utf-8")
    assert len(list(read_replays(tmp_path, lambda *_: True))) == 1
    (tmp_path / REPLAYS).write_text("oops\n" + text, encoding="utf-8")
    with pytest.raises(RunError, match="line 1, is no replay: 'oops"):
        list(read_replays(tmp_path, lambda *_: True))


def test_the_worst_jobs_are_replayed(tmp_path):
    records = small_exam()
    worst = FAMILIES[2]
    records = [dataclasses.replace(r, score=-2.0) if r.family == worst else r for r in records]
    for r in {r.job: r for r in records}.values():
        steps = 7 if r.family == worst else 5
        append_replay(tmp_path, replay("ours", r.job, 1, 3, np.eye(steps), np.arange(steps), np.ones(steps)))
    page = page_of(write(tmp_path, records))
    told = " ".join(page.text.split())
    assert told.count("Attempt 4 of lifetime 2: ") == WORST
    assert told.count("Attempt 4 of lifetime 2: 7 steps, score −2.00. Time runs to the right.") == 4
    assert "always 1" in told and "0 to 6" in told
    without = write(tmp_path / "without", records)
    assert page_of(without).text.count("No attempt was kept to look at.") == WORST


# Charts -------------------------------------------------------------------------------------------


def test_a_strip_shows_each_row_from_its_least_to_its_greatest():
    text = strip(np.array([[0.0, 0.0, 8.0], [5.0, 5.0, 5.0], [math.nan, -1.0, 1.0]]))
    paths = dict(re.findall(r'class="s(\d)" d="([^"]*)"', text))
    assert paths == {"0": "M0 0.5h2M0 1.5h3M1 2.5h1", str(SHADES - 1): "M2 0.5h1M2 2.5h1"}


def test_a_wide_strip_is_thinned():
    text = strip(np.tile(np.arange(5_000.0), (2, 1)))
    assert f'viewBox="0 0 {COLUMNS} 2"' in text
    assert len(re.findall(r"M\d+ 0\.5", text)) == SHADES  # a ramp: one stretch of each shade
    assert strip(np.full((1, 3), math.nan)).count("<path") == 0


def test_estimates_lie_where_their_numbers_say():
    rows = [Row("a", 0.5, 0.25, 1.0, "half", "c1", points=(0.0, 1.0)), Row("b", 0.0, None, None, "none", "c2")]
    text = estimates("t", "d", rows, x_label="score", marks=(0.0, 1.0))
    (whisker,) = re.findall(r'class="whisker c1" d="M([\d.]+) 50H([\d.]+)"', text)
    dots = [float(x) for x in re.findall(r'class="dot c\d" d="M([\d.]+) 50h0"', text)]
    zero, one = (float(x) for x in re.findall(r'class="mark" d="M([\d.]+) 0V100M([\d.]+) 0V100"', text)[0])
    assert [float(x) for x in whisker] == pytest.approx([zero + 0.25 * (one - zero), one], abs=0.1)
    assert dots == pytest.approx([zero + 0.5 * (one - zero), zero], abs=0.1)
    with pytest.raises(ValueError, match="not finite"):
        estimates("t", "d", [Row("a", math.nan, None, None, "", "c1")], x_label="score")


def test_a_band_is_a_closed_outline_without_a_legend():
    band = Series(np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0]), "band", "c1", "")
    line = Series(np.array([0.0, 1.0]), np.array([0.5, 0.5]), "line", "c1", "mean")
    text = chart("t", "d", [band, line], x_label="x", y_label="y", x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    assert 'class="band c1" d="M0.0 1000.0L1000.0 1000.0L1000.0 0.0L0.0 0.0Z"' in text
    assert text.count("<li") == 1
