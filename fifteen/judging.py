"""What a night came to on every job: attempts before it, after the day and after the night, all with a fresh memory.

Before is the parent, after the day the instance that worked on the job, after the night the sleeper. Of jobs that
were only rehearsed there is no day. What was kept of the gain is a ratio of differences of means; its interval is
Fieller's (1954, "Some problems in interval estimation"), which exists only where the gain itself can be told from
nothing. Attempts of one lifetime are treated as independent, though the memory runs through them.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fifteen.checkpoint import atomic_write
from fifteen.errors import FifteenError, JobError
from fifteen.evaluating import evaluate
from fifteen.gains import LEVEL, Estimate, fell, mean, share_kept
from fifteen.learner import Learner, load
from fifteen.nights import Night
from fifteen.sleeping import began_as, fingerprint
from fifteen.store import Store
from fifteen.trying import opening

RESULTS = "night.json"
ATTEMPTS = "attempts.json"
WHO = ("before", "day", "night")


@dataclass(frozen=True)
class Case:
    """A job of the night, and how it is opened."""

    name: str  # in the store and in provenance
    job: str | None  # what `open_job` takes, with kwargs and step_limit; None: nobody can open it by name
    kwargs: Mapping[str, Any]
    step_limit: int | None
    run: str | None  # who worked on it by day; None: it was only rehearsed


@dataclass(frozen=True)
class Judged:
    """What came of a job. Returns are undiscounted, in the order in which the attempts ended."""

    case: Case
    returns: Mapping[str, list[float]]  # by WHO, as far as attempted; without "day" where it was only rehearsed
    missing: str  # why there are no attempts; empty where there are

    def mean(self, who: str) -> Estimate | None:
        """Of the returns, with Student's interval; None where there are none."""
        return mean(self.returns[who]) if who in self.returns else None

    @property
    def kept(self) -> Estimate | None:
        """Share of the day's gain that the night kept; None where there is no gain that can be told from nothing."""
        return share_kept(*(self.returns[who] for who in WHO)) if self.returns.keys() == set(WHO) else None

    @property
    def worse(self) -> bool:
        """The sleeper certainly does it worse than its parent did: what share of a gain was kept would not tell."""
        return {"before", "night"} <= self.returns.keys() and fell(self.returns["before"], self.returns["night"])


# ------------------------------------------------------------------------------------------------------ attempts


@final
class Attempts:
    """Attempts of learners at jobs, all with a fresh memory; kept in folder/attempts.json, and none made twice."""

    def __init__(self, folder: Path | None, episodes: int, seed: int):
        """folder: None: they are kept nowhere. What is there of another number or seed, or broken, is forgotten."""
        self.episodes, self.seed = episodes, seed
        self._path = None if folder is None else folder / ATTEMPTS
        self._made: dict[str, list[float]] = {}
        if self._path is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                told = json.loads(self._path.read_text(encoding="utf-8"))
                if (told["episodes"], told["seed"]) == (episodes, seed):
                    self._made = dict(told["returns"])

    def __call__(self, case: Case, learner: Learner) -> list[float]:
        """Returns, in the order in which the attempts ended. The learner is not changed.

        Raises JobError and what else `evaluate` raises where the job cannot be attempted, KeyboardInterrupt where
        Ctrl-C or SIGTERM end it, and CheckpointError where the file cannot be written.
        """
        if case.job is None:
            raise JobError(
                "it was begun with an environment, or its run has no config.json: it cannot be opened by name"
            )
        # An unschooled instance keeps its statistics, so that weights alone do not say who it is.
        who = fingerprint(learner.state.weights), float(learner.statistics.count)
        key = json.dumps([case.job, dict(case.kwargs), case.step_limit, *who])
        if key not in self._made:
            told = evaluate(
                learner,
                case.job,
                episodes=self.episodes,
                seed=self.seed,
                kwargs=case.kwargs,
                step_limit=case.step_limit,
            )
            if len(told.returns) < self.episodes:  # only an interruption ends it earlier
                raise KeyboardInterrupt
            self._made[key] = [float(x) for x in told.returns]
            if self._path is not None:
                kept = {"episodes": self.episodes, "seed": self.seed, "returns": self._made}
                atomic_write(self._path, json.dumps(kept, indent=1).encode())
        return self._made[key]


