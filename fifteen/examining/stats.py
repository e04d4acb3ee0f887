"""What may be concluded from one learner's scores: estimates, their intervals, and what the worst jobs are like.

Scores are float64[J, S]: J jobs, S seeds, higher is better, in one unit (0 is chance and 1 the reference, say). Seeds
are nested in jobs: run s of one job has nothing to do with run s of another. Where one schooled learner took every job,
its own luck is in all its scores and in no interval here: school several, and let each be a sample of its own.

Nothing here accepts NaN. A crashed or missing evaluation is a failure, and has to be counted as one before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fifteen.examining.student import bisected, critical_value

CVAR_SHARES = (0.01, 0.05, 0.10)
"""The shares of worst jobs that an exam reports."""

RESAMPLES = 10_000
"""Bootstrap samples and random sign flips: the ends of an interval of 95 % are then known to 1 or 2 % of its width."""

WHOLE = 8
"""From so many families on they are drawn whole; of fewer, jobs and seeds are drawn again within them."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the true value with probability `level`, in the unit of the scores."""

    estimate: float
    low: float
    high: float
    level: float


def checked(name: str, values: ArrayLike, axes: str) -> np.ndarray:
    """`values` as float64 with the given axes, such as "J S" ("J S ..." for any further ones).

    Raises ValueError for another number of axes, an empty axis, and numbers that are not finite.
    """
    array = np.asarray(values, np.float64)
    wanted = axes.removesuffix(" ...").split()
    if array.ndim < len(wanted) or (array.ndim > len(wanted) and not axes.endswith("...")) or array.size == 0:
        raise ValueError(
            f"{name} is float64{list(array.shape)}, expected float64[{', '.join(axes.split())}], none empty"
        )
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            f"{name}{list(place)} is {array[place]}, expected a finite number: "
            "count a missing evaluation as a failure before you ask for statistics"
        )
    return array


def between(name: str, value: float, low: float, high: float) -> float:
    """`value` where it is inside (low, high). Raises ValueError elsewhere."""
    if not low < value < high:
        raise ValueError(f"{name} is {value}, expected a number between {low:g} and {high:g}, both excluded")
    return float(value)


# Aggregates (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice") ---------------


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean of the middle half of all runs, over jobs and seeds together (Agarwal et al. 2021, section 4.3).

    scores float64[J, S]. A quarter of the runs, rounded down, is left out at either end. Raises ValueError for NaN.
    """
    ordered = np.sort(checked("scores", scores, "J S"), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> float:
    """Mean shortfall from `target`; what lies above it makes up for nothing (Agarwal et al. 2021, section 4.3).

    scores float64[J, S], target in their unit; lower is better, 0 the best. Raises ValueError for NaN.
    """
    return float(np.maximum(target - checked("scores", scores, "J S"), 0.0).mean())


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Share of runs that score above each threshold, float64[T] (Agarwal et al. 2021, section 4.2).

    scores float64[J, S], thresholds float64[T] in their unit. Raises ValueError for NaN.
    """
    ordered = np.sort(checked("scores", scores, "J S"), axis=None)
    return 1.0 - np.searchsorted(ordered, checked("thresholds", thresholds, "T"), side="right") / ordered.size


def probability_of_improvement(ours: ArrayLike, rival: ArrayLike) -> float:
    """P(a run of ours beats a run of the rival on the same job), ties half, mean over jobs (Agarwal et al. 2021, 4.3).

    ours float64[J, S], rival float64[J, S'], jobs in one order. Per job it is the U of Mann & Whitney (1947) over S S'.
    Raises ValueError for NaN and for different numbers of jobs.
    """
    a, b = checked("ours", ours, "J S"), checked("rival", rival, "J S")
    if len(a) != len(b):
        raise ValueError(f"ours has {len(a)} jobs and rival {len(b)}, expected the same jobs in the same order")
    return float(0.5 * (1.0 + np.sign(a[:, :, None] - b[:, None, :]).mean()))


