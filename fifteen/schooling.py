"""School: broad training on very many jobs at once, all on the device.

The learner acts in N lifetimes (`jobs/classroom.py`) and learns from two signals: reinforcement (PPO on the sum of the
advantages of this attempt and of later attempts, each scaled to unit variance within its family) and a teacher who
knows what the job hides, whose weight falls to zero (kickstarting, Schmitt et al. 2018; decision pretraining, Lee et
al. 2023). What the teacher knows is in the loss only, never in a percept.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fifteen import checkpoint
from fifteen.config import MindConfig, SchoolConfig
from fifteen.errors import RunError
from fifteen.frames import Decision, Percept
from fifteen.interrupting import interruptible
from fifteen.jobs.classroom import Classroom, Grades, Lifetimes, Rollout
from fifteen.jobs.families import find_families
from fifteen.jobs.family import read_split
from fifteen.jobs.references import normalised
from fifteen.learner import Learner
from fifteen.log import SchoolProgress
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
from fifteen.school_report import HISTORY, append_history, write_school_report
from fifteen.updating import optimiser as working_optimiser

_SAVE_S = 30.0
_SCALE_RATE = 0.02  # of the running mean of a family's return scale, per round
_GRADE_MEMORY = 0.98  # a round's; scores are those of about the last fifty rounds
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


Callback = Callable[[SchoolProgress], Any]


def optimiser(school: SchoolConfig, updates: int) -> optax.GradientTransformation:
    """Adam whose rate falls to a tenth over all updates."""
    return optax.chain(
        optax.clip_by_global_norm(school.max_gradient),
        optax.scale_by_adam(eps=1e-5),
        optax.scale_by_schedule(optax.linear_schedule(-school.learning_rate, -0.1 * school.learning_rate, updates)),
    )


def _read(model: Model, room: Classroom, rollout: Rollout, codes: Array) -> _Read:
    percepts = jax.vmap(lambda frame: room.layout.percept(frame, None))(rollout.frames)
    x = jax.vmap(lambda p, felt: model.encode(p, p.vector, felt, codes))(percepts, rollout.felt)
    _, x = model.unroll(rollout.memory, x, jnp.zeros(x.shape[0], bool))
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
    model: Model, lesson: _Lesson, teacher_weight: Array, room: Classroom
) -> tuple[Array, dict[str, Array], Array]:
    """Summed loss of one lifetime's rollout, summed metrics, and how many ticks count."""
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
        reinforced
        - school.entropy_weight * entropy
        + teacher_weight * taught
        + school.value_weight * (now_loss + later_loss)
        + school.prediction_weight * imagined_loss
    )
    metrics = {
        "policy_loss": reinforced,
        "teacher_loss": taught,
        "value_loss": now_loss,
        "later_loss": later_loss,
        "prediction_loss": imagined_loss,
        "entropy": entropy,
    }
    return jnp.sum(rows * total), {name: jnp.sum(rows * value) for name, value in metrics.items()}, jnp.sum(rows)


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
    teacher_weight = school.teacher_weight * jnp.maximum(0.0, 1.0 - done / school.teacher_until)
    lessons = (room.member, projected, rollout, now, later, advantage, counts)
    change = optimiser(school, updates)

    def loss(weights: Array, part: Any) -> tuple[Array, dict[str, Array]]:
        model = unravel(weights, room.config)
        member, projected, rollout, *rest = part
        lesson = _Lesson(rollout, room.codes(model, member, projected), *rest)
        losses, metrics, rows = jax.vmap(lambda one: _lesson_loss(model, one, teacher_weight, room))(lesson)
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


