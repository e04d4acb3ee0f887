"""How the weights learn on the job: regularised policy iteration on replayed sequences. Pure functions.

Critic: categorical action values to Retrace(lambda) targets of a slowly averaged target network. Actor: cross-entropy
to the clipped-MPO improvement of the target policy (Hessel et al. 2021, "Muesli"). Memory: sequences start from the
memory state that was stored when they were lived (Kapturowski et al. 2019, R2D2).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fifteen.config import MindConfig, WorkConfig
from fifteen.frames import Layout
from fifteen.instance import Statistics, return_scale, standardise
from fifteen.losses import (
    categorical_loss,
    choose,
    factored_advantage,
    improved_policy,
    masked_log_softmax,
    policy_loss,
    prediction_loss,
    value_loss,
)
from fifteen.model import Heads, Model, expected_value, ravel, unravel
from fifteen.returns import later_returns, retrace, support, symlog, two_hot


class LearnerState(NamedTuple):
    """All that learning changes, except what belongs to an instance."""

    weights: Array  # float32[P], see `model.unravel`; flat, so that optimiser and averages are one kernel each
    target: Array  # float32[P], slow average of weights
    anchor: Array  # float32[P], weights at birth, or at the last sleep: what the L2 term pulls toward
    optimiser: optax.OptState
    advantage_variance: Array  # float32[], running mean of A^2
    updates: Array  # int32[]


class Batch(NamedTuple):
    """Replayed sequences of T + 1 rows."""

    frames: Array  # float32[N, T+1, percept]
    images: Array | None  # uint8[N, T+1, 32, 32, 3]
    decisions: Array  # float32[N, T+1, decision]
    memory: Array  # float32[N, memory] before the first row


class _Seen(NamedTuple):
    """What the network reads from one sequence."""

    heads: Heads  # each [T+1, ...]
    features: Array  # float32[T+1, W]
    sensors: Array  # float32[T+1, slots]


def optimiser(work: WorkConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(work.max_gradient),
        optax.scale_by_adam(b2=work.adam_b2),
        optax.scale(-work.learning_rate),
    )


def new_learner_state(config: MindConfig, work: WorkConfig, seed: int) -> LearnerState:
    weights = jnp.asarray(ravel(Model(config, np.random.default_rng(seed))))
    return LearnerState(
        weights=weights,
        target=jnp.copy(weights),
        anchor=jnp.copy(weights),
        optimiser=optimiser(work).init(weights),
        advantage_variance=jnp.zeros(()),
        updates=jnp.zeros((), jnp.int32),
    )


def update(
    state: LearnerState,
    batches: Batch,
    statistics: Statistics,
    continuous: Array,
    *,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
    wipe: bool,
) -> tuple[LearnerState, dict[str, Array]]:
    """K updates, one per batch: every field of `batches` has a leading axis K. Returns mean metrics, float32[]."""

    def one(state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        return _update_once(
            state, batch, statistics, continuous, config=config, work=work, layout=layout, wipe=wipe
        )

    state, metrics = jax.lax.scan(one, state, batches)
    return state, {name: jnp.mean(values) for name, values in metrics.items()}


def _update_once(
    state: LearnerState,
    batch: Batch,
    statistics: Statistics,
    continuous: Array,
    *,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
    wipe: bool,
) -> tuple[LearnerState, dict[str, Array]]:
    scale = return_scale(statistics.histogram, work.reward_quantile)
    see = partial(_see, statistics=statistics, continuous=continuous, scale=scale, layout=layout, wipe=wipe)
    targets = jax.vmap(partial(see, unravel(state.target, config)))(batch)
    sigma = jnp.sqrt(state.advantage_variance)
    loss = partial(_sequence_loss, see=see, scale=scale, sigma=sigma, config=config, work=work, layout=layout)

    def mean_loss(weights: Array) -> tuple[Array, dict[str, Array]]:
        losses, metrics, rows = jax.vmap(partial(loss, unravel(weights, config)))(batch, targets)
        total = jnp.maximum(jnp.sum(rows), 1.0)
        return jnp.sum(losses) / total, {name: jnp.sum(values) / total for name, values in metrics.items()}

    gradient, metrics = jax.grad(mean_loss, has_aux=True)(state.weights)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32 in its bias correction.
        step, optimiser_state = optimiser(work).update(gradient, state.optimiser)
    pull = work.learning_rate * work.anchor_decay
    weights = state.weights + step - pull * (state.weights - state.anchor)
    target = state.target + work.target_rate * (weights - state.target)
    rate = jnp.maximum(0.01, 1.0 / (state.updates.astype(jnp.float32) + 1.0))
    variance = state.advantage_variance + rate * (metrics.pop("advantage_square") - state.advantage_variance)
    metrics["advantage_scale"] = jnp.sqrt(variance)
    return LearnerState(weights, target, state.anchor, optimiser_state, variance, state.updates + 1), metrics


def _see(
    model: Model,
    batch: Batch,
    *,
    statistics: Statistics,
    continuous: Array,
    scale: Array,
    layout: Layout,
    wipe: bool,
) -> _Seen:
    """Read one sequence with the network."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    sensors = jax.vmap(lambda v: standardise(statistics, v, continuous))(percepts.vector)
    x = jax.vmap(model.encode)(percepts, sensors, percepts.reward / scale)
    _, x = model.unroll(batch.memory, x, percepts.first & wipe)
    features = jax.vmap(model.features)(x)
    choices = batch.decisions[:, : layout.factors].astype(jnp.int32)
    prefixes = jax.vmap(lambda c: model.digit_prefix(c, layout.digits))(choices)
    return _Seen(jax.vmap(lambda f, p: model.heads(f, p, layout.bins))(features, prefixes), features, sensors)


