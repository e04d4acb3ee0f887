"""Claim: of two students with equally much practice, the one who practised broadly does better elsewhere.

    python bench/claims/two_students.py           # run what is missing, then judge: bench/results/claims/
    python bench/claims/two_students.py --quick   # tiny schools; nothing is kept

Two learners of size "debug" go to school for the same number of steps. The specialist has all of it on one family. The
broad learner has 1 % on that family, at the end, and 99 % on four others. Both are then scored in context, weights as
they are, on jobs drawn anew for every seed:

- on the family: the templates that both were schooled on;
- on its held-out templates;
- on outside jobs: Gymnasium's environments with their own settings, which no school has, 20 attempts each. Two are like
  families of the broad learner, two like none that either has met.

0 is a uniformly random policy; 1 the family's reference, or the threshold at which an outside job counts as solved
(`development_jobs.py`).

Judged by differences paired by seed, their mean by the bootstrap over seeds: the specialist is better on the family;
the broad learner is better on the held-out templates; it is better on the outside jobs, mean over them. The claim holds
if the specialist is better on the family and the broad learner on the outside jobs, does not if one is the other way
round, and is undecided otherwise.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench: measuring, peers, yardsticks and the jobs

from claim_page import compared_with, shown, table, write_claim_page  # noqa: E402
from claim_runs import (  # noqa: E402
    CLAIMS,
    FAILS,
    HOLDS,
    LEAST_SEEDS,
    UNDECIDED,
    Runs,
    Verdict,
    judged,
    mean_over_seeds,
)
from claim_school import Examiner  # noqa: E402
from development_jobs import DEVELOPMENT_JOBS  # noqa: E402
from measuring import provenance  # noqa: E402

import fifteen  # noqa: E402
from fifteen.charts import Row, estimates  # noqa: E402
from fifteen.config import SchoolConfig  # noqa: E402
from fifteen.jobs.families import FAMILIES  # noqa: E402
from fifteen.jobs.family import read_split  # noqa: E402
from fifteen.learner import Learner  # noqa: E402

FAMILY = "control/cart-pole"
OTHERS = ("control/mountain-car", "control/acrobot", "work/maintenance", "work/pricing")
SHARE = 0.01  # of the broad learner's steps that are on the family
OUTSIDE = ("Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1")
SOLVED = {job.name: (job.threshold, job.make) for job in DEVELOPMENT_JOBS}
STUDENTS = ("specialist", "broad")
STEPS, LIFETIMES, EXAMINED, ATTEMPTS, EPISODES = 1_200_000, 64, 64, 3, 20
QUICK = {"steps": 8_192, "lifetimes": 64, "examined": 4, "attempts": 1, "episodes": 1, "outside": OUTSIDE[-1:]}
CHANCE = 200  # attempts of a uniformly random policy
TITLE = "Two students"


# ------------------------------------------------------------------------------------------------------- running


def settings(quick: bool) -> dict[str, Any]:
    full = {
        "steps": STEPS,
        "lifetimes": LIFETIMES,
        "examined": EXAMINED,
        "attempts": ATTEMPTS,
        "episodes": EPISODES,
        "outside": OUTSIDE,
    }
    return {"family": FAMILY, "others": OTHERS, "share": SHARE} | (QUICK if quick else full)


def perform(runs: Runs, chosen: dict[str, Any], seeds: Sequence[int]) -> None:
    """Run what is missing, seed by seed."""
    for name in chosen["outside"]:
        if runs.missing(f"chance/{name}", [0]):
            runs.add(f"chance/{name}", {0: chance(name, CHANCE if chosen["episodes"] > 1 else 2)})
    for seed in seeds:
        for student in STUDENTS:
            if not runs.missing(student, [seed]):
                continue
            began, learner = time.process_time(), schooled(student, seed, chosen["steps"], chosen["lifetimes"])
            scores = examined(learner, seed, chosen)
            runs.add(student, {seed: scores})
            told = ", ".join(f"{where} {score:.3g}" for where, score in scores.items())
            print(f"{student}, seed {seed}: {told} ({time.process_time() - began:.0f} s of processor)", flush=True)


def schooled(student: str, seed: int, steps: int, lifetimes: int) -> Learner:
    learner, config = fifteen.new(size="debug", seed=seed), SchoolConfig(lifetimes=lifetimes)
    if student == "specialist":
        fifteen.school(learner, [FAMILY], steps, seed, config=config)
    else:
        fifteen.school(learner, OTHERS, round((1.0 - SHARE) * steps), seed, config=config)
        fifteen.school(learner, [FAMILY], round(SHARE * steps), seed, config=config)
    return learner


def examined(learner: Learner, seed: int, chosen: dict[str, Any]) -> dict[str, float]:
    """Scores on the family and its held-out templates; mean returns on the outside jobs."""
    split = read_split()
    examiner = Examiner(learner, FAMILIES[FAMILY], chosen["attempts"], chosen["examined"])
    scores = {
        "family": examiner.score(split.train[FAMILY], 10_000 + seed),
        "held out": examiner.score(split.held_out[FAMILY], 20_000 + seed),
    }
    for name in chosen["outside"]:
        stats = fifteen.evaluate(learner, SOLVED[name][1], episodes=chosen["episodes"], seed=seed)
        scores[name] = float(stats.mean)
    return scores


def chance(name: str, attempts: int) -> float:
    """Mean return of a uniformly random policy."""
    environment = SOLVED[name][1]()
    environment.action_space.seed(0)
    returns = []
    for attempt in range(attempts):
        environment.reset(seed=attempt)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    environment.close()
    return float(np.mean(returns))


# ------------------------------------------------------------------------------------------------------- judging


def scores_of(runs: Runs, outside: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """By student and place: float64[seeds] of the seeds that both have, 0 for chance and 1 for the reference."""
    found = {student: runs.of(student) for student in STUDENTS}
    seeds = sorted(set.intersection(*(set(rows) for rows in found.values())))
    scores: dict[str, dict[str, np.ndarray]] = {}
    for student, rows in found.items():
        scores[student] = {
            place: np.array([rows[seed][place] for seed in seeds], np.float64)
            for place in ("family", "held out", *outside)
        }
        for name in outside:
            low, high = runs.of(f"chance/{name}")[0], SOLVED[name][0]
            scores[student][name] = (scores[student][name] - low) / (high - low)
        scores[student]["outside"] = np.mean([scores[student][name] for name in outside], axis=0)
    return scores


def verdicts_of(scores: dict[str, dict[str, np.ndarray]]) -> list[Verdict]:
    def difference(place: str) -> Any:
        return mean_over_seeds(scores["broad"][place] - scores["specialist"][place])

    why = "score of the broad learner less that of the specialist"
    home = judged("The specialist is better on its family", difference("family"), above=0.0, why=why, sign=-1.0)
    held_out = judged("The broad learner is better on held-out templates", difference("held out"), above=0.0, why=why)
    outside = judged("The broad learner is better on outside jobs", difference("outside"), above=0.0, why=why)
    words = [home.word, outside.word]
    word = FAILS if FAILS in words else HOLDS if set(words) == {HOLDS} else UNDECIDED
    claim = "Practice on one family makes the best of that family, broad practice the best elsewhere"
    return [Verdict(claim, word, None, f"family: {home.word}; outside: {outside.word}"), home, held_out, outside]


def conclude(runs: Runs, outside: Sequence[str]) -> list[Verdict]:
    """Judge, write the results, and the page."""
    scores = scores_of(runs, outside)
    verdicts = verdicts_of(scores)
    means = {student: {place: mean_over_seeds(x) for place, x in row.items()} for student, row in scores.items()}
    count = len(scores["broad"]["family"])
    runs.conclude(
        {
            "verdicts": [verdict._asdict() for verdict in verdicts],
            "seeds": count,
            "scores": {student: {place: vars(x) for place, x in row.items()} for student, row in means.items()},
        }
    )
    lead = (
        f"{count} pairs of small minds with equally much schooling. The specialist has all of it on {FAMILY}; the "
        f"broad learner has {100 * SHARE:g} % there and the rest on {', '.join(OTHERS)}."
    )
    rows = [
        Row(student, x.estimate, x.low, x.high, shown(x), style, scores[student][place].tolist(), place)
        for place in ("family", "held out", *outside)
        for student, style in zip(STUDENTS, ("c2", "c1"), strict=True)
        for x in [means[student][place]]
    ]
    everywhere = estimates(
        "Scores by where they were asked",
        "0 is a uniformly random policy; 1 the family's reference, or the threshold of an outside job. Dots are seeds.",
        rows,
        x_label="score in context",
        marks=(0.0, 1.0),
    )
    beside = compared_with(0.0, "What was claimed", "Broad learner less specialist.", verdicts, "difference of scores")
    cells = [[place, *(shown(means[student][place]) for student in STUDENTS)] for place in means["broad"]]
    tables = [table("Scores", ("where", *STUDENTS), cells, "Mean over seeds with its interval of 95 %.")]
    write_claim_page(runs, TITLE, lead, verdicts, (), [[everywhere], [beside]], tables)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="tiny schools; nothing is kept")
    arguments = parser.parse_args()
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    fifteen.cache_compilations()
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) if arguments.quick else CLAIMS
        chosen = settings(arguments.quick)
        runs = Runs(folder / "two_students.json", chosen, provenance(parser, arguments))
        perform(runs, chosen, range(1 if arguments.quick else arguments.seeds))
        if arguments.quick or arguments.seeds < LEAST_SEEDS:
            print(f"not judged: that takes {LEAST_SEEDS} seeds")
            return
        for verdict in conclude(runs, chosen["outside"]):
            print(f"{verdict.claim}: {verdict.word} ({verdict.told})")


if __name__ == "__main__":
    main()
