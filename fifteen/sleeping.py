"""Sleep: what many instances of one parent learned on their jobs becomes one learner.

By night nobody acts. Every job that was lived has a teacher: the instance that learned it, or the parent for what was
lived on earlier days. Their policies and values are read once on stored sequences; then the sleeper, who begins as
the parent, learns to say the same on the same sequences (policy distillation: Rusu et al. 2016; with values and
rehearsal of older jobs: Traore et al. 2019), kept close to the parent by an L2 term. Rehearsal by cloning the policy
beats plain replay (Rolnick et al. 2019), and averaging weights keeps about half of what was learned.

A sleeper reads as an instance on its first day would: its memory is empty and its statistics begin with the sequence.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from fifteen.config import MindConfig, SleepConfig
from fifteen.errors import RunError
from fifteen.frames import Layout
from fifteen.instance import Statistics, felt_reward, new_statistics, observe_percepts, standardise
from fifteen.learner import Learner
from fifteen.lived import Lived
from fifteen.losses import masked_log_softmax, policy_loss
from fifteen.model import Model, unravel
from fifteen.provenance import commit, device
from fifteen.updating import Batch, LearnerState, optimiser


class Dream(NamedTuple):
    """Sequences of one job and what its teacher says of them: n sequences of T rows."""

    batch: Batch
    sensors: Array  # float32[n, T, slots], standardised as on a first day
    felt: Array  # float32[n, T], rewards, likewise
    policy: Array  # float32[n, T, M, B], probabilities
    value: Array  # float32[n, T, M, B, Z], probabilities of the categorical action values


class SleepProgress(NamedTuple):
    """Where a night stands."""

    step: int  # updates done
    steps: int
    losses: dict[str, float]  # by job: cross-entropy to the teacher's policy beyond the teacher's own entropy


def sleep(
    instances: Sequence[Learner],
    *,
    parent: Learner | None = None,
    older: Sequence[Lived] = (),
    seed: int = 0,
    config: SleepConfig | None = None,
    callback: Callable[[SleepProgress], Any] | None = None,
) -> Learner:
    """One learner out of several that began as the same one and worked on different jobs. None of them is changed.

    instances: each with what it lived (`Learner.lived`, which `fifteen.work` leaves). parent: what they began as; by
    default what their weights say it was. older: what was lived on earlier days, rehearsed with the parent as its
    teacher. callback: called after every tenth of the night; a true answer ends it. Returns the sleeper. Raises
    RunError, before anything is computed, where there is no instance, where they have different parents or sizes,
    where one has weights that are not finite, or where nothing was lived.
    """
    config = config or SleepConfig()
    origin = _origin(instances, parent)
    lessons = [(lived, one.state.weights, False) for one in instances for lived in one.lived.values()]
    if not lessons:
        raise RunError(
            "nothing was lived: the instances have no experience; let them work with learn='weights' or 'both', or "
            "with a run folder"
        )
    lessons += [(lived, origin, True) for lived in older]
    mind = instances[0].config
    began = time.monotonic()
    dreams = [_dream(weights, lived, mind, first_day) for lived, weights, first_day in lessons]
    weights = _night(origin, [lived for lived, *_ in lessons], dreams, mind, config, seed, callback)
    work = instances[0].work_config
    state = LearnerState(
        weights=weights,
        target=jnp.copy(weights),
        anchor=jnp.copy(weights),
        optimiser=optimiser(work).init(weights),
        advantage_variance=jnp.mean(jnp.stack([one.state.advantage_variance for one in instances])),
        updates=jnp.zeros((), jnp.int32),
    )
    told = {
        "jobs": [lived.job for lived, *_ in lessons],
        "instances": len(instances),
        "seconds": round(time.monotonic() - began, 1),
        "device": device(),
        "commit": commit(),
        "seed": seed,
    }
    before = parent.provenance if parent is not None else instances[0].provenance
    provenance = {**before, "slept": [*before.get("slept", []), told]}
    return Learner(mind, state, new_statistics(mind.slots), work=work, provenance=provenance)


def _origin(instances: Sequence[Learner], parent: Learner | None) -> Array:
    """The weights that all instances began with, float32[P]."""
    if not instances:
        raise RunError("sleep needs at least one instance: give learners that have worked")
    for one in instances:
        one.settle()
    origin = parent.state.weights if parent is not None else instances[0].state.anchor
    for number, one in enumerate(instances):
        if why := unfit(one, instances[0].config, origin):
            raise RunError(f"instance {number} {why}")
    return origin


def unfit(instance: Learner, mind: MindConfig, origin: Array) -> str | None:
    """Why an instance cannot take part in a night of minds like `mind` that began as `origin`; None where it can."""
    if instance.config != mind:
        return "is of another size than the others: only like minds can sleep together"
    if not bool(jnp.all(jnp.isfinite(instance.state.weights))):
        return "has weights that are not finite: leave it out"
    if not bool(jnp.all(instance.state.anchor == origin)):
        return "has another parent: only instances of one parent can sleep together"
    return None


def _read(
    model: Model, memory: Array, batch: Batch, felt: Array, sensors: Array, wipe: bool, layout: Layout
) -> tuple[Array, Array]:
    """Policy and value logits of one sequence: float32[T, M, B] and [T, M, B, Z]."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    codes = model.codes(layout)
    x = jax.vmap(lambda p, s, r: model.encode(p, s, r, codes))(percepts, sensors, felt)
    _, x = model.unroll(memory, x, percepts.first & wipe)
    features = jax.vmap(model.features)(x)
    choices = batch.decisions[:, : layout.factors].astype(jnp.int32)
    prefix = jax.vmap(lambda c: model.digit_prefix(c, codes, layout.digits))(choices)
    logits = jax.vmap(lambda f, p: model.policy_logits(f, p, codes))(features, prefix)
    return logits, jax.vmap(lambda f, p: model.value_logits(f, p, codes))(features, prefix)


