"""How steady a learner is: reliability over runs and over time, and the score for little experience.

The measures of Chan et al. (2020), "Measuring the reliability of reinforcement learning algorithms", Table 1 (DR, DT,
SRT, LRT). A learning curve is steps float64[T], strictly ascending, in environment steps, and scores float64[T], higher
is better. Curves are taken as they are: whoever wants them filtered filters them first, and says so.
"""

import numpy as np
from numpy.typing import ArrayLike

from fifteen.examining.stats import checked, cvar

EXPERIENCE = (0.01, 0.1, 1.0)
"""The shares of the budget after which `score_after` looks."""


def dispersion_across_runs(scores: ArrayLike) -> np.ndarray:
    """Interquartile range over runs at each time, float64[T], in the unit of the scores (Chan et al. 2020: DR).

    scores float64[R, T]: runs at the same T times. Lower is better. Raises ValueError for NaN.
    """
    return _interquartile_range(checked("scores", scores, "R T"))


def dispersion_within_run(steps: ArrayLike, scores: ArrayLike) -> float:
    """Interquartile range of a run's changes of score per step (Chan et al. 2020: DT).

    Differences take the trend out, and per step they do not depend on how often one looked. One window: the whole run.
    Lower is better. Raises ValueError for NaN, for fewer than two points, and for steps that do not ascend.
    """
    return float(_interquartile_range(_changes(steps, scores)))


def short_term_risk(steps: ArrayLike, scores: ArrayLike, share: float = 0.05) -> float:
    """Mean of the worst `share` of a run's changes of score per step (Chan et al. 2020: SRT).

    CVaR as in `stats.cvar`, where a change that is only in part within the share counts in part. Higher is better.
    Raises ValueError for NaN, for steps that do not ascend, and for a share of less than one change.
    """
    return cvar(_changes(steps, scores), share)


def maximum_drawdown(scores: ArrayLike) -> float:
    """The deepest fall of a run below the best it had reached before, at least 0, in the unit of the scores.

    scores float64[T]. Long-term risk; Chan et al. (2020: LRT) average the worst share of falls, of which this is
    the worst. Lower is better. Raises ValueError for NaN.
    """
    score = checked("scores", scores, "T")
    return float((np.maximum.accumulate(score) - score).max())


def score_after(
    steps: ArrayLike, scores: ArrayLike, budget: float, *, before: float, window: int = 1
) -> dict[float, float]:
    """The score after 1, 10 and 100 % of a run's experience, by share: how much is known early, not only at the end.

    budget: steps of the whole run. The score at a time is the mean of the last `window` scores that were there by then,
    of fewer where there are fewer, and `before` where there was none (the score of chance, say): nothing of what came
    later counts. A run that stopped short of its budget is a failure, to be counted before. Raises ValueError for NaN,
    for steps that do not ascend or go beyond the budget, and for a window below 1.
    """
    at, score = _curve(steps, scores)
    if not at[-1] <= budget:
        raise ValueError(f"steps go to {at[-1]:g}, expected none beyond the budget of {budget:g}")
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    ends = np.searchsorted(at, np.array(EXPERIENCE) * budget, side="right")
    return {
        share: float(score[max(end - window, 0) : end].mean()) if end else float(before)
        for share, end in zip(EXPERIENCE, ends.tolist(), strict=True)
    }


def _curve(steps: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    at, score = checked("steps", steps, "T"), checked("scores", scores, "T")
    if len(at) != len(score):
        raise ValueError(f"steps has {len(at)} entries and scores {len(score)}, expected a step for each score")
    if (np.diff(at) <= 0.0).any():
        wrong = int(np.argmax(np.diff(at) <= 0.0))
        raise ValueError(
            f"steps[{wrong + 1}] is {at[wrong + 1]:g} after {at[wrong]:g}, expected ascending steps: "
            "put what was scored at the same step into one mean"
        )
    return at, score


def _changes(steps: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Changes of score per step, float64[T - 1]."""
    at, score = _curve(steps, scores)
    if len(at) < 2:
        raise ValueError(f"the curve has {len(at)} point, expected at least 2: one point is no change")
    return np.diff(score) / np.diff(at)


def _interquartile_range(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    return high - low
