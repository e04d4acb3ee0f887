"""Checkpoints: exact, verified on reading, and never harmed by a full disk or a kill at any moment."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fifteen import checkpoint
from fifteen.checkpoint import FORMAT, FolderLock
from fifteen.errors import CheckpointError, RunError
from fifteen.experience import Experience, Field

ARRAYS = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7, np.int64)}
OTHERS = {"weights": np.full((2, 3), -1, np.float32), "step": np.array(8, np.int64)}


class PowerCut(BaseException):
    """Stands for a kill: nothing in the code under test may catch it."""


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.astype(found[name].dtype).tobytes()


def rewrite_manifest(folder, **changes):
    """Changes the manifest as another version of the code would have written it: with a valid digest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= changes
    manifest["digest"] = checkpoint._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Exactness


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "__metadata__"),
        st.sampled_from("float32 int64 int32 uint32 uint8 bool float64 float16".split()).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=4,
    ),
    st.dictionaries(
        st.sampled_from(["config", "step", "text", "format", "sha256"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=6,
        ),
    ),
)
def test_what_is_read_is_what_was_written(arrays, manifest):
    with tempfile.TemporaryDirectory() as name:
        checkpoint.write(Path(name), arrays, manifest)
        found, read = checkpoint.read(Path(name))
        assert_same(found, arrays)
        assert all(array.flags.writeable for array in found.values())
        assert read["format"] == FORMAT and read["arrays"] == sorted(arrays)
        kept = manifest.keys() - {"format", "sha256"}
        assert {key: read[key] for key in kept} == {key: manifest[key] for key in kept}
        checkpoint.write(Path(name), found, read)  # what was read can be written back
        assert checkpoint.read(Path(name))[1] == read


def test_views_of_any_memory_layout_and_nan_payloads_are_kept(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    nan = np.array([0x7FC00001, 0xFFC12345, 0x80000000], np.uint32).view(np.float32)
    arrays = {"strided": base[::2, ::-3], "fortran": np.asfortranarray(base), "nan": nan}
    arrays |= {
        "big": base.astype(">f4"),
        "scalar": base[1, 2:3].reshape(()),
        "broadcast": np.broadcast_to(nan, (2, 3)),
    }
    checkpoint.write(tmp_path, arrays, {})
    assert_same(checkpoint.read(tmp_path)[0], arrays)


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([None]), np.array([1j])])
def test_a_dtype_that_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path, array):
    with pytest.raises(CheckpointError, match=r"'bad' has dtype .*float32"):
        checkpoint.write(tmp_path / "new", {"bad": array}, {})
    assert not (tmp_path / "new").exists()


def test_a_write_replaces_the_older_checkpoint_and_leaves_two_files(tmp_path):
    folder = tmp_path / "deep" / "run"
    for arrays in (ARRAYS, OTHERS, OTHERS, ARRAYS):
        checkpoint.write(folder, arrays, {"note": "n"})
        assert_same(checkpoint.read(folder)[0], arrays)
        assert len(list(folder.iterdir())) == 2


# Faults on reading


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is missing"):
        checkpoint.read(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, "[1, 2]", '{"format": 1, "model": "other"}'])
def test_a_foreign_folder_is_called_foreign(tmp_path, content):
    (tmp_path / "weights.bin").write_text("x")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="not a Fifteen checkpoint"):
        checkpoint.read(tmp_path)
    with pytest.raises(CheckpointError, match="not a Fifteen checkpoint"):
        checkpoint.read(tmp_path / "weights.bin")


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    checkpoint.write(tmp_path, ARRAYS, {})
    rewrite_manifest(tmp_path, format=FORMAT + 1)
    with pytest.raises(CheckpointError, match=rf"newer .*format {FORMAT + 1}.*upgrade"):
        checkpoint.read(tmp_path)


def test_a_missing_state_is_named(tmp_path):
    checkpoint.write(tmp_path, ARRAYS, {})
    next(tmp_path.glob("state-*")).unlink()
    with pytest.raises(CheckpointError, match=r"state-\w+.safetensors is missing"):
        checkpoint.read(tmp_path)


