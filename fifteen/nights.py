"""A night over folders: the runs of a day and the store of all days, one learner out of them."""

import dataclasses
import errno
import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fifteen import checkpoint
from fifteen.checkpoint import MANIFEST, atomic_write
from fifteen.config import SleepConfig
from fifteen.errors import CheckpointError, FifteenError, NightError, NoRoomError, RunError, StoreError, check_count
from fifteen.evaluating import ROWS, Practice, evaluate, practise
from fifteen.experience import latest_memory
from fifteen.gains import gained, late
from fifteen.instance import Statistics
from fifteen.jobs.protocol import checked_seed
from fifteen.learner import Learner, learner_folder, load
from fifteen.lessons import holds_night
from fifteen.lived import LENGTHS, FirstDays, Lived, Teacher, bounds
from fifteen.rehearsing import senses
from fifteen.report import read_record
from fifteen.sleeping import Callback, SleepProgress, began_as, fingerprint, last_job, sleep, unfit
from fifteen.store import JobRecord, Store
from fifteen.updating import Batch

SCHOOL = "school"  # in the folder of a store: learners as they left school, by their senses

LEFT_OUT = "left_out.json"  # in the folder of a night: the runs, who of them takes no part, and why

TAKEN_UP = 4  # times as many older jobs as an update rehearses are taken up in a night, see `night`

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Night:
    """What a night came to."""

    learner: Learner
    took_part: tuple[str, ...]  # folders of runs
    left_out: tuple[tuple[str, str], ...]  # folder and reason
    jobs: tuple[str, ...]  # lived by day, one for each that took part
    older: tuple[str, ...]  # rehearsed beside them
    untaught: tuple[str, ...]  # of `jobs`, those that no instance taught, for none was better than the parent
    rested: tuple[str, ...]  # of the store: neither lived by day nor rehearsed
    interrupted: bool = False  # `night` with the same arguments goes on


def night(
    runs: Sequence[str | Path],
    store: Store | None,
    *,
    parent: Learner | None = None,
    seed: int = 0,
    config: SleepConfig | None = None,
    run: str | Path | None = None,
    stopped: threading.Event | None = None,
    attempts: int = 0,
    callback: Callback | None = None,
) -> Night:
    """Take what the runs lived through into the store, and pool what they learned. Neither runs nor parent change.

    runs: folders of `fifteen.work(run=...)`, of instances of one parent: by default that of the first. A run that is
    broken, not finite, or of another parent is left out by name. Jobs that the store has from earlier days are
    rehearsed, too, at most `TAKEN_UP * SleepConfig.rehearsed` of them, drawn anew every night: what a night takes must
    not grow with what is stored. Logs of other agents are not. Of steady minds the store keeps who taught a job when
    it was lived last, and who teaches it in later nights, for a copy of a copy gets worse with every night; else the
    parent does. School is rehearsed where steady minds were schooled: from before their first night on the store keeps
    who teaches it, the learner as it left school; where it does not have that, the parent teaches. store: None where
    no experience may be read: then the weights alone are merged, and runs may be folders of learners.

    attempts: of the parent at the job of every run, at least, in each of a few lifetimes with a fresh memory, or in one
    where the job cannot be had several times. Where an instance's last attempts by day were not likely better than the
    later half of these, it has nothing to teach: its job is rehearsed as older ones are, so that the night spoils
    nothing that could be done before. Where they were, a steady instance also says what it would do in the parent's
    place (`evaluating.practise`), and the sleeper's: `SleepConfig.practices` times in the night that lives six times
    1,024 rows on every job of the day and on every older one that is rehearsed. 0, as befits jobs that are no
    simulators: nothing is tried and every instance teaches, as it does where its job cannot be attempted.

    What the store holds of a job and is not what it was is set aside, and told among what is left out.

    seed: what is drawn depends on it and on how many nights the parent has had, so that no two are alike.
    run, stopped, callback: as for `sleep`, and callback before each job that the parent tries, too; a night that goes
    on does so with the lessons and runs that it began with. Raises KeyboardInterrupt where a true answer of callback,
    `stopped` or Ctrl-C end what the parent tries, before the night; NightError where no run is left, what `sleep`
    raises, StoreError or CheckpointError where the store has no room, and CheckpointError where the learner as it left
    school, who teaches an older job, or what was practised of it, cannot be read; JobError for a seed and RunError for
    attempts that are no such numbers.
    """
    seed = checked_seed(seed)
    check_count("attempts", attempts)
    folder, places = None if run is None else Path(run), [str(Path(run)) for run in runs]
    goes_on = folder is not None and holds_night(folder)
    left_out = _left_out(folder, places) if folder is not None and goes_on else []
    day = _read(places, left_out, parent, store)
    _check_anybody(day, left_out)
    older, school, practising = [], None, None
    config, first = config or SleepConfig(), next(iter(day.values()))[0]
    provenance = (parent or first).provenance
    seed += len(provenance.get("slept", ())) + 1
    if store is not None:
        if attempts and first.work_config.steady:
            practising = partial(_practices, day, store, seed)
        best = parent or began_as(first)
        kin = _kin(best)
        school = _school(best, provenance, kin, store)
        if not goes_on:

            def tell() -> bool:
                progress = SleepProgress(0, config.steps, {}, practising=True)
                return (stopped is not None and stopped.is_set()) or bool(callback and callback(progress))

            tried = _tried(day, best, attempts, seed, tell) if attempts else dict.fromkeys(day, (True, None))
            generator = np.random.default_rng([seed, 3])
            older, broken = _remember(day, tried, best, kin, store, generator, config.rehearsed)
            left_out += [(str(store.folder), why) for why in broken]
            for place in [place for place in day if tried[place][0] and not day[place][0].lived]:
                _, job = day.pop(place)
                left_out.append((place, f"nothing that the store holds of {job!r} can be read"))
            _check_anybody(day, left_out)
            if folder is not None:
                told = {"runs": places, "left_out": left_out}
                atomic_write(folder / LEFT_OUT, json.dumps(told, indent=1).encode())
    learner = sleep(
        [instance for instance, _ in day.values()],
        parent=parent,
        older=older,
        school=school,
        weights_only=store is None,
        seed=seed,
        config=config,
        run=folder,
        stopped=stopped,
        practising=practising,
        callback=callback,
    )
    told = learner.provenance["slept"][-1]
    lived, rehearsed = tuple(job for _, job in day.values()), told.get("older", ())
    taught = {*told["jobs"]} - {*rehearsed}
    stored = [] if store is None else [record.id for record in store.jobs() if not record.foreign]
    awake = {*lived, *rehearsed}
    return Night(
        learner,
        tuple(day),
        tuple(left_out),
        lived,
        tuple(job for job in rehearsed if job not in lived),
        () if store is None else tuple(job for job in dict.fromkeys(lived) if job not in taught),
        tuple(job for job in stored if job not in awake),
        told.get("steps_done") != told.get("steps"),
    )


