"""How the weights learn on the job: regularised policy iteration on replayed sequences. Pure functions.

Critic: categorical action values to Retrace(lambda) targets of a slowly averaged target network. Actor: cross-entropy
to the clipped-MPO improvement of the target policy (Hessel et al. 2021, "Muesli"). Memory: sequences start from the
memory state that was stored when they were lived (Kapturowski et al. 2019, R2D2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fifteen.config import MindConfig, WorkConfig
from fifteen.frames import Layout
from fifteen.instance import Statistics, felt_reward, return_scale, standardise
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
from fifteen.model import Model, expected_value, ravel, unravel
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


class _Perceived(NamedTuple):
    """What the senses and the memory make of one sequence."""

    x: Array  # float32[T+1, W], after the memory
    sensors: Array  # float32[T+1, slots]
    codes: Array  # float32[M, B, R]


class _Seen(NamedTuple):
    """What the heads read from one sequence."""

    features: Array  # float32[T+1, W]
    prefix: Array  # float32[T+1, M, R]
    codes: Array  # float32[M, B, R]


_PERCEIVED: Any = _Perceived(0, 0, None)  # pyright: ignore[reportArgumentType]
_SEEN: Any = _Seen(0, 0, None)  # pyright: ignore[reportArgumentType]


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
    codes: Callable[[Model], Array] | None = None,
) -> tuple[LearnerState, dict[str, Array]]:
    """K updates, one per batch: every field of `batches` has a leading axis K. Returns mean metrics, float32[].

    codes: of a model's action slots, float32[M, B, R], by default the layout's.
    """
    perceive = partial(_perceive, statistics=statistics, continuous=continuous, layout=layout, wipe=wipe, codes=codes)

    def one(state: LearnerState, batch: Batch) -> tuple[LearnerState, dict[str, Array]]:
        return _update_once(state, batch, statistics, perceive, config=config, work=work, layout=layout)

    state, metrics = jax.lax.scan(one, state, batches)
    return state, {name: jnp.mean(values) for name, values in metrics.items()}


def _update_once(
    state: LearnerState,
    batch: Batch,
    statistics: Statistics,
    perceive_one: partial,
    *,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
) -> tuple[LearnerState, dict[str, Array]]:
    scale = return_scale(statistics.histogram, work.reward_quantile)
    perceive = jax.vmap(perceive_one, in_axes=(None, 0), out_axes=_PERCEIVED)
    see = partial(_see, layout=layout)
    old = unravel(state.target, config)
    log_parent, known = None, None
    if work.steady:
        parent = unravel(state.anchor, config)
        known = perceive(parent, _emptied(batch, work))  # by everyone alike
        log_parent = jax.vmap(partial(_log_policy, parent, see=see, layout=layout), in_axes=(_PERCEIVED, 0))(
            known, batch
        )
    given = perceive(old, batch) if known is None else known
    targets = jax.vmap(partial(see, old), in_axes=(_PERCEIVED, 0), out_axes=_SEEN)(given, batch)
    unit = jnp.maximum(jnp.sqrt(state.advantage_variance), work.improvement_floor)
    loyalty = work.loyalty / (work.loyalty + state.updates.astype(jnp.float32) + 1.0)
    loss = partial(
        _sequence_loss,
        old=old,
        see=see,
        scale=scale,
        unit=unit,
        loyalty=loyalty,
        config=config,
        work=work,
        layout=layout,
    )

    def mean_loss(weights: Array) -> tuple[Array, dict[str, Array]]:
        model = unravel(weights, config)
        perceived = perceive(model, batch) if known is None else known
        losses, metrics, rows = jax.vmap(partial(loss, model), in_axes=(0, _PERCEIVED, _SEEN, 0))(
            batch, perceived, targets, log_parent
        )
        total = jnp.maximum(jnp.sum(rows), 1.0)
        return jnp.sum(losses) / total, {name: jnp.sum(values) / total for name, values in metrics.items()}

    gradient, metrics = jax.grad(mean_loss, has_aux=True)(state.weights)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32 in its bias correction.
        step, optimiser_state = optimiser(work).update(gradient, state.optimiser)
    pull = work.learning_rate * work.anchor_decay
    weights = state.weights + jnp.asarray(step) - pull * (state.weights - state.anchor)
    target = state.target + work.target_rate * (weights - state.target)
    rate = jnp.maximum(0.01, 1.0 / (state.updates.astype(jnp.float32) + 1.0))
    variance = state.advantage_variance + rate * (metrics.pop("advantage_square") - state.advantage_variance)
    metrics["advantage_scale"] = jnp.sqrt(variance)
    return LearnerState(weights, target, state.anchor, optimiser_state, variance, state.updates + 1), metrics


def _emptied(batch: Batch, work: WorkConfig) -> Batch:
    """With an empty memory before some of the sequences: what reads the memory must not need one that is full."""
    some = np.arange(len(batch.memory)) < work.emptied * len(batch.memory)
    return batch._replace(memory=jnp.where(some[:, None], 0.0, batch.memory))


def _perceive(
    model: Model,
    batch: Batch,
    *,
    statistics: Statistics,
    continuous: Array,
    layout: Layout,
    wipe: bool,
    codes: Callable[[Model], Array] | None,
) -> _Perceived:
    """Read one sequence with the network, up to its heads."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    sensors = jax.vmap(lambda v: standardise(statistics, v, continuous))(percepts.vector)
    coded = model.codes(layout) if codes is None else codes(model)
    x = jax.vmap(lambda p, s, r: model.encode(p, s, r, coded))(
        percepts, sensors, felt_reward(statistics, percepts.reward)
    )
    _, x = model.unroll(batch.memory, x, percepts.first & wipe)
    return _Perceived(x, sensors, coded)


