"""The first screen of the page of an exam: the headline, the gaps, what failed and what was found."""

from collections.abc import Mapping, Sequence
from html import escape

from fifteen.charts import estimates
from fifteen.examining.panels import splits_chart
from fifteen.examining.records import ExamHeader, FindingKind, Split
from fifteen.examining.sheets import Sheet
from fifteen.examining.summary import Failures, Gap, Headline, SplitScores, headline
from fifteen.examining.wording import SCORE, SPLIT_NAMES, basis, cells, count, figure, ranged, row, styles, table
from fifteen.report import definitions

MOST = 40
"""Most findings that are shown; exam.json has all."""
KINDS: dict[FindingKind, str] = {
    "overlap": "Schooled on jobs of this suite",
    "twins": "Better here than on twins of the same jobs",
    "leak": "The environment leaks",
    "crashed": "Crashed",
    "refused": "Refused",
    "missing": "Missing",
    "not finite": "Not finite",
    "timed out": "Timed out",
}


def glance(
    header: ExamHeader,
    scored: Mapping[str, Sheet],
    splits: Mapping[str, Mapping[Split, SplitScores]],
    of_gaps: Mapping[str, Sequence[Gap]],
    wrong: Mapping[str, Failures],
) -> str:
    """Headline, gaps, failures and findings, everything by learner."""
    heads = {name: head for name, sheet in scored.items() if (head := headline(sheet, splits[name])) is not None}
    found = _found(header, wrong)
    if not heads:
        shown = '<p class="box">Nothing could be scored: no job counts for any learner.</p>'
    elif len(header.learners) == 1:
        ((name, head),) = heads.items()
        figures = _figures(header, scored[name], of_gaps[name], wrong[name], len(found))
        shown = (
            f'<div class="glance">{_hero(head)}{splits_chart(splits)}</div>'
            f'<dl class="figures">{definitions(figures)}</dl>'
        )
    else:
        colour = styles(list(scored))
        same = len({sheet.jobs for sheet in scored.values()}) == 1
        rows = [
            row(
                name if same else f"{name}, {count(one.jobs, 'job')}",
                one.estimate,
                colour[name],
                SPLIT_NAMES[one.split],
            )
            for name, one in heads.items()
        ]
        rows.sort(key=lambda one: (one.group, -one.value if same else 0.0))
        shown = estimates(
            "Score on what is farthest from school",
            f"Interquartile mean over jobs and lifetimes. {basis(next(iter(heads.values())).estimate)}"
            + ("" if same else " Not of the same jobs, and so not to be compared: see Learners compared."),
            rows,
            x_label=SCORE,
            marks=(0.0, 1.0),
        )
        shown += _glance_table(header, heads, of_gaps, wrong)
    return shown + _findings(found)


def _hero(head: Headline) -> str:
    interval = head.estimate.interval
    told = "no interval" if interval is None else f"{figure(interval.low)} to {figure(interval.high)}"
    over = f"{count(head.jobs, 'job')} of {count(head.families, 'family', 'families')}"
    return (
        f'<section class="box hero"><h2>{escape(SPLIT_NAMES[head.split])}</h2>'
        f'<p class="big">{figure(head.estimate.value)}</p><p class="range">{told}</p>'
        "<p>of the way from chance (0) to the reference (1): the interquartile mean over "
        f"{over}. {escape(basis(head.estimate))} The luck of the schooling itself is in no interval: only other "
        "schooled learners would show it.</p></section>"
    )


def _figures(
    header: ExamHeader, sheet: Sheet, of_gaps: Sequence[Gap], wrong: Failures, findings: int
) -> list[tuple[str, str]]:
    found = [(f"{gap.easier} − {gap.harder}, {_interval(gap)}", figure(gap.estimate.value)) for gap in of_gaps]
    bound = f"of {count(wrong.asked, 'job')} failed; the 95 % bound for such jobs is {100 * wrong.bound:.1f} %"
    found.append((bound, f"{wrong.failed:,}"))
    for what, jobs in (
        ("jobs not applicable, neither passed nor failed: its spaces are others", sheet.not_applicable),
        ("jobs without a reference, in no score", sheet.without_reference),
    ):
        if jobs:
            found.append((what, f"{len(jobs):,}"))
    found.append(("findings", f"{findings:,}"))
    if header.openings is None:
        found.append(("the suite is not sealed: nobody counts who looked", "open"))
    else:
        found.append(("times this sealed suite was opened", f"{header.openings:,}"))
    return found


def _interval(gap: Gap) -> str:
    interval = gap.estimate.interval
    return "no interval" if interval is None else f"{figure(interval.low)} to {figure(interval.high)}"


def _glance_table(
    header: ExamHeader,
    heads: Mapping[str, Headline],
    of_gaps: Mapping[str, Sequence[Gap]],
    wrong: Mapping[str, Failures],
) -> str:
    lines = ""
    for note in header.learners:
        told = {f"{gap.easier} − {gap.harder}": ranged(gap.estimate) for gap in of_gaps.get(note.name, ())}
        failed = wrong[note.name]
        lines += f"<tr><td>{escape(note.name)}</td>" + cells(
            ("score", ranged(heads[note.name].estimate) if note.name in heads else "nothing could be scored"),
            *((name, told.get(name, "–")) for name in ("train − iid", "iid − held-out")),
            ("failed", f"{failed.failed:,} of {failed.asked:,} (at most {100 * failed.bound:.1f} %)"),
            ("not applicable", f"{len(header.attempts) - failed.asked:,}"),
        )
        lines += "</tr>"
    opened = (
        "The suite is not sealed: nobody counts who looked."
        if header.openings is None
        else f"This sealed suite was opened {count(header.openings, 'time')}."
    )
    return (
        table(("Learner", "Score", "train − iid", "iid − held-out", "Jobs that failed", "Not applicable"), lines)
        + f'<p class="note">{opened} "At most": the bound of 95 % for the share of jobs that fail.</p>'
    )


def _found(header: ExamHeader, wrong: Mapping[str, Failures]) -> list[str]:
    """What was found, and the failures that no finding speaks of, as items of a list."""
    alone = len(header.learners) == 1

    def item(kind: FindingKind, learner: str, text: str) -> str:
        who = f"{escape(learner)}: " if learner and not alone else ""
        return f"<li><b>{escape(KINDS[kind])}.</b> {who}{escape(text)}</li>"

    found = [
        item(one.kind, one.learner, one.text if one.job in one.text else f"{one.job}: {one.text}")
        for one in header.findings
    ]
    told = {(one.learner, one.kind) for one in header.findings}
    for name, of_learner in wrong.items():
        for status, jobs in of_learner.by_status.items():
            if status in KINDS and (name, status) not in told:
                shown = ", ".join([*jobs][:3]) + (f" and {len(jobs) - 3:,} more" if len(jobs) > 3 else "")
                found.append(item(status, name, shown))
    return found


def _findings(found: list[str]) -> str:
    if not found:
        none = "None: nothing failed, and no fault was found."
        return f'<section class="box fine"><h2>Findings</h2><p>{none}</p></section>'
    if len(found) > MOST:
        found = [*found[:MOST], f"<li>{len(found) - MOST:,} more, in exam.json and below.</li>"]
    return (
        '<section class="box alarm"><h2>Findings: read these before you believe the scores</h2>'
        f'<ul class="plain">{"".join(found)}</ul></section>'
    )