def _left_out(folder: Path, places: Sequence[str]) -> list[tuple[str, str]]:
    """What took no part when the night in a folder was begun: run, or folder of the store, and reason.

    places: the runs now, which may have moved since.
    """
    try:
        told = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
        # As many as then are the same ones; of fewer each has the name that it had.
        now: dict[str, str] = {}
        if len(told["runs"]) == len(places):
            now = dict(zip(told["runs"], places, strict=True))
        return [(now[place] if place in now else place, why) for place, why in told["left_out"]]
    except FileNotFoundError:  # of before it was written down
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / LEFT_OUT} cannot be read ({error}): restore it, or give another folder"
        ) from error


def _read(
    places: Sequence[str], left_out: list[tuple[str, str]], parent: Learner | None, store: Store | None
) -> dict[str, tuple[Learner, str]]:
    """By run, who takes part, and the job; the store has what they lived through. left_out: takes the others."""
    day: dict[str, tuple[Learner, str]] = {}
    like, origin, absent = parent, None if parent is None else parent.state.weights, dict(left_out)
    for place in places:
        if place in absent:
            continue
        try:
            instance = load(place)
            if why := unfit(instance, like or instance, instance.state.anchor if origin is None else origin):
                raise RunError(f"it {why}")
            job = opening(Path(place))[0] or last_job(instance) if store is None else _taken(Path(place), store)
        except FifteenError as error:
            if no_room(error):
                raise
            left_out.append((place, str(error)))
            continue
        if origin is None:  # a run that is broken decides nobody's parent
            like, origin = instance, instance.state.anchor
        day[place] = (instance, job)
    return day


def _check_anybody(day: Mapping[str, Any], left_out: Sequence[tuple[str, str]]) -> None:
    """Raises NightError where nobody is left who takes part."""
    if not day:
        reasons = "; ".join(f"{place}: {why}" for place, why in left_out) or "no run was given"
        raise NightError(f"there is nothing to sleep on: {reasons}")


def _taken(run: Path, store: Store) -> str:
    """Take what a run lived through into the store; its job there. Raises NightError where that was too little."""
    added = store.add_run(run)
    if added.longest < min(LENGTHS):
        raise NightError(
            f"nothing was lived of {added.job!r} that a night can read: {added.longest} rows, fewer than {min(LENGTHS)}"
        )
    return added.job


