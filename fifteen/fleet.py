"""A fleet: several instances of one parent at work on several jobs, each in a process of its own or all in one.

Every instance is a run of `fifteen.work` in a folder of its own; the fleet watches over them. An instance tells how it
stands through files: `beat` holds its step and changes while it works, `ended.json` says how it ended. So all
transports are watched in the same way, and one only has to begin a process, stop it and say that it is gone. An
instance whose process dies or hangs begins again where it was last saved (`fifteen.resume`). The instances of the
transport "vectorised" work in this process, and there is nothing to watch.

    fleet.json                 the plan: assignments, settings, and how every instance ended
    parent/                    what all instances begin as
    1-CartPole-v1/             the run of the first instance
    watch/1-CartPole-v1/       begun, beat, ended.json and log.txt
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import jax.numpy as jnp
import numpy as np

from fifteen.assignments import Assignment, FleetConfig
from fifteen.checkpoint import FolderLock, atomic_write, known
from fifteen.errors import CheckpointError, RunError
from fifteen.fleet_member import Task
from fifteen.fleet_transports import BEGUN, Processes, Ray, Transport, cores
from fifteen.fleet_vectorised import work_together
from fifteen.folders import refuse_others
from fifteen.interrupting import interruptible
from fifteen.learner import Learner, load

PLAN = "fleet.json"
POLL_S = 0.1
GRACE_S = 5.0  # for an instance that is told to stop, to save what it learned
NOTED_S = 5.0  # between two notes of how long the round has lasted


class Event(NamedTuple):
    """What happened in a round: given to the callback."""

    instance: str
    what: Literal["begun", "restarted", "finished", "late", "hung", "failed"]
    why: str


@dataclass(frozen=True)
class Record:
    """How one instance ended."""

    instance: str  # the name of its folder within the fleet's
    job: str
    ended: Literal["finished", "late", "hung", "failed"]
    steps: int  # that it last told of, all streams together
    restarts: int
    reason: str  # empty where it finished


@dataclass(frozen=True)
class Round:
    """What a round came to. `interrupted`: it was stopped; `deploy` with the same arguments goes on."""

    folder: Path
    records: tuple[Record, ...]  # of those that have ended, in the order of the assignments
    seconds: float  # for which the fleet was at work, all sittings together
    interrupted: bool

    @property
    def took_part(self) -> tuple[Path, ...]:
        """Folders of the runs that finished."""
        return tuple(self.folder / one.instance for one in self.records if one.ended == "finished")

    @property
    def left_out(self) -> tuple[Record, ...]:
        return tuple(one for one in self.records if one.ended != "finished")


def deploy(
    parent: Learner,
    assignments: Sequence[Assignment],
    folder: str | Path,
    *,
    config: FleetConfig | None = None,
    callback: Callable[[Event], Any] | None = None,
) -> Round:
    """Put one instance of `parent` to work on each assignment, and wait for the round to end. The parent stays.

    Instances begin with the parent's weights, which are also what they are kept close to: its next sleep is theirs.
    folder: of the fleet; on a cluster every machine must see it. Where it holds a round of the same parent and
    assignments, that one goes on; a round that has ended is told again. Ctrl-C and SIGTERM let the instances save.
    What fails is told in the Round, by name. Raises RunError where the round cannot begin, CheckpointError where its
    plan cannot be written.
    """
    folder, config = Path(folder), config or FleetConfig()
    listed = [{**dataclasses.asdict(one), "kwargs": dict(one.kwargs)} for one in assignments]
    if not listed:
        raise RunError("a fleet needs at least one assignment: give a job and steps")
    for n, one in enumerate(listed):
        if one in listed[:n]:
            raise RunError(f"two instances would do exactly the same, {one}: give one of them another seed")
    refuse_others(folder, PLAN, "night.json")  # a day's folder holds its night's, too
    with FolderLock(folder):
        if (folder / PLAN).is_file():
            plan = read_plan(folder)
            if plan["assignments"] != json.loads(json.dumps(listed)):
                raise RunError(f"{folder} holds a fleet with other assignments: give another folder, or those")
            if not np.array_equal(np.asarray(load(folder / "parent").state.weights), np.asarray(parent.state.weights)):
                raise RunError(f"{folder} holds a fleet of another parent: give another folder, or that parent")
            before = plan["config"]["transport"]
            if before != config.transport and "vectorised" in (before, config.transport):
                raise RunError(
                    f"{folder} holds a fleet with the transport {before!r}, whose runs the transport "
                    f"{config.transport!r} cannot go on with: keep it, or give another folder"
                )
            plan["config"] = dataclasses.asdict(config)
        else:
            state = parent.state._replace(anchor=jnp.copy(parent.state.weights))
            born = Learner(
                parent.config, state, parent.statistics, work=parent.work_config, provenance=parent.provenance
            )
            born.save(folder / "parent")
            names = [f"{n}-{slug(one['job'])}" for n, one in enumerate(listed, start=1)]
            fresh = {"ended": None, "steps": 0, "restarts": 0, "reason": ""}
            plan = {
                "format": 1,
                "assignments": listed,
                "config": dataclasses.asdict(config),
                "instances": [{"name": name, **fresh} for name in names],
                "seconds": 0.0,
            }
        interrupted = False
        if _open(plan):
            notes = _Notes(folder, plan, callback)
            here = config.transport == "vectorised"
            interrupted = _together(folder, notes, config) if here else _Supervisor(folder, notes, config).run()
        return _round(folder, plan, interrupted)


def go_on(folder: str | Path, callback: Callable[[Event], Any] | None = None) -> Round:
    """Go on with the round in a folder, with the settings that it had. Raises as `deploy` does."""
    plan = read_plan(Path(folder))
    assignments = [Assignment(**known(Assignment, one, Path(folder))) for one in plan["assignments"]]
    config = FleetConfig(**known(FleetConfig, plan["config"], Path(folder)))
    return deploy(load(Path(folder) / "parent"), assignments, folder, config=config, callback=callback)


def ended(folder: Path) -> Round:
    """The round that a folder holds. RunError where it holds none, or one of which some have not ended."""
    plan = read_plan(folder)
    if open_ones := _open(plan):
        names = ", ".join(plan["instances"][n]["name"] for n in open_ones)
        raise RunError(
            f"the round in {folder} has not ended, {names} are still to work: go on with it (fifteen work --resume "
            f"{folder}), or name the runs that you mean"
        )
    return _round(folder, plan, interrupted=False)


def read_plan(folder: Path, name: str = PLAN) -> dict[str, Any]:
    """The plan that the folder of a fleet, or with another name that of a life, holds. RunError where it holds none."""
    try:
        plan = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} holds no {name} that can be read ({error}): give another folder") from error
    if plan.get("format") != 1:
        raise RunError(f"{folder / name} has format {plan.get('format')!r}, this version of Fifteen reads format 1")
    return plan


def slug(job: str) -> str:
    """A job's id as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", job).strip("-")


