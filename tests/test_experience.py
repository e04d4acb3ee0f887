"""The store of what happened: exact rings and samples, segments that a fault never harms, constant memory."""

import errno
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.errors import CheckpointError
from fifteen.experience import Experience, Field

FIELDS = {
    "vector": Field((3,), "float32"),
    "tick": Field((), "int64"),
    "choice": Field((2,), "int32"),
    "image": Field((2, 2, 3), "uint8"),
    "first": Field((), "bool"),
}


def tick_rows(tick, streams):
    """Rows that tell by themselves at which tick and in which stream they were appended."""
    value = tick * 10 + np.arange(streams)
    return {
        "vector": np.stack([value, value + 0.25, -value], 1).astype(np.float32),
        "tick": value.astype(np.int64),
        "choice": np.stack([value, -value], 1).astype(np.int32),
        "image": np.broadcast_to(value[:, None, None, None], (streams, 2, 2, 3)).astype(np.uint8),
        "first": value % 3 == 0,
    }


def memories(tick, streams, size):
    return (tick * 10 + np.arange(streams)[:, None] + np.arange(size) / 8).astype(np.float32)


def filled(rows, *, streams=1, capacity=12, stride=4, memory_size=2):
    experience = Experience(FIELDS, streams=streams, capacity=capacity, stride=stride, memory_size=memory_size)
    for tick in range(rows):
        append(experience, tick)
    return experience


def append(experience, tick, active=None):
    streams = experience.streams
    active = np.ones(streams, bool) if active is None else active
    memory = memories(tick, streams, experience.memory_size)
    needed = (experience.due() & active).any()
    experience.append(tick_rows(tick, streams), active, memory if needed else None)


def reload(experience, folder, index, **changes):
    names = ("streams", "capacity", "stride", "memory_size")
    shape = {name: getattr(experience, name) for name in names}
    return Experience.load(folder, json.loads(json.dumps(index)), FIELDS, **(shape | changes))


def contents(experience, length=2):
    """Everything that must be the same bit for bit: counts, rings, memories, and what a sample gives."""
    found = [experience.count.tobytes(), experience.memory.tobytes()]
    found += [ring.tobytes() for ring in experience.rows.values()]
    if experience.available(length):
        rows, memory = experience.sample(np.random.default_rng(3), 7, length)
        found += [array.tobytes() for array in rows.values()] + [memory.tobytes()]
    return found


# The ring


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_many_rows_at_once_are_the_same_as_one_after_the_other(data):
    stride = data.draw(st.integers(1, 3), "stride")
    capacity = stride * data.draw(st.integers(1, 5), "capacity in strides")
    one, many = (filled(0, capacity=capacity, stride=stride) for _ in range(2))
    tick = 0
    for length in data.draw(st.lists(st.integers(0, capacity), max_size=8), "lengths"):
        ticks = range(tick, tick + length)
        rows = [tick_rows(each, 1) for each in ticks]
        joined = {name: np.concatenate([tick_rows(0, 1)[name][:0], *(row[name] for row in rows)]) for name in FIELDS}
        begins = [memories(each, 1, 2) for each in ticks if each % stride == 0]
        many.extend(joined, np.concatenate([np.zeros((0, 2), np.float32), *begins]))
        for each in ticks:
            append(one, each)
        tick += length
        assert contents(one) == contents(many)


