"""What a store keeps of a job beside its rows: what was practised of it last, and who teaches it.

practice/<job>, teachers/<job>    checkpoints in the folder of the store; <job>: 16 digits of the sha256 of the job's id

They are no part of the store's budget.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, final

import numpy as np

from fifteen import checkpoint
from fifteen.checkpoint import MANIFEST
from fifteen.errors import CheckpointError, StoreError
from fifteen.frames import Layout
from fifteen.instance import Statistics, read_statistics
from fifteen.lived import FirstDays, Teacher
from fifteen.store_index import Index

_PRACTICE, _TEACHERS = "practice", "teachers"


@final
class Kept:
    """Every method raises StoreError where the store does not know the job."""

    def __init__(self, index: Index):
        self._index = index

    def keep_practice(self, job: str, days: FirstDays) -> None:
        """Keep first days of somebody who practised a job, in place of those that were kept of it before.

        Raises StoreError where the store knows the job otherwise.
        """
        layout = self._layout(job)
        if days.layout != layout:
            raise StoreError(f"what was practised of {job!r} has the layout {days.layout}, the job here {layout}")
        arrays = {"frames": days.frames, "images": days.images, "decisions": days.decisions}
        named = {name: array for name, array in arrays.items() if array is not None}
        checkpoint.write(self._place(_PRACTICE, job), named, {"what": "practice", "job": job})

    def practice(self, job: str) -> FirstDays | None:
        """What was practised of a job last; None where nothing was. Raises CheckpointError where it is not sound."""
        layout, found = self._layout(job), self._read(_PRACTICE, job, "nothing of it is practised")
        if found is None:
            return None
        arrays, _ = found
        return FirstDays(layout, arrays["frames"], arrays.get("images"), arrays["decisions"])

    def keep_teacher(self, job: str, teacher: Teacher, kin: str) -> None:
        """Keep who teaches a job in nights to come, in place of who did before.

        kin: tells the senses and the memory that the teacher shares with those whom it can teach.
        """
        self._index.known(job)
        named = {"weights": np.asarray(teacher.weights), "memory": teacher.memory}
        named |= {f"statistics/{name}": np.asarray(value) for name, value in teacher.statistics._asdict().items()}
        told = {"what": "teacher", "job": job, "wipe": teacher.wipe, "first_day": teacher.first_day, "kin": kin}
        checkpoint.write(self._place(_TEACHERS, job), named, told)

    def teacher(self, job: str, kin: str) -> Teacher | None:
        """Who teaches a job; None where nobody of this kin does. Raises CheckpointError where it is not sound."""
        self._index.known(job)
        found = self._read(_TEACHERS, job, "the parent teaches it")
        if found is None or found[1]["kin"] != kin:
            return None
        arrays, told = found
        statistics = read_statistics({name: arrays[f"statistics/{name}"] for name in Statistics._fields})
        return Teacher(arrays["weights"], arrays["memory"], statistics, told["wipe"], told["first_day"])

    def _layout(self, job: str) -> Layout:
        return Layout.read(json.loads(self._index.known(job)["layout"]))

    def _read(self, what: str, job: str, without: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """without: what holds once it is deleted."""
        folder = self._place(what, job)
        if not (folder / MANIFEST).is_file():
            return None
        try:
            return checkpoint.read(folder)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; or delete {folder}: then of {job!r}, {without}") from error

    def _place(self, what: str, job: str) -> Path:
        return self._index.folder / what / hashlib.sha256(job.encode()).hexdigest()[:16]
