"""Checkpoints: named arrays and a JSON manifest in one folder, written so that a kill never harms the last one.

A checkpoint is `state-<sha12>.safetensors` (the arrays) and `manifest.json` (everything else, and the hash of
the state). The state is complete on disk before the manifest that names it replaces the old manifest in one
step, and only then is the old state removed: whatever the moment of a kill, the manifest on disk names a state
that is whole. Nothing is pickled.
"""

import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import safetensors
import safetensors.numpy

from fifteen.errors import CheckpointError, RunError

FORMAT = 1
KIND = "fifteen checkpoint"
MANIFEST = "manifest.json"
SAVE_EVERY_S = 20.0  # what lasts is saved as often: so that a kill loses less than 30 s, the saving itself included
PARTIAL = ".partial"  # one fixed name, so that what a kill leaves behind is overwritten, never piled up
DTYPES = tuple("bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split())


def write(folder: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Replaces the checkpoint in `folder` (made if missing) by `arrays` and `manifest`.

    The manifest must be JSON-able; the keys kind, format, sha256, bytes (of the state file), arrays (names) and
    digest (of the manifest itself) are set here. One writer at a time: hold the folder's `FolderLock`.
    Raises CheckpointError if the disk is full or cannot be written; the previous checkpoint is then untouched.
    """
    folder = Path(folder)
    state = pack(arrays)
    sha256 = hashlib.sha256(state).hexdigest()
    path = folder / _state_name(sha256)
    contents = {
        **json.loads(json.dumps(manifest)),
        "kind": KIND,
        "format": FORMAT,
        "sha256": sha256,
        "bytes": len(state),
        "arrays": sorted(arrays),
    }
    text = json.dumps({**contents, "digest": _digest(contents)}, indent=1).encode()
    try:
        atomic_write(path, state)
        atomic_write(folder / MANIFEST, text)
    except CheckpointError:
        # Unless the manifest on disk names it, the new state only takes space that is short.
        if _named_state(folder) != path.name:
            with suppress(OSError):
                path.unlink()
        raise
    for other in folder.glob("state-*.safetensors"):
        if other != path:
            with suppress(OSError):  # the checkpoint is complete; the next write removes what stays
                other.unlink()


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the manifest of the checkpoint in `folder`, verified, bit for bit as they were written.

    Raises CheckpointError that says which: missing, not a Fifteen checkpoint, of a newer format, truncated,
    corrupted.
    """
    folder = Path(folder)
    text = _manifest_text(folder)
    while True:
        manifest = _checked_manifest(folder / MANIFEST, text)
        path = folder / _state_name(manifest["sha256"])
        try:
            data = read_verified(path, size=manifest["bytes"], sha256=manifest["sha256"])
        except CheckpointError:
            # A writer may have replaced the checkpoint between our two reads: then read the new one.
            before, text = text, _manifest_text(folder)
            if text == before:
                raise
        else:
            return unpack(data, path), manifest


def known(settings: type, saved: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Of the settings saved in `where`, those that the dataclass `settings` has.

    The others, which a later version dropped or an earlier one has not yet, are ignored, and said once for each folder
    as a warning of the logger "fifteen". For settings that say how to go on, not for those that say what weights mean.
    """
    fields = {field.name for field in dataclasses.fields(settings)}
    if ignored := {name: value for name, value in saved.items() if name not in fields}:
        _say_ignored(where, settings.__name__, ", ".join(f"{name} = {value!r}" for name, value in ignored.items()))
    return {name: value for name, value in saved.items() if name in fields}


@functools.cache  # a fleet or a life reads one folder many times
def _say_ignored(where: Path, settings: str, ignored: str) -> None:
    logging.getLogger("fifteen").warning(
        "%s was saved with %s, which the %s of this version of Fifteen does not have: ignored", where, ignored, settings
    )


def pack(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """`arrays` as the bytes of a safetensors file. CheckpointError for a dtype that cannot be kept exactly."""
    dense = {}
    for name, array in arrays.items():
        dense[name] = np.asarray(array, order="C")  # unlike ascontiguousarray, keeps 0-d arrays 0-d
        if dense[name].dtype.name not in DTYPES:
            raise CheckpointError(
                f"array {name!r} has dtype {dense[name].dtype}, which a checkpoint cannot hold; "
                f"expected one of {', '.join(DTYPES)}: convert it before saving"
            )
    return safetensors.numpy.save(dense, metadata=metadata)


def unpack(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """The arrays (writable) in the bytes of the safetensors file `path`. CheckpointError if it is none."""
    try:
        arrays = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return {name: np.require(array, requirements="W") for name, array in arrays.items()}


def atomic_write(path: Path, data: bytes) -> None:
    """Puts `data` at `path` durably and in one step: after a kill the old file or the new one is there, whole.

    Makes the folder if missing. Raises CheckpointError naming the folder, the bytes needed and the bytes free.
    """
    folder = path.parent
    partial = folder / PARTIAL
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _sync_folder(folder.parent)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise CheckpointError(
            f"cannot write {path.name} to {folder}: {error.strerror or error}; {len(data)} bytes needed, "
            f"{_free_bytes(folder)} free. What was saved before is untouched: make room there, or choose "
            "another folder, and save again"
        ) from error


def read_verified(path: Path, *, size: int, sha256: str) -> bytes:
    """The bytes of `path`. CheckpointError if it is missing, truncated (shorter than `size`) or corrupted."""
    advice = "restore the file from a copy, or use another checkpoint"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {advice}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) < size:
        raise CheckpointError(f"{path} is truncated: {len(data)} bytes, expected {size}: {advice}")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CheckpointError(f"{path} is corrupted: its sha256 is {found}, expected {sha256}: {advice}")
    return data


@final
class FolderLock:
    """Context manager: this process alone writes in `folder` (made if missing). RunError if another one does.

    The kernel holds the lock (flock) and lets go of it when the process dies, however it dies.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"cannot lock {folder}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            os.write(descriptor, f"process {os.getpid()} since {since}".encode())
        except BlockingIOError as error:
            owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise RunError(f"{folder} is in use by {owner}: wait for it, stop it, or choose another folder") from error
        except OSError as error:
            os.close(descriptor)
            raise RunError(f"cannot lock {folder}: {error.strerror or error}") from error
        self._descriptor = descriptor
        # A forked child (an environment's worker) shares the lock; if it outlived a killed run it would hold on.
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: (lock := this()) and lock._close())
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _state_name(sha256: str) -> str:
    return f"state-{sha256[:12]}.safetensors"


def _digest(manifest: Mapping[str, Any]) -> str:
    contents = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _named_state(folder: Path) -> str | None:
    """The file name of the state that the manifest in `folder` names, if there is a sound one."""
    try:
        return _state_name(_checked_manifest(folder / MANIFEST, _manifest_text(folder))["sha256"])
    except CheckpointError:
        return None


def _manifest_text(folder: Path) -> bytes:
    if not folder.exists():
        raise CheckpointError(f"{folder} is missing: expected a folder with a Fifteen checkpoint")
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} is not a Fifteen checkpoint: it holds no {MANIFEST}; give the folder that was saved to"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / MANIFEST}: {error.strerror or error}") from error


def _checked_manifest(path: Path, text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is truncated or corrupted: {len(text)} bytes that are not JSON ({error}); "
            "restore it from a copy, or use another checkpoint"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise CheckpointError(f"{path.parent} is not a Fifteen checkpoint: its {MANIFEST} does not say kind {KIND!r}")
    version = manifest.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"{path.parent} has the newer checkpoint format {version}, this version of Fifteen reads formats "
            f"up to {FORMAT}: upgrade fifteen"
        )
    if manifest.get("digest") != _digest(manifest):
        raise CheckpointError(
            f"{path} is corrupted: it was changed after it was written (its digest does not match); "
            "restore it from a copy, or use another checkpoint"
        )
    return manifest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # makes the renaming itself durable
    finally:
        os.close(descriptor)


def _free_bytes(folder: Path) -> int | str:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return "an unknown number"
