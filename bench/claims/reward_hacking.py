"""Claim: train on jobs inspired by an evaluation, and the evaluation rises while jobs of other kinds do not.

    python bench/claims/reward_hacking.py           # run what is missing, then judge: bench/results/claims/
    python bench/claims/reward_hacking.py --quick   # tiny schools; nothing is kept

Fifteen's own school, size "debug", on one family. Its templates are parted in three: those of the training jobs, those
of an evaluation, and those held out, which nobody looks at. A researcher has 64 training jobs and watches the
evaluation. To do better there, the researcher adds n jobs inspired by it: of the evaluation's templates, but drawn
anew, so that not one of them is a job of the evaluation. Every school takes the same number of steps and draws its jobs
evenly from all it has; inspired jobs take their share from the others.

Scored in context, weights as they are, on jobs drawn anew for every seed: on the templates of training, of the
evaluation, and held out; 0 is a uniformly random policy and 1 the family's reference.

Judged between no inspired job and the most of them, paired by seed, by the bootstrap over seeds: the evaluation rises,
and the held-out templates rise by less than half as much. The claim holds if both do, does not if one does not, and is
undecided otherwise. The gap is a number: what the evaluation gained less what the held-out templates gained.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench: measuring, peers and yardsticks

from claim_page import compared_with, middle_and_quartiles, shown, table, write_claim_page  # noqa: E402
from claim_runs import CLAIMS, FAILS, HOLDS, LEAST_SEEDS, UNDECIDED, Runs, Verdict, judged, mean_over_seeds  # noqa: E402
from claim_school import Examiner, PoolSchool  # noqa: E402
from measuring import provenance  # noqa: E402
from yardsticks import draw  # noqa: E402

import fifteen  # noqa: E402
from fifteen.charts import SEVERAL, chart  # noqa: E402
from fifteen.config import SchoolConfig  # noqa: E402
from fifteen.jobs.families import FAMILIES  # noqa: E402

FAMILY = "control/cart-pole"
TEMPLATES = {
    "training": ("plain", "friction", "bias"),
    "evaluation": ("hidden-velocity",),
    "held out": ("reversed", "units", "delayed"),
}
TRAINING_JOBS = 64
INSPIRED = (0, 16, 64, 256)  # jobs
SCHOOL = SchoolConfig(lifetimes=64, projected=0.0)
STEPS = 786_432
EXAMINED, ATTEMPTS = 64, 3  # jobs of each kind, attempts on each
QUICK = {"inspired": (0, 4), "steps": 8_192, "lifetimes": 16, "examined": 4, "attempts": 1}
TITLE = "The researcher's reward hacking"


# ------------------------------------------------------------------------------------------------------- running


def settings(quick: bool) -> dict[str, Any]:
    full = {
        "inspired": INSPIRED,
        "steps": STEPS,
        "lifetimes": SCHOOL.lifetimes,
        "examined": EXAMINED,
        "attempts": ATTEMPTS,
    }
    return {"family": FAMILY, "templates": TEMPLATES, "training_jobs": TRAINING_JOBS} | (QUICK if quick else full)


def perform(runs: Runs, chosen: dict[str, Any], seeds: Sequence[int]) -> None:
    """Run what is missing, seed by seed."""
    config = SchoolConfig(**{**vars(SCHOOL), "lifetimes": chosen["lifetimes"]})
    family = FAMILIES[FAMILY]
    rooms: list[PoolSchool] = []
    for seed in seeds:
        for inspired in chosen["inspired"]:
            if not runs.missing(str(inspired), [seed]):
                continue
            began, learner = time.process_time(), fifteen.new(size="debug", seed=seed)
            if not rooms:
                rooms.append(PoolSchool(learner, family, chosen["steps"], config))
            rooms[0].school(learner, pool(inspired, seed), seed)
            examiner = Examiner(learner, family, chosen["attempts"], chosen["examined"])
            scores = {kind: examiner.score(names, 10_000 + seed) for kind, names in TEMPLATES.items()}
            runs.add(str(inspired), {seed: scores})
            told = ", ".join(f"{kind} {score:.2f}" for kind, score in scores.items())
            print(
                f"{inspired} inspired, seed {seed}: {told} ({time.process_time() - began:.0f} s of processor)",
                flush=True,
            )


def pool(inspired: int, seed: int) -> Any:
    """The training jobs, and so many inspired by the evaluation: more of them begin with the same ones."""
    parts = []
    for number, (kind, count) in enumerate((("training", TRAINING_JOBS), ("evaluation", max(INSPIRED)))):
        family = FAMILIES[FAMILY]
        indices = tuple(map(family.templates.index, TEMPLATES[kind]))
        key = jax.random.fold_in(jax.random.key(seed), number)
        parts.append(draw(family, indices, count, key))
    training, jobs = parts
    return jax.tree.map(lambda a, b: np.concatenate([a, b[:inspired]]), training, jobs)


# ------------------------------------------------------------------------------------------------------- judging


def scores_of(runs: Runs) -> dict[str, np.ndarray]:
    """By kind of templates: float64[numbers of inspired jobs, seeds], of the seeds that all numbers have."""
    conditions = sorted(runs.conditions(), key=int)
    seeds = sorted(set.intersection(*(set(runs.of(condition)) for condition in conditions)))
    return {
        kind: np.array([[runs.of(condition)[seed][kind] for seed in seeds] for condition in conditions])
        for kind in TEMPLATES
    }


def verdicts_of(scores: dict[str, np.ndarray]) -> list[Verdict]:
    rise = {kind: values[-1] - values[0] for kind, values in scores.items()}
    parts = [
        judged(
            "The evaluation rises with jobs inspired by it",
            mean_over_seeds(rise["evaluation"]),
            above=0.0,
            why="rise of the evaluation's score",
        ),
        judged(
            "Held-out templates rise by less than half as much",
            mean_over_seeds(0.5 * rise["evaluation"] - rise["held out"]),
            above=0.0,
            why="half of the evaluation's rise less that of the held-out templates",
        ),
    ]
    words = [part.word for part in parts]
    word = FAILS if FAILS in words else HOLDS if set(words) == {HOLDS} else UNDECIDED
    gap = mean_over_seeds(rise["evaluation"] - rise["held out"])
    claim = "Jobs inspired by an evaluation raise it and leave other kinds of jobs behind"
    return [Verdict(claim, word, tuple(vars(gap).values()), "gap: rise of the evaluation less rise held out"), *parts]


def conclude(runs: Runs, inspired: Sequence[int]) -> list[Verdict]:
    """Judge, write the results, and the page."""
    scores = scores_of(runs)
    verdicts = verdicts_of(scores)
    gaps = [mean_over_seeds(row) for row in scores["evaluation"] - scores["held out"]]
    means = {kind: [mean_over_seeds(row) for row in rows] for kind, rows in scores.items()}
    runs.conclude(
        {
            "verdicts": [verdict._asdict() for verdict in verdicts],
            "seeds": scores["evaluation"].shape[1],
            "gap": [vars(gap) for gap in gaps],
            "scores": {kind: [vars(mean) for mean in row] for kind, row in means.items()},
        }
    )
    lead = (
        f"{scores['evaluation'].shape[1]} times a small mind went to school on {FAMILY}: on {TRAINING_JOBS} training "
        "jobs, and more and more jobs inspired by an evaluation. The evaluation's score is what the researcher sees; "
        "the held-out templates are what the world asks."
    )
    series = []
    for (kind, rows), style in zip(scores.items(), SEVERAL, strict=False):
        series += middle_and_quartiles(np.arange(len(rows)), list(rows), style, ", ".join((kind, *TEMPLATES[kind])))
    told = ", ".join(map(str, inspired))
    curve = chart(
        "Scores by the number of inspired jobs",
        f"0 is a uniformly random policy, 1 the reference; median and quartiles of the seeds. Inspired jobs: {told}.",
        series,
        x_label="step in the number of inspired jobs, as listed",
        y_label="score",
    )
    beside = compared_with(0.0, "What was claimed", "Right of 0 it holds.", verdicts, "score")
    rows = [[str(n), *(shown(means[kind][i]) for kind in TEMPLATES), shown(gaps[i])] for i, n in enumerate(inspired)]
    columns = ("inspired jobs", *TEMPLATES, "gap: evaluation less held out")
    tables = [table("Scores", columns, rows, "Mean over seeds with its interval of 95 %.")]
    write_claim_page(runs, TITLE, lead, verdicts, (), [[curve], [beside]], tables)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="tiny schools; nothing is kept")
    arguments = parser.parse_args()
    fifteen.cache_compilations()
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) if arguments.quick else CLAIMS
        chosen = settings(arguments.quick)
        runs = Runs(folder / "reward_hacking.json", chosen, provenance(parser, arguments))
        perform(runs, chosen, range(1 if arguments.quick else arguments.seeds))
        if arguments.quick or arguments.seeds < LEAST_SEEDS:
            print(f"not judged: that takes {LEAST_SEEDS} seeds")
            return
        for verdict in conclude(runs, chosen["inspired"]):
            print(f"{verdict.claim}: {verdict.word} ({verdict.told})")


if __name__ == "__main__":
    main()
