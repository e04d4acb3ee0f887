"""What the network and its memory cores are built of: parameters drawn on the host, one example at a time."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Weight = Array | np.ndarray
"""A parameter: drawn on the host, an Array from then on."""


@final
class Linear(eqx.Module):
    """y = x W + b, W float32[in, out] drawn from N(0, scale^2 / in), b zero."""

    weight: Weight
    bias: Weight

    def __init__(self, random: np.random.Generator, size_in: int, size_out: int, scale: float = 1.0):
        self.weight = normal(random, (size_in, size_out), scale / size_in**0.5)
        self.bias = np.zeros(size_out, np.float32)

    def __call__(self, x: Array) -> Array:
        return x @ self.weight + self.bias


@final
class LayerNorm(eqx.Module):
    """Ba et al. 2016, over the last axis."""

    gain: Weight
    bias: Weight

    def __init__(self, size: int):
        self.gain = np.ones(size, np.float32)
        self.bias = np.zeros(size, np.float32)

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2) + 1e-5) * self.gain + self.bias


def normal(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """float32[shape] drawn from N(0, scale^2)."""
    return random.standard_normal(shape, np.float32) * np.float32(scale)
