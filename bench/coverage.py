"""How often an exam's intervals hold the truth, and whether the two ends of CVaR lie on either side of it.

    python bench/coverage.py           # run what is missing, three minutes of one core: bench/results/coverage.json
    python bench/coverage.py --quick   # a little of everything; nothing is kept

Learners are simulated, so that their true score is known, 1,000 for each case. Asked is what a page asks
(`sheets.estimated`: the interquartile mean, and the interval at the level that the sample can bear; 400 resamples
instead of 10,000, which costs about half a point). A score is the sum of normal effects of the family, the job and the
lifetime, with the standard deviations of SPREADS; or, "successes", the share of ten attempts that succeed, with normal
effects on the logit of the chance: bounded, skewed and full of ties. Truth is the interquartile mean of infinitely many
families; with "these jobs" of infinitely many lifetimes on the same jobs.

Beside it, where the interval is over lifetimes, the plain percentile bootstrap of 95 % over these, as rliable has it.

Targets: with 30 families and 20 lifetimes, intervals of 95 % cover 93 to 97 %, however much families differ. With
fewer the coverage is told, and is below what the interval says by no more than 3 points. CVaR of 1, 5 and 10 % of 100
jobs: the same-data end is at most the truth, in expectation, and the double-sampled end at least.
"""

import argparse
import json
import time
from typing import Any, NamedTuple

import numpy as np
from measuring import RESULTS, provenance, write_result

from fifteen.examining.sheets import Sheet, estimated
from fifteen.examining.stats import cvar, failure_bound, interquartile_mean
from fifteen.examining.summary import tails

NAME = "coverage"
REPEATS, RESAMPLES = 1_000, 400
SPREADS = {  # standard deviations of family, job and lifetime
    "families alike": (0.0, 0.1, 0.1),
    "all alike": (0.0, 0.0, 0.1),
    "equal": (0.1, 0.1, 0.1),
    "families differ most": (0.3, 0.1, 0.1),
    "successes": (1.0, 1.0, 0.5),  # of the logit
}
MIDDLE = 0.7  # of the logit
TRIALS = 10
JOBS, LIFETIMES = 100, 5  # of CVaR
LOW, HIGH = 0.93, 0.97


class Case(NamedTuple):
    """Families of jobs, lifetimes on each, and how they differ."""

    families: int  # 1: the interval is over lifetimes, on these jobs
    jobs: int  # of each family
    lifetimes: int
    spread: str

    @property
    def name(self) -> str:
        return f"{self.families} x {self.jobs} x {self.lifetimes}, {self.spread}"


CASES = (
    *(Case(30, 4, 20, spread) for spread in SPREADS),
    *(Case(30, 1, 20, spread) for spread in ("equal", "successes")),
    *(Case(23, 4, 5, spread) for spread in ("families alike", "equal", "successes")),  # the default suite
    *(Case(families, 4, 5, "equal") for families in (8, 7, 6, 5, 4, 3)),
    *(Case(1, jobs, lifetimes, "equal") for jobs, lifetimes in ((10, 20), (10, 5), (1, 20), (1, 5))),
)


# ----------------------------------------------------------------------------------------------------- simulating


def scores(case: Case, generator: np.random.Generator, easiness: np.ndarray | None = None) -> np.ndarray:
    """float64[families * jobs, lifetimes]. easiness: of the jobs, where they are the same in all repeats."""
    family, job, lifetime = SPREADS[case.spread]
    count = case.families * case.jobs
    if easiness is None:
        easiness = np.repeat(family * generator.standard_normal(case.families), case.jobs)
        easiness = easiness + job * generator.standard_normal(count)
    found = easiness[:, None] + lifetime * generator.standard_normal((count, case.lifetimes))
    if case.spread != "successes":
        return found
    return generator.binomial(TRIALS, 1.0 / (1.0 + np.exp(-MIDDLE - found))) / TRIALS


def truth(case: Case) -> float:
    """0 by symmetry, or from a million families of one job and lifetime."""
    if case.spread != "successes":
        return 0.0
    return interquartile_mean(scores(Case(1_000_000, 1, 1, case.spread), np.random.default_rng(1)))


def these_jobs(case: Case) -> np.ndarray | None:
    """Jobs that stay, evenly spread so that their interquartile mean is 0; None: every repeat has jobs of its own."""
    if case.families > 1:
        return None
    return 0.1 * np.linspace(-1.0, 1.0, case.jobs) if case.jobs > 1 else np.zeros(1)


def percentile_holds(sample: np.ndarray, true: float, generator: np.random.Generator) -> bool:
    """Whether the plain percentile bootstrap of 95 % over the lifetimes of each job holds the truth."""
    jobs, lifetimes = sample.shape
    columns = generator.integers(lifetimes, size=(RESAMPLES, jobs, lifetimes))
    found = [interquartile_mean(sample[np.arange(jobs)[:, None], drawn]) for drawn in columns]
    low, high = np.quantile(found, [0.025, 0.975])
    return bool(low <= true <= high)