def _see(model: Model, perceived: _Perceived, batch: Batch, *, layout: Layout) -> _Seen:
    """What the network's heads read from what was perceived."""
    features = jax.vmap(model.features)(perceived.x)
    choices = batch.decisions[:, : layout.factors].astype(jnp.int32)
    prefix = jax.vmap(lambda c: model.digit_prefix(c, perceived.codes, layout.digits))(choices)
    return _Seen(features, prefix, perceived.codes)


def _log_policy(model: Model, perceived: _Perceived, batch: Batch, *, see: partial, layout: Layout) -> Array:
    """float32[T+1, M, B]"""
    seen = see(model, perceived, batch)
    logits = jax.vmap(lambda f, p: model.policy_logits(f, p, seen.codes))(seen.features, seen.prefix)
    return jax.vmap(masked_log_softmax)(logits, jax.vmap(layout.decision)(batch.decisions).mask)


def _sequence_loss(
    model: Model,
    batch: Batch,
    perceived: _Perceived,
    target: _Seen,
    log_parent: Array | None,
    *,
    old: Model,
    see: partial,
    scale: Array,
    unit: Array,
    loyalty: Array,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
) -> tuple[Array, dict[str, Array], Array]:
    """Summed loss of one sequence, summed metrics, and how many rows count: those from which an action was taken."""
    seen: _Seen = see(model, perceived, batch)
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    decisions = jax.vmap(layout.decision)(batch.decisions)
    ends = percepts.terminated | percepts.truncated
    rows = jnp.where(ends, 0.0, 1.0)[:-1]  # [T]
    rewards = percepts.reward / scale

    old_policy = jax.vmap(lambda f, p: old.policy_logits(f, p, target.codes))(target.features, target.prefix)
    old_value = jax.vmap(lambda f, p: old.value_logits(f, p, target.codes))(target.features, target.prefix)
    log_target = jax.vmap(masked_log_softmax)(old_policy, decisions.mask)
    action_value = expected_value(old_value, config)  # [T+1, M, B]
    advantage, state_value = jax.vmap(factored_advantage)(action_value, log_target)
    log_ratio = jnp.sum(jax.vmap(choose)(log_target, decisions.choice) - decisions.log_prob, axis=1)
    taken_value = jnp.mean(jax.vmap(choose)(action_value, decisions.choice), axis=1)
    now = retrace(
        rewards[1:], percepts.terminated, ends, taken_value, state_value, log_ratio, work.discount, work.trace
    )
    values = support(config.value_bins, config.value_limit)
    chosen = jax.vmap(lambda c: model.chosen_codes(c, seen.codes))(decisions.choice)  # [T+1, M, R]
    taken_logits = jax.vmap(lambda f, p, c: model.value_logits(f, p, c[:, None])[:, 0])(
        seen.features, seen.prefix, chosen
    )
    now_loss = jax.vmap(value_loss)(taken_logits[:-1], jax.vmap(lambda x: two_hot(x, values))(now))

    logits = jax.vmap(lambda f, p: model.policy_logits(f, p, seen.codes))(seen.features, seen.prefix)
    prior = log_target if log_parent is None else (1.0 - loyalty) * log_target + loyalty * log_parent
    improved = jax.vmap(lambda p, a, m: improved_policy(p, a, m, unit))(prior, advantage, decisions.mask)
    actor_loss = jax.vmap(policy_loss)(logits, improved, decisions.mask)[:-1]

    later_value = expected_value(jax.vmap(old.later_logits)(target.features), config)
    # As a mean over the attempts to come, so that it fits the same support as v_now.
    per_attempt = (1.0 - work.attempt_discount) * state_value
    later = later_returns(per_attempt, later_value, percepts.first, ends, work.attempt_discount, work.trace)
    later_loss = jax.vmap(categorical_loss)(
        jax.vmap(model.later_logits)(seen.features)[:-1], jax.vmap(lambda x: two_hot(x, values))(later)
    )

    imagined = jax.vmap(lambda f, c: model.predict(f, jnp.sum(c, axis=0) * layout.factors**-0.5))(
        seen.features[:-1], chosen[:-1]
    )
    actual = jnp.concatenate([perceived.sensors[1:], symlog(rewards)[1:, None]], axis=1)
    imagined_loss = jax.vmap(prediction_loss)(imagined, jax.lax.stop_gradient(actual))

    log_policy = jax.vmap(masked_log_softmax)(logits, decisions.mask)[:-1]
    entropy = -jnp.mean(jnp.sum(jnp.exp(log_policy) * log_policy, axis=2), axis=1)
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
