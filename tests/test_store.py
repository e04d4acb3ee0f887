"""The store: exactly what was lived, a budget that no job is crowded out of, and faults that harm nothing."""

import dataclasses
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fifteen
from fifteen import checkpoint, store, store_index
from fifteen.checkpoint import FolderLock
from fifteen.config import SIZES, WorkConfig
from fifteen.errors import CheckpointError, FifteenError, RunError, StoreError
from fifteen.experience import Experience, Field
from fifteen.frames import Layout
from fifteen.instance import new_statistics
from fifteen.jobs.registry import open_job
from fifteen.lived import FirstDays, Teacher
from fifteen.spaces import Hands
from fifteen.store import Store
from fifteen.store_index import Segment, surplus

HERE = Path(__file__).parent
MIND = SIZES["debug"]
JOB = "probe/action-v0"


def lived(folder, until, *, job=JOB, run=0, stride=8, keep=10**6, kwargs=None, change=None, mind=MIND):
    """The folder of a run that lived `until[i]` rows of each stream when it was saved the i-th time.

    Every row tells its own run, stream and number, and so does every memory. change(rows): spoils them.
    """
    stream = open_job(JOB)
    layout = Layout(mind.slots, **dataclasses.asdict(Hands(stream.action_space).shape))
    fields = {"frame": Field((layout.percept_size,), "float32"), "decision": Field((layout.decision_size,), "float32")}
    streams = len(until[0])
    capacity = -(-int(np.max(until)) // stride) * stride
    experience = Experience(fields, streams=streams, capacity=capacity, stride=stride, memory_size=mind.memory_size)
    index = {}
    for counts in until:
        while (active := experience.count < counts).any():
            rows = {name: np.zeros((streams, *field.shape), np.float32) for name, field in fields.items()}
            for e in range(streams):
                rows["frame"][e, :3] = run, e, experience.count[e]
                rows["decision"][e, :3] = run, e, experience.count[e]
            if change:
                change(rows)
            memory = np.zeros((streams, mind.memory_size), np.float32)
            memory[:, :3] = rows["frame"][:, :3]
            experience.append(rows, active, memory)
        index = experience.save(folder / "experience", keep_rows=keep)
    spaces = {"observation": str(stream.observation_space), "action": str(stream.action_space)}
    used = {"job": job, "kwargs": kwargs or {}, "step_limit": None, "learn": "both", "seed": run}
    config = {"job": job, "settings": used, "spaces": spaces, "versions": {"fifteen": "0"}, "device": "cpu"}
    arrays = {f"statistics/{n}": np.asarray(value) for n, value in new_statistics(mind.slots)._asdict().items()}
    manifest = {"mind": dataclasses.asdict(mind), "experience": index}
    checkpoint.write(folder / "learner", arrays | {"anchor": np.zeros(3, np.float32)}, manifest)
    checkpoint.atomic_write(folder / "config.json", json.dumps(config).encode())
    return folder


def check_sample(rows, memory, stride=8):
    """Every sequence is consecutive rows of one stream of one run, with the memory before them."""
    frame, decision = rows["frame"], rows["decision"]
    assert (frame[:, :, :2] == frame[:, :1, :2]).all()
    assert (np.diff(frame[:, :, 2], axis=1) == 1).all()
    assert (frame[:, :, :3] == decision[:, :, :3]).all()
    assert (memory[:, :3] == frame[:, 0, :3]).all() and not memory[:, 3:].any()
    assert (frame[:, 0, 2] % stride == 0).all()


def draw(stored, job=JOB, batch=16, length=9, seed=0):
    return stored.sample(np.random.default_rng(seed), job, batch, length)


def everything(stored):
    """All rows that are held, as (job, run, stream, row)."""
    found = []
    for record in stored.jobs():
        for segment in stored.segments(record.id):
            rows = stored.read(segment)["rows/frame"][:, :3].astype(int).tolist()
            assert [row for _, _, row in rows] == list(range(segment.first, segment.last))
            found += [(record.id, *row) for row in rows]
    return found


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing waits for the disk: what is tested is a kill, not a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Quick))


