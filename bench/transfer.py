"""What schooling is worth on Gymnasium's own environments, like those of school and unlike them.

    python bench/transfer.py --learner PATH          # run what has no result yet; PATH: a learner, or a school's run
    python bench/transfer.py --table                 # compare: Markdown, and bench/results/transfer/summary.json
    python bench/transfer.py --learner PATH --quick  # a few hundred steps of everything; nothing is kept

Like jobs: environment steps before the qualifying window begins, that is, until the first of the attempts (20, of
FrozenLake 100) whose mean first reaches the threshold begins; at least one attempt. The window itself only shows that
the job can be done, which costs whoever can do it from the start as much as anyone else. Ours works with learn="both",
and beside it with learn="context" (its weights stay as they are). It is compared with an unschooled learner (the
records of bench/on_the_job.py, learn="weights") and with the best algorithm of Stable-Baselines3 (the records of
bench/peers.py). Where such a record has not every attempt, or does not tell which of several environments an attempt
was in, its number is a lower bound: the last ending known to come before, less the time limit in every environment if
there are several. Ours is exact. Target: geometric mean of the ratios <= 0.05.

Unlike jobs: environment steps until the threshold is reached, schooled against unschooled, both with learn="both";
beside it the mean return of the attempts that end in the last tenth of the budget, to which all of them run.
Thresholds of LunarLander-v3 and MountainCarContinuous-v0: Gymnasium's. Taxi-v4 (Taxi-v3 to Gymnasium 1.2): 7, as
Gymnasium's 8 is more than the optimal policy's mean, 7.93. CliffWalking-v1: -20; the shortest way brings -13, the
safest -17, a fall -100 (Sutton and Barto, 2018, example 6.6). Nobody tunes on the last three. Target: geometric mean of
the ratios <= 1, none above 1.3.

One JSON per (job, learner, seed) is written under bench/results/transfer. A run that has a file is not run again:
delete the file to repeat it. Unsolved within the budget counts as the budget. Give the process one core, as
on_the_job.py.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import on_the_job
import peers
from development_jobs import BUDGET, DEVELOPMENT_JOBS, DevelopmentJob, Solved
from measuring import RESULTS, provenance
from peers import spread, thinned, write_json

import fifteen
from fifteen.config import Learn
from fifteen.learner import Learner
from fifteen.log import Progress, WorkLog

LIKE_TARGET, UNLIKE_TARGET, WORST_TARGET = 0.05, 1.0, 1.3
LEAST_SEEDS = 5  # of a side, for a mean over the jobs
BOOTSTRAPS = 10_000

Sample = tuple[Sequence[int], Sequence[int]]  # steps of our seeds, and of theirs
QUICK_STEPS = 600

_KNOWN = {job.name: job for job in DEVELOPMENT_JOBS}
LIKE = tuple(_KNOWN[name] for name in ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1"))


def _registered(name: str, threshold: float) -> DevelopmentJob:
    return DevelopmentJob(name, threshold, 20, partial(gymnasium.make, name))


UNLIKE = (
    _KNOWN["LunarLander-v3"],
    _registered("Taxi-v4", 7.0),
    _registered("CliffWalking-v1", -20.0),
    _registered("MountainCarContinuous-v0", 90.0),
)
BUDGETS = {job.name: BUDGET for job in LIKE} | {job.name: 60_000 for job in UNLIKE} | {"LunarLander-v3": 100_000}
COLUMNS = {"schooled-both": (*LIKE, *UNLIKE), "schooled-context": LIKE, "unschooled-both": UNLIKE}


@dataclass(frozen=True)
class Run:
    """One learner at work on one job."""

    job: DevelopmentJob
    column: str  # of COLUMNS
    seed: int

    @property
    def learn(self) -> Learn:
        return "context" if self.column.endswith("context") else "both"

    @property
    def schooled(self) -> bool:
        return self.column.startswith("schooled")

    def path(self, results: Path) -> Path:
        return results / self.job.name / f"{self.column}-{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.job.name} {self.column} seed {self.seed}"


def all_runs(jobs: Sequence[str], seeds: Sequence[int], columns: Sequence[str] = tuple(COLUMNS)) -> list[Run]:
    return [
        Run(job, column, seed)
        for seed in seeds
        for job in (*LIKE, *UNLIKE)
        for column, having in COLUMNS.items()
        if job.name in jobs and column in columns and job in having
    ]


# ------------------------------------------------------------------------------------------------------ measuring


def perform(run: Run, schooled: Learner, budget: int) -> dict[str, Any]:
    """Work on the job until it is solved (a like one) or the budget is used up: the measured part of the record."""
    learner = schooled
    if not run.schooled:
        learner = fifteen.new(replace(schooled.config, adapter=0), seed=run.seed)  # who is born has none
    solved = Solved(run.job.threshold, run.job.window, budget)

    def watch(progress: Progress) -> bool:
        for attempt in progress.finished:
            solved.add(attempt.ret, attempt.step)
        return run.job in LIKE and solved.step is not None

    load, wall = os.getloadavg()[0], time.monotonic()
    log = fifteen.work(learner, run.job.make, steps=budget, seed=run.seed, learn=run.learn, callback=watch)
    if log.reason == "interrupted":
        raise SystemExit(f"{run}: interrupted, nothing recorded; start again to repeat it")
    return {
        "mind": asdict(learner.config),
        "work": asdict(learner.work_config),
        "load_1min": [round(load, 2), round(os.getloadavg()[0], 2)],
        "wall_s": round(time.monotonic() - wall, 1),
        "faults": log.faults,
        **judged(log, run.job, budget),
    }


def judged(log: WorkLog, job: DevelopmentJob, budget: int) -> dict[str, Any]:
    """When the job was solved, when the qualifying window began, and how it went on."""
    solved, before = Solved(job.threshold, job.window, budget), budget
    for n, (ret, step) in enumerate(zip(log.returns.tolist(), log.steps.tolist(), strict=True)):
        earlier = solved.step
        if solved.add(ret, step) != earlier:
            first = n - job.window + 1
            before = max(int(log.steps[first] - log.lengths[first]), int(log.lengths[0]))
    last = log.returns[log.steps > 0.9 * budget]
    return {
        "solved": solved.step is not None,
        "steps": solved.step or budget,
        "steps_before": before,
        "episodes": len(log.returns),
        "best_window_mean": round(solved.best, 3) if math.isfinite(solved.best) else None,
        "last_tenth": round(float(last.mean()), 3) if last.size else None,
        "curve": thinned(list(zip(log.steps.tolist(), log.returns.tolist(), strict=True))),
    }


def identity(learner: Learner) -> dict[str, Any]:
    """Which learner a result is of."""
    schooled = [{key: told[key] for key in ("steps_done", "seed")} for told in learner.provenance.get("schooled", [])]
    weights = np.asarray(learner.state.weights).tobytes()
    return {"learner": hashlib.sha256(weights).hexdigest(), "schooled": schooled}


def run_all(runs: Sequence[Run], results: Path, given: Path | None, known: dict[str, Any], most: int) -> None:
    """Run what has no file yet. given: the schooled learner's folder; known: what every record says; most: steps."""
    for path in (run.path(results) for run in runs if run.schooled):
        if path.exists() and json.loads(path.read_text())["learner"] != known["learner"]:
            raise SystemExit(
                f"{path.relative_to(results)} is of another learner: delete {results.name}, or give that one"
            )
    for run in runs:
        if run.path(results).exists():
            continue
        job, budget = run.job, min(BUDGETS[run.job.name], most)
        record: dict[str, Any] = {"job": job.name, "column": run.column, "learn": run.learn, "seed": run.seed}
        record |= {"threshold": job.threshold, "window": job.window, "budget": budget}
        record |= known | {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        record |= perform(run, fifteen.load(given), budget)  # loaded anew: work changes it
        write_json(run.path(results), record)
        said = f"solved at {record['steps']:,}" if record["solved"] else f"unsolved, best {record['best_window_mean']}"
        print(f"{run}: {said}, {record['steps_before']:,} before, {record['wall_s']} s", flush=True)


# ------------------------------------------------------------------------------------------------------ comparing


def least_before(record: dict[str, Any]) -> int:
    """At least so many steps came before the qualifying window of a record of peers.py or on_the_job.py.

    Exact where there is one environment and every attempt is known.
    """
    if not record.get("solved"):
        return BUDGET
    curve, episodes, window = record["curve"], record["episodes"], record["window"]
    envs = record["settings"]["n_envs"] if "settings" in record else 1
    if len(curve) == episodes:
        solved = Solved(record["threshold"], window)
        last = next(n for n, (step, ret) in enumerate(curve) if solved.add(ret, step) is not None)
    else:
        # What ended after the window did so in other environments at once, or, one step each, before the run stopped.
        last = episodes - envs - int(curve[-1][0] - record["steps"])
    first = last - window + 1
    numbers = (int(n) for n, _ in thinned([(n, 0.0) for n in range(episodes)]))
    ends = {n: int(step) for n, (step, _) in zip(numbers, curve, strict=True)}
    if envs == 1:
        begun = max((step for n, step in ends.items() if n < first), default=0)
    else:
        limit = gymnasium.spec(record["job"]).max_episode_steps
        assert limit is not None
        begun = max(step for n, step in ends.items() if n <= first) - envs * limit
    return max(begun, ends[0])


def best_peer(job: DevelopmentJob) -> tuple[str, list[int]]:
    """The algorithm with the lowest median of `least_before` among those that solved most of their runs."""
    able: dict[str, list[int]] = {}
    for name, algorithm in peers.PEER_SETTINGS:
        files = sorted((peers.RESULTS / job.name).glob(f"{algorithm}-*.json")) if name == job.name else []
        records = [json.loads(file.read_text()) for file in files]
        if 2 * sum(bool(record.get("solved")) for record in records) > len(records):
            able[algorithm] = [least_before(record) for record in records]
    best = min(able, key=lambda algorithm: statistics.median(able[algorithm]))
    return best, able[best]


def read(results: Path, job: DevelopmentJob, column: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((results / job.name).glob(f"{column}-*.json"))]


def summed_up(records: Sequence[dict[str, Any]], job: DevelopmentJob) -> dict[str, Any]:
    measure = "steps_before" if job in LIKE else "steps"
    values = [record[measure] if record["solved"] else BUDGETS[job.name] for record in records]
    last = [record["last_tenth"] for record in records if record.get("last_tenth") is not None]
    return {
        "runs": len(records),
        "solved": sum(record["solved"] for record in records),
        "steps": values,
        "spread": spread(values),
        "last_tenth": spread(last),
    }


def compared(samples: dict[str, Sample], jobs: Sequence[DevelopmentJob]) -> dict[str, Any]:
    """Ratios of medians by job, and their geometric mean with a bootstrap interval of 95 % over both sides' seeds.

    samples: steps of ours and of theirs by job. There is no mean where a job has not enough seeds.
    """
    ratios = {name: round(statistics.median(a) / statistics.median(b), 4) for name, (a, b) in samples.items()}
    missing = [job.name for job in jobs if min(map(len, samples.get(job.name, ((),)))) < LEAST_SEEDS]
    if missing:
        return {"ratios": ratios, "missing": missing}
    random = np.random.default_rng(0)

    def drawn(values: Sequence[int]) -> np.ndarray:
        return np.median(random.choice(np.array(values, np.float64), (BOOTSTRAPS, len(values))), axis=1)

    logs = [np.log(drawn(a) / drawn(b)) for a, b in samples.values()]
    low, high = np.quantile(np.exp(np.mean(logs, axis=0)), [0.025, 0.975])
    mean = statistics.geometric_mean(ratios.values())
    return {"ratios": ratios, "mean": round(mean, 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def compare(results: Path) -> dict[str, Any]:
    """Everything of --table. Raises SystemExit where results are of several learners."""
    jobs: dict[str, Any] = {}
    samples: dict[str, dict[str, Sample]] = {}  # by comparison and job
    learners = set()
    unschooled = on_the_job.ours()

    def note(comparison: str, job: DevelopmentJob, mine: Sequence[int], theirs: Sequence[int]) -> None:
        if mine and theirs:
            samples.setdefault(comparison, {})[job.name] = (mine, theirs)

    for job in (*LIKE, *UNLIKE):
        found = {column: read(results, job, column) for column in COLUMNS}
        learners |= {record["learner"] for name in COLUMNS if Run(job, name, 0).schooled for record in found[name]}
        row: dict[str, Any] = {name: summed_up(records, job) for name, records in found.items() if records}
        steps = {name: row[name]["steps"] if name in row else [] for name in COLUMNS}
        if job in LIKE:
            fresh = [record | {"steps_before": least_before(record)} for record in unschooled[job.name]]
            algorithm, theirs = best_peer(job)
            row["peer"] = {"algorithm": algorithm, "steps": theirs, "spread": spread(theirs)}
            if fresh:
                row["unschooled"] = summed_up(fresh, job)
            for learn in ("both", "context"):
                mine = steps[f"schooled-{learn}"]
                note(f"{learn}, to the best SB3 algorithm", job, mine, theirs)
                note(f"{learn}, to the unschooled", job, mine, [record["steps_before"] for record in fresh])
        else:
            note("unlike", job, steps["schooled-both"], steps["unschooled-both"])
        jobs[job.name] = {"threshold": job.threshold, "window": job.window, **row}
    if len(learners) > 1:
        raise SystemExit(f"the results are of {len(learners)} learners: delete those of all but one")
    comparisons = {name: compared(s, UNLIKE if name == "unlike" else LIKE) for name, s in samples.items()}
    return {
        "learner": next(iter(learners), None),
        "jobs": jobs,
        "comparisons": comparisons,
        "targets": {"like": LIKE_TARGET, "unlike": UNLIKE_TARGET, "unlike, worst": WORST_TARGET},
    }


def print_table(summary: dict[str, Any]) -> None:
    """The comparison as Markdown, steps as median [min, max]."""
    jobs, comparisons = summary["jobs"], summary["comparisons"]

    def ratio(comparison: str, name: str) -> str:
        found = comparisons.get(comparison, {}).get("ratios", {}).get(name)
        return "" if found is None else f"{found:.3f}"

    print("Like jobs: environment steps before the qualifying window.\n")
    print("| job | threshold | schooled | schooled, in context only | unschooled | best SB3 algorithm | ratio to it |")
    print("|---|---|---|---|---|---|---|")
    for name in (job.name for job in LIKE):
        row = jobs[name]
        cells = [cell(row.get(key)) for key in ("schooled-both", "schooled-context", "unschooled", "peer")]
        cells[-1] += f" ({row['peer']['algorithm']})"
        cells.append(ratio("both, to the best SB3 algorithm", name))
        print(f"| {name} | {row['threshold']:g} | {' | '.join(cells)} |")
    print("\nUnlike jobs: environment steps until the threshold.\n")
    print("| job | threshold | schooled | last tenth | unschooled | last tenth | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in (job.name for job in UNLIKE):
        row = jobs[name]
        pair = [row.get(key) for key in ("schooled-both", "unschooled-both")]
        cells = [part for found in pair for part in (cell(found), tenth(found))]
        print(f"| {name} | {row['threshold']:g} | {' | '.join(cells)} | {ratio('unlike', name)} |")
    print()
    for name, found in comparisons.items():
        target = UNLIKE_TARGET if name == "unlike" else LIKE_TARGET
        if "missing" in found:
            print(f"{name}: no mean, fewer than {LEAST_SEEDS} seeds of {', '.join(found['missing'])}")
            continue
        low, high = found["interval"]
        worst = f", worst {max(found['ratios'].values()):.3f} (target {WORST_TARGET:g})" if name == "unlike" else ""
        print(f"{name}: geometric mean {found['mean']:.4f} ({low:.4f} to {high:.4f}), target {target:g}{worst}")
    both = comparisons.get("unlike", {}).get("ratios", {})
    idle = [name for name in both if not any(jobs[name].get(key, {}).get("solved") for key in COLUMNS)]
    if idle:
        print(f"unlike: solved by no run, so that the ratio is 1 and says nothing: {', '.join(idle)}")


def cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    steps, runs = row["spread"], row.get("runs")
    solved = "" if runs is None else f", solved {row['solved']}/{runs}"
    return f"{steps['median']:,.0f} [{steps['min']:,.0f}, {steps['max']:,.0f}]{solved}"


def tenth(row: dict[str, Any] | None) -> str:
    """Mean return of the last tenth."""
    if row is None:
        return "-"
    last = row["last_tenth"]
    return "no attempt ended" if last is None else f"{last['median']:.1f} [{last['min']:.1f}, {last['max']:.1f}]"


def main() -> int:
    names = [job.name for job in (*LIKE, *UNLIKE)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", type=Path, help="a saved learner, or a run's folder (default: what ships)")
    parser.add_argument("--jobs", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=tuple(COLUMNS))
    parser.add_argument("--table", action="store_true", help="compare, run nothing")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps of everything; nothing is kept")
    given = parser.parse_args()
    results = RESULTS / "transfer"
    if given.table:
        summary = compare(results)
        write_json(results / "summary.json", summary)
        print_table(summary)
        return 0
    fifteen.cache_compilations()
    try:
        learner = fifteen.load(given.learner)
    except fifteen.CheckpointError as error:
        parser.error(str(error))
    known = identity(learner) | provenance(parser, parser.parse_args([]))  # of all runs: it runs what is left
    if given.quick:
        with tempfile.TemporaryDirectory() as folder:
            run_all(all_runs(given.jobs, given.seeds[:1]), Path(folder), given.learner, known, QUICK_STEPS)
            print_table(compare(Path(folder)))
        return 0
    run_all(all_runs(given.jobs, given.seeds, given.columns), results, given.learner, known, BUDGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
