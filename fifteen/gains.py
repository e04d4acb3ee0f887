"""What a day gained and what a night kept of it, as far as attempts can tell: means, shares and their intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fifteen.examining.student import critical_value

LEVEL = 0.95
_LATE = 0.25  # share of a day's attempts that tell what it came to
_FEWEST = 10  # of them
_LIKELY = 0.8  # level of who teaches: what is not taught is lost, so that less will do than for a claim


class Estimate(NamedTuple):
    """A mean or a ratio, and the interval that holds the true one with probability LEVEL; None: not known."""

    estimate: float
    low: float | None
    high: float | None


def mean(returns: Sequence[float]) -> Estimate:
    """Of at least one return, with Student's interval."""
    value, error, dof = _moments(returns)
    if dof < 1:
        return Estimate(value, None, None)
    half = critical_value(1.0 - LEVEL, dof) * math.sqrt(error)
    return Estimate(value, value - half, value + half)


def share_kept(before: Sequence[float], day: Sequence[float], night: Sequence[float]) -> Estimate | None:
    """(night - before) / (day - before) of the mean returns, with Fieller's interval.

    None where there is no gain, or none that can be told from nothing at LEVEL: there the interval has no end.
    """
    (m_before, v_before, n_before), (m_day, v_day, n_day), (m_night, v_night, n_night) = map(
        _moments, (before, day, night)
    )
    dof = min(n_before, n_day, n_night)
    gain, kept = m_day - m_before, m_night - m_before
    if dof < 1 or gain <= 0:
        return None
    square = critical_value(1.0 - LEVEL, dof) ** 2
    a = gain**2 - square * (v_day + v_before)
    if a <= 0:
        return None
    b = gain * kept - square * v_before
    root = math.sqrt(max(0.0, b**2 - a * (kept**2 - square * (v_night + v_before))))
    return Estimate(kept / gain, (b - root) / a, (b + root) / a)


def fell(before: Sequence[float], after: Sequence[float], level: float = LEVEL) -> bool:
    """Whether the mean return is below what it was, two-sided at `level`; False where that cannot be told."""
    (m_before, v_before, n_before), (m_after, v_after, n_after) = map(_moments, (before, after))
    dof = min(n_before, n_after)
    return dof >= 1 and m_after + critical_value(1.0 - level, dof) * math.sqrt(v_before + v_after) < m_before


def gained(at_work: Sequence[float], parent: Sequence[float]) -> bool:
    """Whether the last attempts of a day are probably better than what the parent comes to with its memory alone.

    at_work: returns of the day's attempts in their order. parent: of late attempts of the first days that it lived, for
    it learns in context, too. True where there are too few to tell.
    """
    last = late(at_work)
    return min(len(last), len(parent)) < 2 or fell(last, parent, _LIKELY)


def late(at_work: Sequence[float]) -> Sequence[float]:
    """The last of a day's returns, which tell what it came to."""
    return at_work[-max(_FEWEST, round(_LATE * len(at_work))) :]


def _moments(returns: Sequence[float]) -> tuple[float, float, int]:
    """Mean, its squared standard error, and degrees of freedom."""
    values = np.asarray(returns, np.float64)
    dof = len(values) - 1
    return float(values.mean()), float(values.var(ddof=1)) / len(values) if dof else 0.0, dof
