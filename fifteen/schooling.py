"""School: broad training on very many jobs at once, all on the device. `school` is the run; `teaching.py` one round."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fifteen import checkpoint
from fifteen.config import MindConfig, SchoolConfig
from fifteen.errors import RunError
from fifteen.folders import refuse_others
from fifteen.interrupting import interruptible
from fifteen.jobs.classroom import Classroom, Grades
from fifteen.jobs.explorers import EXPLORERS
from fifteen.jobs.families import find_families
from fifteen.jobs.family import read_split
from fifteen.jobs.references import normalised
from fifteen.learner import Learner
from fifteen.log import SchoolProgress
from fifteen.model import adapted
from fifteen.provenance import commit, device
from fifteen.school_report import HISTORY, append_history, write_school_report
from fifteen.teaching import SchoolState, optimiser, teach_round
from fifteen.updating import optimiser as working_optimiser

_SAVE_S = 30.0
_ADAPTER = 2  # features of the adapter with which a learner leaves school, as many times the width
_GRADE_MEMORY = 0.98  # a round's; scores are those of about the last fifty rounds

Callback = Callable[[SchoolProgress], Any]


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
    folder = None if run is None else Path(run)
    if folder is not None:
        refuse_others(folder, "school/manifest.json", "manifest.json")  # who was schooled may have been saved beside it
    room, updates, rounds = _open(learner, folder, families, steps, config or SchoolConfig())
    mind, school = room.config, room.school
    per_round = len(room.member) * school.rollout
    settings = _settings(room, mind, steps, seed)
    began = time.monotonic()
    advance = jax.jit(partial(teach_round, room=room, updates=updates), donate_argnums=0)
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(checkpoint.FolderLock(folder))
        stack.enter_context(_memory_setting_named(school))
        state = _begin(
            adapted(learner.state.weights, learner.config, mind.adapter), jax.random.key(seed), room, updates
        )
        grades = Grades(jnp.zeros((len(room.families), 3)), jnp.zeros(len(room.families)))
        before = 0.0  # seconds of schooling in earlier processes
        if folder is not None and (folder / "school").is_dir():
            state, grades, before = _resumed(state, grades, folder / "school", settings)
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
                _save(folder / "school", state, grades, settings, before + time.monotonic() - began)
                append_history(folder, progress)
                saved = time.monotonic()
        leave(learner, mind, state.weights)
        told = {"steps_done": done * per_round, "seconds": round(before + time.monotonic() - began), "device": device()}
        learner.provenance.setdefault("schooled", []).append({**settings, **told, "commit": commit()})
        if folder is not None and (folder / HISTORY).is_file():
            write_school_report(folder, settings)
    return progress


def leave(learner: Learner, mind: MindConfig, weights: Array) -> None:
    """The learner becomes one that left school with these weights, float32[P], of such a mind."""
    learner.config = dataclasses.replace(mind, adapter=mind.adapter or _ADAPTER * mind.width)
    weights = adapted(weights, mind, learner.config.adapter)
    learner.work_config = learner.work_config.schooled()
    learner.state = learner.state._replace(
        weights=weights,
        target=jnp.copy(weights),
        anchor=jnp.copy(weights),
        optimiser=working_optimiser(learner.work_config).init(weights),
        updates=jnp.zeros((), jnp.int32),
    )


def _entered(mind: MindConfig, folder: Path | None) -> MindConfig:
    """As which the school began that the folder holds: whoever was stopped in it has an adapter since."""
    if folder is None or not (folder / "school").is_dir():
        return mind
    began = (checkpoint.read(folder / "school")[1].get("settings") or {}).get("mind", {})
    return dataclasses.replace(mind, adapter=began.get("adapter", 0))


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
    met: dict[str, int] = {}
    for family, count in zip(room.families, spoiled.tolist(), strict=True):
        met[family.name] = met.get(family.name, 0) + count
    if names := [f"{name} ({count} lifetimes)" for name, count in met.items() if count]:
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
    learner: Learner, folder: Path | None, names: Sequence[str] | None, steps: int, school: SchoolConfig
) -> tuple[Classroom, int, int]:
    """The classroom, the number of updates and of rounds."""
    asked = find_families(names)
    shares = [school.explored if type(family) in EXPLORERS else 1 for family in asked]
    families = tuple(f for f, n in zip(asked, shares, strict=True) for _ in range(n // math.gcd(*shares)))
    split = read_split()
    # Every device and every minibatch gets as many lifetimes.
    unit = math.lcm(jax.device_count(), school.minibatches // math.gcd(school.minibatches, len(families)))
    each = school.lifetimes // len(families) // unit * unit
    if each < 1:
        raise RunError(
            f"{school.lifetimes} lifetimes are too few for {len(asked)} families with {len(families)} shares, "
            f"{jax.device_count()} device(s) and {school.minibatches} minibatches: give at least "
            f"{len(families) * unit}, or fewer families"
        )
    rounds = max(1, round(steps / (each * len(families) * school.rollout)))
    templates = tuple(split.indices(family) for family in families)
    mind, work = _entered(learner.config, folder), learner.work_config.on_policy()
    room = Classroom(families, templates, each, config=mind, school=school, work=work)
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
    same = np.array([[a.name == b.name for b in room.families] for a in room.families], np.float32)  # shares of one
    scores, lifetimes = same @ np.asarray(grades.scores), same @ np.asarray(grades.lifetimes)
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


def _save(folder: Path, state: SchoolState, grades: Grades, settings: dict[str, Any], seconds: float) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in _named(state, grades).items()}
    checkpoint.write(folder, arrays, {"what": "school", "settings": settings, "seconds": seconds})


def _resumed(
    state: SchoolState, grades: Grades, folder: Path, settings: dict[str, Any]
) -> tuple[SchoolState, Grades, float]:
    """State and grades as they were saved, and the seconds that had gone into them."""
    arrays, manifest = checkpoint.read(folder)
    theirs = manifest.get("settings") or {}
    theirs = {**theirs, "school": checkpoint.known(SchoolConfig, theirs.get("school", {}), folder)}
    theirs["mind"] = {"adapter": 0, **theirs.get("mind", {})}  # there were none when it began
    if theirs != settings:
        differs = [name for name in settings if theirs.get(name) != settings[name]]
        raise checkpoint.CheckpointError(
            f"{folder} holds a school of another configuration ({', '.join(differs)} differ): choose another run "
            "folder, or the settings it was begun with"
        )
    tree = {"state": state, "grades": grades}
    restored = jax.tree.map_with_path(lambda path, _: jnp.asarray(arrays[jax.tree_util.keystr(path)]), tree)
    return restored["state"], restored["grades"], float(manifest["seconds"])
