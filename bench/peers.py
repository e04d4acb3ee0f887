"""Environment steps that the Stable-Baselines3 peers need to solve the development jobs.

    python bench/peers.py --workers 2          # run what has no result yet
    python bench/peers.py --table              # summarise the results there are

One JSON per (job, algorithm, seed) is written under bench/results/peers. A run that has a file,
failed ones included, is not run again: delete the file to repeat it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from development_jobs import BUDGET, DEVELOPMENT_JOBS, DevelopmentJob, Solved
from peer_settings import LIKELY_BEST, PEER_SETTINGS, PeerSettings

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "peers"
SOURCES = ("bench/peers.py", "bench/peer_settings.py", "bench/development_jobs.py")
PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")
CURVE_POINTS = 400
JOBS = {job.name: job for job in DEVELOPMENT_JOBS}
ALGORITHMS = sorted({algorithm for _, algorithm in PEER_SETTINGS})


@dataclass(frozen=True, order=True)
class Run:
    """One training run."""

    job: str
    algorithm: str
    seed: int

    @property
    def path(self) -> Path:
        return RESULTS / self.job / f"{self.algorithm}-{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.job} {self.algorithm} seed {self.seed}"


class ClippedLinear:
    """Falls linearly from `initial` as published over `n_timesteps`, then keeps its last value.

    Called with the progress remaining (1 to 0) of a training of `total_timesteps`. The last value
    is that of the last rollout that ends before `n_timesteps`, so it is always positive.
    """

    def __init__(self, initial: float, n_timesteps: int, total_timesteps: int, rollout_steps: int) -> None:
        if not 0 < rollout_steps < n_timesteps:
            raise ValueError(f"rollout_steps must be in (0, {n_timesteps}), got {rollout_steps}")
        last_step = (n_timesteps - 1) // rollout_steps * rollout_steps
        self.initial = initial
        self.stretch = total_timesteps / n_timesteps
        self.floor = 1.0 - last_step / n_timesteps

    def __call__(self, progress_remaining: float) -> float:
        published = 1.0 - (1.0 - progress_remaining) * self.stretch
        return self.initial * max(published, self.floor)


class Watch:
    """Training callback: gathers raw episode returns and stops at the threshold or the budget."""

    def __init__(self, job: DevelopmentJob) -> None:
        self.solved = Solved(job.threshold, job.window)
        self.curve: list[tuple[int, float]] = []
        self.steps = 0

    def __call__(self, local_values: Mapping, _global_values: Mapping) -> bool:
        self.steps = local_values["self"].num_timesteps
        for info in local_values["infos"]:
            if "episode" in info:
                episode_return = float(info["episode"]["r"])
                self.curve.append((self.steps, episode_return))
                self.solved.add(episode_return, self.steps)
        return self.solved.step is None and self.steps < BUDGET


def thinned(curve: Sequence[tuple[int, float]]) -> list[list[float]]:
    """At most CURVE_POINTS evenly spaced episodes of [step, return], the first and last kept."""
    count = min(len(curve), CURVE_POINTS)
    chosen = np.linspace(0, len(curve) - 1, count).round().astype(int)
    return [[curve[i][0], round(curve[i][1], 3)] for i in chosen]


def constructor_arguments(settings: PeerSettings, total_timesteps: int) -> dict[str, Any]:
    """The published data as constructor arguments for a training of `total_timesteps` steps."""
    from torch import nn

    arguments = copy.deepcopy(dict(settings.arguments))
    n_timesteps = settings.n_timesteps or total_timesteps
    if "exploration_fraction" in arguments:
        arguments["exploration_fraction"] *= n_timesteps / total_timesteps
    for name, value in arguments.items():
        if isinstance(value, str) and value.startswith("lin_"):
            rollout_steps = settings.n_envs * int(arguments["n_steps"])
            arguments[name] = ClippedLinear(
                float(value.removeprefix("lin_")), n_timesteps, total_timesteps, rollout_steps
            )
    policy_kwargs = arguments.get("policy_kwargs", {})
    if "activation_fn" in policy_kwargs:
        policy_kwargs["activation_fn"] = getattr(nn, policy_kwargs["activation_fn"])
    return arguments


def train(run: Run, threads: int) -> dict[str, Any]:
    """Train until the threshold or the budget; gives the measured part of the record."""
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(threads)
    job = JOBS[run.job]
    settings = PEER_SETTINGS[run.job, run.algorithm]
    library = sb3_contrib if run.algorithm == "RecurrentPPO" else stable_baselines3
    total_timesteps = max(BUDGET, settings.n_timesteps or 0)
    environment = make_vec_env(job.make, n_envs=settings.n_envs, seed=run.seed)
    if settings.normalize:
        environment = VecNormalize(environment, gamma=settings.arguments["gamma"])
    model = getattr(library, run.algorithm)(
        settings.policy,
        environment,
        seed=run.seed,
        device="cpu",
        **constructor_arguments(settings, total_timesteps),
    )
    watch = Watch(job)
    wall_start, cpu_start = time.monotonic(), time.process_time()
    model.learn(total_timesteps, callback=watch)
    wall_s, cpu_s = time.monotonic() - wall_start, time.process_time() - cpu_start
    solved = watch.solved
    return {
        "solved": solved.step is not None,
        "steps": BUDGET if solved.step is None else solved.step,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
        "env_steps_per_s": round(watch.steps / wall_s, 1),
        "episodes": len(watch.curve),
        "best_window_mean": round(solved.best, 3) if np.isfinite(solved.best) else None,
        "curve": thinned(watch.curve),
    }


def git(*arguments: str) -> str | None:
    """Output of a git command in this repository, or None where it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def device() -> str:
    """CPU model, and how many of its cores this process may use."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"


def provenance(run: Run, threads: int, workers: int) -> dict[str, Any]:
    """What the record says about a run before it has started.

    `dirty` and `sources_sha256` speak of the three source files of this benchmark only.
    """
    job = JOBS[run.job]
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((ROOT / source).read_bytes())
    return {
        **asdict(run),
        "threshold": job.threshold,
        "window": job.window,
        "budget": BUDGET,
        "settings": asdict(PEER_SETTINGS[run.job, run.algorithm]),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "commit": git("rev-parse", "--verify", "HEAD"),
        "dirty": git("status", "--porcelain", "--", *SOURCES) != "",
        "sources_sha256": digest.hexdigest(),
        "device": device(),
        "threads": threads,
        "workers": workers,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record in one step: readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, path)


def without_paths(message: str) -> str:
    """The message without this machine's directories."""
    for directory in (str(ROOT), sys.prefix, sys.base_prefix, str(Path.home())):
        message = message.replace(directory, "...")
    return message


