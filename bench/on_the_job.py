"""Environment steps until an unschooled learner has learned each development job, one configuration for all.

    python bench/on_the_job.py                 # run what has no result yet: 7 jobs x 5 seeds, one at a time
    python bench/on_the_job.py --table         # compare with the results of bench/peers.py

Give the process one core (`taskset -c 0 python ...`): the matrices are small, and threads that meet across cores take
longer than one that works alone; a second core runs `bench/peers.py` beside it, so that wall times are of one hour.

One JSON per (job, seed) is written under bench/results/on_the_job. A run that has a file is not run again:
delete the file to repeat it. One environment stream; unsolved within 200,000 steps counts as such.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from development_jobs import BUDGET, DEVELOPMENT_JOBS, DevelopmentJob, Solved
from peers import ROOT, device, git, spread, summarise, thinned, write_json

import fifteen
from fifteen.learner import versions
from fifteen.log import Progress

RESULTS = ROOT / "bench" / "results" / "on_the_job"
LEARN = "weights"
STEPS_TARGET, WALL_TARGET = 0.35, 0.5
BOOTSTRAPS = 10_000


def run(job: DevelopmentJob, seed: int) -> dict[str, Any]:
    """Work on one job from scratch until it is solved or the budget is used up."""
    learner = fifteen.new(size="small", seed=seed)
    solved = Solved(job.threshold, job.window)
    curve: list[tuple[int, float]] = []
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load_before = os.getloadavg()[0]

    def watch(progress: Progress) -> bool:
        for attempt in progress.finished:
            curve.append((attempt.step, attempt.ret))
            solved.add(attempt.ret, attempt.step)
        return solved.step is not None

    wall, cpu = time.monotonic(), time.process_time()
    log = fifteen.work(learner, job.make, steps=BUDGET, seed=seed, learn=LEARN, callback=watch)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    if log.reason == "interrupted":
        raise SystemExit(f"{job.name} seed {seed}: interrupted, nothing recorded; start again to repeat it")
    return {
        "job": job.name,
        "seed": seed,
        "threshold": job.threshold,
        "window": job.window,
        "budget": BUDGET,
        "learn": LEARN,
        "mind": dataclasses.asdict(learner.config),
        "work": dataclasses.asdict(learner.work_config),
        "versions": versions(),
        "commit": git("rev-parse", "--verify", "HEAD"),
        "dirty": git("status", "--porcelain", "--", "fifteen", "bench/*.py") != "",
        "device": device(),
        "started": started,
        "load_1min": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "solved": solved.step is not None,
        "steps": solved.step or BUDGET,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "updates": int(learner.state.updates),
        "episodes": len(log.returns),
        "best_window_mean": solved.best if math.isfinite(solved.best) else None,
        "faults": log.faults,
        "curve": thinned(curve),
    }


def ours() -> dict[str, list[dict]]:
    """All records there are, by job."""
    return {
        job.name: [json.loads(file.read_text()) for file in sorted((RESULTS / job.name).glob("*.json"))]
        for job in DEVELOPMENT_JOBS
    }


def compare() -> dict[str, Any]:
    """Medians and ratios to the best peer of each job, and the geometric means with bootstrap intervals over seeds."""
    peers = summarise()["jobs"]
    rows, samples = {}, []
    for name, records in ours().items():
        if not records or name not in peers:
            continue
        best = {}
        for figure, key in (("steps", "steps"), ("wall_s", "wall_s"), ("cpu_s", "cpu_s")):
            best_name = peers[name]["best"]["steps"]
            best[figure] = peers[name]["algorithms"][best_name][key]["median"] if best_name else float(BUDGET)
        steps = [record["steps"] for record in records]
        rows[name] = {
            "threshold": records[0]["threshold"],
            "runs": len(records),
            "solved": sum(record["solved"] for record in records),
            "steps": spread(steps),
            "wall_s": spread([record["wall_s"] for record in records]),
            "cpu_s": spread([record["cpu_s"] for record in records]),
            "best_peer": peers[name]["best"]["steps"],
            "peer": best,
            "steps_ratio": round(statistics.median(steps) / best["steps"], 3),
            "wall_ratio": round(statistics.median(r["wall_s"] for r in records) / best["wall_s"], 3),
            "cpu_ratio": round(statistics.median(r["cpu_s"] for r in records) / best["cpu_s"], 3),
        }
        samples.append(np.array(steps) / best["steps"])
    random = np.random.default_rng(0)
    drawn = np.stack([np.median(random.choice(s, (BOOTSTRAPS, len(s))), axis=1) for s in samples])
    low, high = np.quantile(np.exp(np.log(drawn).mean(axis=0)), [0.025, 0.975])
    return {
        "jobs": rows,
        "steps_ratio": geometric([row["steps_ratio"] for row in rows.values()]),
        "steps_ratio_95": [round(float(low), 3), round(float(high), 3)],
        "wall_ratio": geometric([row["wall_ratio"] for row in rows.values()]),
        "cpu_ratio": geometric([row["cpu_ratio"] for row in rows.values()]),
        "worst_ratio": max(row["steps_ratio"] for row in rows.values()),
        "unsolved": sum(row["runs"] - row["solved"] for row in rows.values()),
        "targets": {"steps_ratio": STEPS_TARGET, "worst_ratio": 1.0, "unsolved": 0, "wall_ratio": WALL_TARGET},
    }


def geometric(values: list[float]) -> float:
    return round(statistics.geometric_mean(values), 3)


def print_table(summary: dict) -> None:
    """The comparison as a Markdown table, steps as median [min, max]."""
    print("| job | threshold | Fifteen, steps | solved | best SB3 algorithm, steps | ratio |")
    print("|---|---|---|---|---|---|")
    for name, row in summary["jobs"].items():
        s = row["steps"]
        print(
            f"| {name} | {row['threshold']:g} | {s['median']:,.0f} [{s['min']:,.0f}, {s['max']:,.0f}] "
            f"| {row['solved']}/{row['runs']} | {row['peer']['steps']:,.0f} ({row['best_peer']}) "
            f"| {row['steps_ratio']:.2f} |"
        )
    print(
        f"\nGeometric mean of the step ratios {summary['steps_ratio']} {summary['steps_ratio_95']} "
        f"(target {STEPS_TARGET}), worst {summary['worst_ratio']} (target 1.0), unsolved {summary['unsolved']}; "
        f"wall time {summary['wall_ratio']}, CPU time {summary['cpu_ratio']} (target {WALL_TARGET})."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=[j.name for j in DEVELOPMENT_JOBS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        summary = compare()
        write_json(RESULTS / "summary.json", summary)
        print_table(summary)
        return 0
    fifteen.cache_compilations()
    for seed in given.seeds:
        for job in DEVELOPMENT_JOBS:
            path = RESULTS / job.name / f"{seed}.json"
            if path.exists() or (given.jobs and job.name not in given.jobs):
                continue
            record = run(job, seed)
            write_json(path, record)
            said = "solved" if record["solved"] else f"unsolved, best {record['best_window_mean']}"
            print(f"{job.name} seed {seed}: {said}, {record['steps']:,} steps, {record['wall_s']} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
