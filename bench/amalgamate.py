"""Many instances of one parent, each on a job of its own, made one learner: how much of what they learned it keeps.

    python bench/amalgamate.py                    # an unschooled parent, 8 and 16 jobs, 5 seeds: hours; goes on
    python bench/amalgamate.py --learner shipped  # the schooled one that ships, or a learner's folder
    python bench/amalgamate.py --table            # sum up; --learner as above

Every instance works the same number of steps on its job (learn="both"), then `fifteen.nights.night` makes one learner
of the first 8, and of all 16. Beside it, on the same instances: averaging, task arithmetic, TIES and Fisher merging
(bench/merging_rivals.py), and joint training: one learner that works on all jobs at the same time, a block of steps
and of updates on each in turn, each with a replay and statistics of its own, as many steps and updates as all
instances had together. All are asked as on a first day: `fifteen.evaluate`, fresh memory, statistics begun anew
(an instance keeps its own), fixed weights, 50 attempts in 10 lifetimes, the same seeds.

Scores are normalised: 0 for chance, 1 for the reference (Gymnasium's jobs: the thresholds of
bench/development_jobs.py; drawn jobs: their template's in the registry). Share kept of a job: (merged - parent) /
(instance - parent), of jobs where an instance gained at least 0.2. A mean of shares profits from those above 1, so that
of shares counted as at most 1 stands beside it. Then the next job: steps until the mean of 10 attempts is 0.7, on six
jobs that nobody had, of the learner made of the first 8, of the parent and of each of the 8; not within the budget of
`--steps` counts as the budget, and a job that none of them can do is left out.

Targets: share kept, mean over the jobs >= 0.95, worst job >= 0.85. Next job: ratio of steps to the parent's, and to
those of whichever instance is quickest at each job, geometric mean over the jobs < 1; beside it the ratio to the one
that is quickest over all jobs together, and to one in the middle. Each of every seed; median over seeds with interval.

Instances and learners are kept under runs/bench, measurements in bench/results/amalgamate/LEARNER-SEED.json; what is
there is not done again. To sleep in another way on the same instances, delete the JSON, and where the settings are the
same `slept-*` beside the instances too. Give the process one core.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import many_jobs
import merging_rivals
import numpy as np
from jax import Array
from many_jobs import INSTANCES, NEXT, TASKS, Ledger, Task, over_seeds, parent_of, score, with_weights

import fifteen
from fifteen.checkpoint import MANIFEST
from fifteen.config import SleepConfig
from fifteen.jobs.registry import open_job
from fifteen.learner import Learner
from fifteen.store import Store
from fifteen.updating import Batch

MEAN_TARGET, WORST_TARGET = 0.95, 0.85
LEAST_GAIN = 0.2
COUNTS = (8, 16)
RIVALS = ("averaging", "task arithmetic", "TIES", "Fisher merging")
FISHER_SEQUENCES, FISHER_ROWS = 32, 128

Scores = Mapping[str, float]  # by job, normalised


# ------------------------------------------------------------------------------------------------------ learners


def kept(folder: Path, make: Callable[[], Learner]) -> Learner:
    """The learner that was saved in the folder, or is made now."""
    if not (folder / MANIFEST).is_file():
        make().save(folder)
    return fifteen.load(folder)


def jointly(parent: Learner, tasks: Sequence[Task], steps: int, seed: int) -> Learner:
    """One learner that does all jobs at the same time, `steps` on each: a block of each in turn. The parent changes."""
    with ExitStack() as stack:
        desks = []
        for n, task in enumerate(tasks):
            stream = open_job(task.job, kwargs=task.kwargs, step_limit=task.step_limit)
            stack.callback(stream.close)
            spaces = stream.observation_space, stream.action_space
            worker = parent.new_worker(*spaces, seed=seed + n, learn="both")
            stack.callback(worker.close)
            desks.append((stream, worker))
        ticks = [stream.reset(seed + n) for n, (stream, _) in enumerate(desks)]
        done = [0] * len(desks)
        state = parent.state
        while min(done) < steps:
            for n, (stream, worker) in enumerate(desks):
                if done[n] >= steps:
                    continue
                worker.state = state  # it acts with them from its next block on
                for _ in range(worker.work.block):
                    done[n] += not bool(ticks[n].terminated[0] or ticks[n].truncated[0])  # an ending takes no step
                    ticks[n] = stream.step(worker.decide(ticks[n]).actions)
                    worker.improve()
                worker.finish()
                state = worker.state
    return with_weights(parent, state.weights)


_fisher = jax.jit(merging_rivals.diagonal_fisher, static_argnames=("config", "layout", "wipe"))


def fisher(run: Path, parent: Learner, seed: int) -> Array:
    """Diagonal Fisher information of an instance's policy on what it lived through, float32[P]."""
    instance = fifteen.load(run)
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        job = store.add_run(run).job
        (record,) = store.jobs()
        rows: dict[str, Any]
        memory: Any
        length = FISHER_ROWS if store.available(job, FISHER_ROWS) else instance.work_config.sequence
        rows, memory = store.sample(np.random.default_rng(seed), job, FISHER_SEQUENCES, length)
        batch = Batch(rows["frame"], rows.get("image"), rows["decision"], memory)
        given = jax.tree.map(jnp.asarray, (batch, store.statistics(job), record.continuous))
        settings: dict[str, Any] = {"config": parent.config, "layout": record.layout, "wipe": False}
        return _fisher(instance.state.weights, *given, jax.random.key(seed), **settings)


