"""The store of what happened: the latest rows of every stream in a ring, and all of them in segments on disk.

A row is what one stream delivered and did at one moment; which fields it has is the caller's choice. Rows of a
stream are numbered from 0 and row n lies in slot n % capacity. Every `stride` rows the memory state before the
row is kept too, so that a sequence that starts there can be replayed with the memory it began with (R2D2).
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from fifteen.checkpoint import PARTIAL, atomic_write, pack, read_verified, unpack
from fifteen.errors import CheckpointError

FORMAT = 1
UNCLAIMED = "unclaimed"


@dataclass(frozen=True)
class Field:
    """One field of a row: its shape (of a single row) and numpy dtype name."""

    shape: tuple[int, ...]
    dtype: str


@final
class Experience:
    """Rows of E streams in a preallocated ring, and append-only segments on disk.

    capacity: rows per stream, a multiple of `stride`. All memory is taken at construction, none later.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        *,
        streams: int,
        capacity: int,
        stride: int,
        memory_size: int,
    ):
        if streams < 1 or stride < 1 or capacity < stride or capacity % stride:
            raise ValueError(
                f"streams={streams}, capacity={capacity}, stride={stride}: expected at least one stream and a "
                "capacity that is a multiple of the stride"
            )
        self.fields = dict(fields)
        self.streams = streams
        self.capacity = capacity
        self.stride = stride
        self.memory_size = memory_size
        self.count = np.zeros(streams, np.int64)  # int64[E]: rows ever appended
        self.rows = {  # name -> [E, capacity, *shape]
            name: _touched((streams, capacity, *field.shape), field.dtype) for name, field in self.fields.items()
        }
        self.memory = _touched((streams, capacity // stride, memory_size), "float32")
        # The same arrays with streams and slots as one axis, for flat indices in the hot paths.
        self._flat = {name: ring.reshape(-1, *ring.shape[2:]) for name, ring in self.rows.items()}
        self._flat_memory = self.memory.reshape(streams * (capacity // stride), memory_size)
        self._expected = {name: ((streams, *field.shape), np.dtype(field.dtype)) for name, field in self.fields.items()}
        self._folder: Path | None = None
        self._saved = np.zeros(streams, np.int64)  # int64[E]: rows on disk
        self._segments: list[dict[str, Any]] = []
        self._retired: list[str] = []

    def due(self) -> np.ndarray:
        """bool[E]: the next row of the stream begins a stride, so its memory must be given."""
        return self.count % self.stride == 0

    def append(self, rows: Mapping[str, np.ndarray], active: np.ndarray, memory: np.ndarray | None) -> None:
        """Adds one row to every stream that is active; the others keep theirs.

        rows: name -> [E, *shape], every field, in its own dtype. active: bool[E]. memory: float32[E, memory_size],
        the state before the row, needed where due() & active, else ignored. Raises ValueError, before anything is
        changed, where these do not hold.
        """
        if rows.keys() != self._expected.keys():
            raise ValueError(f"rows have fields {sorted(rows)}, expected {sorted(self._expected)}")
        for name, (shape, dtype) in self._expected.items():
            row = rows[name]
            if row.shape != shape or row.dtype != dtype:
                raise ValueError(f"rows[{name!r}] is {row.dtype}{list(row.shape)}, expected {dtype}{list(shape)}")
        if active.shape != (self.streams,) or active.dtype != np.bool_:
            raise ValueError(f"active is {active.dtype}{list(active.shape)}, expected bool[{self.streams}]")
        slots = self.capacity // self.stride
        counts = self.count.tolist()
        streams = active.nonzero()[0].tolist()
        begins = [stream for stream in streams if counts[stream] % self.stride == 0]
        if begins:
            shape = (self.streams, self.memory_size)
            if memory is None or memory.shape != shape or memory.dtype != np.float32:
                given = "None" if memory is None else f"{memory.dtype}{list(memory.shape)}"
                raise ValueError(
                    f"memory is {given}, expected float32{list(shape)}: streams {begins} begin a stride (see due())"
                )
            for stream in begins:
                self.memory[stream, counts[stream] // self.stride % slots] = memory[stream]
        for stream in streams:
            slot = counts[stream] % self.capacity
            for name, ring in self.rows.items():
                ring[stream, slot] = rows[name][stream]
            self.count[stream] += 1

    def extend(self, rows: Mapping[str, np.ndarray], memory: np.ndarray) -> None:
        """Adds rows of the only stream, as `append` does one after the other.

        rows: name -> [T, *shape], every field, in its own dtype, T at most the capacity. memory: float32[S,
        memory_size], the state before each of those rows that begin a stride. Raises ValueError, before anything is
        changed, where these do not hold, or there are several streams.
        """
        count = int(self.count.sum())
        length = len(next(iter(rows.values())))
        begins = np.arange(-(-count // self.stride), -(-(count + length) // self.stride))
        expected = {name: ((length, *field.shape), field.dtype) for name, field in self.fields.items()}
        expected["memory"] = ((len(begins), self.memory_size), "float32")
        given = {name: (array.shape, array.dtype.name) for name, array in {**rows, "memory": memory}.items()}
        if self.streams != 1 or length > self.capacity:
            raise ValueError(
                f"{length} rows for {self.streams} streams of {self.capacity}: expected one stream, and no more rows "
                "than it holds"
            )
        if given != expected:
            raise ValueError(f"rows are {given}, expected {expected}")
        self._flat_memory[begins % (self.capacity // self.stride)] = memory
        at = np.arange(count, count + length) % self.capacity
        for name, ring in self._flat.items():
            ring[at] = rows[name]
        self.count += length

    @property
    def unsaved(self) -> int:
        """Rows that are not on the disk, of the stream that has the most of them."""
        return int((self.count - self._saved).max())

    def available(self, length: int) -> int:
        """How many sequences of `length` + 1 rows can be sampled, over all streams."""
        return sum(self._starts(length)[1])

    def sample(
        self, generator: np.random.Generator | None, batch: int, length: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`batch` sequences of `length` + 1 consecutive rows, uniform over every start in the ring.

        generator: None: none is drawn, they are spread evenly from the first start to the last.

        Returns name -> [batch, length + 1, *shape] and float32[batch, memory_size], the memory before the first
        row. Starts are the rows that begin a stride. Raises ValueError if none is available.
        """
        lowest, number = self._starts(length)
        ends = np.cumsum(number, dtype=np.int64)
        if not ends[-1]:
            raise ValueError(
                f"no sequence of {length + 1} rows: the streams have {self.count.tolist()} rows in rings of "
                f"{self.capacity}; check available({length}) first"
            )
        drawn = chosen(generator, int(ends[-1]), batch)
        stream = ends.searchsorted(drawn, side="right")
        start = drawn - (ends - np.add(number, lowest))[stream]  # int64[batch], in strides
        row = (start * self.stride)[:, None] + np.arange(length + 1)
        row %= self.capacity
        row += (stream * self.capacity)[:, None]
        memory = self._flat_memory.take(row[:, 0] // self.stride, axis=0)
        return {name: ring.take(row, axis=0) for name, ring in self._flat.items()}, memory

    def tail(self, stream: int, rows: int) -> dict[str, np.ndarray]:
        """The last `rows` rows of a stream in order: name -> [rows, *shape]. ValueError if the ring has fewer."""
        count = int(self.count[stream])
        if not 0 <= rows <= min(count, self.capacity):
            raise ValueError(f"rows={rows}: stream {stream} has {min(count, self.capacity)} rows in its ring")
        at = np.arange(count - rows, count) % self.capacity
        return {name: ring[stream].take(at, axis=0) for name, ring in self.rows.items()}

    def save(self, folder: Path, keep_rows: int = 1_000_000) -> dict[str, Any]:
        """Writes the rows since the last save as one new segment file; never touches older ones.

        Returns the index: JSON-able, all that `load` needs beside the files. It names only segments that have a
        row among the last max(keep_rows, capacity) of its stream; `prune` deletes the others once the index
        itself is safe on disk. Save at least every `capacity` rows: what the ring has overwritten can no longer
        be written. In another folder than last time everything in the ring is written, as to a new store. One
        writer at a time: hold the folder's `FolderLock`. Raises CheckpointError if the disk is full or cannot
        be written; the rows then go with the next save.
        """
        folder = Path(folder).resolve()
        if folder != self._folder:
            self._folder, self._segments, self._retired = folder, [], []
            self._saved = np.zeros(self.streams, np.int64)
        first, last = np.maximum(self._saved, self.count - self.capacity), self.count.copy()
        if (first < last).any():
            extent = {
                "first": first.tolist(),
                "last": last.tolist(),
            }  # rows first..last-1 per stream
            at, at_memory = self._slots(first, last)
            arrays = {f"rows/{name}": ring.take(at, axis=0) for name, ring in self._flat.items()}
            arrays["memory"] = self._flat_memory.take(at_memory, axis=0)
            about = json.dumps({"format": FORMAT, **extent})  # one key only: their order is not fixed
            data = pack(arrays, metadata={"segment": about})
            sha256 = hashlib.sha256(data).hexdigest()
            name = f"segment-{first.sum():012d}-{sha256[:12]}.safetensors"  # sorts in order
            atomic_write(folder / name, data)
            self._segments.append({"file": name, "sha256": sha256, "bytes": len(data), **extent})
            self._saved = last
        horizon = self.count - max(keep_rows, self.capacity)
        kept = []
        for segment in self._segments:
            end = np.array(segment["last"])
            if (end <= np.maximum(horizon, segment["first"])).all():
                self._retired.append(segment["file"])
            else:
                kept.append(segment)
        self._segments = kept
        return {
            **_identity(self.fields, self.streams, self.capacity, self.stride, self.memory_size),
            "count": last.tolist(),
            "segments": [dict(segment) for segment in kept],
            "retired": list(self._retired),
        }

    def prune(self) -> None:
        """Deletes the segment files that the index of the last save no longer names.

        Call it when that index is on disk. Until then an older index may be the one that a resume finds, and it
        names these files.
        """
        for name in self._retired:
            if self._folder is not None:
                with suppress(OSError):  # what cannot be deleted now is set aside at the next load
                    (self._folder / name).unlink()
        self._retired = []

    @classmethod
    def load(
        cls,
        folder: Path,
        index: Mapping[str, Any],
        fields: Mapping[str, Field],
        *,
        streams: int,
        capacity: int,
        stride: int,
        memory_size: int,
    ) -> Self:
        """The store as it was at the save that returned `index`: its ring bit for bit, going on from there.

        Segments that the index does not name (written after the last complete save) are moved to
        folder/unclaimed, never deleted. Raises CheckpointError, before anything is moved, for a missing,
        truncated or corrupted segment, a newer format, or an index of a store of another kind.
        """
        folder = Path(folder).resolve()
        _check_identity(folder, index, _identity(fields, streams, capacity, stride, memory_size))
        self = cls(fields, streams=streams, capacity=capacity, stride=stride, memory_size=memory_size)
        self.count[:] = index["count"]
        oldest = np.maximum(self.count - capacity, 0)
        covered = oldest.copy()
        for segment in index["segments"]:
            path = folder / segment["file"]
            data = read_verified(path, size=segment["bytes"], sha256=segment["sha256"])
            first, last = np.array(segment["first"]), np.array(segment["last"])
            if (np.maximum(first, oldest) < last).any():
                self._restore(unpack(data, path), first, last)
                covered = np.where(first <= covered, np.maximum(covered, last), covered)
        if (covered != self.count).any():
            raise CheckpointError(
                f"{folder}: the segments reach rows {covered.tolist()} without a gap, expected "
                f"{self.count.tolist()}: the index does not belong to them; use another checkpoint"
            )
        self._folder, self._saved = folder, self.count.copy()
        self._segments = [dict(segment) for segment in index["segments"]]
        self._retired = list(index["retired"])
        self.prune()
        _set_aside(folder, {segment["file"] for segment in self._segments})
        return self

    def _starts(self, length: int) -> tuple[list[int], list[int]]:
        """Per stream: the oldest start still in the ring, in strides, and how many there are from it on."""
        counts = self.count.tolist()  # for few streams plain integers are quicker than arrays
        lowest = [max(0, -((self.capacity - count) // self.stride)) for count in counts]
        number = [
            max(0, (count - length - 1) // self.stride + 1 - low) for count, low in zip(counts, lowest, strict=True)
        ]
        return lowest, number

    def _slots(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of rows first..last-1 of every stream, streams one after the other; and of their memories."""
        slots = self.capacity // self.stride
        rows, memories = [], []
        for stream in range(self.streams):
            rows.append(stream * self.capacity + np.arange(first[stream], last[stream]) % self.capacity)
            start, stop = -(-first[stream] // self.stride), -(-last[stream] // self.stride)
            memories.append(stream * slots + np.arange(start, stop) % slots)
        return np.concatenate(rows), np.concatenate(memories)

    def _restore(self, arrays: Mapping[str, np.ndarray], first: np.ndarray, last: np.ndarray) -> None:
        # Oldest segments come first, so where rows share a slot the later assignment, the newer row, stays;
        # within a segment no slot occurs twice, because it was written from a ring of the same capacity.
        at, at_memory = self._slots(first, last)
        for name, ring in self._flat.items():
            ring[at] = arrays[f"rows/{name}"]
        self._flat_memory[at_memory] = arrays["memory"]


def chosen(generator: np.random.Generator | None, number: int, batch: int) -> np.ndarray:
    """int64[batch] of range(number): drawn uniformly, or without a generator spread evenly from the first to the last.

    number: at least 1.
    """
    if generator is not None:
        return generator.integers(number, size=batch)
    return np.linspace(0, number - 1, batch).round().astype(np.int64)


def latest_memory(folder: Path, index: Mapping[str, Any]) -> np.ndarray:
    """The memory before the last stride that was saved, float32[memory_size]; of several streams, that of the last.

    folder, index: as for `Experience.load`. Raises CheckpointError where there is none, or its segment is not sound.
    """
    for segment in reversed(index["segments"]):
        path = folder / segment["file"]
        memory = unpack(read_verified(path, size=segment["bytes"], sha256=segment["sha256"]), path)["memory"]
        if len(memory):  # a segment may end before its first stride begins
            return memory[-1]
    raise CheckpointError(f"{folder} holds no memory: nothing was saved there; use another run")


def _touched(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of zeros whose pages are all in memory now (np.zeros would take them as they are first written)."""
    array = np.empty(shape, dtype)
    array.fill(0)
    return array


def _identity(
    fields: Mapping[str, Field], streams: int, capacity: int, stride: int, memory_size: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fields": {name: {"shape": list(field.shape), "dtype": field.dtype} for name, field in fields.items()},
        "streams": streams,
        "capacity": capacity,
        "stride": stride,
        "memory_size": memory_size,
    }


def _check_identity(folder: Path, index: Mapping[str, Any], expected: dict[str, Any]) -> None:
    version = index.get("format")
    if not isinstance(version, int):
        raise CheckpointError(f"{folder}: the index is not one of Fifteen's: it has no format")
    if version > FORMAT:
        raise CheckpointError(
            f"{folder} has the newer experience format {version}, this version of Fifteen reads formats up to "
            f"{FORMAT}: upgrade fifteen"
        )
    for key, value in expected.items():
        if index.get(key) != value:
            raise CheckpointError(
                f"{folder} holds experience with {key} {index.get(key)}, expected {value}: resume with the "
                "settings that the run was started with"
            )


def _set_aside(folder: Path, named: set[str]) -> None:
    if not folder.is_dir():
        return  # an index without segments: nothing was ever written
    try:
        (folder / PARTIAL).unlink(missing_ok=True)
        for path in folder.glob("segment-*.safetensors"):
            if path.name not in named:
                (folder / UNCLAIMED).mkdir(exist_ok=True)
                os.replace(path, folder / UNCLAIMED / path.name)
    except OSError as error:
        raise CheckpointError(
            f"cannot set aside what the last checkpoint of {folder} does not name: "
            f"{error.strerror or error}; make the folder writable"
        ) from error
