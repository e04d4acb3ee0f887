"""Student's t, central and not, by quadrature: what small samples need, without another dependency."""

import functools
import math
from collections.abc import Callable

import numpy as np

_POINTS = 401  # of the quadrature: smooth and nothing at both ends, so that these give twelve digits
_NEGLIGIBLE = 45.0  # nats: exp(-45) is below what float64 adds to 1


@functools.cache
def _spread(dof: float) -> tuple[np.ndarray, np.ndarray]:
    """Values float64[N] of V = sqrt(chi2 / dof) and their probabilities float64[N], evenly spaced in log V."""
    below = _NEGLIGIBLE / dof + 0.5
    if (near := math.sqrt(3.0 * _NEGLIGIBLE / dof)) < 1.0:
        below = min(below, near)
    log_v = np.linspace(-below, math.sqrt(_NEGLIGIBLE / dof), _POINTS)
    weights = np.exp(dof * (log_v - 0.5 * np.exp(2.0 * log_v) + 0.5))
    return np.exp(log_v), weights / weights.sum()


def rejection(shift: float, critical: float, dof: float) -> float:
    """P(|T| > critical), T noncentral Student's t: (Z + shift) / V, Z normal, V = sqrt(chi2 / dof).

    E_V[P(Z > critical V - shift) + P(Z < -critical V - shift)] (Johnson, Kotz & Balakrishnan 1995, chapter 31). shift:
    in standard errors; 0 gives the two-sided p-value of `critical`. dof: degrees of freedom, more than 0.
    """
    v, weights = _spread(dof)
    tails = np.array(
        [math.erfc(z) for z in np.concatenate([critical * v - shift, critical * v + shift]) / math.sqrt(2)]
    )
    return float(0.5 * (np.tile(weights, 2) @ tails))


@functools.cache
def critical_value(alpha: float, dof: float) -> float:
    """The c for which P(|T| > c) = alpha, T central Student's t with `dof` degrees of freedom; alpha in (0, 1)."""
    high = 1.0
    while rejection(0.0, high, dof) > alpha:
        high *= 2.0
    return bisected(lambda c: rejection(0.0, c, dof) <= alpha, 0.0, high)


def bisected(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least x in [low, high] at which `holds` turns true, where it is true at `high` and never turns back."""
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
