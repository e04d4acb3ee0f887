"""A night over folders: the runs of a day and the store of all days, one learner out of them."""

import errno
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fifteen.config import SleepConfig
from fifteen.errors import FifteenError, RunError
from fifteen.instance import Statistics
from fifteen.learner import Learner, load
from fifteen.lessons import holds_night
from fifteen.lived import SEQUENCES, Lived, longest
from fifteen.sleeping import Callback, last_job, sleep, unfit
from fifteen.store import JobRecord, Store
from fifteen.updating import Batch

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Night:
    """What a night came to."""

    learner: Learner
    took_part: tuple[str, ...]  # folders of runs
    left_out: tuple[tuple[str, str], ...]  # folder and reason
    jobs: tuple[str, ...]  # lived by day, one for each that took part
    older: tuple[str, ...]  # rehearsed beside them
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
    callback: Callback | None = None,
) -> Night:
    """Take what the runs lived through into the store, and pool what they learned. Neither runs nor parent change.

    runs: folders of `fifteen.work(run=...)`, of instances of one parent: by default that of the first. A run that is
    broken, not finite, or of another parent is left out by name. Jobs that the store has from earlier days are
    rehearsed with the parent as their teacher; logs of other agents are not. store: None where no experience may be
    read: then the weights alone are merged, and runs may be folders of learners. run, stopped, callback: as for
    `sleep`; a night that goes on does so with the lessons that it began with. Raises RunError where no run is left,
    and StoreError or CheckpointError where the store's disk is full.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    day: dict[str, tuple[Learner, str]] = {}
    left_out: list[tuple[str, str]] = []
    mind, origin = (None, None) if parent is None else (parent.config, parent.state.weights)
    for place in map(Path, runs):
        try:
            instance = load(place)
            if why := unfit(instance, mind or instance.config, instance.state.anchor if origin is None else origin):
                raise RunError(f"it {why}")
            job = last_job(instance) if store is None else store.add_run(place).job
        except FifteenError as error:
            if _no_room(error):
                raise
            left_out.append((str(place), str(error)))
            continue
        if origin is None:  # a run that is broken decides nobody's parent
            mind, origin = instance.config, instance.state.anchor
        day[str(place)] = (instance, job)
    if not day:
        reasons = "; ".join(f"{place}: {why}" for place, why in left_out) or "no run was given"
        raise RunError(f"there is nothing to sleep on: {reasons}")
    folder, older = None if run is None else Path(run), []
    if store is not None and not (folder is not None and holds_night(folder)):
        older = _remember(day.values(), store, generator)
    learner = sleep(
        [instance for instance, _ in day.values()],
        parent=parent,
        older=older,
        weights_only=store is None,
        seed=seed,
        config=config,
        run=folder,
        stopped=stopped,
        callback=callback,
    )
    told = learner.provenance["slept"][-1]
    return Night(
        learner,
        tuple(day),
        tuple(left_out),
        tuple(job for _, job in day.values()),
        tuple(told.get("older", ())),
        told.get("steps_done") != told.get("steps"),
    )


def _remember(day: Iterable[tuple[Learner, str]], store: Store, generator: np.random.Generator) -> list[Lived]:
    """Give every instance what the store holds of its job. Returns what it holds of earlier days' jobs."""
    records = {record.id: record for record in store.jobs()}
    today = set()
    for instance, job in day:
        today.add(job)
        wipe = instance.provenance["worked"][-1]["learn"] == "weights" if instance.provenance.get("worked") else False
        if (lived := _lived(store, records[job], wipe, instance.statistics, generator)) is not None:
            instance.lived[job] = lived
    return [
        lived
        for record in records.values()
        if record.id not in today and not record.foreign
        if (lived := _lived(store, record, False, store.statistics(record.id), generator)) is not None
    ]


def _no_room(error: FifteenError) -> bool:
    """The fault is the store's disk, not the run."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.OperationalError) or (isinstance(cause, OSError) and cause.errno in _FULL)


def _lived(
    store: Store, record: JobRecord, wipe: bool, statistics: Statistics, generator: np.random.Generator
) -> Lived | None:
    """Sequences of a job, drawn from all that is held of it; None where there is no long enough one.

    wipe, statistics: of who will teach it.
    """
    length = longest(lambda rows: store.available(record.id, rows))
    if length is None:
        return None
    rows: dict[str, Any]
    memory: Any
    rows, memory = store.sample(generator, record.id, min(SEQUENCES, store.available(record.id, length)), length)
    return Lived(
        record.id,
        record.layout,
        record.continuous,
        wipe,
        statistics,
        Batch(rows["frame"], rows.get("image"), rows["decision"], memory),
    )
