"""Days: many instances work, one learner sleeps on what they learned, and its instances work again.

A day is a round of a fleet and a night. Jobs may change from day to day, and come back after a long absence: what was
lived stays in the one store of all days. Nothing tells the learner which day or job it is.

    life.json                  the plan: the days, and what the nights that are done came to
    learner/                   the learner after the last night
    store/                     what all instances of all days lived through
    day-001/                   the fleet of the first day, its night/, and night.html, the night's page
"""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fifteen.checkpoint import FolderLock, atomic_write, known
from fifteen.config import SleepConfig
from fifteen.errors import FifteenError, NightError, RunError, check_count
from fifteen.fleet import PLAN as FLEET
from fifteen.fleet import Assignment, Event, FleetConfig, Record, Round, deploy, go_on, read_plan
from fifteen.folders import refuse_others
from fifteen.interrupting import interruptible
from fifteen.jobs.protocol import checked_seed
from fifteen.judging import Attempts, cases, judge, note
from fifteen.learner import Learner, load
from fifteen.lessons import settings_of_nights
from fifteen.log import duration
from fifteen.night_report import PAGE, append_history, write_night_report
from fifteen.nights import night, no_room
from fifteen.report import write_index, write_report
from fifteen.sleeping import SleepProgress
from fifteen.store import Store

if TYPE_CHECKING:  # what only the command needs, and what takes time to import
    from rich.console import Console

    from fifteen.commands import Live, Work

PLAN = "life.json"


@dataclass(frozen=True)
class Day:
    """What a day and its night came to."""

    took_part: tuple[str, ...]  # names of instances whose learning went into the night
    left_out: tuple[tuple[str, str], ...]  # name and reason: by the round, or by the night
    restarted: tuple[str, ...]
    jobs: tuple[str, ...]  # lived by day
    older: tuple[str, ...]  # rehearsed beside them
    no_night: str  # why there was none: the learner stayed as it was; empty where there was one


@dataclass(frozen=True)
class Life:
    """What the days came to. `interrupted`: `live` with the same arguments goes on."""

    learner: Learner
    days: tuple[Day, ...]  # those whose night is done
    interrupted: bool


def live(
    parent: Learner,
    days: Sequence[Sequence[Assignment]],
    folder: str | Path,
    *,
    seed: int = 0,
    fleet: FleetConfig | None = None,
    sleep: SleepConfig | None = None,
    episodes: int = 0,
    callback: Callable[[int, Event | SleepProgress], Any] | None = None,
) -> Life:
    """Work by day, sleep by night, day after day. The parent stays as it is.

    days: of each, what its instances do. folder: where it holds such a life, that one goes on from where it was last
    saved, with the parent it had; days that have not begun may be others then. seed: of the nights. episodes: attempts
    of the day's parent, of the instance and of the night's learner at every job, which make a page of each night; the
    parent practises there before it, and in it the sleeper, who does so on older jobs, too (see `night`). 0: none, as
    befits jobs that are no simulators. callback(day,
    event): days count from 1. Ctrl-C and SIGTERM let the instances, or the night, save. A day that nobody finished has
    no night. Raises RunError where it cannot begin, CheckpointError where nothing can be written.
    """
    folder, seed = Path(folder), checked_seed(seed)
    check_count("episodes", episodes)
    listed = [[dataclasses.asdict(one) for one in day] for day in days]
    if not all(listed) or not listed:
        raise RunError(f"a life needs days with at least one assignment each, got {[len(day) for day in listed]}")
    settings = {"seed": seed, "sleep": dataclasses.asdict(sleep or SleepConfig()), "episodes": episodes}
    refuse_others(folder, PLAN)
    with FolderLock(folder):
        if (folder / PLAN).is_file():
            plan = read_plan(folder, PLAN)
            begun = len(plan["nights"])
            begun += (folder / f"day-{begun + 1:03}" / FLEET).is_file()
            if plan["days"][:begun] != json.loads(json.dumps(listed))[:begun]:
                raise RunError(
                    f"{folder} holds a life whose first {begun} days were others: leave them, or give another"
                )
            of_nights = known(SleepConfig, plan["settings"]["sleep"], folder)
            theirs = {"episodes": 0, **plan["settings"], "sleep": settings_of_nights(of_nights, settings["sleep"])}
            if theirs != settings:
                raise RunError(f"{folder} holds a life with {theirs}, not {settings}: give another folder")
            plan["days"] = listed
        else:
            parent.save(folder / "learner")
            plan = {"format": 1, "settings": settings, "days": listed, "nights": []}
        _write_plan(plan, folder)
        while len(plan["nights"]) < len(days):
            number = len(plan["nights"]) + 1
            told = None if callback is None else (lambda event, day=number, call=callback: call(day, event))
            done, interrupted = _day(days[number - 1], folder, number, seed, fleet, sleep, episodes, told)
            if done is not None:
                plan["nights"].append(dataclasses.asdict(done))
                _write_plan(plan, folder)
            if interrupted:
                return _life(folder, plan, interrupted=True)
        return _life(folder, plan, interrupted=False)


