"""An exam: every learner on every job of a suite that is its own, what failed, what was found. The run to read first.

learners, suite -> tasks -> lifetimes -> records -> findings -> page
"""

import dataclasses
import operator
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

import jax

from fifteen.checkpoint import FolderLock
from fifteen.errors import RunError
from fifteen.examining.entrants import Entrant, admit, saved
from fifteen.examining.findings import failures, overlap, twins
from fifteen.examining.page import write_exam_page
from fifteen.examining.planning import plan, twins_of
from fifteen.examining.records import (
    HEADER,
    RECORDS,
    AttemptRecord,
    ExamHeader,
    Finding,
    append_records,
    finished_lifetimes,
    read_header,
    read_records,
    write_header,
)
from fifteen.examining.replays import append_replay
from fifteen.examining.sealing import record_opening
from fifteen.examining.sitting import Ended, Hall, Task
from fifteen.examining.suites import Suite, read_suite
from fifteen.examining.workers import work_beside, work_here
from fifteen.provenance import commit, device, versions

TWIN_RECORDS = "twins.jsonl"
"""In the folder of an exam: the attempts on freshly drawn twins of the suite's jobs."""
SECONDS = 300.0
"""Wall time that one lifetime may take."""

Callback = Callable[[int, int], Any]


@dataclass(frozen=True)
class ExamReport:
    """What an exam came to. `page` has the figures; the folder has everything."""

    records: tuple[AttemptRecord, ...]
    header: ExamHeader
    folder: Path
    page: Path


def exam(
    learners: Any,
    suite: Suite | str | Path = "default",
    *,
    run: str | Path | None = None,
    workers: int | None = None,
    runs: int | None = None,
    seconds: float = SECONDS,
    callback: Callback | None = None,
) -> ExamReport:
    """Examine one learner or several on a suite; writes records, findings and a page, exam.html, into a folder.

    learners: one, a list, or a dict by name, of: a `Learner` (or "shipped", or the folder of a saved one), which works
    in context, as it is now, with a fresh memory for every lifetime; a policy, observation -> action; an object with
    `predict`, or "sb3:PPO:FILE.zip", of Stable-Baselines3; "module:factory" of any of these. suite: one that ships
    ("default", "gymnasium"), a file, or a `Suite`. run: the folder, by default runs/exam-TIME; where it holds this exam
    already, what is recorded is not lived again. workers: processes, by default one for each core, and none where JAX
    computes on an accelerator; 0: all in this process, as whatever only this process has must be (a lambda, an object,
    a job registered here). runs: lifetimes on each job, by default as the suite says. seconds: wall time that one
    lifetime may take. callback(done, all) is told the lifetimes.

    A job whose spaces a policy was not made for is not applicable: it counts neither way. Whatever else has no score
    (crashed, refused, missing, not finite, timed out) counts as a failure, see `records.counted_scores`.

    Raises RunError or CheckpointError for learners, suites and folders that cannot be used.
    """
    suite = read_suite(suite)
    folder = Path(run) if run is not None else Path("runs") / f"exam-{time.strftime('%Y%m%d-%H%M%S')}"
    began = time.monotonic()
    entrants = admit(learners)
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        header = _header(folder, suite, entrants, runs or suite.runs, seconds)
        entrants = saved(entrants, folder)
        asked = [dataclasses.replace(suite, log=None)]
        if (drawn := twins_of(suite, header.arguments["twins"])) is not None:
            asked.append(drawn)
        records = read_records(folder) + read_records(folder, TWIN_RECORDS)
        tasks = plan(asked, entrants, header.runs, finished_lifetimes(records))

        found: list[Finding] = []
        for ended in _work(Hall(asked, entrants, seconds), tasks, folder, workers, callback):
            for lived, replay in ended.lived:
                ours = lived[0].suite_hash == suite.digest
                append_records(folder, lived, RECORDS if ours else TWIN_RECORDS)
                if replay is not None and ours:
                    append_replay(folder, replay)
            found += ended.findings

        records = read_records(folder)
        for note in header.learners:
            found += overlap(suite, note)
        found += twins(records, read_records(folder, TWIN_RECORDS)) + failures(header, records)
        header = dataclasses.replace(header, findings=tuple(found), seconds=round(time.monotonic() - began, 1))
        write_header(folder, header)
        return ExamReport(records, header, folder, write_exam_page(folder))


def _header(folder: Path, suite: Suite, entrants: Sequence[Entrant], runs: int, seconds: float) -> ExamHeader:
    """The header of the exam in a folder: of the one that is there already, if it is this one, or of a new one.

    A sealed suite is opened here, once for each exam. Raises RunError where the folder holds another exam.
    """
    notes = tuple(entrant.note for entrant in entrants)
    if (folder / HEADER).is_file():
        was = read_header(folder)
        pairs = {
            "suite": (was.suite_hash, suite.digest),
            "learners": (
                [(n.name, n.source, n.digest) for n in was.learners],
                [(n.name, n.source, n.digest) for n in notes],
            ),
            "runs": (was.runs, runs),
            "seconds": (was.arguments["seconds"], seconds),
            "commit": ((was.commit, was.dirty), _commit()),
            "versions": ({name: was.versions.get(name) for name in versions()}, versions()),
        }
        if other := [name for name, (old, new) in pairs.items() if old != new]:
            raise RunError(f"{folder} holds an exam that differs in {', '.join(other)}: give another folder")
        return dataclasses.replace(was, seconds=None)
    openings, seal = (None, None) if suite.log is None else record_opening(suite, ", ".join(n.name for n in notes))
    tree, dirty = _commit()
    header = ExamHeader(
        suite=suite.name,
        suite_version=suite.version,
        suite_hash=suite.digest,
        openings=openings,
        access=suite.access,
        learners=notes,
        arguments={"seconds": seconds, "twins": secrets.randbits(31)},
        commit=tree,
        dirty=dirty,
        versions=versions() | _peer_versions(),
        device=device(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        runs=runs,
        attempts={job.id: job.attempts if job.steps is None else None for job in suite.jobs},
        thresholds={job.id: job.threshold for job in suite.jobs if job.threshold is not None},
        seal=seal,
    )
    write_header(folder, header)
    return header


def _work(
    hall: Hall, tasks: Sequence[Task], folder: Path, workers: int | None, callback: Callback | None
) -> Iterator[Ended]:
    """Do all tasks: beside each other what other processes can do, then the rest here."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = cores if jax.default_backend() == "cpu" else 0  # this process holds the accelerator's memory
    alone = [not workers or (task.kind != "audit" and hall.entrants[task.entrant].spec is None) for task in tasks]
    here, beside = list(compress(tasks, alone)), list(compress(tasks, map(operator.not_, alone)))
    done, every = 0, sum(len(task.seats) for task in tasks if task.kind != "audit")
    for ended in chain(work_beside(hall, beside, folder, workers) if beside else (), work_here(hall, here)):
        yield ended
        done += len(ended.lived)
        if callback is not None:
            callback(done, every)


def _commit() -> tuple[str | None, bool]:
    """Of the source tree, and whether it had changes; none where the package is installed."""
    tree = commit()
    return (None, False) if tree is None else (tree.removesuffix("-dirty"), tree.endswith("-dirty"))


def _peer_versions() -> dict[str, str]:
    """Of the libraries of other learners, where one of them is in use."""
    there = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("stable_baselines3", "torch")}
    return {name: version for name, version in there.items() if version is not None}
