"""Microseconds per decision on CartPole-v1: `learner.act` + `learner.observe` against Stable-Baselines3 `predict`.

    python bench/latency.py --peer-python PEER      # PEER: a Python that has stable-baselines3

Ours decides, and learns in context at every step (memory, statistics, expectation, surprise); the peer only decides.
Blocks of both alternate, one process waiting for the other, so that both meet the same machine. The environment's own
time is not counted. Written to bench/results/latency.json; target: median ratio <= 1.0.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
from measuring import median_interval, provenance, write_result

import fifteen

TARGET = 1.0
WARM_UP = 500  # decisions of each side before the first block, compiling included


class Ours:
    """An untrained learner that decides on CartPole-v1."""

    def __init__(self, size: str):
        self._env = gymnasium.make("CartPole-v1")
        self._learner = fifteen.new(size=size, seed=0)  # pyright: ignore[reportArgumentType]
        self._learner.start(self._env.observation_space, self._env.action_space, seed=0, learn="context")
        self._observation, _ = self._env.reset(seed=0)

    def decide(self, decisions: int) -> np.ndarray:
        """Microseconds of each of `decisions` decisions: float64[decisions]."""
        times = np.zeros(decisions)
        for n in range(decisions):
            start = time.perf_counter_ns()
            action = self._learner.act(self._observation)
            acted = time.perf_counter_ns()
            self._observation, reward, terminated, truncated, _ = self._env.step(action)
            back = time.perf_counter_ns()
            self._learner.observe(self._observation, float(reward), terminated, truncated)
            times[n] = (time.perf_counter_ns() - back + acted - start) / 1e3
            if terminated or truncated:
                self._observation, _ = self._env.reset()
        return times


class Peer:
    """latency_peer.py in a process of its own."""

    def __init__(self, python: str):
        script = Path(__file__).with_name("latency_peer.py")
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: dict[str, str] = self._answer()

    def decide(self, decisions: int) -> np.ndarray:
        """As in `Ours`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{decisions}\n")
        self._process.stdin.flush()
        return np.array(self._answer())

    def _answer(self):
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended, see above: --peer-python needs a Python that has stable-baselines3")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="a Python with the peer")
    parser.add_argument("--blocks", type=int, default=9, help="blocks of each side (at least 5)")
    parser.add_argument("--decisions", type=int, default=2000, help="decisions in a block")
    parser.add_argument("--size", default="small", help="size of the learner")
    arguments = parser.parse_args()
    if arguments.blocks < 5:
        parser.error("--blocks must be at least 5")
    peer = Peer(str(arguments.peer_python))
    sides = {"ours": Ours(arguments.size), "peer": peer}
    record = provenance(parser, arguments)  # after the learner, whose birth settles how JAX runs
    for side in sides.values():
        side.decide(WARM_UP)
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in sides}
    load = os.getloadavg()[0]
    for n in range(arguments.blocks):
        for name in list(sides)[:: 1 if n % 2 == 0 else -1]:  # neither side always comes first
            blocks[name].append(sides[name].decide(arguments.decisions))
    peer.close()

    for name, times in blocks.items():
        medians = [float(np.median(block)) for block in times]
        record[name] = {
            "median_us": median_interval(medians),
            "mean_us": median_interval([float(block.mean()) for block in times]),
            "blocks_median_us": [round(value, 2) for value in medians],
        }
    pairs = list(zip(record["ours"]["blocks_median_us"], record["peer"]["blocks_median_us"], strict=True))
    record |= {
        "ratio": median_interval([ours / peers for ours, peers in pairs]),
        "target_ratio": TARGET,
        "peer_versions": peer.versions,
        "load_average": load,
    }
    path = write_result("latency", record)
    for name in sides:
        print(f"{name}: {record[name]['median_us']['median']:.1f} us a decision")
    ratio = record["ratio"]
    print(f"ratio {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}), target {TARGET}")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}")


if __name__ == "__main__":
    main()
