"""What `fifteen sleep` does."""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fifteen.checkpoint import MANIFEST, FolderLock
from fifteen.commands import Sleep
from fifteen.config import SleepConfig
from fifteen.errors import NightError, RunError, check_count
from fifteen.fleet import PLAN as FLEET
from fifteen.fleet import ended
from fifteen.folders import refuse_others
from fifteen.judging import RESULTS, WHO, Attempts, cases, judge, note
from fifteen.learner import Learner
from fifteen.lessons import holds_night
from fifteen.log import duration, number
from fifteen.night_report import append_history, name, shown, worse, write_night_report
from fifteen.nights import Night, night
from fifteen.sleeping import SleepProgress, fingerprint
from fifteen.store import Store
from fifteen.terminal import PeriodicView

NIGHT = "night"


def sleep_view(console: Console, *, clock: Callable[[], float] = time.monotonic) -> PeriodicView[SleepProgress]:
    def urgent(told: SleepProgress) -> bool:
        return told.step >= told.steps or told.practising or told.trying is not None

    return PeriodicView(console, sleep_table, sleep_line, urgent, clock=clock)


def sleep_line(progress: SleepProgress) -> str:
    if progress.trying is not None:
        return _updates(progress)
    losses = ", ".join(f"{job} {number(loss)}" for job, loss in progress.losses.items())
    return f"{_updates(progress)}; distance to the teachers: {losses or 'not known yet'}"


def sleep_table(progress: SleepProgress) -> RenderableType:
    """Distance of each job to its teacher, in nats."""
    table = Table(title=_updates(progress), title_justify="left", border_style="dim")
    table.add_column("job")
    table.add_column("distance to its teacher", justify="right")
    for job, loss in progress.losses.items():
        table.add_row(job, number(loss))
    return table


def _updates(progress: SleepProgress) -> str:
    if progress.trying is not None:
        return f"before the night the parent tries {progress.trying}"
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    now = ", practising" if progress.practising else ""
    return f"{progress.step:,} of {progress.steps:,} updates{left}{now}"


def run_sleep(command: Sleep, parent: Learner | None, folder: Path, console: Console) -> int:
    """folder: where the learner is saved."""
    if not command.runs:
        raise RunError("no run given. Name the folders of a day's runs: fifteen sleep runs/a runs/b")
    check_count("--episodes", command.episodes)
    runs, absent = _runs(command.runs)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(folder))
        _check(folder, command.weights_only)
        store = None
        if not command.weights_only:
            console.print("reading what was lived; the first minute goes into compiling", style="dim")
            store = stack.enter_context(Store(command.store))
        attempts = Attempts(folder, command.episodes, command.seed)
        with sleep_view(console) as view:

            def tell(progress: SleepProgress) -> None:
                append_history(folder, progress)
                view.write(progress)

            try:
                slept = night(
                    runs,
                    store,
                    parent=parent,
                    seed=command.seed,
                    config=SleepConfig(steps=command.steps),
                    run=None if store is None else folder / NIGHT,
                    attempts=command.episodes,
                    callback=tell,
                )
            except KeyboardInterrupt:
                console.print(
                    "interrupted before the night began: the same command tries the jobs again", soft_wrap=True
                )
                return 130
        slept = dataclasses.replace(slept, left_out=(*absent, *slept.left_out))
        for run, reason in slept.left_out:
            console.print(f"left out: {run}: {reason}", style="yellow", highlight=False, soft_wrap=True)
        if slept.interrupted:
            return _say_interrupted(folder, console)
        _check_same(folder, slept)
        note(folder, slept, attempts)  # before the learner: it says that this night left that
        slept.learner.save(folder)
        try:
            _judge(attempts, slept, store, parent, folder, console)
        except KeyboardInterrupt:
            write_night_report(folder)
            return _say_interrupted(folder, console)
        page = write_night_report(folder)
        _say(slept, json.loads((folder / RESULTS).read_text(encoding="utf-8")), console)
    console.print(f"learner: {folder}\nreport:  {page}", soft_wrap=True, highlight=False)
    return 0


def _runs(given: Sequence[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Runs, in place of a fleet's folder those that finished in it; and who did not, with the reason."""
    runs, absent = [], []
    for place in given:
        if not (place / FLEET).is_file():
            runs.append(place)
            continue
        told = ended(place)
        runs += told.took_part
        absent += [(str(place / one.instance), f"{one.ended}: {one.reason}") for one in told.left_out]
    if not runs:
        raise NightError(f"no instance finished its day: {'; '.join(f'{place}: {why}' for place, why in absent)}")
    return runs, absent


def _check(folder: Path, weights_only: bool) -> None:
    """Nothing that lies in the folder is written over but a night's own learner."""
    refuse_others(folder, MANIFEST, RESULTS)
    if (folder / MANIFEST).exists() and not ((folder / RESULTS).exists() or holds_night(folder / NIGHT)):
        raise RunError(f"{folder} holds a learner that no night left there: give another --out")
    if weights_only and holds_night(folder / NIGHT):
        raise RunError(f"{folder} holds a night with experience: give another --out for one of weights only")


def _check_same(folder: Path, slept: Night) -> None:
    """A merge of weights has no folder of its own that would tell."""
    if not (folder / RESULTS).exists():
        return
    told = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if told["asked"]["sleeper"] != fingerprint(slept.learner.state.weights):
        raise RunError(f"{folder} holds another night, of {', '.join(told['took_part'])}: give another --out")


def _judge(
    attempts: Attempts, slept: Night, store: Store | None, parent: Learner | None, folder: Path, console: Console
) -> None:
    columns = TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        judge(
            folder,
            slept,
            cases(slept, store),
            attempts,
            parent=parent,
            callback=lambda done, every: progress.update(bar, completed=done, total=every),
        )


def _say(slept: Night, told: dict, console: Console) -> None:
    if slept.older:
        console.print(f"rehearsed from earlier days: {', '.join(slept.older)}", highlight=False, soft_wrap=True)
    if slept.rested:
        why = "not rehearsed in this night, which takes up some of what the store has"
        console.print(f"{why}: {', '.join(slept.rested)}", highlight=False, soft_wrap=True)
    if slept.untaught:
        why = "taught by no instance, for its last attempts by day were not likely better than the parent's"
        console.print(f"{why}: {', '.join(slept.untaught)}", highlight=False, soft_wrap=True)
    if told["night"].get("school"):
        console.print("rehearsed beside the jobs: school", highlight=False)
    jobs = told["jobs"]
    if not told["asked"]["episodes"]:
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("Job", "before", "after the day", "after the night", "share kept"):
        table.add_column(head)
    for job in jobs:
        if not job["missing"]:
            table.add_row(name(job, jobs), *(shown(job.get(who)) for who in WHO), shown(job["kept"], 2))
    console.print(table)
    if lost := worse(told):
        why = f"worse after the night than before: {', '.join(lost)}"
        console.print(why, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for job in jobs:
        if job["missing"]:
            why = f"not attempted: {name(job, jobs)}: {job['missing']}"
            console.print(why, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _say_interrupted(folder: Path, console: Console) -> int:
    console.print("interrupted, and saved. To go on: the same command with", f"--out {folder}", soft_wrap=True)
    return 130
