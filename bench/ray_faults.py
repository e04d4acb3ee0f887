"""A fleet on Ray whose instances are killed at random: every round ends, and nothing that was saved is lost.

    python bench/ray_faults.py      # with the extra [ray]: five minutes, and until the last night is over

Day after day four instances work on a local Ray of two cores, and a short night follows, as in `fifteen live`. Every
20 s the process of an instance that is at work, drawn at random, gets SIGKILL. The lock of the instance's folder tells
which process that is (Linux): no other is ever touched. An instance may be restarted as often as it takes, so that a
round ends because all its work is done. Targets: every round ends with every instance finished and a night; an instance
that was killed goes on at the step that was saved or later, and every segment of experience that was saved is there
afterwards, unchanged; the store is whole; the last learner is finite and acts. Some had something saved when they were
killed, or nothing is shown. Written to bench/results/ray_faults.json.
"""

import argparse
import importlib.metadata
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from measuring import provenance, write_result

import fifteen
from fifteen.checkpoint import read_verified
from fifteen.config import SleepConfig
from fifteen.errors import FifteenError
from fifteen.fleet import read_plan
from fifteen.store import Store

JOBS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1")
LOOK_S = 0.02  # beats come every half second
RESTARTS = 1_000


@dataclass
class Kill:
    """One instance killed, and what it had saved by then."""

    second: float  # of the measurement
    run: str  # folder of the instance, within the life's
    saved: int  # environment steps
    went_on_at: int | None = None  # the first step that it told of afterwards; None where it had ended, or hung
    segments: list[dict[str, Any]] = field(default_factory=list)  # of experience: file, bytes, sha256


def process_at(run: Path) -> int | None:
    """The process that has the lock of a run's folder open; None where none is at work there."""
    try:
        process = int((run / ".lock").read_text().split()[1])
        held = [os.readlink(one) for one in Path(f"/proc/{process}/fd").iterdir()]
    except (OSError, ValueError, IndexError):
        return None
    return process if str((run / ".lock").resolve()) in held and process != os.getpid() else None


def manifest(run: Path) -> dict[str, Any]:
    """What a run last saved, without the arrays; empty before the first time."""
    with suppress(OSError):
        return json.loads((run / "learner" / "manifest.json").read_text(encoding="utf-8"))
    return {}


@final
class Killer:
    """Context manager: while it is open, an instance at work is killed every `every` seconds, `until` some second.

    choose: of the folders of those at work, whose is killed; None: nobody's yet.
    """

    def __init__(self, folder: Path, choose: Callable[[list[Path]], Path | None], *, every: float, until: float):
        self.kills: list[Kill] = []
        self._folder, self._choose, self._every, self._until = folder, choose, every, until
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _watch(self) -> None:
        due, open_kills = self._every, dict[Path, tuple[Kill, int]]()
        while not self._over.wait(LOOK_S):
            for run in tuple(open_kills):
                kill, since = open_kills[run]
                if (step := _beat_after(self._folder, run, since)) is not None:
                    kill.went_on_at = step
                    del open_kills[run]
            if due <= self.seconds < self._until:
                # One that has not begun again yet has nothing new to lose.
                at_work = [run for run in self._runs() if run not in open_kills and process_at(run) is not None]
                run = self._choose(at_work) if at_work else None
                if run is not None and (kill := self._kill(run)) is not None:
                    open_kills[run] = kill, time.time_ns()
                    due += self._every

    def _runs(self) -> list[Path]:
        return sorted(lock.parent for lock in self._folder.glob("day-*/*/.lock"))

    def _kill(self, run: Path) -> Kill | None:
        saved, process = manifest(run), process_at(run)
        if process is None:
            return None
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it has ended just now
            return None
        while process_at(run) == process:
            time.sleep(LOOK_S)
        kill = Kill(round(self.seconds, 1), str(run.relative_to(self._folder)), 0)
        if saved:
            kill.saved, kill.segments = saved["run"]["recorder"]["step"], saved["experience"]["segments"]
        self.kills.append(kill)
        return kill


def _beat_after(folder: Path, run: Path, since: int) -> int | None:
    """The step that an instance tells of, if it told it after `since`, in nanoseconds of the clock on the wall."""
    beat = run.parent / "watch" / run.name / "beat"
    with suppress(OSError, ValueError):  # not there, or being written
        if beat.stat().st_mtime_ns > since:
            return int(beat.read_text(encoding="utf-8"))
    return None


