"""Counted reactions to the faults of a job: named, bounded, never silent."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from fifteen.errors import JobError

MAX_FAILURES = 3  # failures in a row, without one good step, before the job is given up
MAX_KINDS = 64  # distinct texts kept; error texts may carry numbers that never repeat
LARGEST_REWARD = 3e38  # of float32, in which the learner perceives it
MAX_TEXT = 160  # characters of an error text that are kept

_E = TypeVar("_E", gym.Env, VectorEnv)


def failure_name(verb: str, error: Exception) -> str:
    """The name under which a raised error is counted, e.g. "step raised: ValueError: text"."""
    text = str(error).strip().split("\n", 1)[0][:MAX_TEXT]
    return f"{verb} raised: {type(error).__name__}" + (f": {text}" if text else "")


def count_failure(faults: Counter[str], verb: str, error: Exception) -> None:
    """Count an error raised by the job; its text is dropped once too many texts are kept."""
    name = failure_name(verb, error)
    if name not in faults and len(faults) >= MAX_KINDS:
        name = f"{verb} raised"
    faults[name] += 1


def next_failure(job_id: str, faults: Counter[str], failures: int, verb: str, error: Exception) -> int:
    """Count one more failure in a row. Raises JobError from the job's own error at MAX_FAILURES."""
    count_failure(faults, verb, error)
    if failures + 1 >= MAX_FAILURES:
        raise JobError(
            f"{job_id} failed {MAX_FAILURES} times in a row without one good step, the last time in "
            f"{verb}: {type(error).__name__}: {error}"
        ) from error
    return failures + 1


def made_anew(env: _E, make: Callable[[], _E], job_id: str, faults: Counter[str]) -> _E:
    """Another environment in the place of one that cannot be reset. Raises JobError."""
    try:
        env.close()
    except Exception as error:
        count_failure(faults, "close", error)
    try:
        return make()
    except Exception as error:
        raise JobError(
            f"{job_id} could not be reset and then not be made anew: {type(error).__name__}: {error}"
        ) from error


def usable_reward(reward: Any, faults: Counter[str]) -> float:
    """The reward as a float that is finite in float32 too; 0.0, and counted, where it is none."""
    try:
        value = float(np.asarray(reward, np.float64).item())
    except (TypeError, ValueError):
        faults["reward not a number"] += 1
        return 0.0
    if not abs(value) <= LARGEST_REWARD:  # NaN too
        faults["reward non-finite"] += 1
        return 0.0
    return value


def faults_to_array(faults: Counter[str]) -> np.ndarray:
    """uint8[bytes]: the counts as JSON, to be kept beside other arrays."""
    return np.frombuffer(json.dumps(faults, sort_keys=True).encode(), np.uint8).copy()


def faults_from_array(array: np.ndarray) -> Counter[str]:
    return Counter(json.loads(array.tobytes()))
