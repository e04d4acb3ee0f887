"""Two learners on the same jobs and seeds: how much better, whether that could be luck, and how many jobs would tell.

A difference is decided by a test, a tie by an interval that lies within a margin named beforehand. What neither decides
is undecided: a test that did not reject is no evidence that two learners are equal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fifteen.examining.stats import RESAMPLES, Interval, between, bootstrap_interval, checked, clusters
from fifteen.examining.student import bisected, critical_value, rejection

Verdict = Literal["better", "worse", "tied", "undecided"]

_MOST_ENUMERATED = 16  # units whose 2^16 signs are all tried; with more, signs are drawn


@dataclass(frozen=True)
class Comparison:
    """What one comparison of several came to."""

    difference: Interval  # ours - rival, in the unit of the scores, wide enough for all comparisons at once
    p_value: float  # of the sign-flip test, for this comparison alone
    adjusted_p_value: float  # after Holm, for all comparisons at once
    verdict: Verdict


def paired_difference(
    ours: ArrayLike, rival: ArrayLike, *, families: Sequence[str] | None, seed: int, level: float = 0.95
) -> Interval:
    """Mean of ours - rival over jobs and seeds, with its bootstrap interval; pairs stay together.

    ours, rival float64[J, S]: run s of job j has the same job and the same seed in both. families and seed as for
    `bootstrap_interval`. Where all differences are equal the interval has no width, however few they are. Raises
    ValueError for NaN, for different shapes, and as `bootstrap_interval` does.
    """
    return bootstrap_interval(_differences(ours, rival), np.mean, families=families, seed=seed, level=level)


def sign_flip_test(
    ours: ArrayLike, rival: ArrayLike, *, families: Sequence[str] | None, seed: int, flips: int = RESAMPLES
) -> float:
    """Two-sided p-value of the paired permutation test on the mean difference (Fisher 1935, section 21).

    ours, rival float64[J, S], pairs as for `paired_difference`. If the learners were equal, their names could be
    exchanged in any unit: in every run (families None) or, because the jobs of a family are alike, in a whole family at
    once. Up to 16 units all signs are tried and the p-value is exact; with more, `flips` are drawn and the observed one
    is counted among them (Phipson & Smyth 2010, eq. 2). Five units cannot give less than 0.0625. The same seed gives
    the same p-value. Raises ValueError for NaN, for different shapes, and where families has not one label for each
    job.
    """
    differences = _differences(ours, rival)
    if families is None:
        units = differences.ravel()
    else:
        units = np.array([differences[jobs].sum() for jobs in clusters(families, len(differences))])
    n = len(units)
    # Sums of the same numbers in another order differ in their last bits: they are ties.
    observed = abs(units.sum()) - 1e-9 * np.abs(units).sum()
    if n <= _MOST_ENUMERATED:
        # Half of the signs: the other half are their negatives, with the same size of the sum.
        signs = 1.0 - 2.0 * (np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1)
        return float((np.abs(signs @ units) >= observed).mean())
    if flips < 1:
        raise ValueError(f"flips is {flips}, expected at least 1")
    generator = np.random.default_rng(seed)
    as_large = sum(abs(generator.choice([-1.0, 1.0], n) @ units) >= observed for _ in range(flips))
    return float((as_large + 1) / (flips + 1))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p-values float64[M] of M tests: to reject where they are at most alpha errs anywhere with at most alpha.

    p_values float64[M] in [0, 1]; step-down of Holm (1979), whatever the dependence of the tests. Raises ValueError for
    NaN and for numbers that are no probabilities.
    """
    p = checked("p_values", p_values, "M")
    if ((p < 0.0) | (p > 1.0)).any():
        raise ValueError(f"p_values lie between {p.min():g} and {p.max():g}, expected all in [0, 1]")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def verdict(difference: Interval, adjusted_p_value: float, *, margin: float, alpha: float = 0.05) -> Verdict:
    """What may be said of ours against the rival.

    "tied": the interval is wholly within (-margin, margin) (equivalence by an interval, Schuirmann 1987), also where
    the test finds a difference: the margin says that it does not matter. "better", "worse": the adjusted p-value is at
    most alpha, by the sign of the estimate. Otherwise "undecided". margin in the unit of the scores; with 0 nothing is
    tied. Raises ValueError for a margin below 0 or that is not finite, and for alpha outside (0, 1).
    """
    between("alpha", alpha, 0.0, 1.0)
    if not (math.isfinite(margin) and margin >= 0.0):
        raise ValueError(f"margin is {margin}, expected the largest difference that does not matter, at least 0")
    if -margin < difference.low and difference.high < margin:
        return "tied"
    if adjusted_p_value <= alpha:
        return "better" if difference.estimate > 0.0 else "worse"
    return "undecided"


