"""A job of one's own: keep a room warm through a winter's night without burning too much fuel."""

import gymnasium as gym
import numpy as np


class Thermostat(gym.Env):
    """One decision every five minutes: heater off, low or high.

    Observed are the room's temperature, the temperature outside (degrees Celsius) and the hour.
    Reward: minus the degrees by which the room misses the target, minus the price of the fuel.
    """

    POWER = (0.0, 0.5, 1.0)  # degrees that each setting adds in five minutes

    def __init__(self, target: float = 20.0, insulation: float = 0.98, price: float = 0.3):
        self.observation_space = gym.spaces.Box(
            low=np.array([-50.0, -50.0, 0.0], dtype=np.float32),
            high=np.array([100.0, 50.0, 24.0], dtype=np.float32),
        )
        self.action_space = gym.spaces.Discrete(3)
        self.target, self.insulation, self.price = target, insulation, price

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random: an attempt can be repeated exactly
        self.step_of_night = 0
        self.outside = self.np_random.uniform(-10.0, 5.0)
        self.room = self.np_random.uniform(10.0, 20.0)
        return self._observation(), {}

    def step(self, action):
        warmth = self.POWER[action]
        self.room = self.outside + self.insulation * (self.room - self.outside) + warmth
        self.outside += self.np_random.normal(0.0, 0.2)
        self.step_of_night += 1
        reward = -abs(self.room - self.target) - self.price * warmth
        terminated = False  # nothing ends a night early: it is cut off in the morning
        truncated = self.step_of_night == 96  # eight hours
        return self._observation(), reward, terminated, truncated, {}

    def _observation(self):
        hour = (22.0 + self.step_of_night / 12.0) % 24.0
        return np.array([self.room, self.outside, hour], dtype=np.float32)


def make(**kwargs) -> gym.Env:
    """What `fifteen work thermostat:make --kwargs '{"target": 21}'` calls."""
    return Thermostat(**kwargs)
