"""One decision at a time: the learner inside a loop that you own, as in a live system.

The loop below is yours: it may wait for a sensor, a queue or a request. Here a Gymnasium environment
stands in for the system. Argument: number of decisions (2,000).
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium

import fifteen

decisions = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
system = gymnasium.make("CartPole-v1")

learner = fifteen.new(size="small", seed=0)
learner.start(system.observation_space, system.action_space, seed=0)

observation, _ = system.reset(seed=0)
attempts, total = 0, 0.0
for _ in range(decisions):
    action = learner.act(observation)
    observation, reward, terminated, truncated, _ = system.step(action)
    # The two ends are different things: terminated says that nothing follows, truncated that
    # somebody stopped watching. The last observation is reported before the system starts anew.
    learner.observe(observation, float(reward), terminated, truncated)
    total += float(reward)
    if terminated or truncated:
        attempts += 1
        observation, _ = system.reset()
system.close()
print(f"{decisions:,} decisions, {attempts} attempts, reward per decision {total / decisions:.2f}")

# A learner is a folder: safetensors and JSON.
with TemporaryDirectory() as folder:
    learner.save(Path(folder) / "mine")
    again = fifteen.load(Path(folder) / "mine")
    again.start(system.observation_space, system.action_space, seed=0)
    print(f"saved, loaded, and deciding: {again.act(observation)}")