class Quick(sqlite3.Connection):
    def execute(self, statement, *values):
        return super().execute(statement.replace("synchronous = EXTRA", "synchronous = OFF"), *values)


# What is sampled is what was lived


def test_a_real_run_is_taken_in_once_and_sampled_as_it_was_lived(tmp_path, folder):
    learner = fifteen.new("debug", work=WorkConfig(block=16, replay=4_000))
    fifteen.work(learner, "probe/policy-v0", steps=900, num_envs=2, learn="context", run=tmp_path / "run")
    with Store(folder) as stored:
        added = stored.add_run(tmp_path / "run")
        manifest = checkpoint.read(tmp_path / "run" / "learner")[1]
        count = manifest["experience"]["count"]
        assert added.rows == sum(count) and added.segments >= 2 * -(-count[0] // 512) and not added.evicted
        again = stored.add_run(tmp_path / "run")
        assert (again.rows, again.segments, again.known) == (0, 0, len(manifest["experience"]["segments"]))
        (record,) = stored.jobs()
        assert (record.id, record.job, record.instances, record.learn) == ("probe/policy-v0",) * 2 + (1, ("context",))
        assert record.rows == record.lived == sum(count) and not record.foreign
        worker = learner.new_worker(
            open_job("probe/policy-v0").observation_space,
            open_job("probe/policy-v0").action_space,
            seed=0,
            learn="both",
        )
        assert record.layout == worker.layout and (record.continuous == worker.senses.continuous).all()
        worker.close()
        statistics = stored.statistics(record.id)
        assert all((a == b).all() for a, b in zip(statistics, learner.statistics, strict=True))
        # The same rows, memories and all, as the ring of the run itself has them.
        shape = {key: manifest["experience"][key] for key in ("streams", "capacity", "stride", "memory_size")}
        fields = {n: Field(tuple(f["shape"]), f["dtype"]) for n, f in manifest["experience"]["fields"].items()}
        ring = Experience.load(tmp_path / "run" / "experience", manifest["experience"], fields, **shape)
        assert stored.available(record.id, 9) == ring.available(8)
        rows, memory = draw(stored, record.id, batch=200)
        known = set()
        for stream in range(2):
            for start in range(0, count[stream] - 8, 8):
                sequence = [ring.rows[name][stream, start : start + 9].tobytes() for name in ("frame", "decision")]
                known.add((*sequence, ring.memory[stream, start // 8].tobytes()))
        for n in range(200):
            assert (rows["frame"][n].tobytes(), rows["decision"][n].tobytes(), memory[n].tobytes()) in known


@settings(max_examples=12)
@given(st.data())
def test_any_run_saved_at_any_time_is_sampled_exactly_and_evenly(data):
    streams, stride = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 3, 8]))
    steps = st.lists(st.integers(0, 40), min_size=streams, max_size=streams)
    until = np.cumsum(data.draw(st.lists(steps, min_size=1, max_size=3)), axis=0) + 1
    length = data.draw(st.integers(1, 20))
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_index, "SEGMENT_ROWS", 16)
        run = lived(Path(name) / "run", until, stride=stride, run=5)
        with Store(Path(name) / "store") as stored:
            assert stored.add_run(run).rows == until[-1].sum()
            assert sorted(everything(stored)) == [(JOB, 5, e, n) for e in range(streams) for n in range(until[-1][e])]
            starts = {(e, n) for e in range(streams) for n in range(0, until[-1][e] - length + 1, stride)}
            assert stored.available(JOB, length) == len(starts)
            if not starts:
                with pytest.raises(StoreError, match=rf"no sequence of {length} rows"):
                    draw(stored, length=length)
                return
            rows, memory = draw(stored, batch=20 * len(starts), length=length)
            check_sample(rows, memory, stride)
            assert {tuple(s) for s in rows["frame"][:, 0, 1:3].astype(int).tolist()} == starts  # none is left out


