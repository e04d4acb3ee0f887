"""Merging: one learner's weights out of those of many instances that began as the same one, without any experience.

What each learned is its drift, weights less origin. Plain averaging makes every drift n times shorter, and what the
others did not change is mostly lost with it (weight averaging: Wortsman et al. 2022; Ilharco et al. 2023 scale the
sum by hand instead). Here the average is made as long as the drifts are: equal drifts stay as they are, and drifts at
right angles, as those of different jobs nearly are, are scaled by 1 / sqrt(n), which nobody has to tune.
"""

import jax.numpy as jnp
from jax import Array


def merge(origin: Array, drifted: Array) -> Array:
    """origin + s mean(drift), s such that it is as long as the mean length of the drifts, but s <= sqrt(n).

    origin float32[P]: what all began as. drifted float32[n, P]: one row for each instance, n >= 1. Returns float32[P].
    Beyond sqrt(n) the drifts contradict one another, and what is left of them is not to be blown up.
    """
    drifts = drifted - origin[None]
    mean = jnp.mean(drifts, axis=0)
    length, lengths = jnp.linalg.norm(mean), jnp.linalg.norm(drifts, axis=1)
    scale = jnp.minimum(jnp.mean(lengths) / jnp.where(length > 0, length, 1.0), len(drifted) ** 0.5)
    return origin + scale * mean
