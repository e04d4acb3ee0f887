"""What an exam writes down: one record for each attempt, and a header that says what was asked of whom.

In the folder of an exam, `records.jsonl` has the attempts, one JSON object a line, only ever added to; `exam.json` has
the header. A process that is killed leaves at most one half line, which is dropped.
"""

import dataclasses
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from fifteen.checkpoint import atomic_write
from fifteen.errors import RunError

RECORDS = "records.jsonl"
HEADER = "exam.json"

Split = Literal["train", "iid", "held-out", "outside"]
Status = Literal["ok", "crashed", "refused", "missing", "not finite", "timed out", "not applicable"]
LearnerKind = Literal["fifteen", "callable", "sb3"]
FindingKind = Literal["overlap", "twins", "leak", "crashed", "refused", "missing", "not finite", "timed out"]


class Value(NamedTuple):
    """What a learner expected at one step of an attempt, and what came of it."""

    step: int  # of the attempt, from 0
    expected: float  # v_now: discounted return of the rest of the attempt, 0.99 a step, in the job's own reward units
    obtained: float  # the same of the rewards that then came; of a truncated attempt without those after the cut


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt (episode) of one learner on one job, or the failure that stands in its place."""

    learner: str  # its name in the exam
    job: str  # its id, unique in the suite
    family: str
    template: str  # "" where the job has none
    split: Split
    run: int  # which lifetime on this job, from 0
    attempt: int  # of this lifetime, from 0
    attempts: int  # of this lifetime that have a record: they were written together
    status: Status
    problem: str  # what went wrong, in words; "" where nothing did
    return_: float | None  # undiscounted, in the job's own reward units; None where there is none
    score: float | None  # 0: a random policy, 1: the reference; None where there is no return, or no reference
    length: int  # environment steps
    terminated: bool | None  # False: truncated; None: it did not end
    steps_before: int  # environment steps of the lifetime before this attempt
    seconds: float  # wall time; of attempts that were made many at once, an equal share
    values: tuple[Value, ...]  # at a few steps; empty for a learner without a value function
    suite: str
    suite_version: int
    suite_hash: str  # SHA-256

    @property
    def failed(self) -> bool:
        """Counts against the learner: neither done nor not applicable."""
        return self.status not in ("ok", "not applicable")


@dataclass(frozen=True)
class LearnerNote:
    """Who sat the exam."""

    name: str
    kind: LearnerKind
    source: str  # where it came from: "shipped", a path, a class; never a private folder's name unless it was given
    provenance: dict[str, Any] = field(default_factory=dict)  # of our learners: what they were schooled and worked on
    digest: str | None = None  # SHA-256 of the weights, or of the policy's file


@dataclass(frozen=True)
class Finding:
    """Something that a reader has to know before believing the scores."""

    kind: FindingKind
    learner: str  # "" where it does not depend on the learner
    job: str  # "" where it is about several
    text: str


@dataclass(frozen=True)
class ExamHeader:
    """What was asked, of whom, with what."""

    suite: str
    suite_version: int
    suite_hash: str  # SHA-256
    openings: int | None  # how often the sealed suite was opened, this time included; None: it is not sealed
    access: str  # who had access to the suite
    learners: tuple[LearnerNote, ...]
    arguments: dict[str, Any]
    commit: str | None  # of the source tree; None where the package is installed
    dirty: bool  # the tree had changes beside the commit
    versions: dict[str, str]
    device: str
    started: str  # UTC, ISO 8601
    runs: int  # lifetimes of each learner on each job
    attempts: dict[str, int | None]  # by job, all jobs of the suite: attempts of a lifetime; None: a budget of steps
    thresholds: dict[str, float]  # by job, where the suite has one: the score from which an attempt counts as solved
    findings: tuple[Finding, ...] = ()
    seconds: float | None = None  # wall time, of the last sitting where there were several; None while it is under way
    seal: str | None = None  # of a sealed suite: the hash of its log's last entry, to be published with the result


def write_header(folder: Path, header: ExamHeader) -> None:
    """Put the header into the folder of an exam, in one step. Raises CheckpointError on a full disk."""
    text = json.dumps(dataclasses.asdict(header), indent=1, allow_nan=False) + "\n"
    atomic_write(folder / HEADER, text.encode())


def read_header(folder: Path) -> ExamHeader:
    """The header of the exam in a folder. Raises RunError where there is none or it is of another version."""
    path = folder / HEADER
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        told["learners"] = tuple(LearnerNote(**note) for note in told["learners"])
        told["findings"] = tuple(Finding(**finding) for finding in told["findings"])
        return ExamHeader(**told)
    except FileNotFoundError:
        raise RunError(f"{folder} is not the folder of an exam: it has no {HEADER}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no header of an exam of this version ({error}): hold the exam again") from error


def append_records(folder: Path, records: Sequence[AttemptRecord], file: str = RECORDS) -> None:
    """Add records to the folder of an exam, in one write. Raises RunError where the disk does not take them.

    Numbers that are not finite become null: their record has to say so by its status.
    """
    lines = [json.dumps(record_to_json(record), allow_nan=False) for record in records]
    path = folder / file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        with path.open("a", encoding="utf-8") as opened:
            opened.write("".join(line + "\n" for line in lines))
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}. What was recorded before is kept: make room, then give "
            "the same command again"
        ) from error


def read_records(folder: Path, file: str = RECORDS) -> tuple[AttemptRecord, ...]:
    """All records of the exam in a folder, in the order in which they were written; none where there are none.

    A half last line is dropped. Of a lifetime that was recorded twice the later record counts. Raises RunError for a
    line in the middle that is no record.
    """
    path = folder / file
    if not path.is_file():
        return ()
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was not written to its end
    found: dict[tuple[str, str, int, int], AttemptRecord] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = record_from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"line {number} of {path} is no record of an attempt ({error}): the file was changed. Put the original "
                "back, or hold the exam in another folder"
            ) from error
        found[record.learner, record.job, record.run, record.attempt] = record
    return tuple(found.values())


def finished_lifetimes(records: Iterable[AttemptRecord]) -> set[tuple[str, str, int]]:
    """(learner, job, run) of the lifetimes whose records are all there: they need not be lived again."""
    seen: dict[tuple[str, str, int], set[int]] = defaultdict(set)
    wanted: dict[tuple[str, str, int], int] = {}
    for record in records:
        lifetime = record.learner, record.job, record.run
        seen[lifetime].add(record.attempt)
        wanted[lifetime] = record.attempts
    return {lifetime for lifetime, attempts in seen.items() if len(attempts) >= wanted[lifetime]}


def counted_scores(records: Sequence[AttemptRecord]) -> list[float | None]:
    """The score that each record counts as; None: it does not count.

    A failed attempt counts as 0 (chance), or as this learner's worst score on the job where that is lower: nobody
    gains by failing. Not counted are attempts that were not applicable, and done ones of jobs without a reference.
    """
    worst: dict[tuple[str, str], float] = defaultdict(float)
    for record in records:
        if record.status == "ok" and record.score is not None:
            worst[record.learner, record.job] = min(worst[record.learner, record.job], record.score)
    return [worst[record.learner, record.job] if record.failed else record.score for record in records]


def record_to_json(record: AttemptRecord) -> dict[str, Any]:
    """A record as JSON can hold it; numbers that are not finite become None."""
    told = dataclasses.asdict(record)
    told["return_"], told["score"] = _finite(record.return_), _finite(record.score)
    told["values"] = [list(value) for value in record.values if all(map(math.isfinite, value))]
    return told


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def record_from_json(told: dict[str, Any]) -> AttemptRecord:
    """Inverse of `record_to_json`. Raises TypeError or ValueError for what is no record."""
    told["values"] = tuple(Value(*row) for row in told["values"])
    record = AttemptRecord(**told)
    if record.status not in get_args(Status) or record.split not in get_args(Split):
        raise ValueError(f"status {record.status!r}, split {record.split!r}")
    return record


def _drop_half_line(path: Path) -> None:
    """What a kill left of a line would spoil the next one."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
