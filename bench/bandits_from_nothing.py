"""Seconds of schooling from nothing until a learner plays five-armed bandits nearly as well as anyone can.

    python bench/bandits_from_nothing.py

A fresh learner is schooled on the family bandit/bernoulli alone, compiling included, then plays bandits of 100 pulls
(template "uniform": the yardstick of RL^2) with its weights as they are, beside the finite-horizon Gittins policy on
the same bandits. Written to bench/results/bandits_from_nothing.json. Target: >= 0.95 of Gittins within 180 seconds.
"""

import argparse
import time
from typing import Any

from measuring import median_interval, provenance, write_result
from yardsticks import bandits, ratio_interval

import fifteen
from fifteen.config import SchoolConfig

RATIO_TARGET, SECONDS_TARGET = 0.95, 180.0
PULLS = 100
EACH = 500  # bandits at once


def run(seed: int, steps: int, lifetimes: int, count: int) -> dict[str, Any]:
    """School and examine one learner."""
    learner = fifteen.new(size="small", seed=seed)
    began = time.monotonic()
    config = SchoolConfig(lifetimes=lifetimes)
    progress = fifteen.school(learner, ["bandit/bernoulli"], steps=steps, seed=seed, config=config)
    seconds = time.monotonic() - began
    (totals,) = bandits(learner, PULLS, count, 1, EACH)
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "steps": progress.steps,
        "learner": round(float(totals["learner"].mean()), 3),
        "gittins": round(float(totals["gittins"].mean()), 3),
        "ratio": ratio_interval(totals["learner"], totals["gittins"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=float, default=1.5e6, help="of all lifetimes together")
    parser.add_argument("--lifetimes", type=int, default=256, help="at once")
    parser.add_argument("--bandits", type=int, default=4000, help="that every learner is examined on")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    record = provenance(parser, arguments)
    fifteen.cache_compilations()
    runs = []
    for seed in range(arguments.seeds):
        runs.append(run(seed, int(arguments.steps), arguments.lifetimes, arguments.bandits))
        print(runs[-1], flush=True)
    record["runs"] = runs
    record["ratio"] = median_interval([one["ratio"]["ratio"] for one in runs])
    record["seconds"] = median_interval([one["seconds"] for one in runs])
    record["targets"] = {"ratio": RATIO_TARGET, "seconds": SECONDS_TARGET}
    write_result("bandits_from_nothing", record)
    print(f"ratio to Gittins {record['ratio']}, seconds {record['seconds']}")


if __name__ == "__main__":
    main()