# The worst jobs -----------------------------------------------------------------------------------


def cvar(scores: ArrayLike, share: float) -> float:
    """Conditional value at risk: mean of the worst `share` of scores (Rockafellar & Uryasev 2002, Proposition 8).

    scores float64[J], one per job: the mean of its evaluations. share in (0, 1]; a job that is only in part within the
    share counts in part. Chosen and scored with the same evaluation, unlucky jobs pass for bad ones: CVaR is concave,
    so that this is at most the truth in expectation. `cvar_double_sampled` is the other end of the bracket. Raises
    ValueError for NaN and for a share of less than one job.
    """
    score = checked("scores", scores, "J")
    return _worst(score, score, share)


def cvar_double_sampled(choosing: ArrayLike, scoring: ArrayLike, share: float) -> float:
    """The worst `share` of jobs by one evaluation, as another evaluation scores them.

    choosing, scoring float64[J]: independent evaluations of the same jobs. The second scores without bias whatever the
    first chose, and no choice of jobs is worse than the worst jobs: in expectation this is at least the truth. Jobs
    that tie in choosing share their weight. Raises ValueError for NaN, for different numbers of jobs, and for a share
    of less than one job.
    """
    by, score = checked("choosing", choosing, "J"), checked("scoring", scoring, "J")
    if len(by) != len(score):
        raise ValueError(
            f"choosing has {len(by)} jobs and scoring {len(score)}, expected the same jobs in the same order"
        )
    return _worst(by, score, share)


def _worst(by: np.ndarray, score: np.ndarray, share: float) -> float:
    """Mean of score float64[J] over the `share` of jobs that are lowest in by float64[J]."""
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}, expected more than 0 and at most 1")
    worst = share * len(by)
    if worst < 1.0 - 1e-9:
        raise ValueError(
            f"a share of {share:g} of {len(by)} is less than one: expected at least {math.ceil(1.0 / share - 1e-9)}, "
            "or ask for a larger share"
        )
    within = np.clip(worst - np.arange(len(by)), 0.0, 1.0)  # of the jobs in ascending order
    _, inverse, counts = np.unique(by, return_inverse=True, return_counts=True)
    shared = np.bincount(np.sort(inverse), within) / counts
    return float(shared[inverse] @ score / worst)


# Failures -----------------------------------------------------------------------------------------


