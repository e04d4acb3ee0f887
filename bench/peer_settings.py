"""Published settings of the Stable-Baselines3 peers, copied from rl_zoo3 2.9.2 as plain data.

Values that rl_zoo3 does not set stay at the defaults of the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PeerSettings:
    """Settings of one algorithm on one job.

    `n_timesteps` is the published training length in environment steps, to which schedules and
    the exploration fraction refer (None: the budget of the benchmark). `arguments` go to the
    constructor of the algorithm; "lin_x" falls linearly from x to 0 over `n_timesteps`.
    """

    source: str
    n_timesteps: int | None
    n_envs: int = 1
    normalize: bool = False
    policy: str = "MlpPolicy"
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _zoo(entry: str) -> str:
    return f"rl_zoo3 2.9.2 hyperparams/{entry}"


_DQN_NETWORK = {"net_arch": [256, 256]}

_CARTPOLE_PPO = PeerSettings(
    source=_zoo("ppo.yml CartPole-v1"),
    n_timesteps=100_000,
    n_envs=8,
    arguments={
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": "lin_0.001",
        "clip_range": "lin_0.2",
    },
)

_CARTPOLE_DQN = PeerSettings(
    source=_zoo("dqn.yml CartPole-v1"),
    n_timesteps=50_000,
    arguments={
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "policy_kwargs": _DQN_NETWORK,
    },
)

_LANDER_DQN_ARGUMENTS = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "gamma": 0.99,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": _DQN_NETWORK,
}

_LIBRARY_DEFAULTS = PeerSettings(source="library defaults (no entry in rl_zoo3 2.9.2)", n_timesteps=None)

PEER_SETTINGS: dict[tuple[str, str], PeerSettings] = {
    ("CartPole-v1", "PPO"): _CARTPOLE_PPO,
    ("CartPole-v1", "DQN"): _CARTPOLE_DQN,
    ("Acrobot-v1", "PPO"): PeerSettings(
        source=_zoo("ppo.yml Acrobot-v1"),
        n_timesteps=1_000_000,
        n_envs=16,
        normalize=True,
        arguments={
            "n_steps": 256,
            "gae_lambda": 0.94,
            "gamma": 0.99,
            "n_epochs": 4,
            "ent_coef": 0.0,
        },
    ),
    ("Acrobot-v1", "DQN"): PeerSettings(
        source=_zoo("dqn.yml Acrobot-v1"), n_timesteps=100_000, arguments=_LANDER_DQN_ARGUMENTS
    ),
    ("MountainCar-v0", "PPO"): PeerSettings(
        source=_zoo("ppo.yml MountainCar-v0"),
        n_timesteps=1_000_000,
        n_envs=16,
        normalize=True,
        arguments={
            "n_steps": 16,
            "gae_lambda": 0.98,
            "gamma": 0.99,
            "n_epochs": 4,
            "ent_coef": 0.0,
        },
    ),
    ("MountainCar-v0", "DQN"): PeerSettings(
        source=_zoo("dqn.yml MountainCar-v0"),
        n_timesteps=120_000,
        arguments={
            "learning_rate": 4e-3,
            "batch_size": 128,
            "buffer_size": 10_000,
            "learning_starts": 1000,
            "gamma": 0.98,
            "target_update_interval": 600,
            "train_freq": 16,
            "gradient_steps": 8,
            "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07,
            "policy_kwargs": _DQN_NETWORK,
        },
    ),
    ("Pendulum-v1", "PPO"): PeerSettings(
        source=_zoo("ppo.yml Pendulum-v1"),
        n_timesteps=100_000,
        n_envs=4,
        arguments={
            "n_steps": 1024,
            "gae_lambda": 0.95,
            "gamma": 0.9,
            "n_epochs": 10,
            "ent_coef": 0.0,
            "learning_rate": 1e-3,
            "clip_range": 0.2,
            "use_sde": True,
            "sde_sample_freq": 4,
        },
    ),
    ("Pendulum-v1", "SAC"): PeerSettings(
        source=_zoo("sac.yml Pendulum-v1"), n_timesteps=20_000, arguments={"learning_rate": 1e-3}
    ),
    ("LunarLander-v3", "PPO"): PeerSettings(
        source=_zoo("ppo.yml LunarLander-v3"),
        n_timesteps=1_000_000,
        n_envs=16,
        arguments={
            "n_steps": 1024,
            "batch_size": 64,
            "gae_lambda": 0.98,
            "gamma": 0.999,
            "n_epochs": 4,
            "ent_coef": 0.01,
        },
    ),
    ("LunarLander-v3", "DQN"): PeerSettings(
        source=_zoo("dqn.yml LunarLander-v3"), n_timesteps=100_000, arguments=_LANDER_DQN_ARGUMENTS
    ),
    ("FrozenLake-v1", "PPO"): _LIBRARY_DEFAULTS,
    ("FrozenLake-v1", "DQN"): _LIBRARY_DEFAULTS,
    ("HiddenVelocityCartPole-v1", "PPO"): _CARTPOLE_PPO,
    ("HiddenVelocityCartPole-v1", "DQN"): _CARTPOLE_DQN,
    ("HiddenVelocityCartPole-v1", "RecurrentPPO"): PeerSettings(
        source=_zoo("ppo_lstm.yml CartPoleNoVel-v1"),
        n_timesteps=100_000,
        n_envs=8,
        normalize=True,
        policy="MlpLstmPolicy",
        arguments={
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "ent_coef": 0.0,
            "learning_rate": "lin_0.001",
            "clip_range": "lin_0.2",
            "policy_kwargs": {
                "ortho_init": False,
                "activation_fn": "ReLU",
                "lstm_hidden_size": 64,
                "enable_critic_lstm": True,
                "net_arch": {"pi": [64], "vf": [64]},
            },
        },
    ),
}
"""Settings by (job, algorithm)."""

LIKELY_BEST = (
    ("CartPole-v1", "PPO"),
    ("Acrobot-v1", "DQN"),
    ("MountainCar-v0", "DQN"),
    ("Pendulum-v1", "SAC"),
    ("LunarLander-v3", "DQN"),
    ("HiddenVelocityCartPole-v1", "RecurrentPPO"),
    ("FrozenLake-v1", "PPO"),
    ("FrozenLake-v1", "DQN"),
)
"""The pairs a queue runs first within a seed."""
