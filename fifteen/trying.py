"""Who is let at which job for the sake of a night: the parent before it, the sleeper within it.

What the parent comes to there decides whether an instance has anything to teach; what both do there is what the
teacher is asked about, see `nights.night`.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fifteen.errors import FifteenError, RunError
from fifteen.evaluating import ROWS, Practice, evaluate, practise
from fifteen.gains import gained, late
from fifteen.learner import Learner
from fifteen.lived import FirstDays
from fifteen.report import read_record
from fifteen.store import Store


class Tried(NamedTuple):
    """What is known of an instance's day."""

    better: bool  # than its parent, or it cannot be told: it has something to teach
    late: Sequence[float]  # returns of its last attempts; none where nobody recorded them
    practice: Practice | None  # of the parent on its job; None where that cannot practise


def opening(run: Path) -> tuple[str | None, Mapping[str, Any], int | None]:
    """The job of a run, its kwargs and its step limit. None: nobody can open it by name."""
    try:
        settings = settings_of(run)
        return settings["job"], settings["kwargs"], settings["step_limit"]
    except (OSError, ValueError, KeyError):  # weights alone came, not the folder of a run
        return None, {}, None


def settings_of(run: Path) -> Mapping[str, Any]:
    """What a run was begun with."""
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]


def _at_work(run: Path) -> list[float]:
    """Returns of a day's attempts in their order; none where nobody recorded them."""
    try:
        return read_record(run).returns.tolist()
    except RunError:
        return []


def tried(
    day: Mapping[str, tuple[Learner, str]],
    parent: Learner,
    attempts: int,
    seed: int,
    stops: Callable[[str], bool],
) -> dict[str, Tried]:
    """By run, what its instance did and what the parent does on its job, which is tried once, with attempts=0 never.

    stops: asked before each job, by its id, whether to end it, by a KeyboardInterrupt.
    """
    made: dict[str, tuple[Sequence[float], Practice | None]] = {}
    found = {}
    for place in day:
        job, kwargs, step_limit = opening(Path(place))
        key = json.dumps([job, kwargs, step_limit], sort_keys=True)
        if key not in made:
            made[key] = [], None
            if job is not None and attempts:
                if stops(job):
                    raise KeyboardInterrupt
                made[key] = _attempted(parent, job, attempts, seed, kwargs, step_limit)
        at_work, (theirs, practice) = _at_work(Path(place)), made[key]
        found[place] = Tried(gained(at_work, theirs), late(at_work), practice)
    return found


def practices(
    day: Mapping[str, tuple[Learner, str]],
    store: Store,
    seed: int,
    sleeper: Learner,
    jobs: Sequence[str],
    number: int,
    stopped: threading.Event | None,
) -> dict[str, FirstDays]:
    """By job of the store, what a sleeper does on it, which the store keeps for nights to come.

    All that the night has a lesson of: a job that nobody tries may be lost in a single night. See
    `sleeping.Practising`.
    """
    openings = {id: opening(Path(place)) for place, (_, id) in day.items() if id in jobs}
    records = {record.id: record for record in store.jobs()}
    older = (record for id, record in records.items() if id in jobs and id not in openings)
    openings |= {record.id: (record.job, record.kwargs, record.step_limit) for record in older}
    at = int(np.random.default_rng([seed, 2, number]).integers(2**31))
    done: dict[str, FirstDays] = {}
    for id, (job, kwargs, step_limit) in openings.items():
        if stopped is not None and stopped.is_set():
            raise KeyboardInterrupt
        if job is not None:
            with suppress(FifteenError):  # it may be one that cannot be had several times, or no longer
                days = practise(sleeper, job, attempts=0, seed=at, kwargs=kwargs, step_limit=step_limit).days
                if days.layout == records[id].layout:
                    done[id] = days
    for id, days in done.items():
        store.kept.keep_practice(id, days)
    return done


def _attempted(
    parent: Learner, job: str, attempts: int, seed: int, kwargs: Mapping[str, Any], step_limit: int | None
) -> tuple[Sequence[float], Practice | None]:
    """Returns of late attempts of the parent at a job, and its practice; none where they cannot be made."""
    # Other ones than those by which the night is judged.
    how: dict[str, Any] = {"seed": int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])}
    how |= {"kwargs": kwargs, "step_limit": step_limit}
    try:
        practice = practise(parent, job, attempts=attempts, rows=ROWS if parent.work_config.steady else 0, **how)
        return practice.attempts.late(attempts).tolist(), practice
    except FifteenError:
        pass  # it may be one that cannot be had several times
    try:
        found = evaluate(parent, job, episodes=attempts, **how)
    except FifteenError:
        return [], None
    if len(found.returns) < attempts:  # only an interruption ends it earlier
        raise KeyboardInterrupt
    return found.late(attempts).tolist(), None
