"""The page of a night: every job before it, after the day and after the night, and what was kept of the gain."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fifteen.charts import SEVERAL, Row, Series, chart, estimates
from fifteen.errors import RunError
from fifteen.judging import RESULTS, WHO
from fifteen.log import duration, number
from fifteen.report import definitions, flat, write_page
from fifteen.sleeping import SleepProgress

HISTORY = "night.jsonl"
PAGE = "night.html"
_HEADS = dict(zip(WHO, ("before", "after the day", "after the night"), strict=True))
_STYLE = (
    ".charts{grid-template-columns:minmax(0,1fr)}.boxes+.charts{margin-top:1.5rem}td small{color:var(--soft)}"
    ".box .lead{font-size:.88rem;margin-bottom:.8rem}@media(max-width:40rem){.scroll td:empty{display:none}}"
)


def append_history(folder: Path, progress: SleepProgress) -> None:
    """Add a line to folder/night.jsonl. A line of a step that comes again after a resume replaces the earlier one.

    That the learner practises, or its parent, is none: a night that goes on there has learned from no lesson yet.
    """
    if progress.practising or progress.trying is not None:
        return
    line = {"step": progress.step, "losses": progress.losses}
    # A full disk ends a night where it is saved, and is named there.
    with suppress(OSError), (folder / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of folder/night.jsonl in the order of their steps; none where weights alone were merged.

    A last line that a killed process did not finish is left out.
    """
    if not (folder / HISTORY).is_file():
        return []
    lines = []
    for text in (folder / HISTORY).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for _, line in sorted({line["step"]: line for line in lines}.items())]


def write_night_report(folder: Path) -> Path:
    """Write folder/night.html and give its path. Raises RunError where folder has no night.json."""
    try:
        told = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is not the folder of a night: its {RESULTS} cannot be read ({error})") from error
    night, jobs = told["night"], told["jobs"]
    kept = [job for job in jobs if job["kept"]]
    by_day = len(told["took_part"])
    lead = f"It took {duration(night['seconds'])}"
    lead += (
        ": they were merged by their weights alone, and nothing that they lived was read. "
        if night.get("weights_only")
        else f" and {night['steps_done']:,} updates. "
    )
    lead += "School was rehearsed beside the jobs. " if night.get("school") else ""
    lead += (
        f"What was kept of the day's gain is told of {len(kept)}: those whose gain can be told from nothing."
        if told["asked"]["episodes"]
        else "Nobody was put to the jobs to compare."
    )
    history = read_history(folder)
    sources = f"{RESULTS} and {HISTORY}" if history else RESULTS
    body = (
        '<header><p class="eyebrow">Fifteen · a learner asleep</p>'
        f"<h1>{by_day} instance{'' if by_day == 1 else 's'}, one learner</h1>"
        f'<p class="lead">{escape(lead)}</p></header>'
        f"{_figures(told, kept)}"
        f'<div class="boxes">{_table(told)}</div>'
        f'<div class="charts">{_kept_chart(kept, jobs)}{_losses(history)}</div>'
        f'<div class="boxes">{_notes(told)}{_settings(told)}</div>'
        f"<footer>Made from {sources} in the folder of this page.</footer>"
    )
    return write_page(folder / PAGE, "Night · Fifteen", body, _STYLE)


