"""Attempts to look at again: what an instance perceived, did and was paid, step by step, in replays.jsonl."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fifteen.errors import RunError

REPLAYS = "replays.jsonl"
MOST_STEPS = 1_000
"""Most steps of an attempt that are kept: the first ones."""
MOST_SENSORS = 64
"""Most entries of a flattened observation that are kept: the first ones."""


@dataclass(frozen=True)
class Replay:
    """The beginning of one attempt: T steps, D sensors, A numbers for each action.

    `length` and `sensors` are of the attempt, T and D of what was kept. Entry t of `rewards` is what followed action t,
    taken on observation t. What was not finite is NaN here and null in the file.
    """

    learner: str
    job: str
    run: int  # which of the lifetimes on this job
    attempt: int  # from 0, within the lifetime
    observations: np.ndarray  # float64[T, D], the space flattened in its canonical order
    actions: np.ndarray  # float64[T, A]; A is 1 for Discrete
    rewards: np.ndarray  # float64[T]
    length: int
    sensors: int


def replay(
    learner: str,
    job: str,
    run: int,
    attempt: int,
    observations: ArrayLike,
    actions: ArrayLike,
    rewards: ArrayLike,
) -> Replay:
    """A replay of one attempt, cut to what is kept.

    observations [T, ...] and actions [T, ...] of any number of axes, flattened per step; rewards [T]; T at least 1. An
    observation after the last action is not part of it. Raises ValueError where the three differ in T, or T is 0.
    """
    reward = np.asarray(rewards, np.float64)
    steps = len(reward)
    seen, done = (np.asarray(values, np.float64) for values in (observations, actions))
    if reward.ndim != 1 or steps == 0 or seen.shape[:1] != (steps,) or done.shape[:1] != (steps,):
        raise ValueError(
            f"observations is {list(seen.shape)}, actions {list(done.shape)} and rewards {list(reward.shape)}, "
            "expected one of each for every step, at least one step, rewards of one axis"
        )
    seen, done = seen.reshape(steps, -1), done.reshape(steps, -1)
    kept = slice(MOST_STEPS)
    return Replay(learner, job, run, attempt, seen[kept, :MOST_SENSORS], done[kept], reward[kept], steps, seen.shape[1])


def append_replay(folder: Path, replayed: Replay) -> None:
    """Add a line to folder/replays.jsonl. Numbers keep five digits: they are for looking at."""
    line = asdict(replayed)
    for name in ("observations", "actions", "rewards"):
        line[name] = _numbers(line[name])
    with (folder / REPLAYS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")


def read_replays(folder: Path, wanted: Callable[[str, str], bool]) -> Iterator[Replay]:
    """The replays of folder/replays.jsonl for which wanted(learner, job) holds; none where the file is missing.

    A last line that a killed process did not finish is left out. Raises RunError for another line that is no replay.
    """
    path = folder / REPLAYS
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for at, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                if not wanted(entry["learner"], entry["job"]):
                    continue
                arrays = {name: np.array(entry[name], np.float64) for name in ("observations", "actions", "rewards")}
                yield Replay(**{**entry, **arrays})
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                if not line.endswith("\n"):
                    return
                raise RunError(f"{path}, line {at}, is no replay: {line[:60]!r}") from error


def _numbers(values: np.ndarray) -> list:
    """Nested lists with five digits; null for what is not finite."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
