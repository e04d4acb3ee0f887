"""Policy distillation on stored sequences: what a teacher says of them, and one update towards it. Pure functions."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fifteen.config import MindConfig, SleepConfig, WorkConfig
from fifteen.frames import Layout
from fifteen.instance import Statistics, felt_reward, new_statistics, observe_percepts, standardise
from fifteen.losses import masked_log_softmax, policy_loss
from fifteen.model import Model, unravel
from fifteen.updating import Batch


class Dream(NamedTuple):
    """Sequences of one job and what its teacher says of them: n sequences of T rows."""

    batch: Batch
    sensors: Array  # float32[n, T, slots], standardised as on a first day
    felt: Array  # float32[n, T], rewards, likewise
    policy: Array  # float32[n, T, M, B], probabilities
    value: Array  # float32[n, T, M, B, Z], probabilities of the categorical action values
    x: Array | None  # float32[n, T, W], what the memory makes of it where senses and memory are the same for all


class Study(NamedTuple):
    """All that an update changes."""

    weights: Array  # float32[P]
    moments: optax.OptState


@partial(jax.jit, static_argnames=("mind", "work", "layout", "wipe", "first_day"))
def dream(
    weights: Array,
    batch: Batch,
    statistics: Statistics,
    continuous: Array,
    mind: MindConfig,
    work: WorkConfig,
    layout: Layout,
    wipe: bool,
    first_day: bool,
) -> Dream:
    """What a teacher of weights float32[P] says, with the memory and the statistics it had, or as on a first day.

    batch: n sequences of 2T rows. continuous: bool[slots], see `Senses`. wipe: its memory was wiped after every
    attempt. Half of each sequence is kept: from the first attempt that begins in its first half, as a first day does.
    Where `work.steady` the sleeper's senses and memory are the teacher's.
    """
    teacher = unravel(weights, mind)

    def one(model: Model, batch: Batch) -> tuple[Array, Array]:
        percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
        if first_day:
            sensors, felt = _first_day(batch, continuous, work, layout)
            memory, wiped = jnp.zeros(mind.memory_size), False
        else:
            sensors = jax.vmap(lambda v: standardise(statistics, v, continuous))(percepts.vector)
            felt = felt_reward(statistics, percepts.reward)
            memory, wiped = batch.memory, wipe
        x = _remember(model, memory, batch, felt, sensors, wiped, layout)
        logits, value = _read(model, x, batch, model.codes(layout), layout)
        mask = jax.vmap(layout.decision)(batch.decisions).mask
        return jnp.exp(jax.vmap(masked_log_softmax)(logits, mask)), jax.nn.softmax(value, axis=-1)

    def cut(batch: Batch, policy: Array, value: Array) -> Dream:
        kept = policy.shape[0] // 2
        first = jax.vmap(layout.percept)(batch.frames, batch.images).first[:kept]
        begin = jnp.argmax(first)  # 0 where none is
        part = partial(jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=kept)
        images = None if batch.images is None else part(batch.images)
        rows = Batch(part(batch.frames), images, part(batch.decisions), batch.memory)
        sensors, felt = _first_day(rows, continuous, work, layout)
        empty = jnp.zeros(mind.memory_size)
        x = _remember(teacher, empty, rows, felt, sensors, False, layout) if work.steady else None
        return Dream(rows, sensors, felt, part(policy), part(value), x)

    return jax.vmap(cut)(batch, *jax.vmap(partial(one, teacher))(batch))


def begin(origin: Array, config: SleepConfig) -> Study:
    """Before the first update: as the parent, float32[P]."""
    return Study(jnp.copy(origin), _optimiser(config).init(origin))


@partial(jax.jit, static_argnames=("mind", "config", "layout"))
def gradient(
    weights: Array, dream: Dream, picked: Array, mind: MindConfig, config: SleepConfig, layout: Layout
) -> tuple[Array, Array]:
    """Of the loss of one job on the picked sequences, float32[P], and the distance to its teacher's policy, nats.

    The distance is the cross-entropy to the teacher's policy beyond the teacher's own entropy. picked: int32[batch].
    """
    loss = partial(_loss, mind=mind, config=config, layout=layout)
    return jax.grad(loss, has_aux=True)(weights, jax.tree.map(lambda x: x[picked], dream))


@partial(jax.jit, static_argnames="config")
def learn(study: Study, gradients: list[Array], origin: Array, config: SleepConfig) -> Study:
    """One update by the mean of the jobs' gradients, each float32[P], and the pull toward the origin."""
    total = sum(gradients[1:], gradients[0]) / len(gradients)
    total = total + config.anchor_decay * (study.weights - origin)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32.
        step, moments = _optimiser(config).update(total, study.moments)
    return Study(study.weights + jnp.asarray(step), moments)


