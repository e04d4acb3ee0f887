"""Frozen copies on a job, as on a first day: how well a learner does it, and practice, which leaves its rows.

Who imitates an instance errs somewhere, and is soon where nobody had been: what the instance lived tells little of who
fails, for it came to do well. So somebody else lives a few first days on the job, and the instance says what it would
do there (Ross et al. 2011, "A reduction of imitation learning and structured prediction to no-regret online learning").
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from fifteen.errors import RunError, check_positive
from fifteen.frames import Layout
from fifteen.interrupting import interruptible
from fifteen.jobs.protocol import checked_seed
from fifteen.jobs.registry import open_job
from fifteen.learner import Learner
from fifteen.lived import FirstDays
from fifteen.recorder import Recorder
from fifteen.worker import Worker

LIFETIMES = 6  # of a practice
ROWS = 1_024  # of each of them that are kept, as a rule


@dataclass(frozen=True)
class Evaluation:
    """Finished attempts of a frozen copy, in the order in which they ended. Returns are undiscounted."""

    returns: np.ndarray  # float64[n]
    lengths: np.ndarray  # int64[n]
    lifetimes: np.ndarray  # int64[n], in which of its lifetimes, from 0: attempts of one share a memory

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    def late(self, most: int) -> np.ndarray:
        """Returns of the later half of the first `most` attempts of every lifetime, float64[n]."""
        each = [self.returns[self.lifetimes == number][:most] for number in np.unique(self.lifetimes)]
        return np.concatenate([returns[len(returns) // 2 :] for returns in each] or [self.returns])


@final
@dataclass(frozen=True)
class Practice:
    """`LIFETIMES` first days on a job."""

    attempts: Evaluation
    days: FirstDays  # their first rows


def evaluate(
    learner: Learner,
    job: Any,
    *,
    episodes: int = 20,
    lifetimes: int = 1,
    seed: int = 1,
    num_envs: int = 1,
    kwargs: Mapping[str, Any] | None = None,
    step_limit: int | None = None,
) -> Evaluation:
    """How well a learner does a job as it is: a copy with a fresh memory, no weight updates.

    The learner stays as it is. The memory runs through the attempts, as it would at work: who is lucky in the first may
    be lucky in all. lifetimes: over so many, lived at the same time, the attempts are spread; the first ones have one
    more where they cannot be divided. num_envs: streams of each lifetime. Raises as `work` does.
    """
    check_positive("episodes", episodes)
    check_positive("lifetimes", lifetimes)
    if lifetimes > episodes:
        raise RunError(f"lifetimes is {lifetimes}, expected at most as many as there are episodes, {episodes}")
    due = np.array([len(share) for share in np.array_split(np.arange(episodes), lifetimes)])

    def enough(worker: Worker, active: np.ndarray, ended: np.ndarray) -> bool:
        return bool((ended >= due).all())

    how = {"seed": seed, "lifetimes": lifetimes, "num_envs": num_envs, "kwargs": kwargs, "step_limit": step_limit}
    found, _, _ = _side_by_side(learner, job, enough, **how)
    # A lifetime that is quicker than others goes on meanwhile: its first attempts count.
    first = [np.flatnonzero(found.lifetimes == number)[:share] for number, share in enumerate(due)]
    counts = np.sort(np.concatenate(first))
    return Evaluation(found.returns[counts], found.lengths[counts], found.lifetimes[counts])


def practise(
    learner: Learner,
    job: Any,
    *,
    attempts: int,
    seed: int,
    rows: int = ROWS,
    kwargs: Mapping[str, Any] | None = None,
    step_limit: int | None = None,
) -> Practice:
    """`LIFETIMES` first days of a learner on a job, side by side: a fresh memory each, no weight updates.

    They go on until each has so many rows, and has finished so many attempts. The learner stays as it is. Raises as
    `work` does, and KeyboardInterrupt where Ctrl-C or SIGTERM end it.
    """
    kept: dict[str, np.ndarray] = {}  # name -> [LIFETIMES, rows, ...]
    filled = np.zeros(LIFETIMES, np.int64)

    def enough(worker: Worker, active: np.ndarray, ended: np.ndarray) -> bool:
        if not kept:
            kept.update({name: np.zeros((LIFETIMES, rows, *x.shape[1:]), x.dtype) for name, x in worker.rows.items()})
        takes = np.flatnonzero(active & (filled < rows))
        if len(takes):
            for name, latest in worker.rows.items():
                kept[name][takes, filled[takes]] = latest[takes]
            filled[takes] += 1
        return bool((filled == rows).all() and (ended >= attempts).all())

    how = {"seed": seed, "lifetimes": LIFETIMES, "num_envs": 1, "kwargs": kwargs, "step_limit": step_limit}
    found, layout, interrupted = _side_by_side(learner, job, enough, **how)
    if interrupted:
        raise KeyboardInterrupt
    return Practice(found, FirstDays(layout, kept["frame"], kept.get("image"), kept["decision"]))


def _side_by_side(
    learner: Learner,
    job: Any,
    enough: Callable[[Worker, np.ndarray, np.ndarray], bool],
    *,
    seed: int,
    lifetimes: int,
    num_envs: int,
    kwargs: Mapping[str, Any] | None,
    step_limit: int | None,
) -> tuple[Evaluation, Layout, bool]:
    """Lifetimes side by side until enough(worker, active, ended), asked after every tick.

    active: bool[E], the streams that the tick was of. ended: int64[lifetimes], attempts finished by each.
    Returns all attempts that were finished, and whether Ctrl-C or SIGTERM ended them.
    """
    seed = checked_seed(seed)
    whose: list[int] = []  # the lifetime of every attempt
    ended = np.zeros(lifetimes, np.int64)
    learner.settle()
    with ExitStack() as stack:
        stream = open_job(job, num_envs=num_envs * lifetimes, kwargs=kwargs, step_limit=step_limit)
        stack.callback(stream.close)
        streams = stream.num_envs // lifetimes
        worker = learner.new_worker(
            stream.observation_space,
            stream.action_space,
            seed=seed,
            learn="context",
            streams=streams,
            lifetimes=lifetimes,
        )
        stack.callback(worker.close)
        recorder = Recorder(stream.job_id, stream.num_envs, worker.work.discount, None, None)
        tick = stream.reset(seed)
        interrupted = stack.enter_context(interruptible())
        while not interrupted.is_set():
            moment = worker.decide(tick)
            recorder.record(tick, moment)
            for number in np.flatnonzero(tick.terminated | tick.truncated) // streams:
                whose.append(int(number))
                ended[number] += 1
            if enough(worker, tick.active, ended):
                break
            tick = stream.step(moment.actions)
        log = recorder.log(stream, worker, "done")
        return Evaluation(log.returns, log.lengths, np.array(whose, np.int64)), worker.layout, interrupted.is_set()
