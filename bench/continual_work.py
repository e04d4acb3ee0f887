"""Whole lives through `fifteen.work`, each in the folder of a run: killed, it goes on where it was saved."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from continual_tasks import LIMIT, Attempts, OffsetTasks, Protocol, make

import fifteen
from fifteen import checkpoint
from fifteen.config import Learn
from fifteen.learner import Learner
from fifteen.log import Progress, WorkLog


@dataclass(frozen=True)
class Worked:
    """A finished life."""

    attempts: Attempts
    learner: Learner  # as it is at the end
    steps_per_s: float | None  # of this session's part of it; None if there was none
    faults: dict[str, int]


def live(
    name: str, learner: Learner, offsets: np.ndarray, protocol: Protocol, *, seed: int, learn: Learn, run: Path
) -> Worked:
    """Begin the life, or go on with it where its folder exists. Raises SystemExit where it is interrupted."""
    began, steps_before = time.monotonic(), 0
    task = -1

    def tell(progress: Progress) -> None:
        nonlocal task
        if progress.step // protocol.task_steps != task:
            task = progress.step // protocol.task_steps
            recent = "-" if progress.recent is None else f"{progress.recent:.1f}"
            print(
                f"{name} seed {seed}: step {progress.step:,}, recent {recent}, {progress.steps_per_s:.0f} steps/s",
                flush=True,
            )

    if (run / "config.json").is_file():
        steps_before = steps_taken(run)
        log = fifteen.resume(run, job=_job(name, offsets, protocol, steps_at_attempt(run)), callback=tell)
    else:
        job = _job(name, offsets, protocol, 0)
        log = fifteen.work(learner, job, steps=protocol.steps, seed=seed, learn=learn, run=run, callback=tell)
    if log.reason == "interrupted":
        raise SystemExit(f"{name} seed {seed}: interrupted; the same command goes on with it")
    taken = protocol.steps - steps_before
    speed = round(taken / (time.monotonic() - began), 1) if taken else None
    return Worked(attempts_of(log), fifteen.load(run), speed, log.faults)


def retest_fresh(name: str, learner: Learner, offset: np.ndarray, *, attempts: int, seed: int) -> Attempts:
    """One task again, by a copy with an empty memory whose weights stay. offset float32[D]."""
    found = fifteen.evaluate(learner, OffsetTasks(make(name), offset[None], 1), episodes=attempts, seed=seed)
    return Attempts(found.returns, found.lengths, np.cumsum(found.lengths))


def retest_kept(name: str, offsets: np.ndarray, task: int, protocol: Protocol, *, attempts: int, run: Path) -> Attempts:
    """The finished life goes on, in a copy of its folder, with one of its tasks again, learning as it did."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(run, Path(folder) / "run"))
        again = np.concatenate([offsets, offsets[task : task + 1]])
        job = _job(name, again, protocol, steps_at_attempt(run))
        wanted, met = attempts, 0

        def enough(progress: Progress) -> bool:
            nonlocal met
            met += sum(a.step - a.length >= protocol.steps for a in progress.finished)
            return met >= wanted

        log = fifteen.resume(copy, job=job, steps=protocol.steps + (attempts + 1) * LIMIT, callback=enough)
    if log.reason == "interrupted":
        raise SystemExit(f"{name}: interrupted in a re-test; the same command goes on with it")
    if log.faults.get("resume differed", 0) > 0:
        raise RuntimeError(f"{name}: the life did not go on where it stood, so that the re-test says nothing")
    return since(attempts_of(log), protocol.steps, attempts)


def since(attempts: Attempts, step: int, most: int) -> Attempts:
    """The first attempts that began at `step` of the life or later."""
    which = np.flatnonzero(attempts.steps - attempts.lengths >= step)[:most]
    return Attempts(attempts.returns[which], attempts.lengths[which], attempts.steps[which])


def attempts_of(log: WorkLog) -> Attempts:
    return Attempts(log.returns, log.lengths, log.steps)


def steps_taken(run: Path) -> int:
    _, manifest = checkpoint.read(run / "learner")
    return int(manifest["run"]["recorder"]["step"])


def steps_at_attempt(run: Path) -> int:
    """Steps of the life when the attempt begins that a resumed run replays or, if it had ended, begins anew."""
    arrays, manifest = checkpoint.read(run / "learner")
    under_way = int(arrays["job/status"][0]) == 0
    return int(manifest["run"]["recorder"]["step"]) - (int(arrays["job/elapsed"][0]) if under_way else 0)


def _job(name: str, offsets: np.ndarray, protocol: Protocol, steps: int) -> OffsetTasks:
    return OffsetTasks(make(name), offsets, protocol.task_steps, steps)