def test_a_slow_run_that_was_saved_often_makes_few_files(tmp_path, folder):
    until = [[n + 5, n // 2, 100 + n // 20] for n in range(0, 2_000, 20)]
    with Store(folder) as stored, Store(tmp_path / "other") as other:
        added = stored.add_run(lived(tmp_path / "often", until))
        other.add_run(lived(tmp_path / "once", until[-1:]))
        assert added.known == 0 and added.segments < 3 * 8 and added.rows == sum(until[-1])
        assert sorted(everything(stored)) == sorted(everything(other))
        check_sample(*draw(stored, batch=200))
        for name, array in draw(stored)[0].items():
            assert (array == draw(other)[0][name]).all()
        again = stored.add_run(tmp_path / "often")
        assert (again.rows, again.segments, again.known) == (0, 0, len(until))


def test_a_run_that_went_on_is_joined_to_what_was_taken_before(tmp_path, folder):
    with Store(folder) as stored:
        assert stored.add_run(lived(tmp_path / "run", [[20, 30]])).rows == 50
        added = stored.add_run(lived(tmp_path / "run", [[20, 30], [40, 35]]))
        assert (added.rows, added.known) == (25, 1)
        rows, memory = draw(stored, batch=100, length=24)
        check_sample(rows, memory)
        assert (rows["frame"][:, 0, 2] + 24 > 20)[rows["frame"][:, 0, 1] == 0].all()  # across the two additions
    with Store(folder) as stored:
        again = draw(stored, batch=100, length=24)
        assert all((rows[name] == again[0][name]).all() for name in rows) and (memory == again[1]).all()


def test_jobs_of_one_id_and_other_kwargs_are_two(tmp_path, folder):
    with Store(folder) as stored:
        for n in range(2):
            stored.add_run(lived(tmp_path / f"run{n}", [[20]], run=n, kwargs={"step_limit": 10 + n}))
        ids = [record.id for record in stored.jobs()]
        assert ids == [f'{JOB} {{"step_limit": 10}}', f'{JOB} {{"step_limit": 11}}']
        assert (draw(stored, ids[1])[0]["frame"][:, :, 0] == 1).all()
        assert stored.jobs()[0].kwargs == {"step_limit": 10} and stored.jobs()[0].job == JOB


# The budget


def of(job, id, size, key):
    return Segment(id, job, 1, 0, 0, 1, 1, size, f"{id:048x}{key:016x}")


pieces = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.integers(0, 2**64 - 1)), min_size=1, max_size=60
)


@given(pieces, st.integers(10, 200))
def test_the_budget_is_kept_and_no_job_is_crowded_out(arrivals, budget):
    held, given_up = [], set()
    for id, (job, size, key) in enumerate(arrivals):
        held.append(of(job, id, size, key))
        before = {j: sum(s.bytes for s in held if s.job == j) for j in "abcd"}
        jobs = {s.job for s in held}
        if len(jobs) * 9 > budget:
            return  # where single segments fill the budget nothing is promised
        gone = surplus(held, budget)
        held = [s for s in held if s not in gone]
        assert sum(s.bytes for s in held) <= budget
        assert {s.job for s in held} == jobs
        for segment in gone:
            assert before[segment.job] > budget / len(jobs)
            before[segment.job] -= segment.bytes
        # No more goes than must: with any one of them back it would be too much.
        if gone:
            assert sum(s.bytes for s in held) + gone[-1].bytes > budget
        given_up |= {s.id for s in gone}
        assert not given_up & {s.id for s in held}
        assert held[-1].id == id or all(s.job != job or s.id < id for s in held)


def test_half_of_a_full_job_is_its_newest_and_the_rest_a_uniform_sample_of_all_before():
    generator, kept = np.random.default_rng(0), np.zeros(400)
    for _ in range(60):
        held = []
        for id in range(400):
            held.append(of("a", id, 10, int(generator.integers(2**63))))
            gone = surplus(held, 200)
            held = [s for s in held if s not in gone]
        assert [s.id for s in held[-10:]] == list(range(390, 400)) and len(held) == 20
        kept[[s.id for s in held[:-10]]] += 1
    # 600 draws from the 390 older ones: each fifth of them has its share, within 4 standard deviations of 9.8.
    assert np.abs(kept[:390].reshape(5, 78).sum(axis=1) - 120).max() < 40


