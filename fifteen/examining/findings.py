"""What a reader has to know before believing an exam's scores: failures, and reasons to think that it was rehearsed."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fifteen.examining.comparing import holm, sign_flip_test
from fifteen.examining.planning import TWIN
from fifteen.examining.records import (
    AttemptRecord,
    ExamHeader,
    Finding,
    LearnerNote,
    Split,
    counted_scores,
    finished_lifetimes,
)
from fifteen.examining.suites import Suite, SuiteJob

ALPHA = 0.05
"""Level of all comparisons with twins together."""
_LEAST_PAIRS = 6  # with fewer, no sign-flip test comes to a p-value of 0.05
_NAMED = 5  # jobs that a text names


def failures(header: ExamHeader, records: Sequence[AttemptRecord]) -> list[Finding]:
    """Attempts that failed, by learner, kind and problem; and lifetimes that were asked for and have no record."""
    jobs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for record in records:
        if record.failed:
            jobs[record.learner, record.status, record.problem].append(record.job)
    found = []
    for (learner, status, problem), where in sorted(jobs.items()):
        once = list(dict.fromkeys(where))
        text = f"{len(where)} attempts on {_list(once)}, counted as failures: {problem}"
        found.append(Finding(status, learner, once[0] if len(once) == 1 else "", text))  # pyright: ignore
    there = finished_lifetimes(records)
    for note in header.learners:
        runs = [(job, run) for job in header.attempts for run in range(header.runs)]
        if absent := list(dict.fromkeys(job for job, run in runs if (note.name, job, run) not in there)):
            text = f"no record of some lifetimes on {_list(absent)}, counted as failures"
            found.append(Finding("missing", note.name, absent[0] if len(absent) == 1 else "", text))
    return found


def overlap(suite: Suite, note: LearnerNote) -> list[Finding]:
    """What of the suite a learner of ours has met before, by its own record of what it was schooled and worked on.

    Jobs of the split "train" are there to be trained on, and are left out. What a record does not say (the seed of a
    drawn job, in records of older versions) counts as met: it cannot be ruled out. Of other learners nothing is known.
    """
    jobs = [job for job in suite.jobs if job.split != "train"]
    found = []
    for was in note.provenance.get("schooled", ()):
        families: Mapping[str, Sequence[str]] = was.get("families", {})
        held_out = [j.id for j in jobs if j.split == "held-out" and j.template in families.get(j.family, ())]
        named = {name.rpartition("/")[2] for name in families}
        outside = [job.id for job in jobs if not job.drawn and job.job in named]
        for met, what in ((held_out, "held-out templates"), (outside, "the environment")):
            if met:
                text = f"it was schooled on {what} of {_list(met)} (school with seed {was.get('seed')})"
                found.append(Finding("overlap", note.name, "", text))
    for was in note.provenance.get("worked", ()):
        met = [job for job in jobs if _is(job, was)]
        if met:
            doubt = "" if "kwargs" in was or not met[0].drawn else "; its record does not say with which seed"
            text = f"it worked {was.get('steps', 0):,} steps on {was['job']}: {_list([job.id for job in met])}{doubt}"
            found.append(Finding("overlap", note.name, met[0].id if len(met) == 1 else "", text))
    return found


def _is(job: SuiteJob, was: Mapping[str, Any]) -> bool:
    """Whether a job is the one that a record of work speaks of, as far as it says."""
    if was["job"] != job.job:
        return False
    if "kwargs" not in was:
        return True
    given: Mapping[str, Any] = was["kwargs"] or {}
    if not job.drawn:
        return dict(given) == dict(job.kwargs)
    # Without a template, one was drawn with the same seed: it may have been this one.
    return given.get("seed", 0) == job.seed and given.get("template", job.template) == job.template


def twins(records: Sequence[AttemptRecord], of_twins: Sequence[AttemptRecord]) -> list[Finding]:
    """Learners that do better on the suite's drawn jobs than on twins of the same templates that nobody has seen.

    A learner that met neither cannot tell a job from its twin, so that their scores can be exchanged, pair by pair: a
    sign-flip test over jobs, Holm over all learners and splits, no assumption beyond that. Means over lifetimes.
    """
    ours, theirs = _means(records), _means(of_twins)
    pairs: dict[tuple[str, Split], list[tuple[float, float]]] = defaultdict(list)
    for (learner, job), (score, split) in ours.items():
        if (learner, job + TWIN) in theirs:
            pairs[learner, split].append((score, theirs[learner, job + TWIN][0]))
    tested = {key: np.array(rows) for key, rows in pairs.items() if len(rows) >= _LEAST_PAIRS}
    if not tested:
        return []
    p_values = [sign_flip_test(rows[:, :1], rows[:, 1:], families=None, seed=0) for rows in tested.values()]
    found = []
    for ((learner, split), rows), p in zip(tested.items(), holm(p_values).tolist(), strict=True):
        score, twin = rows.mean(axis=0).tolist()
        if p <= ALPHA and score > twin:
            text = (
                f"it scores {score:.2f} on the {len(rows)} {split} jobs and {twin:.2f} on freshly drawn twins of them "
                f"(p = {p:.2g}): it has met these jobs before"
            )
            found.append(Finding("twins", learner, "", text))
    return found


def _means(records: Sequence[AttemptRecord]) -> dict[tuple[str, str], tuple[float, Split]]:
    """The mean score of each learner on each job, failures counted."""
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    splits: dict[tuple[str, str], Split] = {}
    for record, score in zip(records, counted_scores(records), strict=True):
        if score is not None:
            scores[record.learner, record.job].append(score)
            splits[record.learner, record.job] = record.split
    return {key: (float(np.mean(values)), splits[key]) for key, values in scores.items()}


def _list(jobs: Sequence[str]) -> str:
    more = len(jobs) - _NAMED
    return ", ".join(jobs[:_NAMED]) + (f" and {more} more" if more > 0 else "")
