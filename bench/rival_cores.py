"""Rivals of the default memory core: GRU, minGRU and causal self-attention over a window.

Each is x + out(recurrence(norm(x))), the same pre-norm residual layer as the default, around the recurrence as it was
published. `heads * head_size` of a MindConfig are its hidden units; `taps` means nothing here.
"""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.config import MindConfig
from fifteen.cores import CORES, MemoryCore
from fifteen.layers import LayerNorm, Linear, Weight, normal

WINDOW = 32  # steps that attention reaches over, the present one among them


@final
class GruCore(MemoryCore):
    """GRU (Cho et al. 2014, arXiv:1406.1078, equations 5 to 8, with biases), one step after the other.

    r = sigmoid(W_r x + U_r h), z = sigmoid(W_z x + U_z h), h~ = tanh(W x + U (r h)), h' = z h + (1 - z) h~.
    Its state is h, float32[H].
    """

    norm: LayerNorm
    project: Linear  # W -> what x adds to r, z and h~
    recur_gates: Weight  # float32[H, 2 H], U_r and U_z
    recur: Weight  # float32[H, H], U
    out: Linear

    def __init__(self, random: np.random.Generator, config: MindConfig):
        hidden = self.state_size(config)
        self.norm = LayerNorm(config.width)
        self.project = Linear(random, config.width, 3 * hidden)
        self.recur_gates = normal(random, (hidden, 2 * hidden), hidden**-0.5)
        self.recur = normal(random, (hidden, hidden), hidden**-0.5)
        self.out = Linear(random, hidden, config.width)

    @staticmethod
    def state_size(config: MindConfig) -> int:
        return config.heads * config.head_size

    def _cell(self, hidden: Array, projected: Array, reset: Array) -> Array:
        """hidden float32[H], projected float32[3 H] -> float32[H]."""
        hidden = jnp.where(reset, 0.0, hidden)
        size = hidden.shape[0]
        read, keep = jnp.split(jax.nn.sigmoid(projected[: 2 * size] + hidden @ self.recur_gates), 2)
        candidate = jnp.tanh(projected[2 * size :] + (read * hidden) @ self.recur)
        return keep * hidden + (1.0 - keep) * candidate

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        state = self._cell(state, self.project(self.norm(x)), reset)
        return state, x + self.out(state)

    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        def one(hidden: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            hidden = self._cell(hidden, *row)
            return hidden, hidden

        projected = jax.vmap(lambda row: self.project(self.norm(row)))(x)
        state, hidden = jax.lax.scan(one, state, (projected, reset))
        return state, x + jax.vmap(self.out)(hidden)


@final
class MinGruCore(MemoryCore):
    """minGRU (Feng et al. 2024, arXiv:2410.01201, section 3.1), unrolled by a parallel scan.

    z = sigmoid(W_z x), h~ = W x, h' = (1 - z) h + z h~: linear in h, so that steps compose (Blelloch 1990) into

        h_t = A_t h_0 + B_t,  (A, B) o (a, b) = (a A, a B + b).

    The factors lie in (0, 1) and are only multiplied, never divided by: no logarithms are needed. Its state is h,
    float32[H].
    """

    norm: LayerNorm
    project: Linear  # W -> z before its sigmoid, h~
    out: Linear

    def __init__(self, random: np.random.Generator, config: MindConfig):
        hidden = self.state_size(config)
        self.norm = LayerNorm(config.width)
        self.project = Linear(random, config.width, 2 * hidden)
        self.out = Linear(random, hidden, config.width)

    @staticmethod
    def state_size(config: MindConfig) -> int:
        return config.heads * config.head_size

    def _line(self, x: Array, reset: Array) -> tuple[Array, Array]:
        """h' = a h + b: x float32[W], reset bool[] -> (a, b), each float32[H]."""
        raw, candidate = jnp.split(self.project(self.norm(x)), 2)
        write = jax.nn.sigmoid(raw)
        return jnp.where(reset, 0.0, 1.0 - write), write * candidate

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        slope, offset = self._line(x, reset)
        state = slope * state + offset
        return state, x + self.out(state)

    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        def then(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
            return after[0] * before[0], after[0] * before[1] + after[1]

        slope, offset = jax.lax.associative_scan(then, jax.vmap(self._line)(x, reset))
        hidden = slope * state[None] + offset
        return hidden[-1], x + jax.vmap(self.out)(hidden)


@final
class AttentionCore(MemoryCore):
    """Causal self-attention (Vaswani et al. 2017) over the last `WINDOW` steps, the present one among them.

    How long ago something was is a learned bias of every head on its logits (Raffel et al. 2020, section 2.1). Nothing
    before a reset is attended to. Its state is what the next step may attend to, oldest first: keys and values, each
    float32[WINDOW - 1, H], and whether there was such a step, float32[WINDOW - 1], 1 or 0.
    """

    norm: LayerNorm
    project: Linear  # W -> q, k, v
    ago: Weight  # float32[heads, WINDOW], the last one is the present
    out: Linear
    heads: int = eqx.field(static=True)

    def __init__(self, random: np.random.Generator, config: MindConfig):
        hidden = config.heads * config.head_size
        self.norm = LayerNorm(config.width)
        self.project = Linear(random, config.width, 3 * hidden)
        self.ago = np.zeros((config.heads, WINDOW), np.float32)
        self.out = Linear(random, hidden, config.width)
        self.heads = config.heads

    @staticmethod
    def state_size(config: MindConfig) -> int:
        return (WINDOW - 1) * (2 * config.heads * config.head_size + 1)

    def _split(self, state: Array) -> tuple[Array, Array, Array]:
        """float32[S] -> keys, values float32[WINDOW - 1, H], whether they are there bool[WINDOW - 1]."""
        keys, values = state[: -(WINDOW - 1)].reshape(2, WINDOW - 1, -1)
        return keys, values, state[-(WINDOW - 1) :] > 0.5

    def _join(self, keys: Array, values: Array, there: Array) -> Array:
        """Inverse of `_split`; zeros where nothing is there."""
        kept = jnp.where(there[None, :, None], jnp.stack([keys, values]), 0.0)
        return jnp.concatenate([kept.reshape(-1), there.astype(jnp.float32)])

    def _attend(self, queries: Array, keys: Array, values: Array, bias: Array, open_: Array) -> Array:
        """queries float32[T, H]; keys, values float32[K, H]; bias float32[heads, T, K]; open_ bool[T, K] -> [T, H].

        Every row of open_ has a true entry, the present.
        """
        query, key, value = (x.reshape(x.shape[0], self.heads, -1) for x in (queries, keys, values))
        logits = jnp.einsum("thd,khd->htk", query, key) * query.shape[2] ** -0.5 + bias
        weights = jax.nn.softmax(jnp.where(open_[None], logits, -1e30))
        return jnp.einsum("htk,khd->thd", weights, value).reshape(queries.shape)

    def step(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        keys, values, there = self._split(state)
        query, key, value = jnp.split(self.project(self.norm(x)), 3)
        keys, values = jnp.concatenate([keys, key[None]]), jnp.concatenate([values, value[None]])
        there = jnp.append(there & ~reset, True)
        read = self._attend(query[None], keys, values, jnp.asarray(self.ago)[:, None], there[None])
        return self._join(keys[1:], values[1:], there[1:]), x + self.out(read[0])

    def unroll(self, state: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        keys, values, there = self._split(state)
        length = x.shape[0]
        queries, new_keys, new_values = jnp.split(jax.vmap(lambda row: self.project(self.norm(row)))(x), 3, axis=1)
        keys, values = jnp.concatenate([keys, new_keys]), jnp.concatenate([values, new_values])
        segment = jnp.cumsum(reset.astype(jnp.int32))
        # What the state has not got belongs to no segment.
        segments = jnp.concatenate([jnp.where(there, 0, -1), segment])
        place = np.arange(WINDOW - 1 + length)[None] - np.arange(length)[:, None]  # int[T, K], in the row's own window
        near = jnp.asarray((place >= 0) & (place < WINDOW))
        bias = jnp.asarray(self.ago)[:, np.clip(place, 0, WINDOW - 1)]
        read = self._attend(queries, keys, values, bias, near & (segment[:, None] == segments[None]))
        last = segments[length:] == segment[-1]
        return self._join(keys[length:], values[length:], last), x + jax.vmap(self.out)(read)


RIVALS: dict[str, type[MemoryCore]] = {"gru": GruCore, "mingru": MinGruCore, "attention": AttentionCore}


def enter_rivals() -> None:
    """Let a MindConfig name the rivals, in this process."""
    CORES.update(RIVALS)
