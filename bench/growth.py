"""What grows with the number of jobs in the store: an instance must not, a night only with what it rehearses.

    python bench/growth.py              # 1 to 100 jobs, and 1 to 16 times the rows of 10 jobs; goes on where it was
    python bench/growth.py --table      # sum up

The store is filled by instances of one unschooled parent that act and do not learn (how long a night takes does not
depend on what was learned): jobs of every template of every family, then of other seeds, each with more rows than a
night reads. At each mark `fifteen.nights.night` sleeps on the last job, with all others in the store; a number of
updates is timed from its first tenth to its last, and all else (drawing sequences, what teachers say) together; a short
night before has compiled what there is. Then the same 10 jobs with 1, 4 and 16 times the rows.

The learners of some of these nights begin, each in a fresh process and in turn, to work on CartPole-v1: median
microseconds of `act` and `observe` with learn="context", and resident memory after as many steps of learn="both".

Targets, from the smallest store to the largest: decision time and memory of an instance grow by less than 5 %; a
night's update takes as long for each job that it learns from (within 10 %), and as long whatever else is stored (rows:
within 10 %; jobs: at the last mark no more than 10 % longer than with a tenth of the jobs); all else as long once more
jobs are stored than a night takes up (within 10 %).

Written to bench/results/growth.json. Give the process one core.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import many_jobs
import numpy as np
from constant_memory import resident_bytes
from many_jobs import Ledger, Task
from measuring import RESULTS, median_interval, provenance

import fifteen
from fifteen.config import SleepConfig
from fifteen.learner import Learner
from fifteen.nights import night
from fifteen.sleeping import SleepProgress
from fifteen.store import Store

INSTANCE_TARGET, NIGHT_TARGET = 0.05, 0.10
MARKS = (1, 2, 5, 10, 20, 50, 100)
ROWS = (1, 4, 16)
ROWS_JOBS = 10
WARM_UP = 200  # decisions


# ------------------------------------------------------------------------------------------------------ a night


def acted(task: Task, given: argparse.Namespace, seed: int, folder: Path) -> Path:
    """The run of an instance that acts on a job and learns nothing."""
    run = folder / f"{task.name}-{task.kwargs['seed']}-{seed}"
    if (run / "config.json").is_file():
        fifteen.resume(run)
    else:
        parent = fifteen.new(given.size, seed=0)
        fifteen.work(parent, task.job, steps=given.steps, seed=seed, learn="context", run=run, **task.settings)
    return run


def timed(run: Path, store: Store, given: argparse.Namespace) -> tuple[Learner, dict[str, Any]]:
    """A night on one run with everything else in the store rehearsed as nights do."""
    # Compiles, for which earlier runs may have kept something, every job's update.
    night([run], store, config=SleepConfig(steps=2, rehearsed=len(store.jobs())))
    moments: list[tuple[int, float]] = []

    def watch(progress: SleepProgress) -> None:
        moments.append((progress.step, time.monotonic()))

    began = time.monotonic()
    told = night([run], store, config=SleepConfig(steps=given.night), callback=watch)
    seconds = time.monotonic() - began
    (first, since), (last, until) = moments[0], moments[-1]
    update = (until - since) / (last - first)
    records = store.jobs()
    found = {
        "stored jobs": len(records),
        "stored rows": sum(record.rows for record in records),
        "read": len(told.jobs) + len(told.older),  # jobs
        "in an update": len(told.jobs) + min(len(told.older), SleepConfig.rehearsed),
        "update_ms": round(1e3 * update, 3),
        "else_s": round(seconds - update * given.night, 2),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    return told.learner, found


def by_jobs(ledger: Ledger, given: argparse.Namespace, folder: Path) -> None:
    """Nights at the marks, in one store that grows; the learners of nights whose instances are measured are kept."""
    tasks = many_jobs.every_template(max(given.marks))
    done = max((row["stored jobs"] for row in nights(ledger.record["measured"], "jobs")), default=0)
    with Store(folder / "store") as store:
        for number, task in enumerate(tasks[done:], start=done + 1):
            run = acted(task, given, 0, folder / "acted")
            if number not in given.marks:
                store.add_run(run)
                continue

            def measure(run: Path = run, number: int = number) -> dict[str, Any]:
                learner, found = timed(run, store, given)
                learner.save(folder / f"learner-{number}")
                return found

            ledger(f"night, {number} jobs", measure)


def by_rows(ledger: Ledger, given: argparse.Namespace, folder: Path) -> None:
    """Nights on the same jobs with more and more rows of each."""
    tasks = many_jobs.every_template(given.rows_jobs)
    for times in given.rows:
        if f"night, {times} x rows" in ledger.record["measured"]:
            continue
        with Store(folder / "rows") as store:
            runs = [acted(task, given, seed, folder / "acted") for task in tasks for seed in range(times)]
            for run in runs[:-1]:
                store.add_run(run)
            ledger(f"night, {times} x rows", lambda run=runs[-1], store=store: timed(run, store, given)[1])


# --------------------------------------------------------------------------------------------------- an instance


def instance(learner: Learner, decisions: int) -> dict[str, float]:
    """Median microseconds of a decision on CartPole-v1, and resident bytes after as many steps of learning."""
    env = gymnasium.make("CartPole-v1")
    times = []
    for learn in ("context", "both"):
        learner.start(env.observation_space, env.action_space, seed=0, learn=learn)
        observation, _ = env.reset(seed=0)
        for _ in range(WARM_UP + decisions):
            start = time.perf_counter_ns()
            action = learner.act(observation)
            between = time.perf_counter_ns()
            observation, reward, terminated, truncated, _ = env.step(action)
            back = time.perf_counter_ns()
            learner.observe(observation, float(reward), terminated, truncated)
            if learn == "context":
                times.append((time.perf_counter_ns() - back + between - start) / 1e3)
            if terminated or truncated:
                observation, _ = env.reset()
    return {"decision_us": round(float(np.median(times[WARM_UP:])), 2), "resident_mb": round(resident_bytes() / 1e6, 2)}


def in_process(folder: Path, decisions: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__)), "--instance", str(folder), "--decisions", str(decisions)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


# ----------------------------------------------------------------------------------------------------- comparing


def nights(measured: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Rows of the nights of a kind, "jobs" or "rows", in the order in which they were measured."""
    return [value for name, value in measured.items() if name.startswith("night, ") and name.endswith(f" {kind}")]


