"""What a lifetime leaves for the night: a bounded number of its sequences, drawn evenly from what replay holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import jax
import numpy as np

from fifteen.frames import Layout
from fifteen.instance import Statistics
from fifteen.updating import Batch
from fifteen.worker import Worker

SEQUENCES = 96
LENGTHS = (512, 128)  # rows of a sequence, the first for which there are enough


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


def longest(available: Callable[[int], int]) -> int | None:
    """The length of the sequences that are drawn where available(rows) tells how many there are."""
    return next((rows for rows in LENGTHS if available(rows)), None)


def remember(worker: Worker, job: str, seed: int) -> Lived | None:
    """Of the lifetime of a worker whose updates are finished; None where nothing or too little was kept."""
    experience = worker.experience
    length = None if experience is None else longest(lambda rows: experience.available(rows - 1))
    if experience is None or length is None:
        return None
    generator = np.random.Generator(np.random.PCG64(seed))
    rows: dict[str, Any]
    memory: Any
    rows, memory = experience.sample(generator, min(SEQUENCES, experience.available(length - 1)), length - 1)
    return Lived(
        job,
        worker.layout,
        np.array(worker.senses.continuous),
        worker.learn == "weights",
        jax.tree.map(np.array, worker.instance.statistics),
        Batch(rows["frame"], rows.get("image"), rows["decision"], memory),
    )
