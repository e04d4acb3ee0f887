"""The store of what every instance lived through: the experience of many runs and jobs in one folder, bounded in bytes.

`segments/` holds the rows, in files of at most 512 rows of one stream; `index.sqlite` says which file holds what. A
segment is on disk before the transaction that names it, and one that was given up is deleted after the transaction
that forgets it: whatever the moment of a kill, the index names whole files only. `docs/store.md` is the schema, and
`store_index.surplus` says what goes when the budget is full.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import gymnasium as gym
import numpy as np

from fifteen.checkpoint import PARTIAL, FolderLock, atomic_write, pack, read_verified, unpack
from fifteen.config import MindConfig
from fifteen.errors import CheckpointError, StoreError
from fifteen.experience import UNCLAIMED, chosen
from fifteen.frames import Layout
from fifteen.instance import Statistics, read_statistics
from fifteen.store_index import (
    FORMAT,
    SEGMENT_ROWS,
    Index,
    JobRecord,
    Segment,
    Starts,
    mapped,
    pieces,
    starts,
    surplus,
)
from fifteen.store_intake import Intake, Log, Part, joined, read_log, read_run
from fifteen.store_kept import Kept

_MAPPED = 256  # segments that stay mapped into memory


@dataclass(frozen=True)
class Added:
    """What an addition did to the store."""

    job: str  # the job's id in the store
    rows: int  # new to the store
    segments: int  # files written
    known: int  # segments of the run that had been taken in before
    evicted: int  # files of any job given up for the budget
    longest: int  # rows that the longest of the run's streams has lived
    faults: Mapping[str, int]  # of foreign logs: counted repairs of observations


@final
class Store:
    """Experience of many runs, by job. One process at a time; not thread-safe. Also a context manager.

    Raises StoreError, CheckpointError where the disk is full or cannot be written, RunError where another process has
    the store open. Whatever is raised, what was stored before stays whole.
    """

    def __init__(self, folder: str | Path, *, budget: int | None = None):
        """Open or create. budget: bytes of all segments; None: as it was last time, for a new store 2 GiB.

        A smaller budget than last time is applied at the next addition. Files that the index does not name are moved
        to `unclaimed`, and `notes` says how many.
        """
        if budget is not None and budget < 1:
            raise StoreError(f"the budget is {budget} bytes, expected a positive number")
        self.folder = Path(folder)
        self.notes: list[str] = []
        self._files = self.folder / "segments"
        self._held: dict[str, list[Segment]] = {}
        self._begin: dict[tuple[str, int], Starts] = {}  # by job and length
        self._open: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()  # by segment
        self._verified: set[int] = set()
        with ExitStack() as stack:
            stack.enter_context(FolderLock(self.folder))
            self._index = Index(self.folder)
            stack.callback(self._index.close)
            self.kept = Kept(self._index)  # of every job beside its rows
            if budget is not None and budget != self.budget:
                with self._index.transaction():
                    self._index.insert("OR REPLACE", "meta", {"name": "budget", "value": budget})
            self._delete_retired()
            self._tidy()
            self._read_index()
            self._closing = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store. Closing twice is harmless."""
        self._open.clear()
        self._closing.close()

    @property
    def budget(self) -> int:
        """Bytes that all segments together may have."""
        return self._index.meta("budget")

    @property
    def mind(self) -> MindConfig | None:
        """The one shape of mind whose frames and memories the store holds; None while it is empty."""
        kept = self._index.meta("mind")
        return None if kept is None else MindConfig(**kept)

    # ------------------------------------------------------------------------------------------------ adding

    def add_run(self, run: str | Path, *, job: Any = None) -> Added:
        """Take in what a run lived through as far as it was saved; each segment once, however often it is called.

        run: the folder that was given to `fifteen.work`. job: needed only where it was begun with an environment or a
        factory. Nothing is taken unless every new segment is whole and finite.
        """
        return self._add(read_run(Path(run), job, self._index.job))

    def add_arrays(
        self,
        job: str,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        *,
        source: str,
        observation_space: gym.Space,
        action_space: gym.Space,
        mind: MindConfig | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Added:
        """Take in a log of another agent, n steps of whole attempts one after the other, marked as foreign.

        observations: of every attempt all, the last one too, so n and one for each attempt; actions, rewards,
        terminated, truncated: n. Composite ones as Gymnasium stacks them: dicts and tuples of arrays. job, kwargs:
        what `fifteen.work` would take. source: who acted; logs of one source and job are one job of the store. mind:
        needed for an empty store. The same arrays are taken once. What a log does not tell: see `read_log`.
        """
        mind = mind or self.mind
        if mind is None:
            raise StoreError("an empty store cannot know how to encode a log: add a run first, or give mind=")
        log = Log(observations, actions, rewards, terminated, truncated)
        return self._add(read_log(log, job, dict(kwargs or {}), source, observation_space, action_space, mind))

    def _add(self, intake: Intake) -> Added:
        job, run, kept = intake.job, intake.run, self._index.job(intake.job["id"])
        if self.mind is not None and self.mind != intake.mind:
            raise StoreError(
                f"{intake.where} has a mind of another shape ({intake.mind}) than {self.folder} ({self.mind}): use "
                "another store"
            )
        if kept is not None and any(kept[key] != job[key] for key in ("observation_space", "action_space", "fields")):
            raise StoreError(
                f"{intake.where} has the spaces {job['observation_space']} and {job['action_space']}, job "
                f"{job['id']!r} of {self.folder} has {kept['observation_space']} and {kept['action_space']}: these are "
                "different jobs; register one of them under another id"
            )
        found = self._index.rows("SELECT id, lived, first_added FROM runs WHERE name = ?", run["name"])
        if not found:
            found = self._index.rows("SELECT coalesce(max(id), 0) + 1, NULL, NULL FROM runs")
        number, lived, since = found[0]
        begun = json.loads(lived) if lived else [0] * run["streams"]
        fresh = [
            part for part in intake.parts if not self._index.rows("SELECT 1 FROM taken WHERE sha256 = ?", *part.sha256)
        ]
        known = len(intake.parts) - len(fresh)
        reached = begun
        for part in fresh:
            if any(a < r and a < b for a, b, r in zip(part.first, part.last, reached, strict=True)):
                raise StoreError(
                    f"{intake.where} has rows {part.first} to {part.last} of its streams, other ones than were taken "
                    f"in before, up to {reached}: a copy of the run went on differently; leave it out"
                )
            part.read()  # all are sound before one is taken: half a run is none
            reached = [max(a, b) for a, b in zip(reached, part.last, strict=True)]
        rows = written = evicted = 0
        for part in joined(fresh, run["stride"], SEGMENT_ROWS):
            begun = [max(a, b) for a, b in zip(begun, part.last, strict=True)]
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            times = {"lived": json.dumps(begun), "first_added": since or now, "last_added": now}
            since = times["first_added"]
            stayed, left = self._take(job, {**run, "id": number, **times}, part, intake.mind)
            rows, written, evicted = rows + sum(part.last) - sum(part.first), written + stayed, evicted + left
        return Added(job["id"], rows, written, known, evicted, max(reached), dict(intake.faults))

    def _take(self, job: dict[str, Any], run: dict[str, Any], part: Part, mind: MindConfig) -> tuple[int, int]:
        """Take in one part, or nothing of it. Returns how many segments were written, and how many given up."""
        held = [segment for its in self._held.values() for segment in its]
        place = max((segment.id for segment in held), default=0)
        fresh: dict[Segment, bytes] = {}
        for stream, first, last, arrays in pieces(part, run["stride"]):
            about = {"format": FORMAT, "job": job["id"], "run": run["name"], "stream": stream, "first_row": first}
            data = pack(arrays, metadata={"segment": json.dumps(about | {"end_row": last, "stride": run["stride"]})})
            sha256, place = hashlib.sha256(data).hexdigest(), place + 1
            cut = Segment(place, job["id"], run["id"], stream, first, last, run["stride"], len(data), sha256)
            fresh[cut] = data
        gone = set(surplus([*held, *fresh], self.budget))
        stay, leave = [s for s in fresh if s not in gone], [s for s in held if s in gone]
        try:
            for segment in stay:
                atomic_write(self._files / segment.file, fresh[segment])
            with self._index.transaction():
                self._index.insert("OR IGNORE", "meta", {"name": "mind", "value": json.dumps(dataclasses.asdict(mind))})
                self._index.insert("OR IGNORE", "jobs", job)
                self._index.insert("OR REPLACE", "runs", run)
                for sha256 in part.sha256:
                    self._index.insert("", "taken", {"sha256": sha256, "run": run["id"]})
                self._forget(leave)
                for s in stay:
                    row = {"id": s.id, "run": s.run, "stream": s.stream, "first_row": s.first, "end_row": s.last}
                    self._index.insert("", "segments", row | {"bytes": s.bytes, "sha256": s.sha256, "file": s.file})
        except (CheckpointError, StoreError):
            for segment in stay:  # they would only take space that is short
                with suppress(OSError):
                    (self._files / segment.file).unlink()
            raise
        finally:
            self._read_index()  # whatever was interrupted, the index is right
        self._delete_retired()
        return len(stay), len(leave)

    def _forget(self, segments: Sequence[Segment]) -> None:
        self._index.execute("DELETE FROM retired")  # those of last time are deleted
        for segment in segments:
            self._index.execute("DELETE FROM segments WHERE id = ?", segment.id)
            self._index.insert("", "retired", {"file": segment.file})

    # ----------------------------------------------------------------------------------------------- reading

    def jobs(self) -> list[JobRecord]:
        """Every job that experience was ever taken in of, in the order of their ids."""
        records = []
        for row in self._index.jobs("ORDER BY id"):
            id, held = row["id"], self._held.get(row["id"], [])
            runs = self._index.rows("SELECT learn, lived, first_added, last_added FROM runs WHERE job = ?", id)
            learn, lived, since, until = zip(*runs, strict=True)
            record = JobRecord(
                **{key: row[key] for key in ("id", "job", "step_limit", "observation_space", "action_space", "source")},
                kwargs=json.loads(row["kwargs"]),
                layout=Layout.read(json.loads(row["layout"])),
                continuous=np.array(json.loads(row["continuous"]), np.bool_),
                learn=tuple(sorted({mode for mode in learn if mode is not None})),
                instances=len(runs),
                lived=sum(sum(json.loads(rows)) for rows in lived),
                rows=sum(s.last - s.first for s in held),
                bytes=sum(s.bytes for s in held),
                segments=len(held),
                first_added=min(since),
                last_added=max(until),
            )
            records.append(record)
        return records

    def statistics(self, job: str) -> Statistics:
        """The statistics that the last run of a job ended with, or those of the rows of a foreign log."""
        found = self._index.rows(
            "SELECT statistics FROM runs WHERE job = ? ORDER BY last_added DESC, id DESC LIMIT 1", job
        )
        if not found:
            raise self._index.unknown(job)
        arrays = unpack(found[0][0], self.folder / "index.sqlite")
        return read_statistics(arrays)

    def available(self, job: str, length: int) -> int:
        """How many sequences of `length` rows of a job can be sampled."""
        return int(self._starts(job, length).number.sum())

    def sample(
        self, generator: np.random.Generator | None, job: str, batch: int, length: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`batch` sequences of `length` consecutive rows of one stream, uniform over every start that is held.

        generator: None: none is drawn, they are spread evenly from the first start to the last.

        Returns name -> [batch, length, *shape], fields as of `Experience.sample`, and float32[batch, memory_size], the
        memory before the first row. Starts are the rows that begin a stride; a sequence may go on from one segment
        into the next. Raises StoreError for an unknown job, one without such a sequence, and a segment that is not
        what it was.
        """
        starts = self._starts(job, length)
        if not starts.number.any():
            raise StoreError(
                f"job {job!r} of {self.folder} has no sequence of {length} rows: check available(job, {length}) first"
            )
        drawn = chosen(generator, int(starts.ends[-1]), batch)
        at = starts.ends.searchsorted(drawn, side="right")
        stride = drawn - (starts.ends - starts.number)[at] + starts.lowest[at]  # int64[batch], of the first row
        rows: dict[str, np.ndarray] = {}
        memory: list[Any] = [None] * batch
        for n in np.argsort(at, kind="stable").tolist():  # those of one segment together
            place, segment = int(at[n]), starts.segments[at[n]]
            memory[n] = self._arrays(segment)["memory"][stride[n] - starts.lowest[place]]
            row, filled = int(stride[n]) * segment.stride, 0
            while filled < length:
                segment = starts.segments[place]
                first = row + filled - segment.first
                number = min(length - filled, segment.last - segment.first - first)
                for name, array in self._arrays(segment).items():
                    field = name.removeprefix("rows/")
                    if field == name:
                        continue  # the memory
                    if field not in rows:
                        rows[field] = np.empty((batch, length, *array.shape[1:]), array.dtype)
                    rows[field][n, filled : filled + number] = array[first : first + number]
                filled, place = filled + number, place + 1
        return rows, np.stack(memory)

    def segments(self, job: str) -> tuple[Segment, ...]:
        """What is held of a job, in the order of arrival. StoreError if the job is unknown."""
        if job not in self._held:
            self._index.known(job)
        return tuple(self._held.get(job, ()))

    def read(self, segment: Segment) -> dict[str, np.ndarray]:
        """The arrays of a segment, verified: rows/<field> [rows, *shape] and memory float32[strides, memory_size]."""
        path = self._files / segment.file
        return unpack(read_verified(path, size=segment.bytes, sha256=segment.sha256), path)

    def verify(self, job: str | None = None) -> list[str]:
        """Read every segment, or those of a job; forget what is missing or corrupted. Returns what was wrong with each.

        Their files are moved to `unclaimed`. The only method whose time grows with what is held. Raises StoreError for
        an unknown job.
        """
        wrong: dict[Segment, str] = {}
        held = [segment for its in self._held.values() for segment in its] if job is None else self.segments(job)
        for segment in held:
            try:
                read_verified(self._files / segment.file, size=segment.bytes, sha256=segment.sha256)
            except CheckpointError as error:
                wrong[segment] = str(error)
        if wrong:
            with self._index.transaction():
                for segment in wrong:
                    self._index.execute("DELETE FROM segments WHERE id = ?", segment.id)
            self._read_index()
            self._tidy()
        return list(wrong.values())

    def _starts(self, job: str, length: int) -> Starts:
        if length < 1:
            raise ValueError(f"length is {length}, expected at least one row")
        if (job, length) not in self._begin:
            self._begin[job, length] = starts(self.segments(job), length)
        return self._begin[job, length]

    def _arrays(self, segment: Segment) -> dict[str, np.ndarray]:
        """Those of `read`, mapped into memory; verified the first time."""
        if segment.id in self._open:
            self._open.move_to_end(segment.id)
            return self._open[segment.id]
        path = self._files / segment.file
        if segment.id not in self._verified:
            try:
                read_verified(path, size=segment.bytes, sha256=segment.sha256)
            except CheckpointError as error:
                raise StoreError(f"{error}; or call verify(), which sets such segments aside") from error
            self._verified.add(segment.id)
        self._open[segment.id] = arrays = mapped(path)
        if len(self._open) > _MAPPED:
            self._open.popitem(last=False)
        return arrays

    # ------------------------------------------------------------------------------------------------- index

    def _read_index(self) -> None:
        self._held, self._begin = {}, {}
        for row in self._index.rows(
            "SELECT s.id, r.job, s.run, s.stream, s.first_row, s.end_row, r.stride, s.bytes, s.sha256 "
            "FROM segments s JOIN runs r ON r.id = s.run ORDER BY s.id"
        ):
            segment = Segment(*row)
            self._held.setdefault(segment.job, []).append(segment)
        ids = {segment.id for its in self._held.values() for segment in its}
        self._verified &= ids
        for id in self._open.keys() - ids:
            del self._open[id]

    def _delete_retired(self) -> None:
        for (file,) in self._index.rows("SELECT file FROM retired"):
            with suppress(OSError):  # what cannot be deleted now is set aside at the next opening
                (self._files / file).unlink()

    def _tidy(self) -> None:
        """Move what the index does not name out of the way."""
        named = {file for (file,) in self._index.rows("SELECT file FROM segments")}
        aside = self.folder / UNCLAIMED
        try:
            self._files.mkdir(exist_ok=True)
            (self._files / PARTIAL).unlink(missing_ok=True)
            orphans = [path for path in self._files.glob("segment-*.safetensors") if path.name not in named]
            for path in orphans:
                aside.mkdir(exist_ok=True)
                os.replace(path, aside / path.name)
        except OSError as error:
            raise StoreError(f"cannot tidy up {self.folder}: {error.strerror or error}; make it writable") from error
        if orphans:
            self.notes.append(f"{len(orphans)} segment files that the index does not name are in {aside} now")
