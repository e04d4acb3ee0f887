"""Twenty jobs in a row, visited twice, a night after each: what is forgotten, and whether later jobs come easier.

    python bench/sequence.py                    # an unschooled parent, 5 seeds: many hours; goes on where it was
    python bench/sequence.py --learner shipped  # the schooled one that ships, or a learner's folder
    python bench/sequence.py --table            # sum up; --learner as above

The order of the jobs is drawn by the seed, and the same at both visits. A day: last night's learner works on the job
(learn="both"), and `fifteen.nights.night` makes tomorrow's learner of that instance and the one store of all days.
Then tomorrow's learner is asked about every job that was lived so far, and about tomorrow's: `fifteen.evaluate`, fresh
memory, fixed weights, 50 attempts in 10 lifetimes, the same ones at every time and others with every seed. Scores are
normalised as in bench/amalgamate.py.

* Forgetting of a job: its best score after any night from its first on, less that after the last night. The best of
  many is lucky too: of a learner that forgets nothing it is above zero. So beside it: after the night of the job's own
  second day, less after the last night.
* Forward transfer: score on a job before it was ever worked, less the parent's; the first job of a row is left out.
* Steps to competence at the first visit: until the mean of 10 attempts is 0.7; not within the budget counts as the
  budget. Jobs differ more than anything else, so the slope is that of log steps by job number within jobs, over
  seeds (least squares with an effect for each job); interval: 95 %, seeds drawn with replacement.

When all is done the learners from which these figures are made are asked once more, for attempts that no other figure
is made of: a figure that they do not confirm is luck. Forgetting by these is of the night that was best by the others.

Targets: forgetting, mean over the jobs, <= 0.02; forward transfer > 0; slope < 0.

Instances, learners and the store are kept under runs/bench, measurements in bench/results/sequence/LEARNER-SEED.json;
what is there is not done again. Give the process one core.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import many_jobs
import numpy as np
from many_jobs import OTHERS_SEED, SEQUENCE, TASKS, Ledger, Task, over_seeds, parent_of, score

import fifteen
from fifteen.config import SleepConfig
from fifteen.learner import Learner

FORGETTING_TARGET = 0.02
VISITS = 2
BOOTSTRAPS = 2_000


def order_of(jobs: Sequence[str], seed: int) -> list[str]:
    """The days of a seed: every job, VISITS times in the same order."""
    return np.random.default_rng(seed).permutation(np.array(jobs)).tolist() * VISITS


def day(task: Task, given: argparse.Namespace, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Work and sleep: tomorrow's learner is saved in the folder of this day. What the day came to."""
    place = folder / f"day-{number:03}"
    # Another seed than on any other day, so that no attempt is met twice. Work changes the learner: another for the
    # night.
    learner, parent = (parent_at(given, seed, number, folder) for _ in range(2))
    log = many_jobs.worked(learner, task, given.steps, 1_000 * seed + number, place / "run")
    sleeper = many_jobs.slept([place / "run"], parent, folder / "store", SleepConfig(steps=given.night), number)
    sleeper.save(place / "learner")
    told = sleeper.provenance["slept"][-1]
    return {
        "job": task.name,
        "competent": many_jobs.steps_to_competence(task, log, given.steps),
        "rehearsed": len(told["older"]),  # the day's own, too, where nothing was gained
        "updates": told["steps_done"],
    }


def parent_at(given: argparse.Namespace, seed: int, number: int, folder: Path) -> Learner:
    """Who begins day `number`, from 1: the parent, or the learner that the night before made."""
    if number == 1:
        return parent_of(given.learner, seed)
    return fifteen.load(folder / f"day-{number - 1:03}" / "learner")