def _dream(weights: Array, lived: Lived, mind: MindConfig, first_day: bool) -> Dream:
    """What a teacher says, with the memory and the statistics it had, or as on a first day.

    Half of each sequence is kept: from the first attempt that begins in its first half, as a first day does.
    """
    layout, statistics = lived.layout, jax.tree.map(jnp.asarray, lived.statistics)
    continuous = jnp.asarray(lived.continuous)

    def one(model: Model, batch: Batch) -> tuple[Array, Array]:
        percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
        if first_day:
            sensors, felt = _first_day(batch, continuous, layout)
            memory, wipe = jnp.zeros(mind.memory_size), False
        else:
            sensors = jax.vmap(lambda v: standardise(statistics, v, continuous))(percepts.vector)
            felt = felt_reward(statistics, percepts.reward)
            memory, wipe = batch.memory, lived.wipe
        logits, value = _read(model, memory, batch, felt, sensors, wipe, layout)
        mask = jax.vmap(layout.decision)(batch.decisions).mask
        return jnp.exp(jax.vmap(masked_log_softmax)(logits, mask)), jax.nn.softmax(value, axis=-1)

    def cut(batch: Batch, policy: Array, value: Array) -> Dream:
        kept = policy.shape[0] // 2
        first = jax.vmap(layout.percept)(batch.frames, batch.images).first[:kept]
        begin = jnp.argmax(first)  # 0 where none is
        part = partial(jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=kept)
        images = None if batch.images is None else part(batch.images)
        rows = Batch(part(batch.frames), images, part(batch.decisions), batch.memory)
        return Dream(rows, *_first_day(rows, continuous, layout), part(policy), part(value))

    def dream(weights: Array, batch: Batch) -> Dream:
        return jax.vmap(cut)(batch, *jax.vmap(partial(one, unravel(weights, mind)))(batch))

    return jax.jit(dream)(weights, jax.tree.map(jnp.asarray, lived.batch))


def _first_day(batch: Batch, continuous: Array, layout: Layout) -> tuple[Array, Array]:
    """Sensors float32[T, slots] and felt rewards float32[T] of one sequence as if a lifetime began with it."""
    percepts = jax.vmap(layout.percept)(batch.frames, batch.images)
    yes = jnp.ones(1, bool)

    def row(statistics: Statistics, now: tuple[Array, Array]) -> tuple[Statistics, tuple[Array, Array]]:
        vector, reward = now
        statistics = observe_percepts(statistics, vector[None], reward[None], yes)
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
        logits, value = _read(model, jnp.zeros(mind.memory_size), batch, dream.felt, dream.sensors, False, layout)
        entropy = -jnp.sum(jnp.where(dream.policy > 0, dream.policy * jnp.log(dream.policy + 1e-12), 0.0), axis=2)
        distance = jax.vmap(policy_loss)(logits, dream.policy, decisions.mask) - jnp.mean(entropy, axis=1)
        open_bins = decisions.mask.astype(jnp.float32)
        values = -jnp.sum(dream.value * jax.nn.log_softmax(value), axis=-1)  # [T, M, B]
        values = jnp.sum(open_bins * values, axis=(1, 2)) / jnp.maximum(jnp.sum(open_bins, axis=(1, 2)), 1.0)
        return jnp.sum(rows * distance), jnp.sum(rows * values), jnp.sum(rows)

    distance, values, rows = (jnp.sum(x) for x in jax.vmap(one)(dream))
    return (distance + config.value_weight * values) / rows, distance / rows


def _night(
    origin: Array,
    lived: Sequence[Lived],
    dreams: Sequence[Dream],
    mind: MindConfig,
    config: SleepConfig,
    seed: int,
    callback: Callable[[SleepProgress], Any] | None,
) -> Array:
    """The weights after the night, float32[P]."""
    rate = optax.linear_schedule(-config.learning_rate, 0.0, config.steps)
    change = optax.chain(
        optax.clip_by_global_norm(config.max_gradient), optax.scale_by_adam(), optax.scale_by_schedule(rate)
    )

    @partial(jax.jit, static_argnames="layout")
    def lesson(weights: Array, dream: Dream, picked: Array, layout: Layout) -> Any:
        loss = partial(_loss, mind=mind, config=config, layout=layout)
        part = jax.tree.map(lambda x: x[picked], dream)
        return jax.grad(loss, has_aux=True)(weights, part)

    @jax.jit
    def learn(weights: Array, moments: Any, gradients: list[Array]) -> tuple[Array, Any]:
        gradient = sum(gradients[1:], gradients[0]) / len(gradients)
        gradient = gradient + config.anchor_decay * (weights - origin)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32.
            step, moments = change.update(gradient, moments)
        return weights + jnp.asarray(step), moments

    weights, moments = jnp.copy(origin), change.init(origin)
    generator = np.random.Generator(np.random.PCG64(seed))
    for step in range(config.steps):
        told = []
        for one, dream in zip(lived, dreams, strict=True):
            picked = jnp.asarray(generator.integers(len(dream.policy), size=config.batch, dtype=np.int32))
            told.append(lesson(weights, dream, picked, layout=one.layout))
        weights, moments = learn(weights, moments, [gradient for gradient, _ in told])
        if callback is not None and (step + 1) % max(1, config.steps // 10) == 0:
            losses = {one.job: float(distance) for one, (_, distance) in zip(lived, told, strict=True)}
            if callback(SleepProgress(step + 1, config.steps, losses)):
                break
    return weights
