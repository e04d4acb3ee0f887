"""The score sheet of each learner, and what an estimate from it is worth: pure functions of an exam's records.

A *lifetime* is scored by the mean of its attempts, so that what learning costs is counted. What was asked and has no
record is a failure, and counts as chance or as the learner's worst score on the job, whichever is lower
(`records.counted_scores`). The luck of the draws here is fixed by SEED: the same records give the same page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fifteen.examining.records import AttemptRecord, ExamHeader, Split, counted_scores
from fifteen.examining.stats import RESAMPLES, Interval, bootstrap_interval, interquartile_mean

SEED = 0
LEVELS = (0.95, 0.90, 0.80, 0.70)
"""Levels of intervals: of these the highest that the number of families or lifetimes can bear."""
FEWER = 2_000
"""Bootstrap samples of what is beside the point: the ends are known to 3 or 4 % of the width."""


@dataclass(frozen=True)
class Job:
    """What is known of a job that was asked."""

    name: str
    family: str
    template: str  # "" where it has none
    split: Split | None  # None: nobody has a record of it


@dataclass(frozen=True)
class Sheet:
    """The scores of one learner on J jobs, S lifetimes each."""

    learner: str
    jobs: tuple[Job, ...]  # [J], those that count
    scores: np.ndarray  # float64[J, S], mean over the attempts of a lifetime
    curves: tuple[tuple[np.ndarray, ...], ...]  # [J][S], float64[n]: by attempt
    ends: tuple[tuple[np.ndarray, ...], ...]  # [J][S], float64[n]: steps lived when each ended; empty where one failed
    without_reference: tuple[Job, ...]  # done, but in no score
    not_applicable: tuple[Job, ...]  # spaces that the learner does not accept: neither passed nor failed

    def rows(self, *splits: Split | None) -> np.ndarray:
        """Indices int64[...] of the jobs of these splits."""
        return np.array([n for n, job in enumerate(self.jobs) if job.split in splits], np.int64)

    def families(self, rows: np.ndarray) -> list[str]:
        return [self.jobs[n].family for n in rows]


def sheets(header: ExamHeader, records: Sequence[AttemptRecord]) -> dict[str, Sheet]:
    """The scores of every learner of the exam, by its name, in the order of the header.

    Jobs and lifetimes that the header names and the records lack are failures.
    """
    known = {r.job: Job(r.job, r.family, r.template, r.split) for r in records}
    asked = {name: known.get(name, Job(name, name, "", None)) for name in (*header.attempts, *known)}
    lives: dict[tuple[str, str], dict[int, list[tuple[AttemptRecord, float | None]]]] = {}
    for record, score in zip(records, counted_scores(records), strict=True):
        lives.setdefault((record.learner, record.job), {}).setdefault(record.run, []).append((record, score))
    unscored = {r.job for r in records if r.status == "ok" and r.return_ is not None and r.score is None}
    return {
        note.name: _sheet(note.name, header, asked, unscored, {n: lives.get((note.name, n), {}) for n in asked})
        for note in header.learners
    }


def _sheet(
    learner: str,
    header: ExamHeader,
    asked: Mapping[str, Job],
    unscored: set[str],
    lives: Mapping[str, Mapping[int, list[tuple[AttemptRecord, float | None]]]],
) -> Sheet:
    counted, scores, curves, ends = [], [], [], []
    without_reference, not_applicable = [], []
    for name, job in asked.items():
        of_job = lives[name]
        done = [record for run in of_job.values() for record, _ in run]
        if done and all(record.status == "not applicable" for record in done):
            not_applicable.append(job)
            continue
        if name in unscored:
            without_reference.append(job)
            continue
        failing = min([0.0, *(score for run in of_job.values() for _, score in run if score is not None)])
        of_runs = [_lived(of_job.get(run, []), header.attempts.get(name), failing) for run in range(header.runs)]
        counted.append(job)
        curves.append(tuple(curve for curve, _ in of_runs))
        ends.append(tuple(end for _, end in of_runs))
        scores.append([curve.mean() for curve, _ in of_runs])
    return Sheet(
        learner,
        tuple(counted),
        np.array(scores, np.float64).reshape(len(counted), header.runs),
        tuple(curves),
        tuple(ends),
        tuple(without_reference),
        tuple(not_applicable),
    )


def lacking(run: Sequence[AttemptRecord], budget: int | None) -> int:
    """Attempts that a lifetime should have and has no record of.

    Of a lifetime without failure its records say how many there are, because a budget of steps may end it first; of
    one that failed or has no record the budget of attempts says it (None: at least one).
    """
    if run and not any(record.failed for record in run):
        return max(run[0].attempts - len(run), 0)
    return max((budget or 1) - len(run), 0)


def _lived(
    run: Sequence[tuple[AttemptRecord, float | None]], budget: int | None, failing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores float64[n] by attempt, those that are missing as failed; and when each ended, empty where one failed."""
    run = sorted(run, key=lambda entry: entry[0].attempt)
    records = [record for record, _ in run]
    missing = lacking(records, budget)
    found = [failing if score is None else score for _, score in run]
    curve = np.array(found + [failing] * missing, np.float64)
    if missing or any(record.failed for record in records):
        return curve, np.empty(0)
    return curve, np.array([record.steps_before + record.length for record in records], np.float64)


# Estimates --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number, and how far it can be believed."""

    value: float
    interval: Interval | None  # None: too few families and lifetimes for any
    over: str  # what the interval speaks of: "families", or "lifetimes" (these jobs only); "" without one


def estimated(
    scores: np.ndarray,
    families: Sequence[str],
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    resamples: int = RESAMPLES,
) -> Estimate:
    """statistic(scores) with the best interval that scores float64[J, S, ...] can bear.

    With three families or more it speaks of jobs of such families, else of these jobs in other lifetimes; at the
    highest of LEVELS that `bootstrap_interval` does not refuse; with too few of both there is none.
    """
    jobs, runs = scores.shape[:2]
    for over, labels, units, groups in (
        ("families", families, len(set(families)), 1),
        ("lifetimes", None, runs, jobs),
    ):
        missed = 2.0 ** (groups * (1 - units))
        for level in LEVELS:
            if units >= 3 and missed <= 1.0 - level + 1e-9:
                interval = bootstrap_interval(
                    scores, statistic, families=labels, seed=SEED, level=level, resamples=resamples
                )
                return Estimate(interval.estimate, interval, over)
    return Estimate(float(statistic(scores)), None, "")
