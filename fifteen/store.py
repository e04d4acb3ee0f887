"""The store of what every instance lived through: the experience of many runs and jobs in one folder, bounded in bytes.

`segments/` holds the rows, in files of at most 512 rows of one stream; `index.sqlite` says which file holds what. A
segment is on disk before the transaction that names it, and one that was given up is deleted after the transaction
that forgets it: whatever the moment of a kill, the index names whole files only. `docs/store.md` is the schema, and
`surplus` says what goes when the budget is full.
"""

import dataclasses
import hashlib
import json
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import gymnasium as gym
import jax.numpy as jnp
import numpy as np

from fifteen.checkpoint import PARTIAL, FolderLock, atomic_write, pack, read_verified, unpack
from fifteen.config import MindConfig
from fifteen.errors import CheckpointError
from fifteen.experience import UNCLAIMED
from fifteen.frames import Layout
from fifteen.instance import Statistics
from fifteen.store_formats import Intake, Log, Part, StoreError, read_log, read_run

FORMAT = 1
BUDGET = 2 * 2**30  # bytes of all segments
SEGMENT_ROWS = 512  # at most, and a cut wherever the row's number is a multiple of it
_APPLICATION = 0x15AE05  # tells the file from those of other programs
_MAPPED = 256  # segments that stay mapped into memory
_DTYPES = {"F32": np.float32, "U8": np.uint8}  # of the arrays that segments have
_JOB = "id job kwargs step_limit source observation_space action_space layout continuous fields".split()
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, job TEXT, kwargs TEXT NOT NULL, step_limit INTEGER, source TEXT,
  observation_space TEXT NOT NULL, action_space TEXT NOT NULL,
  layout TEXT NOT NULL, continuous TEXT NOT NULL, fields TEXT NOT NULL);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, job TEXT NOT NULL REFERENCES jobs (id),
  parent TEXT, learn TEXT, seed INTEGER, streams INTEGER NOT NULL, stride INTEGER NOT NULL,
  versions TEXT NOT NULL, device TEXT NOT NULL, config TEXT NOT NULL, lived TEXT NOT NULL, statistics BLOB NOT NULL,
  first_added TEXT NOT NULL, last_added TEXT NOT NULL);
CREATE TABLE taken (sha256 TEXT PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id));
CREATE TABLE segments (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs (id), stream INTEGER NOT NULL,
  first_row INTEGER NOT NULL, end_row INTEGER NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL,
  file TEXT UNIQUE NOT NULL);
