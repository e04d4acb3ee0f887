"""The parts of the page of an exam, each a function from numbers to HTML."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from fifteen.charts import SEVERAL, Row, Series, chart, estimates
from fifteen.examining.calibration import CLEAR, Calibrations
from fifteen.examining.sheets import Sheet
from fifteen.examining.stats import interquartile_mean, performance_profile
from fifteen.examining.steadiness import Steadiness
from fifteen.examining.summary import MARGIN, SPLITS, Compared, Curve, Gap, Split, SplitScores, Tail
from fifteen.examining.wording import (
    SCORE,
    SPLIT_NAMES,
    cells,
    count,
    figure,
    percent,
    ranged,
    row,
    styles,
    table,
)

# Splits -------------------------------------------------------------------------------------------


def splits_chart(scores: Mapping[str, Mapping[Split, SplitScores]]) -> str:
    """Train, iid, held-out and outside side by side; grouped by split where there are several learners."""
    colour = styles(list(scores))
    alone = len(scores) == 1
    rows = [
        row(
            split if alone else name,
            of_learner[split].whole,
            colour[name],
            group="" if alone else SPLIT_NAMES[split],
        )
        for split in SPLITS
        for name, of_learner in scores.items()
        if split in of_learner
    ]
    text = "IQM of the lifetimes' mean scores, with the interval for jobs of such families."
    return estimates("Train, iid, held-out and outside", text, rows, x_label=SCORE, marks=(0.0, 1.0))


def gaps_chart(gaps: Mapping[str, Sequence[Gap]]) -> str:
    colour = styles(list(gaps))
    rows = [
        row(
            f"{gap.easier} − {gap.harder}" if len(gaps) == 1 else name,
            gap.estimate,
            colour[name],
            group="" if len(gaps) == 1 else f"{gap.easier} − {gap.harder}",
        )
        for n in range(max(map(len, gaps.values()), default=0))
        for name, of_learner in gaps.items()
        for gap in of_learner[n : n + 1]
    ]
    text = (
        "train − iid: what it knows by heart. iid − held-out: what does not carry over to another kind of job. Over "
        "the families that have both."
    )
    return estimates("The two gaps", text, rows, x_label="difference of scores", marks=(0.0,)) if rows else ""


def split_table(scores: Mapping[str, Mapping[Split, SplitScores]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(split if len(scores) == 1 else f'{split}, {name}')}</td>"
        + cells(
            ("jobs", f"{of_split.jobs:,}"),
            ("families", f"{of_split.families:,}"),
            ("whole lifetime", ranged(of_split.whole)),
            ("first attempt", figure(of_split.first)),
            ("last attempt", figure(of_split.last)),
            ("short of reference", figure(of_split.short)),
            ("attempts solved", "–" if of_split.solved is None else percent(of_split.solved)),
        )
        + "</tr>"
        for split in SPLITS
        for name, of_learner in scores.items()
        for of_split in [of_learner.get(split)]
        if of_split is not None
    )
    head = ("Split", "Jobs", "Families", "Whole lifetime", "First attempt", "Last attempt", "Short of reference")
    return table((*head, "Attempts solved"), lines)


def family_map(all_sheets: Mapping[str, Sheet]) -> str:
    """IQM of each family on each split, as tables whose colours are their numbers; outside jobs in one of their own."""
    maps = _map(all_sheets, SPLITS[:-1]) + _map(all_sheets, SPLITS[-1:])
    return (
        '<section class="box"><h2>Where it is good, and where not</h2>'
        "<p>IQM of the score by family. Empty is chance, full the reference; orange is below chance.</p>"
        f'<div class="wide">{maps}</div></section>'
    )


def _map(all_sheets: Mapping[str, Sheet], splits: Sequence[Split]) -> str:
    columns: list[tuple[str, Split]] = [
        (name, split) for name, sheet in all_sheets.items() for split in splits if len(sheet.rows(split))
    ]
    found: dict[str, dict[tuple[str, Split], float]] = {}
    for name, split in columns:
        sheet = all_sheets[name]
        rows = sheet.rows(split)
        for family in set(sheet.families(rows)):
            of_family = sheet.scores[[n for n in rows if sheet.jobs[n].family == family]]
            found.setdefault(family, {})[name, split] = interquartile_mean(of_family)
    if not columns:
        return ""
    head = ""
    if len(all_sheets) > 1:
        spans = [(name, sum(column[0] == name for column in columns)) for name in all_sheets]
        head = "".join(f'<th colspan="{span}">{escape(name)}</th>' for name, span in spans if span)
        head = f"<tr><th></th>{head}</tr>"
    names = "".join(f"<th>{escape(split)}</th>" for _, split in columns)
    lines = "".join(
        f"<tr><th>{escape(family)}</th>{''.join(_shade(found[family].get(column)) for column in columns)}</tr>"
        for family in sorted(found)
    )
    return f'<table class="map"><thead>{head}<tr><th></th>{names}</tr></thead><tbody>{lines}</tbody></table>'


def _shade(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    kind = "below" if value < 0.0 else "above"
    return f'<td class="{kind}" style="--share:{min(abs(value), 1.0):.2f}">{figure(value)}</td>'


# Learning by attempt ------------------------------------------------------------------------------


def learning_charts(curves: Mapping[str, Mapping[Split, Curve]]) -> str:
    """One chart for each split, all with the same axis."""
    colour = styles(list(curves))
    every = [curve for of_learner in curves.values() for curve in of_learner.values()]
    if not every:
        return '<p class="note">No job had more than one attempt: there is no learning to be seen.</p>'
    values = np.concatenate([[0.0, 1.0], *(part for c in every for part in (c.score, c.low, c.high))])
    air = 0.04 * float(np.ptp(values))
    y_range = float(values.min()) - air, float(values.max()) + air
    charts = []
    for split in SPLITS:
        shown = {name: of_learner[split] for name, of_learner in curves.items() if split in of_learner}
        if not shown:
            continue
        first = next(iter(shown.values()))
        in_attempts = all(curve.in_attempts for curve in shown.values())
        ends = np.array([min(c.at[0] for c in shown.values()), max(c.at[-1] for c in shown.values())])
        series = [Series(ends, np.full(2, level), "line", "quiet", "") for level in (0.0, 1.0)]
        for name, curve in shown.items():
            outline = np.concatenate([curve.band_at, curve.band_at[::-1]])
            series.append(Series(outline, np.concatenate([curve.low, curve.high[::-1]]), "band", colour[name], ""))
        series += [
            Series(curve.at, curve.score, "line", colour[name], name if len(curves) > 1 else "")
            for name, curve in shown.items()
        ]
        band = f" Band: {percent(first.level)} at each point." if first.level else ""
        charts.append(
            chart(
                split.capitalize(),
                f"IQM over {count(first.jobs, 'job')}.{band}",
                series,
                x_label="attempt of a lifetime" if in_attempts else "share of a lifetime's attempts",
                y_label="score",
                x_range=(float(ends[0]), float(ends[1])),
                y_range=y_range,
            )
        )
    return f'<div class="pairs">{"".join(charts)}</div>'


# The worst jobs -----------------------------------------------------------------------------------


def tails_chart(tails: Mapping[str, Sequence[Tail]]) -> str:
    colour = styles(list(tails))
    rows, lacking = [], 0
    for n, share in enumerate(tail.share for tail in next(iter(tails.values()))):
        for name, of_learner in tails.items():
            tail = of_learner[n]
            if tail.same is None:
                lacking += 1
                continue
            ends = sorted((tail.same, tail.same if tail.double is None else tail.double))
            told = " to ".join(map(figure, ends)) if tail.double is not None else f"{figure(ends[0])}, at the lowest"
            label = f"worst {percent(share)}"
            rows.append(
                Row(
                    label if len(tails) == 1 else name,
                    sum(ends) / 2,
                    ends[0],
                    ends[1],
                    told,
                    colour[name],
                    group="" if len(tails) == 1 else label,
                )
            )
    text = (
        "Mean score of the worst jobs (CVaR). The lower end chooses and scores them with the same lifetimes, the upper "
        "one scores them with a lifetime that did not choose: in expectation the truth lies between."
    )
    if lacking:
        text += " A share with less than one job is not shown."
    if not rows:
        return ""
    return estimates("How bad the worst are", text, rows, x_label=SCORE, marks=(0.0,))


def profile_chart(all_sheets: Mapping[str, Sheet]) -> str:
    """Share of lifetimes above each score, of all jobs together."""
    colour = styles(list(all_sheets))
    thresholds = np.linspace(-0.5, 1.5, 101)
    series = [
        Series(thresholds, 100.0 * performance_profile(sheet.scores, thresholds), "line", colour[name], name)
        for name, sheet in all_sheets.items()
        if sheet.jobs
    ]
    return chart(
        "How many get how far",
        "Share of all lifetimes that score more than this. A good learner's line stays high for long.",
        series,
        x_label=SCORE,
        y_label="lifetimes (%)",
        x_range=(-0.5, 1.5),
        y_range=(0.0, 100.0),
    )


# What it knows of itself --------------------------------------------------------------------------


def calibration_charts(found: Mapping[str, Calibrations]) -> str:
    """Expected against obtained for each learner, and how much too much each hopes for, by horizon."""
    found = {name: of_learner for name, of_learner in found.items() if of_learner.groups or of_learner.cut}
    if not any(of_learner.groups for of_learner in found.values()):
        return '<p class="note">No learner here said what it expected, of attempts that came to an end.</p>'
    colour = styles(list(found))
    charts, rows = [], []
    for name, of_learner in found.items():
        if not of_learner.groups:
            continue
        both = np.concatenate([values for g in of_learner.groups for values in (g.expected, g.obtained)])
        ends = np.array([both.min(), both.max()])
        series = [Series(ends, ends, "diagonal", "quiet", "expected = obtained")]
        for group, style in zip(of_learner.groups, SEVERAL, strict=False):
            span = _horizon(group.shortest, group.longest)
            series.append(Series(group.expected, group.obtained, "line", style, span))
            told = row(span if len(found) == 1 else name, group.bias, colour[name], "" if len(found) == 1 else span)
            if group.correlation is not None:
                told = dataclasses.replace(told, told=f"{told.told}, r {figure(group.correlation)}")
            rows.append((group.shortest, told))
        charts.append(
            chart(
                "Expected and obtained" if len(found) == 1 else f"Expected and obtained, {name}",
                f"Means of equally many of {of_learner.used:,} expectations, by the length of the job's attempts. "
                "Below the diagonal it hoped for too much.",
                series,
                x_label="expected: standard deviations from the job's mean",
                y_label="obtained",
                same_axes=True,
            )
        )
    hopes = estimates(
        "Hopes for too much by",
        "Mean over jobs of expected − obtained, and r, the correlation of both within jobs.",
        [told for _, told in sorted(rows, key=lambda pair: pair[0])],
        x_label="standard deviations of what was obtained",
        marks=(0.0,),
    )
    cut = sum(of_learner.cut for of_learner in found.values())
    not_finite = sum(of_learner.not_finite for of_learner in found.values())
    note = (
        f"Left out: {cut:,} expectations fewer than {CLEAR} steps before a time limit, because the learner looks "
        "beyond it and the return does not."
    )
    if not_finite:
        note += f" {not_finite:,} expectations were no finite numbers."
    if len(charts) == 1:
        return f'<div class="pairs">{charts[0]}{hopes}</div><p class="note">{note}</p>'
    return f'<div class="stack"><div class="pairs">{"".join(charts)}</div>{hopes}</div><p class="note">{note}</p>'


def _horizon(shortest: int, longest: int | None) -> str:
    return f"over {shortest - 1:,} steps" if longest is None else f"{shortest:,} to {longest:,} steps"


def steadiness_panel(found: Mapping[str, Steadiness]) -> str:
    colour = styles(list(found))
    alone = len(found) == 1
    early = [
        row(
            f"after {percent(share)}" if alone else name,
            of_learner.after[share],
            colour[name],
            group="" if alone else f"after {percent(share)}",
        )
        for share in next(iter(found.values())).after
        for name, of_learner in found.items()
    ]
    first = next(iter(found.values()))
    none_yet = ", ".join(f"{percent(of)} after {percent(share)}" for share, of in first.none_yet.items())
    text = (
        "Score of the last attempt that had ended after 1, 10 and 100 % of a lifetime's steps; where none had, it "
        f"counts as chance. None yet, or failed, of {next(iter(found))}: {none_yet}."
    )
    measures = (
        ("Between lifetimes on one job (interquartile range)", lambda s: s.across),
        ("From attempt to attempt (interquartile range of the change)", lambda s: s.within),
        ("Deepest fall below the best attempt before", lambda s: s.drawdown),
    )
    lines = "".join(
        f"<tr><td>{measure}</td>"
        + cells(*((name, "–" if (e := of(s)) is None else ranged(e)) for name, s in found.items()))
        + "</tr>"
        for measure, of in measures
    )
    shown = estimates("How early", text, early, x_label=SCORE, marks=(0.0, 1.0))
    return (
        f'<div class="{"pairs" if alone else "stack"}">{shown}'
        f"{table(('How steady: lower is better', *found), lines, 'words' if alone else '')}</div>"
    )


# Several learners ---------------------------------------------------------------------------------


def comparison_chart(first: str, found: Sequence[Compared]) -> str:
    rows, notes = [], []
    for one, style in zip(found, (*SEVERAL[1:], *SEVERAL) * len(found), strict=False):
        common = f"{one.rival}: {count(one.jobs, 'job')} in common"
        if one.ours is not None and one.theirs is not None and one.improves is not None:
            common += f", mean score {figure(one.ours)} against {figure(one.theirs)}"
            common += f", ahead in {percent(one.improves)} of pairs of lifetimes"
        if one.difference is None:
            notes.append(f"{common}: too few to decide anything.")
            continue
        told = f"{one.verdict}: {figure(one.difference.estimate)}"
        told += f" [{figure(one.difference.low)}, {figure(one.difference.high)}]"
        rows.append(Row(one.rival, one.difference.estimate, one.difference.low, one.difference.high, told, style))
        note = f"{common}, p = {one.adjusted_p_value:.2g} after Holm"
        if one.over == "lifetimes":
            note += ", of these jobs only"
        if one.detectable is not None:
            note += f"; a difference of {figure(one.detectable)} would have been found four times out of five"
        notes.append(f"{note}.")
    text = (
        f"Mean difference of scores, {first} less the other, on the same jobs and seeds. Intervals hold for all "
        f"together at 95 %. Tied: surely closer than {MARGIN:g}."
    )
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    drawn = (
        estimates(
            f"{first} against the others", text, rows, x_label="difference of scores", marks=(-MARGIN, 0.0, MARGIN)
        )
        if rows
        else ""
    )
    return f'{drawn}<ul class="plain note">{items}</ul>'
