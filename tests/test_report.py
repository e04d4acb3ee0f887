"""report.html: self-contained, well-formed, and true to config.json and metrics.jsonl."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fifteen.charts import DRAWN, Series, chart, running_mean, sparkline, tick_labels, ticks
from fifteen.errors import RunError
from fifteen.report import flat, read_record, write_index, write_report

CONFIG = {
    "job": "CartPole-v1",
    "steps": 20_000,
    "episodes": None,
    "kwargs": {},
    "commit": "4f1c2ab",
    "work": {"learning_rate": 7e-4, "batch": 32},
    "versions": {"jax": "0.10.2"},
}


def attempt(n, **changes):
    entry = {
        "kind": "attempt",
        "job": "CartPole-v1",
        "stream": 0,
        "number": n,
        "step": 10 * (n + 1),
        "time_s": 0.1 * (n + 1),
        "return": float(n),
        "length": 10,
        "terminated": True,
        "expected": 0.9 * n,
        "discounted": float(n),
        "surprise": 1.0 / (n + 1),
    }
    return {**entry, **changes}


def run_folder(folder, entries, config=CONFIG):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run = {"kind": "run", "job": config["job"]}
    text = "".join(json.dumps(entry) + "\n" for entry in [run, *entries])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


class Page(HTMLParser):
    """Checks that every tag is closed in order, and collects what a person reads."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.words, self.tags, self.links = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def page_of(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"https?:|//|@import|url\(|<script", text) is None  # no network, no scripts
    return Page(text)


def test_report_shows_the_run(tmp_path):
    progress = {
        "kind": "progress",
        "step": 505,
        "time_s": 65.2,
        "steps_per_s": 800,
        "updates": 300,
        "reward_scale": 17.3,
        "losses": {"policy_loss": 1.25},
        "faults": {"reward non-finite": 3},
        "notes": ["attempts are cut at 10,000 steps"],
        "reason": "steps",
    }
    folder = run_folder(tmp_path / "run", [*(attempt(n) for n in range(50)), progress])
    path = write_report(folder)
    assert path == folder / "report.html"
    page = page_of(path)
    assert page.links == []
    for text in (
        "505 environment steps and 50 attempts in 1 min 5 s. The run is finished",
        "9.5",  # mean return of the first 20
        "39.5",  # of the last 20
        "best mean of 20, at step 500",
        "3.95",  # mean |0.9 n - n| over the last 20
        "Learning curve",
        "Expected and obtained",
        "Length of attempts",
        "Surprise",
        "environment steps per attempt",
        "reward non-finite",
        "attempts are cut at 10,000 steps",
        "learning rate",
        "0.0007",
        "0.10.2",
        "4f1c2ab",
        "policy loss",
        "17.3",
    ):
        assert text in page.text, text
    assert page.tags.count("svg") == 4


def test_report_of_a_run_that_was_killed(tmp_path):
    folder = run_folder(tmp_path / "run", [attempt(0), attempt(1)])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "attempt", "job": "Cart')
    page = page_of(write_report(folder))
    assert "2 attempts" in page.text and "not finished: still at work, or killed" in page.text
    assert "None." in page.text  # no faults, no notes


def test_report_without_a_finished_attempt(tmp_path):
    page = page_of(write_report(run_folder(tmp_path / "run", [])))
    assert page.text.count("No attempt has ended yet.") == 4


def test_report_of_numbers_that_are_unknown_huge_or_equal(tmp_path):
    entries = [
        attempt(0, expected=None, **{"return": 1e300}),
        attempt(1, surprise=None, **{"return": -1e300}),
        attempt(2, expected=0.0, discounted=0.0),
    ]
    text = write_report(run_folder(tmp_path / "run", entries)).read_text(encoding="utf-8")
    assert re.search(r"\b(nan|inf)\b", text, re.IGNORECASE) is None


def test_names_are_escaped(tmp_path):
    config = {**CONFIG, "job": "<b>&job", "kwargs": {"x": "<script>"}}
    folder = run_folder(tmp_path / "run", [attempt(0, job="<b>&job")], config)
    page = page_of(write_report(folder))
    assert "<b>&job" in page.text and "<script>" in page.text
    assert "b" not in page.tags and "script" not in page.tags


def test_a_long_run_stays_small_enough_to_open(tmp_path):
    entries = [attempt(n, **{"return": float(n % 7)}) for n in range(20_000)]
    path = write_report(run_folder(tmp_path / "run", entries))
    assert path.stat().st_size < 500_000