def _day(
    assignments: Sequence[Assignment],
    folder: Path,
    number: int,
    seed: int,
    fleet: FleetConfig | None,
    sleep: SleepConfig | None,
    episodes: int,
    callback: Callable[[Event | SleepProgress], Any] | None,
) -> tuple[Day | None, bool]:
    """A day and its night, None where they are not done, and whether it was interrupted. The learner is saved."""
    place = folder / f"day-{number:03}"
    # After a kill between the night and its note in the plan, `learner` is tomorrow's.
    parent = load(place / "parent" if (place / FLEET).is_file() else folder / "learner")
    worked = deploy(parent, assignments, place, config=fleet, callback=callback)
    if worked.interrupted:
        return None, True
    left_out = [(one.instance, f"{one.ended}: {one.reason}") for one in worked.left_out]
    restarted = tuple(one.instance for one in worked.records if one.restarts)
    with interruptible() as interrupted, Store(folder / "store") as store:
        for one in worked.left_out:  # what they lived until they ended is kept all the same
            _keep(place / one.instance, store)
        if not worked.took_part:
            why = "no instance finished"
            return Day((), tuple(left_out), restarted, (), (), why), interrupted.is_set()

        def tell(progress: SleepProgress) -> None:  # what the callback answers stops nothing
            append_history(place, progress)
            if callback is not None:
                callback(progress)

        parent, attempts = load(place / "parent"), Attempts(place, episodes, seed)
        try:
            slept = night(
                worked.took_part,
                store,
                parent=parent,
                seed=seed,
                config=sleep,
                run=place / "night",
                stopped=interrupted,
                attempts=episodes,
                callback=tell,
            )
        except KeyboardInterrupt:  # in a practice
            return None, True
        except NightError as error:  # nobody whose learning can be used: the parent stays
            return Day((), tuple(left_out), restarted, (), (), str(error)), interrupted.is_set()
        if slept.interrupted:
            return None, True
        note(place, slept, attempts)
        slept.learner.save(folder / "learner")
        if episodes:
            try:
                judge(place, slept, cases(slept, store), attempts, parent=parent, stopped=interrupted)
            except KeyboardInterrupt:
                return None, True
            write_night_report(place)
    left_out += [(Path(run).name, f"by the night: {why}") for run, why in slept.left_out]
    names = tuple(Path(run).name for run in slept.took_part)
    return Day(names, tuple(left_out), restarted, slept.jobs, slept.older, ""), interrupted.is_set()


def _keep(run: Path, store: Store) -> None:
    """Take in what a run lived through as far as that can be done; raises where the store's disk is full."""
    try:
        store.add_run(run)
    except FifteenError as error:
        if no_room(error):
            raise


def _life(folder: Path, plan: Mapping[str, Any], interrupted: bool) -> Life:
    days = []
    for one in plan["nights"]:
        lists = {name: tuple(one[name]) for name in ("took_part", "restarted", "jobs", "older")}
        days.append(Day(**lists, left_out=tuple(map(tuple, one["left_out"])), no_night=one["no_night"]))
    return Life(load(folder / "learner"), tuple(days), interrupted)


def _write_plan(plan: Mapping[str, Any], folder: Path) -> None:
    atomic_write(folder / PLAN, json.dumps(plan, indent=1).encode())


