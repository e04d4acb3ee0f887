"""Eight JAX-native jobs of different families at the same time: one process against eight.

    python bench/throughput.py                    # the learner that ships; about an hour on two idle cores

Both transports of a fleet (`processes`, one process for each instance and one for each core at a time, and
`vectorised`, all in one process) work the same assignments from the same parent, in turn within every repetition, each
in a fresh process with the same cache of compiled functions, which an untimed round has filled. Wall time is that from
`deploy` to its end, as a user sees it: starting processes, loading, compiling or reading what was compiled, working,
learning, saving. Beside it the speed without what is paid once: the steps of a long round beyond a short one, by the
seconds that they take longer. Target: with learning (learn="both"), wall time of the long round, at least 4 times as
many environment steps a second in one process. Written to bench/results/throughput.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from measuring import ROOT, median_interval, provenance, write_result

import fifteen
from fifteen.fleet import Assignment, FleetConfig, deploy

JOBS = (
    "bandit/bernoulli-v0",
    "control/cart-pole-v0",
    "control/pendulum-v0",
    "mdp/tabular-v0",
    "grid/dark-room-v0",
    "linear/random-v0",
    "recall/t-maze-v0",
    "work/queue-v0",
)
TRANSPORTS = ("processes", "vectorised")
TARGET = 4.0


def one_round(size: str, transport: Any, learn: Any, steps: int, jobs: Sequence[str]) -> float:
    """Seconds from `deploy` to its end."""
    fifteen.cache_compilations()
    parent = fifteen.load() if size == "base" else fifteen.new(size, seed=0)  # type: ignore[arg-type]
    assignments = [Assignment(job, steps, seed=seed, learn=learn) for seed, job in enumerate(jobs)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        worked = deploy(parent, assignments, folder, config=FleetConfig(transport=transport))
        seconds = time.monotonic() - began
    if worked.left_out or worked.interrupted:
        raise SystemExit(f"not all took part: {worked.left_out or 'interrupted'}")
    return seconds


def in_a_fresh_process(given: argparse.Namespace, transport: str, learn: str, steps: int, cache: str) -> float:
    words = [sys.executable, __file__, "--size", given.size, "--jobs", *given.jobs, "--one", transport, learn]
    words.append(str(steps))
    environment = {**os.environ, "XDG_CACHE_HOME": cache}  # kept as the command keeps it
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout.decode().splitlines()[-1])


def compared(seconds: list[dict[str, dict[int, float]]], count: int, short: int, long: int) -> dict[str, Any]:
    """What the repetitions came to: seconds by transport and steps of an instance."""
    told: dict[str, Any] = {}
    for transport in TRANSPORTS:
        wall = [count * long / one[transport][long] for one in seconds]
        lasting = [count * (long - short) / (one[transport][long] - one[transport][short]) for one in seconds]
        told[transport] = {
            "wall_steps_per_s": median_interval(wall),
            "lasting_steps_per_s": median_interval(lasting),
            "short_round_s": median_interval([one[transport][short] for one in seconds]),
            "long_round_s": median_interval([one[transport][long] for one in seconds]),
        }
    several, one = "processes", "vectorised"
    told["times_as_fast"] = {
        "short_round": median_interval([s[several][short] / s[one][short] for s in seconds]),
        "long_round": median_interval([s[several][long] / s[one][long] for s in seconds]),
        "lasting": median_interval(
            [(s[several][long] - s[several][short]) / (s[one][long] - s[one][short]) for s in seconds]
        ),
    }
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="base", help="base is the learner that ships")
    parser.add_argument("--learn", nargs="+", default=["both", "context"])
    parser.add_argument("--short", type=int, default=1_000, help="steps of each instance")
    parser.add_argument("--long", type=int, default=4_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--name", default="throughput", help="of the result")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS))
    parser.add_argument("--one", nargs=3, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        transport, learn, steps = arguments.one
        print(json.dumps(one_round(arguments.size, transport, learn, int(steps), arguments.jobs)))
        return
    record: dict[str, Any] = provenance(parser, arguments) | {
        "jobs": arguments.jobs,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "size": arguments.size,
        "steps_of_each": {"short": arguments.short, "long": arguments.long},
        "target": f"learn=both, long round: at least {TARGET:g} times as fast",
        "learn": {},
    }
    with tempfile.TemporaryDirectory() as cache:
        for learn in arguments.learn:
            for transport in TRANSPORTS:  # fills the cache
                in_a_fresh_process(arguments, transport, learn, 300, cache)
            seconds = []
            for repetition in range(arguments.repetitions):
                order = TRANSPORTS[:: 1 if repetition % 2 == 0 else -1]
                seconds.append(
                    {
                        transport: {
                            steps: in_a_fresh_process(arguments, transport, learn, steps, cache)
                            for steps in (arguments.short, arguments.long)
                        }
                        for transport in order
                    }
                )
                print(learn, repetition, seconds[-1], flush=True)
            record["learn"][learn] = compared(seconds, len(arguments.jobs), arguments.short, arguments.long) | {
                "seconds": seconds
            }
            if learn == "both":
                median = record["learn"][learn]["times_as_fast"]["long_round"]["median"]
                record["verdict"] = "reached" if median >= TARGET else "missed"
            write_result(arguments.name, record)  # so that a measurement that is stopped keeps what is done
    print(json.dumps({learn: told["times_as_fast"] for learn, told in record["learn"].items()}, indent=1))


if __name__ == "__main__":
    main()