def rival(name: str, runs: Sequence[Path], parent: Learner, seed: int) -> Learner:
    """The learner that a rival makes of the weights of the instances."""
    origin = parent.state.weights
    weights = jnp.stack([fifteen.load(run).state.weights for run in runs])
    merged = {
        "averaging": lambda: merging_rivals.averaged(weights),
        "task arithmetic": lambda: merging_rivals.task_arithmetic(weights, origin),
        "TIES": lambda: merging_rivals.ties(weights, origin),
        "Fisher merging": lambda: merging_rivals.fisher_merged(
            weights, jnp.stack([fisher(run, parent, seed) for run in runs])
        ),
    }[name]()
    return with_weights(parent, merged)


# ----------------------------------------------------------------------------------------------------- measuring


def measure(ledger: Ledger, given: argparse.Namespace, seed: int) -> None:
    """Everything of one seed that the ledger has not."""
    begin, folder = partial(parent_of, given.learner, seed), ledger.folder
    tasks = [TASKS[name] for name in given.jobs]
    asked = partial(score, episodes=given.episodes, seed=seed)
    config = SleepConfig(steps=given.night)
    name_of = f"slept-{many_jobs.digest(dataclasses.asdict(config))}"

    def instance(n: int) -> Path:
        """The run of one, which works first if it has not yet."""
        many_jobs.worked(begin(), tasks[n], given.steps, seed + 1_000 * n, folder / tasks[n].name)
        return folder / tasks[n].name

    def sleeper(count: int) -> Learner:
        def make() -> Learner:
            runs = [instance(n) for n in range(count)]
            return many_jobs.slept(runs, begin(), folder / f"store-{count}", config, seed)

        return kept(folder / f"{name_of}-{count}", make)

    for n, task in enumerate(tasks):
        ledger(f"parent/{task.name}", lambda task=task: asked(begin(), task))
        ledger(f"instance/{task.name}", lambda n=n, task=task: asked(fifteen.load(instance(n)), task))
    for count in given.counts:
        ledger(f"sleep {count}", lambda count=count: scores(sleeper(count), tasks[:count], asked))
    first = given.counts[0]
    starters: dict[str, Callable[[], Learner]] = {"parent": begin, "sleep": lambda: sleeper(first)}
    starters |= {tasks[n].name: lambda n=n: fifteen.load(instance(n)) for n in range(first)}
    for name, starter in starters.items():
        for task in NEXT[: given.next]:
            found = partial(many_jobs.reaches_competence, task=task, budget=given.steps, seed=seed)
            ledger(f"next/{task.name}/{name}", lambda start=starter, found=found: found(start()))
    for count in given.counts if given.rivals else ():
        part = tasks[:count]
        makers: dict[str, Callable[[], Learner]] = {
            name: lambda name=name, count=count: rival(name, [instance(n) for n in range(count)], begin(), seed)
            for name in RIVALS
        }
        together = partial(jointly, begin(), part, given.steps, seed)
        makers["joint training"] = partial(kept, folder / f"joint-{count}", together)
        for name, make in makers.items():
            ledger(f"{name} {count}", lambda make=make, part=part: scores(make(), part, asked))


