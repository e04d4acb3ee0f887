"""What one round of school does to the weights. Pure functions.

The learner acts in N lifetimes (`jobs/classroom.py`) and learns from two signals: reinforcement (PPO on the sum of the
advantages of this attempt and of later attempts, each scaled to unit variance within its family) and a teacher who
knows what the job hides, whose weight falls (kickstarting, Schmitt et al. 2018; decision pretraining, Lee et
al. 2023). What the teacher knows is in the loss only, never in a percept.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fifteen.config import SchoolConfig
from fifteen.frames import Decision, Percept
from fifteen.jobs.classroom import Classroom, Lifetimes, Rollout
from fifteen.losses import (
    categorical_loss,
    choose,
    clipped_policy_loss,
    masked_log_softmax,
    policy_loss,
    prediction_loss,
    value_loss,
)
from fifteen.model import Model, expected_value, unravel
from fifteen.returns import later_returns, retrace, support, symlog, two_hot

_SCALE_RATE = 0.02  # of the running mean of a family's return scale, per round
# In scaled returns: a family in which nothing has happened yet must not learn from the noise of its values.
_LEAST_DEVIATION = 0.01


class SchoolState(NamedTuple):
    """The whole state of a school."""

    weights: Array  # float32[P]
    optimiser: optax.OptState
    lifetimes: Lifetimes
    scales: Array  # float32[F], running mean of `Classroom.return_scales`
    rounds: Array  # int32[]
    key: Array  # uint32[2]


class _Lesson(NamedTuple):
    """One lifetime's rollout with everything that learning needs: T ticks."""

    rollout: Rollout  # [T, ...]
    codes: Array  # float32[1, B, R]
    now: Array  # float32[T], target of v_now's action value
    later: Array  # float32[T], target of v_later
    advantage: Array  # float32[T]
    counts: Array  # bool[T], ticks from which an action was taken whose outcome is known


class _Read(NamedTuple):
    """What the network reads from one lifetime's rollout."""

    percepts: Percept  # [T, ...]
    decisions: Decision  # [T, ...]
    features: Array  # float32[T, W]
    logits: Array  # float32[T, 1, B]


def optimiser(school: SchoolConfig, updates: int) -> optax.GradientTransformation:
    """Adam whose rate falls to a tenth over all updates."""
    return optax.chain(
        optax.clip_by_global_norm(school.max_gradient),
        optax.scale_by_adam(b2=school.adam_b2),
        optax.scale_by_schedule(optax.linear_schedule(-school.learning_rate, -0.1 * school.learning_rate, updates)),
    )


def remembered(model: Model, room: Classroom, rollout: Rollout, codes: Array) -> tuple[Percept, Array]:
    """Percepts [T, ...] of one lifetime's rollout, and what senses and memory make of them, float32[T, W].

    codes: float32[1, B, R], see `Classroom.codes`.
    """
    percepts = jax.vmap(lambda frame: room.layout.percept(frame, None))(rollout.frames)
    x = jax.vmap(lambda p, felt: model.encode(p, p.vector, felt, codes))(percepts, rollout.felt)
    return percepts, model.unroll(rollout.memory, x, jnp.zeros(x.shape[0], bool))[1]


def _read(model: Model, room: Classroom, rollout: Rollout, codes: Array) -> _Read:
    percepts, x = remembered(model, room, rollout, codes)
    features = jax.vmap(model.features)(x)
    prefix = jnp.zeros((1, codes.shape[2]))
    logits = jax.vmap(lambda f: model.policy_logits(f, prefix, codes))(features)
    return _Read(percepts, jax.vmap(room.layout.decision)(rollout.decisions), features, logits)


