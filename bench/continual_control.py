"""Continual Gym Control: one life of 10 tasks, whose observations are shifted by another offset in each.

    python bench/continual_control.py --column context --seeds 3   # whole lives on the device, but LunarLander-v3
    python bench/continual_control.py --column both --seeds 3      # hours for each life: stop it, and start it again
    python bench/continual_control.py --column quarter --seeds 3   # a third of that
    python bench/continual_control.py --table                      # compare: Markdown, and .../summary.json
    python bench/continual_control.py --column context --quick     # a few thousand steps of everything; nothing is kept

The protocol is in continual_tasks.py. Measured is the average return of an attempt over the whole life of 1.6M steps.
Published for learners that begin anew at every task (reset oracle), and the best of those that do not, which are
different methods: CartPole 299.9, 266.1; Acrobot -125.7, -118.8; LunarLander 1.1, -6.7; MountainCar -322.6, -245.7.
Target: at or above the oracle on all four, with one setting and no boundary signal. Columns, each one setting for all:
    context      the learner that ships; its weights stay as they are, it learns in its memory
    both         the same, and its weights learn too
    quarter      the same with an update at every fourth step
    unschooled   a new learner of size small, memory and weights
Memory, statistics and replay run on through all tasks.

Beside it, what nobody publishes. Forgetting: return of the last 20 attempts of a task, less that of 20 attempts at the
same task after the life, with an empty memory and frozen weights (fresh), and by the life going on as it was, still
learning (kept); positive is forgotten. Forward transfer: first 5 attempts of tasks 2 to 10, less those of task 1. Steps
to the threshold, the oracle's average, by task number.

One JSON per (job, column, seed) is written under bench/results/continual_control as soon as the life is over. A life
that has a file is not lived again: delete the file to repeat it. Lives through `fifteen.work` are kept in folders under
runs/continual_control and go on from there. In context three of the jobs are written in JAX, equal to Gymnasium's step
for step (tests/test_bench_continual.py), and the seeds are lived side by side.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import continual_work
import jax
import jax.numpy as jnp
import numpy as np
from continual_native import NATIVE, Device, Lives, attempts_of
from continual_summary import LAST, compared, print_table, summed_up
from continual_tasks import DEVIATION, JOBS, Attempts, Protocol, offsets_of
from measuring import RESULTS, ROOT, provenance, write_result
from transfer import identity

import fifteen
from fifteen.config import Learn
from fifteen.instance import Statistics
from fifteen.learner import Learner

QUICK = Protocol(tasks=3, task_steps=1_500)
TICKS = 2_048  # on the device at once


@dataclass(frozen=True)
class Column:
    schooled: bool
    learn: Learn
    updates_per_step: float = 1.0

    def learner(self, seed: int) -> Learner:
        learner = fifteen.load() if self.schooled else fifteen.new("small", seed=seed)
        learner.work_config = replace(learner.work_config, updates_per_step=self.updates_per_step)
        return learner


COLUMNS = {
    "context": Column(True, "context"),
    "both": Column(True, "both"),
    "quarter": Column(True, "both", updates_per_step=0.25),
    "unschooled": Column(False, "both"),
}


def on_device(
    name: str, learner: Learner, seeds: Sequence[int], protocol: Protocol, *, attempts: int = LAST
) -> list[dict[str, Any]]:
    """The lives of all seeds side by side in context, and the re-tests after them."""
    device = Device(learner, name, protocol.task_steps)
    offsets = np.stack([offsets_of(name, seed, protocol.tasks) for seed in seeds])  # [S, tasks, D]
    began = time.monotonic()
    lives = device.born(jnp.array(seeds, jnp.uint32), _each(learner.statistics, len(seeds)), jnp.int32(0))
    lives, lived = _finish(device, lives, offsets, protocol.steps)
    speed = len(seeds) * protocol.steps / (time.monotonic() - began)

    # Every task again for every seed: [S * tasks, tasks + 1, D], of which the last offset is the one that counts.
    again = np.repeat(offsets, protocol.tasks, axis=0)
    again = np.concatenate([again, offsets.reshape(-1, 1, offsets.shape[2])], axis=1)
    kept = jax.tree.map(lambda leaf: jnp.repeat(leaf, protocol.tasks, axis=0), lives)
    numbers = jnp.arange(len(again), dtype=jnp.uint32) + jnp.uint32(1_000 * (1 + max(seeds)))
    fresh = device.born(numbers, kept.instance.statistics, jnp.int32(protocol.steps))
    retests = {}
    for memory, begun in (("fresh", fresh), ("kept", kept)):
        _, found = _finish(device, begun, again, protocol.steps, attempts)
        retests[memory] = np.array([each.returns.mean() for each in found]).reshape(len(seeds), protocol.tasks)
    return [
        {
            "steps_per_s": round(speed, 1),
            **summed_up(lived[n], protocol, JOBS[name].oracle),
            "retest": {memory: values[n].tolist() for memory, values in retests.items()},
        }
        for n in range(len(seeds))
    ]


def _finish(
    device: Device, lives: Lives, offsets: np.ndarray, until: int, attempts: int | None = None
) -> tuple[Lives, list[Attempts]]:
    """Go on to step `until`; or, with `attempts`, beyond it until every life has begun and ended so many there."""
    shifts, last = jnp.asarray(offsets), until if attempts is None else np.iinfo(np.int32).max
    parts: list[list[Attempts]] = [[] for _ in offsets]
    while True:
        lives, seen = device.live(lives, shifts, last, ticks=TICKS)
        for own, more in zip(parts, attempts_of(seen), strict=True):
            own.append(more)
        found = [_joined(own) for own in parts]
        if attempts is not None:
            found = [continual_work.since(each, until, attempts) for each in found]
            if all(len(each.returns) == attempts for each in found):
                return lives, found
        elif (np.asarray(lives.steps) >= until).all():
            return lives, found


def _joined(parts: Sequence[Attempts]) -> Attempts:
    return Attempts(*(np.concatenate(field) for field in zip(*(vars(p).values() for p in parts), strict=True)))


def _each(statistics: Statistics, lives: int) -> Statistics:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lives, *leaf.shape)), statistics)


def at_work(
    name: str, column: Column, seed: int, protocol: Protocol, run: Path, *, attempts: int = LAST
) -> dict[str, Any]:
    """One life through `fifteen.work`, and the re-tests after it."""
    offsets = offsets_of(name, seed, protocol.tasks)
    worked = continual_work.live(name, column.learner(seed), offsets, protocol, seed=seed, learn=column.learn, run=run)
    tasks = range(protocol.tasks)
    fresh = [
        continual_work.retest_fresh(name, worked.learner, offsets[task], attempts=attempts, seed=1_000 + seed)
        for task in tasks
    ]
    kept = [continual_work.retest_kept(name, offsets, task, protocol, attempts=attempts, run=run) for task in tasks]
    return {
        "steps_per_s": worked.steps_per_s,
        "faults": worked.faults,
        **summed_up(worked.attempts, protocol, JOBS[name].oracle),
        "retest": {
            "fresh": [float(each.returns.mean()) for each in fresh],
            "kept": [float(each.returns.mean()) for each in kept],
        },
    }


def result(name: str, column: str, seed: int) -> str:
    """Name of the record of one life under bench/results."""
    return f"continual_control/{name}/{column}-{seed}"


def missing(name: str, column: str, seeds: Sequence[int]) -> list[int]:
    return [seed for seed in seeds if not (RESULTS / f"{result(name, column, seed)}.json").exists()]


def run_column(title: str, jobs: Sequence[str], seeds: Sequence[int], known: dict[str, Any], runs: Path) -> None:
    """Live what has no record yet."""
    column, protocol = COLUMNS[title], Protocol()
    check_learner(title, column, seeds)

    def keep(name: str, seed: int, measured: dict[str, Any]) -> None:
        record = {"job": name, "column": title, "seed": seed, "protocol": asdict(protocol)}
        record |= {"mind": asdict(learner.config), "work": asdict(learner.work_config), "offset_deviation": DEVIATION}
        record |= identity(learner) | known | measured
        record["offsets"] = offsets_of(name, seed, protocol.tasks).round(4).tolist()
        write_result(result(name, title, seed), record)
        print(f"{name} {title} seed {seed}: {record['average']:.1f}, {record['steps_per_s']} steps/s", flush=True)

    for name in jobs:
        left = missing(name, title, seeds)
        if left and column.learn == "context" and name in NATIVE:
            learner = column.learner(0)
            for seed, measured in zip(left, on_device(name, learner, left, protocol), strict=True):
                keep(name, seed, measured)
            continue
        for seed in left:
            learner = column.learner(seed)
            keep(name, seed, at_work(name, column, seed, protocol, runs / title / name / str(seed)))


def check_learner(title: str, column: Column, seeds: Sequence[int]) -> None:
    """Raises SystemExit where there are records of this column by another learner."""
    for seed in seeds:
        own = identity(column.learner(seed))["learner"]
        for name in JOBS:
            path = RESULTS / f"{result(name, title, seed)}.json"
            if path.exists() and json.loads(path.read_text())["learner"] != own:
                raise SystemExit(f"{path.relative_to(ROOT)} is of another learner: delete it, or use that one")


def try_out(title: str, jobs: Sequence[str]) -> None:
    """A short life of every job, with everything after it; nothing is kept."""
    column = COLUMNS[title]
    for name in jobs:
        if column.learn == "context" and name in NATIVE:
            found = on_device(name, column.learner(0), (0, 1), QUICK, attempts=2)[0]
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = at_work(name, column, 0, QUICK, Path(folder) / "run", attempts=2)
        print(f"{name} {title}: {json.dumps(found)}", flush=True)


def summarise() -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    for title in COLUMNS:
        columns[title] = {}
        for name in JOBS:
            files = sorted((RESULTS / "continual_control" / name).glob(f"{title}-*.json"))
            if files:
                columns[title][name] = compared([json.loads(file.read_text()) for file in files], Protocol())
    return {"published": {name: asdict(published) for name, published in JOBS.items()}, "columns": columns}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=COLUMNS)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--job", choices=JOBS, help="only this one")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "continual_control", help="folders of lives")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table == (given.column is not None):
        parser.error("give either --column or --table")
    if given.table:
        summary = summarise()
        write_result("continual_control/summary", summary)
        print_table(summary)
        return 0
    fifteen.cache_compilations()
    jobs = tuple(JOBS) if given.job is None else (given.job,)
    if given.quick:
        try_out(given.column, jobs)
    else:
        run_column(given.column, jobs, range(given.seeds), provenance(parser, given), given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
