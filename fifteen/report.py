"""report.html: one self-contained page about a run, from its config.json and metrics.jsonl only."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from fifteen.charts import Series, chart, running_mean, sparkline
from fifteen.errors import RunError
from fifteen.log import RECENT, number

ENDINGS = {
    "steps": "finished: its budget of steps was spent",
    "episodes": "finished: its budget of attempts was spent",
    "callback": "stopped by the callback",
    "interrupted": "interrupted, and can be resumed",
    None: "not finished: still at work, or killed",
}


@dataclass(frozen=True)
class Record:
    """What metrics.jsonl says of a run; arrays have one entry per finished attempt, n of them."""

    job: str
    steps: np.ndarray  # float64[n] environment step at which the attempt ended
    returns: np.ndarray  # float64[n]
    lengths: np.ndarray  # float64[n]
    expected: np.ndarray  # float64[n]
    discounted: np.ndarray  # float64[n]
    surprise: np.ndarray  # float64[n]
    last: Mapping[str, Any]  # the last progress line; empty if there is none
    step: int  # environment steps so far
    time_s: float  # seconds so far

    @property
    def reason(self) -> str | None:
        """Why the run ended; None if it did not."""
        return self.last.get("reason")


def read_record(run_folder: Path) -> Record:
    """Read a run's metrics.jsonl. RunError if it is missing or cannot be read, or a line of it is not one of a run.

    A last line that a killed process did not finish is left out.
    """
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{run_folder} is not the folder of a run: it has no metrics.jsonl")
    names = ("step", "return", "length", "expected", "discounted", "surprise")
    columns: dict[str, list[float]] = {name: [] for name in names}
    job, last, step, time_s = "", {}, 0, 0.0
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}; restore it from a copy") from error
    for at, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):
                break
            raise RunError(f"{path}, line {at}, is not JSON: {line[:60]!r}") from error
        known = isinstance(entry, dict) and "kind" in entry
        if not known or (entry["kind"] == "attempt" and not entry.keys() >= {*names}):
            raise RunError(f"{path}, line {at}, is none that a run wrote: {line[:60]!r}")
        if entry["kind"] == "attempt":
            for name in names:
                value = entry[name]
                columns[name].append(math.nan if value is None else value)
        elif entry["kind"] == "progress":
            last = entry
        job = entry.get("job", job)
        step = max(step, entry.get("step", 0))
        time_s = max(time_s, entry.get("time_s", 0.0))
    arrays = [np.array(columns[name], dtype=np.float64) for name in names]
    return Record(job, *arrays, last=last, step=step, time_s=time_s)


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html and give its path. RunError if this is no run's folder."""
    config_path = run_folder / "config.json"
    if not config_path.is_file():
        raise RunError(f"{run_folder} is not the folder of a run: it has no config.json")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    record = read_record(run_folder)
    n = len(record.returns)
    lead = (
        f"{record.step:,} environment steps and {n:,} attempts in {_spoken(record.time_s)}. "
        "The run is "
        f"{ENDINGS.get(record.reason, record.reason)}."
    )
    body = (
        f'<header><p class="eyebrow">Fifteen · a learner at work</p><h1>{escape(record.job)}</h1>'
        f'<p class="lead">{escape(lead)}</p></header>'
        f"{_figures(record)}"
        f'<div class="charts">{_charts(record)}</div>'
        f'<div class="boxes">{_events(record)}{_settings(config, record)}</div>'
        "<footer>Made from config.json and metrics.jsonl in the folder of this page.</footer>"
    )
    return write_page(run_folder / "report.html", f"{record.job} · Fifteen", body)


