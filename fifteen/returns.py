"""Targets and advantages: arrays in, arrays out. Every function is for one sequence; vmap for more."""

import jax
import jax.numpy as jnp
from jax import Array

_UNROLL = 16  # short sequences become straight code, which runs quicker; long ones would take long to compile


def symlog(x: Array) -> Array:
    """sign(x) log(1 + |x|) (Hafner et al. 2023, DreamerV3)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """Inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def support(bins: int, limit: float) -> Array:
    """Values of the bins of a categorical value, float32[bins]: evenly spaced in symlog, from symexp(-limit)."""
    return symexp(jnp.linspace(-limit, limit, bins, dtype=jnp.float32))


def two_hot(x: Array, values: Array) -> Array:
    """Distribution over `values` float32[Z] (ascending) whose mean is x float32[] (clipped to their range)."""
    x = jnp.clip(x, values[0], values[-1])
    gaps = jnp.diff(values)
    # The triangle around each bin that reaches zero at its neighbours.
    rising = jnp.concatenate([jnp.ones(1), (x - values[:-1]) / gaps])
    falling = jnp.concatenate([(values[1:] - x) / gaps, jnp.ones(1)])
    return jnp.clip(jnp.minimum(rising, falling), 0.0, 1.0)


def retrace(
    reward: Array,
    terminated: Array,
    ends: Array,
    action_value: Array,
    state_value: Array,
    log_ratio: Array,
    discount: float,
    trace: float,
) -> Array:
    """Retrace(lambda) targets (Munos et al. 2016, eq. 3-4) over T transitions between T + 1 rows.

    reward float32[T]: arrives with row t+1. terminated, ends bool[T+1]: the row is the last of its attempt, by
    termination / in either way. action_value float32[T+1]: Q(x_t, a_t). state_value float32[T+1]: E_pi Q(x_t, .).
    log_ratio float32[T+1]: log pi(a_t|x_t) - log mu(a_t|x_t). Returns float32[T]; where row t ends an attempt there
    is no action and the entry means nothing. A truncated attempt bootstraps from its last observation.
    """
    clipped = trace * jnp.exp(jnp.minimum(log_ratio, 0.0))
    last_row = jnp.arange(ends.shape[0]) == ends.shape[0] - 1
    weight = jnp.where(ends | last_row, 0.0, clipped)[1:]
    bootstrap = jnp.where(terminated, 0.0, state_value)[1:]
    keep = jnp.where(terminated, 0.0, discount)[1:]

    def backward(excess: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward_t, keep_t, bootstrap_t, weight_t, value_t = step
        target = reward_t + keep_t * (bootstrap_t + weight_t * excess)
        return target - value_t, target

    steps = (reward, keep, bootstrap, weight, action_value[:-1])
    _, targets = jax.lax.scan(backward, jnp.zeros((), reward.dtype), steps, reverse=True, unroll=_UNROLL)
    return targets


def later_returns(
    now_value: Array, later_value: Array, first: Array, ends: Array, attempt_discount: float, trace: float
) -> Array:
    """Targets of `v_later`, the return of the attempts that follow, over rows of one lifetime.

    now_value, later_value float32[T+1]: both readouts at each row; first, ends bool[T+1]: the row begins / ends an
    attempt. No discount by time within an attempt, `attempt_discount` once per boundary (Duan et al. 2016 count the
    whole lifetime; here each boundary costs a little). TD(lambda): L_t = (1 - lambda) l_{t+1} + lambda L_{t+1} within
    an attempt, and attempt_discount * (v_now + L)_{t+1} across a boundary. Returns float32[T].
    """
    crossing = ends[:-1] & first[1:]

    def backward(following: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        now, later, crosses = step
        ahead = (1.0 - trace) * later + trace * following
        target = jnp.where(crosses, attempt_discount * (now + ahead), ahead)
        return target, target

    steps = (now_value[1:], later_value[1:], crossing)
    _, targets = jax.lax.scan(backward, later_value[-1], steps, reverse=True, unroll=_UNROLL)
    return targets
