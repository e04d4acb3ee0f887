"""Charts for a web page: inline SVG inside HTML that carries the text.

The drawing is stretched to the width of the page (`preserveAspectRatio="none"`) while strokes, dots
and all text keep their size, so that one chart is readable on a phone, on a desk and on paper.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

DRAWN = 2_000
"""Most points of one series that are drawn."""
SHADES = 9
"""Levels of a strip, from the least (0) to the greatest."""
COLUMNS = 160
"""Most columns of a strip that are drawn."""

Style = Literal["quiet", "main", "guide", "c1", "c2", "c3", "c4", "c5", "c6"]
"""c1 to c6: colours of Okabe & Ito (2008), for several of a kind; lines differ in their dashes too."""
SEVERAL: tuple[Style, ...] = ("c1", "c2", "c3", "c4", "c5", "c6")


@dataclass(frozen=True)
class Series:
    """Points of one kind. Points that are not finite are left out."""

    x: np.ndarray  # float64[n]
    y: np.ndarray  # float64[n]
    kind: Literal["dots", "line", "diagonal", "band"]  # band: the outline of an area
    style: Style
    label: str  # "": not in the legend


@dataclass(frozen=True)
class Row:
    """One line of a chart of estimates: a dot, the interval around it, and the same in words."""

    name: str
    value: float
    low: float | None  # None: no interval
    high: float | None
    told: str
    style: Style
    points: Sequence[float] = ()  # what the estimate is made of, as small dots
    group: str = ""  # a heading above this row


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place, of fewer at the beginning; float64[n]."""
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
    known = np.concatenate([[0], np.cumsum(np.isfinite(values))])
    start = np.maximum(np.arange(1, len(values) + 1) - window, 0)
    counted = known[1:] - known[start]
    return np.where(counted > 0, (total[1:] - total[start]) / np.maximum(counted, 1), np.nan)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers in [low, high] that part it into at most `most` (5 or more) steps."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The numbers of one axis, all with the same precision and unit."""
    largest = max((abs(value) for value in values), default=0.0)
    step = values[1] - values[0] if len(values) > 1 else largest
    for unit, suffix in ((1e9, "G"), (1e6, "M")):
        if unit <= largest < 1e3 * unit:
            places = max(0, -math.floor(math.log10(step / unit) + 1e-9))
            return [f"{value / unit:.{places}f}{suffix}" if value else "0" for value in values]
    if largest >= 1e9 or 0 < step < 1e-4:
        digits = 1 + max(0, round(math.log10(largest / step))) if step else 3
        return [f"{value:.{digits + 1}g}" if value else "0" for value in values]
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return [f"{value:,.{places}f}".replace("-", "−") for value in values]


def chart(
    title: str,
    text: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    same_axes: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    empty: str = "No attempt has ended yet.",
) -> str:
    """One figure as HTML.

    `same_axes`: x and y span the same range (a diagonal means equality). x_range, y_range: the ranges of the axes,
    within which all points lie, where they are not to follow from the points. empty: what is said where there are none.
    """
    shown = [_finite(one) for one in series]
    head = f"<figcaption><h2>{escape(title)}</h2><p>{escape(text)}</p></figcaption>"
    if not any(len(one.x) for one in shown):
        return f'<figure class="chart">{head}<p class="empty">{escape(empty)}</p></figure>'
    x_all = np.concatenate([one.x for one in shown])
    y_all = np.concatenate([one.y for one in shown])
    if same_axes:
        x_range = y_range = x_range or _range(np.concatenate([x_all, y_all]))
    else:
        x_range, y_range = x_range or (0.0, float(x_all.max()) or 1.0), y_range or _range(y_all)
    x_ticks, y_ticks = ticks(*x_range, most=5), ticks(*y_range, most=6)
    x_names, y_names = tick_labels(x_ticks), tick_labels(y_ticks)
    x_at = [_scale(value, x_range) / 10 for value in x_ticks]  # per cent
    y_at = [100 - _scale(value, y_range) / 10 for value in y_ticks]
    grid = "".join(f"M0 {at * 10:.1f}H1000" for at in y_at)
    if same_axes:
        grid += "".join(f"M{at * 10:.1f} 0V1000" for at in x_at)
    gutter = max(len(name) for name in y_names)
    legend = "".join(
        f'<li class="{one.style}"><i class="{one.kind}"></i>{escape(one.label)}</li>'
        for one in shown
        if len(one.x) and one.label
    )
    return (
        f'<figure class="chart{" square" if same_axes else ""}">{head}'
        f'<ul class="legend">{legend}</ul><p class="y-label">{escape(y_label)}</p>'
        f'<div class="plot" style="--gutter:{gutter}ch" role="img" aria-label="'
        f'{escape(f"{title}: {text}")}"><div class="y-ticks">{_labels(y_names, y_at, "top")}</div>'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="grid" d="{grid}"/>'
        + "".join(_draw(one, x_range, y_range) for one in shown if len(one.x))
        + f'</svg><div class="x-ticks">{_labels(x_names, x_at, "left")}</div></div>'
        f'<p class="x-label">{escape(x_label)}</p></figure>'
    )