def growth(values: Sequence[float]) -> float:
    """Of the last over the first."""
    return values[-1] / values[0] - 1.0


def summed_up(measured: Mapping[str, Any], marks: Sequence[int]) -> dict[str, Any]:
    """Growth of everything that has a target; what is not measured is missing."""
    jobs, rows = nights(measured, "jobs"), nights(measured, "rows")
    found: dict[str, Any] = {}
    for what in ("decision_us", "resident_mb"):
        medians = {}
        for mark in marks:
            values = [value[what] for name, value in measured.items() if name.startswith(f"instance {mark}, block ")]
            if values:
                medians[mark] = median_interval(values)
        if len(medians) > 1:
            found[what] = {"by jobs": medians, "growth": growth([row["median"] for row in medians.values()])}
    large = [row for row in jobs if row["in an update"] >= 5]  # below, what every update costs counts
    if len(large) > 1:
        found["for each job in it"] = growth([row["update_ms"] / row["in an update"] for row in large])
        tenth = [row for row in jobs if row["stored jobs"] <= round(jobs[-1]["stored jobs"] / 10)]
        if tenth:
            found["jobs stored"] = growth([tenth[-1]["update_ms"], jobs[-1]["update_ms"]])
    beyond = [row for row in jobs if row["stored jobs"] > row["read"]]
    if len(beyond) > 1:
        found["jobs stored, all else"] = growth([row["else_s"] for row in beyond])
    if len(rows) > 1:
        found["rows stored"] = growth([row["update_ms"] for row in rows])
        found["rows stored, all else"] = growth([row["else_s"] for row in rows])
    return found


