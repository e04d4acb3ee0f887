"""Sleep: what many instances of one parent learned on their jobs becomes one learner.

By night nobody learns by acting. Every job that was lived has a teacher: the instance that learned it, or for what was
lived on earlier days whoever taught it then, or the parent. Their policies and values are read once on stored
sequences; then the sleeper, who begins as the parent, learns to say the same on the same sequences (policy
distillation: Rusu et al. 2016; with values and rehearsal of older jobs: Traore et al. 2019), kept close to the parent
by an L2 term. Rehearsal by cloning the policy beats plain replay (Rolnick et al. 2019), and averaging weights keeps
about half of what was learned.

A sleeper reads as an instance on its first day would: its memory is empty and its statistics begin with the sequence.
What a schooled learner can do on jobs that nobody has lived yet is rehearsed, too: see `rehearsing`.
Instances that may not share what they lived are merged by their weights alone: see `merging`.
"""

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import lessons as desk
from fifteen.checkpoint import SAVE_EVERY_S, FolderLock
from fifteen.config import SleepConfig
from fifteen.distilling import Study, begin, drawn, gradient, learn, picked
from fifteen.errors import NightError, RunError
from fifteen.instance import new_statistics
from fifteen.interrupting import interruptible
from fifteen.jobs.protocol import checked_seed
from fifteen.learner import Learner
from fifteen.lessons import Begun, Lesson
from fifteen.lived import FirstDays, Lived
from fifteen.merging import merge
from fifteen.provenance import commit, device
from fifteen.rehearsing import School, Schoolwork, families_of, fits, school_gradient, schoolwork
from fifteen.rehearsing import picked as picked_of_school
from fifteen.updating import LearnerState, optimiser

_REPORTS = 100  # calls of the callback in a night
_SCHOOL = "school"  # its name among those of jobs


class SleepProgress(NamedTuple):
    """Where a night stands."""

    step: int  # updates done
    steps: int
    # By job, and of "school": cross-entropy to the teacher's policy beyond the teacher's own entropy, nats.
    losses: dict[str, float]
    seconds_left: float | None = None  # None: not known yet
    practising: bool = False  # the sleeper now tries what it learned; updates go on afterwards
    trying: str | None = None  # the job that the parent now tries, before the night


Callback = Callable[[SleepProgress], Any]


class Practising(Protocol):
    """Lets a learner act on some of these jobs: by job, what it did."""

    def __call__(
        self, sleeper: Learner, jobs: Sequence[str], number: int, stopped: threading.Event | None
    ) -> Mapping[str, FirstDays]:
        """number: of the practice in its night, from 0. Raises KeyboardInterrupt where `stopped` is set meanwhile."""
        ...


