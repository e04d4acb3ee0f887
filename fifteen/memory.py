"""Fast-weight memory: the gated delta rule, one step at a time or a chunk at a time.

Per head, with state S (d x d), normalised key k and query q, value v, write strength b and decay a:

    S_t = a_t S_{t-1} + b_t (v_t - a_t S_{t-1} k_t) k_t^T        y_t = S_t q_t

(Schlag et al. 2021, "Linear transformers are secretly fast weight programmers"; Yang et al. 2025, "Gated Delta
Networks"). It is a local learning rule: at every step the memory corrects its own prediction of v.

The chunked form writes S_t = g_t S_0 + sum_{i<=t} (g_t / g_i) u_i k_i^T with g the running product of a. The
corrections u then solve a unit lower triangular system within the chunk,

    (I + L) U = b (V - g S_0 K),   L_ij = b_i (g_i / g_j) k_i . k_j  for j < i,

by forward substitution. (LAPACK's solver is no quicker, and with a batch it waits for threads of the pool that it runs
in: where as many solvers wait as there are threads, nothing ever goes on. The inverse as a finite product of powers of
the nilpotent L is no substitute: where keys repeat, its terms grow like binomial coefficients and cancel, and at 17
steps no digit is right.)
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
    correction = substitute(system, incoming)  # [T, d] u
    read = recalled[length:] + (ratio * similar[length:]) @ correction
    final = from_state[length - 1] * state + (ratio[length - 1][:, None] * correction).T @ key
    return final, read


@jax.custom_vjp
def substitute(lower: Array, right: Array) -> Array:
    """u of (I + L) u = right, row by row: u_t = right_t - sum_{i<t} L_ti u_i.

    lower float32[T, T], of which only the part below the diagonal is read; right and u float32[T, d].
    """
    lower = jnp.tril(lower, -1)

    def row(t: Array, solved: Array) -> Array:
        return solved.at[t].set(right[t] - lower[t] @ solved)

    return jax.lax.fori_loop(0, right.shape[0], row, jnp.zeros_like(right))


def _substitute_forward(lower: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    solved = substitute(lower, right)
    return solved, (lower, solved)


def _substitute_backward(known: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """By the transposed system, which is lower triangular when read from its end."""
    lower, solved = known
    right = substitute(lower.T[::-1, ::-1], cotangent[::-1])[::-1]
    return -jnp.tril(right @ solved.T, -1), right


substitute.defvjp(_substitute_forward, _substitute_backward)


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