# ------------------------------------------------------------------------------------ the commands, and their files


def read_fleet(path: Path, defaults: Mapping[str, Any]) -> tuple[list[Assignment], FleetConfig]:
    """Assignments and settings of a TOML file: tables [[instance]] and [fleet].

    defaults: arguments of `Assignment` for what an instance does not say; the seed of instance n is the default's + n,
    n from 0. Raises RunError that names what is wrong.
    """
    told = _read_toml(path, ("instance", "fleet"))
    return _assignments(path, told.get("instance"), defaults), _settings(path, "fleet", told, FleetConfig)


def read_days(path: Path, defaults: Mapping[str, Any]) -> tuple[list[list[Assignment]], FleetConfig, SleepConfig]:
    """Days and settings of a TOML file: tables [[day]] with [[day.instance]], [fleet] and [sleep]. As `read_fleet`.

    Seeds go on counting from day to day.
    """
    told = _read_toml(path, ("day", "fleet", "sleep"))
    days: list[list[Assignment]] = []
    for day in told.get("day", ()):
        _check_names(path, "[[day]]", day, ("instance",))
        count = sum(map(len, days))
        days.append(_assignments(path, day.get("instance"), {**defaults, "seed": defaults["seed"] + count}))
    return days, _settings(path, "fleet", told, FleetConfig), _settings(path, "sleep", told, SleepConfig)


def _assignments(path: Path, instances: Any, defaults: Mapping[str, Any]) -> list[Assignment]:
    if not isinstance(instances, list) or not instances:
        raise RunError(f"{path} has no instance where one is expected: add [[instance]] with a job")
    names = [one.name for one in dataclasses.fields(Assignment)]
    found = []
    for n, one in enumerate(instances):
        _check_names(path, "an instance", one, names)
        if "job" not in one:
            raise RunError(f"{path}: instance {n + 1} has no job")
        found.append(Assignment(**{**defaults, "seed": defaults["seed"] + n, **one}))
    return found


def _settings(path: Path, table: str, told: Mapping[str, Any], kind: Any) -> Any:
    _check_names(path, f"[{table}]", told.get(table, {}), [one.name for one in dataclasses.fields(kind)])
    return kind(**told.get(table, {}))