def test_every_corrupted_byte_is_noticed(tmp_path):
    checkpoint.write(tmp_path, ARRAYS, {"note": "text", "number": 1.5})
    for path in tmp_path.iterdir():
        sound = path.read_bytes()
        for position in range(len(sound)):
            for mask in (0x01, 0xFF):
                bad = bytearray(sound)
                bad[position] ^= mask
                path.write_bytes(bad)
                with pytest.raises(CheckpointError, match="corrupted|not a Fifteen|newer|missing"):
                    checkpoint.read(tmp_path)
        path.write_bytes(sound)
    assert_same(checkpoint.read(tmp_path)[0], ARRAYS)


def test_every_truncation_is_noticed(tmp_path):
    checkpoint.write(tmp_path, ARRAYS, {"note": "text"})
    for path in tmp_path.iterdir():
        sound = path.read_bytes()
        for length in range(len(sound)):
            path.write_bytes(sound[:length])
            with pytest.raises(CheckpointError, match="truncated"):
                checkpoint.read(tmp_path)
        path.write_bytes(sound)


def test_a_sound_hash_over_something_else_is_refused(tmp_path):
    checkpoint.write(tmp_path, ARRAYS, {})
    sha256 = hashlib.sha256(b"not safetensors").hexdigest()
    (tmp_path / f"state-{sha256[:12]}.safetensors").write_bytes(b"not safetensors")
    rewrite_manifest(tmp_path, sha256=sha256, bytes=15)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.read(tmp_path)


def test_a_checkpoint_replaced_while_it_is_read_gives_the_new_one(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, ARRAYS, {"turn": 1})
    real, calls = checkpoint.read_verified, []

    def overtaken(path, **expected):
        calls.append(path)
        if len(calls) == 1:
            checkpoint.write(tmp_path, OTHERS, {"turn": 2})
        return real(path, **expected)

    monkeypatch.setattr(checkpoint, "read_verified", overtaken)
    arrays, manifest = checkpoint.read(tmp_path)
    assert_same(arrays, OTHERS)
    assert manifest["turn"] == 2 and len(calls) == 2


