"""What families have in common: parameters out of uniform draws, look-ups, and advice out of values."""

import jax.numpy as jnp
from jax import Array


def between(unit: Array, low: float, high: float) -> Array:
    """Draws from [0, 1), stretched to [low, high)."""
    return low + (high - low) * unit


def whole(unit: Array, low: int | Array, high: int | Array) -> Array:
    """Draws from [0, 1) as int32, uniform in low..high-1."""
    return low + jnp.floor(jnp.asarray(high - low, jnp.float32) * unit).astype(jnp.int32)


def picked(table: Array, index: Array) -> Array:
    """table[index]: [n, ...], int32[] -> [...]; zeros where the index is out of range."""
    # A masked sum: gathers are slow on a CPU.
    picks = (jnp.arange(table.shape[0]) == index).reshape(-1, *[1] * (table.ndim - 1))
    return jnp.sum(jnp.where(picks, table, jnp.zeros((), table.dtype)), axis=0, dtype=table.dtype)


def best(values: Array, tolerance: float) -> Array:
    """Probabilities along the last axis, uniform over what is within `tolerance` of the largest."""
    ties = (values >= jnp.max(values, axis=-1, keepdims=True) - tolerance).astype(jnp.float32)
    return ties / jnp.sum(ties, axis=-1, keepdims=True)