def sleep(
    instances: Sequence[Learner],
    *,
    parent: Learner | None = None,
    older: Sequence[Lived] | None = None,
    school: Learner | None = None,
    weights_only: bool = False,
    seed: int = 0,
    config: SleepConfig | None = None,
    run: str | Path | None = None,
    stopped: threading.Event | None = None,
    practising: Practising | None = None,
    callback: Callback | None = None,
) -> Learner:
    """One learner out of several that began as the same one and worked on different jobs. None of them is changed.

    instances: each with what it lived (`Learner.lived`, which `fifteen.work` leaves), and, where it is to say what it
    would do there, with what others lived on its job (`Lived.practice`, see `nights.night`). parent: what they began
    as; by default what their weights say it was. older: what was lived on earlier days, or on this one by an instance
    that learned nothing by it; `Lived.teacher` teaches it, or the parent; None: nothing, and every instance has to have
    lived something. school: the learner as it left school, who
    teaches school in a night of steady minds that were schooled; by default their parent does. weights_only: merge the
    weights and read nothing that was lived; there need be nothing.

    In a night of steady minds the sleeper practises `SleepConfig.practices` times, evenly spread over its updates, at
    most once between two: it lives through school again, where school is rehearsed, and practising is asked what it
    does by then on older jobs and on those that have a `Lived.practice`. Who teaches one of them says what it would do
    there, and that is learned from, too, from then on. Where it raises KeyboardInterrupt the night is stopped.
    callback: called about a hundred times in a night, and before each practice; a true answer stops it.

    run: a folder in which the night is saved every 20 s and when callback, Ctrl-C or SIGTERM stop it. Where it holds
    the night of these instances, parent, seed and config, that one goes on, exactly, with the lessons that it has.
    stopped: for a caller who catches Ctrl-C itself: stops the night once it is set.
    Returns the sleeper; of a night that was stopped, what it came to: `steps_done` in the last of
    `provenance["slept"]` tells.

    Raises RunError, before anything is computed, where there is no instance, where they have different parents or
    sizes, where one has weights that are not finite, or where school cannot be rehearsed; NightError, which is one,
    where an instance lived nothing, or with `older` where nobody lived anything and nothing is older, and where the
    sleeper's weights come to be not finite; CheckpointError where `run` holds another night or cannot be written.
    """
    config, seed = config or SleepConfig(), checked_seed(seed)
    origin = _origin(instances, parent)
    began = time.monotonic()
    if weights_only:
        if older or run is not None or school is not None or practising is not None:
            raise RunError(
                "weights_only reads nothing that was lived and takes no time: drop `older` and `run`, `school` and "
                "`practising`"
            )
        weights = _merged(origin, instances)
        told = {"jobs": [last_job(one) for one in instances], "weights_only": True}
    else:
        if practising is not None and not instances[0].work_config.steady:
            raise RunError("only steady minds (WorkConfig.steady) practise by night: drop `practising`")
        folder = None if run is None else Path(run)
        teacher = _school(school, origin, parent, instances[0], config)
        begun, weights = _night(origin, instances, older, teacher, config, seed, folder, stopped, practising, callback)
        told: dict[str, Any] = {"jobs": list(begun.jobs), "older": list(begun.older)}
        told["practised"] = list(dict.fromkeys(begun.practised))
        told["steps"] = _updates(begun, config)
        told |= {"steps_done": begun.step, "school": bool(_rehearses(begun) and told["steps"])}
        began -= begun.seconds
    told |= {
        "instances": len(instances),
        "seconds": round(time.monotonic() - began, 1),
        "device": device(),
        "commit": commit(),
        "seed": seed,
    }
    first = instances[0]
    before = (parent or first).provenance
    provenance = {**before, "slept": [*before.get("slept", []), told]}
    variance = jnp.mean(jnp.stack([one.state.advantage_variance for one in instances]))
    return _with_weights(first, weights, variance, provenance)


def began_as(instance: Learner) -> Learner:
    """The parent of an instance as far as its weights say it: no statistics, nothing learned on the job."""
    return _with_weights(instance, instance.state.anchor, jnp.ones(()), {})


def _with_weights(like: Learner, weights: Array, advantage_variance: Array, provenance: dict[str, Any]) -> Learner:
    work = like.work_config
    state = LearnerState(
        weights=weights,
        target=jnp.copy(weights),
        anchor=jnp.copy(weights),
        optimiser=optimiser(work).init(weights),
        advantage_variance=advantage_variance,
        updates=jnp.zeros((), jnp.int32),
    )
    return Learner(like.config, state, new_statistics(like.config.slots), work=work, provenance=provenance)


def _origin(instances: Sequence[Learner], parent: Learner | None) -> Array:
    """The weights that all instances began with, float32[P]."""
    if not instances:
        raise RunError("sleep needs at least one instance: give learners that have worked")
    for one in instances:
        one.settle()
    origin = parent.state.weights if parent is not None else instances[0].state.anchor
    for number, one in enumerate(instances):
        if why := unfit(one, parent or instances[0], origin):
            raise RunError(f"instance {number} {why}")
    return origin


def unfit(instance: Learner, like: Learner, origin: Array) -> str | None:
    """Why an instance cannot take part in a night of minds like one that began as `origin`; None where it can."""
    if instance.config != like.config:
        return "is of another size than the others: only like minds can sleep together"
    if instance.work_config.steady != like.work_config.steady:
        return "is steady (WorkConfig.steady) where the others are not, or the reverse: leave it out"
    if not bool(jnp.all(jnp.isfinite(instance.state.weights))):
        return "has weights that are not finite: leave it out"
    if not bool(jnp.all(instance.state.anchor == origin)):
        return "has another parent: only instances of one parent can sleep together"
    return None


