"""CartPole-v1 without its velocities: a job that is solved by remembering."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

_SHOWN = [0, 2]  # cart position in metres, pole angle in radians


class PositionOnly(gym.ObservationWrapper):
    """Keeps cart position and pole angle, float32[2]; both velocities are hidden."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        whole = env.observation_space
        assert isinstance(whole, spaces.Box)
        self.observation_space = spaces.Box(whole.low[_SHOWN], whole.high[_SHOWN], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[_SHOWN]


def hidden_velocity_cartpole() -> gym.Env:
    """CartPole-v1, 500 steps an attempt, observed through `PositionOnly`."""
    return PositionOnly(gym.make("CartPole-v1", disable_env_checker=True))