def write_index(
    folder: Path, title: str, columns: Sequence[str], rows: Mapping[Path, Sequence[str]], charts: Sequence[str] = ()
) -> Path:
    """Write folder/index.html: one table that links the report of every run; give its path.

    `rows` maps each run's folder (inside `folder`) to its cells, one for each of `columns`; `charts` are of
    `charts.chart`, shown below.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in ("Job", *columns, "Returns"))
    lines = []
    for run, cells in rows.items():
        record = read_record(run)
        link = escape(f"{run.relative_to(folder).as_posix()}/report.html")
        pairs = zip(columns, cells, strict=True)
        inner = "".join(f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in pairs)
        curve = sparkline(running_mean(record.returns, RECENT))
        lines.append(f'<tr><td><a href="{link}">{escape(record.job)}</a></td>{inner}<td>{curve}</td></tr>')
    body = (
        f'<header><p class="eyebrow">Fifteen · learners at work</p><h1>{escape(title)}</h1>'
        '<p class="lead">Every row is a run with a report of its own. The line is the '
        f"mean return of the last {RECENT} attempts over the run.</p></header>"
        f'<section class="box scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></section>"
        + "".join(f'<div class="charts">{one}</div>' for one in charts)
    )
    return write_page(folder / "index.html", f"{title} · Fifteen", body)


def _figures(record: Record) -> str:
    """The few numbers that tell how it went."""
    figures: list[tuple[str, str]] = []
    if len(record.returns):
        means = running_mean(record.returns, RECENT)
        best = int(np.nanargmax(means[min(RECENT, len(means)) - 1 :])) + min(RECENT, len(means)) - 1
        gap = np.abs(record.expected - record.discounted)[-RECENT:]
        figures = [
            (f"mean return, first {RECENT} attempts", number(_mean(record.returns[:RECENT]))),
            (f"mean return, last {RECENT} attempts", number(_mean(record.returns[-RECENT:]))),
            (
                f"best mean of {RECENT}, at step {record.steps[best]:,.0f}",
                number(float(means[best])),
            ),
            (f"expectation off by, last {RECENT} attempts", number(_mean(gap))),
        ]
    if record.time_s > 0:
        figures.append(("environment steps per second", f"{record.step / record.time_s:,.0f}"))
    figures = [(name, value.replace("-", "−")) for name, value in figures]
    return f'<dl class="figures">{definitions(figures)}</dl>' if figures else ""


def _charts(record: Record) -> str:
    def over_steps(title: str, text: str, values: np.ndarray, y_label: str) -> str:
        mean = running_mean(values, RECENT)
        series = [
            Series(record.steps, values, "dots", "quiet", "one attempt"),
            Series(record.steps, mean, "line", "main", f"mean of the last {RECENT}"),
        ]
        return chart(title, text, series, x_label="environment steps", y_label=y_label)

    n = len(record.returns)
    late = np.arange(n) >= n - max(1, n // 4)
    both = np.concatenate([record.expected, record.discounted])
    both = both[np.isfinite(both)]
    ends = np.array([both.min(), both.max()]) if len(both) else both
    calibration = [
        Series(record.expected[~late], record.discounted[~late], "dots", "quiet", "earlier"),
        Series(record.expected[late], record.discounted[late], "dots", "main", "latest quarter"),
        Series(ends, ends, "diagonal", "guide", "as expected"),
    ]
    return (
        over_steps(
            "Learning curve",
            "What each attempt brought, without discount.",
            record.returns,
            "return (the job's reward units)",
        )
        + chart(
            "Expected and obtained",
            "What the learner expected when an attempt began, and what it then obtained. "
            "A learner that knows itself stays near the dashed line.",
            calibration,
            x_label="expected discounted return",
            y_label="obtained discounted return",
            same_axes=True,
        )
        + over_steps(
            "Length of attempts",
            "Decisions from the first observation to the last.",
            record.lengths,
            "environment steps per attempt",
        )
        + over_steps(
            "Surprise",
            "How far each observation lay from what the learner had predicted.",
            record.surprise,
            "mean prediction error (standard deviations)",
        )
    )


def _events(record: Record) -> str:
    faults = record.last.get("faults", {})
    notes = record.last.get("notes", [])
    groups = []
    if faults:
        pairs = [(name, f"{count:,}") for name, count in sorted(faults.items())]
        groups.append(f'<div class="group"><h3>Faults, counted</h3><dl>{definitions(pairs)}</dl></div>')
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        groups.append(f'<div class="group"><h3>Notes</h3><ul class="plain">{items}</ul></div>')
    inner = f'<div class="groups">{"".join(groups)}</div>' if groups else "<p>None.</p>"
    return f'<section class="box"><h2>Faults and notes</h2>{inner}</section>'


def _settings(config: Mapping[str, Any], record: Record) -> str:
    """Every setting, in one group for each part of config.json."""
    groups: dict[str, list[tuple[str, str]]] = {"run": []}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            groups[name] = flat(value)
        else:
            groups["run"].append((name, _text(value)))
    if record.last:
        learning = {key: record.last.get(key) for key in ("updates", "reward_scale")}
        groups["at the end"] = flat(learning) + flat(record.last.get("losses", {}))
    inner = "".join(
        f'<div class="group"><h3>{escape(_words(name))}</h3><dl>{definitions(pairs)}</dl></div>'
        for name, pairs in groups.items()
        if pairs
    )
    head = "<h2>What was run</h2>"
    return f'<section class="box settings">{head}<div class="groups">{inner}</div></section>'


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of name and text: {"a": {"b_c": 1}} -> [("a b c", "1")]."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{_words(str(key))}"
        if isinstance(item, Mapping) and item:
            pairs += flat(item, f"{name} ")
        else:
            pairs.append((name, _text(item)))
    return pairs


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return json.dumps(value)


def _spoken(seconds: float) -> str:
    """3725 -> "1 h 2 min", 65 -> "1 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{escape(_words(name))}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def write_page(path: Path, title: str, body: str, style: str = "") -> Path:
    """Write a self-contained page and give its path. style: CSS beside that of all pages."""
    css = resources.files("fifteen").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path