def _sequence_loss(
    model: Model,
    batch: Batch,
    target: _Seen,
    *,
    see: partial,
    scale: Array,
    sigma: Array,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
) -> tuple[Array, dict[str, Array], Array]:
    """Summed loss of one sequence, summed metrics, and how many rows count: those from which an action was taken."""
    seen: _Seen = see(model, batch)
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    decisions = jax.vmap(layout.decision)(batch.decisions)
    ends = percepts.terminated | percepts.truncated
    rows = jnp.where(ends, 0.0, 1.0)[:-1]  # [T]
    rewards = percepts.reward / scale

    log_target = jax.vmap(masked_log_softmax)(target.heads.policy, decisions.mask)
    action_value = expected_value(target.heads.value, config)  # [T+1, M, B]
    advantage, state_value = jax.vmap(factored_advantage)(action_value, log_target)
    log_ratio = jnp.sum(jax.vmap(choose)(log_target, decisions.choice) - decisions.log_prob, axis=1)
    taken = jnp.mean(jax.vmap(choose)(action_value, decisions.choice), axis=1)
    now = retrace(
        rewards[1:], percepts.terminated, ends, taken, state_value, log_ratio, work.discount, work.trace
    )
    values = support(config.value_bins, config.value_limit)
    now_loss = jax.vmap(value_loss)(
        seen.heads.value[:-1], decisions.choice[:-1], jax.vmap(lambda x: two_hot(x, values))(now)
    )

    improvement_scale = jnp.maximum(sigma, work.improvement_floor)
    improved = jax.vmap(lambda l, a, m: improved_policy(l, a, m, improvement_scale))(
        log_target, advantage, decisions.mask
    )
    actor_loss = jax.vmap(policy_loss)(seen.heads.policy, improved, decisions.mask)[:-1]

    later_value = expected_value(target.heads.later, config)
    later = later_returns(state_value, later_value, percepts.first, ends, work.attempt_discount, work.trace)
    later_loss = jax.vmap(categorical_loss)(
        seen.heads.later[:-1], jax.vmap(lambda x: two_hot(x, values))(later)
    )

    imagined = jax.vmap(model.predict)(seen.features[:-1], decisions.choice[:-1])
    actual = jnp.concatenate([seen.sensors[1:], symlog(rewards)[1:, None]], axis=1)
    imagined_loss = jax.vmap(prediction_loss)(imagined, jax.lax.stop_gradient(actual))

    policy = jnp.exp(jax.vmap(masked_log_softmax)(seen.heads.policy, decisions.mask))[:-1]
    entropy = -jnp.mean(jnp.sum(jnp.where(policy > 0, policy * jnp.log(policy + 1e-9), 0.0), axis=2), axis=1)
    advantage_square = jnp.mean(jnp.sum(jnp.exp(log_target) * advantage**2, axis=2), axis=1)[:-1]
    metrics = {
        "value_loss": now_loss,
        "policy_loss": actor_loss,
        "later_loss": later_loss,
        "prediction_loss": imagined_loss,
        "entropy": entropy,
        "value": state_value[:-1],
        "advantage_square": advantage_square,
    }
    total = now_loss + work.policy_weight * actor_loss + later_loss + work.prediction_weight * imagined_loss
    return jnp.sum(rows * total), {n: jnp.sum(rows * v) for n, v in metrics.items()}, jnp.sum(rows)
