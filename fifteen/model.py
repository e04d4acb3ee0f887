"""The network: percept encoder -> memory layers -> policy, value and prediction heads.

One network serves every job. What differs between jobs, the number of action factors and bins, is a static slice of
a fixed grid of codes: slot (m, b) has the code factor_code[m] * bin_code[b], and a head reads it bilinearly. Bins that
lie in order, those of a Box dimension, have codes that change smoothly along the line: neighbours learn together.
Everything here is written for one stream; vmap for more.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.config import MindConfig
from fifteen.cores import MemoryCore, core_named
from fifteen.frames import Layout, Percept
from fifteen.layers import LayerNorm, Linear, Weight, normal
from fifteen.returns import support, symlog

CONTEXT_SIZE = 7


@final
class ImageEncoder(eqx.Module):
    """Three strided convolutions, uint8[32, 32, 3] -> float32[width]."""

    kernels: tuple[Weight, ...]  # each float32[3, 3, in, out]
    project: Linear

    def __init__(self, random: np.random.Generator, width: int):
        channels = (3, 8, 16, 16)
        self.kernels = tuple(
            normal(random, (3, 3, i, o), (2.0 / (9 * i)) ** 0.5)
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
class Adapter(eqx.Module):
    """A hidden layer that adds to what it reads, and nothing at first: float32[W] -> float32[W]."""

    norm: LayerNorm
    widen: Linear  # W -> features
    narrow: Linear  # features -> W

    def __init__(self, random: np.random.Generator, width: int, features: int):
        self.norm = LayerNorm(width)
        self.widen = Linear(random, width, features)
        self.narrow = Linear(random, features, width, scale=0.0)

    def __call__(self, x: Array) -> Array:
        return x + self.narrow(jax.nn.silu(self.widen(self.norm(x))))


@final
class Model(eqx.Module):
    """Parameters of the mind."""

    sense: Linear
    see: ImageEncoder
    sense_norm: LayerNorm
    layers: tuple[MemoryCore, ...]
    adapter: Adapter | None
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
        # Sensors weigh as much as the previous action, whose code is rank numbers of unit size.
        self.sense.weight[: config.slots] *= 2.0
        self.sense.weight[config.slots + CONTEXT_SIZE :] *= 2.0 / rank**0.5
        self.see = ImageEncoder(random, width)
        self.sense_norm = LayerNorm(width)
        core = core_named(config.core)
        self.layers = tuple(core(random, config) for _ in range(config.layers))
        self.adapter = Adapter(np.random.default_rng(config.adapter), width, config.adapter) if config.adapter else None
        self.trunk = Linear(random, width, width)
        self.trunk_norm = LayerNorm(width)
        self.factor_code = random.choice(np.array([-1.0, 1.0], np.float32), (config.max_factors, rank))
        self.bin_code = normal(random, (config.max_bins, rank), 1.0)
        self.line_frequency = normal(random, (rank,), 2.0)
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
        if self.adapter is not None:
            x = self.adapter(x)
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


def adapted(weights: Array, config: MindConfig, adapter: int) -> Array:
    """Weights float32[P] of the same mind with an `Adapter` of so many features: silent if it had none; 0: without."""
    if config.adapter == adapter:
        return weights
    other = Model(dataclasses.replace(config, adapter=adapter), np.random.default_rng(0)).adapter
    model = eqx.tree_at(lambda m: m.adapter, unravel(weights, config), other, is_leaf=lambda x: x is None)
    return jnp.concatenate([jnp.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(model)])


def expected_value(logits: Array, config: MindConfig) -> Array:
    """Mean of categorical values: float32[..., Z] -> float32[...], in scaled returns."""
    return jax.nn.softmax(logits) @ support(config.value_bins, config.value_limit)