def _school(
    school: Learner | None, origin: Array, parent: Learner | None, instance: Learner, config: SleepConfig
) -> School | None:
    """Who teaches school; None where there is none to rehearse."""
    if not (instance.work_config.steady and config.schoolwork and config.rehearsed):
        return None
    families = families_of((school or parent or instance).provenance)
    if school is None:
        return School(origin, families) if families else None
    if not families:
        raise RunError("the learner given as `school` was never schooled: give it as it left school")
    found = School(school.state.weights, families)
    if school.config != instance.config or not fits(found, origin, instance.config):
        raise RunError(
            "the learner given as `school` has other senses or another memory than the instances: give the one that "
            "they come from as it left school, or none, so that their parent teaches school"
        )
    return found


def last_job(instance: Learner) -> str:
    """What an instance worked on, as far as it tells."""
    worked = instance.provenance.get("worked")
    return worked[-1]["job"] if worked else "unknown"


# ------------------------------------------------------------------------------------------------- weights only


def _merged(origin: Array, instances: Sequence[Learner]) -> Array:
    """Of those whose weights have moved: the others have learned nothing that could be merged."""
    moved = [one.state.weights for one in instances if bool(jnp.any(one.state.weights != origin))]
    if not moved:
        raise RunError(
            "nothing was learned: the weights of all instances are still their parent's; let them work with "
            "learn='weights' or 'both'"
        )
    return merge(origin, jnp.stack(moved))


# ------------------------------------------------------------------------------------------------ a whole night