CREATE TABLE retired (file TEXT PRIMARY KEY);
"""


@final
@dataclass(frozen=True)
class Segment:
    """Rows first..last-1 of one stream of one run, in one file."""

    id: int  # in the order of arrival
    job: str
    run: int
    stream: int
    first: int
    last: int
    stride: int  # rows whose number is a multiple of it have the memory before them in the file
    bytes: int
    sha256: str  # of the file

    @property
    def file(self) -> str:
        return f"segment-{self.sha256[:16]}.safetensors"

    @property
    def key(self) -> int:
        """What decides which older segments stay: as good as random, and the same wherever it is computed."""
        return int(self.sha256[-16:], 16)


@dataclass(frozen=True)
class Added:
    """What an addition did to the store."""

    job: str  # the job's id in the store
    rows: int  # new to the store
    segments: int  # files written
    known: int  # segments of the run that had been taken in before
    evicted: int  # files of any job given up for the budget
    faults: Mapping[str, int]  # of foreign logs: counted repairs of observations


@dataclass(frozen=True, eq=False)
class JobRecord:
    """One job in the store."""

    id: str  # the job's id; with its kwargs in JSON where it has any, and with the source of foreign logs
    job: str | None  # what `open_job` takes, with `kwargs` and `step_limit`; None: begun with an environment
    kwargs: Mapping[str, Any]
    step_limit: int | None  # as the first run had it
    observation_space: str
    action_space: str
    layout: Layout
    continuous: np.ndarray  # bool[slots], as of `Senses`
    source: str | None  # of foreign logs: what the caller said
    learn: tuple[str, ...]  # the modes of its runs; none for foreign logs
    instances: int  # runs
    lived: int  # rows ever taken in
    rows: int  # rows held
    bytes: int
    segments: int
    first_added: str  # UTC
    last_added: str

    @property
    def foreign(self) -> bool:
        """The rows are logs of other agents: their memory, expectations and log-probabilities say nothing."""
        return self.source is not None


class _Starts(NamedTuple):
    """Where sequences of one length may start, in the segments of a job."""

    segments: list[Segment]  # [S], by run, stream and row
    lowest: np.ndarray  # int64[S], the first start, in strides
    number: np.ndarray  # int64[S]
    ends: np.ndarray  # int64[S], cumulative `number`


def surplus(segments: Sequence[Segment], budget: int) -> list[Segment]:
    """The segments that must go so that the others hold at most `budget` bytes.

    As long as there are too many bytes: the job that holds the most of them gives up one segment. It keeps its newest
    ones, as many as hold at most half of its bytes and at least one. Of the older ones that with the greatest key
    goes, so that those that stay are a uniform sample, without replacement, of all that were ever old: a reservoir
    (Vitter 1985, "Random sampling with a reservoir"; by keys, so that it may shrink as jobs are added. Where it grows
    again, what became old since has the better chances.)
    Hence no job loses anything while it holds no more than budget / jobs bytes, and none loses its last segment.
    Raises StoreError where not even one segment of each job has room.
    """
    if sum(segment.bytes for segment in segments) <= budget:
        return []
    jobs: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=lambda s: s.id, reverse=True):
        jobs.setdefault(segment.job, []).append(segment)
    held = {job: sum(s.bytes for s in its) for job, its in jobs.items()}
    total, gone = sum(held.values()), []
    while total > budget:
        job = max((job for job in jobs if len(jobs[job]) > 1), key=lambda job: (held[job], job), default=None)
        if job is None:
            raise StoreError(
                f"the budget of {budget} bytes has no room for one segment of each of {len(jobs)} jobs, together "
                f"{total} bytes: open the store with a larger budget"
            )
        ends = np.cumsum([s.bytes for s in jobs[job]])
        recent = max(1, int(np.searchsorted(ends, held[job] // 2, side="right")))
        loser = max(jobs[job][recent:], key=lambda s: s.key)
        jobs[job].remove(loser)
        held[job] -= loser.bytes
        total -= loser.bytes
        gone.append(loser)
    return gone


@final
class Store:
    """Experience of many runs, by job. One process at a time; not thread-safe. Also a context manager.

    Raises StoreError, CheckpointError where the disk is full or cannot be written, RunError where another process has
    the store open. Whatever is raised, what was stored before stays whole.
    """

    def __init__(self, folder: str | Path, *, budget: int | None = None):
        """Open or create. budget: bytes of all segments; None: as it was last time, for a new store `BUDGET`.

        A smaller budget than last time is applied at the next addition. Files that the index does not name are moved
        to `unclaimed`, and `notes` says how many.
        """
        if budget is not None and budget < 1:
            raise StoreError(f"the budget is {budget} bytes, expected a positive number")
        self.folder = Path(folder)
        self.notes: list[str] = []
        self._files = self.folder / "segments"
        self._held: dict[str, list[Segment]] = {}
        self._begin: dict[tuple[str, int], _Starts] = {}  # by job and length
        self._open: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()  # by segment
        self._verified: set[int] = set()
        with ExitStack() as stack:
            stack.enter_context(FolderLock(self.folder))
            with self._told():
                self._index = sqlite3.connect(self.folder / "index.sqlite", isolation_level=None)
                stack.callback(self._index.close)
                self._create_or_check()
            if budget is not None and budget != self.budget:
                with self._transaction():
                    self._insert("OR REPLACE", "meta", {"name": "budget", "value": budget})
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
        return self._meta("budget")

    @property
    def mind(self) -> MindConfig | None:
        """The one shape of mind whose frames and memories the store holds; None while it is empty."""
        kept = self._meta("mind")
        return None if kept is None else MindConfig(**kept)

    # ------------------------------------------------------------------------------------------------ adding

    def add_run(self, run: str | Path, *, job: Any = None) -> Added:
        """Take in what a run lived through as far as it was saved; each segment once, however often it is called.

        run: the folder that was given to `fifteen.work`. job: needed only where it was begun with an environment or a
        factory. Nothing is taken unless every new segment is whole and finite.
        """
        return self._add(read_run(Path(run), job, self._job))

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
        job, run, kept = intake.job, intake.run, self._job(intake.job["id"])
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
        found = self._rows("SELECT id, lived, first_added FROM runs WHERE name = ?", run["name"])
        if not found:
            found = self._rows("SELECT coalesce(max(id), 0) + 1, NULL, NULL FROM runs")
        number, lived, since = found[0]
        begun = json.loads(lived) if lived else [0] * run["streams"]
        fresh = [part for part in intake.parts if not self._rows("SELECT 1 FROM taken WHERE sha256 = ?", part.sha256)]
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
        for part in fresh:
            begun = [max(a, b) for a, b in zip(begun, part.last, strict=True)]
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            times = {"lived": json.dumps(begun), "first_added": since or now, "last_added": now}
            since = times["first_added"]
            stayed, left = self._take(job, {**run, "id": number, **times}, part, intake.mind)
            rows, written, evicted = rows + sum(part.last) - sum(part.first), written + stayed, evicted + left
        return Added(job["id"], rows, written, len(intake.parts) - len(fresh), evicted, dict(intake.faults))

    def _take(self, job: dict[str, Any], run: dict[str, Any], part: Part, mind: MindConfig) -> tuple[int, int]:
        """Take in one part, or nothing of it. Returns how many segments were written, and how many given up."""
        held = [segment for its in self._held.values() for segment in its]
        place = max((segment.id for segment in held), default=0)
        fresh: dict[Segment, bytes] = {}
        for stream, first, last, arrays in _pieces(part, run["stride"]):
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
            with self._transaction():
                self._insert("OR IGNORE", "meta", {"name": "mind", "value": json.dumps(dataclasses.asdict(mind))})
                self._insert("OR IGNORE", "jobs", job)
                self._insert("OR REPLACE", "runs", run)
                self._insert("", "taken", {"sha256": part.sha256, "run": run["id"]})
                self._forget(leave)
                for s in stay:
                    row = {"id": s.id, "run": s.run, "stream": s.stream, "first_row": s.first, "end_row": s.last}
                    self._insert("", "segments", row | {"bytes": s.bytes, "sha256": s.sha256, "file": s.file})
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
            self._index.execute("DELETE FROM segments WHERE id = ?", (segment.id,))
            self._insert("", "retired", {"file": segment.file})

    # ----------------------------------------------------------------------------------------------- reading

    def jobs(self) -> list[JobRecord]:
        """Every job that experience was ever taken in of, in the order of their ids."""
        records = []
        for row in self._job_rows("ORDER BY id"):
            id, held = row["id"], self._held.get(row["id"], [])
            runs = self._rows("SELECT learn, lived, first_added, last_added FROM runs WHERE job = ?", id)
            learn, lived, since, until = zip(*runs, strict=True)
            layout: dict[str, Any] = json.loads(row["layout"])
            layout |= {name: tuple(value) for name, value in layout.items() if isinstance(value, list)}
            record = JobRecord(
                **{key: row[key] for key in ("id", "job", "step_limit", "observation_space", "action_space", "source")},
                kwargs=json.loads(row["kwargs"]),
                layout=Layout(**layout),
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
        found = self._rows("SELECT statistics FROM runs WHERE job = ? ORDER BY last_added DESC, id DESC LIMIT 1", job)
        if not found:
            raise self._unknown(job)
        arrays = unpack(found[0][0], self.folder / "index.sqlite")
        return Statistics(*(jnp.asarray(arrays[name]) for name in Statistics._fields))

    def available(self, job: str, length: int) -> int:
        """How many sequences of `length` rows of a job can be sampled."""
        return int(self._starts(job, length).number.sum())

    def sample(
        self, generator: np.random.Generator, job: str, batch: int, length: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`batch` sequences of `length` consecutive rows of one stream, uniform over every start that is held.

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
        drawn = generator.integers(starts.ends[-1], size=batch)
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
        if job not in self._held and self._job(job) is None:
            raise self._unknown(job)
        return tuple(self._held.get(job, ()))

    def read(self, segment: Segment) -> dict[str, np.ndarray]:
        """The arrays of a segment, verified: rows/<field> [rows, *shape] and memory float32[strides, memory_size]."""
        path = self._files / segment.file
        return unpack(read_verified(path, size=segment.bytes, sha256=segment.sha256), path)

    def verify(self) -> list[str]:
        """Read every segment; forget those that are missing or corrupted. Returns what was wrong with each.

        Their files are moved to `unclaimed`. The only method whose time grows with what is held.
        """
        wrong: dict[Segment, str] = {}
        for segment in [segment for its in self._held.values() for segment in its]:
            try:
                read_verified(self._files / segment.file, size=segment.bytes, sha256=segment.sha256)
            except CheckpointError as error:
                wrong[segment] = str(error)
        if wrong:
            with self._transaction():
                for segment in wrong:
                    self._index.execute("DELETE FROM segments WHERE id = ?", (segment.id,))
            self._read_index()
            self._tidy()
        return list(wrong.values())

    def _starts(self, job: str, length: int) -> _Starts:
        if length < 1:
            raise ValueError(f"length is {length}, expected at least one row")
        if (job, length) not in self._begin:
            its = sorted(self.segments(job), key=lambda s: (s.run, s.stream, s.first))
            runs = np.array([(s.run, s.stream) for s in its], np.int64).reshape(-1, 2)
            first, last, stride = np.array([(s.first, s.last, s.stride) for s in its], np.int64).reshape(-1, 3).T
            # Where a segment is not the continuation of the one before it, the one before it is the last of its chain.
            breaks = np.ones(len(its), np.bool_)
            breaks[:-1] = (runs[1:] != runs[:-1]).any(axis=1) | (first[1:] != last[:-1])
            ends = np.flatnonzero(breaks)
            reach = last[ends[ends.searchsorted(np.arange(len(its)))]]
            lowest = -(-first // stride)
            number = np.maximum(np.minimum(last - 1, reach - length) // stride - lowest + 1, 0)
            self._begin[job, length] = _Starts(its, lowest, number, np.cumsum(number))
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
        self._open[segment.id] = arrays = _mapped(path)
        if len(self._open) > _MAPPED:
            self._open.popitem(last=False)
        return arrays

    # ------------------------------------------------------------------------------------------------- index

    def _job(self, id: str) -> dict[str, Any] | None:
        """The row of a job."""
        return next(iter(self._job_rows("WHERE id = ?", id)), None)

    def _job_rows(self, which: str, *values: Any) -> list[dict[str, Any]]:
        rows = self._rows(f"SELECT {', '.join(_JOB)} FROM jobs {which}", *values)
        return [dict(zip(_JOB, row, strict=True)) for row in rows]

    def _unknown(self, job: str) -> StoreError:
        known = ", ".join(row["id"] for row in self._job_rows("ORDER BY id"))
        return StoreError(f"{self.folder} has no job {job!r}; it has {known or 'none'}")

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with self._told():
            return self._index.execute(query, values).fetchall()

    def _insert(self, conflict: str, table: str, row: Mapping[str, Any]) -> None:
        names, places = ", ".join(row), ", ".join("?" * len(row))
        self._index.execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({places})", tuple(row.values()))

    def _meta(self, name: str) -> Any:
        rows = self._rows("SELECT value FROM meta WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else None

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.folder / 'index.sqlite'}: {error}; what was stored before is untouched. If the disk is full, "
                "make room and try again; if the file is not a store's, give another folder"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._told():
            self._index.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._index.execute("COMMIT")
            except BaseException:
                if self._index.in_transaction:
                    self._index.execute("ROLLBACK")
                raise

    def _create_or_check(self) -> None:
        self._index.execute("PRAGMA synchronous = EXTRA")  # a committed transaction outlives a power cut
        (application,) = self._index.execute("PRAGMA application_id").fetchone()
        (version,) = self._index.execute("PRAGMA user_version").fetchone()
        if not self._index.execute("SELECT 1 FROM sqlite_master").fetchall():
            with self._transaction():
                for statement in _SCHEMA.split(";\n")[:-1]:
                    self._index.execute(statement)
                self._insert("", "meta", {"name": "budget", "value": BUDGET})
                self._index.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._index.execute(f"PRAGMA user_version = {FORMAT}")
        elif application != _APPLICATION:
            raise StoreError(f"{self.folder / 'index.sqlite'} is not the index of a store: give another folder")
        elif version != FORMAT:
            raise StoreError(
                f"{self.folder} is a store of format {version}, this version of Fifteen reads format {FORMAT}: upgrade "
                "fifteen"
            )

    def _read_index(self) -> None:
        self._held, self._begin = {}, {}
        for row in self._rows(
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
        for (file,) in self._rows("SELECT file FROM retired"):
            with suppress(OSError):  # what cannot be deleted now is set aside at the next opening
                (self._files / file).unlink()

    def _tidy(self) -> None:
        """Move what the index does not name out of the way."""
        named = {file for (file,) in self._rows("SELECT file FROM segments")}
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


def _pieces(part: Part, stride: int) -> Iterator[tuple[int, int, int, dict[str, np.ndarray]]]:
    """A part cut at multiples of about SEGMENT_ROWS: (stream, first, last, arrays of one segment)."""
    arrays, grid = part.read(), max(1, SEGMENT_ROWS // stride) * stride
    at = at_memory = 0
    for stream, (begin, end) in enumerate(zip(part.first, part.last, strict=True)):
        cuts = [begin, *range((begin // grid + 1) * grid, end, grid), end]
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            memories = -(-last // stride) - -(-first // stride)  # multiples of the stride in first..last-1
            piece = {name: array[at : at + last - first] for name, array in arrays.items() if name != "memory"}
            piece["memory"] = arrays["memory"][at_memory : at_memory + memories]
            at, at_memory = at + last - first, at_memory + memories
            if last > first:
                yield stream, first, last, piece


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a segment's file (safetensors: the header's size, the header, the bytes), read where touched."""
    raw = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + size].tobytes())
    arrays = {}
    for name in header.keys() - {"__metadata__"}:
        start, stop = header[name]["data_offsets"]
        data = raw[8 + size + start : 8 + size + stop]
        arrays[name] = np.asarray(data.view(_DTYPES[header[name]["dtype"]]).reshape(header[name]["shape"]))
    return arrays
