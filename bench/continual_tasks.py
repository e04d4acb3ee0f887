"""The protocol of bench/continual_control.py: jobs, offsets, attempts, and the wrapper that Gymnasium's jobs wear.

A life is 10 tasks of 160,000 steps. In each a fixed offset is added to the observations: one draw of a normal
distribution with mean 0 and standard deviation 2 per dimension and task, the first task clean. Nobody tells the learner
where a task ends. An attempt is truncated after 400 steps, and nowhere else. The offset follows the steps of the life,
also in the midst of an attempt. The observation space that is declared has no bounds, in every task the same: it
tells nothing of the offset, and nothing is clipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


@dataclass(frozen=True)
class Published:
    """A job, and what is published: the average return of an attempt over the whole life."""

    dimensions: int  # D of the observation
    oracle: float  # of learners that begin anew at every task
    best: float  # of those that do not


JOBS: Mapping[str, Published] = {
    "CartPole-v1": Published(4, 299.9, 266.1),
    "Acrobot-v1": Published(6, -125.7, -118.8),
    "LunarLander-v3": Published(8, 1.1, -6.7),
    "MountainCar-v0": Published(2, -322.6, -245.7),
}
DEVIATION = 2.0  # of the offsets
LIMIT = 400  # steps of an attempt


@dataclass(frozen=True)
class Protocol:
    """How long a life is."""

    tasks: int = 10
    task_steps: int = 160_000

    @property
    def steps(self) -> int:
        return self.tasks * self.task_steps


@dataclass(frozen=True)
class Attempts:
    """Finished attempts of one life, in the order in which they ended."""

    returns: np.ndarray  # float64[n]
    lengths: np.ndarray  # int64[n]
    steps: np.ndarray  # int64[n], of the life, when it ended


def make(name: str) -> gymnasium.Env:
    """Gymnasium's job with the limit of the protocol instead of its own."""
    return gymnasium.make(name, max_episode_steps=LIMIT, disable_env_checker=True)


def offsets_of(name: str, seed: int, tasks: int) -> np.ndarray:
    """The offset of every task of the life of a seed, float32[tasks, D]: the first is zero."""
    random = np.random.default_rng((seed, list(JOBS).index(name)))
    drawn = random.normal(0.0, DEVIATION, (tasks, JOBS[name].dimensions))
    drawn[0] = 0.0
    return drawn.astype(np.float32)


class OffsetTasks(gymnasium.Wrapper):
    """A job whose observations are shifted, by another offset after every `task_steps` steps; the last one stays.

    offsets float32[tasks, D]; steps: how many of the life were taken before.
    """

    def __init__(self, env: gymnasium.Env, offsets: np.ndarray, task_steps: int, steps: int = 0):
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (offsets.shape[1],), np.float32)
        self.steps = steps
        self._offsets, self._task_steps = offsets, task_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return np.asarray(observation, np.float32) + self._offset(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        shown = np.asarray(observation, np.float32) + self._offset()
        self.steps += 1
        return shown, float(reward), terminated, truncated, info

    def _offset(self) -> np.ndarray:
        return self._offsets[min(self.steps // self._task_steps, len(self._offsets) - 1)]