def test_an_old_job_keeps_its_share_beside_a_busy_one(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(store_index, "SEGMENT_ROWS", 32)
    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "old", [[320]], job=JOB, run=1))
        size = stored.jobs()[0].bytes
    with Store(folder, budget=2 * size) as stored:
        assert stored.budget == 2 * size
        busy = 'probe/action-v0 {"step_limit": 9}'
        for day in range(2, 5):
            stored.add_run(lived(tmp_path / f"busy{day}", [[640]], run=day, kwargs={"step_limit": 9}))
        held = {record.id: record for record in stored.jobs()}
        assert held[JOB].bytes == size and held[JOB].rows == 320  # it held no more than its half: nothing went
        assert size * 0.8 < held[busy].bytes <= size and held[busy].lived == 3 * 640
        runs = [run for job, run, _, _ in everything(stored) if job == busy]
        assert runs.count(4) >= len(runs) / 2 - 32  # recent first
        check_sample(*draw(stored, busy, batch=50))
        files = {path.name for path in (folder / "segments").glob("*")}
        assert files == {s.file for record in stored.jobs() for s in stored.segments(record.id)}
    with Store(folder) as stored:
        assert stored.budget == 2 * size and not stored.notes
        with pytest.raises(StoreError, match="budget of 100 bytes has no room for one segment of each of 2 jobs"):
            surplus([s for record in stored.jobs() for s in stored.segments(record.id)], 100)


# What is refused, by name


def refuses(stored, run, message, error=StoreError, **more):
    before = everything(stored)
    with pytest.raises(error, match=message) as raised:
        stored.add_run(run, **more)
    assert str(run) in str(raised.value)
    assert everything(stored) == before and not list((stored.folder / "segments").glob(".partial"))


def spoiled(name, place, value):
    def change(rows):
        if rows["frame"][0, 2] == 30:
            rows[name][0, place] = value

    return change


def test_runs_that_cannot_be_taken_in_are_refused_by_name_and_harm_nothing(tmp_path, folder):
    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "good", [[20]]))
        refuses(stored, tmp_path / "nothing", "is not the folder of a run")
        for name, value in (("frame", np.nan), ("decision", np.inf)):
            change = spoiled(name, 4, value)
            run = lived(tmp_path / f"spoiled {name}", [[20], [50]], run=1, change=change)
            refuses(stored, run, f"rows/{name} has 1 numbers that are not finite")
        refuses(stored, lived(tmp_path / "unknown", [[20]], job="no/such-v0"), "cannot be opened: there is no job")
        other = lived(tmp_path / "environment", [[20]], run=2)
        config = json.loads((other / "config.json").read_text())
        for part in ("job", "versions", "device"):
            (other / "config.json").write_text(json.dumps({name: config[name] for name in config if name != part}))
            refuses(stored, other, f"config.json cannot be read .KeyError.'{part}'")
        config["settings"]["job"], config["job"] = None, "Mine"
        (other / "config.json").write_text(json.dumps(config))
        refuses(stored, other, "was begun with an environment")
        assert stored.add_run(other, job=JOB).rows == 20
        config["spaces"]["action"], config["job"], config["settings"]["job"] = "Discrete(7)", JOB, JOB
        (other / "config.json").write_text(json.dumps(config))
        refuses(stored, other, r"Discrete\(7\).*different jobs")
        wide = dataclasses.replace(MIND, width=64, heads=4)
        refuses(stored, lived(tmp_path / "wide", [[20]], mind=wide), "mind of another shape")


