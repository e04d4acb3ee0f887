"""The network: percept encoder -> memory layers -> policy, value and prediction heads.

One network serves every job. What differs between jobs, the number of action factors and bins, is a static slice of
a fixed grid of codes: slot (m, b) has the code factor_code[m] * bin_code[b], and a head reads it bilinearly. Bins that
lie in order, those of a Box dimension, have codes that change smoothly along the line: neighbours learn together.
Everything here is written for one stream; vmap for more.
"""

import functools
import itertools
import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import memory
from fifteen.config import MindConfig
from fifteen.frames import Layout, Percept
from fifteen.returns import support, symlog

CONTEXT_SIZE = 7

Weight = Array | np.ndarray
"""A parameter: drawn on the host, an Array from then on."""


@final
class Linear(eqx.Module):
    """y = x W + b, W float32[in, out] drawn from N(0, scale^2 / in), b zero."""

    weight: Weight
    bias: Weight

    def __init__(self, random: np.random.Generator, size_in: int, size_out: int, scale: float = 1.0):
        self.weight = _normal(random, (size_in, size_out), scale / size_in**0.5)
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


@final
class ImageEncoder(eqx.Module):
    """Three strided convolutions, uint8[32, 32, 3] -> float32[width]."""

    kernels: tuple[Weight, ...]  # each float32[3, 3, in, out]
    project: Linear

    def __init__(self, random: np.random.Generator, width: int):
        channels = (3, 8, 16, 16)
        self.kernels = tuple(
            _normal(random, (3, 3, i, o), (2.0 / (9 * i)) ** 0.5)
            for i, o in zip(channels[:-1], channels[1:], strict=True)
        )
        self.project = Linear(random, 4 * 4 * channels[-1], width)

    def __call__(self, image: Array) -> Array:
        x = image[None].astype(jnp.float32) / 127.5 - 1.0
        for kernel in self.kernels:
            x = jax.lax.conv_general_dilated(
                x, jnp.asarray(kernel), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.silu(x)
        return self.project(x.reshape(-1))


@final
class MemoryLayer(eqx.Module):
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

    def __init__(self, random: np.random.Generator, config: MindConfig):
        inner = config.heads * config.head_size
        self.norm = LayerNorm(config.width)
        self.project = Linear(random, config.width, 3 * inner)
        self.convolution = _normal(random, (config.taps, 3 * inner), 0.1)
        self.convolution[-1] += 1.0
        self.gates = Linear(random, config.width, 2 * config.heads + inner)
        self.out = Linear(random, inner, config.width)
        self.read_norm = LayerNorm(config.head_size)
        self.heads, self.size = config.heads, config.head_size

    def _qkv(self, mixed: Array) -> tuple[Array, Array, Array]:
        """float32[3 * heads * d] -> query, key (unit length), value, each float32[heads, d]."""
        query, key, value = jax.nn.silu(mixed).reshape(3, self.heads, self.size)
        return _unit(query), _unit(key), value

    def _gates(self, normed: Array) -> tuple[Array, Array, Array]:
        """float32[W] -> write float32[heads], log_decay float32[heads], gate float32[heads, d]."""
        raw = self.gates(normed)
        # An untrained memory keeps about 0.98 of itself a step.
        log_decay = -jax.nn.softplus(raw[self.heads : 2 * self.heads] - 4.0)
        return jax.nn.sigmoid(raw[: self.heads]), log_decay, jax.nn.silu(raw[2 * self.heads :]).reshape(self.heads, -1)

    def _residual(self, x: Array, read: Array, gate: Array) -> Array:
        return x + self.out((jax.vmap(self.read_norm)(read) * gate).reshape(-1))

    def _split(self, state: Array) -> tuple[Array, Array]:
        fast = self.heads * self.size**2
        return state[:fast].reshape(self.heads, self.size, self.size), state[fast:].reshape(
            self.convolution.shape[0] - 1, -1
        )

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """state float32[memory], x float32[W], reset bool[] -> (state, float32[W])."""
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
        """state float32[memory], x float32[T, W], reset bool[T] -> (state, float32[T, W])."""
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


@final
class Model(eqx.Module):
    """Parameters of the mind."""

    sense: Linear
    see: ImageEncoder
    sense_norm: LayerNorm
    layers: tuple[MemoryLayer, ...]
    trunk: Linear
    trunk_norm: LayerNorm
    factor_code: Weight  # float32[max_factors, R]
    bin_code: Weight  # float32[max_bins, R], of alternatives
    line_frequency: Weight  # float32[R], of bins in order: sqrt(2) cos(frequency x + phase), x in [-1, 1]
    line_phase: Weight  # float32[R]
    policy: Linear  # W -> R
    advantage: Linear  # W -> R
    advantage_out: Linear  # R -> Z
    value: Linear  # W -> Z
    later: Linear  # W -> Z
    imagine: Linear  # W + R -> W
    imagined: Linear  # W -> slots + 1

    def __init__(self, config: MindConfig, random: np.random.Generator):
        """Drawn on the host: compiling a generator for every shape would take longer than everything else at start."""
        width, rank, bins = config.width, config.rank, config.value_bins
        self.sense = Linear(random, config.slots + CONTEXT_SIZE + rank, width)
        self.see = ImageEncoder(random, width)
        self.sense_norm = LayerNorm(width)
        self.layers = tuple(MemoryLayer(random, config) for _ in range(config.layers))
        self.trunk = Linear(random, width, width)
        self.trunk_norm = LayerNorm(width)
        self.factor_code = random.choice(np.array([-1.0, 1.0], np.float32), (config.max_factors, rank))
        self.bin_code = _normal(random, (config.max_bins, rank), 1.0)
        self.line_frequency = _normal(random, (rank,), 2.0)
        self.line_phase = random.uniform(0.0, 2.0 * math.pi, rank).astype(np.float32)
        # Zero read-outs: a uniform policy, and values of zero that a job's outcomes pull up or down.
        self.policy = Linear(random, width, rank, scale=0.0)
        self.advantage = Linear(random, width, rank)
        self.advantage_out = Linear(random, rank, bins, scale=0.0)
        self.value = Linear(random, width, bins, scale=0.0)
        self.later = Linear(random, width, bins, scale=0.0)
        self.imagine = Linear(random, width + rank, width)
        self.imagined = Linear(random, width, config.slots + 1, scale=0.0)

    def codes(self, layout: Layout) -> Array:
        """Codes of all action slots: float32[M, B, R]."""
        bins = layout.bins
        rows = []
        for factor, ordered in enumerate(layout.ordered):
            code = self.bin_code[:bins]
            if ordered:
                place = (2.0 * np.arange(bins, dtype=np.float32) / max(ordered - 1, 1) - 1.0)[:, None]
                code = 2**0.5 * jnp.cos(place * self.line_frequency[None] + self.line_phase[None])
            rows.append(code * self.factor_code[factor][None])
        return jnp.stack(rows)

    def code(self, choice: Array, codes: Array) -> Array:
        """choice int32[M] (-1: none), codes float32[M, B, R] -> float32[R], the sum of the chosen slots' codes."""
        return jnp.sum(self.chosen_codes(choice, codes), axis=0) * (choice.shape[0] ** -0.5)

    def chosen_codes(self, choice: Array, codes: Array) -> Array:
        """choice int32[M] (-1: none), codes float32[M, B, R] -> float32[M, R]; zero where nothing was chosen."""
        # A product with one-hot vectors: the gradient of a gather is a scatter, which is slow on a CPU.
        return jnp.einsum("mb,mbr->mr", jax.nn.one_hot(choice, codes.shape[1]), codes)

    def encode(self, percept: Percept, sensors: Array, reward: Array, codes: Array) -> Array:
        """One percept as float32[W].

        sensors float32[slots] standardised; reward float32[], see `instance.felt_reward`; codes float32[M, B, R].
        """
        context = jnp.stack(
            [
                jnp.clip(symlog(reward), -3.0, 3.0),
                percept.first.astype(jnp.float32),
                percept.after_termination.astype(jnp.float32),
                percept.after_truncation.astype(jnp.float32),
                jnp.log1p(percept.step.astype(jnp.float32)) / 5.0,
                jnp.exp(-percept.step.astype(jnp.float32) / 10.0),
                jnp.ones(()),
            ]
        )
        x = self.sense(jnp.concatenate([sensors, context, self.code(percept.previous, codes)]))
        if percept.image is not None:
            x = x + self.see(percept.image)
        return jax.nn.silu(self.sense_norm(x))

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """One step of all memory layers: state float32[memory], x float32[W] -> (state, float32[W])."""
        states = []
        for layer, layer_state in zip(self.layers, jnp.split(state, len(self.layers)), strict=True):
            layer_state, x = layer.step(layer_state, x, reset)
            states.append(layer_state)
        return jnp.concatenate(states), x

    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """T steps of all memory layers: x float32[T, W], reset bool[T] -> (state, float32[T, W])."""
        states = []
        for layer, layer_state in zip(self.layers, jnp.split(state, len(self.layers)), strict=True):
            layer_state, x = layer.unroll(layer_state, x, reset)
            states.append(layer_state)
        return jnp.concatenate(states), x

    def features(self, x: Array) -> Array:
        """What all heads read: x float32[W] after the memory -> float32[W]."""
        return jax.nn.silu(self.trunk_norm(self.trunk(x)))

    def policy_logits(self, features: Array, prefix: Array, codes: Array) -> Array:
        """features float32[W]; prefix float32[M, R], see `digit_prefix`; codes float32[M, B, R] -> float32[M, B]."""
        seen = self.policy(features)[None] * (1.0 + prefix)  # [M, R]
        return jnp.sum(seen[:, None] * codes, axis=2) * codes.shape[2] ** -0.5

    def value_logits(self, features: Array, prefix: Array, codes: Array) -> Array:
        """Categorical action values of each factor (v_now), shapes as in `policy_logits` -> float32[M, B, Z].

        `codes` may be those of a few slots only, such as the chosen ones [M, 1, R].
        """
        seen = self.advantage(features)[None] * (1.0 + prefix)  # [M, R]
        hidden = seen[:, None] * codes  # [M, B, R]
        return jax.vmap(jax.vmap(self.advantage_out))(hidden) + self.value(features)[None, None]

    def later_logits(self, features: Array) -> Array:
        """Categorical v_later, features float32[W] -> float32[Z]. It does not shape the features on the job."""
        return self.later(jax.lax.stop_gradient(features))

    def predict(self, features: Array, code: Array) -> Array:
        """features float32[W], code float32[R] of the choice -> float32[slots + 1]: next sensors, scaled reward."""
        return self.imagined(jax.nn.silu(self.imagine(jnp.concatenate([features, code]))))

    def digit_prefix(self, choice: Array, codes: Array, digits: tuple[int, ...]) -> Array:
        """Codes of the more significant digits of the same number: int32[M], float32[M, B, R] -> float32[M, R]."""
        if not any(digits):
            return jnp.zeros((codes.shape[0], codes.shape[2]))
        chosen = self.chosen_codes(choice, codes)
        rows, known = [], jnp.zeros(codes.shape[2])
        for factor, digit in enumerate(digits):
            known = known if digit else jnp.zeros_like(known)
            rows.append(known)
            known = known + chosen[factor]
        return jnp.stack(rows)


@functools.cache
def structure(config: MindConfig) -> tuple[tuple[tuple[int, ...], ...], Any]:
    """Shapes of the parameters of a Model, in the order of its leaves, and how a Model is made of them."""
    leaves, tree = jax.tree.flatten(Model(config, np.random.default_rng(0)))
    return tuple(leaf.shape for leaf in leaves), tree


def ravel(model: Model) -> np.ndarray:
    """All parameters of a fresh Model as one vector float32[P]."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(model)])


def unravel(weights: Array, config: MindConfig) -> Model:
    """Inverse of `ravel`: float32[P] -> Model. One split, whose gradient is one concatenation."""
    shapes, tree = structure(config)
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    parts = jnp.split(weights, ends[:-1])
    return tree.unflatten([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])


def expected_value(logits: Array, config: MindConfig) -> Array:
    """Mean of categorical values: float32[..., Z] -> float32[...], in scaled returns."""
    return jax.nn.softmax(logits) @ support(config.value_bins, config.value_limit)


def _normal(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return random.standard_normal(shape, np.float32) * np.float32(scale)


def _unit(x: Array) -> Array:
    """Unit length along the last axis; zero stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)