def _open(plan: Mapping[str, Any]) -> list[int]:
    return [n for n, one in enumerate(plan["instances"]) if one["ended"] is None]


def _round(folder: Path, plan: Mapping[str, Any], interrupted: bool) -> Round:
    records = tuple(
        Record(one["name"], at["job"], one["ended"], one["steps"], one["restarts"], one["reason"])
        for one, at in zip(plan["instances"], plan["assignments"], strict=True)
        if one["ended"] is not None
    )
    return Round(folder, records, plan["seconds"], interrupted)


# --------------------------------------------------------------------------------------------------- watching over it


@dataclass
class _Running:
    """An instance at work, as it is seen from here."""

    number: int  # of the assignment
    slot: int
    handle: Any  # of the transport
    beat: bytes
    seen: float  # when the beat changed, by this process's clock: no two machines' clocks are compared


@final
class _Notes:
    """How the instances stand, in the plan and to the caller."""

    def __init__(self, folder: Path, plan: dict[str, Any], callback: Callable[[Event], Any] | None):
        self.folder, self.plan, self._callback = folder, plan, callback
        self._before, self._began, self._noted = plan["seconds"], time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def write(self) -> None:
        """Raises CheckpointError where the disk does not take it."""
        self._noted = time.monotonic()
        self.plan["seconds"] = round(self.seconds, 3)
        atomic_write(self.folder / PLAN, json.dumps(self.plan, indent=1).encode())

    def _write_meanwhile(self) -> None:
        """A disk that is full now ends nobody's work: it may have room when the next note is due, or at the end."""
        with suppress(CheckpointError):
            self.write()

    def write_now_and_then(self) -> None:
        if time.monotonic() - self._noted > NOTED_S:
            self._write_meanwhile()

    def begun(self, number: int) -> None:
        instance = self.plan["instances"][number]
        what, why = ("restarted", instance["reason"]) if instance["restarts"] else ("begun", "")
        self._tell(number, what, why)
        self._write_meanwhile()

    def stands(self, number: int, steps: int) -> None:
        self.plan["instances"][number]["steps"] = steps

    def ended(self, number: int, how: Literal["finished", "late", "hung", "failed"], why: str) -> None:
        self.plan["instances"][number] |= {"ended": how, "reason": why}
        self._write_meanwhile()
        self._tell(number, how, why)

    def late(self, deadline: float) -> None:
        for number in _open(self.plan):
            self.ended(number, "late", f"not done after the {deadline:g} s of the round")

    def _tell(self, number: int, what: Any, why: str) -> None:
        if self._callback is not None:
            self._callback(Event(self.plan["instances"][number]["name"], what, why))