def _read_toml(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; a file of TOML is expected") from error
    _check_names(path, "it", told, names)
    return told


def _check_names(path: Path, where: str, told: Any, names: Sequence[str]) -> None:
    if not isinstance(told, dict) or not told.keys() <= set(names):
        wrong = ", ".join(sorted(told.keys() - set(names))) if isinstance(told, dict) else repr(told)
        raise RunError(f"{path}: {where} holds {wrong}, expected {', '.join(names)}")


def run_fleet(command: "Work", parent: Learner, steps: int, folder: Path, console: "Console") -> int:
    """`fifteen work --fleet` and `--instances`. parent: what all begin as. steps: where nothing else is said."""
    defaults = {
        "steps": steps,
        "seed": command.seed,
        "learn": command.learn,
        "num_envs": command.num_envs,
        "kwargs": json.loads(command.kwargs),
    }
    if command.episodes is not None or command.tensorboard:
        raise RunError("a fleet knows neither --episodes nor --tensorboard: give --steps")
    if command.fleet is not None:
        if command.jobs or command.instances is not None:
            raise RunError(f"the instances are those in {command.fleet}: drop the jobs and --instances")
        assignments, config = read_fleet(command.fleet, defaults)
    else:
        number = command.instances or 0
        if number < max(1, len(command.jobs)):
            raise RunError(f"--instances {number} is too few for {len(command.jobs)} jobs: one each, or more")
        if not command.jobs:
            raise RunError("no job given. Name one: fifteen work CartPole-v1 --instances 2")
        jobs = [command.jobs[n % len(command.jobs)] for n in range(number)]
        assignments = [Assignment(job, **{**defaults, "seed": command.seed + n}) for n, job in enumerate(jobs)]
        config = FleetConfig()
    if command.transport is not None:
        address = config.address if command.transport == "ray" else None
        config = dataclasses.replace(config, transport=command.transport, address=address)
    if command.address is not None and command.transport not in (None, "ray"):
        raise RunError(f"--address is one of a Ray cluster, --transport {command.transport} has none: drop one of them")
    if command.address is not None:
        config = dataclasses.replace(config, transport="ray", address=command.address)
    if command.deadline is not None:
        config = dataclasses.replace(config, deadline_s=command.deadline)
    console.print(f"{len(assignments)} instances: the first seconds go into compiling", style="dim")
    return _say_round(deploy(parent, assignments, folder, config=config, callback=_teller(console)), console)


def resume_fleet(folder: Path, console: "Console") -> int:
    """`fifteen work --resume` of a fleet's folder."""
    return _say_round(go_on(folder, callback=_teller(console)), console)


def run_live(command: "Live", parent: Learner, steps: int, folder: Path, console: "Console") -> int:
    """`fifteen live`."""
    days, fleet, sleep = read_days(command.file, {"steps": steps, "seed": command.seed})
    tell = _teller(console)

    def told(day: int, event: Event | SleepProgress) -> None:
        if isinstance(event, Event):
            tell(event, f"day {day}: ")
        elif event.trying is not None:
            console.print(f"night {day}: before it the parent tries {event.trying}", highlight=False)
        elif event.practising:
            console.print(f"night {day}: {event.step:,} of {event.steps:,}; practising", highlight=False)
        elif event.step == event.steps or event.step % max(1, event.steps // 10) == 0:
            left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
            losses = ", ".join(f"{job} {loss:.3g}" for job, loss in event.losses.items())
            line = f"night {day}: {event.step:,} of {event.steps:,}{left}; distance to the teachers: {losses}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    settings: dict[str, Any] = {"seed": command.seed, "fleet": fleet, "sleep": sleep, "episodes": command.episodes}
    life = live(parent, days, folder, **settings, callback=told)
    for number, day in enumerate(life.days, start=1):
        console.print(f"day {number}: {', '.join(day.took_part) or 'nobody'} took part", highlight=False)
        for name, why in day.left_out:
            console.print(f"day {number}: left out: {name}: {why}", style="yellow", highlight=False, soft_wrap=True)
        if day.no_night:
            console.print(f"day {number}: no night: {day.no_night}", style="yellow", highlight=False, soft_wrap=True)
        elif day.older:
            console.print(f"night {number}: rehearsed from earlier days: {', '.join(day.older)}", highlight=False)
        if (page := folder / f"day-{number:03}" / PAGE).is_file():
            console.print(f"night {number}: {page}", soft_wrap=True, highlight=False)
    console.print(f"learner: {folder}", soft_wrap=True, highlight=False)
    if life.interrupted:
        console.print(f"interrupted, and saved. To go on: the same command with --run {folder}", soft_wrap=True)
    return 130 if life.interrupted else 0


def _teller(console: "Console") -> Callable[..., None]:
    def tell(event: Event, before: str = "") -> None:
        why = f": {event.why}" if event.why else ""
        console.print(f"{before}{event.instance} {event.what}{why}", highlight=False, soft_wrap=True)

    return tell


def _say_round(worked: Round, console: "Console") -> int:
    """Reports of the runs, and who took part. 1 where nobody did."""
    for run in worked.took_part:
        write_report(run)
    left_out: Sequence[Record] = worked.left_out
    console.print(
        f"{len(worked.took_part)} took part, {len(left_out)} left out, {worked.seconds:,.0f} s", highlight=False
    )
    for one in left_out:
        why = f"left out: {one.instance}: {one.ended}: {one.reason}"
        console.print(why, style="yellow", highlight=False, soft_wrap=True)
    if worked.interrupted:
        console.print(f"interrupted, and saved. To go on: fifteen work --resume {worked.folder}", soft_wrap=True)
        return 130
    if not worked.took_part:
        return 1
    index = write_index(worked.folder, "Instances at work", (), dict.fromkeys(worked.took_part, ()))
    runs = " ".join(map(str, worked.took_part))
    console.print(f"all reports: {index}\none learner of them: fifteen sleep {runs}", soft_wrap=True, highlight=False)
    return 0
