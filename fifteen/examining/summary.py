"""From the score sheets of an exam to the numbers of its page: pure functions."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from fifteen.examining.comparing import (
    Verdict,
    holm,
    minimum_detectable_effect,
    paired_difference,
    sign_flip_test,
    verdict,
)
from fifteen.examining.records import AttemptRecord, ExamHeader, Split, Status
from fifteen.examining.sheets import SEED, Estimate, Sheet, estimated, lacking
from fifteen.examining.stats import (
    CVAR_SHARES,
    Interval,
    clusters,
    cvar,
    cvar_double_sampled,
    failure_bound,
    interquartile_mean,
    optimality_gap,
    probability_of_improvement,
    rule_of_three,
)

SPLITS: tuple[Split, ...] = get_args(Split)
UNSEEN_FIRST: tuple[Split, ...] = ("held-out", "outside", "iid", "train")
"""Which split the headline is of: the first of these that has jobs."""

BAND_RESAMPLES = 400  # of each point of a band around a curve: for the eye
POINTS = 20  # most points of a curve
MARGIN = 0.05
"""The largest difference of scores that does not matter: a twentieth of the way from chance to the reference."""


@dataclass(frozen=True)
class SplitScores:
    """IQM of the scores on the jobs of one split."""

    whole: Estimate  # of the mean over a lifetime
    first: float  # of the first attempt
    last: float  # of the last attempt
    short: float  # optimality gap: mean shortfall from the reference
    solved: float | None  # share of attempts that reached the job's threshold, mean over jobs; None: none has one
    jobs: int
    families: int


def by_split(sheet: Sheet, thresholds: Mapping[str, float]) -> dict[Split, SplitScores]:
    """The scores on every split that has jobs. thresholds: by job, the score from which an attempt is solved."""
    found = {}
    for split in SPLITS:
        rows = sheet.rows(split)
        if len(rows) == 0:
            continue
        families = sheet.families(rows)
        first, last = (np.array([[curve[at] for curve in sheet.curves[n]] for n in rows]) for at in (0, -1))
        solved = [
            np.mean(np.concatenate(sheet.curves[n]) >= thresholds[sheet.jobs[n].name])
            for n in rows
            if sheet.jobs[n].name in thresholds
        ]
        found[split] = SplitScores(
            estimated(sheet.scores[rows], families),
            interquartile_mean(first),
            interquartile_mean(last),
            optimality_gap(sheet.scores[rows]),
            float(np.mean(solved)) if solved else None,
            len(rows),
            len(set(families)),
        )
    return found


@dataclass(frozen=True)
class Headline:
    """The one number: IQM of the score on the jobs that are farthest from what the learner was schooled on."""

    split: Split
    estimate: Estimate
    jobs: int
    families: int


def headline(sheet: Sheet, splits: Mapping[Split, SplitScores]) -> Headline | None:
    """IQM over the lifetimes on the first of UNSEEN_FIRST that has jobs; None where nothing counts. splits: by_split's.

    Jobs that nobody has a record of are in it, as failures: one cannot tell that they are of another split.
    """
    if not sheet.jobs:
        return None
    found: list[Split] = [split for split in UNSEEN_FIRST if split in splits]
    split = found[0] if found else UNSEEN_FIRST[0]  # nobody has a record of any job
    rows = sheet.rows(split, None)
    families = sheet.families(rows)
    same = split in splits and splits[split].jobs == len(rows)
    estimate = splits[split].whole if same else estimated(sheet.scores[rows], families)
    return Headline(split, estimate, len(rows), len(set(families)))


@dataclass(frozen=True)
class Gap:
    """IQM on the jobs of one split less IQM on those of another, over the families that have both."""

    easier: Split
    harder: Split
    estimate: Estimate
    families: int


def gaps(sheet: Sheet) -> list[Gap]:
    """train - iid and iid - held-out, where they can be told.

    Families are drawn whole, with all their jobs and lifetimes of both splits, so that what makes a family hard as such
    is in neither end of the interval.
    """
    found = []
    pairs: tuple[tuple[Split, Split], ...] = (("train", "iid"), ("iid", "held-out"))
    for easier, harder in pairs:
        ours, theirs = sheet.rows(easier), sheet.rows(harder)
        both = sorted(set(sheet.families(ours)) & set(sheet.families(theirs)))
        if both:
            found.append(Gap(easier, harder, _gap(sheet, ours, theirs, both), len(both)))
    return found


def _gap(sheet: Sheet, easier: np.ndarray, harder: np.ndarray, families: list[str]) -> Estimate:
    """A family is one row: the scores of its lifetimes, marked +1 (easier) or -1, the rest filled up with mark 0."""
    rows = []
    for family in families:
        of_family = [
            np.stack([scores, np.full_like(scores, mark)], axis=-1)
            for chosen, mark in ((easier, 1.0), (harder, -1.0))
            for scores in (sheet.scores[[n for n in chosen if sheet.jobs[n].family == family]].ravel(),)
        ]
        rows.append(np.concatenate(of_family))
    marked = np.zeros((len(rows), 1, max(map(len, rows)), 2))
    for n, row in enumerate(rows):
        marked[n, 0, : len(row)] = row

    def difference(drawn: np.ndarray) -> float:
        score, mark = drawn[..., 0], drawn[..., 1]
        return interquartile_mean(score[mark > 0][:, None]) - interquartile_mean(score[mark < 0][:, None])

    return estimated(marked, families, difference)


# Learning by attempt ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """IQM of the score over the jobs of one split, from the first to the last attempt of a lifetime."""

    at: np.ndarray  # float64[K]: the attempt, from 1; or, where lifetimes differ in length, the share of it, to 1
    score: np.ndarray  # float64[K]
    band_at: np.ndarray  # float64[B]
    low: np.ndarray  # float64[B]
    high: np.ndarray  # float64[B]
    level: float | None  # of the band, at each point by itself; None: B is 0
    in_attempts: bool
    jobs: int  # of more than one attempt


def learning(sheet: Sheet, split: Split) -> Curve | None:
    """How the score grows with the attempts of a lifetime; None where no job of the split has several."""
    rows = np.array([n for n in sheet.rows(split) if max(map(len, sheet.curves[n])) > 1], np.int64)
    if len(rows) == 0:
        return None
    lengths = {len(curve) for n in rows for curve in sheet.curves[n]}
    points = min(POINTS, max(lengths))
    share = np.linspace(0.0, 1.0, points)
    scores = np.array(
        [[curve[np.rint(share * (len(curve) - 1)).astype(int)] for curve in sheet.curves[n]] for n in rows]
    )  # [J, S, K]
    in_attempts = len(lengths) == 1
    at = 1.0 + np.rint(share * (max(lengths) - 1)) if in_attempts else share
    families = sheet.families(rows)
    chosen = np.unique(np.rint(np.linspace(0, points - 1, min(points, POINTS // 2))).astype(int))
    bands = [estimated(scores[:, :, k], families, resamples=BAND_RESAMPLES).interval for k in chosen]
    known = [band for band in bands if band is not None]
    return Curve(
        at,
        np.array([interquartile_mean(scores[:, :, k]) for k in range(points)]),
        at[chosen] if known else np.empty(0),
        np.array([band.low for band in known]),
        np.array([band.high for band in known]),
        known[0].level if known else None,
        in_attempts,
        len(rows),
    )


# The worst jobs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """Mean score of the worst share of jobs: the truth lies between the two, in expectation."""

    share: float
    same: float | None  # chosen and scored with the same lifetimes; None: fewer jobs than one in the share
    double: float | None  # chosen with all lifetimes but one, scored with that one, mean over which; None: only one


def tails(sheet: Sheet) -> list[Tail]:
    """CVaR over all jobs that count, at CVAR_SHARES."""
    jobs, runs = sheet.scores.shape
    found = []
    for share in CVAR_SHARES:
        enough = share * jobs >= 1.0 - 1e-9
        same = cvar(sheet.scores.mean(axis=1), share) if enough else None
        double = None
        if enough and runs > 1:
            others = [np.delete(sheet.scores, run, axis=1).mean(axis=1) for run in range(runs)]
            double = float(
                np.mean([cvar_double_sampled(by, sheet.scores[:, run], share) for run, by in enumerate(others)])
            )
        found.append(Tail(share, same, double))
    return found


def worst_jobs(sheet: Sheet, most: int) -> list[int]:
    """Indices of the jobs with the lowest mean score, the worst first."""
    return [int(n) for n in np.argsort(sheet.scores.mean(axis=1), kind="stable")[:most]]


# Failures -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failures:
    """What went wrong for one learner, and how often a job of this kind may go wrong."""

    by_status: dict[Status, dict[str, str]]  # job -> what was said of it first
    attempts: dict[Status, int]
    failed: int  # jobs with any failure
    asked: int  # jobs, without those that are not applicable
    bound: float  # upper bound of 95 % for the share of jobs that fail, as if they were independent


def failures(header: ExamHeader, records: Sequence[AttemptRecord], sheet: Sheet) -> Failures:
    """Failures of the learner of this sheet: those recorded, and what was asked and has no record.

    What a lifetime lacks after it failed is not counted again.
    """
    by_status: dict[Status, dict[str, str]] = defaultdict(dict)
    attempts: Counter[Status] = Counter()
    lived: dict[tuple[str, int], list[AttemptRecord]] = defaultdict(list)
    for record in records:
        if record.learner != sheet.learner:
            continue
        lived[record.job, record.run].append(record)
        if record.failed:
            by_status[record.status].setdefault(record.job, record.problem)
            attempts[record.status] += 1
    jobs = [job.name for job in (*sheet.jobs, *sheet.without_reference)]
    for name in jobs:
        runs = [lived[name, run] for run in range(header.runs)]
        missing = sum(
            lacking(run, header.attempts.get(name)) for run in runs if not any(record.failed for record in run)
        )
        if missing:
            by_status["missing"].setdefault(name, f"no record of {missing:,} of its attempts")
            attempts["missing"] += missing
    failed = len({name for of_status in by_status.values() for name in of_status})
    if not jobs:
        bound = 1.0
    else:
        bound = failure_bound(failed, len(jobs)) if failed else rule_of_three(len(jobs))
    return Failures(dict(by_status), dict(attempts), failed, len(jobs), bound)


# Several learners ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """The first learner less another, on the jobs and lifetimes that both have."""

    rival: str
    jobs: int
    ours: float | None  # mean score on these; None: there are none
    theirs: float | None
    improves: float | None  # probability that a lifetime of ours beats one of theirs on the same job
    over: str  # "families" or "lifetimes": what a statement is about; "" where too few decide anything
    difference: Interval | None  # mean, at the level that makes all comparisons together hold at 95 %
    adjusted_p_value: float | None  # after Holm
    verdict: Verdict
    detectable: float | None  # difference found with probability 0.8 by a single comparison; None where not known


def compared(all_sheets: Sequence[Sheet], margin: float = MARGIN, alpha: float = 0.05) -> list[Compared]:
    """The first learner against each of the others, paired by job and lifetime, with Holm's correction.

    As `comparing.compare`, but every pair on the jobs that count for both: a rival need not take them all.
    """
    first, *rivals = all_sheets
    least = 1 + math.ceil(math.log2(max(len(rivals), 1) / alpha) - 1e-9)
    pairs = []
    for rival in rivals:
        theirs = {job.name: n for n, job in enumerate(rival.jobs)}
        rows = [n for n, job in enumerate(first.jobs) if job.name in theirs]
        a, b = first.scores[rows], rival.scores[[theirs[first.jobs[n].name] for n in rows]]
        families = first.families(np.array(rows, np.int64))
        if len(set(families)) >= max(least, 3):
            over, labels = "families", families
        elif a.shape[1] >= 3 and len(rows) * (a.shape[1] - 1) >= least - 1:
            over, labels = "lifetimes", None
        else:
            over, labels = "", None
        p = sign_flip_test(a, b, families=labels, seed=SEED) if over else 1.0
        pairs.append((rival.learner, a, b, over, labels, p))
    found = []
    for (name, a, b, over, labels, _), p in zip(pairs, holm([p for *_, p in pairs]) if pairs else (), strict=True):
        ours, theirs, improves = None, None, None
        if len(a):
            ours, theirs, improves = float(a.mean()), float(b.mean()), probability_of_improvement(a, b)
        if not over:
            found.append(Compared(name, len(a), ours, theirs, improves, "", None, None, "undecided", None))
            continue
        difference = paired_difference(a, b, families=labels, seed=SEED, level=1.0 - alpha / len(rivals))
        units = (a - b).ravel() if labels is None else np.array([(a - b)[f].mean() for f in clusters(labels, len(a))])
        deviation = float(units.std(ddof=1))
        found.append(
            Compared(
                name,
                len(a),
                ours,
                theirs,
                improves,
                over,
                difference,
                float(p),
                verdict(difference, float(p), margin=margin, alpha=alpha),
                minimum_detectable_effect(deviation, len(units)) if deviation > 0.0 else None,
            )
        )
    return found
