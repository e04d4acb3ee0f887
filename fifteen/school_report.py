"""The page of a school: what each family's first, third and last attempts came to, over the schooling."""

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fifteen.charts import Series, chart, sparkline
from fifteen.errors import RunError
from fifteen.jobs.families import is_outside
from fifteen.log import SchoolProgress
from fifteen.report import definitions, flat, write_page

HISTORY = "school.jsonl"
_ATTEMPTS = ("first", "third", "last")
_METRICS = (
    ("teacher_loss", "Distance to the teacher", "Cross-entropy to the teacher's action, also where it has no weight."),
    ("entropy", "Indifference", "Entropy of the policy: how much it leaves to chance."),
    ("value_loss", "Expectations", "Cross-entropy of the expected return to what was obtained."),
)


def append_history(folder: Path, progress: SchoolProgress) -> None:
    """Add a line to folder/school.jsonl. A line of a step that comes again after a resume replaces the earlier one."""
    line = {"steps": progress.steps, "seconds": progress.seconds, "scores": progress.scores, **progress.metrics}
    with (folder / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of folder/school.jsonl in the order of their steps. Raises RunError where there are none."""
    if not (folder / HISTORY).is_file():
        raise RunError(f"{folder} is not the folder of a school: it has no {HISTORY}")
    lines = [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines() if line]
    return [line for _, line in sorted({line["steps"]: line for line in lines}.items())]


def write_school_report(folder: Path, settings: dict[str, Any]) -> Path:
    """Write folder/report.html and give its path. settings: what the school was begun with."""
    history = read_history(folder)
    names = sorted({name for line in history for name in line["scores"]})
    steps = np.array([line["steps"] for line in history], np.float64)
    scores = np.full((len(names), len(history), 3), np.nan)
    for at, line in enumerate(history):
        for name, values in line["scores"].items():
            scores[names.index(name), at] = values
    # Of another library's environment the score is the raw return, in a unit of its own.
    referred = np.array([not is_outside(name) for name in names], bool)
    means = _means(scores[referred])
    outside = ", ".join(name for name in names if is_outside(name))
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_cell(*pair) for pair in zip(_ATTEMPTS, scores[n, -1], strict=True))}"
        f"<td>{sparkline(scores[n, :, 2])}</td></tr>"
        for n, name in enumerate(names)
    )
    head = "".join(f"<th>{name}</th>" for name in ("Family", *(f"{a} attempt" for a in _ATTEMPTS), "last, over time"))
    curves = [
        Series(steps, means[:, n], "line", style, f"{attempt} attempt")
        for n, (attempt, style) in enumerate(zip(_ATTEMPTS, ("quiet", "guide", "main"), strict=True))
    ]
    only_outside = bool(names) and not referred.any()
    learning = (
        ""
        if only_outside
        else chart(
            "Learning within a lifetime",
            "Mean score over the families that have a reference. The distance between the first and the last attempt "
            "is what is learned in context, without an update of the weights.",
            curves,
            x_label="steps of all lifetimes",
            y_label="score (0 chance, 1 reference)",
        )
    )
    body = (
        '<header><p class="eyebrow">Fifteen · a learner at school</p>'
        f'<h1>{len(names)} families</h1><p class="lead">{int(steps[-1]):,} steps of all lifetimes. '
        "Scores are those of lifetimes that ended lately: 0 is a uniformly random policy, 1 the family's reference, "
        "which may know what no learner can know."
        + (f" Raw returns, in no mean: {escape(outside)}." if outside else "")
        + '</p></header><div class="charts">'
        + learning
        + "".join(
            chart(
                title,
                text,
                [Series(steps, np.array([line[metric] for line in history]), "line", "main", metric)],
                x_label="steps of all lifetimes",
                y_label="nats",
            )
            for metric, title, text in _METRICS
        )
        + f'</div><div class="boxes"><section class="box scroll"><h2>Families</h2><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
        '<section class="box"><h2>Settings</h2><div class="groups"><div class="group">'
        f"<dl>{definitions(flat(settings))}</dl></div></div>"
        f"</section></div><footer>Made from {HISTORY} in the folder of this page.</footer>"
    )
    return write_page(folder / "report.html", "School · Fifteen", body)


def _means(scores: np.ndarray) -> np.ndarray:
    """Mean over the families that are known at each time: float64[F, H, 3] -> float64[H, 3]."""
    known = np.isfinite(scores)
    total = np.where(known, scores, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _cell(name: str, value: float) -> str:
    shown = "" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
    return f'<td data-name="{name} attempt">{shown}</td>'
