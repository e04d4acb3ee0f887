"""The index of a store and its segments: what there is of each job, how it is cut into files, and which must go."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from fifteen.errors import NoRoomError, StoreError
from fifteen.frames import Layout
from fifteen.store_intake import Part

FORMAT = 1
BUDGET = 2 * 2**30  # bytes of all segments
SEGMENT_ROWS = 512  # at most, and a cut wherever the row's number is a multiple of it
_DTYPES = {"F32": np.float32, "U8": np.uint8}  # of the arrays that segments have
_APPLICATION = 0x15AE05  # tells the file from those of other programs
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


def surplus(segments: Sequence[Segment], budget: int) -> list[Segment]:
    """The segments that must go so that the others hold at most `budget` bytes.

    As long as there are too many bytes: the job that holds the most of them gives up one segment. It keeps its newest
    ones, as many as hold at most half of its bytes and at least one. Of the older ones that with the greatest key
    goes, so that those that stay are a uniform sample, without replacement, of all that were ever old: a reservoir
    (Vitter 1985, "Random sampling with a reservoir"; by keys, so that it may shrink as jobs are added. Where it grows
    again, what became old since has the better chances.)
    Hence no job loses anything while it holds no more than budget / jobs bytes, and none loses its last segment.
    Raises NoRoomError where not even one segment of each job has room.
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
            raise NoRoomError(
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


class Starts(NamedTuple):
    """Where sequences of one length may start, in the segments of a job."""

    segments: list[Segment]  # [S], by run, stream and row
    lowest: np.ndarray  # int64[S], the first start, in strides
    number: np.ndarray  # int64[S]
    ends: np.ndarray  # int64[S], cumulative `number`


def starts(segments: Sequence[Segment], length: int) -> Starts:
    """Where `length` consecutive rows may start: at the rows that begin a stride."""
    its = sorted(segments, key=lambda s: (s.run, s.stream, s.first))
    runs = np.array([(s.run, s.stream) for s in its], np.int64).reshape(-1, 2)
    first, last, stride = np.array([(s.first, s.last, s.stride) for s in its], np.int64).reshape(-1, 3).T
    # Where a segment is not the continuation of the one before it, the one before it is the last of its chain.
    breaks = np.ones(len(its), np.bool_)
    breaks[:-1] = (runs[1:] != runs[:-1]).any(axis=1) | (first[1:] != last[:-1])
    ends = np.flatnonzero(breaks)
    reach = last[ends[ends.searchsorted(np.arange(len(its)))]]
    lowest = -(-first // stride)
    number = np.maximum(np.minimum(last - 1, reach - length) // stride - lowest + 1, 0)
    return Starts(its, lowest, number, np.cumsum(number))


def pieces(part: Part, stride: int) -> Iterator[tuple[int, int, int, dict[str, np.ndarray]]]:
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


def mapped(path: Path) -> dict[str, np.ndarray]:
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


@final
class Index:
    """The SQLite file of a store. StoreError where it is foreign, of another format, or cannot be read or written."""

    def __init__(self, folder: Path):
        """Open or create."""
        self.folder = folder
        with self.told():
            self._file = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
            try:
                self._create_or_check()
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        self._file.close()

    def execute(self, statement: str, *values: Any) -> None:
        self._file.execute(statement, values)

    def job(self, id: str) -> dict[str, Any] | None:
        """The row of a job."""
        return next(iter(self.jobs("WHERE id = ?", id)), None)

    def known(self, id: str) -> dict[str, Any]:
        """The same. Raises StoreError where there is none."""
        if (row := self.job(id)) is None:
            raise self.unknown(id)
        return row

    def unknown(self, id: str) -> StoreError:
        known = ", ".join(row["id"] for row in self.jobs("ORDER BY id"))
        return StoreError(f"{self.folder} has no job {id!r}; it has {known or 'none'}")

    def jobs(self, which: str, *values: Any) -> list[dict[str, Any]]:
        rows = self.rows(f"SELECT {', '.join(_JOB)} FROM jobs {which}", *values)
        return [dict(zip(_JOB, row, strict=True)) for row in rows]

    def rows(self, query: str, *values: Any) -> list[tuple]:
        with self.told():
            return self._file.execute(query, values).fetchall()

    def insert(self, conflict: str, table: str, row: Mapping[str, Any]) -> None:
        names, places = ", ".join(row), ", ".join("?" * len(row))
        self._file.execute(f"INSERT {conflict} INTO {table} ({names}) VALUES ({places})", tuple(row.values()))

    def meta(self, name: str) -> Any:
        rows = self.rows("SELECT value FROM meta WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else None

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.folder / 'index.sqlite'}: {error}; what was stored before is untouched. If the disk is full, "
                "make room and try again; if the file is not a store's, give another folder"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.told():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    def _create_or_check(self) -> None:
        self._file.execute("PRAGMA synchronous = EXTRA")  # a committed transaction outlives a power cut
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (version,) = self._file.execute("PRAGMA user_version").fetchone()
        if not self._file.execute("SELECT 1 FROM sqlite_master").fetchall():
            with self.transaction():
                for statement in _SCHEMA.split(";\n")[:-1]:
                    self._file.execute(statement)
                self.insert("", "meta", {"name": "budget", "value": BUDGET})
                self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._file.execute(f"PRAGMA user_version = {FORMAT}")
        elif application != _APPLICATION:
            raise StoreError(f"{self.folder / 'index.sqlite'} is not the index of a store: give another folder")
        elif version != FORMAT:
            raise StoreError(
                f"{self.folder} is a store of format {version}, this version of Fifteen reads format {FORMAT}: upgrade "
                "fifteen"
            )
