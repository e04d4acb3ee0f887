"""From records to the numbers of the page: simulated exams of known truth, failures that never pass, intervals."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from simulated_exam import FAMILIES, RECORD, coarse_interval, header_of, simulated_records

import fifteen.examining.comparing
import fifteen.examining.sheets
from fifteen.examining.calibration import CLEAR, calibration
from fifteen.examining.records import Value
from fifteen.examining.sheets import Job, Sheet, estimated, sheets
from fifteen.examining.stats import interquartile_mean
from fifteen.examining.steadiness import steadiness
from fifteen.examining.summary import (
    by_split,
    compared,
    failures,
    gaps,
    headline,
    learning,
    tails,
    worst_jobs,
)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    for room in (fifteen.examining.sheets, fifteen.examining.comparing):
        monkeypatch.setattr(room, "bootstrap_interval", coarse_interval)


def record(job="job", **changes):
    return dataclasses.replace(RECORD, job=job, **{"family": job, **changes})


def sheet_of(records, runs, **changes):
    return sheets(dataclasses.replace(header_of(records, runs), **changes), records)["ours"]


def sheet(scores, families=None, splits=None):
    """A sheet of jobs of one attempt."""
    scores = np.asarray(scores, np.float64)
    families = families or [f"family {n}" for n in range(len(scores))]
    splits = splits or ["held-out"] * len(scores)
    jobs = tuple(Job(f"job {n}", f, "", s) for n, (f, s) in enumerate(zip(families, splits, strict=True)))
    curves = tuple(tuple(np.array([score]) for score in row) for row in scores)
    return Sheet("ours", jobs, scores, curves, tuple(tuple(np.array([10.0]) for _ in row) for row in scores), (), ())


# Score sheets -------------------------------------------------------------------------------------


def test_a_lifetime_is_scored_by_the_mean_of_its_attempts():
    records = [record(attempt=n, attempts=3, score=score) for n, score in enumerate((0.1, 0.2, 0.6))]
    ours = sheet_of(records, 1)
    assert ours.scores == pytest.approx(np.array([[0.3]]))
    np.testing.assert_array_equal(ours.curves[0][0], [0.1, 0.2, 0.6])


def test_attempts_may_have_been_written_in_any_order():
    records = [record(attempt=n, attempts=3, score=0.1 * n, steps_before=10 * n) for n in (2, 0, 1)]
    ours = sheet_of(records, 1)
    np.testing.assert_allclose(ours.curves[0][0], [0.0, 0.1, 0.2])
    np.testing.assert_allclose(ours.ends[0][0], [10.0, 20.0, 30.0])


@pytest.mark.parametrize("status", ["crashed", "refused", "missing", "not finite", "timed out"])
def test_a_failed_lifetime_counts_as_chance_for_all_that_it_did_not_do(status):
    done = [record(attempt=n, attempts=3, score=0.9) for n in range(2)]
    failed = record(attempt=2, attempts=3, status=status, return_=None, score=None, terminated=None)
    ours = sheet_of([*done, failed], 1, attempts={"job": 6})
    np.testing.assert_array_equal(ours.curves[0][0], [0.9, 0.9, 0.0, 0.0, 0.0, 0.0])
    assert ours.scores == pytest.approx(np.array([[0.3]]))
    assert len(ours.ends[0][0]) == 0


def test_nobody_gains_by_failing():
    """What is missing counts as the worst score on the job where that is below chance."""
    ours = sheet_of([record(run=0, score=-0.7)], 2)
    assert ours.scores == pytest.approx(np.array([[-0.7, -0.7]]))


def test_a_job_without_any_record_is_a_failure_and_lowers_the_headline():
    records = [record(f"job {n}", score=0.8) for n in range(8)]
    whole, lacking = sheet_of(records, 1), sheet_of(records[:4], 1, attempts={f"job {n}": 1 for n in range(8)})
    assert [job.split for job in lacking.jobs] == ["held-out"] * 4 + [None] * 4
    assert lacking.scores.tolist() == [[0.8]] * 4 + [[0.0]] * 4
    (before, after) = (headline(one, by_split(one, {})) for one in (whole, lacking))
    assert before is not None and after is not None
    assert before.estimate.value == pytest.approx(0.8)
    assert after.estimate.value == pytest.approx(0.4)
    assert after.jobs == 8


def test_an_exam_of_which_nothing_was_recorded_is_failed_not_empty():
    empty = header_of([record()], 2)
    ours = sheets(empty, [])["ours"]
    assert ours.scores.tolist() == [[0.0, 0.0]]
    found = headline(ours, by_split(ours, {}))
    assert found is not None and found.estimate.value == 0.0
    assert failures(empty, [], ours).failed == 1


def test_a_job_that_is_not_applicable_is_neither_passed_nor_failed():
    records = [record("a"), record("b", status="not applicable", return_=None, score=None)]
    ours = sheet_of(records, 1)
    assert [job.name for job in ours.jobs] == ["a"]
    assert [job.name for job in ours.not_applicable] == ["b"]
    assert failures(header_of(records, 1), records, ours).failed == 0


def test_a_job_without_a_reference_is_in_no_score_even_where_it_failed():
    records = [
        record("a"),
        record("b", score=None),
        record("b", learner="other", status="crashed", return_=None, score=None),
    ]
    both = sheets(header_of(records, 1), records)
    assert [job.name for job in both["ours"].without_reference] == ["b"]
    assert [job.name for job in both["other"].jobs] == ["a"]  # of which it has no record
    found = failures(header_of(records, 1), records, both["other"])
    assert set(found.by_status) == {"crashed", "missing"} and found.failed == 2 and found.asked == 2


def test_a_lifetime_that_a_budget_of_steps_ended_early_lacks_nothing():
    records = [record(run=run, attempt=n, attempts=2 + run) for run in range(2) for n in range(2 + run)]
    ours = sheet_of(records, 2, attempts={"job": None})
    assert [len(curve) for curve in ours.curves[0]] == [2, 3]
    assert failures(header_of(records, 2), records, ours).failed == 0


# Intervals that are honest at their size ----------------------------------------------------------


@pytest.mark.parametrize(
    ("families", "runs", "over", "level"),
    [
        (6, 1, "families", 0.95),
        (5, 1, "families", 0.90),
        (4, 1, "families", 0.80),
        (3, 1, "families", 0.70),
        (2, 5, "lifetimes", 0.95),
        (1, 6, "lifetimes", 0.95),
        (1, 4, "lifetimes", 0.80),
        (1, 2, "", None),
        (2, 1, "", None),
    ],
)
def test_the_interval_is_the_best_that_the_sample_can_bear(families, runs, over, level):
    scores = np.random.default_rng(0).standard_normal((families, runs))
    found = estimated(scores, [f"{n}" for n in range(families)])
    assert found.value == interquartile_mean(scores)
    assert found.over == over
    assert (found.interval and found.interval.level) == level


def test_headline_and_gaps_cover_the_truth():
    """40 exams of learners whose scores are known: intervals of 95 % hold the truth in at least 34 (p < 0.01 else)."""
    truth = {"train": 0.6, "iid": 0.5, "held-out": 0.3}
    covered = np.zeros(3)
    for seed in range(40):
        records = simulated_records({"ours": truth}, jobs=2, runs=2, attempts=2, seed=seed)
        ours = sheet_of(records, 2)
        found = headline(ours, by_split(ours, {}))
        assert found is not None and found.split == "held-out" and found.families == len(FAMILIES)
        estimates = [found.estimate, *(gap.estimate for gap in gaps(ours))]
        for n, (estimate, true) in enumerate(zip(estimates, (0.3, 0.1, 0.2), strict=True)):
            assert estimate.interval is not None and estimate.interval.level == 0.95
            covered[n] += estimate.interval.low <= true <= estimate.interval.high
    assert (covered >= 34).all(), covered


def test_the_gap_is_the_difference_of_the_splits_where_all_families_have_both():
    truth = {"train": 0.6, "iid": 0.5, "held-out": 0.3}
    ours = sheet_of(simulated_records({"ours": truth}, jobs=2, runs=2, attempts=2), 2)
    scores = by_split(ours, {})
    first, second = gaps(ours)
    assert first.estimate.value == pytest.approx(scores["train"].whole.value - scores["iid"].whole.value)
    assert second.estimate.value == pytest.approx(scores["iid"].whole.value - scores["held-out"].whole.value)
    assert second.families == len(FAMILIES)


def test_a_gap_leaves_out_families_that_have_only_one_of_the_splits():
    scores = [[0.9], [0.5], [0.1]]
    found = gaps(sheet(scores, ["a", "a", "b"], ["iid", "held-out", "held-out"]))
    assert [gap.estimate.value for gap in found] == pytest.approx([0.4])
    assert found[0].families == 1 and found[0].estimate.interval is None


def test_the_headline_is_of_the_split_that_is_farthest_from_school():
    splits = ["train", "iid", "outside", "held-out"]
    for n, split in ((4, "held-out"), (3, "outside"), (2, "iid"), (1, "train")):
        of_these = sheet([[0.5]] * n, splits=splits[:n])
        found = headline(of_these, by_split(of_these, {}))
        assert found is not None and found.split == split


def test_solved_is_the_share_of_attempts_that_reach_the_threshold():
    records = [record(attempt=n, attempts=4, score=score) for n, score in enumerate((0.1, 0.9, 0.95, 0.89))]
    records.append(record("other", score=0.1))
    found = by_split(sheet_of(records, 1), {"job": 0.9})["held-out"]
    assert found.solved == pytest.approx(0.5)
    assert (found.first, found.last) == pytest.approx((0.1, 0.495))
    assert found.short == pytest.approx(np.mean([1.0 - 0.71, 0.9]))


# Learning, the worst ------------------------------------------------------------------------------


def test_learning_shows_the_growth_within_a_lifetime():
    truth = {"held-out": 0.5}
    records = simulated_records({"ours": truth}, jobs=3, runs=2, attempts=20, family_spread=0.02, attempt_spread=0.02)
    curve = learning(sheet_of(records, 2), "held-out")
    assert curve is not None and curve.in_attempts and curve.level == 0.95
    np.testing.assert_array_equal(curve.at, np.arange(1, 21))
    assert curve.score[-1] - curve.score[0] == pytest.approx(0.4, abs=0.02)
    assert (np.diff(curve.score) > -0.01).all()
    inside = np.interp(curve.band_at, curve.at, curve.score)
    assert ((curve.low <= inside) & (inside <= curve.high)).all()
    assert learning(sheet_of(records, 2), "train") is None


def test_lifetimes_of_different_lengths_are_compared_by_their_shares():
    records = [record("a", attempt=n, attempts=5, score=n / 4) for n in range(5)]
    records += [record("b", attempt=n, attempts=9, score=n / 8) for n in range(9)]
    curve = learning(sheet_of(records, 1), "held-out")
    assert curve is not None and not curve.in_attempts
    assert (curve.at[0], curve.at[-1], curve.score[0], curve.score[-1]) == (0.0, 1.0, 0.0, 1.0)
    assert curve.level is None and len(curve.low) == 0  # two families, one lifetime: no band
    assert learning(sheet([[1.0]]), "held-out") is None  # one attempt


def test_the_two_ends_of_the_tail_bracket_the_truth():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        true = generator.standard_normal(100)
        tail = tails(sheet(true[:, None] + generator.standard_normal((100, 3))))
        ordered = np.sort(true)
        found.append([(t.same, t.double, ordered[: round(100 * t.share)].mean()) for t in tail])
    for same, double, true in np.mean(found, axis=0):
        assert same < true - 0.05 and true + 0.05 < double


def test_a_tail_of_less_than_one_job_is_not_made_up():
    found = tails(sheet(np.arange(20.0)[:, None]))
    assert [(tail.same, tail.double) for tail in found] == [(None, None), (0.0, None), (0.5, None)]


def test_the_worst_jobs_come_first():
    assert worst_jobs(sheet([[0.5, 0.5], [-1.0, 0.0], [0.1, 0.1]]), 2) == [1, 2]


# Failures -----------------------------------------------------------------------------------------


def test_failures_are_counted_by_job_and_what_follows_a_crash_is_not_counted_again():
    records = [record(f"job {n}", run=run) for n in range(10) for run in range(2)]
    records[0] = dataclasses.replace(records[0], status="crashed", problem="it broke", return_=None, score=None)
    records.pop()  # the second lifetime on job 9
    header = dataclasses.replace(header_of(records, 2), attempts={f"job {n}": 5 for n in range(10)})
    records = [dataclasses.replace(r, attempts=1) for r in records]
    found = failures(header, records, sheets(header, records)["ours"])
    assert found.by_status == {"crashed": {"job 0": "it broke"}, "missing": {"job 9": "no record of 5 of its attempts"}}
    assert found.attempts == {"crashed": 1, "missing": 5}
    assert (found.failed, found.asked) == (2, 10)
    assert found.bound == pytest.approx(0.507, abs=1e-3)  # Clopper-Pearson, one-sided, 2 of 10


def test_no_failure_is_bounded_by_the_rule_of_three():
    records = [record(f"job {n}") for n in range(60)]
    found = failures(header_of(records, 1), records, sheet_of(records, 1))
    assert (found.failed, found.bound) == (0, 0.05)


# Calibration --------------------------------------------------------------------------------------


def test_calibration_finds_the_hope_and_the_foresight_that_were_put_in():
    records = simulated_records({"ours": {"iid": 0.5}}, jobs=6, runs=2, attempts=10, hopes=0.3)
    found = calibration(records, "ours")
    assert found.cut == 0 and found.not_finite == 0
    assert found.used == sum(group.values for group in found.groups) == 4 * len(records)
    for group in found.groups:
        assert group.bias.interval is not None
        assert group.bias.interval.low <= 0.3 <= group.bias.interval.high
        assert group.correlation == pytest.approx(np.sqrt(0.8), abs=0.03)
        np.testing.assert_allclose(group.obtained, group.expected - 0.3, atol=0.25)
    for one, other in pairwise(found.groups):
        assert one.longest is not None and one.longest < other.shortest


def test_calibration_does_not_depend_on_the_unit_of_the_reward():
    records = simulated_records({"ours": {"iid": 0.5}}, jobs=1, runs=2, attempts=10)
    other = [
        dataclasses.replace(
            r, values=tuple(Value(v.step, 7.0 - 30.0 * v.expected, 7.0 - 30.0 * v.obtained) for v in r.values)
        )
        if r.family == FAMILIES[0]
        else dataclasses.replace(r, values=tuple(Value(v.step, 1e3 * v.expected, 1e3 * v.obtained) for v in r.values))
        for r in records
    ]
    before, after = (calibration(every, "ours").groups for every in (records, other))
    for one, two in zip(before, after, strict=True):
        assert one.correlation == pytest.approx(two.correlation)


def test_what_a_time_limit_cut_off_is_not_held_against_the_learner():
    values = (Value(0, 5.0, 4.0), Value(150, 5.0, 1.0))
    early, late = record(length=CLEAR + 10, terminated=False, values=values), record(length=20, values=values[:1])
    found = calibration([early, late], "ours")
    assert (found.used, found.cut) == (2, 1)


def test_expectations_that_are_no_numbers_are_counted():
    values = (Value(0, float("nan"), 1.0), Value(1, 2.0, 1.0), Value(2, None, 1.0))  # pyright: ignore[reportArgumentType]
    found = calibration([record(values=values)], "ours")
    assert (found.used, found.not_finite) == (1, 2)


def test_hope_on_a_job_where_nothing_is_ever_obtained_shows():
    found = calibration([record(attempt=n, values=(Value(0, 2.0, 0.0),)) for n in range(20)], "ours")
    assert found.groups[0].bias.value == pytest.approx(1.0)
    assert found.groups[0].correlation is None


# Steadiness ---------------------------------------------------------------------------------------


def test_steadiness_of_curves_that_are_known():
    rise, fall = (0.0, 0.2, 0.4, 0.6), (0.6, 0.6, 0.2, 0.3)
    records = [
        record(run=run, attempt=n, attempts=4, score=score, length=25, steps_before=25 * n)
        for run, curve in enumerate((rise, fall))
        for n, score in enumerate(curve)
    ]
    found = steadiness(sheet_of(records, 2))
    assert found is not None and found.across and found.within and found.drawdown
    assert found.across.value == pytest.approx(np.mean([0.3, 0.2, 0.1, 0.15]))
    assert found.drawdown.value == pytest.approx(np.mean([0.0, 0.4]))
    assert {share: e.value for share, e in found.after.items()} == pytest.approx({0.01: 0.0, 0.1: 0.0, 1.0: 0.45})
    assert found.none_yet == {0.01: 1.0, 0.1: 1.0, 1.0: 0.0}


def test_a_lifetime_that_failed_has_nothing_early():
    records = [record(attempt=n, attempts=3, score=0.9, steps_before=10 * n) for n in range(3)]
    records[2] = dataclasses.replace(records[2], status="crashed", return_=None, score=None)
    found = steadiness(sheet_of(records, 1))
    assert found is not None and found.across is None
    assert found.after[1.0].value == 0.0 and found.none_yet[1.0] == 1.0


# Several learners ---------------------------------------------------------------------------------


def test_better_tied_and_undecided_learners_are_told_apart():
    truth = {"ours": {"held-out": 0.5}, "worse": {"held-out": 0.3}, "same": {"held-out": 0.5}}
    records = simulated_records(truth, jobs=2, runs=3, attempts=3, run_spread=0.02, attempt_spread=0.02)
    worse, same = compared([*sheets(header_of(records, 3), records).values()])
    assert (worse.rival, worse.verdict, worse.over, worse.jobs) == ("worse", "better", "families", 46)
    assert worse.ours is not None and worse.theirs is not None and worse.improves is not None
    assert worse.ours - worse.theirs == pytest.approx(0.2, abs=0.02) and worse.improves > 0.95
    assert worse.difference is not None and worse.difference.low <= 0.2 <= worse.difference.high
    assert (same.rival, same.verdict) == ("same", "tied")
    assert same.detectable is not None and same.detectable < 0.02
    noisy = simulated_records(
        {"a": truth["ours"], "b": truth["ours"]}, families=FAMILIES[:8], jobs=1, runs=1, run_spread=0.5
    )
    (found,) = compared([*sheets(header_of(noisy, 1), noisy).values()])
    assert found.verdict == "undecided"


def test_a_rival_is_compared_on_the_jobs_it_took():
    ours = simulated_records({"ours": {"held-out": 0.5}}, families=FAMILIES[:3], jobs=1, runs=5, attempts=2)
    records = ours + [
        dataclasses.replace(r, learner="one job", score=(r.score or 0.0) - 0.3)
        if r.family == FAMILIES[0]
        else dataclasses.replace(r, learner="one job", status="not applicable", return_=None, score=None)
        for r in ours
    ]
    (found,) = compared([*sheets(header_of(records, 5), records).values()])
    assert (found.jobs, found.over, found.verdict, found.difference) == (1, "", "undecided", None)
    every = [dataclasses.replace(r, learner="three", score=(r.score or 0.0) - 0.3) for r in ours]
    (found,) = compared([*sheets(header_of(ours + every, 5), ours + every).values()])
    assert (found.jobs, found.over, found.verdict) == (3, "lifetimes", "better")
