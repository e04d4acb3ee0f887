"""Does a learner know how it is doing? What it expected (`v_now`) against what then came, pure functions of records.

Rewards of different jobs have different units. So both numbers are told relative to the job: less the mean of what was
obtained there, in units of its standard deviation. What is left is whether the learner tells a good moment from a bad
one, and whether it hopes for too much.

Attempts are grouped by the horizon of their job, the mean length of its attempts, and not by the steps that were left
in the end: an end that nobody could foresee makes every honest expectation shortly before it too high.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fifteen.examining.records import AttemptRecord
from fifteen.examining.sheets import FEWER, Estimate, estimated

HORIZONS = (10, 30, 100, 300)
"""The longest jobs of each group but the last, in environment steps of an attempt."""
CLEAR = 300
"""Steps before a cut from which on what was cut off weighs less than 5 %: 0.99^300."""
BINS = 8
LEAST = 10  # values of a bin
LEAST_SPREAD = 0.1
"""A job's unit is at least this share of the root mean square of what was obtained: where returns hardly differ, small
errors are small."""


@dataclass(frozen=True)
class Calibration:
    """Expected against obtained on the jobs of one horizon, in standard deviations of what a job obtained."""

    shortest: int  # of the group, in steps
    longest: int | None  # None: no bound
    expected: np.ndarray  # float64[B], means over bins of equally many values, by what was expected
    obtained: np.ndarray  # float64[B]
    values: int
    jobs: int
    bias: Estimate  # mean over jobs of expected - obtained; positive: it hopes for too much
    correlation: float | None  # of both within jobs; None: one of them never differs


@dataclass(frozen=True)
class Calibrations:
    """By horizon, and what could not be judged."""

    groups: tuple[Calibration, ...]
    used: int  # values
    cut: int  # values so near to a truncation that nobody knows what they were worth
    not_finite: int  # values that are no numbers


def calibration(records: Sequence[AttemptRecord], learner: str) -> Calibrations:
    """Calibration of one learner's v_now against Monte-Carlo returns (discount 0.99), from the values of its records.

    Left out are values fewer than CLEAR steps before a truncation: the learner looks beyond the cut, the return does
    not. They are counted.
    """
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    lengths: dict[str, list[int]] = defaultdict(list)
    family: dict[str, str] = {}
    cut = not_finite = 0
    for record in records:
        if record.learner != learner or record.status != "ok":
            continue
        lengths[record.job].append(record.length)
        family[record.job] = record.family
        for value in record.values:
            told = np.array([value.expected, value.obtained], np.float64)  # None, of a file, is NaN
            if not np.isfinite(told).all():
                not_finite += 1
            elif record.terminated or record.length - value.step >= CLEAR:
                pairs[record.job].append((value.expected, value.obtained))
            else:
                cut += 1
    groups = []
    for low, high in zip((0, *HORIZONS), (*HORIZONS, None), strict=True):
        jobs = [job for job in pairs if low < np.mean(lengths[job]) and (high is None or np.mean(lengths[job]) <= high)]
        if jobs:
            groups.append(_group(low + 1, high, [_relative(pairs[job]) for job in jobs], [family[job] for job in jobs]))
    return Calibrations(tuple(groups), sum(map(len, pairs.values())), cut, not_finite)


def _relative(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    """(expected, obtained) float64[n, 2] of one job, less the mean obtained, in its unit."""
    both = np.array(pairs, np.float64)
    obtained = both[:, 1]
    unit = max(float(obtained.std()), LEAST_SPREAD * float(np.sqrt(np.mean(obtained**2))))
    if unit == 0.0:  # nothing was ever obtained: what was expected is the measure
        unit = float(np.sqrt(np.mean(both[:, 0] ** 2))) or 1.0
    return (both - obtained.mean()) / unit


def _group(shortest: int, longest: int | None, jobs: Sequence[np.ndarray], families: Sequence[str]) -> Calibration:
    every = np.concatenate(jobs)
    every = every[np.argsort(every[:, 0], kind="stable")]
    bins = np.array_split(every, max(1, min(BINS, len(every) // LEAST)))
    means = np.array([one.mean(axis=0) for one in bins])
    bias = np.array([[float((job[:, 0] - job[:, 1]).mean())] for job in jobs])
    within = np.concatenate([job - job.mean(axis=0) for job in jobs])
    spread = np.sqrt((within**2).mean(axis=0))
    correlation = float((within[:, 0] * within[:, 1]).mean() / spread.prod()) if spread.all() else None
    return Calibration(
        shortest,
        longest,
        means[:, 0],
        means[:, 1],
        len(every),
        len(jobs),
        estimated(bias, families, lambda drawn: float(drawn.mean()), FEWER),
        correlation,
    )
