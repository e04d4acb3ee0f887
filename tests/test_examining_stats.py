"""Statistics of an exam: against scipy, against published numbers, and against synthetic learners of known truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as reference

from fifteen.examining.stats import (
    CVAR_SHARES,
    WHOLE,
    bootstrap_interval,
    cvar,
    cvar_double_sampled,
    failure_bound,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    rule_of_three,
)
from fifteen.examining.student import critical_value, rejection

NUMBERS = st.floats(-1e3, 1e3)
SEEDS = st.integers(0, 2**32 - 1)
SCORES = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=NUMBERS)
)

# The matrices of the tests of rliable (google-research/rliable, tests/rliable/metrics_test.py), jobs first.
RLIABLE_X = np.array([[1, 2, 1, 2], [2, 2, 1, 1]])
RLIABLE_Y = np.array([[1, 2, 3], [1, 2, 3]])


# Aggregates ---------------------------------------------------------------------------------------


@given(SCORES)
def test_the_interquartile_mean_is_the_trimmed_mean(scores):
    assert interquartile_mean(scores) == pytest.approx(reference.trim_mean(scores, 0.25, axis=None), abs=1e-9)


def test_what_rliable_publishes_of_its_own_matrices():
    assert interquartile_mean(RLIABLE_X) == 1.5
    assert interquartile_mean(RLIABLE_Y) == 2.0
    assert probability_of_improvement(RLIABLE_X, RLIABLE_Y) == pytest.approx(1 / 3)


@given(SCORES, SEEDS, st.floats(-10.0, 10.0))
def test_aggregates_ignore_the_order_of_runs_and_follow_a_shift(scores, seed, shift):
    mixed = np.random.default_rng(seed).permutation(scores.ravel()).reshape(scores.shape)
    thresholds = np.linspace(-1e3, 1e3, 7)
    assert interquartile_mean(mixed) == interquartile_mean(scores)
    assert optimality_gap(mixed) == pytest.approx(optimality_gap(scores))
    np.testing.assert_array_equal(performance_profile(mixed, thresholds), performance_profile(scores, thresholds))
    assert interquartile_mean(scores + shift) == pytest.approx(interquartile_mean(scores) + shift, abs=1e-9)
    assert optimality_gap(scores + shift, 1.0 + shift) == pytest.approx(optimality_gap(scores), abs=1e-9)


@given(SCORES, SEEDS)
def test_no_aggregate_falls_when_a_run_gets_better(scores, seed):
    better = scores + np.random.default_rng(seed).exponential(size=scores.shape)
    thresholds = np.linspace(-1e3, 1e3, 7)
    assert interquartile_mean(better) >= interquartile_mean(scores) - 1e-9
    assert optimality_gap(better) <= optimality_gap(scores)
    assert (performance_profile(better, thresholds) >= performance_profile(scores, thresholds)).all()
    assert probability_of_improvement(better, scores) >= 0.5
    assert scores.min() - 1e-9 <= interquartile_mean(scores) <= scores.max() + 1e-9


def test_gap_and_profile_by_hand():
    scores = [[0.0, 0.5], [1.0, 3.0]]
    assert optimality_gap(scores) == 0.375
    assert optimality_gap(scores, target=2.0) == 1.125
    np.testing.assert_array_equal(performance_profile(scores, [-1.0, 0.0, 0.7, 1.0, 3.0]), [1.0, 0.75, 0.5, 0.25, 0.0])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), SEEDS)
def test_the_probability_of_improvement_is_mann_whitney(jobs, ours, rival, seed):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 4, (jobs, ours)), random.integers(0, 4, (jobs, rival))
    u = [reference.mannwhitneyu(x, y, method="asymptotic").statistic for x, y in zip(a, b, strict=True)]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(u) / (ours * rival))
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1.0)


# The worst jobs -----------------------------------------------------------------------------------


@given(arrays(np.float64, st.integers(10, 40), elements=NUMBERS), st.floats(0.1, 1.0), SEEDS)
def test_cvar_is_the_solution_of_its_optimisation(scores, share, seed):
    """Rockafellar & Uryasev 2002, Theorem 10, for scores instead of losses; the best c is one of the scores."""
    best = max(c - np.maximum(c - scores, 0.0).mean() / share for c in scores)
    assert cvar(scores, share) == pytest.approx(best, abs=1e-8)
    assert scores.min() - 1e-9 <= cvar(scores, share) <= scores.mean() + 1e-9
    assert cvar(np.random.default_rng(seed).permutation(scores), share) == pytest.approx(cvar(scores, share), abs=1e-9)


@given(arrays(np.float64, (2, 20), elements=st.integers(0, 3).map(float)), st.floats(0.05, 1.0), SEEDS)
def test_jobs_that_tie_in_choosing_weigh_the_same(evaluations, share, seed):
    choosing, scoring = evaluations
    order = np.random.default_rng(seed).permutation(20)
    double = cvar_double_sampled(choosing, scoring, share)
    assert cvar_double_sampled(choosing[order], scoring[order], share) == pytest.approx(double, abs=1e-9)
    assert cvar(scoring, share) <= double + 1e-9
    assert cvar_double_sampled(np.zeros(20), scoring, share) == pytest.approx(scoring.mean(), abs=1e-9)


@pytest.mark.parametrize("share", CVAR_SHARES)
@pytest.mark.parametrize("kind", ["normal", "success"])
@given(seed=SEEDS)
@settings(max_examples=5)
def test_the_two_cvars_bracket_the_truth_in_expectation(share, kind, seed):
    random = np.random.default_rng(seed)
    truth = random.beta(4.0, 2.0, 100)

    def evaluation():
        if kind == "normal":
            return truth + 0.2 * random.standard_normal(100)
        return random.binomial(5, truth) / 5

    pairs = [(evaluation(), evaluation()) for _ in range(200)]
    same = np.array([cvar(a, share) for a, _ in pairs]) - cvar(truth, share)
    double = np.array([cvar_double_sampled(a, b, share) for a, b in pairs]) - cvar(truth, share)
    assert same.mean() < 5 * same.std() / math.sqrt(200)
    assert double.mean() > -5 * double.std() / math.sqrt(200)
    assert double.mean() - same.mean() > 0.05, "with so much noise the bracket is wide"


def test_without_noise_the_bracket_closes():
    truth = np.random.default_rng(0).random(200)
    for share in CVAR_SHARES:
        assert (
            cvar(truth, share)
            == cvar_double_sampled(truth, truth, share)
            == np.sort(truth)[: round(200 * share)].mean()
        )


# Failures -----------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.floats(0.0, 1.0), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_bound_on_failures_is_clopper_pearson(runs, part, level):
    failures = round(part * runs)
    exact = reference.binomtest(failures, runs, alternative="less").proportion_ci(level, method="exact").high
    assert failure_bound(failures, runs, level) == pytest.approx(exact, rel=1e-9)


@given(st.integers(1, 100_000))
def test_the_rule_of_three_is_a_little_above_the_exact_bound(runs):
    exact = failure_bound(0, runs)
    assert exact == pytest.approx(1.0 - 0.05 ** (1.0 / runs), rel=1e-9)
    assert exact <= rule_of_three(runs) == min(1.0, 3.0 / runs)
    if runs >= 30:
        assert rule_of_three(runs) <= 1.06 * exact


# Intervals ----------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_interval():
    scores = np.random.default_rng(0).random((12, 5))
    for families in (None, list("aabbccddeeff")):
        interval = bootstrap_interval(scores, interquartile_mean, families=families, seed=3, resamples=200)
        np.random.default_rng(9).random(10)
        again = bootstrap_interval(scores, interquartile_mean, families=families, seed=3, resamples=200)
        other = bootstrap_interval(scores, interquartile_mean, families=families, seed=4, resamples=200)
        assert interval == again
        assert (interval.low, interval.high) != (other.low, other.high)
        assert interval.low <= interval.estimate == interquartile_mean(scores) <= interval.high


@pytest.mark.parametrize("runs", [8, 12, 40])
def test_of_one_mean_the_interval_is_that_of_student(runs):
    # Without skew, which a bootstrap follows and Student does not.
    scores = reference.norm.ppf((np.arange(runs)[None] + 0.5) / runs)
    interval = bootstrap_interval(scores, np.mean, families=None, seed=0)
    error = scores.std(ddof=1) / math.sqrt(runs)
    low, high = reference.t.interval(0.95, runs - 1, scores.mean(), error)
    # Three Monte Carlo errors of the percentile, 0.05 standard errors each; unexpanded, 8 runs are 0.5 away.
    np.testing.assert_allclose([interval.low, interval.high], [low, high], atol=0.15 * error)


def test_families_are_drawn_whole_in_their_number_and_seeds_within_jobs():
    families = ["big", "small", "big", "big", "other"]
    scores = np.arange(5)[:, None] * 10.0 + np.arange(3)
    pairs = np.stack([scores, -scores], axis=-1)
    sizes, rows_seen = set(), set()

    def statistic(drawn):
        job, seed = np.divmod(drawn[..., 0], 10)
        assert (drawn[..., 1] == -drawn[..., 0]).all(), "what follows the seed travels with the run"
        assert (job == job[:, :1]).all()
        assert (seed < 3).all()
        big = int(np.isin(job[:, 0], [0, 2, 3]).sum())
        assert big % 3 == 0
        assert len(job) - big == 3 - big // 3
        sizes.add(len(job))
        rows_seen.update(job[:, 0].astype(int).tolist())
        return float(len(job))

    bootstrap_interval(pairs, statistic, families=families, seed=0, level=0.7, resamples=300)
    assert sizes == {3, 5, 7, 9}
    assert rows_seen == set(range(5))


def test_many_families_are_drawn_with_all_that_is_in_them():
    families = [f"family {job // 2}" for job in range(2 * WHOLE)]
    scores = np.arange(2 * WHOLE)[:, None] * 10.0 + np.arange(3)
    seen = set()

    def statistic(drawn):
        first, second = drawn[::2], drawn[1::2]
        assert drawn.shape == scores.shape
        assert (second - first == 10.0).all() and (first % 20.0 == np.arange(3)).all()
        seen.update((first[:, 0] // 20).astype(int).tolist())
        return float(drawn.mean())

    bootstrap_interval(scores, statistic, families=families, seed=0, resamples=100)
    assert seen == set(range(WHOLE))


def test_jobs_that_are_alike_within_families_make_the_interval_wider():
    random = np.random.default_rng(5)
    scores = np.repeat(random.standard_normal((8, 1)), 4, axis=0) + 0.1 * random.standard_normal((32, 5))
    labels = [f"family {job // 4}" for job in range(32)]
    alone = [str(job) for job in range(32)]
    clustered = bootstrap_interval(scores, np.mean, families=labels, seed=0, resamples=2_000)
    free = bootstrap_interval(scores, np.mean, families=alone, seed=0, resamples=2_000)
    fixed = bootstrap_interval(scores, np.mean, families=None, seed=0, resamples=2_000)
    assert clustered.high - clustered.low > 1.5 * (free.high - free.low)
    assert free.high - free.low > 5 * (fixed.high - fixed.low)


def covered(draw, truth, statistic, families, repeats=120):
    """Share of intervals of 95 % that hold the truth."""
    intervals = [
        bootstrap_interval(draw(), statistic, families=families, seed=r, resamples=400) for r in range(repeats)
    ]
    return np.mean([i.low <= truth <= i.high for i in intervals])


@pytest.mark.parametrize("statistic", [np.mean, interquartile_mean])
def test_intervals_over_five_seeds_cover_the_truth(statistic):
    random = np.random.default_rng(11)
    jobs = np.linspace(-0.5, 0.5, 6)[:, None]  # symmetric: mean and interquartile mean are both 0
    # 0.95 less three standard errors of 120 repeats; the plain percentile interval has 0.92 here.
    assert covered(lambda: jobs + 0.3 * random.standard_normal((6, 5)), 0.0, statistic, None) >= 0.89


@pytest.mark.parametrize("spread", [0.0, 0.2])  # of families: alike, or the main thing
def test_intervals_over_thirty_families_and_twenty_seeds_cover_the_truth_and_not_more(spread):
    random = np.random.default_rng(13)

    def draw():
        family = np.repeat(spread * random.standard_normal((30, 1)), 2, axis=0)
        return family + 0.1 * random.standard_normal((60, 1)) + 0.1 * random.standard_normal((60, 20))

    families = [f"family {job // 2}" for job in range(60)]
    assert 0.89 <= covered(draw, 0.0, interquartile_mean, families) <= 0.985


def test_intervals_over_eight_families_cover_the_truth():
    random = np.random.default_rng(12)

    def draw():
        family = np.repeat(random.standard_normal((8, 1)), 2, axis=0)
        return family + 0.3 * random.standard_normal((16, 1)) + 0.3 * random.standard_normal((16, 3))

    families = [f"family {job // 2}" for job in range(16)]
    assert covered(draw, 0.0, np.mean, families) >= 0.89
    assert covered(draw, 0.0, np.mean, None) < 0.6, "what the seeds alone say is about these jobs only"


# Student's t --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dof", [1, 2, 5, 30, 100, 10_000])
def test_students_t_is_that_of_scipy(dof):
    for alpha in (0.2, 0.05, 1e-4):
        critical = critical_value(alpha, dof)
        assert critical == pytest.approx(reference.t.isf(alpha / 2, dof), rel=1e-10)
        for shift in (0.0, 1.0, 4.0):
            tails = reference.nct.sf(critical, dof, shift) + reference.nct.cdf(-critical, dof, shift)
            assert rejection(shift, critical, dof) == pytest.approx(tails, abs=1e-10)


# What is refused ----------------------------------------------------------------------------------

GAP = np.array([[1.0, 2.0, 3.0], [4.0, math.nan, 6.0]])
FULL = np.ones((2, 3))
CURVE = np.array([1.0, math.nan, 2.0])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: interquartile_mean(GAP),
        lambda: optimality_gap(GAP),
        lambda: performance_profile(GAP, [0.0]),
        lambda: probability_of_improvement(FULL, GAP),
        lambda: cvar(CURVE, 0.5),
        lambda: cvar_double_sampled(np.ones(3), CURVE, 0.5),
        lambda: bootstrap_interval(GAP, np.mean, families=None, seed=0),
    ],
)
def test_a_missing_evaluation_is_refused(ask):
    with pytest.raises(ValueError, match=r"\] is nan.*count a missing evaluation as a failure before you ask for"):
        ask()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: interquartile_mean([1.0, 2.0]), r"scores is float64\[2\], expected float64\[J, S\]"),
        (lambda: interquartile_mean(np.ones((0, 3))), "none empty"),
        (lambda: probability_of_improvement(FULL, np.ones((3, 3))), "ours has 2 jobs and rival 3"),
        (lambda: cvar(np.ones(30), 0.01), "0.01 of 30 is less than one: expected at least 100"),
        (lambda: cvar(np.ones(30), 0.0), "share is 0.0"),
        (lambda: cvar_double_sampled(np.ones(3), np.ones(4), 0.5), "choosing has 3 jobs and scoring 4"),
        (lambda: rule_of_three(0), "runs is 0"),
        (lambda: failure_bound(4, 3), "failures is 4 of 3 runs"),
        (lambda: failure_bound(1, 3, 1.0), "level is 1.0"),
        (lambda: bootstrap_interval(FULL[:, :1], np.mean, families=None, seed=0), "seeds of 1, expected at least 4"),
        (
            lambda: bootstrap_interval(np.ones((20, 2)), np.mean, families=None, seed=0),
            "seeds of 2, expected at least 3",
        ),
        (
            lambda: bootstrap_interval(np.ones((1, 5)), np.mean, families=None, seed=0),
            "seeds of 5, expected at least 6",
        ),
        (
            lambda: bootstrap_interval(np.ones((5, 9)), np.mean, families=list("abcde"), seed=0),
            "5, expected at least 6",
        ),
        (lambda: bootstrap_interval(FULL, np.mean, families=["a"], seed=0), "families has 1 labels"),
        (lambda: bootstrap_interval(np.ones((2, 9)), np.mean, families=None, seed=0, resamples=0), "resamples is 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