def write_failure(known: Mapping[str, Any], path: Path, error: str) -> None:
    write_json(path, {**known, "status": "failed", "error": without_paths(error)})


def work(run: Run, threads: int, workers: int) -> None:
    """One run from start to file; a crash becomes a record with status "failed"."""
    known = provenance(run, threads, workers)
    try:
        measured = train(run, threads)
    except Exception as error:
        traceback.print_exc()
        write_failure(known, run.path, f"{type(error).__name__}: {error}")
    else:
        load = round(os.getloadavg()[0], 2)
        write_json(run.path, {**known, "status": "done", "load_1min_at_end": load, **measured})


def queue(jobs: Sequence[str], algorithms: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """The asked runs in order: by seed, and within a seed the likely best algorithms first."""
    others = [pair for pair in PEER_SETTINGS if pair not in LIKELY_BEST]
    return [
        Run(job, algorithm, seed)
        for seed in seeds
        for job, algorithm in (*LIKELY_BEST, *others)
        if job in jobs and algorithm in algorithms
    ]


def say(message: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {message}", flush=True)


def report(run: Run, exit_code: int | None, threads: int, workers: int) -> bool:
    """Log how a run ended; gives whether it failed. A worker that died leaves a failure file."""
    if not run.path.exists():
        known = provenance(run, threads, workers)
        write_failure(known, run.path, f"the worker ended with exit code {exit_code}")
    record = json.loads(run.path.read_text())
    if record["status"] == "failed":
        say(f"{run}: FAILED: {record['error']}")
        return True
    outcome = "solved" if record["solved"] else f"unsolved, best {record['best_window_mean']}"
    say(f"{run}: {outcome}, {record['steps']} steps, {record['wall_s']:.0f} s")
    return False


def run_all(runs: Sequence[Run], workers: int, threads: int) -> int:
    """Run what has no file yet; gives the exit status (0, 1 after failures, 143 if stopped)."""
    pending = [run for run in runs if not run.path.exists()]
    say(f"process {os.getpid()}: {len(pending)} of {len(runs)} runs to do, {workers} workers")
    stop_signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stop_signals.append(received))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    running: dict[Any, tuple[Run, Any]] = {}
    failed = 0
    while (pending or running) and not stop_signals:
        while pending and len(running) < workers:
            run = pending.pop(0)
            process = context.Process(target=work, args=(run, threads, workers))
            process.start()
            running[process.sentinel] = (run, process)
        for sentinel in multiprocessing.connection.wait(list(running), timeout=1.0):
            run, process = running.pop(sentinel)
            process.join()
            if stop_signals and not run.path.exists():
                continue
            failed += report(run, process.exitcode, threads, workers)
    for _, process in running.values():
        process.terminate()
    for _, process in running.values():
        process.join()
    if stop_signals:
        say(f"stopped by signal {stop_signals[0]}; {len(pending) + len(running)} runs not done")
        return 143
    say(f"all done, {failed} failed")
    return 1 if failed else 0


def summarise() -> dict[str, Any]:
    """Medians by job and algorithm; an unsolved or failed run counts as BUDGET steps.

    `best` names the algorithms with the lowest median among those that solved most of their runs.
    """
    jobs: dict[str, Any] = {}
    for job in DEVELOPMENT_JOBS:
        rows: dict[str, dict[str, Any]] = {}
        for algorithm in (a for j, a in PEER_SETTINGS if j == job.name):
            files = sorted((RESULTS / job.name).glob(f"{algorithm}-*.json"))
            records = [json.loads(file.read_text()) for file in files]
            if not records:
                continue
            done = [record for record in records if record["status"] == "done"]
            steps = [record.get("steps", BUDGET) for record in records]
            rows[algorithm] = {
                "runs": len(records),
                "solved": sum(record["solved"] for record in done),
                "failed": len(records) - len(done),
                "seeds": sorted(record["seed"] for record in records),
                "steps": {"median": statistics.median(steps), "min": min(steps), "max": max(steps)},
                **{key: spread([record[key] for record in done]) for key in ("wall_s", "cpu_s")},
            }
        if rows:
            able = [name for name, row in rows.items() if 2 * row["solved"] > row["runs"]]
            best = {
                key: min(able, key=lambda name: rows[name][key]["median"], default=None) for key in ("steps", "wall_s")
            }
            jobs[job.name] = {
                "threshold": job.threshold,
                "window": job.window,
                "algorithms": rows,
                "best": best,
            }
    return {"budget": BUDGET, "jobs": jobs}


def spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def print_table(summary: Mapping) -> None:
    """The summary as text, steps as median [min, max]."""
    print(
        f"{'job':26} {'algorithm':13} {'steps: median [min, max]':28} "
        f"{'solved':7} {'failed':6} {'wall s':>8} {'cpu s':>8}  best by"
    )
    for name, job in summary["jobs"].items():
        for algorithm, row in job["algorithms"].items():
            steps = row["steps"]
            text = f"{steps['median']:,.0f} [{steps['min']:,}, {steps['max']:,}]"
            seconds = " ".join(f"{row[key]['median']:8.1f}" if row[key] else f"{'-':>8}" for key in ("wall_s", "cpu_s"))
            best = ", ".join(key for key, winner in job["best"].items() if winner == algorithm)
            print(
                f"{name:26} {algorithm:13} {text:28} {row['solved']}/{row['runs']:<5} "
                f"{row['failed']:<6} {seconds}  {best}"
            )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=positive, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=positive, default=1, help="torch threads of a run")
    parser.add_argument("--table", action="store_true", help="summarise, run nothing")
    options = parser.parse_args()
    if options.table:
        summary = summarise()
        write_json(RESULTS / "summary.json", summary)
        print_table(summary)
        return 0
    runs = queue(options.jobs, options.algorithms, options.seeds)
    return run_all(runs, options.workers, options.threads)


if __name__ == "__main__":
    sys.exit(main())