def test_rows_that_do_not_fit_change_nothing():
    experience = filled(6)
    before = contents(experience)
    rows = {name: np.concatenate([array] * 3) for name, array in tick_rows(0, 1).items()}
    memory = np.ones((1, 2), np.float32)  # of row 8
    for wrong, states in (
        ({name: rows[name] for name in ("vector", "tick")}, memory),
        (rows | {"tick": rows["tick"].astype(np.int32)}, memory),
        (rows, memory[:0]),
        ({name: np.concatenate([array] * 5) for name, array in rows.items()}, np.ones((4, 2), np.float32)),
    ):
        with pytest.raises(ValueError, match="expected"):
            experience.extend(wrong, states)
    with pytest.raises(ValueError, match="3 rows for 2 streams"):
        filled(0, streams=2).extend(rows, memory)
    assert contents(experience) == before
    experience.extend(rows, memory)
    assert experience.count[0] == 9


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_sequence_of_append_save_load_keeps_every_bit(data):
    streams = data.draw(st.integers(1, 3), "streams")
    stride = data.draw(st.integers(1, 3), "stride")
    capacity = stride * data.draw(st.integers(1, 5), "capacity in strides")
    length = data.draw(st.integers(0, 4), "length")
    shape = {"streams": streams, "capacity": capacity, "stride": stride, "memory_size": 2}
    experience = Experience(FIELDS, **shape)
    history = [[] for _ in range(streams)]  # the ticks of every row of every stream
    saved = None
    # Bursts of ticks, each with the streams that are active in it, long enough that rings overflow.
    active = st.lists(st.booleans(), min_size=streams, max_size=streams)
    burst = st.lists(active, min_size=1, max_size=12)
    operations = st.lists(burst | st.sampled_from(["save", "load"]), min_size=1, max_size=12)
    tick = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "experience"
        for operation in data.draw(operations, "operations"):
            if operation == "save":
                index = experience.save(folder, keep_rows=data.draw(st.integers(0, 20)))
                if data.draw(st.booleans()):
                    experience.prune()
                saved = index, contents(experience, length), [list(ticks) for ticks in history]
            elif operation == "load":
                if saved is not None:
                    index, expected, ticks = saved
                    experience = reload(experience, folder, index)
                    assert contents(experience, length) == expected
                    history = [list(known) for known in ticks]
            else:
                for active_now in operation:
                    append(experience, tick, np.array(active_now))
                    for stream in np.flatnonzero(active_now):
                        history[stream].append(tick)
                    tick += 1
            check_against(history, experience, length)


def check_against(history, experience, length):
    """The ring, its tails and samples against plain lists of all rows ever appended."""
    assert experience.count.tolist() == [len(ticks) for ticks in history]
    capacity, stride = experience.capacity, experience.stride
    starts = {}
    for stream, ticks in enumerate(history):
        kept = min(len(ticks), capacity)
        tail = experience.tail(stream, kept)
        for offset, tick in enumerate(ticks[len(ticks) - kept :]):
            for name, rows in tick_rows(tick, experience.streams).items():
                assert tail[name][offset].tobytes() == rows[stream].tobytes()
        for start in range(0, len(ticks) - length, stride):
            if start >= len(ticks) - capacity:
                starts[ticks[start] * 10 + stream] = [tick * 10 + stream for tick in ticks[start : start + length + 1]]
    assert experience.available(length) == len(starts)
    if starts:
        rows, memory = experience.sample(np.random.default_rng(0), 5, length)
        for sequence, state in zip(rows["tick"], memory, strict=True):
            assert sequence.tolist() == starts[sequence[0]]
            assert state.tolist() == [sequence[0], sequence[0] + 0.125]


def test_samples_are_uniform_over_all_starts_of_all_streams():
    experience = Experience(FIELDS, streams=3, capacity=16, stride=4, memory_size=1)
    for tick in range(40):  # 40, 7 and 14 rows: 3, 1 and 3 starts of 3 rows
        append(experience, tick, np.array([True, tick < 7, tick < 14]))
    number = experience.available(2)
    assert number == 4 + 2 + 3
    rows, memory = experience.sample(np.random.default_rng(0), 9_000, 2)
    assert {name: array.shape for name, array in rows.items()} == {
        name: (9_000, 3, *field.shape) for name, field in FIELDS.items()
    }
    assert {name: str(array.dtype) for name, array in rows.items()} == {
        name: field.dtype for name, field in FIELDS.items()
    }
    assert memory.shape == (9_000, 1) and memory.dtype == np.float32
    _, drawn = np.unique(rows["tick"][:, 0], return_counts=True)
    assert len(drawn) == number
    assert abs(drawn - 1_000).max() < 5 * 1_000**0.5


def test_due_tells_which_streams_need_their_memory():
    experience = filled(0, streams=2)
    assert experience.due().tolist() == [True, True]
    append(experience, 0, np.array([True, False]))
    assert experience.due().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"memory is None.*streams \[1\]"):
        experience.append(tick_rows(1, 2), np.ones(2, bool), None)
    with pytest.raises(ValueError, match=r"memory is float64\[2, 2\], expected float32\[2, 2\]"):
        experience.append(tick_rows(1, 2), np.ones(2, bool), np.zeros((2, 2)))
    experience.append(tick_rows(1, 2), np.array([True, False]), None)  # not due where active
    assert experience.count.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": np.zeros((1, 4), np.float32)}, r"rows\['vector'\] is float32\[1, 4\]"),
        ({"vector": np.zeros((1, 3))}, r"rows\['vector'\] is float64.*expected float32\[1, 3\]"),
        ({"extra": np.zeros(1)}, r"fields \['choice', 'extra'"),
    ],
)
def test_rows_of_another_kind_are_refused_and_change_nothing(change, message):
    experience = filled(3)
    before = contents(experience)
    with pytest.raises(ValueError, match=message):
        experience.append(tick_rows(9, 1) | change, np.ones(1, bool), None)
    with pytest.raises(ValueError, match=r"active is bool\[2\]"):
        experience.append(tick_rows(9, 1), np.ones(2, bool), None)
    assert contents(experience) == before