def test_a_line_that_is_not_json_is_named(tmp_path):
    folder = run_folder(tmp_path / "run", [attempt(0)])
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    (folder / "metrics.jsonl").write_text("oops\n" + text, encoding="utf-8")
    with pytest.raises(RunError, match="line 1, is not JSON: 'oops"):
        read_record(folder)


@pytest.mark.parametrize("line", ["3", "[]", '{"step": 1}', '{"kind": "attempt", "step": 1}'])
def test_a_line_that_no_run_wrote_is_named(tmp_path, line):
    folder = run_folder(tmp_path / "run", [attempt(0)])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match="line [0-9]+, is none that a run wrote"):
        read_record(folder)
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="cannot be read"):
        read_record(folder)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="not the folder of a run: it has no config.json"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="not the folder of a run: it has no metrics.jsonl"):
        write_report(tmp_path)


def test_index_links_every_report(tmp_path):
    runs = {
        run_folder(tmp_path / name, [attempt(n) for n in range(30)]): (solved,)
        for name, solved in (("1-CartPole-v1", "1,234"), ("2-CartPole-v1", "–"))
    }
    page = page_of(write_index(tmp_path, "Two jobs", ("Solved at",), runs))
    assert page.links == ["1-CartPole-v1/report.html", "2-CartPole-v1/report.html"]
    assert "1,234" in page.text and "Solved at" in page.text
    assert page.tags.count("svg") == 2


def test_flat():
    assert flat({"a": {"b_c": 1, "d": {"e": True}}, "f": None, "g": [1, 2], "h": {}}) == [
        ("a b c", "1"),
        ("a d e", "True"),
        ("f", "–"),
        ("g", "[1, 2]"),
        ("h", "{}"),
    ]


@given(
    st.floats(-1e12, 1e12),
    st.floats(1e-6, 1e12),
    st.integers(5, 8),
)
def test_ticks_are_round_inside_and_few(low, span, most):
    high = low + span
    assume(high - low > 1e-9 * max(abs(low), abs(high)))  # else floats themselves are too coarse
    values = ticks(low, high, most)
    step = values[1] - values[0]
    air = 1e-6 * step
    assert 2 <= len(values) <= most + 1
    assert all(low - air <= value <= high + air for value in values)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-3)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 5)) < 0.05
    names = tick_labels(values)
    assert len(set(names)) == len(names) or abs(low) > 1e3 * span


def test_tick_labels():
    assert tick_labels([0.0, 10_000.0, 20_000.0]) == ["0", "10,000", "20,000"]
    assert tick_labels([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert tick_labels([0.0, 5e5, 1e6, 1.5e6]) == ["0", "0.5M", "1.0M", "1.5M"]
    assert tick_labels([0.0, 2e-7, 4e-7]) == ["0", "2e-07", "4e-07"]


@given(st.lists(st.floats(-1e3, 1e3) | st.just(math.nan), max_size=60), st.integers(1, 25))
def test_running_mean_is_the_mean_of_what_is_known(values, window):
    result = running_mean(np.array(values, dtype=np.float64), window)
    for n, mean in enumerate(result):
        known = [v for v in values[max(0, n + 1 - window) : n + 1] if math.isfinite(v)]
        if known:
            assert mean == pytest.approx(sum(known) / len(known), abs=1e-6)
        else:
            assert math.isnan(mean)


def test_many_points_keep_their_extremes():
    y = np.zeros(50_000)
    y[31_234], y[40_001] = 1.0, -1.0
    series = Series(np.arange(50_000.0), y, "dots", "quiet", "one attempt")
    text = chart("t", "d", [series], x_label="steps", y_label="y")
    (path,) = re.findall(r'class="dots quiet" d="([^"]*)"', text)
    points = [tuple(map(float, p.split())) for p in path.removeprefix("M")[:-2].split("h0M")]
    assert len(points) <= DRAWN
    heights = {round(height) for _, height in points}
    assert len(heights) == 3  # the middle, the one highest and the one lowest point


def test_a_diagonal_chart_has_equal_axes():
    series = Series(np.array([0.0, 1.0]), np.array([0.0, 10.0]), "dots", "main", "latest")
    text = chart("t", "d", [series], x_label="x", y_label="y", same_axes=True)
    x = re.findall(r'left:([\d.]+)%">([^<]*)<', text)
    y = re.findall(r'top:([\d.]+)%">([^<]*)<', text)
    where = {name: float(at) for at, name in x}
    shared = [(float(at), name) for at, name in y if name in where]
    assert len(shared) >= 2
    assert all(at == pytest.approx(100 - where[name], abs=0.02) for at, name in shared)


def test_sparkline_needs_two_points():
    assert sparkline(np.array([1.0])) == ""
    assert sparkline(np.array([1.0, math.nan, 2.0])).startswith("<svg")
