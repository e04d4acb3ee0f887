"""Exams of learners whose true scores are known, for the tests of the page and of its numbers."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from fifteen.examining.records import AttemptRecord, ExamHeader, Finding, LearnerNote, Split, Value
from fifteen.examining.stats import bootstrap_interval

FAMILIES = tuple(
    f"{group}/{name}"
    for group, names in {
        "bandit": ("bernoulli", "gaussian", "contextual", "drifting"),
        "mdp": ("tabular",),
        "grid": ("dark-room", "key-door", "frozen-lake", "maze", "rules"),
        "control": ("cart-pole", "mountain-car", "pendulum", "acrobot"),
        "linear": ("random",),
        "recall": ("t-maze", "memory-chain", "repeat-previous"),
        "work": ("inventory", "pricing", "queue", "maintenance", "diagnosis"),
    }.items()
    for name in names
)
HASH = "5f3a" * 16


def coarse_interval(*arguments, **named):
    """bootstrap_interval with few resamples, to stand in its place where tests make many: ends known to a tenth."""
    return bootstrap_interval(*arguments, **{**named, "resamples": 300})


RECORD = AttemptRecord(
    learner="ours",
    job="job",
    family="family",
    template="",
    split="held-out",
    run=0,
    attempt=0,
    attempts=1,
    status="ok",
    problem="",
    return_=1.0,
    score=0.5,
    length=10,
    terminated=True,
    steps_before=0,
    seconds=0.1,
    values=(),
    suite="simulated",
    suite_version=3,
    suite_hash=HASH,
)
"""To be changed with dataclasses.replace."""


def header_of(
    records: Sequence[AttemptRecord], runs: int, findings: Sequence[Finding] = (), openings: int | None = None
) -> ExamHeader:
    """The header of an exam that asked for what these records have."""
    return ExamHeader(
        suite="simulated",
        suite_version=3,
        suite_hash=HASH,
        openings=openings,
        access="drawn by the tests; nobody tuned to it",
        learners=tuple(
            LearnerNote(name, "fifteen", f"minds/{name}", {"families": len(FAMILIES), "steps": 92_000_000})
            for name in dict.fromkeys(record.learner for record in records)
        ),
        arguments={"suite": "simulated", "learn": "context", "processes": 2},
        commit="4f1c2ab93d10",
        dirty=False,
        versions={"python": "3.11.9", "jax": "0.10.2", "numpy": "2.3.1"},
        device="AMD EPYC (cpu, 2 cores)",
        started="2026-01-15T09:30:00Z",
        runs=runs,
        attempts={record.job: record.attempts for record in records},
        thresholds={record.job: 0.9 for record in records if record.split == "outside"},
        findings=tuple(findings),
        seconds=431.0,
    )


def simulated_records(
    truth: Mapping[str, Mapping[Split, float]],
    *,
    families: Sequence[str] = FAMILIES,
    jobs: int = 4,
    runs: int = 3,
    attempts: int = 20,
    family_spread: float = 0.2,
    job_spread: float = 0.1,
    run_spread: float = 0.05,
    attempt_spread: float = 0.1,
    hopes: float = 0.2,
    seed: int = 0,
) -> list[AttemptRecord]:
    """Records of learners by name, whose expected score of the whole lifetime on each split is known.

    A score is the truth of its split plus normal effects of the family, the job, the lifetime and the attempt, with
    these standard deviations; families and jobs are the same for all learners. Within a lifetime it grows by 0.4. Of
    what was obtained, normal with a standard deviation of 1, learners foresee 0.8 of the variance and hope for `hopes`
    more.
    """
    generator = np.random.default_rng(seed)
    growth = 1.0 - np.exp(-np.arange(attempts) / (0.2 * attempts))
    growth = 0.4 * (growth - growth.mean()) / max(np.ptp(growth), 1e-9)
    records = []
    easier = family_spread * generator.standard_normal(len(families))
    for f, family in enumerate(families):
        for split in next(iter(truth.values())):
            for j in range(jobs):
                of_job = easier[f] + job_spread * generator.standard_normal()
                horizon = int(np.exp(generator.uniform(np.log(5), np.log(500))))
                for learner, by_split in truth.items():
                    for run in range(runs):
                        base = by_split[split] + of_job + run_spread * generator.standard_normal()
                        scores = base + growth + attempt_spread * generator.standard_normal(attempts)
                        foreseen = np.sqrt(0.8) * generator.standard_normal((attempts, 4))
                        obtained = foreseen + np.sqrt(0.2) * generator.standard_normal((attempts, 4))
                        for attempt, score in enumerate(scores.tolist()):
                            pairs = zip((foreseen[attempt] + hopes).tolist(), obtained[attempt].tolist(), strict=True)
                            records.append(
                                dataclasses.replace(
                                    RECORD,
                                    learner=learner,
                                    job=f"{family}/{split}-{j}",
                                    family=family,
                                    template=f"{split}-{j}",
                                    split=split,
                                    run=run,
                                    attempt=attempt,
                                    attempts=attempts,
                                    return_=100.0 * score,
                                    score=score,
                                    length=horizon,
                                    steps_before=horizon * attempt,
                                    values=tuple(Value(k * horizon // 4, *pair) for k, pair in enumerate(pairs)),
                                )
                            )
    return records