def scores(learner: Learner, tasks: Sequence[Task], asked: Callable[[Learner, Task], float]) -> dict[str, float]:
    return {task.name: asked(learner, task) for task in tasks}


# ----------------------------------------------------------------------------------------------------- comparing


def shares(parent: Scores, instance: Scores, merged: Scores) -> dict[str, float]:
    """Share of its gain that the merged learner keeps, by job where there was a gain."""
    gains = {name: instance[name] - parent[name] for name in merged}
    return {name: (merged[name] - parent[name]) / gain for name, gain in gains.items() if gain >= LEAST_GAIN}


def next_steps(
    measured: Mapping[str, Any], task: str, budget: int, instances: Sequence[str]
) -> dict[str, float] | None:
    """Steps until a next job can be done, of each learner; its budget where it cannot.

    instances: who has to be known beside the parent and the sleeper. None where somebody is not, or nobody can do it
    within the budget: ratios would be 1 and say nothing.
    """
    steps = under(measured, f"next/{task}")
    if not {"parent", "sleep", *instances} <= steps.keys() or not any(steps.values()):
        return None
    return {who: count or budget for who, count in steps.items()}


def next_ratios(known: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Steps of the sleeper to those of others, geometric mean over next jobs, by steps of each learner on each of them.

    quickest instance: of each job; best instance: the one that is quickest over all jobs together.
    """
    instances = known[0].keys() - {"parent", "sleep"}

    def ratio(of: Callable[[Mapping[str, float]], float]) -> float:
        return statistics.geometric_mean([steps["sleep"] / of(steps) for steps in known])

    each = [ratio(lambda steps, who=who: steps[who]) for who in instances]
    return {
        "parent": ratio(lambda steps: steps["parent"]),
        "quickest instance": ratio(lambda steps: min(steps[who] for who in instances)),
        "best instance": max(each),
        "instance in the middle": statistics.median(each),
    }


def under(measured: Mapping[str, Any], kind: str) -> dict[str, float]:
    return {name[len(kind) + 1 :]: value for name, value in measured.items() if name.startswith(f"{kind}/")}


def summed_up(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares kept by method and number of instances, and the ratios of the next jobs, over seeds."""
    methods: dict[str, Any] = {}
    jobs: dict[str, dict[str, list[float]]] = {}
    ratios: dict[str, list[float]] = {}
    nexts: dict[str, list[dict[str, Any]]] = {}  # by job: steps of every starter, of each seed
    counted: list[int] = []  # next jobs, of each seed
    for record in records:
        measured = record["measured"]
        parent, instance = under(measured, "parent"), under(measured, "instance")
        for name in instance:
            row = jobs.setdefault(name, {"parent": [], "instance": []})
            row["parent"].append(parent[name])
            row["instance"].append(instance[name])
        for key, merged in measured.items():
            if not isinstance(merged, dict):
                continue
            found = shares(parent, instance, merged)
            for name, value in merged.items():
                jobs[name].setdefault(key, []).append(value)
            if found:
                row = methods.setdefault(key, {"mean": [], "at most 1": [], "worst": [], "jobs": []})
                row["mean"].append(statistics.mean(found.values()))
                row["at most 1"].append(statistics.mean(min(share, 1.0) for share in found.values()))
                row["worst"].append(min(found.values()))
                row["jobs"].append(len(found))
        first = min((int(key.removeprefix("sleep ")) for key in measured if key.startswith("sleep ")), default=0)
        whose = record["jobs"][:first]
        tried = [next_steps(measured, task.name, record["steps"], whose) for task in NEXT] if whose else []
        known = [steps for steps in tried if steps is not None]
        counted.append(len(known))
        for name in (task.name for task in NEXT):
            if of_all := under(measured, f"next/{name}"):
                nexts.setdefault(name, []).append(of_all)
        for other, ratio in next_ratios(known).items() if known else ():
            ratios.setdefault(other, []).append(ratio)
    return {
        "jobs": {
            name: {key: round(statistics.mean(values), 4) for key, values in row.items()} for name, row in jobs.items()
        },
        "shares": {
            key: {what: row[what] if what == "jobs" else over_seeds(row[what]) for what in row}
            for key, row in methods.items()
        },
        "next": {other: over_seeds(values) for other, values in ratios.items()},
        "next jobs": nexts,
        "next jobs that count": counted,
        "targets": {"mean": MEAN_TARGET, "worst": WORST_TARGET, "next": 1.0},
    }


def print_table(summary: Mapping[str, Any]) -> None:
    """Scores by job and shares by method, as Markdown; then what was reached."""
    methods = list(summary["shares"])
    columns = ["parent", "instance", *methods]
    print("Normalised scores, mean over seeds.\n")
    print(f"| job | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in summary["jobs"].items():
        print(f"| {name} | {' | '.join(f'{row[key]:.2f}' if key in row else '' for key in columns)} |")
    print("\nShare of the gain kept, median over seeds [interval].\n")
    print("| method | mean | of shares at most 1 | worst job | jobs with a gain |\n|---|---|---|---|---|")
    for key, row in summary["shares"].items():
        jobs = f"{min(row['jobs'])} to {max(row['jobs'])}"
        shown = " | ".join(many_jobs.shown(row[what]) for what in ("mean", "at most 1", "worst"))
        print(f"| {key} | {shown} | {jobs} |")
    print("\nSteps until the next job can be done, of each seed; None: not within the budget.\n")
    print("| job | sleep | parent | instances |\n|---|---|---|---|")
    for name, seeds in summary["next jobs"].items():
        lists = [[seed.get(who) for seed in seeds] for who in ("sleep", "parent")]
        others = [[steps for who, steps in seed.items() if who not in ("sleep", "parent")] for seed in seeds]
        print(f"| {name} | {lists[0]} | {lists[1]} | {others} |")
    print()
    for count in COUNTS:
        row = summary["shares"].get(f"sleep {count}", {})
        for what, target in (("mean", MEAN_TARGET), ("worst", WORST_TARGET)):
            name = f"{count} instances, share kept, {what}"
            print(many_jobs.verdict(name, row.get(what), f">= {target}", lambda x, least=target: x >= least))
    for other in ("parent", "quickest instance"):
        name = f"next job, steps to those of the {other}"
        print(many_jobs.verdict(name, summary["next"].get(other), "< 1", lambda x: x < 1.0))
    for other in ("best instance", "instance in the middle"):
        if other in summary["next"]:
            print(f"the same, to those of the {other}: {many_jobs.shown(summary['next'][other])}")
    print(f"next jobs that count, of each seed: {summary['next jobs that count']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    many_jobs.ask(parser, INSTANCES)
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="instances in a night")
    parser.add_argument("--no-rivals", dest="rivals", action="store_false", help="leave the other methods for later")
    parser.add_argument("--next", type=int, default=len(NEXT), help="next jobs that are tried")
    given = parser.parse_args()
    if max(given.counts) > len(given.jobs):
        parser.error(f"--counts {given.counts}: there are {len(given.jobs)} jobs")
    apart = ("sleep", "episodes", "lifetimes")
    return many_jobs.run(parser, given, "amalgamate", apart, measure, summed_up, print_table)


if __name__ == "__main__":
    sys.exit(main())