def test_what_the_ring_does_not_hold_is_refused():
    experience = filled(5)
    with pytest.raises(ValueError, match="no sequence of 10 rows"):
        experience.sample(np.random.default_rng(0), 1, 9)
    with pytest.raises(ValueError, match="rows=6: stream 0 has 5"):
        experience.tail(0, 6)
    assert experience.tail(0, 0)["vector"].shape == (0, 3)
    with pytest.raises(ValueError, match="multiple of the stride"):
        Experience(FIELDS, streams=1, capacity=10, stride=4, memory_size=1)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_of_a_long_life():
    """Bytes that a store should take, took at construction, and took later."""
    fields = {"vector": Field((256,), "float32")}
    before = resident_bytes()
    experience = Experience(fields, streams=1, capacity=32_000, stride=8, memory_size=1_024)
    should = experience.rows["vector"].nbytes + experience.memory.nbytes
    built = resident_bytes()
    rows, active = {"vector": np.ones((1, 256), np.float32)}, np.ones(1, bool)
    memory = np.ones((1, 1_024), np.float32)
    for _ in range(40_000):
        experience.append(rows, active, memory)
    return should, built - before, resident_bytes() - built


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_taken_at_construction_and_never_again():
    # A process that other tests have used may have freed pages to hand out, which would not count.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        should, at_construction, later = fresh.submit(bytes_of_a_long_life).result()
    assert at_construction > 0.95 * should
    assert later < 0.02 * should


# Segments


def test_every_save_adds_one_segment_and_leaves_the_older_ones_alone(tmp_path):
    experience = filled(0, streams=2)
    stamps = {}
    for tick in range(12):
        append(experience, tick)
        if tick % 4 == 3:
            index = experience.save(tmp_path)
            files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
            assert len(files) == len(stamps) + 1
            assert stamps.items() <= files.items()
            stamps = files
    assert [segment["first"] for segment in index["segments"]] == [[0, 0], [4, 4], [8, 8]]
    assert [segment["last"] for segment in index["segments"]] == [[4, 4], [8, 8], [12, 12]]
    assert experience.save(tmp_path) == index  # nothing new, nothing written
    assert len(list(tmp_path.iterdir())) == 3


def test_another_folder_gets_everything_that_the_ring_holds(tmp_path):
    experience = filled(9)
    experience.save(tmp_path / "one")
    append(experience, 9)
    index = experience.save(tmp_path / "two")
    assert contents(reload(experience, tmp_path / "two", index)) == contents(experience)


def test_rows_overwritten_before_a_save_leave_a_gap_but_the_ring_is_whole(tmp_path):
    experience = filled(5)
    experience.save(tmp_path)
    for tick in range(5, 30):
        append(experience, tick)
    index = experience.save(tmp_path)
    assert [segment["first"] for segment in index["segments"]] == [[0], [18]]
    assert contents(reload(experience, tmp_path, index)) == contents(experience)


def test_an_empty_store_is_saved_and_loaded(tmp_path):
    experience = filled(0)
    index = experience.save(tmp_path / "none")
    loaded = reload(experience, tmp_path / "none", index)
    assert contents(loaded) == contents(experience)
    append(loaded, 0)
    assert len(loaded.save(tmp_path / "none")["segments"]) == 1


def test_segments_far_behind_are_deleted_once_no_index_on_disk_names_them(tmp_path):
    experience, disk = filled(0, streams=2), []
    for tick in range(60):
        append(experience, tick, np.array([True, tick % 2 == 0]))
        if tick % 5 == 4:
            older = disk[-1] if disk else None
            index = experience.save(tmp_path, keep_rows=21)
            for known in [index] if older is None else [older, index]:  # a kill now finds either index whole
                assert all((tmp_path / segment["file"]).exists() for segment in known["segments"])
            experience.prune()
            disk.append(index)
    kept = disk[-1]["segments"]
    assert {path.name for path in tmp_path.iterdir()} == {segment["file"] for segment in kept}
    assert kept[0]["first"] == [15, 8]  # row 9 of the slower stream, of 30, is among its last 21
    assert kept[0]["last"] == [20, 10]
    assert contents(reload(experience, tmp_path, disk[-1])) == contents(experience)