def estimates(
    title: str,
    text: str,
    rows: Sequence[Row],
    *,
    x_label: str,
    marks: Sequence[float] = (),
) -> str:
    """One figure as HTML: estimates with their intervals, one above the other. marks: values with a line through all.

    At least one row. Numbers that are not finite are refused with ValueError.
    """
    told = np.array(
        [x for row in rows for x in (row.value, row.low, row.high, *row.points) if x is not None] + [*marks], np.float64
    )
    if not np.isfinite(told).all():
        raise ValueError(f"the rows of {title!r} have numbers that are not finite: leave these rows out")
    low, high = float(told.min(initial=0.0)), float(told.max(initial=0.0))
    air = 0.04 * (high - low) or 1.0
    axis = low - air, high + air
    at = ticks(*axis, most=5)
    guides = "".join(f"M{_scale(mark, axis):.1f} 0V100" for mark in marks)
    lines = []
    for n, row in enumerate(rows):
        if row.group and (n == 0 or rows[n - 1].group != row.group):
            lines.append(f'<p class="group-name">{escape(row.group)}</p>')
        drawn = f'<path class="mark" d="{guides}"/>' if guides else ""
        if len(row.points):
            small = "h0M".join(f"{_scale(point, axis):.1f} 50" for point in row.points)
            drawn += f'<path class="dots quiet" d="M{small}h0"/>'
        if row.low is not None and row.high is not None:
            ends = f"M{_scale(row.low, axis):.1f} 50H{_scale(row.high, axis):.1f}"
            drawn += f'<path class="whisker {row.style}" d="{ends}"/>'
        drawn += f'<path class="dot {row.style}" d="M{_scale(row.value, axis):.1f} 50h0"/>'
        lines.append(
            f'<div class="estimate"><span class="name">{escape(row.name)}</span>'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
            f'<span class="told">{escape(row.told)}</span></div>'
        )
    widths = f"--name:{min(max(len(row.name) for row in rows), 24)}ch;--told:{max(len(row.told) for row in rows)}ch"
    below = _labels(tick_labels(at), [_scale(value, axis) / 10 for value in at], "left")
    return (
        f'<figure class="chart estimates"><figcaption><h2>{escape(title)}</h2><p>{escape(text)}</p></figcaption>'
        f'<div class="rows" style="{widths}">{"".join(lines)}'
        f'<div class="estimate axis"><div class="x-ticks">{below}</div></div></div>'
        f'<p class="x-label">{escape(x_label)}</p></figure>'
    )


