"""Reliability and scores for little experience: against published numbers, by hand, and what they must not see."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fifteen.examining.reliability import (
    dispersion_across_runs,
    dispersion_within_run,
    maximum_drawdown,
    score_after,
    short_term_risk,
)


def test_what_the_authors_of_the_reliability_metrics_publish():
    """google-research/rl-reliability-metrics, metrics/metrics_online_test.py."""
    np.testing.assert_allclose(dispersion_across_runs([[1, 1], [3, 4]]), [1.0, 1.5])
    assert dispersion_within_run([5, 7, 9], [1, 1, 1]) == 0.0
    assert dispersion_within_run([5, 7, 9, 11], [2, 3, 4, 5]) == 0.0
    assert dispersion_within_run([5, 7, 9, 10], [5, 4, 2, 1]) == 0.25
    for scores, fall in (([1, 2, 3, 4], 0), ([-1, -2, -3, -4, -5], 4), ([1, 3, 2, 1.2], 1.8), ([5, 5, 3, 6, 5], 2)):
        assert maximum_drawdown(scores) == pytest.approx(fall)
    assert maximum_drawdown([100, 150, 90, 120, 80, 200]) == 70
    # Published for the worst of three changes.
    assert short_term_risk([1, 2, 4, 5], [1, 2, 3, 4], 1 / 3) == pytest.approx(0.5)
    assert short_term_risk([0, 1, 2, 3], [0.3, 0.1, -0.5, 1], 1 / 3) == pytest.approx(-0.6)


@given(
    arrays(np.float64, st.integers(21, 40), elements=st.floats(-10.0, 10.0)), st.floats(-5.0, 5.0), st.floats(0.5, 4.0)
)
def test_reliability_does_not_see_a_level_and_counts_per_step(scores, shift, stretch):
    steps = np.arange(len(scores), dtype=np.float64)
    for measure in (dispersion_within_run, short_term_risk):
        plain = measure(steps, scores)
        assert measure(steps, scores + shift) == pytest.approx(plain, abs=1e-9)
        assert measure(stretch * steps + 7.0, scores) == pytest.approx(plain / stretch, abs=1e-9)
    slope = dispersion_within_run(steps, scores + 0.3 * steps)
    assert slope == pytest.approx(dispersion_within_run(steps, scores), abs=1e-9), "a trend is no dispersion"
    assert maximum_drawdown(scores + shift) == pytest.approx(maximum_drawdown(scores), abs=1e-9)
    assert 0.0 <= maximum_drawdown(scores) <= np.ptp(scores)
    assert maximum_drawdown(np.sort(scores)) == 0.0


def test_the_score_after_some_experience_knows_nothing_of_later():
    steps, scores = [10, 50, 100, 400, 1000], [1.0, 2.0, 3.0, 4.0, 5.0]
    assert score_after(steps, scores, 1000, before=0.0) == {0.01: 1.0, 0.1: 3.0, 1.0: 5.0}
    assert score_after(steps, scores, 1000, before=0.0, window=2) == {0.01: 1.0, 0.1: 2.5, 1.0: 4.5}
    assert score_after(steps[1:], scores[1:], 1000, before=-1.0) == {0.01: -1.0, 0.1: 3.0, 1.0: 5.0}


# What is refused ----------------------------------------------------------------------------------

GAP = np.array([[1.0, 2.0, 3.0], [4.0, math.nan, 6.0]])
CURVE = np.array([1.0, math.nan, 2.0])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: dispersion_across_runs(GAP),
        lambda: dispersion_within_run(np.arange(3), CURVE),
        lambda: short_term_risk(np.arange(3), CURVE),
        lambda: maximum_drawdown(CURVE),
        lambda: score_after(np.arange(3), CURVE, 3, before=0.0),
    ],
)
def test_a_missing_evaluation_is_refused(ask):
    with pytest.raises(ValueError, match=r"\] is nan.*count a missing evaluation as a failure before you ask for"):
        ask()


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: short_term_risk([1, 2, 2], [1, 2, 3]), r"steps\[2\] is 2 after 2"),
        (lambda: short_term_risk([1, 2], [1, 2, 3]), "steps has 2 entries and scores 3"),
        (lambda: dispersion_within_run([1], [1]), "one point is no change"),
        (lambda: score_after([1, 20], [1, 2], 10, before=0.0), "beyond the budget of 10"),
        (lambda: score_after([1, 2], [1, 2], 10, before=0.0, window=0), "window is 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