def rule_of_three(runs: int) -> float:
    """Upper bound of 95 % for the failure rate after no failure in `runs` independent runs: 3 / runs.

    Hanley & Lippman-Hand 1983; a little above the exact bound, and easy to keep in mind. Raises ValueError for no runs.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}, expected at least 1")
    return min(1.0, 3.0 / runs)


def failure_bound(failures: int, runs: int, level: float = 0.95) -> float:
    """Exact upper bound for the failure rate: the p at which so few failures have probability 1 - level.

    One-sided, of Clopper & Pearson (1934). The runs are independent: runs of one job in several seeds are not, where
    jobs differ. Raises ValueError where 0 <= failures <= runs, runs >= 1, 0 < level < 1 does not hold.
    """
    if not 0 <= failures <= runs or runs < 1:
        raise ValueError(f"failures is {failures} of {runs} runs, expected 0 <= failures <= runs and at least one run")
    tail = 1.0 - between("level", level, 0.0, 1.0)
    if failures == runs:
        return 1.0
    k = np.arange(failures + 1)
    log_ways = np.array([math.lgamma(runs + 1) - math.lgamma(i + 1) - math.lgamma(runs - i + 1) for i in range(len(k))])

    def so_few_are_unlikely(p: float) -> bool:
        return p == 1.0 or np.exp(log_ways + k * math.log(p) + (runs - k) * math.log1p(-p)).sum() <= tail

    return bisected(so_few_are_unlikely, failures / runs, 1.0)


# Intervals ----------------------------------------------------------------------------------------


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Callable[[np.ndarray], float],
    *,
    families: Sequence[str] | None,
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap interval of statistic(scores), by resampling seeds, or families, jobs and seeds.

    scores float64[J, S, ...]: what follows the seed travels with the run (both learners of a pair, say). statistic
    takes the same shape, with another number of jobs where families differ in size. families None: a statement about
    these jobs, of which only the seeds are drawn again, within each job (the stratified bootstrap; Agarwal et al. 2021,
    section 4.1). families[J], the family of each job: a statement about jobs of such families; families are drawn with
    all that is in them. Jobs of no family are each their own. The same seed gives the same interval.

    Percentiles are expanded (Hesterberg 2015, "What teachers should know about the bootstrap"): with n seeds or
    families a bootstrap is too narrow by sqrt((n - 1) / n), and normal where Student's t is due. A family that is drawn
    whole brings the luck of its jobs and seeds with it; whoever draws these again counts it twice (Davison & Hinkley
    1997, section 3.8), and where families are alike covers nearly always. With fewer families than WHOLE, percentiles
    are too narrow all the same, because no mean of n families lies beyond the extreme one: there jobs within each
    family and seeds within each job are drawn again, which is cautious. `bench/coverage.py` has measured both. No BCa:
    its acceleration comes from a jackknife, which is not consistent for what sorts and cuts, as CVaR and quantiles do.

    No percentile lies beyond the sample: between n families the truth is missed with probability 2^(1 - n) or more. So
    where 2^(1 - n), or over J jobs 2^(J - J n) for n seeds, is above 1 - level, or n is below 3, it is refused.

    Raises ValueError for NaN, for too few seeds (families None) or families, where families has not one label for each
    job, and for a level outside (0, 1).
    """
    runs = checked("scores", scores, "J S ...")
    jobs, seeds = runs.shape[:2]
    members = None if families is None else clusters(families, jobs)
    units, groups = (seeds, jobs) if members is None else (len(members), 1)
    alpha = 1.0 - between("level", level, 0.0, 1.0)
    least = max(3, 1 + math.ceil(math.log2(1.0 / alpha) / groups - 1e-9))
    if units < least:
        raise ValueError(
            f"{'scores has a number of seeds' if members is None else 'families has a number of families'} of {units}, "
            f"expected at least {least} for a level of {level:g}: no interval goes beyond what was seen"
        )
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    expanded = critical_value(alpha, groups * (units - 1)) * math.sqrt(units / (units - 1))
    tail = 0.5 * math.erfc(expanded / math.sqrt(2.0))

    generator = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    for n in range(resamples):
        if members is not None and len(members) >= WHOLE:
            chosen = generator.integers(len(members), size=len(members))
            sample = runs[np.concatenate([members[family] for family in chosen])]
        else:
            drawn = np.arange(jobs) if members is None else _draw_jobs(generator, members)
            sample = runs[drawn[:, None], generator.integers(seeds, size=(len(drawn), seeds))]
        replicates[n] = statistic(sample)
    low, high = np.quantile(replicates, [tail, 1.0 - tail])
    return Interval(float(statistic(runs)), float(low), float(high), level)


def clusters(families: Sequence[str], jobs: int) -> list[np.ndarray]:
    """The jobs of each family, int64[jobs of it], families in order of name. Raises ValueError for other lengths."""
    if len(families) != jobs:
        raise ValueError(f"families has {len(families)} labels, expected one for each of {jobs} jobs")
    _, inverse = np.unique(np.asarray(families), return_inverse=True)
    return [np.flatnonzero(inverse == f) for f in range(inverse.max() + 1)]


def _draw_jobs(generator: np.random.Generator, members: list[np.ndarray]) -> np.ndarray:
    """Families with replacement, and within each as many of its jobs with replacement as it has."""
    families = [members[f] for f in generator.integers(len(members), size=len(members))]
    sizes = np.array([len(family) for family in families])
    ends = np.cumsum(sizes)
    places = np.repeat(ends - sizes, sizes) + generator.integers(np.repeat(sizes, sizes))
    return np.concatenate(families)[places]
