"""A look at the worst jobs: how each lifetime went, and one attempt as it was perceived."""

from html import escape

import numpy as np

from fifteen.charts import Row, Style, estimates, strip
from fifteen.examining.replays import Replay
from fifteen.examining.sheets import Sheet
from fifteen.examining.wording import figure
from fifteen.log import number


def worst_card(sheet: Sheet, index: int, seen: Replay | None, score: float | None, problem: str, style: Style) -> str:
    """One of the worst jobs: how it went in each lifetime, and a look at one attempt."""
    job, runs = sheet.jobs[index], sheet.scores[index]
    mean = float(runs.mean())
    drawn = estimates(
        job.name,
        f"{job.split or 'no record'}, family {job.family}",
        [Row("", mean, None, None, figure(mean), style, points=runs.tolist())],
        x_label=f"score of {len(runs)} lifetimes, and their mean",
        marks=(0.0, 1.0),
    )
    failed = f'<p class="bad">{escape(problem)}</p>' if problem else ""
    return f'<article class="box worst">{drawn}{failed}{replay_strips(seen, score)}</article>'


def replay_strips(seen: Replay | None, score: float | None) -> str:
    if seen is None:
        return '<p class="note">No attempt was kept to look at.</p>'
    length = f"{seen.length:,} step{'s' if seen.length > 1 else ''}"
    if seen.length > len(seen.rewards):
        length += f", of which the first {len(seen.rewards):,} are shown"
    ended = "" if score is None else f", score {figure(score)}"
    told = f"Attempt {seen.attempt + 1} of lifetime {seen.run + 1}: {length}{ended}. Time runs to the right."
    sensors = f"{seen.sensors:,} sensor{'s' if seen.sensors > 1 else ''}"
    if seen.sensors > seen.observations.shape[1]:
        sensors += f", the first {seen.observations.shape[1]}"
    lanes = (
        ("sees", seen.observations, sensors),
        ("does", seen.actions, _span(seen.actions)),
        ("gets", seen.rewards[:, None], _span(seen.rewards)),
    )
    drawn = "".join(
        f'<div class="lane {name}"><span>{name}</span>{strip(values.T)}<small>{escape(said)}</small></div>'
        for name, values, said in lanes
        if values.shape[1]
    )
    return f'<div class="replay" role="img" aria-label="{escape(told)}">{drawn}<p class="note">{escape(told)}</p></div>'


def _span(values: np.ndarray) -> str:
    """The least and greatest of what is known."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "no numbers"
    low, high = (number(float(x)).replace("-", "−") for x in (known.min(), known.max()))
    return f"always {low}" if low == high else f"{low} to {high}"
