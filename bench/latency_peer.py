"""The peer's side of latency.py, run by a Python that has stable-baselines3: an untrained PPO decides on CartPole-v1.

Reads a number of decisions from every line of standard input, and answers with the microseconds of each decision.
Says its versions first.
"""

import json
import platform
import sys
import time
from importlib import metadata

import gymnasium
import stable_baselines3

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy")

env = gymnasium.make("CartPole-v1")
model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
told = {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
print(json.dumps(told), flush=True)
observation, _ = env.reset(seed=0)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        start = time.perf_counter_ns()
        action, _ = model.predict(observation)
        times.append((time.perf_counter_ns() - start) / 1e3)
        observation, _, terminated, truncated, _ = env.step(int(action))
        if terminated or truncated:
            observation, _ = env.reset()
    print(json.dumps(times), flush=True)
