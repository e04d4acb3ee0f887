"""The peer's side of school_speed.py, run by a Python that has sb3-contrib: RecurrentPPO learns CartPole-v1.

Defaults of the library, 8 environments in one process (DummyVecEnv), torch with as many threads as it takes by itself.
A round is a rollout and what is learned from it; the first one is not counted.
"""

import platform
from importlib import metadata

import torch
from blocks import Blocks
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

PACKAGES = ("sb3-contrib", "stable-baselines3", "torch", "gymnasium", "numpy")
ENVIRONMENTS = 8


class Rounds(BaseCallback):
    """Waits before every rollout but the first."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self._blocks = blocks
        self._over = False

    def _on_rollout_start(self) -> None:
        self._over = self.model.num_timesteps > 0 and self._blocks(self.model.num_timesteps)

    def _on_step(self) -> bool:
        return not self._over


model = RecurrentPPO("MlpLstmPolicy", make_vec_env("CartPole-v1", n_envs=ENVIRONMENTS, seed=0), seed=0, device="cpu")
told = {
    "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
    "environments": ENVIRONMENTS,
    "rollout": model.n_steps,
    "threads": torch.get_num_threads(),
    "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
}
model.learn(10**12, callback=Rounds(Blocks(told)))