def name(job: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> str:
    """A job: its id alone where no other has it, with the run where several instances worked on it."""
    ids = [other["job"].partition(" {")[0] for other in jobs]
    same = sum(other["job"] == job["job"] for other in jobs)
    if same > 1:
        return f"{job['job']} ({Path(job['run']).name})" if job["run"] else job["job"]
    id = job["job"].partition(" {")[0]
    return id if ids.count(id) == 1 else job["job"]


def worse(told: Mapping[str, Any]) -> list[str]:
    """Jobs that the one learner certainly does worse than its parent did."""
    return [name(job, told["jobs"]) for job in told["jobs"] if job["worse"]]


def marks(job: Mapping[str, Any]) -> str:
    """What else a row of night.json says, as HTML; empty where it says nothing."""
    said = {
        "older": job["older"],
        "no instance taught it": not (job["taught"] or job["older"]),
        "worse": job["worse"],
        "not attempted": bool(job["missing"]),
    }
    return f" <small>{', '.join(what for what in said if said[what])}</small>" if any(said.values()) else ""


def shown(estimate: Mapping[str, Any] | None, places: int | None = None) -> str:
    """ "158 [125, 191]"; empty where nothing is known. places: after the point; None: as the interval warrants."""
    if estimate is None:
        return ""
    value, low, high = (estimate[key] for key in ("estimate", "low", "high"))
    if low is None:
        return number(value) if places is None else f"{value:.{places}f}"
    if places is None:
        half = (high - low) / 2
        places = max(0, 1 - math.floor(math.log10(half))) if half > 0 else None
    tell = number if places is None else (lambda x: f"{x:,.{places}f}")
    return f"{tell(value)} [{tell(low)}, {tell(high)}]"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _figures(told: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    if kept:
        shares = [job["kept"]["estimate"] for job in kept]
        worst = int(np.argmin(shares))
        figures = [
            (f"share of the gain kept, mean of {len(kept)} job{'s' * (len(kept) != 1)}", f"{np.mean(shares):.2f}"),
            (f"the least: {name(kept[worst], told['jobs'])}", f"{shares[worst]:.2f}"),
        ]
    if told["asked"]["episodes"]:
        figures.append(("jobs worse after the night than before", f"{len(worse(told))}"))
    rehearsed, rested = sum(job["older"] for job in told["jobs"]), len(told.get("rested", ()))
    figures += [
        ("instances took part", f"{len(told['took_part'])}"),
        ("left out", f"{len(told['left_out'])}"),
        ("older jobs rehearsed", f"{rehearsed} of {rehearsed + rested}" if rested else f"{rehearsed}"),
    ]
    return f'<dl class="figures">{definitions([(what, _minus(value)) for what, value in figures])}</dl>'


def _table(told: Mapping[str, Any]) -> str:
    jobs = told["jobs"]
    heads = ("Job", *_HEADS.values(), "share kept")
    rows = []
    for job in jobs:
        cells = [(_HEADS[who], shown(job.get(who))) for who in WHO] + [("share kept", shown(job["kept"], 2))]
        inner = "".join(f'<td data-name="{what}">{_minus(_split(text))}</td>' for what, text in cells)
        rows.append(f"<tr><td><span>{escape(name(job, jobs))}{marks(job)}</span></td>{inner}</tr>")
    asked = told["asked"]
    text = (
        f"Mean return of {asked['episodes']} attempts with a fresh memory and no weight updates, with its interval at "
        f"{told['level']:.0%}: the parent, the instance that worked on the job, the one learner. Attempts follow one "
        "another in one lifetime and are treated as independent."
        if asked["episodes"]
        else "No attempts were asked for."
    )
    return (
        f'<section class="box scroll"><h2>Jobs</h2><p class="lead">{text}</p><table><thead><tr>'
        f"{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _split(text: str) -> str:
    """The interval smaller than the estimate."""
    estimate, bracket, rest = text.partition(" [")
    return f"<span>{estimate} <small>[{rest}</small></span>" if bracket else estimate


def _kept_chart(kept: Sequence[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]]) -> str:
    if not kept:
        return ""
    rows = []
    for job in kept:
        share = job["kept"]
        told = _minus(shown(share, 2))
        rows.append(Row(name(job, jobs), share["estimate"], share["low"], share["high"], told, "main"))
    return estimates(
        "What the night kept of the day's gain",
        "1 is all that the instance had learned, 0 none of it. Without a gain that can be told from nothing: no share.",
        rows,
        x_label="(after the night − before) / (after the day − before)",
        marks=(0.0, 1.0),
    )


def _losses(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return ""
    names = sorted({job for line in history for job in line["losses"]})
    steps = np.array([line["step"] for line in history], np.float64)
    values = np.array([[line["losses"].get(job, np.nan) for line in history] for job in names])
    if len(names) <= len(SEVERAL):
        series = [Series(steps, v, "line", s, n) for v, s, n in zip(values, SEVERAL, names, strict=False)]
    else:
        series = [Series(steps, v, "line", "quiet", "" if n else "one job") for n, v in enumerate(values)]
        series.append(Series(steps, np.nanmean(values, axis=0), "line", "main", f"mean of {len(names)} jobs"))
    return chart(
        "Distance to the teachers",
        "Cross-entropy to the policy of who learned the job, beyond that policy's own entropy. 0 is the same policy.",
        series,
        x_label="updates",
        y_label="nats",
        empty="No update was made.",
    )


def _notes(told: Mapping[str, Any]) -> str:
    groups = []
    if told["left_out"]:
        items = "".join(f"<li>{escape(run)}: {escape(why)}</li>" for run, why in told["left_out"])
        groups.append(f'<div class="group"><h3>Runs left out</h3><ul class="plain">{items}</ul></div>')
    if rested := told.get("rested"):
        items = "".join(f"<li>{escape(job)}</li>" for job in rested)
        groups.append(f'<div class="group"><h3>Older jobs not rehearsed</h3><ul class="plain">{items}</ul></div>')
    if missing := [job for job in told["jobs"] if job["missing"] and told["asked"]["episodes"]]:
        items = "".join(f"<li>{escape(name(job, told['jobs']))}: {escape(job['missing'])}</li>" for job in missing)
        groups.append(f'<div class="group"><h3>Jobs not attempted</h3><ul class="plain">{items}</ul></div>')
    inner = f'<div class="groups">{"".join(groups)}</div>' if groups else "<p>Nobody and nothing.</p>"
    return f'<section class="box"><h2>Left out</h2>{inner}</section>'


def _settings(told: Mapping[str, Any]) -> str:
    night = {key: value for key, value in told["night"].items() if key not in ("jobs", "older", "practised")}
    groups = (("night", flat(night)), ("attempts", flat({k: v for k, v in told["asked"].items() if k != "sleeper"})))
    inner = "".join(
        f'<div class="group"><h3>{title}</h3><dl>{definitions(pairs)}</dl></div>' for title, pairs in groups
    )
    return f'<section class="box settings"><h2>What was run</h2><div class="groups">{inner}</div></section>'