def cases(night: Night, store: Store | None) -> list[Case]:
    """The jobs of a night: of every run that took part, then those rehearsed."""
    found = [Case(name, *opening(Path(run)), run=run) for run, name in zip(night.took_part, night.jobs, strict=True)]
    records = {} if store is None else {record.id: record for record in store.jobs()}
    for name in night.older:
        record = records.get(name)
        how = (None, {}, None) if record is None else (record.job, record.kwargs, record.step_limit)
        found.append(Case(name, *how, run=None))
    return found


def note(folder: Path, night: Night, attempts: Attempts) -> None:
    """Write folder/night.json as it is before anybody attempts anything; one that is there already stays.

    Raises CheckpointError where it cannot be written.
    """
    if not (folder / RESULTS).exists():
        _write(folder, night, attempts, [])


def judge(
    folder: Path,
    night: Night,
    cases: Sequence[Case],
    attempts: Attempts,
    *,
    parent: Learner | None = None,
    stopped: threading.Event | None = None,
    callback: Callable[[int, int], Any] | None = None,
) -> list[Judged]:
    """Attempts at every job of a night; written to folder/night.json one by one.

    parent: before the night; by default what the instances' weights say it was. callback(done, all). A job that
    cannot be opened or attempted is named. Raises KeyboardInterrupt where Ctrl-C, SIGTERM or, for a caller who catches
    these itself, `stopped` end it, with what was attempted kept, and CheckpointError where nothing can be written.
    """
    began = parent or began_as(load(night.took_part[0]))
    told, every = [], [(case, who) for case in cases for who in WHO if who != "day" or case.run is not None]
    for case in cases:
        judged = Judged(case, {}, "" if attempts.episodes else "no attempts were asked for")
        for who in WHO if attempts.episodes else ():
            if (who == "day" and case.run is None) or judged.missing:
                continue
            if stopped is not None and stopped.is_set():
                raise KeyboardInterrupt
            learner = {"before": lambda: began, "day": lambda case=case: load(case.run), "night": lambda: night.learner}
            try:
                judged = Judged(case, {**judged.returns, who: attempts(case, learner[who]())}, "")
            except FifteenError as error:
                judged = Judged(case, judged.returns, str(error))
                continue
            _write(folder, night, attempts, [*told, judged])
            if callback is not None:
                callback(sum(len(one.returns) for one in [*told, judged]), len(every))
        told.append(judged)
    _write(folder, night, attempts, told)
    return told


def _write(folder: Path, night: Night, attempts: Attempts, judged: Sequence[Judged]) -> None:
    """folder/night.json: what a person or a program may want to know of the night."""
    rows = [
        {
            "job": one.case.name,
            "run": one.case.run,
            "older": one.case.run is None,
            "taught": one.case.run is not None and one.case.name not in night.untaught,
            **{who: told._asdict() | {"attempts": len(one.returns[who])} for who in WHO if (told := one.mean(who))},
            "kept": kept._asdict() if (kept := one.kept) else None,
            "worse": one.worse,
            "missing": one.missing or None,
        }
        for one in judged
    ]
    told = {
        "format": 1,
        "level": LEVEL,
        "jobs": rows,
        "took_part": list(night.took_part),
        "left_out": [list(one) for one in night.left_out],
        "rested": list(night.rested),
        "night": night.learner.provenance["slept"][-1],
        "asked": {
            "sleeper": fingerprint(night.learner.state.weights),
            "episodes": attempts.episodes,
            "seed": attempts.seed,
        },
    }
    atomic_write(folder / RESULTS, json.dumps(told, indent=1).encode())
