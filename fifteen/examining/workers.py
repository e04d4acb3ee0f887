"""Processes that work on the tasks of an exam beside each other, and what happens when one of them dies.

Parent and workers speak in lines of JSON: nothing is pickled. A worker that dies or does not answer is replaced, and
what it was at has failed.
"""

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import jax
import numpy as np

from fifteen.compiling import cache_compilations
from fifteen.errors import RunError
from fifteen.examining.entrants import Entrant
from fifteen.examining.records import Finding, LearnerNote, record_from_json, record_to_json
from fifteen.examining.replays import Replay
from fifteen.examining.sitting import Begun, Ended, Event, Hall, Task
from fifteen.examining.suites import read_suite, write_suite

LOG = "workers.log"
"""In the folder of an exam: what jobs and policies print."""
GRACE_S = 60.0
"""What a worker gets beside the time of its lifetimes, to compile and to answer."""
_LAST_S = 5.0  # for one that has closed its side to leave its exit status
_ARRAYS = ("observations", "actions", "rewards")  # of a replay


def work_here(hall: Hall, tasks: Sequence[Task]) -> Iterator[Ended]:
    """Do all tasks in this process. What raises has crashed; what ends the process ends the exam."""
    left = deque(tasks)
    while left:
        task = left.popleft()
        begun = task.seats
        try:
            for event in hall.work(task):
                if isinstance(event, Begun):
                    begun = event.seats
                else:
                    yield event
        except Exception as error:
            ended, again = hall.failed(task, begun, "crashed", f"{type(error).__name__}: {error}")
            left.extendleft(reversed(again))
            yield ended


def work_beside(hall: Hall, tasks: Sequence[Task], folder: Path, count: int) -> Iterator[Ended]:
    """Do all tasks in `count` processes, each on a core of its own; the suites go to them as files in the folder.

    Raises RunError where no worker can begin.
    """
    suites = [write_suite(suite, folder / f"suite-{n}.json") for n, suite in enumerate(hall.suites)]
    context = {
        "suites": [str(path) for path in suites],
        "entrants": [{"note": dataclasses.asdict(e.note), "spec": e.spec} for e in hall.entrants],
        "seconds": hall.seconds,
        "cache": jax.config.values["jax_compilation_cache_dir"],
    }
    left, inbox = deque(tasks), queue.SimpleQueue()
    workers = [_Worker(core, context, folder, inbox) for core in range(min(count, len(left)))]
    try:
        while left or any(worker.task for worker in workers):
            for worker in workers:
                if worker.task is None and left:
                    worker.give(left.popleft(), hall.seconds)
            worker, line = _next(inbox, workers)
            if worker not in workers or worker.task is None:
                continue  # the last words of one that was ended
            if line == b"ready\n":
                worker.ready = True
            elif line == b"done\n":
                worker.task = None
            elif line:
                event = _event(line)
                if isinstance(event, Begun):
                    worker.begin(event.seats, hall.seconds)
                    continue
                if isinstance(event, str):
                    event, again = hall.failed(worker.task, worker.begun, "crashed", event)
                    left.extendleft(reversed(again))
                    worker.task = None
                yield event
            else:
                late = time.monotonic() > worker.deadline
                how = worker.end(0.0 if late else _LAST_S)
                if not worker.ready:
                    raise RunError(f"a worker process cannot begin ({how}): see {folder / LOG}")
                if late:
                    event, again = hall.failed(worker.task, worker.begun, "timed out", "no answer in time")
                else:
                    event, again = hall.failed(worker.task, worker.begun, "crashed", f"the process died: {how}")
                left.extendleft(reversed(again))
                workers[workers.index(worker)] = _Worker(worker.core, context, folder, inbox)
                yield event
    finally:
        for worker in workers:
            worker.end(0.0)


@final
class _Worker:
    """One process, and what it is at."""

    def __init__(self, core: int, context: dict[str, Any], folder: Path, inbox: queue.SimpleQueue):
        self.core, self.ready = core, False
        self.task: Task | None = None
        self.begun: tuple[tuple[str, int], ...] = ()
        self.deadline = float("inf")
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from fifteen.examining.workers import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        threading.Thread(target=self._listen, args=(inbox,), daemon=True).start()
        self._say({**context, "core": core})

    def give(self, task: Task, seconds: float) -> None:
        self.task = task
        self.begin(task.seats, seconds)
        self._say(dataclasses.asdict(task))

    def begin(self, seats: tuple[tuple[str, int], ...], seconds: float) -> None:
        self.begun = seats
        self.deadline = time.monotonic() + GRACE_S + seconds * len({job for job, _ in seats})

    def end(self, patience: float) -> str:
        """End the process, after so many seconds in which it may end by itself; how it ended."""
        try:
            status = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def _say(self, told: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it died: the end of its stdout says so

    def _listen(self, inbox: queue.SimpleQueue) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                if line.endswith(b"\n"):
                    inbox.put((self, line))
        inbox.put((self, b""))


def _next(inbox: queue.SimpleQueue, workers: Sequence[_Worker]) -> tuple[_Worker, bytes]:
    """What a worker says next: b"" where it died, or is over its time."""
    last = min(workers, key=lambda worker: worker.deadline if worker.task else float("inf"))
    try:
        return inbox.get(timeout=max(0.0, min(last.deadline - time.monotonic(), threading.TIMEOUT_MAX)))
    except queue.Empty:
        return last, b""


def _line(event: Event) -> str:
    if isinstance(event, Begun):
        return json.dumps({"begun": event.seats})
    lived = []
    for records, shown in event.lived:
        arrays = {} if shown is None else {name: getattr(shown, name).tolist() for name in _ARRAYS}
        told = None if shown is None else {**vars(shown), **arrays}
        lived.append([[record_to_json(record) for record in records], told])
    return json.dumps({"lived": lived, "findings": [dataclasses.asdict(finding) for finding in event.findings]})


def _event(line: bytes) -> Event | str:
    """What a worker said; a text: why its task failed."""
    told = json.loads(line)
    if "failed" in told:
        return told["failed"]
    if "begun" in told:
        return Begun(tuple((job, run) for job, run in told["begun"]))
    lived = []
    for records, shown in told["lived"]:
        arrays = {} if shown is None else {name: np.array(shown[name], np.float64) for name in _ARRAYS}
        replay = None if shown is None else Replay(**{**shown, **arrays})
        lived.append((tuple(record_from_json(record) for record in records), replay))
    return Ended(tuple(lived), tuple(Finding(**finding) for finding in told["findings"]))


def main() -> None:
    """One worker: a context on stdin, then tasks; events on stdout."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a job prints is no reply
    context = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        # Threads that meet across cores at every small kernel take twice as long.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[context["core"] % len(cores)]})
    if context["cache"]:
        cache_compilations(context["cache"])
    entrants = [Entrant(LearnerNote(**one["note"]), one["spec"]) for one in context["entrants"]]
    hall = Hall([read_suite(path) for path in context["suites"]], entrants, context["seconds"])
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        task = Task(told["kind"], tuple((job, run) for job, run in told["seats"]), told["entrant"], told["seed"])
        try:
            for event in hall.work(task):
                print(_line(event), file=replies, flush=True)
        except Exception as error:
            traceback.print_exc()
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=replies, flush=True)
        else:
            print("done", file=replies, flush=True)
