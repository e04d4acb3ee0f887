"""Seconds from the start of a process to its first decision on CartPole-v1, with and without compiled functions kept.

    python bench/cold_start.py

Python, the imports, a new learner, `start` and the first `act` all count. Runs without a cache and runs with a warm one
alternate. Written to bench/results/cold_start.json; targets: at most 15 s without, at most 5 s with.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

from measuring import ROOT, median_interval, provenance, write_result

TARGETS = {"without_cache_s": 15.0, "warm_cache_s": 5.0}
FIRST_DECISION = """
import sys
import gymnasium
import fifteen

if len(sys.argv) > 1:
    fifteen.cache_compilations(sys.argv[1])
env = gymnasium.make("CartPole-v1")
learner = fifteen.new(size="small", seed=0)
learner.start(env.observation_space, env.action_space, seed=0)
observation, _ = env.reset(seed=0)
print(learner.act(observation), flush=True)
"""


def seconds(cache: str | None) -> float:
    """Run a fresh process up to its first decision."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", FIRST_DECISION, *([] if cache is None else [cache])]
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        decision = process.stdout.readline()
        taken = time.perf_counter() - start
    if process.returncode != 0 or decision.strip() not in ("0", "1"):
        raise SystemExit(f"the process ended with status {process.returncode} and said {decision!r}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    arguments = parser.parse_args()
    record = provenance(parser, arguments)
    runs: dict[str, list[float]] = {name: [] for name in TARGETS}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        seconds(cache)  # fills it, and warms the disk's own cache for both
        for _ in range(arguments.repeats):
            runs["without_cache_s"].append(seconds(None))
            runs["warm_cache_s"].append(seconds(cache))
    for name, values in runs.items():
        record[name] = {**median_interval(values), "runs": [round(value, 3) for value in values]}
        found = record[name]
        print(f"{name}: {found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f}), target {TARGETS[name]:.0f}")
    record |= {"targets": TARGETS, "load_average": load}
    write_result("cold_start", record)


if __name__ == "__main__":
    main()