def test_segments_that_are_not_whole_are_refused_by_name(tmp_path, folder):
    with Store(folder) as stored:
        run = lived(tmp_path / "run", [[20], [50]])
        first, second = sorted((run / "experience").glob("segment-*"))
        data = second.read_bytes()
        second.write_bytes(data[: len(data) // 2])
        refuses(stored, run, f"{second.name} is truncated", CheckpointError)
        second.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        refuses(stored, run, f"{second.name} is corrupted", CheckpointError)
        second.unlink()
        refuses(stored, run, f"{second.name} is missing", CheckpointError)
        assert not everything(stored)  # not even the first, which is whole
        second.write_bytes(data)
        assert stored.add_run(run).rows == 50
        manifest = json.loads((run / "learner" / "manifest.json").read_text())
        manifest["experience"]["format"] = 9
        arrays = checkpoint.read(run / "learner")[0]
        checkpoint.write(run / "learner", arrays, manifest)
        refuses(stored, run, "experience of format 9")


def test_a_copy_of_a_run_that_went_on_differently_is_refused(tmp_path, folder):
    with Store(folder) as stored:
        run = lived(tmp_path / "run", [[20], [40]])
        stored.add_run(run)
        shutil.rmtree(run)
        refuses(stored, lived(run, [[20], [48]]), "a copy of the run went on differently")
        lived(tmp_path / "copy", [[20], [40]])
        assert stored.add_run(tmp_path / "copy").rows == 0  # the same life, wherever it lies


def test_a_segment_of_the_store_that_changed_is_refused_by_name_and_can_be_set_aside(tmp_path, folder):
    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "one", [[20]], run=1))
        stored.add_run(lived(tmp_path / "two", [[20]], run=2))
        first, second = (folder / "segments" / s.file for s in stored.segments(JOB))
        first.write_bytes(first.read_bytes()[:-4] + b"\0\0\1\0")
        with pytest.raises(StoreError, match=rf"{first.name} is corrupted.*verify\(\)"):
            draw(stored, batch=50)
        assert [first.name in told for told in stored.verify()] == [True]
        check_sample(*draw(stored, batch=50))
        assert {run for _, run, _, _ in everything(stored)} == {2}
        assert (folder / "unclaimed" / first.name).is_file() and "1 segment files" in stored.notes[0]
        second.unlink()
        assert "missing" in stored.verify()[0] and not stored.verify()
        with pytest.raises(StoreError, match="no sequence"):
            draw(stored)
        assert stored.jobs()[0].lived == 40 and stored.jobs()[0].rows == 0
        with pytest.raises(StoreError, match=f"no job 'other'; it has {JOB}"):
            draw(stored, "other")


def test_two_at_one_store_are_refused_and_so_is_what_is_no_store(tmp_path, folder):
    with Store(folder), pytest.raises(RunError, match="in use by process"):
        Store(folder)
    Store(folder).close()  # the lock goes with the store
    with sqlite3.connect(folder / "index.sqlite") as index:
        index.execute("PRAGMA user_version = 7")
    index.close()
    with pytest.raises(StoreError, match="store of format 7.*upgrade"):
        Store(folder)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    index = sqlite3.connect(foreign / "index.sqlite")
    index.execute("CREATE TABLE mine (a)")
    index.close()
    with pytest.raises(StoreError, match="is not the index of a store"):
        Store(foreign)
    (foreign / "index.sqlite").write_bytes(b"text " * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        Store(foreign)
    with FolderLock(foreign):  # what could not be opened holds no lock
        pass
    with pytest.raises(StoreError, match="budget is 0 bytes"):
        Store(folder, budget=0)


def test_a_full_disk_harms_nothing(tmp_path, folder, monkeypatch):
    run, more = lived(tmp_path / "run", [[600]]), lived(tmp_path / "more", [[600]], run=1)
    with Store(folder) as stored:
        stored.add_run(run)
        before, files = everything(stored), sorted((folder / "segments").iterdir())
        calls = []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 3:  # each file is synced, and its folder: the second segment of two
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CheckpointError, match="No space left on device.*untouched"):
                stored.add_run(more)
        assert everything(stored) == before and sorted((folder / "segments").iterdir()) == files
        stored._index.execute("PRAGMA max_page_count = 1")  # as small as it is: the index cannot grow
        for attempt in range(200):
            run = lived(tmp_path / f"many{attempt}", [[8]], run=10 + attempt)
            files, before = sorted((folder / "segments").iterdir()), everything(stored)
            try:
                stored.add_run(run)
            except StoreError as error:
                assert "full" in str(error) and "make room" in str(error)
                break
        else:
            pytest.fail("the index was never full")
        assert everything(stored) == before and sorted((folder / "segments").iterdir()) == files
        stored._index.execute("PRAGMA max_page_count = 100000")
        assert stored.add_run(run).rows == 8 and stored.add_run(more).rows == 600


