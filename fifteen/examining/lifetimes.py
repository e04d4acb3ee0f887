"""Lifetimes on a suite's jobs, and the records they leave: one after the other here, many at once in `batches.py`."""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array
from numpy.typing import ArrayLike

from fifteen.errors import FifteenError, JobError, SpaceError
from fifteen.examining.entrants import NotApplicable, Player
from fifteen.examining.records import AttemptRecord, Status, Value
from fifteen.examining.replays import Replay, replay
from fifteen.examining.suites import Suite, SuiteJob
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.native import Job
from fifteen.jobs.protocol import Stream
from fifteen.jobs.registry import open_job

DISCOUNT = 0.99
"""A step, of what `v_now` expects."""
VALUES = 4
"""Steps of an attempt at which v_now is compared with what came: the first, and after each quarter."""


@dataclass(frozen=True)
class Attempt:
    """What happened in one attempt of T steps, or what stands in the place of all that did not happen."""

    status: Status
    problem: str = ""
    rewards: ArrayLike = ()  # float64[T]
    values: ArrayLike = ()  # float64[T], v_now before each step; [0] where there is no value function
    terminated: bool | None = None
    seconds: float = 0.0
    observations: ArrayLike = ()  # float64[T, D] and actions float64[T, A], where they were kept for a replay
    actions: ArrayLike = ()


class Seat(NamedTuple):
    """One lifetime that is asked for."""

    suite: Suite
    job: SuiteJob
    run: int


Lived = tuple[tuple[AttemptRecord, ...], Replay | None]
"""The records of a lifetime, and its last attempt to look at, if this is run 0."""


def live(player: Player, seat: Seat, learner: str, seconds: float) -> Lived:
    """One lifetime of a player, that may take so many seconds of wall time.

    Whatever goes wrong is in the records; nothing is raised.
    """
    _, job, run = seat
    try:
        stream = opened(job)
    except FifteenError as error:
        return recorded(seat, learner, [Attempt("missing", str(error))])
    attempts: list[Attempt] = []
    try:
        player.begin(stream, job.lifetime_seed(run))
        for attempt in _attempts(player, stream, job, run, time.monotonic() + seconds):
            attempts.append(attempt)
    except NotApplicable as reason:
        attempts.append(Attempt("not applicable", str(reason)))
    except SpaceError as error:
        attempts.append(Attempt("refused", str(error)))
    except TimeoutError:
        attempts.append(Attempt("timed out", f"the lifetime had not ended after {seconds:g} s"))
    except Exception as error:
        attempts.append(Attempt("crashed", f"{type(error).__name__}: {error}"))
    finally:
        player.end()
        _close(stream)
    return recorded(seat, learner, attempts)


def opened(job: SuiteJob) -> Stream:
    """A job at work as one stream. Raises JobError where there is none."""
    if job.drawn and job.family in FAMILIES and not job.kwargs:
        return open_job(drawn_job(job), step_limit=job.step_limit)
    return open_job(job.job, kwargs=job.arguments, step_limit=job.step_limit)


def drawn_job(job: SuiteJob) -> Job:
    """What `jobs.family.draw_job` draws, without compiling it anew for every job. Raises JobError as that does."""
    family = FAMILIES[job.family]
    if job.template not in family.templates:
        raise JobError(f"{family.name} has no template {job.template!r}; it has {', '.join(family.templates)}")
    _, key = jax.random.split(jax.random.key(job.seed))
    return _sampler(job.family)(jnp.int32(family.templates.index(job.template)), key)


@functools.cache
def _sampler(family: str) -> Callable[[Array, Array], Job]:
    return jax.jit(FAMILIES[family].sample)


def _attempts(player: Player, stream: Stream, job: SuiteJob, run: int, deadline: float) -> Iterator[Attempt]:
    """The attempts of a lifetime as they end, until its budget is used up. Raises TimeoutError after the deadline."""
    most_attempts, most_steps = job.attempts or math.inf, job.steps or math.inf
    tick = stream.reset(job.lifetime_seed(run))
    faults: Counter[str] = Counter()  # up to the attempt
    done = steps = 0
    while True:
        began = time.monotonic()
        rewards, values, observations, actions = [], [], [], []
        while True:
            if time.monotonic() > deadline:
                raise TimeoutError
            action, value = player.decide(tick)
            if tick.terminated[0] or tick.truncated[0]:
                break
            if steps >= most_steps:  # what is not finished is not counted
                if not done:
                    yield Attempt("timed out", f"no attempt ended within {job.steps} steps")
                return
            if value is not None:
                values.append(value)
            if run == 0:
                observations.append(_numbers(stream.observation_space, tick.observations[0]))
                actions.append(_numbers(stream.action_space, action))
            tick = stream.step([action])
            rewards.append(float(tick.rewards[0]))
            steps += 1
        status, problem = _judged(stream.faults - faults)
        took = time.monotonic() - began
        yield Attempt(status, problem, rewards, values, bool(tick.terminated[0]), took, observations, actions)
        done += 1
        if done >= most_attempts or steps >= most_steps:
            return
        faults = Counter(stream.faults)
        tick = stream.step([None])


