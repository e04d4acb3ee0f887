"""Claim: a value function short-circuits the wait. Learning from the outcome only, and with a value function, by delay.

    python bench/claims/delay.py           # run what is missing, then judge: bench/results/claims/delay.json and .html
    python bench/claims/delay.py --quick   # a few episodes of everything; nothing is kept

Three tasks whose reward comes `horizon` steps after what it is for (`delay_tasks.py`). When a task is solved is told by
the episodes of training, exploration included.

- chain: T decisions, right or wrong; seen are time and how many were right. The share of right ones is the reward, at
  the end. Solved: mean reward of the last 100 episodes 0.9.
- key to door (after Hung et al., 2019): eight moves in a room of 3 x 3 cells with a key in a corner, then D steps in
  which good and bad apples come at even odds (0.5, -0.5), then 1 if the key was fetched. Seen are time, place and key.
  Solved: the key in 0.9 of the last 100 episodes.
- watch repair (Arjona-Medina et al., 2019, "RUDDER", as in their code ml-jku/rudder-demonstration-code): whether to
  repair a watch of one of four brands, equally frequent. Sales price 18, 28, 31, 59; cost of repair, paid at once,
  normal, mean 1, 4, 5, 24.5, deviation 2, 2, 2, 1; cost of delivery, paid with the price in the last step, normal, mean
  0.5, 2.5, 4.5, 18, deviation 1.5, and 0.1 for each traffic jam and 7 for each flat tyre, of which every step has one
  with the chances 0.1 and 0.05. Not to repair brings nothing. Seen are brand, repaired or not, time, and the numbers of
  jams and of tyres (from 19 and 11 on not told apart). Theirs has 50 steps; with T steps the chances are times 50 / T
  here, so that the delay grows and the noise hardly. Rewards are divided by 10. Solved: the better decision in 0.9 of
  the last 250 episodes.

Learners (`delay_learners.py`), all with gamma = 1, knowing nothing at first:

- policy gradient: REINFORCE with a running mean of the returns from each initial state (GRPO's mean of a group),
  against an actor-critic (advantage: lambda-return less V, lambda 0 or 0.9) whose V is a table, and one whose V is
  linear in a few features (what was achieved, time left): a value function that generalises. All policies are tables.
- action values, epsilon-greedy (0.1): Monte-Carlo control, every visit (lambda 1), against Peng's Q(lambda), lambda 0,
  0.5 or 0.9; beside it lambda = 0 alone, TD(0).
- value known: the actor-critic with lambda = 0 and the true values, which it never changes. That is what a value
  function is worth once it is there; the others have to learn it from the same episodes. Not counted in the verdict.

Every learner has the step sizes (and lambda) that solve the task in 18 of 20 seeds first, in a search over a grid at
every horizon, with seeds of its own. A value function adds choices to the grid, which favours the claim.

Judged: median episodes to solve grow as horizon^b (least squares on logarithms). By task and learner with a learned
value function, the claim holds where its b is below that of the same kind of learner with the outcome only, and does
not where it is above: by the bootstrap interval of the difference over seeds, wide enough for all comparisons together.
The claim as a whole holds if it does in all, does not if it does in none and is the other way round in one, and is
undecided otherwise: it depends on the case. A run that is not solved counts as the budget; a fit ends with the first
horizon at which one of the two learners solves less than half of its runs, and before it where neither does (longer
ones are not run). So an unsolved learner grows at least as quickly as is said.

Beside it, at 50 steps, TD and Monte-Carlo with the settings of RUDDER's code (step size 0.1, epsilon 0.1, all values 10
at first), until 0.95 of the last 750 decisions are right. Published there, of seeds 1 to 3: TD 71,800 to 71,900
episodes, MC 27,700 to more than 240,000, RUDDER 1,900 to 3,800 (not run here).
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench: measuring and peers

from claim_page import compared_with, middle_and_quartiles, shown, table, write_claim_page  # noqa: E402
from claim_runs import CLAIMS, FAILS, HOLDS, UNDECIDED, Runs, Verdict, judged  # noqa: E402
from delay_learners import CHUNK, EXPLORATION, LEARNERS, Settings, episodes_to_solve, tuned  # noqa: E402
from delay_tasks import TASKS  # noqa: E402
from measuring import provenance  # noqa: E402

import fifteen  # noqa: E402
from fifteen.charts import SEVERAL, chart  # noqa: E402
from fifteen.examining.stats import Interval, bootstrap_interval  # noqa: E402

HORIZONS = {
    "chain": (4, 6, 8, 12, 16, 24, 32),
    "key to door": (4, 8, 16, 32, 64, 128),
    "watch repair": (6, 12, 25, 50, 100),
}
QUICK = {"chain": (4,)}
BUDGET = 30_000  # episodes
TUNING = range(1000, 1020)  # seeds of no run that counts
ENOUGH = 18  # of them solved
# Learners with a learned value function, and the one of the same kind with the outcome only.
PAIRS = {"actor-critic": "REINFORCE", "actor-critic, linear": "REINFORCE", "Q(lambda)": "Monte-Carlo control"}
GIVEN = {"value known": "REINFORCE"}
CHARTED = [name for name in LEARNERS if name != "TD(0)"]
PUBLISHED = {"horizon": 50, "rate": 0.1, "value": 10.0, "window": 750, "threshold": 0.95, "budget": 300_000}
PUBLISHED_TRACES = {"published TD": 0.0, "published MC": 1.0}
TITLE = "A value function short-circuits the wait"

Table = dict[tuple[str, str, int], np.ndarray]  # by task, learner, horizon: episodes float64[seeds], NaN: not solved


# ------------------------------------------------------------------------------------------------------- running


def settings() -> dict[str, Any]:
    return {
        "horizons": HORIZONS,
        "budget": BUDGET,
        "exploration": EXPLORATION,
        "tuning_seeds": len(TUNING),
        "enough": ENOUGH,
        "grids": {name: [list(one) for one in learner.grid] for name, learner in LEARNERS.items()},
        "published": PUBLISHED,
    }


def perform(runs: Runs, seeds: Sequence[int], quick: bool) -> None:
    """Run what is missing."""
    for task_name, horizons in (QUICK if quick else HORIZONS).items():
        budget = CHUNK if quick else BUDGET
        for name, horizon in itertools.product(LEARNERS, horizons):
            condition = f"{task_name}/{name}/{horizon}"
            missing = runs.missing(condition, seeds)
            if not missing or _hopeless(runs, task_name, name, horizon):
                continue
            began, task, learner = time.monotonic(), TASKS[task_name](horizon), LEARNERS[name]
            chosen = tuned(task, learner, budget, TUNING[:2] if quick else TUNING, 2 if quick else ENOUGH)
            (found,) = episodes_to_solve(task, learner, [chosen], missing, budget)
            _add(runs, condition, missing, found, chosen, began)
    task = TASKS["watch repair"](PUBLISHED["horizon"])
    task = task._replace(window=PUBLISHED["window"], threshold=PUBLISHED["threshold"])
    for name, trace in PUBLISHED_TRACES.items():
        condition = f"watch repair/{name}/{PUBLISHED['horizon']}"
        if missing := runs.missing(condition, seeds):
            began, chosen = time.monotonic(), Settings(PUBLISHED["rate"], 0.0, trace)
            budget, value = 4 * CHUNK if quick else PUBLISHED["budget"], PUBLISHED["value"] / 10.0  # as rewards are
            (found,) = episodes_to_solve(task, LEARNERS["TD(0)"], [chosen], missing, budget, value=value)
            _add(runs, condition, missing, found, chosen, began)


def _hopeless(runs: Runs, task: str, name: str, horizon: int) -> bool:
    """Whether less than half of the runs were solved at a shorter horizon: no fit goes beyond that."""
    shorter = [runs.of(f"{task}/{name}/{other}").values() for other in HORIZONS[task] if other < horizon]
    return any(sum(n is None for n in episodes) > len(episodes) / 2 for episodes in shorter)


def _add(runs: Runs, condition: str, seeds: Sequence[int], found: np.ndarray, chosen: Settings, began: float) -> None:
    runs.add(condition, dict(zip(seeds, found.tolist(), strict=True)), settings=chosen._asdict())
    count, middle = int(np.isfinite(found).sum()), np.median(np.nan_to_num(found, nan=np.inf))
    told = f"{condition}: {count} of {len(found)} solved, median {middle:,.0f}, {chosen}"
    print(f"{told}, {time.monotonic() - began:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------------------- judging


def table_of(runs: Runs) -> Table:
    found: Table = {}
    for condition in runs.conditions():
        task, learner, horizon = condition.split("/")
        episodes = [np.nan if n is None else n for n in runs.of(condition).values()]
        found[task, learner, int(horizon)] = np.array(episodes, np.float64)
    return found


def fitted(found: Table, task: str, learners: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """The horizons of a fit, and log episodes float64[horizons, seeds, learners]."""
    horizons = []
    for horizon in sorted({h for t, name, h in found if t == task and name == learners[0]}):
        if any((task, name, horizon) not in found for name in learners):
            break
        unsolved = [np.isnan(found[task, name, horizon]).mean() > 0.5 for name in learners]
        if all(unsolved):
            break
        horizons.append(horizon)
        if any(unsolved):
            break
    if not horizons:
        return [], np.zeros((0, 1, len(learners)))
    rows = [[np.nan_to_num(found[task, name, h], nan=BUDGET) for name in learners] for h in horizons]
    return horizons, np.log(np.array(rows, np.float64)).swapaxes(1, 2)


def slopes(logs: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    """b of median episodes ~ horizon^b, float64[learners]. logs float64[horizons, seeds, learners]."""
    x = np.log(horizons) - np.log(horizons).mean()
    return x @ np.median(logs, axis=1) / (x @ x)


def growth(found: Table, task: str, learner: str) -> Interval | None:
    """The exponent of one learner with its interval; None where less than three horizons may be fitted."""
    horizons, logs = fitted(found, task, [learner])
    if len(horizons) < 3:
        return None
    return bootstrap_interval(logs, lambda x: float(slopes(x, horizons)[0]), families=None, seed=0)


def compared(found: Table, task: str, learner: str, rival: str) -> Verdict:
    """Exponent of a learner with a value function less that of a rival with the outcome only."""
    horizons, logs = fitted(found, task, [learner, rival])
    claim = f"{task}: {learner} against {rival}"
    if len(horizons) < 3:
        return Verdict(claim, UNDECIDED, None, f"one of them was solved at less than three horizons ({horizons})")
    level = 1.0 - 0.05 / (len(PAIRS | GIVEN) * len(HORIZONS))

    def difference(logs: np.ndarray) -> float:
        with_value, without = slopes(logs, horizons)
        return float(with_value - without)

    interval = bootstrap_interval(logs, difference, families=None, seed=0, level=level)
    why = f"difference of the exponents, horizons {horizons[0]} to {horizons[-1]}"
    return judged(claim, interval, above=0.0, why=why, sign=-1.0)


def overall(parts: Sequence[Verdict]) -> Verdict:
    claim = "Episodes to solve grow more slowly with the delay where a value function is learned"
    count = {word: sum(part.word == word for part in parts) for word in (HOLDS, FAILS, UNDECIDED)}
    word = UNDECIDED
    if count[HOLDS] == len(parts):
        word = HOLDS
    elif count[FAILS] and not count[HOLDS]:
        word = FAILS
    why = f"of {len(parts)} comparisons it holds in {count[HOLDS]}, and the opposite holds in {count[FAILS]}"
    return Verdict(claim, word, None, why)


def conclude(runs: Runs) -> list[Verdict]:
    """Judge, write the results, and the page."""
    found = table_of(runs)
    parts = [compared(found, task, *pair) for task in HORIZONS for pair in PAIRS.items()]
    given = [compared(found, task, *pair) for task in HORIZONS for pair in GIVEN.items()]
    verdicts = [overall(parts), *parts, *given]
    grown = {task: {name: growth(found, task, name) for name in LEARNERS} for task in HORIZONS}
    exponents = {task: {name: b and vars(b) for name, b in row.items()} for task, row in grown.items()}
    runs.conclude({"verdicts": [part._asdict() for part in verdicts], "exponents": exponents})
    lead = (
        "Learners that are told the outcome only, at the end, against learners that estimate on the way how it will "
        "end (a value function) and learn from that. Three tasks, several delays, small tables: only the learning "
        "signal differs. Value known: the true values are there from the beginning; the others must learn them first."
    )
    differences = compared_with(
        0.0,
        "Does a value function slow the growth?",
        "Exponent of the growth with the delay, with a value function less that without: left of 0 the claim holds. "
        "Value known is not counted: nothing has to be learned there.",
        verdicts[1:],
        "difference of the exponents",
    )
    charts = [[differences, *(_chart(found, task) for task in HORIZONS)]]
    tables = [_table(found, grown, task) for task in HORIZONS] + [_published(found)]
    figures = []
    for task, horizons in HORIZONS.items():
        ways = [_middle(found.get((task, name, horizons[-1]))) for name in ("REINFORCE", *GIVEN)]
        figures.append((f"{task}, {horizons[-1]} steps: episodes, outcome only → true values", " → ".join(ways)))
    write_claim_page(runs, TITLE, lead, verdicts, figures, charts, tables)
    return verdicts


def _chart(found: Table, task: str) -> str:
    series = []
    for name, style in zip(CHARTED, SEVERAL, strict=True):
        horizons = [h for h in HORIZONS[task] if (task, name, h) in found]
        rows = [np.log10(np.nan_to_num(found[task, name, h], nan=BUDGET)) for h in horizons]
        if horizons:
            series += middle_and_quartiles(np.log2(horizons), rows, style, name)
    return chart(
        task,
        f"Episodes until solved: median and quartiles of the seeds; {np.log10(BUDGET):.1f} is not solved.",
        series,
        x_label="horizon (logarithm to base 2 of steps)",
        y_label="episodes (logarithm to base 10)",
    )


def _table(found: Table, grown: dict[str, dict[str, Interval | None]], task: str) -> str:
    rows = []
    for name in LEARNERS:
        b = grown[task][name]
        power = "too few solved" if b is None else shown(b)
        rows.append([name, *(_middle(found.get((task, name, h))) for h in HORIZONS[task]), power])
    columns = ["learner", *(f"{h} steps" for h in HORIZONS[task]), "exponent"]
    text = "Median episodes until solved, and the exponent of their growth with its interval of 95 %."
    return table(f"{task}", columns, rows, text)


def _published(found: Table) -> str:
    rows = []
    for name, theirs in (("published TD", "71,800 to 71,900"), ("published MC", "27,700 to more than 240,000")):
        runs = found["watch repair", name, PUBLISHED["horizon"]]
        known = np.nan_to_num(runs, nan=PUBLISHED["budget"])
        told = f"{np.median(known):,.0f} [{known.min():,.0f}, {known.max():,.0f}]"
        rows.append([name, f"{np.isfinite(runs).sum()} of {len(runs)}", told, theirs])
    text = f"50 steps; not solved counts as {PUBLISHED['budget']:,}. RUDDER, not run here: 1,900 to 3,800 episodes."
    columns = ("settings of RUDDER's code", "solved", "episodes: median [least, most]", "published")
    return table("Watch repair with the published settings", columns, rows, text)


def _middle(episodes: np.ndarray | None) -> str:
    if episodes is None:
        return "not run"
    if np.isnan(episodes).mean() > 0.5:
        return f"> {BUDGET:,}"
    return f"{np.median(np.nan_to_num(episodes, nan=BUDGET)):,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a few episodes of everything; nothing is kept")
    arguments = parser.parse_args()
    fifteen.cache_compilations()
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) if arguments.quick else CLAIMS
        runs = Runs(folder / "delay.json", settings(), provenance(parser, arguments))
        perform(runs, range(6 if arguments.quick else arguments.seeds), arguments.quick)
        for verdict in conclude(runs):
            print(f"{verdict.claim}: {verdict.word} ({verdict.told})")


if __name__ == "__main__":
    main()