def school(
    learner: Learner,
    families: Sequence[str] | None = None,
    steps: int = 50_000_000,
    seed: int = 0,
    *,
    run: str | Path | None = None,
    config: SchoolConfig | None = None,
    callback: Callback | None = None,
) -> SchoolProgress:
    """School a learner on procedurally generated jobs; its weights are replaced by the schooled ones.

    families: names such as "bandit/bernoulli", or of whole groups such as "bandit"; all by default. steps: ticks of
    all lifetimes together. run: a folder for checkpoints; where it holds an unfinished school, that one goes on,
    exactly. callback: called with a `SchoolProgress` after every round; a true answer stops (and saves).
    Raises JobError for an unknown family, RunError for a setting that cannot be, a folder in use, a family that gives
    NaN and a device without enough memory, CheckpointError where the folder holds the school of another configuration.
    """
    room, updates, rounds = _open(learner, families, steps, config or SchoolConfig())
    school = room.school
    per_round = len(room.member) * school.rollout
    settings = _settings(room, learner.config, steps, seed)
    folder = None if run is None else Path(run)
    began = time.monotonic()
    advance = jax.jit(partial(teach_round, room=room, updates=updates), donate_argnums=0)
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(checkpoint.FolderLock(folder))
        stack.enter_context(_memory_setting_named(school))
        state = _begin(learner.state.weights, jax.random.key(seed), room, updates)
        grades = Grades(jnp.zeros((len(room.families), 3)), jnp.zeros(len(room.families)))
        if folder is not None and (folder / "school").is_dir():
            state, grades = _resumed(state, grades, folder / "school", settings)
        state = _spread(state)
        saved = began
        first = done = int(state.rounds)
        metrics: dict[str, Array] = {}
        progress = _progress(room, grades, metrics, done * per_round, rounds * per_round, began, 0.0)
        interrupted = stack.enter_context(interruptible())
        stop = False
        while done < rounds and not stop:
            lifetimes, added = room.renew(state.lifetimes)
            state, metrics, spoiled = advance(state._replace(lifetimes=lifetimes))
            done += 1
            grades = jax.tree.map(lambda old, new: _GRADE_MEMORY * old + new, grades, added)
            rate = (done - first) * per_round / (time.monotonic() - began)
            progress = _progress(room, grades, metrics, done * per_round, rounds * per_round, began, rate)
            _check_finite(room, state.weights, np.asarray(spoiled), progress)
            stop = interrupted.is_set() or (callback is not None and bool(callback(progress)))
            if folder is not None and (time.monotonic() - saved > _SAVE_S or done == rounds or stop):
                _save(folder / "school", state, grades, settings)
                append_history(folder, progress)
                saved = time.monotonic()
        learner.state = learner.state._replace(
            weights=state.weights,
            target=jnp.copy(state.weights),
            anchor=jnp.copy(state.weights),
            optimiser=working_optimiser(learner.work_config).init(state.weights),
        )
        learner.provenance.setdefault("schooled", []).append({**settings, "steps_done": done * per_round})
        if folder is not None and (folder / HISTORY).is_file():
            write_school_report(folder, settings)
    return progress


