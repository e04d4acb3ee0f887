"""The page of a claim: what was claimed, what the data say, charts and tables. One file, inline SVG, no network."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from claim_runs import FAILS, HOLDS, Runs, Verdict

from fifteen.charts import Row, Series, Style, chart, estimates
from fifteen.examining.stats import Interval
from fifteen.report import definitions, flat, write_page

_STYLES: dict[str, Style] = {HOLDS: "c1", FAILS: "c2"}


def write_claim_page(
    runs: Runs,
    title: str,
    lead: str,
    verdicts: Sequence[Verdict],
    figures: Sequence[tuple[str, str]],
    charts: Sequence[Sequence[str]],
    tables: Sequence[str],
) -> Path:
    """Write the page beside the runs' JSON, and give its path.

    verdicts: the one that counts first. figures: a few numbers, each with its name. charts: rows, the first of each
    wide; tables: of `table`.
    """
    first, *others = verdicts
    parts = [(part.claim, f"{part.word}: {part.told}") for part in others]
    session = runs.sessions[-1]
    told = {"command": session["command"], "commit": session["commit"], "device": session["device"]}
    told |= {"sessions": len(runs.sessions), "last session": session["started"], "versions": session["versions"]}
    body = (
        f'<header><p class="eyebrow">Fifteen · a claim put to the test</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{escape(lead)}</p></header>'
        f'<dl class="figures">{definitions([(f"{first.claim}: {first.told}", first.word), *figures])}</dl>'
        + "".join(f'<div class="charts">{"".join(row)}</div>' for row in charts)
        + f'<div class="boxes">{_box("Claim by claim", parts)}{"".join(tables)}{_box("What was run", flat(told))}</div>'
        f"<footer>Made from {escape(runs.path.name)} beside this page.</footer>"
    )
    return write_page(runs.path.with_suffix(".html"), f"{title} · Fifteen", body)


def _box(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    return (
        f'<section class="box"><h2>{escape(title)}</h2><div class="group"><dl>{definitions(pairs)}</dl></div></section>'
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: str = "") -> str:
    """A table; on a phone every row becomes a card."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    lines = []
    for first, *cells in rows:
        pairs = zip(columns[1:], cells, strict=True)
        inner = "".join(f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in pairs)
        lines.append(f"<tr><td>{escape(first)}</td>{inner}</tr>")
    said = f'<p class="lead">{escape(text)}</p>' if text else ""
    return (
        f'<section class="box scroll"><h2>{escape(title)}</h2>{said}<table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></section>"
    )


def middle_and_quartiles(
    x: Sequence[float] | np.ndarray, runs: Sequence[np.ndarray], style: Style, label: str
) -> list[Series]:
    """The medians as a line within a band from the first to the third quartile. runs: float64[seeds] for each x."""
    at = np.asarray(x, np.float64)
    low, middle, high = np.array([np.quantile(run, [0.25, 0.5, 0.75]) for run in runs]).T
    return [
        Series(np.concatenate([at, at[::-1]]), np.concatenate([low, high[::-1]]), "band", style, ""),
        Series(at, middle, "line", style, label),
    ]


def compared_with(mark: float, title: str, text: str, verdicts: Sequence[Verdict], x_label: str) -> str:
    """The intervals of verdicts, one above the other, beside the value that decides."""
    rows = [
        Row(part.claim, *part.interval[:3], part.word, _STYLES.get(part.word, "quiet"))
        for part in verdicts
        if part.interval is not None
    ]
    if not rows:
        return chart(title, text, (), x_label=x_label, y_label="", empty="There is no interval yet.")
    return estimates(title, text, rows, x_label=x_label, marks=(mark,))


def shown(found: Interval, form: str = ".2f") -> str:
    """An interval for a person."""
    return f"{found.estimate:{form}} [{found.low:{form}}, {found.high:{form}}]".replace("-", "−")