def measure(ledger: Ledger, given: argparse.Namespace, seed: int) -> None:
    """Everything of one seed that the ledger has not. Scores after night n are "after n/JOB"; n = 0: the parent's."""
    order, folder = order_of(given.jobs, seed), ledger.folder
    for name in given.jobs:
        parent = partial(parent_of, given.learner, seed)
        ledger(f"after 0/{name}", lambda name=name, of=parent: score(of(), TASKS[name], given.episodes, seed))
    for number, name in enumerate(order, start=1):
        begun = (given, seed, number, folder)
        ledger(f"day {number}", lambda task=TASKS[name], begun=begun: day(task, *begun))
        asked = dict.fromkeys(order[: number + 1])  # tomorrow's too
        for other in asked:
            ledger(f"after {number}/{other}", partial(again, ledger, given, seed, number, TASKS[other]))
    for name, nights in doubted_nights(order, len(given.jobs)).items():
        for night in dict.fromkeys((*nights, best_night(ledger.record["measured"], order, name))):
            learner = partial(parent_at, given, seed, night + 1, folder)
            how = TASKS[name], given.episodes, seed, OTHERS_SEED
            ledger(f"others {night}/{name}", lambda of=learner, how=how: score(of(), *how))


def doubted_nights(order: Sequence[str], jobs: int) -> dict[str, tuple[int, int, int, int]]:
    """By job: none, the one before its first day, that of its last day, the last of all."""
    last = len(order)
    return {name: (0, n, n + 1 + (VISITS - 1) * jobs, last) for n, name in enumerate(order[:jobs])}


def best_night(measured: Mapping[str, Any], order: Sequence[str], name: str) -> int:
    """The first of those after which a job, lived by then, was done best."""
    nights = range(order.index(name) + 1, len(order) + 1)
    return max(nights, key=lambda n: measured[f"after {n}/{name}"])


def again(ledger: Ledger, given: argparse.Namespace, seed: int, number: int, task: Task) -> float:
    """The score after night `number`; where that left the learner as it was, the one before, attempt by attempt."""
    measured, before = ledger.record["measured"], f"after {number - 1}/{task.name}"
    if measured[f"day {number}"]["updates"] == 0 and before in measured:
        return measured[before]
    return score(parent_at(given, seed, number + 1, ledger.folder), task, given.episodes, seed)


# ----------------------------------------------------------------------------------------------------- comparing


def forgetting(course: Sequence[float]) -> float:
    """Best score so far less the last one: the scores of one job after each night from its first on."""
    return max(course) - course[-1]


def slope(steps: Sequence[Mapping[str, tuple[int, int]]]) -> float:
    """Of log steps by job number within jobs. steps: by seed and job, (number in the row, steps). NaN: not determined.

    Least squares with an effect for each job: numbers and log steps less their means over the seeds of that job.
    """
    jobs: dict[str, list[tuple[float, float]]] = {}
    for seed in steps:
        for name, (number, count) in seed.items():
            jobs.setdefault(name, []).append((float(number), math.log(count)))
    centred = np.concatenate([np.array(rows) - np.mean(rows, axis=0) for rows in jobs.values()])
    spread = float(np.sum(centred[:, 0] ** 2))
    return float(np.sum(centred[:, 0] * centred[:, 1])) / spread if spread > 0 else math.nan


