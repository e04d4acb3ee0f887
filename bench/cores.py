"""The memory core against GRU, minGRU and attention: the same school at equal steps and at equal time.

    taskset -c 0 python bench/cores.py            # run what has no result yet: 4 cores x 5 seeds, one at a time
    python bench/cores.py --table                 # the results there are, as Markdown

One school of four families a run, "small" but for the memory core and four heads; the cores have about equally many
parameters, within 10 %, and states as large as they need. One JSON per (core, seed) is written under
bench/results/cores. A run that has a file is not run again: delete the file to repeat it. Seeds are the outer loop, so
that what else the machine does meets all cores alike; give every process one core of the machine. Time is that of the
processor, which on one core is the wall time of an idle machine: what else runs beside it costs others, not the rival
of the moment.

A score is that of the last attempts of the lifetimes that ended in about the last fifty rounds, 0 for chance and 1 for
the family's reference. Equal time is the time in which the quickest core does all its steps; compiling is not counted.
Target: at neither has a rival a higher mean over the families (median over seeds) than the default core.

What this is not: learning rate and annealing were chosen with the default core, which is also born with associations
(`DeltaCore`); the rivals are as published, with nothing chosen for them. At equal time a slower core is cut off in the
middle of the teacher's annealing, which was laid out for all steps.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import jax
import numpy as np
from measuring import RESULTS, median_interval, provenance, write_result
from rival_cores import enter_rivals

import fifteen
from fifteen.config import SIZES, MindConfig, SchoolConfig
from fifteen.cores import core_named

SMALL = dataclasses.replace(SIZES["small"], heads=4)
MINDS: dict[str, MindConfig] = {
    "delta": SMALL,
    "gru": dataclasses.replace(SMALL, core="gru", head_size=13),
    "mingru": dataclasses.replace(SMALL, core="mingru", head_size=28),
    "attention": dataclasses.replace(SMALL, core="attention", head_size=21),
}
FAMILIES = ("bandit/bernoulli", "mdp/tabular", "grid/dark-room", "recall/repeat-previous")
STEPS = 2_500_000
QUICK = {"steps": 60_000, "lifetimes": 32}
COMPILING = 3  # rounds; those that may take longer because something is compiled


@final
class Watch:
    """Callback of a school: where it stood after every round, and when."""

    def __init__(self):
        self.rounds: list[fifteen.SchoolProgress] = []
        self.times: list[float] = []  # seconds of the processor

    def __call__(self, progress: fifteen.SchoolProgress) -> None:
        self.rounds.append(progress)
        self.times.append(time.process_time())

    def curve(self) -> dict[str, Any]:
        """Steps, seconds and scores after every round; a score is None until a lifetime of its family has ended."""
        return {
            "steps": [progress.steps for progress in self.rounds],
            "seconds": [round(second, 3) for second in seconds_of(self.times)],
            "scores": {
                name: [round(p.scores[name][2], 4) if name in p.scores else None for p in self.rounds]
                for name in FAMILIES
            },
        }


def seconds_of(times: Sequence[float]) -> list[float]:
    """Seconds from the beginning to the end of every round, if the first rounds had taken as long as the median one.

    times: seconds of the processor at which each of more than COMPILING rounds ended.
    """
    took = np.diff(times)[COMPILING - 1 :].tolist()
    return list(itertools.accumulate([statistics.median(took)] * COMPILING + took))


def core_parameters(config: MindConfig) -> int:
    """Parameters of one memory layer, of its norm and projections too."""
    layer = core_named(config.core)(np.random.default_rng(0), config)
    return sum(leaf.size for leaf in jax.tree.leaves(layer))


def run(core: str, seed: int, steps: int, lifetimes: int) -> dict[str, Any]:
    """One school. SystemExit where it was interrupted."""
    config, watch = SchoolConfig(lifetimes=lifetimes), Watch()
    learner = fifteen.new(MINDS[core], seed=seed)
    load, wall, cpu = os.getloadavg()[0], time.monotonic(), time.process_time()
    ended = fifteen.school(learner, FAMILIES, steps, seed, config=config, callback=watch)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    if ended.steps < ended.steps_total:
        raise SystemExit(f"{core}, seed {seed}: interrupted, nothing recorded; start again to repeat it")
    return {
        "core": core,
        "seed": seed,
        "mind": dataclasses.asdict(learner.config),
        "school": dataclasses.asdict(config),
        "core_parameters": core_parameters(learner.config),
        "parameters": int(learner.state.weights.size),
        "state": learner.config.memory_size,
        "wall_s": round(wall, 1),  # with compiling
        "cpu_s": round(cpu, 1),
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
        "curve": watch.curve(),
    }


# ------------------------------------------------------------------------------------------------------ the table

Record = dict[str, Any]
Place = Callable[[Record], int]


def index_at(record: Record, seconds: float) -> int:
    """The last round that had ended by then, or the first one."""
    return max(0, int(np.searchsorted(record["curve"]["seconds"], seconds, side="right")) - 1)


def scores_at(record: Record, index: int) -> dict[str, float]:
    """Scores after a round, by family, and their mean. SystemExit where there is none yet."""
    scores = {name: curve[index] for name, curve in record["curve"]["scores"].items()}
    if missing := [name for name, score in scores.items() if score is None]:
        raise SystemExit(
            f"{record['core']}, seed {record['seed']}: no lifetime of {', '.join(missing)} had ended after "
            f"{record['curve']['steps'][index]:,} steps; run for more"
        )
    return scores | {"mean": statistics.fmean(scores.values())}


def summarise(records: dict[str, list[Record]], place: Place) -> dict[str, dict[str, dict[str, Any]]]:
    """By core and column (steps, the families, mean): median and interval over seeds, after the round `place` says."""
    summary = {}
    for core, runs in records.items():
        rows = [{"steps": run["curve"]["steps"][place(run)], **scores_at(run, place(run))} for run in runs]
        summary[core] = {column: median_interval([row[column] for row in rows]) for column in rows[0]}
    return summary


def quickest(records: dict[str, list[Record]]) -> tuple[str, float]:
    """The core that does all its steps in the shortest time (median over seeds), and that time in seconds."""
    ends = {core: statistics.median(run["curve"]["seconds"][-1] for run in runs) for core, runs in records.items()}
    core = min(ends, key=lambda name: ends[name])
    return core, ends[core]


def check_comparable(records: dict[str, list[Record]]) -> None:
    """SystemExit where runs differ in what they must share."""

    def shared(run: Record) -> dict[str, Any]:
        return {"device": run["device"], "steps": run["curve"]["steps"][-1], **run["school"]}

    first, *others = itertools.chain.from_iterable(records.values())
    for other in others:
        here, there = shared(other), shared(first)
        if differs := [name for name in {**here, **there} if here.get(name) != there.get(name)]:
            values = "; ".join(f"{name} {here.get(name)}, not {there.get(name)}" for name in differs)
            raise SystemExit(
                f"{other['core']}, seed {other['seed']} cannot be compared with {first['core']}, seed {first['seed']}: "
                f"{values}; delete the files of one kind and run them again"
            )


def print_table(records: dict[str, list[Record]]) -> None:
    check_comparable(records)
    runs = [run for core in records.values() for run in core]
    columns = ("core", "runs", "parameters of the core", "of the mind", "state", "steps/s", "CPU s per wall s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for core, own in records.items():
        speed = median_interval([run["curve"]["steps"][-1] / run["curve"]["seconds"][-1] for run in own])
        busy = median_interval([run["cpu_s"] / run["wall_s"] for run in own])
        one = own[0]
        print(
            f"| {core} | {len(own)} | {one['core_parameters']:,} | {one['parameters']:,} | {one['state']:,} "
            f"| {interval(speed, ',.0f')} | {interval(busy, '.2f')} |"
        )
    print(f"\n{runs[0]['device']}; {', '.join(sorted({str(run['commit']) for run in runs}))}. Median [interval].")
    core, seconds = quickest(records)
    show("Equal steps", summarise(records, lambda run: -1))
    show(
        f"Equal time: {seconds:.0f} s of one core, in which {core} does all its steps",
        summarise(records, lambda run: index_at(run, seconds)),
    )


def show(title: str, summary: dict[str, dict[str, dict[str, Any]]]) -> None:
    """One comparison as a Markdown table, and whether the target is reached."""
    columns = list(next(iter(summary.values())))
    print(f"\n{title}\n\n| core | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for core, row in summary.items():
        cells = [interval(row[column], ",.0f" if column == "steps" else ".3f") for column in columns]
        print(f"| {core} | {' | '.join(cells)} |")
    if "delta" in summary:
        means = {core: row["mean"]["median"] for core, row in summary.items()}
        above = [core for core in means if means[core] > means["delta"]]
        print(f"\nTarget {'missed: above delta ' + ', '.join(above) if above else 'reached: no rival above delta'}.")


def interval(spread: dict[str, Any], form: str) -> str:
    return f"{spread['median']:{form}} [{spread['low']:{form}}, {spread['high']:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=list(MINDS), default=list(MINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="print the results there are; run nothing")
    parser.add_argument("--quick", action="store_true", help="short runs that show nothing but that all works")
    arguments = parser.parse_args()
    enter_rivals()
    name = "cores_quick" if arguments.quick else "cores"
    size = QUICK if arguments.quick else {"steps": STEPS, "lifetimes": SchoolConfig().lifetimes}
    if arguments.table:
        records = {core: read(RESULTS / name, core, arguments.seeds) for core in arguments.cores}
        records = {core: runs for core, runs in records.items() if runs}
        if not records:
            parser.error(f"bench/results/{name} has no result of these cores and seeds: run without --table first")
        print_table(records)
        return
    fifteen.cache_compilations()
    for seed, core in itertools.product(arguments.seeds, arguments.cores):
        if file_of(RESULTS / name, core, seed).exists():
            continue
        record = run(core, seed, **size)
        this = argparse.Namespace(**{**vars(arguments), "cores": core, "seeds": seed})
        told = provenance(parser, this)
        told["command"] += " --quick" if arguments.quick else ""
        write_result(f"{name}/{core}-{seed}", told | record)
        curve = record["curve"]
        print(f"{core}, seed {seed}: {curve['steps'][-1]:,} steps in {curve['seconds'][-1]:.0f} s", flush=True)


def file_of(folder: Path, core: str, seed: int) -> Path:
    return folder / f"{core}-{seed}.json"


def read(folder: Path, core: str, seeds: Sequence[int]) -> list[Record]:
    """The results there are of one core."""
    files = [file_of(folder, core, seed) for seed in seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


if __name__ == "__main__":
    main()
