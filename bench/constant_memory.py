"""Resident memory of one process that works on CartPole-v1 without end: it must not grow.

    nice -n 10 python bench/constant_memory.py &      # about half an hour

The run is what the command does: weights learned, experience, metrics and the learner saved into a folder. Compared are
step 50,000 and step 500,000 of the same process. Samples are added to bench/results/constant_memory.json as it goes, so
that an unfinished run shows how far it came; started again, it begins anew. Target: growth below 2 %.
"""

import argparse
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

from measuring import provenance, write_result

import fifteen

TARGET = 0.02
SAMPLES = 50  # in the whole run


def resident_bytes() -> int:
    """What of this process lies in physical memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=50_000, help="the step compared with the last")
    parser.add_argument("--last", type=int, default=500_000, help="steps of the run")
    parser.add_argument("--num-envs", type=int, default=1, help="streams")
    arguments = parser.parse_args()
    if not 0 < arguments.first < arguments.last:
        parser.error("--first must be below --last")
    record: dict[str, Any] = provenance(parser, arguments)
    record |= {"status": "running", "target_growth": TARGET, "load_average": os.getloadavg()[0]}
    samples: list[tuple[int, int]] = []  # (step, bytes)
    marks = sorted({arguments.first, arguments.last, *range(0, arguments.last, max(1, arguments.last // SAMPLES))})

    def measure(progress: fifteen.Progress) -> bool:
        """Sample at the marks; the run stops at the last of them, with everything still in memory."""
        while marks and progress.step >= marks[0]:
            samples.append((marks.pop(0), resident_bytes()))
            record["resident_mb"] = [[at, round(size / 1e6, 2)] for at, size in samples]
            write_result("constant_memory", record)
        return not marks

    with tempfile.TemporaryDirectory() as folder:
        learner = fifteen.new(size="small", seed=0)
        log = fifteen.work(
            learner,
            "CartPole-v1",
            steps=2 * arguments.last,
            seed=0,
            learn="both",
            num_envs=arguments.num_envs,
            run=Path(folder) / "run",
            callback=measure,
        )
    if log.reason != "callback":
        raise SystemExit(f"the run ended by {log.reason} before its last sample: nothing is concluded")
    at = dict(samples)
    first, last = at[arguments.first], at[arguments.last]
    record |= {"status": "complete", "growth": last / first - 1.0, "updates": int(learner.state.updates)}
    write_result("constant_memory", record)
    print(f"{first / 1e6:.1f} MB at step {arguments.first:,}, {last / 1e6:.1f} MB at step {arguments.last:,}:", end=" ")
    print(f"growth {record['growth']:.2%}, target {TARGET:.0%}")


if __name__ == "__main__":
    main()