@contextmanager
def _memory_setting_named(school: SchoolConfig) -> Iterator[None]:
    """Where the device's memory is exhausted, say which setting to lower."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            f"the device has too little memory for {school.lifetimes} lifetimes of {school.rollout} ticks: lower "
            "`lifetimes`, or raise `minibatches`"
        ) from error


def _check_finite(room: Classroom, weights: Array, spoiled: np.ndarray, progress: SchoolProgress) -> None:
    """Before anything of a round is saved. spoiled: see `Classroom.spoiled`."""
    names = [
        f"{family.name} ({count} of {room.each} lifetimes)"
        for family, count in zip(room.families, spoiled, strict=True)
        if count
    ]
    if names:
        raise RunError(
            f"after {progress.steps:,} steps {', '.join(names)} gave observations or rewards that are not finite: mend "
            "the family, or school the others; the last save is sound"
        )
    bad = [name for name, value in progress.metrics.items() if not math.isfinite(value)]
    if bad or not bool(jnp.all(jnp.isfinite(weights))):
        raise RunError(
            f"after {progress.steps:,} steps {', '.join(bad) or 'the weights'} became non-finite though every "
            "observation and reward was finite: lower the learning rate; the last save is sound"
        )


def _open(
    learner: Learner, names: Sequence[str] | None, steps: int, school: SchoolConfig
) -> tuple[Classroom, int, int]:
    """The classroom, the number of updates and of rounds."""
    families = find_families(names)
    split = read_split()
    # Every device and every minibatch gets as many lifetimes.
    unit = math.lcm(jax.device_count(), school.minibatches // math.gcd(school.minibatches, len(families)))
    each = school.lifetimes // len(families) // unit * unit
    if each < 1:
        raise RunError(
            f"{school.lifetimes} lifetimes are too few for {len(families)} families, {jax.device_count()} device(s) "
            f"and {school.minibatches} minibatches: give at least {len(families) * unit}, or fewer families"
        )
    rounds = max(1, round(steps / (each * len(families) * school.rollout)))
    templates = tuple(split.indices(family) for family in families)
    room = Classroom(
        families, templates, each, config=learner.config, school=school, work=learner.work_config.on_policy()
    )
    return room, rounds * school.epochs * school.minibatches, rounds


def _begin(weights: Array, key: Array, room: Classroom, updates: int) -> SchoolState:
    enrol_key, key = jax.random.split(key)
    return SchoolState(
        weights=jnp.copy(weights),
        optimiser=optimiser(room.school, updates).init(weights),
        lifetimes=room.enrol(enrol_key),
        scales=jnp.ones(len(room.families)),
        rounds=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
    )


def _spread(state: SchoolState) -> SchoolState:
    """The lifetimes in equal parts on all devices, everything else on each."""
    mesh = jax.make_mesh((jax.device_count(),), ("lifetimes",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    part = NamedSharding(mesh, PartitionSpec("lifetimes"))
    where = jax.tree.map(lambda _: everywhere, state)
    divided = jax.tree.map(lambda _: part, state.lifetimes)._replace(key=everywhere)
    return jax.device_put(state, where._replace(lifetimes=divided))


def _progress(
    room: Classroom, grades: Grades, metrics: dict[str, Array], steps: int, total: int, began: float, rate: float
) -> SchoolProgress:
    scores, lifetimes = np.asarray(grades.scores), np.asarray(grades.lifetimes)
    return SchoolProgress(
        steps=steps,
        steps_total=total,
        seconds=time.monotonic() - began,
        steps_per_second=rate,
        scores={
            family.name: tuple(normalised(family, templates, x) for x in scores[n] / lifetimes[n])  # pyright: ignore
            for n, (family, templates) in enumerate(zip(room.families, room.templates, strict=True))
            if lifetimes[n] > 0
        },
        metrics={name: float(value) for name, value in metrics.items()},
    )


# ---------------------------------------------------------------------------------------------------- saved state


def _settings(room: Classroom, mind: MindConfig, steps: int, seed: int) -> dict[str, Any]:
    """What a school was begun with: JSON-able."""
    return {
        "mind": dataclasses.asdict(mind),
        "school": {**dataclasses.asdict(room.school), "reward_units": list(room.school.reward_units)},
        "families": {f.name: [f.templates[i] for i in t] for f, t in zip(room.families, room.templates, strict=True)},
        "split": read_split().digest,
        "steps": int(steps),
        "seed": int(seed),
    }


def _named(state: SchoolState, grades: Grades) -> dict[str, Array]:
    leaves = jax.tree.leaves_with_path({"state": state, "grades": grades})
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _save(folder: Path, state: SchoolState, grades: Grades, settings: dict[str, Any]) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in _named(state, grades).items()}
    checkpoint.write(folder, arrays, {"what": "school", "settings": settings})


def _resumed(state: SchoolState, grades: Grades, folder: Path, settings: dict[str, Any]) -> tuple[SchoolState, Grades]:
    arrays, manifest = checkpoint.read(folder)
    if manifest.get("settings") != settings:
        theirs = manifest.get("settings") or {}
        differs = [name for name in settings if theirs.get(name) != settings[name]]
        raise checkpoint.CheckpointError(
            f"{folder} holds a school of another configuration ({', '.join(differs)} differ): choose another run "
            "folder, or the settings it was begun with"
        )
    tree = {"state": state, "grades": grades}
    restored = jax.tree.map_with_path(lambda path, _: jnp.asarray(arrays[jax.tree_util.keystr(path)]), tree)
    return restored["state"], restored["grades"]