def test_what_was_retired_but_not_yet_deleted_is_deleted_on_loading(tmp_path):
    experience = filled(4)
    experience.save(tmp_path)
    for tick in range(4, 30):
        append(experience, tick)
    index = experience.save(tmp_path, keep_rows=0)
    assert len(index["retired"]) == 1 and len(list(tmp_path.iterdir())) == 2
    reload(experience, tmp_path, index)
    assert {path.name for path in tmp_path.iterdir()} == {index["segments"][0]["file"]}


def test_segments_after_the_last_complete_save_are_set_aside_not_lost(tmp_path):
    experience = filled(6)
    index = experience.save(tmp_path)
    expected = contents(experience)
    append(experience, 6)
    late = experience.save(tmp_path)["segments"][-1]["file"]
    data = (tmp_path / late).read_bytes()
    (tmp_path / ".partial").write_bytes(b"half a segment")
    for _ in range(2):  # and a second resume from the same checkpoint finds the same
        loaded = reload(experience, tmp_path, index)
        assert contents(loaded) == expected
        assert (tmp_path / "unclaimed" / late).read_bytes() == data
        assert {path.name for path in tmp_path.iterdir()} == {
            index["segments"][0]["file"],
            "unclaimed",
        }
        append(loaded, 6)
        assert loaded.save(tmp_path)["segments"][-1]["file"] == late  # the same rows make the same file


# Faults


def three_segments(tmp_path):
    experience = filled(0)
    for tick in range(24):
        append(experience, tick)
        if tick % 8 == 7:
            index = experience.save(tmp_path)
    return experience, index, [tmp_path / segment["file"] for segment in index["segments"]]


@pytest.mark.parametrize("which", [0, 1, 2])  # the first one is no longer in the ring, yet it was saved
def test_a_missing_truncated_or_corrupted_segment_is_named(tmp_path, which):
    experience, index, paths = three_segments(tmp_path)
    stray = tmp_path / "segment-999999999999-000000000000.safetensors"
    stray.write_bytes(b"written later")
    path, sound = paths[which], paths[which].read_bytes()
    for length in (0, 100, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError, match=f"{path.name} is truncated"):
            reload(experience, tmp_path, index)
    for position in range(0, len(sound), 17):
        bad = bytearray(sound)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=f"{path.name} is corrupted"):
            reload(experience, tmp_path, index)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path.name} is missing"):
        reload(experience, tmp_path, index)
    assert stray.exists()  # a load that fails moves nothing
    path.write_bytes(sound)
    assert contents(reload(experience, tmp_path, index)) == contents(experience)


def test_an_index_of_another_store_is_refused(tmp_path):
    experience, index, _ = three_segments(tmp_path)
    for change in ({"streams": 2}, {"capacity": 24}, {"stride": 2}, {"memory_size": 3}):
        ((key, value),) = change.items()
        with pytest.raises(CheckpointError, match=rf"{key} .*expected {value}"):
            reload(experience, tmp_path, index, **change)
    with pytest.raises(CheckpointError, match="fields"):
        Experience.load(
            tmp_path,
            index,
            {"tick": Field((), "int64")},
            streams=1,
            capacity=12,
            stride=4,
            memory_size=2,
        )
    with pytest.raises(CheckpointError, match=r"newer .*format 2.*upgrade"):
        reload(experience, tmp_path, index | {"format": 2})
    with pytest.raises(CheckpointError, match="not one of Fifteen's"):
        reload(experience, tmp_path, {"rows": []})
    one, two, three = index["segments"]
    for some in ([], [one], [one, two], [one, three], [two]):
        with pytest.raises(CheckpointError, match="without a gap"):
            reload(experience, tmp_path, index | {"segments": some})


def test_a_full_disk_loses_no_row(tmp_path, monkeypatch):
    experience = filled(6)
    first = experience.save(tmp_path)
    append(experience, 6)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"No space left.*bytes needed") as caught:
                experience.save(tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    append(experience, 7)
    index = experience.save(tmp_path)
    assert index["segments"][0] == first["segments"][0]
    assert index["segments"][1]["first"] == [6] and index["segments"][1]["last"] == [8]
    assert contents(reload(experience, tmp_path, index)) == contents(experience)