def _judged(faults: Counter[str]) -> tuple[Status, str]:
    """What the faults of a job in one attempt make of it. The job went on; the exam does not overlook it."""
    told = ", ".join(f"{name} ({count})" for name, count in faults.items())
    if any(" raised" in name for name in faults):
        return "crashed", told
    return ("not finite" if any(name.startswith("reward") for name in faults) else "ok"), told


def recorded(seat: Seat, learner: str, attempts: Sequence[Attempt]) -> Lived:
    """The records of a lifetime, from what happened in it.

    A failure that ended it stands for all attempts that were still to come, so that none of them is overlooked.
    """
    _, job, run = seat
    told = list(attempts)
    if told[-1].status not in ("ok", "not applicable") and job.steps is None and job.attempts is not None:
        told += [Attempt(told[-1].status, told[-1].problem)] * (job.attempts - len(told))
    records, steps = [], 0
    for number, attempt in enumerate(told):
        record = _record(seat, learner, number, len(told), steps, attempt)
        records.append(record)
        steps += record.length
    last = attempts[-1]
    if run or not np.size(last.rewards) or not np.size(last.actions):
        return tuple(records), None
    shown = replay(learner, job.id, run, len(attempts) - 1, last.observations, last.actions, last.rewards)
    return tuple(records), shown


def _record(seat: Seat, learner: str, number: int, count: int, before: int, attempt: Attempt) -> AttemptRecord:
    suite, job, run = seat
    rewards = np.asarray(attempt.rewards, np.float64)
    status, problem = attempt.status, attempt.problem
    total = float(rewards.sum()) if status == "ok" else None
    score = None if total is None else job.score(total)
    if total is not None and not (math.isfinite(total) and math.isfinite(score or 0.0)):
        status, problem, total, score = "not finite", f"the return is {total}", None, None
    return AttemptRecord(
        learner=learner,
        job=job.id,
        family=job.family,
        template=job.template,
        split=job.split,
        run=run,
        attempt=number,
        attempts=count,
        status=status,
        problem=problem,
        return_=total,
        score=score,
        length=len(rewards),
        terminated=attempt.terminated,
        steps_before=before,
        seconds=round(float(attempt.seconds), 4),
        values=_sampled(rewards, np.asarray(attempt.values, np.float64)) if status == "ok" else (),
        suite=suite.name,
        suite_version=suite.version,
        suite_hash=suite.digest,
    )


def _sampled(rewards: np.ndarray, values: np.ndarray) -> tuple[Value, ...]:
    """v_now and the discounted return that followed, at VALUES steps. rewards, values float64[T]."""
    if len(values) != len(rewards) or not len(rewards):
        return ()
    obtained, following = np.empty(len(rewards)), 0.0
    for step in range(len(rewards) - 1, -1, -1):
        following = rewards[step] + DISCOUNT * following
        obtained[step] = following
    chosen = np.unique(len(rewards) * np.arange(VALUES) // VALUES).tolist()
    return tuple(Value(step, float(f"{values[step]:.6g}"), float(f"{obtained[step]:.6g}")) for step in chosen)


def _numbers(space: gym.Space, value: Any) -> np.ndarray:
    """An observation or action as numbers, float64[D]; none of a space without a fixed size."""
    if isinstance(space, spaces.Dict | spaces.Tuple | spaces.Text):
        return np.asarray(spaces.flatten(space, value), np.float64) if space.is_np_flattenable else np.zeros(0)
    return np.asarray(value, np.float64).reshape(-1)


def _close(stream: Stream) -> None:
    """What a job does when it is closed spoils no lifetime that is over."""
    try:
        stream.close()
    except Exception:
        return
