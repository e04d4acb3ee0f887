"""How numbers, estimates and tables are told on the page of an exam."""

from collections.abc import Sequence
from html import escape

from fifteen.charts import SEVERAL, Row, Style
from fifteen.examining.records import Split
from fifteen.examining.sheets import Estimate

SPLIT_NAMES: dict[Split, str] = {
    "train": "Train: jobs that anybody may have trained on",
    "iid": "Iid: new jobs of the same templates",
    "held-out": "Held-out: templates that nobody may school on",
    "outside": "Outside: jobs of other libraries",
}
SCORE = "score: 0 is chance, 1 the reference"


def figure(value: float) -> str:
    """Two decimals, as scores are told."""
    shown = f"{value:.2f}"
    return "0.00" if shown == "-0.00" else shown.replace("-", "−")


def percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def ranged(estimate: Estimate) -> str:
    """An estimate and its interval; the level where it is not 95 %, and whether it speaks of these jobs only."""
    if estimate.interval is None:
        return f"{figure(estimate.value)}, no interval"
    told = f"{figure(estimate.value)} [{figure(estimate.interval.low)}, {figure(estimate.interval.high)}]"
    if estimate.interval.level < 0.95:
        told += f" ({percent(estimate.interval.level)})"
    return f"{told}, these jobs" if estimate.over == "lifetimes" else told


def basis(estimate: Estimate) -> str:
    """What the interval of an estimate is good for, in words."""
    if estimate.interval is None:
        return "There are too few families and lifetimes for an interval."
    level = percent(estimate.interval.level)
    if estimate.over == "lifetimes":
        return f"The interval ({level}) is over lifetimes on these jobs, and says nothing of others."
    return f"The interval ({level}) is over families, drawn again with their jobs and lifetimes."


def row(name: str, estimate: Estimate, style: Style, group: str = "") -> Row:
    interval = estimate.interval
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Row(name, estimate.value, low, high, ranged(estimate), style, group=group)


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A colour for each learner; they repeat after six."""
    return {name: SEVERAL[n % len(SEVERAL)] for n, name in enumerate(names)}


def table(head: Sequence[str], lines: str, kind: str = "") -> str:
    """A table that becomes a list on a phone. lines: rows whose cells have names. kind "words": cells are sentences."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="box scroll {kind}"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'


def cells(*named: tuple[str, str]) -> str:
    return "".join(f'<td data-name="{escape(name)}">{escape(value)}</td>' for name, value in named)


def count(n: int, one: str, many: str = "") -> str:
    """A number and its noun: "1 job", "2 jobs"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