# Faults on writing


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_at(monkeypatch, call):
    """The `call`-th fsync from now on fails as on a full disk."""
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        return no_space() if len(calls) == call else real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("call", [1, 2, 3])  # state, its folder, manifest: before the new one counts
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, call):
    checkpoint.write(tmp_path, ARRAYS, {"turn": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        full_disk_at(patch, call)
        with pytest.raises(CheckpointError, match=r"No space left.*\d+ bytes needed, \d+ free") as caught:
            checkpoint.write(tmp_path, OTHERS, {"turn": 2})
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    checkpoint.write(tmp_path, OTHERS, {"turn": 3})
    assert checkpoint.read(tmp_path)[1]["turn"] == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_fails_after_the_manifest_leaves_a_readable_checkpoint(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, ARRAYS, {})
    full_disk_at(monkeypatch, 4)  # the folder, after the new manifest is in place
    with pytest.raises(CheckpointError):
        checkpoint.write(tmp_path, OTHERS, {})
    assert_same(checkpoint.read(tmp_path)[0], OTHERS)
    assert len(list(tmp_path.glob("state-*"))) == 2  # the older one too, in case the renaming is lost


def test_a_first_write_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    full_disk_at(monkeypatch, 3)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.write(tmp_path, ARRAYS, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_that_the_kernel_refuses_half_way(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, ARRAYS, {})

    def half(path, mode):
        Path(path).write_bytes(b"half of it")
        return open("/dev/full", mode)

    monkeypatch.setattr(checkpoint, "open", half, raising=False)
    # Closing a file that could not be flushed raises once more: that too must end as one CheckpointError.
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoint.write(tmp_path, OTHERS, {})
    assert_same(checkpoint.read(tmp_path)[0], ARRAYS)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.write(tmp_path / "file", ARRAYS, {})


@pytest.mark.parametrize("operation", range(1, 8))
def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(tmp_path, monkeypatch, operation):
    checkpoint.write(tmp_path, ARRAYS, {"turn": 1})
    count = 0

    def counted(real):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == operation:
                raise PowerCut
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(PowerCut):
            checkpoint.write(tmp_path, OTHERS, {"turn": 2})
    arrays, manifest = checkpoint.read(tmp_path)
    assert_same(arrays, ARRAYS if manifest["turn"] == 1 else OTHERS)
    assert manifest["turn"] == (1 if operation <= 5 else 2)  # the fifth puts the manifest in place
    checkpoint.write(tmp_path, OTHERS, {"turn": 3})
    assert_same(checkpoint.read(tmp_path)[0], OTHERS)
    assert len(list(tmp_path.iterdir())) == 2  # and nothing of the killed write stays


# Two processes


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def test_a_folder_has_one_process_at_a_time_and_a_dead_one_does_not_block(tmp_path):
    with start("hold", tmp_path) as holder:
        assert holder.stdout is not None and holder.stderr is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(RunError, match=rf"in use by process {holder.pid} since \d{{4}}-"):
                FolderLock(tmp_path).__enter__()
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            os.kill(child, 0)  # its forked child lives, and does not block either
            with FolderLock(tmp_path):
                pass
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)


def test_a_lock_is_exclusive_within_a_process_and_free_after_it(tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        with FolderLock(folder):
            with pytest.raises(RunError, match=f"process {os.getpid()}"):
                FolderLock(folder).__enter__()
    with pytest.raises(KeyError), FolderLock(folder):
        raise KeyError
    with FolderLock(folder):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot lock"):
        FolderLock(tmp_path / "file").__enter__()


# kill -9


def test_kill_9_at_random_moments_never_harms_what_was_saved(tmp_path):
    with start("kills", tmp_path) as driver:
        out, err = driver.communicate(timeout=60)
    assert driver.returncode == 0, err
    result = json.loads(out)
    assert result["kills"] == result["resumed"] == 16


FIELDS = {"number": Field((), "int64"), "vector": Field((16,), "float32")}
SHAPE = {"streams": 2, "capacity": 48, "stride": 4, "memory_size": 8}


def new_or_resumed(folder):
    if not (folder / "manifest.json").exists():
        return Experience(FIELDS, **SHAPE)
    arrays, manifest = checkpoint.read(folder)
    experience = Experience.load(folder / "experience", manifest["experience"], FIELDS, **SHAPE)
    step = int(arrays["step"])
    assert (arrays["weights"] == step).all()
    assert (experience.count == step).all()
    for stream in range(2):
        rows = experience.tail(stream, min(step, 48))
        assert (rows["number"] == np.arange(max(0, step - 48), step)).all()
        assert (rows["vector"] == rows["number"][:, None]).all()
    assert (experience.memory.max() if step else 0) == (step - 1) // 4 * 4
    return experience


def save_for_ever(folder, pipe):
    parent = os.getppid()
    experience = new_or_resumed(folder)
    active = np.ones(2, bool)
    while os.getppid() == parent:
        for _ in range(5):
            number = int(experience.count[0])
            rows = {"number": np.full(2, number), "vector": np.full((2, 16), number, np.float32)}
            experience.append(rows, active, np.full((2, 8), number, np.float32))
        step = int(experience.count[0])
        index = experience.save(folder / "experience", keep_rows=60)
        arrays = {"step": np.array(step), "weights": np.full(5_000, step, np.float32)}
        checkpoint.write(folder, arrays, {"experience": index})
        experience.prune()
        os.write(pipe, step.to_bytes(8))


def last_reported(pipe, data):
    """The last step that the killed process had saved completely, 0 if none."""
    while part := os.read(pipe, 1 << 16):
        data += part
    return int.from_bytes(data[-8:])


def run_kills(folder):
    """Forks a saver, kills it at a random moment, checks what it left, and has the next one go on from there."""
    generator = np.random.default_rng()
    saved = resumed = 0
    for kill in range(16):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            save_for_ever(folder, writing)
            os._exit(0)
        os.close(writing)
        # Every other one is killed wherever it is, perhaps while it still loads or sets segments aside.
        reported = os.read(reading, 8) if kill % 2 == 0 else b""
        time.sleep(generator.uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the saver failed before it was killed"
        saved = max(saved, last_reported(reading, reported))
        os.close(reading)
        experience = new_or_resumed(folder)
        assert int(experience.count[0]) in (saved, saved + 5), "a complete checkpoint was lost"
        saved = int(experience.count[0])
        resumed += saved > 0
    names = {path.name for path in (folder / "experience").glob("*.safetensors")}
    _, manifest = checkpoint.read(folder)
    assert names == {segment["file"] for segment in manifest["experience"]["segments"]}
    print(json.dumps({"kills": 16, "resumed": resumed, "steps": saved}))


def hold_lock(folder):
    with FolderLock(folder):
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)


if __name__ == "__main__":
    {"kills": run_kills, "hold": hold_lock}[sys.argv[1]](Path(sys.argv[2]))
