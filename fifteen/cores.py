"""Memory cores: what the network remembers with, each a pre-norm residual layer whose state is one flat vector.

The network is built of the core that `MindConfig.core` names in `CORES`. A core of your own is a final class with the
two forms of the same equations, put into `CORES` before the first model that asks for it; bench/rival_cores.py has
three.
"""

import abc
from typing import TYPE_CHECKING, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import memory
from fifteen.errors import RunError
from fifteen.layers import LayerNorm, Linear, Weight, normal

if TYPE_CHECKING:  # a MindConfig asks its core how large the state is, and so imports this file
    from fifteen.config import MindConfig

_DECAY_SHIFT = 4.0  # exp of it: steps that a memory is kept for where the gate's raw value is 0


class MemoryCore(eqx.Module):
    """One memory layer for one stream: x + what it recalls. Its state begins as zeros."""

    @abc.abstractmethod
    def __init__(self, random: np.random.Generator, config: "MindConfig"):
        """Draw the parameters, float32, on the host."""

    @staticmethod
    @abc.abstractmethod
    def state_size(config: "MindConfig") -> int:
        """float32 numbers in the state of one layer."""

    @abc.abstractmethod
    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """One step: state float32[S], x float32[W], reset bool[]: forget before this step. -> (state, float32[W])."""

    @abc.abstractmethod
    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """T calls of `step` at once, equal to float precision: x float32[T, W], reset bool[T] -> (state, [T, W])."""


@final
class DeltaCore(MemoryCore):
    """x + out(gate * read): pre-norm residual layer around the gated delta rule, after a short causal convolution.

    Its state is one flat vector: the heads' fast weights, then the last taps - 1 inputs of the convolution.
    """

    norm: LayerNorm
    project: Linear  # W -> q, k, v of every head
    convolution: Weight  # float32[taps, 3 * heads * head_size], last tap is the present
    gates: Linear  # W -> write strength and decay of every head, then the read-out gate
    out: Linear
    read_norm: LayerNorm
    heads: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(self, random: np.random.Generator, config: "MindConfig"):
        inner = config.heads * config.head_size
        self.norm = LayerNorm(config.width)
        self.project = Linear(random, config.width, 3 * inner)
        self.convolution = normal(random, (config.taps, 3 * inner), 0.1)
        self.convolution[-1] += 1.0
        self._begin_as_associations(config)
        self.gates = Linear(random, config.width, 2 * config.heads + inner)
        # Untrained, the first head keeps what it knows for about 64 steps, the last for 1,024.
        horizons = np.geomspace(64.0, 1024.0, config.heads)
        self.gates.bias[config.heads : 2 * config.heads] = _DECAY_SHIFT - np.log(horizons)
        self.out = Linear(random, inner, config.width)
        self.read_norm = LayerNorm(config.head_size)
        self.heads, self.size = config.heads, config.head_size

    def _begin_as_associations(self, config: "MindConfig") -> None:
        """Untrained, every second head already answers "what came of it when it looked as it does now?".

        A query is drawn as keys are, so that what looks alike is found again; and the key is that of the step before,
        when the choice was made whose outcome the present percept tells. To find both by gradient takes a long plateau.
        """
        weights = self.project.weight.reshape(config.width, 3, config.heads, config.head_size)
        weights[:, 1] = weights[:, 0]
        if config.taps > 1:
            taps = self.convolution.reshape(config.taps, 3, config.heads, config.head_size)
            taps[-1, 1, 1::2] -= 1.0
            taps[-2, 1, 1::2] += 1.0

    @staticmethod
    def state_size(config: "MindConfig") -> int:
        inner = config.heads * config.head_size
        return inner * config.head_size + (config.taps - 1) * 3 * inner

    def _qkv(self, mixed: Array) -> tuple[Array, Array, Array]:
        """float32[3 * heads * d] -> query, key (unit length), value, each float32[heads, d]."""
        query, key, value = jax.nn.silu(mixed).reshape(3, self.heads, self.size)
        return _unit(query), _unit(key), value

    def _gates(self, normed: Array) -> tuple[Array, Array, Array]:
        """float32[W] -> write float32[heads], log_decay float32[heads], gate float32[heads, d]."""
        raw = self.gates(normed)
        log_decay = -jax.nn.softplus(raw[self.heads : 2 * self.heads] - _DECAY_SHIFT)
        return jax.nn.sigmoid(raw[: self.heads]), log_decay, jax.nn.silu(raw[2 * self.heads :]).reshape(self.heads, -1)

    def _residual(self, x: Array, read: Array, gate: Array) -> Array:
        return x + self.out((jax.vmap(self.read_norm)(read) * gate).reshape(-1))

    def _split(self, state: Array) -> tuple[Array, Array]:
        fast = self.heads * self.size**2
        return state[:fast].reshape(self.heads, self.size, self.size), state[fast:].reshape(
            self.convolution.shape[0] - 1, -1
        )

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """state float32[S], x float32[W], reset bool[] -> (state, float32[W])."""
        weights, recent = self._split(state)
        normed = self.norm(x)
        recent = jnp.where(reset, 0.0, recent)
        window = jnp.concatenate([recent, self.project(normed)[None]])
        query, key, value = self._qkv(jnp.sum(window * self.convolution, axis=0))
        write, log_decay, gate = self._gates(normed)
        resets = jnp.broadcast_to(reset, (self.heads,))
        weights, read = jax.vmap(memory.delta_step)(weights, query, key, value, write, log_decay, resets)
        return jnp.concatenate([weights.reshape(-1), window[1:].reshape(-1)]), self._residual(x, read, gate)

    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """state float32[S], x float32[T, W], reset bool[T] -> (state, float32[T, W])."""
        weights, recent = self._split(state)
        length, taps = x.shape[0], self.convolution.shape[0]
        normed = jax.vmap(self.norm)(x)
        window = jnp.concatenate([recent, jax.vmap(self.project)(normed)])  # [taps - 1 + T, 3 * inner]
        segment = jnp.concatenate([jnp.zeros(taps - 1, jnp.int32), jnp.cumsum(reset.astype(jnp.int32))])
        mixed = jnp.zeros((length, window.shape[1]))
        for tap in range(taps):
            same = segment[tap : tap + length] == segment[taps - 1 :]
            mixed = mixed + jnp.where(same[:, None], window[tap : tap + length], 0.0) * self.convolution[tap][None]
        query, key, value = jax.vmap(self._qkv)(mixed)  # [T, heads, d]
        write, log_decay, gate = jax.vmap(self._gates)(normed)
        per_head = jax.vmap(memory.unroll, in_axes=(0, 1, 1, 1, 1, 1, None), out_axes=(0, 1))
        weights, read = per_head(weights, query, key, value, write, log_decay, reset)
        kept = segment[length:] == segment[-1]
        recent = jnp.where(kept[:, None], window[length:], 0.0)
        state = jnp.concatenate([weights.reshape(-1), recent.reshape(-1)])
        return state, jax.vmap(self._residual)(x, read, gate)


CORES: dict[str, type[MemoryCore]] = {"delta": DeltaCore}
"""Every core that a MindConfig may name."""


def core_named(name: str) -> type[MemoryCore]:
    """The core that is called so. Raises RunError for an unknown one, naming the known ones."""
    if name not in CORES:
        raise RunError(f"the memory core {name!r} is unknown: choose one of {', '.join(CORES)}, or put it into CORES")
    return CORES[name]


def _unit(x: Array) -> Array:
    """Unit length along the last axis; zero stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)