def print_table(measured: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Nights as Markdown, then what was reached."""
    print("| jobs stored | rows stored | jobs read | in an update | ms an update | and for each job | all else, s |")
    print("|---|---|---|---|---|---|---|")
    for row in (*nights(measured, "jobs"), *nights(measured, "rows")):
        each = row["update_ms"] / row["in an update"]
        counts = f"{row['stored jobs']} | {row['stored rows']:,} | {row['read']} | {row['in an update']}"
        print(f"| {counts} | {row['update_ms']:.1f} | {each:.2f} | {row['else_s']:.1f} |")
    print()
    for what, target in (("decision_us", INSTANCE_TARGET), ("resident_mb", INSTANCE_TARGET)):
        row = found.get(what)
        for mark, interval in row["by jobs"].items() if row else ():
            median, low, high = (interval[key] for key in ("median", "low", "high"))
            print(f"instance, {mark} jobs: {what} {median:.1f} [{low:.1f}, {high:.1f}]")
        print(line(f"instance, growth of {what}", row and row["growth"], target))
    print(line("night, growth of an update for each job in it", found.get("for each job in it"), NIGHT_TARGET))
    print(line("night, growth of an update with the rows stored", found.get("rows stored"), NIGHT_TARGET))
    print(line("night, growth of all else with the rows stored", found.get("rows stored, all else"), NIGHT_TARGET))
    print(line("night, growth of an update over ten times the jobs", found.get("jobs stored"), NIGHT_TARGET))
    what = "night, growth of all else with jobs that are stored and not read"
    print(line(what, found.get("jobs stored, all else"), NIGHT_TARGET))


def line(what: str, value: float | None, target: float) -> str:
    if value is None:
        return f"{what}: not measured (target < {target:.0%})"
    return f"{what}: {value:+.1%}, target < {target:.0%}: {'reached' if value < target else 'NOT reached'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marks", nargs="+", type=int, default=list(MARKS), help="jobs in the store")
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), help="times the rows")
    parser.add_argument("--rows-jobs", type=int, default=ROWS_JOBS, help="jobs whose rows grow")
    parser.add_argument("--steps", type=int, default=1_400, help="environment steps of an instance in the store")
    parser.add_argument("--night", type=int, default=100, help="updates of a timed night")
    parser.add_argument("--size", default="small", help="size of the learner")
    parser.add_argument("--instances", nargs="+", type=int, default=[1, 10, 100], help="marks with timed instances")
    parser.add_argument("--blocks", type=int, default=5, help="processes of each instance")
    parser.add_argument("--decisions", type=int, default=2_000, help="timed decisions of an instance")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--runs", type=Path, default=many_jobs.RUNS, help="folder of instances, learners and stores")
    parser.add_argument("--table", action="store_true", help="sum up, measure nothing")
    parser.add_argument("--instance", type=Path, help=argparse.SUPPRESS)  # the process of an instance
    given = parser.parse_args()
    if not set(given.instances) <= set(given.marks):
        parser.error("--instances must be some of --marks")
    fifteen.cache_compilations()
    if given.instance is not None:
        print(json.dumps(instance(fifteen.load(given.instance), given.decisions)))
        return 0
    settings = {"size": given.size, "steps": given.steps, "night": given.night}
    folder = given.runs / f"growth-{many_jobs.digest(settings)}"
    ledger = Ledger(given.results / "growth.json", provenance(parser, given), settings, folder)
    if not given.table:
        if not ledger.record["measured"] and (folder / "store").exists():
            parser.error(
                f"{folder} is from an earlier measurement, and its store is not empty: delete it to begin again"
            )
        by_jobs(ledger, given, folder)
        by_rows(ledger, given, folder)
        for block in range(given.blocks):  # in turn, so that all meet the same machine
            for mark in given.instances:
                path = folder / f"learner-{mark}"
                ledger(f"instance {mark}, block {block}", lambda path=path: in_process(path, given.decisions))
        ledger.note("summary", summed_up(ledger.record["measured"], given.instances))
    print_table(ledger.record["measured"], summed_up(ledger.record["measured"], given.instances))
    return 0


if __name__ == "__main__":
    sys.exit(main())