def share(count: int, repeats: int) -> dict[str, float]:
    """A share with the exact interval of 95 % (Clopper & Pearson)."""
    return {
        "estimate": count / repeats,
        "low": 1.0 - failure_bound(repeats - count, repeats, 0.975),
        "high": failure_bound(count, repeats, 0.975),
    }


def coverage(case: Case, repeats: int) -> dict[str, Any]:
    generator, drawing = np.random.default_rng(0), np.random.default_rng(1)
    families = [f"family {n // case.jobs:02d}" for n in range(case.families * case.jobs)]
    true, stay = truth(case), these_jobs(case)
    held = plain = 0
    widths, level, over = [], 0.0, ""
    for _ in range(repeats):
        sample = scores(case, generator, stay)
        interval = (found := estimated(sample, families, resamples=RESAMPLES)).interval
        assert interval is not None
        level, over = interval.level, found.over
        held += interval.low <= true <= interval.high
        widths.append(interval.high - interval.low)
        if over == "lifetimes":
            plain += percentile_holds(sample, true, drawing)
    record = {"level": level, "over": over, "covered": share(held, repeats), "median width": float(np.median(widths))}
    return record | ({"plain percentile of 95 %": share(plain, repeats)} if over == "lifetimes" else {})


# ------------------------------------------------------------------------------------------------------ the worst


def bracket(noise: str, repeats: int) -> dict[str, Any]:
    """The two ends of CVaR less the truth, mean over repeats and its standard error; JOBS jobs of LIFETIMES each."""
    generator = np.random.default_rng(2)
    found: dict[float, list[tuple[float, float, float]]] = {}
    for _ in range(repeats):
        true = generator.beta(4.0, 2.0, JOBS)
        if noise == "normal":
            sample = true[:, None] + 0.2 * generator.standard_normal((JOBS, LIFETIMES))
        else:
            sample = generator.binomial(1, true[:, None], (JOBS, LIFETIMES)).astype(np.float64)
        for tail in tails(Sheet("", (), sample, (), (), (), ())):
            assert tail.same is not None and tail.double is not None
            right = cvar(true, tail.share)
            found.setdefault(tail.share, []).append((tail.same - right, tail.double - right, right))
    record = {}
    for worst, rows in found.items():
        mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(repeats)
        record[f"{worst:g}"] = {
            "truth": float(mean[2]),
            "same data less truth": [float(mean[0]), float(error[0])],
            "double sampled less truth": [float(mean[1]), float(error[1])],
        }
    return record


# ------------------------------------------------------------------------------------------------------- running


def judged(coverages: dict[str, Any], brackets: dict[str, Any]) -> dict[str, bool]:
    """Whether the targets are met, as far as estimates say; with a standard error of 0.7 points of a coverage."""
    large = [coverages[case.name]["covered"]["estimate"] for case in CASES if case.families == 30]
    others = [one["covered"]["estimate"] - one["level"] for one in coverages.values()]
    ends = [row for one in brackets.values() for row in one.values()]
    return {
        "30 families, 20 lifetimes: 93 to 97 %": all(LOW <= one <= HIGH for one in large),
        "nowhere more than 3 points too few": min(others) >= -0.03,
        "same data at most the truth": all(
            row["same data less truth"][0] <= 2.0 * row["same data less truth"][1] for row in ends
        ),
        "double sampled at least the truth": all(
            row["double sampled less truth"][0] >= -2.0 * row["double sampled less truth"][1] for row in ends
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a little of everything; nothing is kept")
    arguments = parser.parse_args()
    repeats = 20 if arguments.quick else REPEATS
    path = RESULTS / f"{NAME}.json"
    settings = {"repeats": repeats, "resamples": RESAMPLES, "spreads": SPREADS, "trials": TRIALS, "middle": MIDDLE}
    record: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "coverage": {}, "cvar": {}}
    if path.is_file() and not arguments.quick and (was := json.loads(path.read_text()))["settings"] == settings:
        record = was
    record |= provenance(parser, arguments)
    for case in CASES:
        if case.name in record["coverage"]:
            continue
        began = time.monotonic()
        record["coverage"][case.name] = found = coverage(case, repeats)
        plain = (
            f", plain percentile {found['plain percentile of 95 %']['estimate']:.3f}"
            if "plain percentile of 95 %" in found
            else ""
        )
        print(
            f"{case.name}: {found['level']:.0%} over {found['over']} covers {found['covered']['estimate']:.3f}{plain}, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        if not arguments.quick:
            write_result(NAME, record)
    for noise in ("normal", "successes"):
        if noise not in record["cvar"]:
            record["cvar"][noise] = bracket(noise, repeats)
            print(noise, json.dumps(record["cvar"][noise]))
    record["verdicts"] = judged(record["coverage"], record["cvar"])
    print(json.dumps(record["verdicts"], indent=1))
    if not arguments.quick:
        write_result(NAME, record)


if __name__ == "__main__":
    main()
