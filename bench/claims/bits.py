"""Claim: an episode that is told only pass or fail teaches few bits, and what that means for learning curves.

    python bench/claims/bits.py           # run what is missing, then judge: bench/results/claims/bits.json and .html
    python bench/claims/bits.py --quick   # a little of everything; nothing is kept

Four claims (after Patel, 2025, "RL is even more information inefficient than you thought", and Paleka's answer to it,
"Contra Dwarkesh on RL sample-efficiency"), each with its own verdict:

1. Told. A learner with a belief over 64 answers, right as beliefs go, guesses and is told pass or fail; another one is
   told the label. Bits: entropy of the belief before less after, by Bayes' rule, averaged over 4,000 questions; beliefs
   are softmax of normal logits with deviation 0 to 12, for pass rates from 1/64 to 0.9. Claimed: the label tells more
   at every pass rate (the least difference over them is above 0). Beside it the two formulas: H(p), the entropy of the
   pass rate, which is what pass or fail can tell at most; and the surprise -log2 p of the label, which Patel compares
   it with and which is below H(p) from p = 0.5 on.
2. Memorised. One answer of N, by REINFORCE from pass or fail, and by the cross-entropy to the label, each with the rate
   that memorises it soonest (median of 20 seeds of their own) at every N. Median episodes grow as N^b. Claimed: b is
   larger from pass or fail. Beside it elimination, the best that pass or fail allows.
3. Predicted. Pass rates of REINFORCE on 256 questions with 16 answers, equally hard, of all difficulties at once, and
   with shared features (new questions in every round); a curve ends where it reaches 0.9, or after 400, 6,000 or 4,000
   rounds. A sigmoid in the logarithm of the episodes, and a power law, three parameters each, are fitted on the first
   30 % of the episodes and judged on the rest by their root mean squared error, at points even in the logarithm.
   Claimed: the sigmoid errs less, mean over kinds.
4. Steepest in the middle. On the same curves the improvement per logarithm of the episodes, dp / d ln C, is correlated
   with p (1 - p). Claimed: their correlation (Pearson, over 20 stretches of a curve) is above 0.7, that is, p (1 - p)
   explains half of the variance; mean over kinds. A logistic curve has 1.

The claim as a whole holds if all four do, does not if one does not, and is undecided otherwise. Intervals are of 95 %,
by bootstrap over seeds.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench: measuring and peers

from bits_learners import (  # noqa: E402
    KINDS,
    KNOWN,
    Signal,
    entropy,
    episodes_to_memorise,
    fit_power_law,
    fit_sigmoid,
    pass_rates,
    told,
)
from claim_page import middle_and_quartiles, shown, table, write_claim_page  # noqa: E402
from claim_runs import CLAIMS, FAILS, HOLDS, UNDECIDED, Runs, Verdict, judged  # noqa: E402
from measuring import provenance  # noqa: E402

import fifteen  # noqa: E402
from fifteen.charts import SEVERAL, Series, chart  # noqa: E402
from fifteen.examining.stats import Interval, bootstrap_interval  # noqa: E402

BELIEFS, ANSWERS = 4_000, 64
DEVIATIONS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
COUNTS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
TUNING = np.arange(1000, 1020)  # seeds of no run that counts
BUDGET = 100  # episodes, times N
END, POINTS, FITTED, STRETCHES = 0.9, 60, 0.3, 20
CORRELATED = 0.7
TITLE = "Bits per sample"
SIGNALS: tuple[Signal, ...] = get_args(Signal)


def settings() -> dict[str, Any]:
    return {
        "told": [BELIEFS, ANSWERS, DEVIATIONS],
        "memorised": [COUNTS, RATES, len(TUNING), BUDGET, KNOWN],
        "curves": {name: kind._asdict() for name, kind in KINDS.items()},
        "curve_points": [END, POINTS],
    }


# ------------------------------------------------------------------------------------------------------- running


def perform(runs: Runs, seeds: Sequence[int], quick: bool) -> None:
    """Run what is missing."""
    for deviation in DEVIATIONS:
        missing = runs.missing(f"told/{deviation}", seeds)
        if missing:
            runs.add(f"told/{deviation}", {seed: _told(deviation, seed) for seed in missing})
    for count in COUNTS[:3] if quick else COUNTS:
        for signal in SIGNALS:
            condition = f"memorised/{signal}/{count}"
            if missing := runs.missing(condition, seeds):
                rate = _tuned(signal, count)
                found = episodes_to_memorise(signal, count, rate, np.array(missing), BUDGET * count)
                runs.add(condition, dict(zip(missing, found.tolist(), strict=True)), rate=rate)
                print(f"{condition}: median {np.median(found):,.0f} episodes, rate {rate}", flush=True)
    for name, kind in KINDS.items():
        if missing := runs.missing(f"curve/{name}", seeds):
            rates = pass_rates(kind, np.array(missing), 300 if quick else None)
            curves = {seed: thinned(curve) for seed, curve in zip(missing, rates, strict=True)}
            runs.add(f"curve/{name}", curves)
            print(f"{name}: ends at {[curve['rounds'][-1] for curve in curves.values()]}", flush=True)


def _told(deviation: float, seed: int) -> dict[str, float]:
    generator = np.random.default_rng((seed, round(100 * deviation)))
    logits = deviation * generator.standard_normal((BELIEFS, ANSWERS))
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return told(odds / odds.sum(axis=1, keepdims=True), generator)


def _tuned(signal: Signal, count: int) -> float:
    """The rate with the lowest median; the lowest of those that are equal."""
    if signal == "elimination":
        return 0.0
    found = [episodes_to_memorise(signal, count, rate, TUNING, BUDGET * count) for rate in RATES]
    return RATES[int(np.argmin([np.median(np.nan_to_num(episodes, nan=np.inf)) for episodes in found]))]


def thinned(curve: np.ndarray) -> dict[str, Any]:
    """A curve float[rounds] until it reaches END: POINTS rounds, even in their logarithm, and the pass rates there."""
    reached = np.flatnonzero(curve >= END)
    last = int(reached[0]) if reached.size else len(curve) - 1
    at = np.unique(np.round(np.geomspace(1, last, POINTS)).astype(int))
    return {"first": float(curve[0]), "rounds": at.tolist(), "pass_rate": curve[at].astype(np.float64).tolist()}


# ------------------------------------------------------------------------------------------------------- judging


def interval(values: np.ndarray, statistic: Any = np.mean) -> Interval:
    """Of statistic(float64[conditions, seeds]), of which the seeds are drawn."""
    return bootstrap_interval(values, lambda x: float(statistic(x)), families=None, seed=0)


def outcomes(runs: Runs, conditions: Sequence[str], key: str | None = None) -> np.ndarray:
    """float64[conditions, seeds]"""
    rows = [[o if key is None else o[key] for o in runs.of(condition).values()] for condition in conditions]
    return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float64)


def judge_told(runs: Runs) -> tuple[Verdict, dict[str, np.ndarray]]:
    conditions = [f"told/{deviation}" for deviation in DEVIATIONS]
    keys = ("pass_rate", "pass_or_fail", "label", "entropy_of_pass_rate")
    found = {key: outcomes(runs, conditions, key) for key in keys}
    least = interval(found["label"] - found["pass_or_fail"], lambda x: x.mean(axis=1).min())
    claim = "A label tells more bits than pass or fail, at every pass rate"
    return judged(claim, least, above=0.0, why="least difference over the pass rates, bits"), found


def exponent(episodes: np.ndarray, counts: Sequence[int]) -> float:
    """b of median episodes ~ N^b; episodes float64[counts, seeds]."""
    x = np.log(counts) - np.log(counts).mean()
    return float(x @ np.log(np.median(episodes, axis=1)) / (x @ x))


def judge_memorised(runs: Runs) -> tuple[Verdict, dict[str, np.ndarray], dict[str, Interval]]:
    counts = [count for count in COUNTS if f"memorised/label/{count}" in runs.conditions()]
    found = {}
    for signal in SIGNALS:
        episodes = outcomes(runs, [f"memorised/{signal}/{count}" for count in counts])
        found[signal] = np.where(np.isnan(episodes), BUDGET * np.array(counts)[:, None], episodes)
    grown = {signal: interval(episodes, lambda x: exponent(x, counts)) for signal, episodes in found.items()}
    pair = np.stack([found["pass or fail"], found["label"]], axis=2)
    more = interval(pair, lambda x: exponent(x[..., 0], counts) - exponent(x[..., 1], counts))
    claim = "Episodes to memorise one of N grow more quickly with N from pass or fail than from labels"
    return judged(claim, more, above=0.0, why="difference of the exponents"), found, grown


def errors(curve: Mapping[str, Any]) -> tuple[float, float]:
    """Root mean squared errors of the sigmoid and of the power law on what follows the first 30 % of a curve."""
    spent, rate = np.array(curve["rounds"], np.float64), np.array(curve["pass_rate"])
    early = spent <= FITTED * spent[-1]
    laws = fit_sigmoid(spent[early], rate[early], curve["first"]), fit_power_law(spent[early], rate[early])
    sigmoid, power = (float(np.sqrt(np.mean((law(spent[~early]) - rate[~early]) ** 2))) for law in laws)
    return sigmoid, power


def steepness(curve: Mapping[str, Any]) -> float:
    """Correlation of dp / d ln C with p (1 - p), over stretches that are even in ln C."""
    spent, rate = np.log(curve["rounds"]), np.array(curve["pass_rate"])
    ends = np.linspace(spent[0], spent[-1], STRETCHES + 1)
    at = np.interp(ends, spent, rate)
    middle = np.interp((ends[1:] + ends[:-1]) / 2.0, spent, rate)
    return float(np.corrcoef(np.diff(at), middle * (1.0 - middle))[0, 1])


def judge_curves(runs: Runs) -> tuple[list[Verdict], dict[str, dict[str, Interval]]]:
    curves = {name: list(runs.of(f"curve/{name}").values()) for name in KINDS}
    erred = np.array([[errors(curve) for curve in rows] for rows in curves.values()])  # [kinds, seeds, 2]
    correlations = np.array([[steepness(curve) for curve in rows] for rows in curves.values()])
    less = interval(erred[..., 1] - erred[..., 0])
    parts = [
        judged(
            "Fitted on the first 30 % of a pass-rate curve, a sigmoid errs less on the rest than a power law",
            less,
            above=0.0,
            why="error of the power law less that of the sigmoid, pass rate",
        ),
        judged(
            f"Improvement per logarithm of the episodes goes with p (1 - p): correlation above {CORRELATED}",
            interval(correlations),
            above=CORRELATED,
            why="correlation",
        ),
    ]
    by_kind = {
        name: {
            "sigmoid": interval(erred[n : n + 1, :, 0]),
            "power law": interval(erred[n : n + 1, :, 1]),
            "difference": interval((erred[..., 1] - erred[..., 0])[n : n + 1]),
            "correlation": interval(correlations[n : n + 1]),
        }
        for n, name in enumerate(KINDS)
    }
    return parts, by_kind


def overall(parts: Sequence[Verdict]) -> Verdict:
    words = [part.word for part in parts]
    word = FAILS if FAILS in words else HOLDS if set(words) == {HOLDS} else UNDECIDED
    why = f"of {len(parts)} claims {words.count(HOLDS)} hold, {words.count(FAILS)} do not"
    return Verdict("Pass or fail teaches few bits, and the pass rate shows it: all four claims", word, None, why)


def conclude(runs: Runs) -> list[Verdict]:
    """Judge, write the results, and the page."""
    first, bits = judge_told(runs)
    second, episodes, grown = judge_memorised(runs)
    rest, by_kind = judge_curves(runs)
    parts = [first, second, *rest]
    verdicts = [overall(parts), *parts]
    runs.conclude(
        {
            "verdicts": [part._asdict() for part in verdicts],
            "exponents": {signal: vars(found) for signal, found in grown.items()},
            "curves": {name: {k: vars(v) for k, v in row.items()} for name, row in by_kind.items()},
        }
    )
    lead = (
        "What an episode tells that ends in pass or fail, against a label; what it takes to memorise one of N; and "
        "whether the pass rate follows a sigmoid in the logarithm of the episodes, steepest in the middle."
    )
    counts = [2**n for n in range(2, 2 + len(episodes["label"]))]
    charts = [
        [_bits_chart(bits)],
        [_memory_chart(episodes, counts), *(_curve_chart(runs, name) for name in KINDS)],
    ]
    tables = [_bits_table(bits), _memory_table(episodes, grown, counts), _curve_table(by_kind)]
    write_claim_page(runs, TITLE, lead, verdicts, (), charts, tables)
    return verdicts


def _bits_chart(bits: Mapping[str, np.ndarray]) -> str:
    rate = bits["pass_rate"].mean(axis=1)
    p = np.linspace(0.005, 0.995, 200)
    series = [
        Series(rate, bits["label"].mean(axis=1), "line", "c2", "label"),
        Series(rate, bits["pass_or_fail"].mean(axis=1), "line", "c1", "pass or fail"),
        Series(p, entropy(np.stack([p, 1.0 - p], axis=1)), "line", "c3", "H(p)"),
        Series(p[p > 0.015], -np.log2(p[p > 0.015]), "line", "c4", "−log2 p"),
    ]
    text = f"Entropy of the belief over {ANSWERS} answers before an episode less after it, by pass rate."
    return chart("What an episode tells", text, series, x_label="pass rate", y_label="bits per episode")


def _memory_chart(episodes: Mapping[str, np.ndarray], counts: Sequence[int]) -> str:
    series = []
    for signal, style in zip(SIGNALS, SEVERAL, strict=False):
        series += middle_and_quartiles(np.log2(counts), list(np.log10(episodes[signal])), style, signal)
    return chart(
        "Memorising one of N",
        f"Episodes until the answer has a probability of {KNOWN}: median and quartiles of the seeds.",
        series,
        x_label="N (logarithm to base 2)",
        y_label="episodes (logarithm to base 10)",
    )


def _curve_chart(runs: Runs, name: str) -> str:
    curve = next(iter(runs.of(f"curve/{name}").values()))
    spent, rate = np.array(curve["rounds"], np.float64), np.array(curve["pass_rate"])
    early = spent <= FITTED * spent[-1]
    laws = fit_sigmoid(spent[early], rate[early], curve["first"]), fit_power_law(spent[early], rate[early])
    x = np.log10(spent)
    series = [Series(x, rate, "dots", "quiet", "pass rate, seed 0")]
    for law, style, label in zip(laws, SEVERAL, ("sigmoid", "power law"), strict=False):
        series.append(Series(x, np.clip(law(spent), 0.0, 1.0), "line", style, label))
    text = f"Both fitted left of {x[-1] + np.log10(FITTED):.2f}, the first 30 % of the episodes."
    return chart(name, text, series, x_label="episodes per question (logarithm to base 10)", y_label="pass rate")


def _bits_table(bits: Mapping[str, np.ndarray]) -> str:
    means = {key: values.mean(axis=1) for key, values in bits.items()}
    rows = [
        [f"{rate:.3f}", *(f"{value:.3f}" for value in row), f"{-np.log2(rate):.3f}"]
        for rate, *row in zip(
            means["pass_rate"], means["pass_or_fail"], means["entropy_of_pass_rate"], means["label"], strict=True
        )
    ]
    columns = ("pass rate", "pass or fail", "H(p)", "label", "−log2 p")
    text = "Bits per episode. H(p) bounds what pass or fail tells, where some guesses are surer than others."
    return table("What an episode tells", columns, rows, text)


def _memory_table(episodes: Mapping[str, np.ndarray], grown: Mapping[str, Interval], counts: Sequence[int]) -> str:
    rows = [
        [signal, *(f"{np.median(row):,.0f}" for row in episodes[signal]), shown(grown[signal])] for signal in SIGNALS
    ]
    columns = ("told", *(f"N = {count}" for count in counts), "exponent")
    return table("Median episodes to memorise one of N", columns, rows)


def _curve_table(by_kind: Mapping[str, Mapping[str, Interval]]) -> str:
    rows = [[name, *(shown(found, ".3f") for found in row.values())] for name, row in by_kind.items()]
    columns = ("questions", "error, sigmoid", "error, power law", "difference", "correlation")
    text = "Root mean squared error of the pass rate after the first 30 %; correlation of dp / d ln C with p (1 − p)."
    return table("Curves", columns, rows, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a little of everything; nothing is kept")
    arguments = parser.parse_args()
    fifteen.cache_compilations()
    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) if arguments.quick else CLAIMS
        runs = Runs(folder / "bits.json", settings(), provenance(parser, arguments))
        perform(runs, range(6 if arguments.quick else arguments.seeds), arguments.quick)
        for verdict in conclude(runs):
            print(f"{verdict.claim}: {verdict.word} ({verdict.told})")


if __name__ == "__main__":
    main()
