"""What there is to do in an exam: the twins of a suite's jobs, and the tasks."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fifteen.examining.entrants import Entrant
from fifteen.examining.sitting import Task
from fifteen.examining.suites import Suite, SuiteJob
from fifteen.jobs.families import FAMILIES

TWIN = " (twin)"
"""After the id of a job: the job that was drawn in its likeness."""

_GROUPS = 4  # of families in one batch: those with attempts of about the same length
_MOST_EACH = 256  # lifetimes of a family in one batch


def twins_of(suite: Suite, seed: int) -> Suite | None:
    """A freshly drawn twin of every drawn job: the same template, and a seed that nobody knew before.

    seed: of this exam. None where the suite has no drawn jobs.
    """
    seeds = np.random.default_rng(seed).integers(2**31, size=len(suite.jobs)).tolist()
    twins = tuple(
        dataclasses.replace(job, id=job.id + TWIN, seed=own)
        for job, own in zip(suite.jobs, seeds, strict=True)
        if job.drawn
    )
    return dataclasses.replace(suite, name=f"{suite.name}, twins", jobs=twins) if twins else None


def plan(
    suites: Sequence[Suite], entrants: Sequence[Entrant], runs: int, done: Collection[tuple[str, str, int]]
) -> list[Task]:
    """The tasks of an exam, the longest first. done: (learner, job, run) of lifetimes that are recorded.

    suites: the suite and its twins. A batch of which something is missing is done again as a whole: its lifetimes draw
    from one key, and so they come out as they would have.
    """
    jobs = [job for suite in suites for job in suite.jobs]
    tasks = []
    for n, entrant in enumerate(entrants):
        batched = [job for job in jobs if entrant.note.kind == "fifteen" and _fits_a_batch(job)]
        for seed, seats in enumerate(_batches(batched, runs)):
            if any((entrant.note.name, *seat) not in done for seat in seats):
                tasks.append(Task("batch", seats, n, _seed(suites[0], seed)))
        together: dict[str, list[tuple[str, int]]] = defaultdict(list)  # drawn jobs of a family share what is compiled
        in_batches = {job.id for job in batched}
        for job in jobs:
            if job.id not in in_batches:
                left = [run for run in range(runs) if (entrant.note.name, job.id, run) not in done]
                together[job.family if job.drawn else job.id] += [(job.id, run) for run in left]
        tasks += [Task("lifetimes", tuple(seats), n) for seats in together.values() if seats]
    return tasks + [Task("audit", ((job.id, 0),)) for job in jobs if not job.drawn]


def _fits_a_batch(job: SuiteJob) -> bool:
    family = FAMILIES.get(job.family) if job.drawn else None
    plain = job.steps is None and job.step_limit is None and not job.kwargs
    return family is not None and job.template in family.templates and plain


def _batches(jobs: Sequence[SuiteJob], runs: int) -> list[tuple[tuple[str, int], ...]]:
    """Seats in batches of a few families each, of the same jobs always the same."""
    seats: dict[str, list[tuple[str, int]]] = defaultdict(list)
    ticks: dict[str, int] = {}
    for job in jobs:
        seats[job.family] += [(job.id, run) for run in range(runs)]
        limit = jax.eval_shape(FAMILIES[job.family].sample, jnp.zeros((), jnp.int32), jax.random.key(0)).step_limit
        ticks[job.family] = max(ticks.get(job.family, 0), (job.attempts or 0) * (limit + 1))
    ordered = sorted(seats, key=lambda family: (-ticks[family], family))
    size = -(-len(ordered) // _GROUPS)
    batches = []
    for start in range(0, len(ordered), size or 1):
        group = [seats[family] for family in ordered[start : start + size]]
        for first in range(0, max(map(len, group)), _MOST_EACH):
            batches.append(tuple(seat for of_family in group for seat in of_family[first : first + _MOST_EACH]))
    return batches


def _seed(suite: Suite, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{suite.digest} {number}".encode()).digest()[:4], "big") >> 1
