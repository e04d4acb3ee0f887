"""What families have in common: parameters out of uniform draws, and advice out of values."""

import jax.numpy as jnp
from jax import Array


def between(unit: Array, low: float, high: float) -> Array:
    """Draws from [0, 1), stretched to [low, high)."""
    return low + (high - low) * unit


def whole(unit: Array, low: int, high: int) -> Array:
    """Draws from [0, 1) as int32, uniform in low..high-1."""
    return low + jnp.floor((high - low) * unit).astype(jnp.int32)


def best(values: Array, tolerance: float) -> Array:
    """Probabilities along the last axis, uniform over what is within `tolerance` of the largest."""
    ties = (values >= jnp.max(values, axis=-1, keepdims=True) - tolerance).astype(jnp.float32)
    return ties / jnp.sum(ties, axis=-1, keepdims=True)