def lost(folder: Path, kill: Kill) -> list[str]:
    """What an instance had saved before it was killed and is not there any more: sentences."""
    said = []
    if kill.went_on_at is not None and kill.went_on_at < kill.saved:
        said.append(f"{kill.run} was killed with {kill.saved} steps saved, and went on at {kill.went_on_at}")
    now = {one["file"]: one for one in manifest(folder / kill.run).get("experience", {}).get("segments", ())}
    for segment in kill.segments:
        name = segment["file"]
        if now.get(name) != segment:
            said.append(f"{kill.run} has forgotten its segment {name}")
            continue
        try:
            read_verified(folder / kill.run / "experience" / name, size=segment["bytes"], sha256=segment["sha256"])
        except FifteenError as error:
            said.append(str(error))
    return said


def measure(
    parent: fifteen.Learner,
    day: Callable[[int], Sequence[fifteen.Assignment]],
    folder: Path,
    choose: Callable[[list[Path]], Path | None],
    *,
    seconds: float,
    every: float,
    until: float,
    seed: int = 0,
    sleep: SleepConfig | None = None,
) -> dict[str, Any]:
    """Days in `folder`, until the first that is over after `seconds`: what was killed, and what became of it.

    day(n): what the instances of day n do, n from 0. choose, every, until: see `Killer`.
    """
    config = fifteen.FleetConfig(transport="ray", workers=2, restarts=RESTARTS)
    days: list[Sequence[fifteen.Assignment]] = []
    with Killer(folder, choose, every=every, until=until) as killer:
        while True:
            days.append(day(len(days)))
            life = fifteen.live(parent, days, folder, seed=seed, fleet=config, sleep=sleep)
            if life.interrupted:
                raise SystemExit("interrupted: nothing is concluded")
            if killer.seconds >= seconds:
                break
        took = killer.seconds
    rounds = [read_plan(folder / f"day-{n:03}") for n in range(1, len(days) + 1)]
    instances = [one for plan in rounds for one in plan["instances"]]
    with Store(folder / "store") as store:
        losses = store.verify()
    losses += [said for kill in killer.kills for said in lost(folder, kill)]
    job = days[0][0]
    acted = fifteen.evaluate(life.learner, job.job, kwargs=job.kwargs, episodes=1)
    record = {
        "seconds": round(took, 1),
        "rounds": [round(plan["seconds"], 1) for plan in rounds],  # seconds of each
        "nights": sum(not one.no_night for one in life.days),
        "ended": dict(Counter(str(one["ended"]) for one in instances)),
        "restarts": sum(one["restarts"] for one in instances),
        "kills": [{**asdict(kill), "segments": len(kill.segments)} for kill in killer.kills],
        "saved_steps_at_kills": sum(kill.saved for kill in killer.kills),
        "lost": losses,
        "learner_is_finite": bool(np.isfinite(np.asarray(life.learner.state.weights)).all()),
        "learner_acts": bool(np.isfinite(acted.returns).all()),
    }
    record["reached"] = bool(
        record["saved_steps_at_kills"]
        and record["ended"] == {"finished": len(instances)}
        and record["nights"] == len(rounds)
        and not losses
        and record["learner_is_finite"]
        and record["learner_acts"]
    )
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no day begins and nothing is killed")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps of an instance")
    parser.add_argument("--size", default="small", help="of the learner")
    parser.add_argument("--night", type=int, default=20, help="updates of a night")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fifteen.cache_compilations()
    record = provenance(parser, arguments)
    record["versions"]["ray"] = importlib.metadata.version("ray")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            fifteen.new(arguments.size, seed=arguments.seed),
            lambda n: [fifteen.Assignment(job, arguments.steps, seed=arguments.seed + n) for job in JOBS],
            Path(folder) / "life",
            random.Random(arguments.seed).choice,
            seconds=arguments.seconds,
            every=arguments.every,
            until=arguments.seconds,
            seed=arguments.seed,
            sleep=SleepConfig(steps=arguments.night),
        )
    path = write_result("ray_faults", {**record, **found})
    print(f"{len(found['rounds'])} rounds, {len(found['kills'])} kills, {found['restarts']} restarts;", end=" ")
    print(f"ended: {found['ended']}; lost: {found['lost'] or 'nothing'}; {path.name}")
    if not found["reached"]:
        raise SystemExit("the targets were missed")


if __name__ == "__main__":
    main()