# Killed

KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
import fifteen.store as module
from fifteen import store_index
from fifteen import checkpoint
folder, runs, budget = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
store_index.SEGMENT_ROWS = 32

class Index(sqlite3.Connection):
    def execute(self, statement, *values):
        moment()
        done = super().execute(statement.replace("synchronous = EXTRA", "synchronous = OFF"), *values)
        moment()
        return done

connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, factory=Index, **k)
os.fsync = lambda descriptor: None  # what is tested is a kill, not a power cut
for name in ("replace", "fsync", "unlink", "mkdir"):
    def watched(*arguments, original=getattr(os, name), **more):
        moment()
        return original(*arguments, **more)
    setattr(os, name, watched)

moments = iter(range(10**9))
for n in range(10**6):
    last = 8 * n  # the moment of the kill
    child = os.fork()
    if not child:
        count = iter(range(10**9))
        def moment():
            if next(count) == last:
                os.kill(os.getpid(), signal.SIGKILL)
        stored = module.Store(f"{folder}/{n}", budget=budget)
        for run in runs:
            stored.add_run(run)
            with open(f"{folder}/{n}.told", "a") as told:
                told.write(run + "\\n")
        stored.close()
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
print(n)
"""


def test_killed_at_any_moment_the_store_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(store_index, "SEGMENT_ROWS", 32)
    runs = [lived(tmp_path / f"run{n}", [[64], [96]], run=n) for n in range(3)]
    with Store(tmp_path / "measure") as stored:
        stored.add_run(runs[0])
        budget = stored.jobs()[0].bytes * 2  # so that files are given up as well
        for run in runs[1:]:
            stored.add_run(run)
        everything_lived = set(everything(stored))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "killed"), str(budget), *map(str, runs)]
    (tmp_path / "killed").mkdir()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    killed = int(done.stdout)
    assert killed > 20
    for n in range(killed):
        told = tmp_path / "killed" / f"{n}.told"
        finished = told.read_text().splitlines() if told.exists() else []
        with Store(tmp_path / "killed" / str(n), budget=budget) as stored:
            held = everything(stored)  # every file that is named is there, whole
            assert len(held) == len(set(held)) and set(held) <= everything_lived
            known = [stored.add_run(run).known for run in runs]
            assert known[: len(finished)] == [2] * len(finished)  # what was told to be taken in is
            rows = {row for row in everything(stored) if row[1] == 2}
            assert len(rows) == 96 and not stored.verify()  # the newest is there, and nothing is taken twice
            assert sum(record.bytes for record in stored.jobs()) <= budget
            assert stored.jobs()[0].lived == 3 * 96 and stored.jobs()[0].instances == 3
            check_sample(*draw(stored))
            named = {s.file for s in stored.segments(JOB)}
            assert {path.name for path in (stored.folder / "segments").iterdir()} == named


# However old the store


def test_sampling_costs_the_same_with_100_jobs_as_with_one(tmp_path, folder, monkeypatch):
    opened = []
    mapped = store.mapped
    monkeypatch.setattr(store, "mapped", lambda path: opened.append(path) or mapped(path))

    def cost(stored):
        draw(stored, batch=64)
        opened.clear()
        spent = []
        for seed in range(40):
            begun = time.perf_counter()
            draw(stored, batch=64, seed=seed)
            spent.append(time.perf_counter() - begun)
        return np.median(spent)

    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "one", [[600]]))
        alone = cost(stored)
        assert not opened
        for n in range(2, 101):
            stored.add_run(lived(tmp_path / f"run{n}", [[8]], run=n, kwargs={"step_limit": n}))
        assert len(stored.jobs()) == 100
        crowded = cost(stored)
        assert not opened  # what is drawn from stays mapped
        assert crowded < 3 * alone


def test_few_segments_stay_mapped(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(store_index, "SEGMENT_ROWS", 16)
    monkeypatch.setattr(store, "_MAPPED", 3)
    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "run", [[320]]))
        check_sample(*draw(stored, batch=200))
        assert len(stored._open) == 3


# Opening


def test_what_the_index_does_not_name_is_set_aside(tmp_path, folder):
    with Store(folder) as stored:
        stored.add_run(lived(tmp_path / "run", [[20]]))
        (segment,) = stored.segments(JOB)
    orphan = folder / "segments" / "segment-0123456789abcdef.safetensors"
    shutil.copy(folder / "segments" / segment.file, orphan)
    (folder / "segments" / ".partial").write_bytes(b"half")
    with Store(folder) as stored:
        assert stored.notes == [f"1 segment files that the index does not name are in {folder / 'unclaimed'} now"]
        assert [path.name for path in (folder / "segments").iterdir()] == [segment.file]
        assert (folder / "unclaimed" / orphan.name).stat().st_size == segment.bytes
        check_sample(*draw(stored))
    # What was given up just before a kill is deleted, not set aside.
    shutil.copy(folder / "segments" / segment.file, orphan)
    with sqlite3.connect(folder / "index.sqlite") as index:
        index.execute("INSERT INTO retired VALUES (?)", (orphan.name,))
    index.close()
    with Store(folder) as stored:
        assert not stored.notes and not orphan.exists()
        check_sample(*draw(stored))
    stored.close()  # twice
    assert issubclass(StoreError, FifteenError)


def test_what_was_practised_of_a_job_last_is_kept(tmp_path, folder):
    lived(tmp_path / "run", [[40]])
    rows = np.arange(2 * 128 * 3, dtype=np.float32).reshape(2, 128, 3)
    with Store(folder) as opened:
        job = opened.add_run(tmp_path / "run").job
        (record,) = opened.jobs()
        assert opened.kept.practice(job) is None
        for factor in (1, 2):
            opened.kept.keep_practice(job, FirstDays(record.layout, rows * factor, None, -rows * factor))
        with pytest.raises(StoreError, match="has no job 'nobody'"):
            opened.kept.keep_practice("nobody", FirstDays(record.layout, rows, None, rows))
        with pytest.raises(StoreError, match="has the layout"):
            opened.kept.keep_practice(job, FirstDays(dataclasses.replace(record.layout, slots=3), rows, None, rows))
    with Store(folder) as opened:
        found = opened.kept.practice(job)
        assert found is not None and found.layout == record.layout and found.images is None
        np.testing.assert_array_equal(found.frames, 2 * rows)
        np.testing.assert_array_equal(found.decisions, -2 * rows)
        assert opened.notes == [] and opened.verify() == []
        (state,) = folder.glob("practice/*/state-*")
        state.write_bytes(state.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=r"truncated.*or delete .*practice"):
            opened.kept.practice(job)


def test_who_teaches_a_job_is_kept(tmp_path, folder):
    lived(tmp_path / "run", [[40]])
    weights, memory = np.arange(5, dtype=np.float32), np.ones(3, np.float32)
    with Store(folder) as opened:
        job = opened.add_run(tmp_path / "run").job
        statistics = opened.statistics(job)
        assert opened.kept.teacher(job, "ours") is None
        opened.kept.keep_teacher(job, Teacher(2 * weights, 0 * memory, statistics, False, True), "ours")
        parent = opened.kept.teacher(job, "ours")
        assert parent is not None and parent.first_day and not parent.memory.any() and not parent.wipe
        opened.kept.keep_teacher(job, Teacher(weights, memory, statistics, True, False), "ours")
        with pytest.raises(StoreError, match="has no job 'nobody'"):
            opened.kept.keep_teacher("nobody", Teacher(weights, memory, statistics, False, False), "ours")
    with Store(folder) as opened:
        assert opened.kept.teacher(job, "others'") is None  # it would not see what they see
        found = opened.kept.teacher(job, "ours")
        assert found is not None and found.wipe and not found.first_day and opened.notes == [] and opened.verify() == []
        np.testing.assert_array_equal(found.weights, weights)
        np.testing.assert_array_equal(found.memory, memory)
        np.testing.assert_array_equal(found.statistics.mean, statistics.mean)
        (state,) = folder.glob("teachers/*/state-*")
        state.write_bytes(state.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=r"truncated.*or delete .*teachers.*the parent teaches it"):
            opened.kept.teacher(job, "ours")
