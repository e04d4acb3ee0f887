"""What a lifetime leaves for the night: a bounded number of its sequences, spread evenly over what is held of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import jax
import numpy as np
from jax import Array

from fifteen.frames import Layout
from fifteen.instance import Statistics
from fifteen.updating import Batch
from fifteen.worker import Worker

# Rows of a sequence, and the most sequences: the first length for which there are enough. The longer ones only where
# an update need not unroll the memory over them.
LENGTHS = {4096: 6, 1024: 24, 512: 96, 128: 96}
_UNROLLED = 512
_WHOLE = 128  # rows: halves of sequences are read in pieces of 64


@final
@dataclass(frozen=True)
class FirstDays:
    """What somebody did who practised a job: n lifetimes from their first row on. Rows: a multiple of 128."""

    layout: Layout
    frames: np.ndarray  # float32[n, rows, percept]
    images: np.ndarray | None  # uint8[n, rows, 32, 32, 3]
    decisions: np.ndarray  # float32[n, rows, decision]

    def batch(self, memory: np.ndarray | Array) -> Batch:
        """To be read with such a memory, float32[memory], before each. ValueError where there are not whole parts."""
        if self.frames.shape[1] % _WHOLE:
            raise ValueError(f"first days of {self.frames.shape[1]} rows, expected a multiple of {_WHOLE}")
        before = np.repeat(np.asarray(memory)[None], len(self.frames), axis=0)
        rows: tuple[Any, ...] = self.frames, self.images, self.decisions, before
        return Batch(*rows)


@final
@dataclass(frozen=True)
class Teacher:
    """Who taught a job in the night after it was lived, and teaches it in later ones: a copy of a copy forgets."""

    weights: np.ndarray | Array  # float32[P]
    memory: np.ndarray  # float32[memory], of an instance when its day ended
    statistics: Statistics  # then
    wipe: bool  # see `Lived`
    first_day: bool  # it is a parent, who reads with an empty memory and statistics that begin anew


@final
@dataclass(frozen=True)
class Lived:
    """Sequences of one lifetime, and what is needed to read them."""

    job: str
    layout: Layout
    continuous: np.ndarray  # bool[slots]
    wipe: bool  # the memory was wiped after every attempt
    statistics: Statistics  # of the instance, at the end
    batch: Batch  # [n, one of LENGTHS, ...]
    # What another did on the job, [n, rows, ...]: who teaches it says what it would do there, too; an instance with
    # that memory, the parent with an empty one.
    practice: Batch | None = None
    teacher: Teacher | None = None  # of what was lived on an earlier day; None: the parent


def bounds(available: Callable[[int], int], steady: bool) -> tuple[int, int] | None:
    """How many sequences are kept and of how many rows, where available(rows) tells how many there are.

    None where there is none. steady: see `WorkConfig`.
    """
    for rows, most in LENGTHS.items():
        found = available(rows) if steady or rows <= _UNROLLED else 0
        if found >= rows // 16 or (found and rows == min(LENGTHS)):  # so many that they are not all of one moment
            return min(most, found), rows
    return None


def remember(worker: Worker, job: str) -> Lived | None:
    """Of the lifetime of a worker whose updates are finished; None where nothing or too little was kept."""
    experience = worker.experience
    if experience is None:
        return None
    sizes = bounds(lambda rows: experience.available(rows - 1), worker.work.steady)
    if sizes is None:
        return None
    rows: dict[str, Any]
    memory: Any
    rows, memory = experience.sample(None, sizes[0], sizes[1] - 1)
    return Lived(
        job,
        worker.layout,
        np.array(worker.senses.continuous),
        worker.learn == "weights",
        jax.tree.map(np.array, worker.instance.statistics),
        Batch(rows["frame"], rows.get("image"), rows["decision"], memory),
    )
