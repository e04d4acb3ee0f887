"""Comparisons of two learners: against scipy, against the definitions, and how often they err."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from fifteen.examining.comparing import (
    compare,
    holm,
    minimum_detectable_effect,
    paired_difference,
    power,
    sign_flip_test,
    verdict,
)
from fifteen.examining.stats import Interval

SEEDS = st.integers(0, 2**32 - 1)


# Comparisons --------------------------------------------------------------------------------------


@given(st.integers(2, 8), SEEDS)
@settings(max_examples=20)
def test_the_exact_test_is_the_permutation_test(runs, seed):
    random = np.random.default_rng(seed)
    ours, rival = random.integers(0, 5, (2, runs)).astype(float)  # with ties
    expected = reference.permutation_test(
        (ours, rival), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert sign_flip_test(ours[None], rival[None], families=None, seed=0) == pytest.approx(expected)
    jobs = [str(n) for n in range(runs)]
    assert sign_flip_test(ours[:, None], rival[:, None], families=jobs, seed=0) == pytest.approx(expected)


def test_a_family_counts_for_as_many_jobs_as_it_has():
    families = list("abbcdddddeffggg")
    differences = np.random.default_rng(7).standard_normal((15, 2)) + 0.3
    sums = np.array(
        [sum(d.sum() for d, label in zip(differences, families, strict=True) if label == f) for f in "abcdefg"]
    )
    expected = reference.permutation_test(
        (sums, np.zeros(7)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    assert sign_flip_test(differences, np.zeros((15, 2)), families=families, seed=0) == pytest.approx(expected)


def test_drawn_signs_come_to_the_exact_p_value():
    random = np.random.default_rng(1)
    ours, rival = random.standard_normal((20, 1)) + 0.4, random.standard_normal((20, 1))
    flips = 1.0 - 2.0 * (np.arange(2**20)[:, None] >> np.arange(20) & 1).astype(np.int8)
    exact = (np.abs(flips @ (ours - rival)[:, 0]) >= abs((ours - rival).sum()) - 1e-9).mean()
    drawn = sign_flip_test(ours, rival, families=None, seed=0)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert drawn == sign_flip_test(ours, rival, families=None, seed=0)
    assert drawn != sign_flip_test(ours, rival, families=None, seed=1)


def test_only_whole_families_are_exchanged():
    """Equal learners that differ by family: only the clustered test errs no more often than it says."""
    random = np.random.default_rng(2)
    families = [str(job // 3) for job in range(24)]
    rejected = np.zeros(2)
    for _ in range(150):
        ours = np.repeat(random.standard_normal((8, 1)), 3, axis=0) + 0.1 * random.standard_normal((24, 2))
        for n, clustered in enumerate((families, None)):
            rejected[n] += sign_flip_test(ours, np.zeros((24, 2)), families=clustered, seed=0, flips=199) <= 0.05
    assert rejected[0] / 150 <= 0.11  # 0.05 and three standard errors
    assert rejected[1] / 150 >= 0.3


def test_few_families_cannot_convince():
    better = np.full((5, 3), 1.0) + np.arange(5)[:, None]
    assert sign_flip_test(better, np.zeros((5, 3)), families=list("abcde"), seed=0) == 0.0625
    assert sign_flip_test(better, better, families=list("abcde"), seed=0) == 1.0


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_as_the_step_down_does(p_values, alpha):
    rejected = np.zeros(len(p_values), bool)
    for k, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] * (len(p_values) - k) > alpha:
            break
        rejected[place] = True
    np.testing.assert_array_equal(holm(p_values) <= alpha, rejected)
    assert (holm(p_values) >= np.array(p_values)).all()


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("low", "estimate", "high", "p", "expected"),
    [
        (0.2, 0.3, 0.4, 0.01, "better"),
        (-0.4, -0.3, -0.2, 0.01, "worse"),
        (-0.05, 0.01, 0.05, 0.7, "tied"),
        (0.01, 0.02, 0.03, 0.001, "tied"),
        (-0.05, 0.04, 0.11, 0.3, "undecided"),
        (-0.1, 0.0, 0.09, 0.9, "undecided"),
    ],
)
def test_verdicts(low, estimate, high, p, expected):
    assert verdict(Interval(estimate, low, high, 0.95), p, margin=0.1) == expected


def test_four_rivals_get_the_four_verdicts():
    random = np.random.default_rng(3)
    families = [str(job // 2) for job in range(20)]
    ours = 0.5 + 0.1 * random.standard_normal((20, 3))
    noise = random.standard_normal((4, 20, 3))
    rivals = {
        "weaker": ours - 0.3 + 0.1 * noise[0],
        "stronger": ours + 0.3 + 0.1 * noise[1],
        "alike": ours + 0.02 * noise[2],
        "erratic": ours + 0.5 * noise[3],
    }
    compared = compare(ours, rivals, families=families, margin=0.05, seed=0)
    verdicts = {name: comparison.verdict for name, comparison in compared.items()}
    assert verdicts == {"weaker": "better", "stronger": "worse", "alike": "tied", "erratic": "undecided"}
    for name, comparison in compared.items():
        alone = paired_difference(ours, rivals[name], families=families, seed=0)
        assert comparison.difference.estimate == pytest.approx(np.mean(ours - rivals[name]))
        assert comparison.difference.level == 0.9875
        assert comparison.difference.low <= alone.low <= alone.high <= comparison.difference.high
        assert comparison.adjusted_p_value >= comparison.p_value


# Power --------------------------------------------------------------------------------------------


def test_power_as_published():
    """Means against a constant: effect 0.5, 34 differences, two-sided 0.05: 0.8077775 (manual of G*Power 3.1)."""
    assert power(0.5, 1.0, 34) == pytest.approx(0.807778, abs=1e-6)


@given(st.floats(0.01, 3.0), st.floats(0.1, 10.0), st.integers(2, 200), st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=20)
def test_power_rises_and_its_inverse_is_the_detectable_effect(effect, deviation, units, wanted):
    assert power(0.0, deviation, units) == pytest.approx(0.05)
    assert power(effect, deviation, units) == pytest.approx(power(-effect, deviation, units))
    assert power(effect, deviation, units) <= power(1.1 * effect, deviation, units) + 1e-12
    assert power(effect, deviation, units) <= power(effect, deviation, units + 1) + 1e-12
    least = minimum_detectable_effect(deviation, units, wanted)
    assert power(least, deviation, units) == pytest.approx(wanted, abs=1e-9)


# What is refused ----------------------------------------------------------------------------------

GAP = np.array([[1.0, 2.0, 3.0], [4.0, math.nan, 6.0]])
FULL = np.ones((2, 3))
CURVE = np.array([1.0, math.nan, 2.0])
FEW = list("abcdefg")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: paired_difference(GAP, FULL, families=None, seed=0),
        lambda: sign_flip_test(FULL, GAP, families=None, seed=0),
        lambda: compare(FULL, {"rival": GAP}, families=None, margin=0.1, seed=0),
        lambda: holm(CURVE),
    ],
)
def test_a_missing_evaluation_is_refused(ask):
    with pytest.raises(ValueError, match=r"\] is nan.*count a missing evaluation as a failure before you ask for"):
        ask()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda: compare(np.ones((7, 9)), dict.fromkeys("abcd", np.ones((7, 9))), families=FEW, margin=0.1, seed=0),
            "families of 7, expected at least 8 for a level of 0.9875",
        ),
        (lambda: sign_flip_test(np.ones((9, 3)), np.ones((9, 3)), families=None, seed=0, flips=0), "flips is 0"),
        (lambda: sign_flip_test(FULL, np.ones((2, 4)), families=None, seed=0), r"ours is \[2, 3\] and rival \[2, 4\]"),
        (lambda: holm([0.1, 1.1]), "expected all in"),
        (lambda: verdict(Interval(0.0, 0.0, 0.0, 0.95), 0.5, margin=-1.0), "margin is -1.0"),
        (lambda: compare(FULL, {}, families=None, margin=0.1, seed=0), "rivals is empty"),
        (lambda: power(1.0, 0.0, 5), "deviation is 0.0"),
        (lambda: power(1.0, 1.0, 1), "units is 1"),
        (lambda: minimum_detectable_effect(1.0, 5, wanted=0.01), "wanted is 0.01"),
    ],
)
def test_what_cannot_be_answered_is_refused(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
