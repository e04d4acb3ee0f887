"""How an instance of a fleet comes to be a process: on this machine, or on Ray; and what it does there.

The fleet tells an instance what to do in one JSON object; what the instance tells goes into files, so that the fleet
watches over all transports in the same way.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, final

import jax

from fifteen.checkpoint import FolderLock, atomic_write
from fifteen.errors import RunError
from fifteen.learner import load
from fifteen.log import Progress, Sink
from fifteen.working import resume, work

BEGUN = "begun"  # in the folder to tell in: the process is there
BEAT_S = 0.5  # between two beats at least
RELEASE_S = 30.0  # for a process that was left behind to let go of its run
CANCEL_S = 30.0  # for Ray to end a process
_CACHE = tuple(  # where compiled functions are kept
    f"jax_{name}"
    for name in (
        "compilation_cache_dir",
        "persistent_cache_min_compile_time_secs",
        "persistent_cache_min_entry_size_bytes",
    )
)


def instance(told: dict[str, Any]) -> None:
    """Do an assignment, or go on with it, and tell how it ended. Returns where it failed, too.

    told: assignment (the arguments of `fifteen.work`), parent and run (folders), watch (the folder to tell in), core
    (to stay on, or None), jax (its settings), path (to import from). Raises CheckpointError where a full disk has no
    room for how it ended: then that its process is gone tells it.
    """
    sys.path += [path for path in told["path"] if path not in sys.path]
    if told["core"] is not None and hasattr(os, "sched_setaffinity"):
        # Threads that meet across cores at every small kernel take twice as long.
        os.sched_setaffinity(0, {told["core"]})
    for name, value in told["jax"].items():
        jax.config.update(name, value)
    watch, run = Path(told["watch"]), Path(told["run"])
    beats = (_Beat(watch / "beat"),)
    with suppress(OSError):  # of a full disk, too
        (watch / BEGUN).touch()
    try:
        if (run / "config.json").is_file():
            _wait_until_free(run)
            log = resume(run, sinks=beats)
        else:
            log = work(load(told["parent"]), **told["assignment"], run=run, sinks=beats)
        ended = {"reason": log.reason}
    except Exception as error:
        with suppress(OSError), (watch / "log.txt").open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        ended = {"failed": f"{type(error).__name__}: {error}"}
    atomic_write(watch / "ended.json", json.dumps(ended).encode())


def _wait_until_free(folder: Path) -> None:
    """An instance whose fleet was killed may need a moment to end."""
    until = time.monotonic() + RELEASE_S
    while time.monotonic() < until:
        with suppress(RunError), FolderLock(folder):
            return
        time.sleep(BEAT_S)


@final
class _Beat(Sink):
    """A sink that tells the step, from within the loop of work: a job that hangs stops it."""

    def __init__(self, path: Path):
        self._path, self._last = path, float("-inf")

    def write(self, progress: Progress) -> None:
        if progress.reason is not None or time.monotonic() - self._last >= BEAT_S:
            self._last = time.monotonic()
            with suppress(OSError):  # a full disk ends the work when it is saved, and says so
                self._path.write_text(str(progress.step), encoding="utf-8")

    def close(self) -> None:
        pass


class Transport(Protocol):
    """How an instance comes to be a process somewhere."""

    slots: int  # instances at the same time
    queues: bool  # one that was begun may have to wait for its turn

    def begin(self, told: dict[str, Any], slot: int) -> Any:
        """Begin `instance` in a process of its own; a handle of it. told: assignment, parent, run and watch."""
        ...

    def gone(self, handle: Any) -> str | None:
        """None while the process is there; then how it ended."""
        ...

    def stop(self, handle: Any) -> None:
        """Ask it to save and end."""
        ...

    def kill(self, handle: Any) -> None:
        """End it now. It is gone when this returns."""
        ...

    def close(self) -> None:
        """No process is left: let go of what began them."""
        ...


@final
class Processes:
    """Processes on this machine, begun afresh (not forked), each on a core of its own. They end with this one."""

    queues = False

    def __init__(self, workers: int | None):
        self._cores = cores()
        self.slots = workers or len(self._cores)

    def begin(self, told: dict[str, Any], slot: int) -> subprocess.Popen:
        told = {**told, "core": self._cores[slot % len(self._cores)], "jax": _told_jax(), "path": _path()}
        with (Path(told["watch"]) / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", "from fifteen.fleet_transports import main; main()"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_path())},
                start_new_session=True,  # Ctrl-C is this process's business
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it died: `gone` says so
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()  # left open: the other end sees when this process is no more
        return process

    def gone(self, handle: subprocess.Popen) -> str | None:
        status = handle.poll()
        if status is None:
            return None
        assert handle.stdin is not None
        with suppress(BrokenPipeError):
            handle.stdin.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def stop(self, handle: subprocess.Popen) -> None:
        handle.terminate()

    def kill(self, handle: subprocess.Popen) -> None:
        handle.kill()
        handle.wait()
        self.gone(handle)

    def close(self) -> None:
        pass


def main() -> None:
    """The process of one instance: what to do on stdin, whose end is the end of the fleet's process."""
    told = json.loads(sys.stdin.readline())

    def leash() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock would be held when this process ends
        os._exit(1)  # the fleet was killed: what is saved is whole, and its next process wants the folder

    threading.Thread(target=leash, daemon=True).start()
    instance(told)


@final
class Ray:
    """Tasks of Ray, one CPU each: on this machine, or on the cluster at `address`.

    Every machine needs Fifteen and the jobs installed, and the fleet's folder at the same path. A Ray that the caller
    has initialised is used as it is, and left running.
    """

    queues = True  # others may have the cluster's CPUs

    def __init__(self, workers: int | None, address: str | None):
        """Raises RunError where Ray is not installed or cannot be reached."""
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise RunError(
                "the transport 'ray' needs Ray, which is not installed: pip install 'fifteen[ray]'"
            ) from error
        self._local = address in (None, "local")
        self._own = not self._ray.is_initialized()
        if self._own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless the user wants it
            here = {"num_cpus": workers or len(cores()), "include_dashboard": False} if self._local else {}
            try:
                self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise RunError(f"Ray at {address or 'this machine'} cannot be reached: {error}") from error
        self.slots = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        # A process for each: an instance sets up JAX, and may be killed.
        self._task = self._ray.remote(num_cpus=1, max_retries=0, max_calls=1)(instance)

    def begin(self, told: dict[str, Any], slot: int) -> Any:
        own = cores()
        core = own[slot % len(own)] if self._local else None  # elsewhere nobody here knows which is free
        here = {"jax": _told_jax(), "path": _path()} if self._local else {"jax": {}, "path": []}
        return self._task.remote({**told, "core": core, **here})

    def gone(self, handle: Any) -> str | None:
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            self._ray.get(handle)
        except Exception as error:  # Ray raises what became of the task: killed, out of memory, machine lost
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return "its task returned"

    def stop(self, handle: Any) -> None:
        self._ray.cancel(handle, force=False)  # as Ctrl-C

    def kill(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)
        self._ray.wait([handle], timeout=CANCEL_S)

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _told_jax() -> dict[str, Any]:
    """So that instances find what was compiled here."""
    return {name: jax.config.values[name] for name in _CACHE}


def _path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]
