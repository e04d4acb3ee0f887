"""What a job at work delivers: ticks of E parallel streams, whatever stands behind them."""

import abc
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fifteen.errors import JobError

DEFAULT_STEP_LIMIT = 10_000  # steps after which an attempt of a job without a time limit is truncated


class Tick(NamedTuple):
    """What all E streams deliver at one moment.

    The order is Gymnasium's NEXT_STEP: the final observation of an attempt is delivered in a tick of
    its own, no action is taken from it, and the stream's next tick is the first of a new attempt.
    """

    observations: tuple  # E raw observations, each in the job's observation space
    rewards: np.ndarray  # float64[E], arrived with this observation; 0 at the first of an attempt
    first: np.ndarray  # bool[E], this observation begins an attempt
    terminated: np.ndarray  # bool[E], this observation is the last of its attempt, by termination
    truncated: np.ndarray  # bool[E], the last by truncation; never both: terminated wins
    active: np.ndarray  # bool[E], False: nothing is delivered; observation stale, flags False
    action_masks: tuple  # E entries: None or info["action_mask"]; None where no action is taken


class Stream(abc.ABC):
    """A job at work as E parallel streams. Spaces are those of one stream.

    The arrays of a tick may be shared between ticks: read them, do not write into them.
    """

    job_id: str
    num_envs: int  # E
    observation_space: gym.Space
    action_space: gym.Space
    step_limit: int | None  # steps after which an attempt is truncated
    notes: list[str]  # what a person should be told once, e.g. a defaulted step limit
    faults: Counter[str]  # counted reactions to faults of the job, e.g. "reward non-finite"
    replayed_equal: np.ndarray  # bool[E], after `restore`: the stream stands exactly where it stood

    @abc.abstractmethod
    def reset(self, seed: int) -> Tick:
        """Begin attempt 0 of every stream; attempt n of stream e begins from (seed, e, n)."""

    @abc.abstractmethod
    def step(self, actions: Sequence[Any]) -> Tick:
        """Take E actions, each in `action_space`, and deliver the next tick.

        The action of a stream whose last tick ended its attempt, or was inactive, is ignored and
        may be anything. Raises JobError after three failures in a row without one good step.
        """

    @abc.abstractmethod
    def attempts(self) -> np.ndarray:
        """int64[E]: number of the current attempt of each stream, from 0."""

    @abc.abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Where the streams stand, as of the last tick: all that `restore` needs."""

    @abc.abstractmethod
    def restore(self, state: dict[str, np.ndarray]) -> Tick:
        """Stand again where `state` was taken and deliver the tick of that moment once more.

        Where the job differs from what it was, the attempt is truncated at the stream's next tick,
        counted in `faults` as "resume differed" and said in `notes`.
        Raises JobError when the state is not one of this job with as many streams.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release what the job holds. Closing twice is harmless."""


def attempt_seed(seed: int, stream: int, attempt: int) -> int:
    """The 31-bit seed from which attempt `attempt` of stream `stream` begins."""
    return int(np.random.SeedSequence((seed, stream, attempt)).generate_state(1)[0] >> 1)


def checked_seed(seed: int) -> int:
    """`seed` as an int. Raises JobError unless it is an integer from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise JobError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
    return int(seed)


def checked_step_limit(own: int | None, given: int | None, job_id: str, notes: list[str]) -> int:
    """The step limit in force: the smaller of the job's own and the given one, else the default.

    Raises JobError unless `given` is None or a positive integer.
    """
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1):
        raise JobError(f"step_limit must be a positive number of steps or None, got {given!r}")
    limits = [int(limit) for limit in (own, given) if limit is not None]
    if limits:
        return min(limits)
    notes.append(
        f"{job_id} declares no time limit: attempts are truncated after {DEFAULT_STEP_LIMIT} "
        "steps; pass step_limit to choose another limit"
    )
    return DEFAULT_STEP_LIMIT


def check_state(state: dict[str, np.ndarray], names: Sequence[str], job_id: str, num_envs: int) -> None:
    """Raises JobError unless the state has the arrays `names` and is one of `num_envs` streams."""
    if not all(name in state for name in names) or state["attempt"].shape != (num_envs,):
        raise JobError(
            f"this state does not belong to {job_id} with {num_envs} streams; open the job and the "
            "num_envs that it was saved with"
        )


def check_actions(actions: Sequence[Any], job_id: str, num_envs: int) -> None:
    if len(actions) != num_envs:
        raise JobError(f"{job_id} has {num_envs} streams and takes as many actions, got {len(actions)}")
