"""The command: fifteen school | work | live | sleep | evaluate | exam | jobs | info | demo."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import fifteen
from fifteen.checkpoint import read
from fifteen.commands import Demo, Evaluate, Exam, Info, Jobs, Live, School, Sleep, Work
from fifteen.config import SchoolConfig
from fifteen.days import resume_fleet, run_fleet, run_live
from fifteen.demo import run_demo
from fifteen.errors import FifteenError, RunError
from fifteen.examining.command import examine
from fifteen.fleet import PLAN as FLEET
from fifteen.fleet import slug
from fifteen.folders import refuse_others
from fifteen.jobs.registry import jobs, open_job
from fifteen.learner import SHIPPED, Learner
from fifteen.log import RECENT, Sink, TensorBoardSink, WorkLog, number
from fifteen.night_command import run_sleep
from fifteen.report import flat, write_index, write_report
from fifteen.terminal import TerminalSink, school_view

DEFAULT_STEPS = 20_000
PLAN = "plan.json"
"""In the folder of a run over several jobs: which jobs, with what arguments, how many are finished."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit status: 0, 2 after an error, 130 after Ctrl-C."""
    command: School | Work | Live | Sleep | Evaluate | Exam | Jobs | Info | Demo = tyro.cli(
        tyro.conf.OmitSubcommandPrefixes[School | Work | Live | Sleep | Evaluate | Exam | Jobs | Info | Demo],  # type: ignore
        prog="fifteen",
        description="One learner, put to work on any job.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    console = Console(markup=False)  # what jobs and folders are called is no markup
    fifteen.cache_compilations()
    # A job's module:factory may lie in the working folder, as with `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        match command:
            case School():
                return _school(command, console)
            case Work():
                return _resume(command, console) if command.resume else _work(command, console)
            case Live():
                folder = command.run or _default_folder("life")
                return run_live(command, _parent(command), DEFAULT_STEPS, folder, console)
            case Sleep():
                parent = None if command.parent is None else fifteen.load(_place(command.parent))
                return run_sleep(command, parent, command.out or _default_folder("slept"), console)
            case Evaluate():
                return _evaluate(command, console)
            case Exam():
                return examine(command, _default_folder("exam"), console)
            case Jobs():
                return _jobs(console)
            case Info():
                return _info(_place(command.path), console)
            case Demo():
                return run_demo(command.run or _default_folder("demo"), console)
    except (FifteenError, OSError) as error:
        print(f"fifteen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fifteen: interrupted", file=sys.stderr)
        return 130


def _school(command: School, console: Console) -> int:
    folder = command.run or _default_folder("school")
    learner = _parent(command)
    console.print("the first minute goes into compiling", style="dim")
    with school_view(console) as view:
        progress = fifteen.school(
            learner,
            command.families or None,
            steps=int(command.steps),
            seed=command.seed,
            run=folder,
            config=SchoolConfig(lifetimes=command.lifetimes),
            callback=view.write,
        )
    learner.save(folder / "learner")
    console.print(f"learner: {folder}\nreport:  {folder / 'report.html'}", soft_wrap=True, highlight=False)
    if progress.steps >= progress.steps_total:
        return 0
    console.print("interrupted, and saved. To go on: the same command with", f"--run {folder}", soft_wrap=True)
    return 130


def _work(command: Work, console: Console) -> int:
    kwargs = _parse_kwargs(command.kwargs)
    if command.fleet is not None or command.instances is not None:
        steps = DEFAULT_STEPS if command.steps is None else command.steps
        return run_fleet(command, _parent(command), steps, command.run or _default_folder("fleet"), console)
    if not command.jobs:
        raise RunError("no job given. Name one: fifteen work CartPole-v1, or --resume DIR")
    if command.steps is not None and command.episodes is not None:
        raise RunError("--steps and --episodes are two budgets for one run: give one of them")
    for name in ("transport", "address", "deadline"):
        if getattr(command, name) is not None:
            raise RunError(f"--{name} is one of a fleet: add --instances N or --fleet FILE, or drop it")
    _check_size(command)
    several = len(command.jobs) > 1
    folder = command.run or _default_folder("jobs" if several else slug(command.jobs[0]))
    if (folder / PLAN).exists() or (folder / FLEET).exists():
        raise RunError(f"{folder} holds a run already: --resume it, or give another --run")
    refuse_others(folder, "config.json")
    plan = {
        "jobs": list(command.jobs),
        "finished": 0,
        "steps": DEFAULT_STEPS if command.steps is None is command.episodes else command.steps,
        "episodes": command.episodes,
        "seed": command.seed,
        "learner": None if command.learner is None else str(_place(command.learner)),
        "size": command.size or "small",
        "learn": command.learn,
        "num_envs": command.num_envs,
        "kwargs": kwargs,
    }
    if several:
        for job in command.jobs:  # a slip in the last name should not show after hours
            open_job(job, kwargs=kwargs).close()
        folder.mkdir(parents=True, exist_ok=True)
        return _follow(plan, folder, command.tensorboard, console)
    log = _work_on(command.jobs[0], _first_learner(plan), plan, folder, command.tensorboard, console)
    return _say_end(log, folder, folder, console)


def _resume(command: Work, console: Console) -> int:
    """Go on with a run of one job or of several."""
    folder = command.resume
    assert folder is not None
    for field in dataclasses.fields(Work):
        free = field.name in ("resume", "tensorboard")
        if not free and getattr(command, field.name) != field.default:
            name = "JOB" if field.name == "jobs" else f"--{field.name.replace('_', '-')}"
            raise RunError(f"a resumed run keeps the settings in {folder}: drop {name}")
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}: --resume needs the folder of a run")
    if (folder / FLEET).is_file():
        return resume_fleet(folder, console)
    if (folder / PLAN).is_file():
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return _follow(plan, folder, command.tensorboard, console)
    log = _resume_one(folder, command.tensorboard, console)
    return _say_end(log, folder, folder, console)