def _night(
    origin: Array,
    instances: Sequence[Learner],
    older: Sequence[Lived] | None,
    school: School | None,
    config: SleepConfig,
    seed: int,
    folder: Path | None,
    stopped: threading.Event | None,
    practising: Practising | None,
    callback: Callback | None,
) -> tuple[Begun, Array]:
    """How far the night came, and the weights then, float32[P]."""
    mind, work, clock = instances[0].config, instances[0].work_config, time.monotonic
    study = begin(origin, config, mind, work.steady)
    about = {
        "parent": fingerprint(origin),
        "instances": [fingerprint(one.state.weights) for one in instances],
        "mind": dataclasses.asdict(mind),
        "sleep": dataclasses.asdict(config),
        "seed": int(seed),
        "school": None if school is None else fingerprint(school.weights),
        "practising": practising is not None,
    }
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(FolderLock(folder))
            stopped = stopped or stack.enter_context(interruptible())
        begun, study, found = _opened(folder, about, config, study, origin, instances, older)
        first, step, steps = begun.step, begun.step, _updates(begun, config)
        # Lived beside what else has to be computed, on two cores.
        pool = stack.enter_context(ThreadPoolExecutor(1, "fifteen-school"))

        def live(pupil: Array, number: int) -> Future[Schoolwork]:
            return pool.submit(schoolwork, cast(School, school), pupil, mind, work, seed, number)

        living = None
        if school is not None and _rehearses(begun) and step < steps:
            living = live(desk.pupil(folder, begun, origin), begun.practices)
        dreams = desk.dreams([], found, mind, work) if step < steps else []
        rehearsed = [lesson.older for lesson in found if lesson.joins is None]
        distances: dict[int, Array] = {}  # to the teacher, of each lesson when it was last learned from
        lived = None if living is None else living.result()
        sequences, of_school = 0 if lived is None else len(lived.x), None
        started, timed, saved = clock(), None, clock()  # timed: when the first update, which compiles, was done
        stop = stopped is not None and stopped.is_set()

        def keep() -> None:
            _check_finite(study, step)
            if folder is not None:
                seconds = begun.seconds + clock() - started
                desk.save(folder, dataclasses.replace(begun, step=step, seconds=seconds), study)

        def stops(practising: bool = False) -> bool:
            if callback is None:
                return False
            losses = _by_job(found, distances) | ({_SCHOOL: float(of_school[1])} if of_school else {})
            rate = (clock() - timed) / (step - first - 1) if timed is not None and step > first + 1 else None
            left = None if rate is None else rate * (steps - step)
            return bool(callback(SleepProgress(step, steps, losses, left, practising)))

        while step < steps and not stop:
            due = min(step * (config.practices + 1) // steps, config.practices)
            if begun.practices < due and (practising is not None or lived is not None):
                _check_finite(study, step)
                if stops(practising=True):
                    keep()
                    break
                again = None if lived is None else live(study.weights, begun.practices + 1)
                sleeper, did = _with_weights(instances[0], study.weights, jnp.ones(()), {}), None
                with suppress(KeyboardInterrupt):
                    jobs = desk.practised_jobs(found)
                    did = {} if practising is None else practising(sleeper, jobs, begun.practices, stopped)
                if did is None:
                    keep()
                    break
                more = desk.practised(found, did)
                if folder is not None:
                    desk.write(folder, begun, more, len(found))
                if folder is not None and again is not None:
                    desk.write_pupil(folder, begun, study.weights)
                dreams, found = desk.dreams(dreams, more, mind, work), found + more
                begun, lived = desk.with_practice(begun, more), None if again is None else again.result()
            available = [len(one.policy) for one in dreams]
            told = {
                n: gradient(
                    study.weights, drawn(dreams[n], jnp.asarray(rows)), mind, found[n].lived.layout, config.value_weight
                )
                for n, rows in picked(seed, step, available, rehearsed, config).items()
            }
            if lived is not None:
                rows = jnp.asarray(picked_of_school(seed, step, sequences, config.schoolwork))
                of_school = school_gradient(study.weights, lived, rows, mind, config.value_weight)
            changes = [change for change, _ in told.values()]
            study = learn(study, changes, origin, config, mind, work.steady, of_school and of_school[0])
            distances |= {n: distance for n, (_, distance) in told.items()}
            step += 1
            timed = timed or clock()
            if step % max(1, steps // _REPORTS) == 0 or step == steps:
                stop = stops()
            stop = stop or (stopped is not None and stopped.is_set())
            if stop or step == steps or clock() - saved > SAVE_EVERY_S:
                keep()
                saved = clock()
        if folder is not None and step == steps:
            desk.end(folder)
    return dataclasses.replace(begun, step=step), study.weights


def _updates(night: Begun, config: SleepConfig) -> int:
    """How many there are: none where only the parent teaches, for the sleeper knows what it says already."""
    return config.steps if len(night.jobs) > len(night.older) else 0


def _rehearses(night: Begun) -> bool:
    """Whether school is rehearsed in it."""
    return night.about.get("school") is not None


def _opened(
    folder: Path | None,
    about: Mapping[str, Any],
    config: SleepConfig,
    study: Study,
    origin: Array,
    instances: Sequence[Learner],
    older: Sequence[Lived] | None,
) -> tuple[Begun, Study, list[Lesson]]:
    """The night that the folder holds, or a new one, which is then saved."""
    if folder is not None and desk.holds_night(folder):
        begun, study = desk.resumed(folder, about, study)
        if older and (these := tuple(one.job for one in older)) != begun.older:
            raise RunError(f"{folder} holds a night that rehearses {begun.older}, not {these}: give another folder")
        return begun, study, desk.read(folder, begun) if begun.step < _updates(begun, config) else []
    found = desk.gathered(origin, instances, older)
    begun = desk.begun(about, found)
    if folder is not None:
        desk.write(folder, begun, found)
        desk.save(folder, begun, study)
    return begun, study, found


def _by_job(lessons: Sequence[Lesson], distances: Mapping[int, Array]) -> dict[str, float]:
    """Mean distance by job, of the lessons that were learned from: several instances may have worked on the same."""
    of: dict[str, list[float]] = {}
    for n, distance in sorted(distances.items()):
        of.setdefault(lessons[n].lived.job, []).append(float(distance))
    return {job: sum(all) / len(all) for job, all in of.items()}


def _check_finite(study: Study, step: int) -> None:
    """Before anything is saved."""
    if not bool(jnp.all(jnp.isfinite(study.weights))):
        raise NightError(
            f"after {step:,} updates the sleeper's weights are not finite: lower SleepConfig.learning_rate; the last "
            "save is sound, and the instances are as they were"
        )


def fingerprint(weights: Array) -> str:
    """Tells weights from others."""
    return hashlib.sha256(np.asarray(weights).tobytes()).hexdigest()
