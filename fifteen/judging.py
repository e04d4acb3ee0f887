"""What a night came to on every job: attempts before it, after the day and after the night, all with a fresh memory.

Before is the parent, after the day the instance that worked on the job, after the night the sleeper. Of jobs that
were only rehearsed there is no day. What was kept of the gain is a ratio of differences of means; its interval is
Fieller's (1954, "Some problems in interval estimation"), which exists only where the gain itself can be told from
nothing. Attempts of one lifetime are treated as independent, though the memory runs through them.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fifteen.checkpoint import atomic_write
from fifteen.errors import FifteenError, JobError
from fifteen.examining.student import critical_value
from fifteen.learner import Learner, load
from fifteen.nights import Night
from fifteen.sleeping import began_as, fingerprint
from fifteen.store import Store
from fifteen.working import evaluate

RESULTS = "night.json"
LEVEL = 0.95
WHO = ("before", "day", "night")


class Estimate(NamedTuple):
    """A mean or a ratio, and the interval that holds the true one with probability LEVEL; None: not known."""

    estimate: float
    low: float | None
    high: float | None


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


def mean(returns: Sequence[float]) -> Estimate:
    """Of at least one return, with Student's interval."""
    value, error, dof = _moments(returns)
    if dof < 1:
        return Estimate(value, None, None)
    half = critical_value(1.0 - LEVEL, dof) * math.sqrt(error)
    return Estimate(value, value - half, value + half)


def share_kept(before: Sequence[float], day: Sequence[float], night: Sequence[float]) -> Estimate | None:
    """(night - before) / (day - before) of the mean returns, with Fieller's interval.

    None where there is no gain, or none that can be told from nothing at LEVEL: there the interval has no end.
    """
    (m_before, v_before, n_before), (m_day, v_day, n_day), (m_night, v_night, n_night) = map(
        _moments, (before, day, night)
    )
    dof = min(n_before, n_day, n_night)
    gain, kept = m_day - m_before, m_night - m_before
    if dof < 1 or gain <= 0:
        return None
    square = critical_value(1.0 - LEVEL, dof) ** 2
    a = gain**2 - square * (v_day + v_before)
    if a <= 0:
        return None
    b = gain * kept - square * v_before
    root = math.sqrt(max(0.0, b**2 - a * (kept**2 - square * (v_night + v_before))))
    return Estimate(kept / gain, (b - root) / a, (b + root) / a)


def fell(before: Sequence[float], night: Sequence[float]) -> bool:
    """Whether the mean return after the night is below the one before it, at LEVEL; False where that cannot be told."""
    (m_before, v_before, n_before), (m_night, v_night, n_night) = map(_moments, (before, night))
    dof = min(n_before, n_night)
    return dof >= 1 and m_night + critical_value(1.0 - LEVEL, dof) * math.sqrt(v_before + v_night) < m_before


def _moments(returns: Sequence[float]) -> tuple[float, float, int]:
    """Mean, its squared standard error, and degrees of freedom."""
    values = np.asarray(returns, np.float64)
    dof = len(values) - 1
    return float(values.mean()), float(values.var(ddof=1)) / len(values) if dof else 0.0, dof


# ------------------------------------------------------------------------------------------------------ attempts


def cases(night: Night, store: Store | None) -> list[Case]:
    """The jobs of a night: of every run that took part, then those rehearsed."""
    found = []
    for run, name in zip(night.took_part, night.jobs, strict=True):
        try:
            settings = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))["settings"]
            how = settings["job"], settings["kwargs"], settings["step_limit"]
        except (OSError, ValueError, KeyError):  # weights alone came, not the folder of a run
            how = None, {}, None
        found.append(Case(name, *how, run=run))
    records = {} if store is None else {record.id: record for record in store.jobs()}
    for name in night.older:
        record = records.get(name)
        how = (None, {}, None) if record is None else (record.job, record.kwargs, record.step_limit)
        found.append(Case(name, *how, run=None))
    return found


def judge(
    folder: Path,
    night: Night,
    cases: Sequence[Case],
    *,
    parent: Learner | None = None,
    episodes: int = 20,
    seed: int = 0,
    callback: Callable[[int, int], Any] | None = None,
) -> list[Judged]:
    """Attempts at every job of a night; written to folder/night.json one by one, and not made twice.

    parent: before the night; by default what the instances' weights say it was. episodes: attempts of each learner at
    each job, 0: none. callback(done, all). A job that cannot be opened or attempted is named. Raises KeyboardInterrupt
    where Ctrl-C or SIGTERM end it, with what was attempted kept, and CheckpointError where nothing can be written.
    """
    began = parent or began_as(load(night.took_part[0]))
    asked = {"sleeper": fingerprint(night.learner.state.weights), "episodes": episodes, "seed": seed}
    found = _attempted(folder, asked)
    told, every = [], [(case, who) for case in cases for who in WHO if who != "day" or case.run is not None]
    done: dict[str, list[float]] = {}
    for case in cases:
        judged = Judged(case, {}, "" if episodes else "no attempts were asked for")
        for who in WHO if episodes else ():
            if (who == "day" and case.run is None) or judged.missing:
                continue
            # The same learner at the same job, for instances that worked on one job.
            key = json.dumps([case.job, dict(case.kwargs), case.step_limit, who, case.run if who == "day" else None])
            if key not in done:
                try:
                    done[key] = found[key] if key in found else _attempt(case, who, began, night, episodes, seed)
                except FifteenError as error:
                    judged = Judged(case, judged.returns, str(error))
                    continue
            judged = Judged(case, {**judged.returns, who: done[key]}, "")
            _write(folder, night, asked, [*told, judged], done)
            if callback is not None:
                callback(sum(len(one.returns) for one in [*told, judged]), len(every))
        told.append(judged)
    _write(folder, night, asked, told, done)
    return told


def _attempt(case: Case, who: str, parent: Learner, night: Night, episodes: int, seed: int) -> list[float]:
    if case.job is None:
        raise JobError("it was begun with an environment, or its run has no config.json: it cannot be opened by name")
    learner = {"before": lambda: parent, "day": lambda: load(case.run), "night": lambda: night.learner}[who]()
    result = evaluate(learner, case.job, episodes=episodes, seed=seed, kwargs=case.kwargs, step_limit=case.step_limit)
    if len(result.returns) < episodes:  # only an interruption ends it earlier
        raise KeyboardInterrupt
    return [float(x) for x in result.returns]


def _attempted(folder: Path, asked: Mapping[str, Any]) -> dict[str, list[float]]:
    """What was attempted before for the same sleeper."""
    try:
        told = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return told["attempts"] if told["asked"] == asked else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(
    folder: Path, night: Night, asked: Mapping[str, Any], judged: Sequence[Judged], attempts: Mapping[str, Any]
) -> None:
    """folder/night.json: what a person or a program may want to know of the night."""
    rows = [
        {
            "job": one.case.name,
            "run": one.case.run,
            "older": one.case.run is None,
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
        "night": night.learner.provenance["slept"][-1],
        "asked": asked,
        "attempts": attempts,
    }
    atomic_write(folder / RESULTS, json.dumps(told, indent=1).encode())