def _follow(plan: dict[str, Any], folder: Path, tensorboard: bool, console: Console) -> int:
    """Work through what is left of a run of several jobs."""
    runs = [folder / f"{n}-{slug(job)}" for n, job in enumerate(plan["jobs"], start=1)]
    for n in range(plan["finished"], len(runs)):
        _write_plan(plan, folder)
        if (runs[n] / "config.json").is_file():
            log = _resume_one(runs[n], tensorboard, console)
        else:
            learner = fifteen.load(runs[n - 1]) if n else _first_learner(plan)
            log = _work_on(plan["jobs"][n], learner, plan, runs[n], tensorboard, console)
        if log.reason == "interrupted":
            return _say_end(log, runs[n], folder, console)
        _say_end(log, runs[n], folder, console)
        plan["finished"] = n + 1
    _write_plan(plan, folder)
    index = write_index(folder, "One learner, several jobs", (), dict.fromkeys(runs, ()))
    console.print(f"all reports: {index}", soft_wrap=True, highlight=False)
    return 0


def _check_size(command: School | Work | Live) -> None:
    if command.learner is not None and command.size is not None:
        raise RunError(f"the learner in {command.learner} has its size already: drop --size")


def _parent(command: School | Work | Live) -> Learner:
    """What a command begins with."""
    _check_size(command)
    if command.learner is not None:
        return fifteen.load(_place(command.learner))
    return fifteen.new(size=command.size or "small", seed=command.seed)


def _first_learner(plan: dict[str, Any]) -> Learner:
    if plan["learner"] is not None:
        return fifteen.load(plan["learner"])
    return fifteen.new(size=plan["size"], seed=plan["seed"])


def _work_on(
    job: str,
    learner: Learner,
    plan: dict[str, Any],
    folder: Path,
    tensorboard: bool,
    console: Console,
) -> WorkLog:
    console.print(f"{job}: the first seconds go into compiling", style="dim")
    sinks = _sinks(folder, tensorboard, console)
    try:
        return fifteen.work(
            learner,
            job,
            steps=plan["steps"],
            episodes=plan["episodes"],
            seed=plan["seed"],
            learn=plan["learn"],
            num_envs=plan["num_envs"],
            kwargs=plan["kwargs"],
            run=folder,
            sinks=sinks,
        )
    finally:
        _close(sinks)


