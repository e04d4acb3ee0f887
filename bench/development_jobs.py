"""The development jobs: tasks, thresholds and the rule that says when a run has solved one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np

BUDGET = 200_000
"""Environment steps after which a run that has not reached its threshold counts as unsolved."""


class HiddenVelocity(gymnasium.ObservationWrapper):
    """CartPole observed without its velocities: cart position (m) and pole angle (rad) only."""

    KEPT = (0, 2)

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or space.shape != (4,):
            raise ValueError(f"HiddenVelocity needs a Box observation of shape (4,), got {space}")
        kept = list(self.KEPT)
        self.observation_space = gymnasium.spaces.Box(space.low[kept], space.high[kept], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[list(self.KEPT)]


def make_hidden_velocity() -> gymnasium.Env:
    """CartPole-v1 (time limit 500 steps) without velocities."""
    return HiddenVelocity(gymnasium.make("CartPole-v1"))


@dataclass(frozen=True)
class DevelopmentJob:
    """One task: solved when the mean return of the last `window` episodes is >= `threshold`."""

    name: str
    threshold: float
    window: int
    make: Callable[[], gymnasium.Env]


def _registered(name: str, threshold: float, window: int = 20) -> DevelopmentJob:
    return DevelopmentJob(name, threshold, window, partial(gymnasium.make, name))


DEVELOPMENT_JOBS = (
    _registered("CartPole-v1", 475.0),
    _registered("Acrobot-v1", -100.0),
    _registered("MountainCar-v0", -130.0),
    _registered("Pendulum-v1", -250.0),
    _registered("LunarLander-v3", 200.0),
    _registered("FrozenLake-v1", 0.70, window=100),
    DevelopmentJob("HiddenVelocityCartPole-v1", 300.0, 20, make_hidden_velocity),
)


class Solved:
    """Watches the raw returns of finished episodes for the first step that meets the threshold.

    `step` is that environment step, or None; `best` is the highest mean return of a full window
    so far (-inf before the first full window). Episodes that end after `budget` steps are ignored.
    """

    def __init__(self, threshold: float, window: int, budget: int = BUDGET) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 episode, got {window}")
        self.threshold = threshold
        self.window = window
        self.budget = budget
        self.step: int | None = None
        self.best = -math.inf
        self._returns: deque[float] = deque(maxlen=window)

    def add(self, episode_return: float, step: int) -> int | None:
        """Record an episode that ended at environment step `step`; give the solving step if any."""
        if step > self.budget:
            return self.step
        self._returns.append(episode_return)
        if len(self._returns) == self.window:
            mean = math.fsum(self._returns) / self.window
            self.best = max(self.best, mean)
            if self.step is None and mean >= self.threshold:
                self.step = step
        return self.step