def compare(
    ours: ArrayLike,
    rivals: Mapping[str, ArrayLike],
    *,
    families: Sequence[str] | None,
    margin: float,
    seed: int,
    alpha: float = 0.05,
) -> dict[str, Comparison]:
    """Ours against each of M rivals on the same jobs and seeds, by the rival's name.

    ours and every rival float64[J, S]; families, margin and seed as above. Differences are tested at alpha after Holm;
    intervals have level 1 - alpha / M (Bonferroni). So over all comparisons together a wrong "better" or "worse" has
    probability at most alpha, and so, as far as bootstrap intervals are exact, has a wrong "tied". With fewer than
    1 + log2(M / alpha) families neither could decide anything: that is refused. Raises ValueError for no rivals, and as
    the parts do.
    """
    if not rivals:
        raise ValueError("rivals is empty, expected the scores of at least one learner to compare with")
    level = 1.0 - between("alpha", alpha, 0.0, 1.0) / len(rivals)
    p_values = [sign_flip_test(ours, rival, families=families, seed=seed) for rival in rivals.values()]
    compared = {}
    for (name, rival), p, adjusted in zip(rivals.items(), p_values, holm(p_values).tolist(), strict=True):
        difference = paired_difference(ours, rival, families=families, seed=seed, level=level)
        compared[name] = Comparison(difference, p, adjusted, verdict(difference, adjusted, margin=margin, alpha=alpha))
    return compared


# How many would tell ------------------------------------------------------------------------------


def power(effect: float, deviation: float, units: int, alpha: float = 0.05) -> float:
    """Probability that a paired comparison finds a mean difference of `effect`.

    deviation: standard deviation of the units' differences, in the unit of effect; units: how many differences
    (families, or runs where only seeds are drawn). Of the two-sided paired t-test, by noncentral t (Cohen 1988, chapter
    2), to which the sign-flip test comes close; but with n units that test never gives less than 2^(1 - n), so that
    below six it finds nothing at 0.05. Raises ValueError for deviation <= 0, fewer than two units, and alpha outside
    (0, 1).
    """
    error, critical = _t_test(deviation, units, alpha)
    return rejection(effect / error, critical, units - 1)


def minimum_detectable_effect(deviation: float, units: int, wanted: float = 0.8, alpha: float = 0.05) -> float:
    """The least mean difference that is found with probability `wanted`, in the unit of deviation (Bloom 1995).

    Arguments and errors as for `power`; wanted is between alpha and 1.
    """
    error, critical = _t_test(deviation, units, alpha)
    between("wanted", wanted, alpha, 1.0)
    high = 1.0
    while rejection(high, critical, units - 1) < wanted:
        high *= 2.0
    return bisected(lambda at: rejection(at, critical, units - 1) >= wanted, 0.0, high) * error


def _t_test(deviation: float, units: int, alpha: float) -> tuple[float, float]:
    """The standard error of the mean difference, and the critical value of the paired t-test."""
    if not (math.isfinite(deviation) and deviation > 0.0):
        raise ValueError(f"deviation is {deviation}, expected a standard deviation, more than 0")
    if units < 2:
        raise ValueError(f"units is {units}, expected at least 2: a single difference has no deviation")
    return deviation / math.sqrt(units), critical_value(between("alpha", alpha, 0.0, 1.0), units - 1)


def _differences(ours: ArrayLike, rival: ArrayLike) -> np.ndarray:
    """ours - rival, float64[J, S]."""
    a, b = checked("ours", ours, "J S"), checked("rival", rival, "J S")
    if a.shape != b.shape:
        raise ValueError(f"ours is {list(a.shape)} and rival {list(b.shape)}, expected the same jobs and seeds in both")
    return a - b