def _resume_one(folder: Path, tensorboard: bool, console: Console) -> WorkLog:
    sinks = _sinks(folder, tensorboard, console)
    try:
        return fifteen.resume(folder, sinks=sinks)
    finally:
        _close(sinks)


def _say_end(log: WorkLog, run: Path, resumable: Path, console: Console) -> int:
    """Sum up a run that ended. `resumable` is what --resume takes: `run` or the folder above."""
    n = len(log.returns)
    if n > RECENT:
        first, last = log.returns[:RECENT].mean(), log.returns[-RECENT:].mean()
        means = f"mean return {number(first)} at first, {number(last)} at last"
        console.print(f"{n:,} attempts, {means} (of {RECENT})", highlight=False)
    elif n:
        console.print(f"{n} attempt{'s' if n > 1 else ''}, mean return {number(log.returns.mean())}", highlight=False)
    report = write_report(run)
    console.print(f"learner: {run}\nreport:  {report}", soft_wrap=True, highlight=False)
    if log.reason != "interrupted":
        return 0
    console.print(
        f"interrupted, and saved. To go on: fifteen work --resume {resumable}",
        soft_wrap=True,
        highlight=False,
    )
    return 130


def _evaluate(command: Evaluate, console: Console) -> int:
    result = fifteen.evaluate(
        fifteen.load(_place(command.learner)),
        command.job,
        episodes=command.episodes,
        lifetimes=command.lifetimes,
        seed=command.seed,
        num_envs=command.num_envs,
        kwargs=_parse_kwargs(command.kwargs),
    )
    lengths = float(np.mean(result.lengths))
    console.print(
        f"{command.job}: mean return {number(result.mean)}, standard deviation "
        f"{number(result.std)}, mean length {number(lengths)}, {len(result.returns)} attempts",
        highlight=False,
    )
    return 0


def _jobs(console: Console) -> int:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("Job", no_wrap=True)
    table.add_column("What it is")
    for job in jobs():
        table.add_row(job.id, job.description)
    console.print(table)
    console.print(
        f"\nAny of the {len(gymnasium.registry)} Gymnasium ids registered here is a job too, and so "
        "is your own module:factory.",
        style="dim",
    )
    return 0


def _info(path: Path, console: Console) -> int:
    inner = path / "learner"
    arrays, manifest = read(inner if inner.is_dir() else path)
    numbers = sum(array.size for array in arrays.values())
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("path", str(path))
    table.add_row("holds", f"{len(arrays)} arrays, {numbers:,} numbers, verified")
    if "run" in manifest:
        rows = sum(manifest["experience"]["count"])
        table.add_row("run", f"at step {manifest['run']['recorder']['step']:,}, with {rows:,} rows of experience")
    provenance = dict(manifest["provenance"])
    for n, was in enumerate(provenance.pop("schooled", ()), start=1):
        table.add_row(
            f"school {n}", f"{len(was['families'])} families, {was['steps_done']:,} steps, seed {was['seed']}"
        )
    for n, was in enumerate(provenance.pop("worked", ()), start=1):
        table.add_row(f"job {n}", f"{was['job']}, {was['steps']:,} steps, {was['learn']}, ended: {was['reason']}")
    told = {name: manifest[name] for name in ("mind", "work", "versions", "format", "sha256")}
    for name, value in flat(provenance) + flat(told):
        table.add_row(name, value)
    console.print(table)
    return 0


def _place(learner: Path) -> Path:
    """Where a learner lies that the command was given."""
    return SHIPPED if learner == Path("shipped") else learner


def _sinks(folder: Path, tensorboard: bool, console: Console) -> tuple[Sink, ...]:
    terminal = TerminalSink(console)
    return (terminal, TensorBoardSink(folder / "tensorboard")) if tensorboard else (terminal,)


def _close(sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        sink.close()


def _write_plan(plan: dict[str, Any], folder: Path) -> None:
    part = folder / f"{PLAN}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(plan, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / PLAN)


def _parse_kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunError(
            f"--kwargs {text!r} is not JSON ({error}): expected an object such as '{{\"size\": 5}}'"
        ) from error
    if not isinstance(kwargs, dict):
        raise RunError(f"--kwargs {text!r} is not a JSON object such as '{{\"size\": 5}}'")
    return kwargs


def _default_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