def _optimiser(config: SleepConfig) -> optax.GradientTransformation:
    rate = optax.linear_schedule(-config.learning_rate, 0.0, config.steps)
    return optax.chain(
        optax.clip_by_global_norm(config.max_gradient), optax.scale_by_adam(), optax.scale_by_schedule(rate)
    )


def _remember(
    model: Model, memory: Array, batch: Batch, felt: Array, sensors: Array, wipe: bool, layout: Layout
) -> Array:
    """What senses and memory make of one sequence, float32[T, W]."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    codes = model.codes(layout)
    x = jax.vmap(lambda p, s, r: model.encode(p, s, r, codes))(percepts, sensors, felt)
    return model.unroll(memory, x, percepts.first & wipe)[1]


def _read(model: Model, x: Array, batch: Batch, codes: Array, layout: Layout) -> tuple[Array, Array]:
    """Policy and value logits of one sequence: float32[T, M, B] and [T, M, B, Z]. x: see `_remember`."""
    features = jax.vmap(model.features)(x)
    choices = batch.decisions[:, : layout.factors].astype(jnp.int32)
    prefix = jax.vmap(lambda c: model.digit_prefix(c, codes, layout.digits))(choices)
    logits = jax.vmap(lambda f, p: model.policy_logits(f, p, codes))(features, prefix)
    return logits, jax.vmap(lambda f, p: model.value_logits(f, p, codes))(features, prefix)


def _first_day(batch: Batch, continuous: Array, work: WorkConfig, layout: Layout) -> tuple[Array, Array]:
    """Sensors float32[T, slots] and felt rewards float32[T] of one sequence as if a lifetime began with it."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    yes = jnp.ones(1, bool)

    def row(statistics: Statistics, now: tuple[Array, Array]) -> tuple[Statistics, tuple[Array, Array]]:
        vector, reward = now
        statistics = observe_percepts(statistics, vector[None], reward[None], yes, work)
        return statistics, (standardise(statistics, vector, continuous), felt_reward(statistics, reward))

    # The reward that came before the sequence began is nobody's.
    rewards = percepts.reward.at[0].set(0.0)
    return jax.lax.scan(row, new_statistics(layout.slots), (percepts.vector, rewards))[1]


def _loss(
    weights: Array, dream: Dream, *, mind: MindConfig, config: SleepConfig, layout: Layout
) -> tuple[Array, Array]:
    """Mean distance to what the teacher says, and of the policy alone: cross-entropy less the teacher's entropy."""
    model = unravel(weights, mind)

    def one(dream: Dream) -> tuple[Array, Array, Array]:
        batch = dream.batch
        decisions = jax.vmap(layout.decision)(batch.decisions)
        percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
        rows = jnp.where(percepts.terminated | percepts.truncated, 0.0, 1.0)
        if dream.x is None:
            empty = jnp.zeros(mind.memory_size)
            x, codes = _remember(model, empty, batch, dream.felt, dream.sensors, False, layout), model.codes(layout)
        else:  # only what reads the memory learns
            x, codes = dream.x, jax.lax.stop_gradient(model.codes(layout))
        logits, value = _read(model, x, batch, codes, layout)
        entropy = -jnp.sum(jnp.where(dream.policy > 0, dream.policy * jnp.log(dream.policy + 1e-12), 0.0), axis=2)
        distance = jax.vmap(policy_loss)(logits, dream.policy, decisions.mask) - jnp.mean(entropy, axis=1)
        open_bins = decisions.mask.astype(jnp.float32)
        values = -jnp.sum(dream.value * jax.nn.log_softmax(value), axis=-1)  # [T, M, B]
        values = jnp.sum(open_bins * values, axis=(1, 2)) / jnp.maximum(jnp.sum(open_bins, axis=(1, 2)), 1.0)
        return jnp.sum(rows * distance), jnp.sum(rows * values), jnp.sum(rows)

    distance, values, rows = (jnp.sum(x) for x in jax.vmap(one)(dream))
    return (distance + config.value_weight * values) / rows, distance / rows


def picked(seed: int, step: int, available: list[int], batch: int) -> list[np.ndarray]:
    """Which sequences the update number `step` learns from, int32[batch] of each job that has `available` ones.

    They depend on seed and step alone, so that a night which goes on needs no generator's state.
    """
    generator = np.random.Generator(np.random.PCG64([seed, step]))
    return [generator.integers(n, size=batch, dtype=np.int32) for n in available]