def strip(values: np.ndarray) -> str:
    """A heat map of values float64[rows, columns] without axes, as SVG: every row by itself from its least, faint, to
    its greatest value, full; empty where a value is NaN.

    Columns beyond COLUMNS are shown as means of neighbours.
    """
    rows = np.array([_known_means(row, COLUMNS) for row in values])
    low, high = (_extreme(rows, how)[:, None] for how in (np.nanmin, np.nanmax))
    share = (rows - low) / np.where(high > low, high - low, 1.0)
    paths = [""] * SHADES
    for y, row in enumerate(share):
        shades = np.where(np.isnan(row), -1, np.minimum(np.nan_to_num(row) * SHADES, SHADES - 1)).astype(int)
        starts = np.flatnonzero(np.diff(shades, prepend=-2))
        for start, end in zip(starts, [*starts[1:], len(shades)], strict=True):
            if shades[start] >= 0:
                paths[shades[start]] += f"M{start} {y}.5h{end - start}"
    drawn = "".join(f'<path class="s{n}" d="{path}"/>' for n, path in enumerate(paths) if path)
    return (
        f'<svg class="strip" viewBox="0 0 {rows.shape[1]} {len(rows)}" style="--rows:{len(rows)}" '
        f'preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    )


def sparkline(values: np.ndarray) -> str:
    """A line without axes, for a table cell."""
    values = _means(values[np.isfinite(values)], 200)
    if len(values) < 2:
        return ""
    x = np.linspace(0, 1000, len(values))
    y_range = _range(values)
    points = (f"{a:.0f} {1000 - _scale(b, y_range):.0f}" for a, b in zip(x, values, strict=True))
    return (
        '<svg class="spark" viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="line main" d="M{"L".join(points)}"/></svg>'
    )


def _finite(series: Series) -> Series:
    keep = np.isfinite(series.x) & np.isfinite(series.y)
    return Series(series.x[keep], series.y[keep], series.kind, series.style, series.label)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of an axis, with some air; never empty."""
    low, high = float(values.min()), float(values.max())
    air = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = 0.0 if 0.0 <= low <= 0.25 * high else low - air
    return bottom, high + air


def _scale(value: float, axis: tuple[float, float]) -> float:
    """Where a value lies on an axis, 0 to 1000."""
    return 1000 * (value - axis[0]) / (axis[1] - axis[0])


def _labels(names: Sequence[str], at: Sequence[float], side: str) -> str:
    return "".join(f'<span style="{side}:{place:.2f}%">{name}</span>' for name, place in zip(names, at, strict=True))


def _draw(series: Series, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    if series.kind == "diagonal":
        return f'<path class="line diagonal {series.style}" d="M0 1000L1000 0"/>'
    if series.kind == "band":
        outline = "L".join(
            f"{_scale(a, x_range):.1f} {1000 - _scale(b, y_range):.1f}" for a, b in zip(series.x, series.y, strict=True)
        )
        return f'<path class="band {series.style}" d="M{outline}Z"/>'
    if series.kind == "line":
        x, y = _means(series.x, DRAWN // 4), _means(series.y, DRAWN // 4)
        join = "L"
    else:
        keep = _thin(series.y)
        x, y = series.x[keep], series.y[keep]
        join = "h0M"  # a line of no length with a round end is a dot that keeps its size
    points = [f"{_scale(a, x_range):.1f} {1000 - _scale(b, y_range):.1f}" for a, b in zip(x, y, strict=True)]
    end = "h0" if series.kind == "dots" or len(points) == 1 else ""
    return f'<path class="{series.kind} {series.style}" d="M{join.join(points)}{end}"/>'


def _thin(values: np.ndarray) -> np.ndarray:
    """Which points are drawn when there are too many: of each bucket the least and the greatest."""
    if len(values) <= DRAWN:
        return np.arange(len(values))
    buckets = np.array_split(np.arange(len(values)), DRAWN // 2)
    ends = [(b[values[b].argmin()], b[values[b].argmax()]) for b in buckets]
    return np.unique(np.array(ends))


def _means(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` bucket means of `values`."""
    if len(values) <= most:
        return values
    return np.array([bucket.mean() for bucket in np.array_split(values, most)])


def _known_means(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` bucket means of what is known; NaN for a bucket of which nothing is."""
    if len(values) <= most:
        return values
    buckets = [bucket[np.isfinite(bucket)] for bucket in np.array_split(values, most)]
    return np.array([bucket.mean() if len(bucket) else np.nan for bucket in buckets])


def _extreme(rows: np.ndarray, how: Callable[..., np.ndarray]) -> np.ndarray:
    """The least or greatest known value of each row; 0 for a row of which nothing is known."""
    known = np.isfinite(rows).any(axis=1, keepdims=True)
    return how(np.where(known, rows, 0.0), axis=1)
