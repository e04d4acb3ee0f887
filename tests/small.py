"""A small mind, and jobs of one shape, so that the tests of work share what is compiled.

All have two actions. Registered nowhere; a process that has this folder on its path can open "small:Walk" and so on.
"""

from typing import Any, final

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.config import WorkConfig
from fifteen.jobs.native import Job

# Nothing here is tuned: few rows, small batches, half an update a step, so that a run is quick.
WORK = WorkConfig(replay=2_000, warmup=50, sequence=8, batch=8, block=4, updates_per_step=0.5)


class Walk(gym.Env):
    """Three random numbers are shown; action 1 pays 1, action 0 nothing. An attempt has `length` steps."""

    observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=7, terminates=True):
        self._length, self._terminates = length, terminates
        self._steps = 0

    def _observed(self):
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observed(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._steps += 1
        over = self._steps >= self._length
        return self._observed(), float(action), over and self._terminates, over and not self._terminates, {}


class Masked(Walk):
    """Most often only one of the two actions is open; the other one is counted."""

    violations = 0  # of all instances

    def _mask(self):
        self._open = np.array([[1, 0], [0, 1], [1, 1]][self.np_random.integers(3)], np.int8)
        return {"action_mask": self._open.copy()}

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, self._mask()

    def step(self, action):
        Masked.violations += int(not self._open[action])
        *told, _ = super().step(action)
        return *told, self._mask()


class Faulty(Walk):
    """Goes wrong at every 11th step in the way that it is made for."""

    def __init__(self, fault, length=7):
        super().__init__(length)
        self._fault, self._taken, self._resets = fault, 0, 0

    def reset(self, *, seed=None, options=None):
        self._resets += 1
        if self._fault == "reset raises" and self._resets % 3 == 0:
            raise RuntimeError("the door is stuck")
        return super().reset(seed=seed)

    def step(self, action):
        self._taken += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self._taken % 11 == 0:
            if self._fault == "step raises":
                raise RuntimeError("the wheel came off")
            if self._fault == "reward":
                reward = [np.nan, np.inf, -np.inf, 1e39, -1e300][self._taken // 11 % 5]
            if self._fault == "observation":
                observation = np.array([np.nan, np.inf, -np.inf], np.float32)
            if self._fault == "outside":
                observation = np.full(3, 1e30, np.float32)
            if self._fault == "dtype":
                observation = observation.astype(np.float64)
            if self._fault == "shape":
                observation = np.zeros(4, np.float32)
        return observation, reward, terminated, truncated, info


class Broken(Walk):
    """Works for 40 steps, then never again."""

    taken = 0  # of all instances

    def step(self, action):
        Broken.taken += 1
        if Broken.taken > 40:
            raise RuntimeError("gone")
        return super().step(action)


class Endless(Walk):
    """Never ends an attempt."""

    def __init__(self):
        super().__init__(length=10**9)


@final
class Drift(Job):
    """Walk as a native job, of five steps."""

    step_limit: int = 5

    @property
    def observation_space(self) -> gym.Space:
        return Walk.observation_space

    @property
    def action_space(self) -> gym.Space:
        return Walk.action_space

    def reset(self, key: Array) -> tuple[Array, Array]:
        shown = jax.random.uniform(key, (3,))
        return shown, shown

    def step(self, state: Array, action: Any, key: Array) -> tuple[Array, Array, Array, Array]:
        shown = 0.5 * state + jax.random.uniform(key, (3,))
        return shown, shown, jnp.where(action == 1, 1.0, 0.0), jnp.array(False)
