"""What a store gives a night: what was lived on every job, and who teaches it."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fifteen import checkpoint
from fifteen.checkpoint import MANIFEST
from fifteen.errors import CheckpointError, StoreError
from fifteen.experience import latest_memory
from fifteen.instance import Statistics
from fifteen.learner import Learner, learner_folder, load
from fifteen.lived import Lived, Teacher, bounds
from fifteen.rehearsing import senses
from fifteen.sleeping import fingerprint
from fifteen.store import JobRecord, Store
from fifteen.trying import Tried, settings_of
from fifteen.updating import Batch

SCHOOL = "school"  # in the folder of a store: learners as they left school, by their senses

TAKEN_UP = 4  # times as many older jobs as an update rehearses are taken up in a night, see `nights.night`


def kin_of(parent: Learner) -> str | None:
    """Tells the senses and the memory of a steady mind, which all that come from it share; None: they change."""
    return fingerprint(senses(parent.state.weights, parent.config)) if parent.work_config.steady else None


def school_of(parent: Learner, provenance: Mapping[str, Any], kin: str | None, store: Store) -> Learner | None:
    """The learner as it left school, which the store keeps from before its first night on; None where nobody knows.

    provenance: the parent's, which only a run may tell. kin: see `kin_of`; it comes from the same school.
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


def remembered(
    day: Mapping[str, tuple[Learner, str]],
    tried: Mapping[str, Tried],
    parent: Learner,
    kin: str | None,
    store: Store,
    generator: np.random.Generator,
    rehearsed: int,
) -> tuple[list[Lived], list[str]]:
    """Give every instance that teaches what the store holds of its job, and what its parent did there.

    kin: see `kin_of`. rehearsed: older jobs in an update. Returns what no instance of the day teaches: of the day all,
    of older jobs `TAKEN_UP` times as many; and what is wrong with segments of the store. Of several instances that
    teach one job, the store keeps the one whose last attempts by day were best.
    """
    records, steady = {record.id: record for record in store.jobs()}, kin is not None
    taught, broken = set(), []
    best: dict[str, float] = {}  # by job: mean return of the last attempts of who is kept as its teacher
    for place, (instance, job) in day.items():
        better, last, practice = tried[place]
        if not better:
            continue
        taught.add(job)
        wipe = settings_of(Path(place))["learn"] == "weights"
        if (lived := _lived(store, records[job], wipe, steady, instance.statistics, broken)) is not None:
            instance.lived[job] = lived
            if kin is None:
                continue
            memory = last_memory(Path(place))
            came_to = float(np.mean(last or [-np.inf]))
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


def last_memory(run: Path) -> np.ndarray:
    """What the instance of a run remembered before its last stride, float32[memory]."""
    _, manifest = checkpoint.read(learner_folder(run))
    return latest_memory(run / "experience", manifest["experience"])


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
