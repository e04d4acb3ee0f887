"""Fast-weight memory: the gated delta rule, one step at a time or a chunk at a time.

Per head, with state S (d x d), normalised key k and query q, value v, write strength b and decay a:

    S_t = a_t S_{t-1} + b_t (v_t - a_t S_{t-1} k_t) k_t^T        y_t = S_t q_t

(Schlag et al. 2021, "Linear transformers are secretly fast weight programmers"; Yang et al. 2025, "Gated Delta
Networks"). It is a local learning rule: at every step the memory corrects its own prediction of v.

The chunked form writes S_t = g_t S_0 + sum_{i<=t} (g_t / g_i) u_i k_i^T with g the running product of a. The
corrections u then solve a unit lower triangular system within the chunk,

    (I + L) U = b (V - g S_0 K),   L_ij = b_i (g_i / g_j) k_i . k_j  for j < i,

by forward substitution. (The inverse as a finite product of powers of the nilpotent L is no substitute: where keys
repeat, its terms grow like binomial coefficients and cancel, and at 17 steps no digit is right.)
A reset before step t is a boundary between segments: pairs of different segments are masked out.
"""

import jax
import jax.numpy as jnp
from jax import Array


def delta_step(
    state: Array, query: Array, key: Array, value: Array, write: Array, log_decay: Array, reset: Array
) -> tuple[Array, Array]:
    """One step of one head.

    state float32[d, d]; query, key, value float32[d]; write float32[] in (0, 1); log_decay float32[] <= 0;
    reset bool[]: forget before this step. Returns (state float32[d, d], read-out float32[d]).
    """
    state = jnp.where(reset, 0.0, jnp.exp(log_decay) * state)
    state = state + jnp.outer(write * (value - state @ key), key)
    return state, state @ query


def delta_chunk(
    state: Array, query: Array, key: Array, value: Array, write: Array, log_decay: Array, reset: Array
) -> tuple[Array, Array]:
    """T steps of one head at once; equal to T calls of `delta_step` to float precision.

    state float32[d, d]; query, key, value float32[T, d]; write, log_decay float32[T]; reset bool[T].
    Returns (state float32[d, d] after the last step, read-outs float32[T, d]).
    """
    length = query.shape[0]
    segment = jnp.cumsum(reset.astype(jnp.int32))  # [T]; 0: still connected to the incoming state
    decay = jnp.cumsum(log_decay)  # [T] log g
    connected = segment == 0
    together = segment[:, None] == segment[None, :]
    past = jnp.tril(together)
    # Masked before the exponential: above the diagonal the ratio could overflow and poison the gradient.
    ratio = jnp.where(past, jnp.exp(jnp.where(past, decay[:, None] - decay[None, :], 0.0)), 0.0)  # [T, T] g_i / g_j
    from_state = jnp.where(connected, jnp.exp(jnp.where(connected, decay, 0.0)), 0.0)  # [T]

    # Keys and queries meet the same two matrices: one product each.
    both = jnp.concatenate([key, query])  # [2T, d]
    similar = both @ key.T  # [2T, T]
    recalled = jnp.concatenate([from_state, from_state])[:, None] * (both @ state.T)  # [2T, d]
    system = jnp.tril(write[:, None] * ratio * similar[:length], -1)
    incoming = write[:, None] * (value - recalled[:length])
    correction = jax.lax.linalg.triangular_solve(
        system, incoming, left_side=True, lower=True, unit_diagonal=True
    )  # [T, d] u; only the part below the diagonal is read
    read = recalled[length:] + (ratio * similar[length:]) @ correction
    final = from_state[length - 1] * state + (ratio[length - 1][:, None] * correction).T @ key
    return final, read


def unroll(
    state: Array,
    query: Array,
    key: Array,
    value: Array,
    write: Array,
    log_decay: Array,
    reset: Array,
    chunk: int = 16,
) -> tuple[Array, Array]:
    """T steps of one head, chunk by chunk, the state carried from one chunk to the next.

    Shapes as in `delta_chunk`. A last chunk that is not full is padded with steps that change nothing (write 0,
    decay 1).
    """
    length = query.shape[0]
    if length <= chunk:
        return delta_chunk(state, query, key, value, write, log_decay, reset)
    padding = -length % chunk
    inputs = (query, key, value, write, log_decay, reset)
    chunks = jax.tree.map(
        lambda x: jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, chunk, *x.shape[1:]), inputs
    )
    state, read = jax.lax.scan(lambda carry, x: delta_chunk(carry, *x), state, chunks)
    return state, read.reshape(-1, read.shape[-1])[:length]