def _advise(model: Model, room: Classroom, rollout: Rollout, codes: Array) -> tuple[Array, ...]:
    """Targets and advantages of one lifetime: now, later, their advantages, all float32[T], and which ticks count."""
    config, work, school = room.config, room.work, room.school
    read = _read(model, room, rollout, codes)
    percepts = read.percepts
    ends = percepts.terminated | percepts.truncated
    value = read.decisions.value  # E_pi Q of the same weights, computed when they acted
    later_value = expected_value(jax.vmap(model.later_logits)(read.features), config)
    on_policy = jnp.zeros_like(value)
    now = retrace(percepts.reward[1:], percepts.terminated, ends, value, value, on_policy, work.discount, school.trace)
    per_attempt = (1.0 - work.attempt_discount) * value
    later = later_returns(per_attempt, later_value, percepts.first, ends, work.attempt_discount, school.trace)
    last = jnp.zeros(1)
    counts = (~ends).at[-1].set(False)
    now, later = jnp.concatenate([now, last]), jnp.concatenate([later, last])
    return now, later, now - value, later - later_value, counts


def _lesson_loss(
    model: Model, lesson: _Lesson, weights: tuple[Array, Array], room: Classroom
) -> tuple[Array, dict[str, Array], Array]:
    """Summed loss of one lifetime's rollout, summed metrics, and how many ticks count.

    weights: float32[] each, of reinforcement and of the teacher.
    """
    reinforcement_weight, teacher_weight = weights
    school, rollout, codes = room.school, lesson.rollout, lesson.codes
    read = _read(model, room, rollout, codes)
    percepts, decisions = read.percepts, read.decisions
    rows = lesson.counts.astype(jnp.float32)
    values = support(room.config.value_bins, room.config.value_limit)
    prefix = jnp.zeros((1, codes.shape[2]))

    log_policy = jax.vmap(masked_log_softmax)(read.logits, decisions.mask)
    log_prob = jax.vmap(choose)(log_policy, decisions.choice)
    log_ratio = jnp.sum(log_prob - decisions.log_prob, axis=1)
    reinforced = jax.vmap(lambda r, a: clipped_policy_loss(r, a, school.clip))(log_ratio, lesson.advantage)
    entropy = -jnp.sum(jnp.exp(log_policy) * log_policy, axis=2)[:, 0]
    taught = jax.vmap(policy_loss)(read.logits, rollout.teacher[:, None], decisions.mask)

    chosen = jax.vmap(lambda c: model.chosen_codes(c, codes))(decisions.choice)  # [T, 1, R]
    taken = jax.vmap(lambda f, c: model.value_logits(f, prefix, c[:, None])[:, 0])(read.features, chosen)
    now_loss = jax.vmap(value_loss)(taken, jax.vmap(lambda x: two_hot(x, values))(lesson.now))
    # Unlike on the job, v_later shapes the features here: rollouts cross many boundaries.
    later_loss = jax.vmap(categorical_loss)(
        jax.vmap(model.later)(read.features), jax.vmap(lambda x: two_hot(x, values))(lesson.later)
    )
    imagined = jax.vmap(lambda f, c: model.predict(f, jnp.sum(c, axis=0)))(read.features[:-1], chosen[:-1])
    actual = jnp.concatenate([percepts.vector[1:], symlog(percepts.reward)[1:, None]], axis=1)
    imagined_loss = jnp.pad(jax.vmap(prediction_loss)(imagined, actual), (0, 1))

    total = (
        reinforcement_weight * reinforced
        - school.entropy_weight * entropy
        + teacher_weight * taught
        + school.value_weight * now_loss
        + school.prediction_weight * imagined_loss
    )
    # An attempt's last row takes no action, but later attempts follow it, and the row before bootstraps from it.
    followed = (jnp.arange(rows.shape[0]) < rows.shape[0] - 1).astype(jnp.float32)
    loss = jnp.sum(rows * total + school.value_weight * followed * later_loss)
    metrics = {
        "policy_loss": reinforced,
        "teacher_loss": taught,
        "value_loss": now_loss,
        "later_loss": later_loss,
        "prediction_loss": imagined_loss,
        "entropy": entropy,
    }
    return loss, {name: jnp.sum(rows * value) for name, value in metrics.items()}, jnp.sum(rows)


