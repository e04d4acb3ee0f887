"""The reliability block of an exam: how steady a learner's scores are over lifetimes and attempts, and how early."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fifteen.examining.reliability import (
    EXPERIENCE,
    dispersion_across_runs,
    dispersion_within_run,
    maximum_drawdown,
    score_after,
)
from fifteen.examining.sheets import FEWER, Estimate, Sheet, estimated

CHANCE = 0.0
"""The score of a lifetime in which no attempt has ended yet."""


@dataclass(frozen=True)
class Steadiness:
    """IQM over jobs of what the lifetimes on each are like, in units of the score."""

    across: Estimate | None  # interquartile range over lifetimes, mean over attempts; None: one lifetime of each job
    within: Estimate | None  # interquartile range of the change from attempt to attempt; None: no job has several
    drawdown: Estimate | None  # deepest fall below the best attempt before; None as above
    after: dict[float, Estimate]  # the score of the last attempt that had ended after this share of the experience
    none_yet: dict[float, float]  # share of lifetimes in which no attempt had ended then, or one had failed
    jobs: int  # of more than one attempt
    all_jobs: int


def steadiness(sheet: Sheet) -> Steadiness | None:
    """Dispersion and drawdown (Chan et al. 2020) by attempt, and the score after shares of experience in steps.

    A lifetime that failed scores at every time what it scores at the end. None where no job counts.
    """
    if not sheet.jobs:
        return None
    several = [n for n, curves in enumerate(sheet.curves) if min(map(len, curves)) > 1]
    families = [job.family for job in sheet.jobs]

    def over(measure: Callable[[np.ndarray], float]) -> Estimate | None:
        """IQM over jobs and lifetimes of a measure of one lifetime's curve."""
        if not several:
            return None
        values = np.array([[measure(curve) for curve in sheet.curves[n]] for n in several])
        return estimated(values, [families[n] for n in several], resamples=FEWER)

    across = None
    if sheet.scores.shape[1] > 1:
        values = [[float(dispersion_across_runs(_common(curves)).mean())] for curves in sheet.curves]
        across = estimated(np.array(values), families, resamples=FEWER)
    early = np.array(
        [
            [_after(curve, ends) for curve, ends in zip(curves, of_job, strict=True)]
            for curves, of_job in zip(sheet.curves, sheet.ends, strict=True)
        ]
    )  # [J, S, shares, 2]
    return Steadiness(
        across,
        over(lambda curve: dispersion_within_run(np.arange(len(curve)), curve)),
        over(maximum_drawdown),
        {share: estimated(early[:, :, n, 0], families, resamples=FEWER) for n, share in enumerate(EXPERIENCE)},
        {share: float(early[:, :, n, 1].mean()) for n, share in enumerate(EXPERIENCE)},
        len(several),
        len(sheet.jobs),
    )


def _common(curves: tuple[np.ndarray, ...]) -> np.ndarray:
    """The attempts that all lifetimes of a job have, float64[R, T]."""
    shortest = min(map(len, curves))
    return np.array([curve[:shortest] for curve in curves])


def _after(curve: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Score and whether there was none yet after each share of EXPERIENCE, float64[shares, 2]."""
    if len(ends) == 0:
        return np.array([[curve[-1], 1.0]] * len(EXPERIENCE))
    scores = score_after(ends, curve, float(ends[-1]), before=CHANCE)
    return np.array([[score, float(ends[0] > share * ends[-1])] for share, score in scores.items()])