def slope_interval(steps: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, Any] | None:
    """The slope and 95 % of those of seeds drawn with replacement; None where it is not determined."""
    found = slope(steps)
    if math.isnan(found):
        return None
    random = np.random.default_rng(0)
    drawn = [slope([steps[n] for n in random.integers(len(steps), size=len(steps))]) for _ in range(BOOTSTRAPS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"median": round(found, 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": len(steps)}


def judged(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What one seed came to, by job; None where its last night is not measured."""
    measured, order = record["measured"], order_of(record["jobs"], record["seed"])
    last, jobs = len(order), len(record["jobs"])
    if any(f"after {last}/{name}" not in measured for name in order):
        return None
    courses, rows = {}, {}
    for number, name in enumerate(order[:jobs], start=1):
        courses[name] = [measured[f"after {n}/{name}"] for n in range(number, last + 1)]
        own = measured[f"after {number + (VISITS - 1) * jobs}/{name}"]
        rows[name] = {
            "number": number,
            "parent": measured[f"after 0/{name}"],
            "before": measured[f"after {number - 1}/{name}"],
            "after": courses[name][0],
            "last": courses[name][-1],
            "forgetting": forgetting(courses[name]),
            "since its second night": own - courses[name][-1],
            "steps": measured[f"day {number}"]["competent"] or record["steps"],
            "competent": measured[f"day {number}"]["competent"] is not None,
        }
    return rows


def doubted(record: Mapping[str, Any]) -> dict[str, float] | None:
    """What one seed came to by other attempts, means over the jobs; None where they were not made."""
    measured, jobs = record["measured"], len(record["jobs"])
    order = order_of(record["jobs"], record["seed"])
    nights = doubted_nights(order, jobs)
    asked = {name: [f"others {night}/{name}" for night in nights[name]] for name in nights}
    if not all(key in measured for keys in asked.values() for key in keys):
        return None
    parent, before, own, last = np.array([[measured[key] for key in keys] for keys in asked.values()]).T
    best = [measured.get(f"others {best_night(measured, order, name)}/{name}") for name in nights]
    known = {} if None in best else {"forgetting": float(np.mean(np.array(best) - last))}  # records of before have none
    return known | {
        "forward transfer": float(np.mean((before - parent)[1:])) if jobs > 1 else 0.0,
        "since its second night": float(np.mean(own - last)),
        "at last": float(np.mean(last)),
        "parent": float(np.mean(parent)),
    }


def summed_up(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the jobs, over seeds; and of every job, means over seeds."""
    seeds = [rows for record in records if (rows := judged(record)) is not None]
    summary: dict[str, Any] = {"complete": len(seeds), "begun": len(records), "jobs": {}}
    if not seeds:
        return summary
    for name in seeds[0]:
        rows = [seed[name] for seed in seeds]
        summary["jobs"][name] = {key: round(statistics.mean(row[key] for row in rows), 4) for key in rows[0]}
    later = [[row for row in seed.values() if row["number"] > 1] for seed in seeds]
    summary |= {
        key: over_seeds([statistics.mean(row[key] for row in seed.values()) for seed in seeds])
        for key in ("forgetting", "since its second night")
    }
    if all(later):
        transfer = [statistics.mean(row["before"] - row["parent"] for row in seed) for seed in later]
        summary["forward transfer"] = over_seeds(transfer)
    if others := [found for record in records if (found := doubted(record)) is not None]:
        keys = dict.fromkeys(key for one in others for key in one)
        summary["by other attempts"] = {key: over_seeds([one[key] for one in others if key in one]) for key in keys}
    steps = [{name: (row["number"], row["steps"]) for name, row in seed.items()} for seed in seeds]
    return summary | {"slope": slope_interval(steps)}


def print_table(summary: Mapping[str, Any]) -> None:
    """Means by job as Markdown, then what was reached."""
    print(f"{summary['complete']} seeds complete of {summary['begun']} begun. Normalised scores, mean over seeds.\n")
    print("| job | parent | before its first day | after it | at last | forgetting | steps | competent |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in summary["jobs"].items():
        cells = [f"{row[key]:.2f}" for key in ("parent", "before", "after", "last", "forgetting")]
        print(f"| {name} | {' | '.join(cells)} | {row['steps']:,.0f} | {row['competent']:.0%} |")
    print()
    rows = (
        ("forgetting", f"<= {FORGETTING_TARGET}", lambda x: x <= FORGETTING_TARGET),
        ("since its second night", f"<= {FORGETTING_TARGET}", lambda x: x <= FORGETTING_TARGET),
        ("forward transfer", "> 0", lambda x: x > 0.0),
        ("slope", "< 0", lambda x: x < 0.0),
    )
    for name, target, reached in rows:
        print(many_jobs.verdict(name, summary.get(name), target, reached))
    for name, interval in summary.get("by other attempts", {}).items():
        print(f"by other attempts, {name}: {many_jobs.shown(interval)}, {interval['n']} seeds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    many_jobs.ask(parser, SEQUENCE)
    parser.set_defaults(steps=6_000, night=1_500)
    given = parser.parse_args()
    return many_jobs.run(parser, given, "sequence", ("episodes", "lifetimes"), measure, summed_up, print_table)


if __name__ == "__main__":
    sys.exit(main())