def _kin(parent: Learner) -> str | None:
    """Tells the senses and the memory of a steady mind, which all that come from it share; None: they change."""
    return fingerprint(senses(parent.state.weights, parent.config)) if parent.work_config.steady else None


def _school(parent: Learner, provenance: Mapping[str, Any], kin: str | None, store: Store) -> Learner | None:
    """The learner as it left school, which the store keeps from before its first night on; None where nobody knows.

    provenance: the parent's, which only a run may tell. kin: see `_kin`; it comes from the same school.
    """
    if kin is None or not provenance.get("schooled"):
        return None
    folder = store.folder / SCHOOL / kin[:16]
    kept = (folder / MANIFEST).is_file()
    if not provenance.get("slept"):
        told = {**provenance, "worked": []}
        school = Learner(parent.config, parent.state, parent.statistics, work=parent.work_config, provenance=told)
        if not kept:
            school.save(folder)
        return school
    if not kept:
        return None
    try:
        return load(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"the learner as it left school, which {store.folder} keeps, cannot be read: {error}; or delete {folder}: "
            "then the parent teaches school"
        ) from error


def opening(run: Path) -> tuple[str | None, Mapping[str, Any], int | None]:
    """The job of a run, its kwargs and its step limit. None: nobody can open it by name."""
    try:
        settings = _settings(run)
        return settings["job"], settings["kwargs"], settings["step_limit"]
    except (OSError, ValueError, KeyError):  # weights alone came, not the folder of a run
        return None, {}, None


def _settings(run: Path) -> Mapping[str, Any]:
    """What a run was begun with."""
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]


def _at_work(run: Path) -> list[float]:
    """Returns of a day's attempts in their order; none where nobody recorded them."""
    try:
        return read_record(run).returns.tolist()
    except RunError:
        return []


def _tried(
    day: Mapping[str, tuple[Learner, str]],
    parent: Learner,
    attempts: int,
    seed: int,
    stops: Callable[[], bool],
) -> dict[str, tuple[bool, Practice | None]]:
    """By run: whether its instance has something to teach, and what the parent does on its job.

    True where that cannot be told, None where the parent cannot practise. Each job is tried once. stops: asked before
    each job whether to end it, by a KeyboardInterrupt.
    """
    made: dict[str, tuple[Sequence[float], Practice | None]] = {}
    tried = {}
    for place in day:
        job, kwargs, step_limit = opening(Path(place))
        key = json.dumps([job, kwargs, step_limit], sort_keys=True)
        if key not in made:
            if stops():
                raise KeyboardInterrupt
            made[key] = ([], None) if job is None else _attempted(parent, job, attempts, seed, kwargs, step_limit)
        theirs, practice = made[key]
        tried[place] = gained(_at_work(Path(place)), theirs), practice
    return tried


def _practices(
    day: Mapping[str, tuple[Learner, str]],
    store: Store,
    seed: int,
    sleeper: Learner,
    jobs: Sequence[str],
    number: int,
    stopped: threading.Event | None,
) -> dict[str, FirstDays]:
    """By job of the store, what a sleeper does on it, which the store keeps for nights to come.

    All that the night has a lesson of: a job that nobody tries may be lost in a single night. See
    `sleeping.Practising`.
    """
    openings = {id: opening(Path(place)) for place, (_, id) in day.items() if id in jobs}
    records = {record.id: record for record in store.jobs()}
    older = (record for id, record in records.items() if id in jobs and id not in openings)
    openings |= {record.id: (record.job, record.kwargs, record.step_limit) for record in older}
    at = int(np.random.default_rng([seed, 2, number]).integers(2**31))
    done: dict[str, FirstDays] = {}
    for id, (job, kwargs, step_limit) in openings.items():
        if stopped is not None and stopped.is_set():
            raise KeyboardInterrupt
        if job is not None:
            with suppress(FifteenError):  # it may be one that cannot be had several times, or no longer
                days = practise(sleeper, job, attempts=0, seed=at, kwargs=kwargs, step_limit=step_limit).days
                if days.layout == records[id].layout:
                    done[id] = days
    for id, days in done.items():
        store.kept.keep_practice(id, days)
    return done


def _attempted(
    parent: Learner, job: str, attempts: int, seed: int, kwargs: Mapping[str, Any], step_limit: int | None
) -> tuple[Sequence[float], Practice | None]:
    """Returns of late attempts of the parent at a job, and its practice; none where they cannot be made."""
    # Other ones than those by which the night is judged.
    how: dict[str, Any] = {"seed": int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])}
    how |= {"kwargs": kwargs, "step_limit": step_limit}
    try:
        practice = practise(parent, job, attempts=attempts, rows=ROWS if parent.work_config.steady else 0, **how)
        return practice.attempts.late(attempts).tolist(), practice
    except FifteenError:
        pass  # it may be one that cannot be had several times
    try:
        found = evaluate(parent, job, episodes=attempts, **how)
    except FifteenError:
        return [], None
    if len(found.returns) < attempts:  # only an interruption ends it earlier
        raise KeyboardInterrupt
    return found.late(attempts).tolist(), None