def _study(
    state: SchoolState, rollout: Rollout, lived_by: Lifetimes, room: Classroom, updates: int
) -> tuple[Array, optax.OptState, dict[str, Array]]:
    """Epochs of minibatches of lifetimes. Returns weights, optimiser state and mean metrics."""
    school = room.school
    model = unravel(state.weights, room.config)
    projected = lived_by.projected
    codes = room.codes(model, room.member, projected)
    now, later, now_advantage, later_advantage, counts = jax.vmap(partial(_advise, model, room))(rollout, codes)
    advantage = sum(_unit_variance(a, counts, room) for a in (now_advantage, later_advantage))
    done = (state.rounds.astype(jnp.float32) + 1.0) * school.epochs * school.minibatches / updates
    signals = (
        school.reinforcement_weight + done * (school.reinforcement_last - school.reinforcement_weight),
        school.teacher_weight + done * (school.teacher_last - school.teacher_weight),
    )
    lessons = (room.member, projected, rollout, now, later, advantage, counts)
    change = optimiser(school, updates)

    def loss(weights: Array, part: Any) -> tuple[Array, dict[str, Array]]:
        model = unravel(weights, room.config)
        member, projected, rollout, *rest = part
        lesson = _Lesson(rollout, room.codes(model, member, projected), *rest)
        losses, metrics, rows = jax.vmap(lambda one: _lesson_loss(model, one, signals, room))(lesson)
        total = jnp.maximum(jnp.sum(rows), 1.0)
        return jnp.sum(losses) / total, {name: jnp.sum(value) / total for name, value in metrics.items()}

    def one(carry: Any, picked: Array) -> tuple[Any, dict[str, Array]]:
        weights, moments = carry
        gradient, metrics = jax.grad(loss, has_aux=True)(weights, jax.tree.map(lambda x: x[picked], lessons))
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32.
            step, moments = change.update(gradient, moments)
        return (weights + jnp.asarray(step), moments), metrics

    count = len(room.member)
    keys = jax.random.split(jax.random.wrap_key_data(state.key), school.epochs)
    order = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
    picks = order.reshape(school.epochs * school.minibatches, -1)
    (weights, moments), metrics = jax.lax.scan(one, (state.weights, state.optimiser), picks)
    return weights, moments, {name: jnp.mean(values) for name, values in metrics.items()}


def _unit_variance(advantage: Array, counts: Array, room: Classroom) -> Array:
    """Centred and scaled to unit variance within each family: advantage float32[N, T], counts bool[N, T]."""
    shape = (room.each, len(room.families), advantage.shape[1])
    weight, grouped = counts.astype(jnp.float32).reshape(shape), advantage.reshape(shape)
    total = jnp.maximum(jnp.sum(weight, axis=(0, 2), keepdims=True), 1.0)
    mean = jnp.sum(weight * grouped, axis=(0, 2), keepdims=True) / total
    variance = jnp.sum(weight * (grouped - mean) ** 2, axis=(0, 2), keepdims=True) / total
    return ((grouped - mean) * jax.lax.rsqrt(jnp.maximum(variance, _LEAST_DEVIATION**2))).reshape(advantage.shape)


def teach_round(state: SchoolState, *, room: Classroom, updates: int) -> tuple[SchoolState, dict[str, Array], Array]:
    """One round: all lifetimes live T ticks, the weights learn from them. Pure, compiled once.

    Returns the state, mean metrics, and `Classroom.spoiled`.
    """
    model = unravel(state.weights, room.config)
    lived, rollout = room.live(model, state.lifetimes, state.scales)
    rate = jnp.maximum(_SCALE_RATE, 1.0 / (state.rounds.astype(jnp.float32) + 1.0))
    scales = state.scales + rate * (room.return_scales(lived) - state.scales)
    weights, moments, metrics = _study(state, rollout, state.lifetimes, room, updates)
    key = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(state.key))[0])
    return SchoolState(weights, moments, lived, scales, state.rounds + 1, key), metrics, room.spoiled(rollout)
