"""A night over folders: the runs of a day and the store of all days, one learner out of them."""

import errno
import json
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fifteen.checkpoint import atomic_write
from fifteen.config import SleepConfig
from fifteen.errors import CheckpointError, FifteenError, NightError, NoRoomError, RunError, check_count
from fifteen.jobs.protocol import checked_seed
from fifteen.learner import Learner, load
from fifteen.lessons import holds_night
from fifteen.lived import LENGTHS
from fifteen.remembering import kin_of, remembered, school_of
from fifteen.sleeping import Callback, SleepProgress, began_as, last_job, sleep, unfit
from fifteen.store import Store
from fifteen.trying import opening, practices, tried

LEFT_OUT = "left_out.json"  # in the folder of a night: the runs, who of them takes no part, and why

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
            practising = partial(practices, day, store, seed)
        best = parent or began_as(first)
        kin = kin_of(best)
        school = school_of(best, provenance, kin, store)
        if not goes_on:

            def tell(job: str) -> bool:
                progress = SleepProgress(0, config.steps, {}, trying=job)
                return (stopped is not None and stopped.is_set()) or bool(callback and callback(progress))

            found = tried(day, best, attempts, seed, tell)
            generator = np.random.default_rng([seed, 3])
            older, broken = remembered(day, found, best, kin, store, generator, config.rehearsed)
            left_out += [(str(store.folder), why) for why in broken]
            for place in [place for place in day if found[place].better and not day[place][0].lived]:
                _, job = day.pop(place)
                left_out.append((place, f"nothing that the store holds of {job!r} can be read"))
            _check_anybody(day, left_out)
            if folder is not None:
                noted = {"runs": places, "left_out": left_out}
                atomic_write(folder / LEFT_OUT, json.dumps(noted, indent=1).encode())
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


def no_room(error: FifteenError) -> bool:
    """The fault is the store's or its disk's, not the run's."""
    cause = error.__cause__
    return (
        isinstance(error, NoRoomError)
        or isinstance(cause, sqlite3.DatabaseError)
        or (isinstance(cause, OSError) and cause.errno in _FULL)
    )