def _together(folder: Path, notes: _Notes, config: FleetConfig) -> bool:
    """The round in this process, until all have ended; or True where it was interrupted."""
    deadline = config.deadline_s or float("inf")
    tasks = []
    for n, (assignment, instance) in enumerate(zip(notes.plan["assignments"], notes.plan["instances"], strict=True)):
        run, has_ended = folder / instance["name"], instance["ended"] is not None
        if not has_ended or (run / "config.json").is_file():
            tasks.append(Task(n, assignment, run, has_ended))
    with interruptible() as interrupted:

        def stop() -> bool:
            notes.write_now_and_then()
            return notes.seconds > deadline or interrupted.is_set()

        work_together(tasks, folder / "parent", notes, stop, config.workers or len(cores()))
        if not interrupted.is_set():
            notes.late(deadline)
        notes.write()
        return interrupted.is_set() and bool(_open(notes.plan))


@final
class _Supervisor:
    def __init__(self, folder: Path, notes: _Notes, config: FleetConfig):
        self._folder, self._notes, self._plan, self._config = folder, notes, notes.plan, config
        self._transport: Transport = (
            Ray(config.workers, config.address) if config.transport == "ray" else Processes(config.workers)
        )
        self._running: list[_Running] = []

    def run(self) -> bool:
        """Until all have ended; or True where it was interrupted."""
        deadline = self._config.deadline_s or float("inf")
        waiting = _open(self._plan)
        try:
            with interruptible() as interrupted:
                while waiting or self._running:
                    if self._notes.seconds > deadline or interrupted.is_set():
                        self._halt()
                        if interrupted.is_set():
                            return True
                        self._notes.late(deadline)
                        return False
                    free = set(range(self._transport.slots)) - {one.slot for one in self._running}
                    while free and waiting:
                        number = waiting.pop(0)
                        try:
                            self._begin(number, free.pop())
                        except OSError as error:  # a full disk, too many processes
                            self._notes.ended(number, "failed", f"{type(error).__name__}: {error}")
                        else:
                            self._notes.begun(number)
                    for one in tuple(self._running):
                        self._look_at(one, waiting)
                    self._notes.write_now_and_then()
                    time.sleep(POLL_S)
                return interrupted.is_set()
        finally:
            for one in self._running:
                self._transport.kill(one.handle)
            try:
                self._notes.write()
            finally:
                self._transport.close()

    def _begin(self, number: int, slot: int) -> None:
        instance = self._plan["instances"][number]
        watch = self._folder / "watch" / instance["name"]
        watch.mkdir(parents=True, exist_ok=True)
        for name in ("ended.json", "beat", BEGUN):
            (watch / name).unlink(missing_ok=True)
        told = {
            "assignment": self._plan["assignments"][number],
            "parent": str((self._folder / "parent").resolve()),
            "run": str((self._folder / instance["name"]).resolve()),
            "watch": str(watch.resolve()),
        }
        handle = self._transport.begin(told, slot)
        self._running.append(_Running(number, slot, handle, b"", time.monotonic()))

    def _look_at(self, one: _Running, waiting: list[int]) -> None:
        how = self._transport.gone(one.handle)
        if self._transport.queues and not (one.beat or self._watch(one.number, BEGUN).is_file()):
            one.seen = time.monotonic()
        late = not self._heard_from(one) and time.monotonic() - one.seen > self._config.patience_s
        if how is None and not late:
            return
        if how is None:
            self._transport.kill(one.handle)
        self._running.remove(one)
        if self._has_ended(one):  # its process may have lingered
            return
        ended = "failed" if how is not None else "hung"
        why = f"its process died: {how}" if how is not None else f"no beat for {self._config.patience_s:g} s"
        instance = self._plan["instances"][one.number]
        if instance["restarts"] < self._config.restarts:
            instance["restarts"] += 1
            instance["reason"] = why
            waiting.insert(0, one.number)
        else:
            self._notes.ended(one.number, ended, f"{why}, after {instance['restarts']} restarts")

    def _watch(self, number: int, file: str) -> Path:
        """What an instance tells in a file."""
        return self._folder / "watch" / self._plan["instances"][number]["name"] / file

    def _heard_from(self, one: _Running) -> bool:
        """Whether the beat has changed since it was last looked at."""
        beat = _read(self._watch(one.number, "beat"))
        if beat == one.beat or not beat:
            return False
        one.beat, one.seen = beat, time.monotonic()
        self._plan["instances"][one.number]["steps"] = int(beat)
        return True

    def _has_ended(self, one: _Running) -> bool:
        """Note how an instance that is gone says that it ended, if it does."""
        text = _read(self._watch(one.number, "ended.json"))
        ended = json.loads(text) if text else {}
        if "failed" in ended:
            self._notes.ended(one.number, "failed", ended["failed"])
        elif ended.get("reason") == "steps":
            self._notes.ended(one.number, "finished", "")
        return "failed" in ended or ended.get("reason") == "steps"

    def _halt(self) -> None:
        """Let all that are at work save what they learned, and end them."""
        for one in self._running:
            self._transport.stop(one.handle)
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until and any(self._transport.gone(one.handle) is None for one in self._running):
            time.sleep(POLL_S)
        for one in self._running:
            if self._transport.gone(one.handle) is None:
                self._transport.kill(one.handle)
            self._heard_from(one)
            self._has_ended(one)
        self._running.clear()


def _read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""