def _remember(
    day: Mapping[str, tuple[Learner, str]],
    tried: Mapping[str, tuple[bool, Practice | None]],
    parent: Learner,
    kin: str | None,
    store: Store,
    generator: np.random.Generator,
    rehearsed: int,
) -> tuple[list[Lived], list[str]]:
    """Give every instance that teaches what the store holds of its job, and what its parent did there.

    kin: see `_kin`. rehearsed: older jobs in an update. Returns what no instance of the day teaches: of the day all, of
    older jobs `TAKEN_UP` times as many; and what is wrong with segments of the store. Of several instances that teach
    one job, the store keeps the one whose last attempts by day were best.
    """
    records, steady = {record.id: record for record in store.jobs()}, kin is not None
    taught, broken = set(), []
    best: dict[str, float] = {}  # by job: mean return of the last attempts of who is kept as its teacher
    for place, (instance, job) in day.items():
        better, practice = tried[place]
        if not better:
            continue
        taught.add(job)
        wipe = _settings(Path(place))["learn"] == "weights"
        if (lived := _lived(store, records[job], wipe, steady, instance.statistics, broken)) is not None:
            instance.lived[job] = lived
            if kin is None:
                continue
            memory = _last_memory(Path(place))
            came_to = float(np.mean(late(_at_work(Path(place))) or [-np.inf]))
            if job not in best or came_to > best[job]:
                best[job] = came_to
                teacher = Teacher(instance.state.weights, memory, lived.statistics, wipe, first_day=False)
                store.kept.keep_teacher(job, teacher, kin)
            if practice is not None and practice.days.layout == lived.layout:
                instance.lived[job] = dataclasses.replace(lived, practice=practice.days.batch(memory))
    lived_by_day = {job for _, job in day.values()}
    others = [record.id for record in records.values() if not (record.id in lived_by_day or record.foreign)]
    due = lived_by_day - taught | {others[n] for n in generator.permutation(len(others))[: TAKEN_UP * rehearsed]}
    older = []
    for record in records.values():
        if record.id not in due:
            continue
        teacher = _teacher(record.id, parent, kin, store)
        if (lived := _lived(store, record, teacher.wipe, steady, teacher.statistics, broken)) is not None:
            kept = store.kept.practice(record.id) if steady else None
            practice = None if kept is None else kept.batch(teacher.memory)
            older.append(dataclasses.replace(lived, teacher=teacher, practice=practice))
    return older, broken


def _teacher(job: str, parent: Learner, kin: str | None, store: Store) -> Teacher:
    """Who taught a job when it was lived last; where the store has nobody of this kin, the parent from now on."""
    if kin is not None and (known := store.kept.teacher(job, kin)) is not None:
        return known
    empty = np.zeros(parent.config.memory_size, np.float32)
    teacher = Teacher(parent.state.weights, empty, store.statistics(job), wipe=False, first_day=True)
    if kin is not None:
        store.kept.keep_teacher(job, teacher, kin)
    return teacher


def _last_memory(run: Path) -> np.ndarray:
    """What the instance of a run remembered before its last stride, float32[memory]."""
    _, manifest = checkpoint.read(learner_folder(run))
    return latest_memory(run / "experience", manifest["experience"])


def no_room(error: FifteenError) -> bool:
    """The fault is the store's or its disk's, not the run's."""
    cause = error.__cause__
    return (
        isinstance(error, NoRoomError)
        or isinstance(cause, sqlite3.DatabaseError)
        or (isinstance(cause, OSError) and cause.errno in _FULL)
    )


def _lived(
    store: Store, record: JobRecord, wipe: bool, steady: bool, statistics: Statistics, broken: list[str]
) -> Lived | None:
    """Sequences of a job, spread over all that is held of it; None where there is no long enough one.

    wipe, statistics: of who will teach it. broken: takes what is wrong with the job's segments, which are set aside.
    """
    rows: dict[str, Any]
    memory: Any
    while True:
        sizes = bounds(partial(store.available, record.id), steady)
        if sizes is None:
            return None
        try:
            rows, memory = store.sample(None, record.id, *sizes)
            break
        except StoreError:
            wrong = store.verify(record.id)
            if not wrong:
                raise
            broken += wrong
    return Lived(
        record.id,
        record.layout,
        record.continuous,
        wipe,
        statistics,
        Batch(rows["frame"], rows.get("image"), rows["decision"], memory),
    )
