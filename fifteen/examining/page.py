"""exam.html: one self-contained page about an exam, from the files in its folder only."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from fifteen.examining.calibration import calibration
from fifteen.examining.glance import glance
from fifteen.examining.panels import (
    calibration_charts,
    comparison_chart,
    family_map,
    gaps_chart,
    learning_charts,
    profile_chart,
    split_table,
    splits_chart,
    steadiness_panel,
    tails_chart,
)
from fifteen.examining.records import AttemptRecord, ExamHeader, Split, read_header, read_records
from fifteen.examining.replays import read_replays
from fifteen.examining.sheets import Sheet, sheets
from fifteen.examining.steadiness import steadiness
from fifteen.examining.summary import (
    SPLITS,
    Curve,
    Failures,
    Gap,
    SplitScores,
    by_split,
    compared,
    failures,
    gaps,
    learning,
    tails,
    worst_jobs,
)
from fifteen.examining.wording import SPLIT_NAMES, cells, count, figure, styles, table
from fifteen.examining.worst import worst_card
from fifteen.log import duration, number
from fifteen.report import definitions, flat, write_page

PAGE = "exam.html"
WORST = 6
"""Worst jobs that are shown, shared among the learners, but at least 2 of each."""
SAID = 40
"""Most lines of a learner's provenance, and most jobs of a list, that are shown; exam.json has all."""
MOST_TEXT = 300
"""Most characters of an entry of a learner's provenance that are shown."""


def write_exam_page(folder: Path) -> Path:
    """Write folder/exam.html and give its path. Raises RunError where the folder is not that of an exam."""
    header, records = read_header(folder), read_records(folder)
    every = sheets(header, records)
    scored = {name: sheet for name, sheet in every.items() if sheet.jobs}
    wrong = {name: failures(header, records, sheet) for name, sheet in every.items()}
    splits = {name: by_split(sheet, header.thresholds) for name, sheet in scored.items()}
    of_gaps = {name: gaps(sheet) for name, sheet in scored.items()}
    body = _head(header, records) + glance(header, scored, splits, of_gaps, wrong)
    if scored:
        body += _breadth(scored, splits, of_gaps) + _depth(header, records, scored, wrong, folder)
    ran = _run(header) + _failed(every, wrong) + _all_jobs(header, records, every)
    body += _section("What was run, and what failed", ran)
    body += "<footer>Made from exam.json, records.jsonl and replays.jsonl in the folder of this page.</footer>"
    style = resources.files("fifteen.examining").joinpath("exam.css").read_text(encoding="utf-8")
    return write_page(folder / PAGE, f"Exam: {header.suite} · Fifteen", body, style)


def _section(title: str, inner: str, lead: str = "") -> str:
    told = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section class="part"><h2 class="part">{escape(title)}</h2>{told}{inner}</section>'


def _head(header: ExamHeader, records: Sequence[AttemptRecord]) -> str:
    names = ", ".join(note.name for note in header.learners)
    lead = (
        f"{names}: {len(header.attempts):,} jobs, {count(header.runs, 'lifetime')} on each, "
        f"{count(len(records), 'attempt')} recorded. "
    )
    if header.seconds is None:
        lead += "The exam is not finished: what has no record yet counts as a failure here."
    else:
        lead += f"Wall time {duration(header.seconds)}."
    return (
        f'<header><p class="eyebrow">Fifteen · an exam</p><h1>{escape(header.suite)}, version {header.suite_version}'
        f'</h1><p class="lead">{escape(lead)}</p></header>'
    )


# In depth -----------------------------------------------------------------------------------------


def _breadth(
    scored: Mapping[str, Sheet],
    splits: Mapping[str, Mapping[Split, SplitScores]],
    of_gaps: Mapping[str, Sequence[Gap]],
) -> str:
    side_by_side, numbers = "", split_table(splits)
    if len(scored) > 1:
        side_by_side = splits_chart(splits)
        numbers = f"<details><summary>The numbers</summary>{numbers}</details>"
    return _section(
        "Train, iid and held-out",
        f'<div class="stack">{side_by_side}{gaps_chart(of_gaps)}{numbers}{family_map(scored)}</div>',
        " ".join(f"{told}." for told in SPLIT_NAMES.values()),
    )


def _depth(
    header: ExamHeader,
    records: Sequence[AttemptRecord],
    scored: Mapping[str, Sheet],
    wrong: Mapping[str, Failures],
    folder: Path,
) -> str:
    curves: dict[str, dict[Split, Curve]] = {
        name: {split: curve for split in SPLITS if (curve := learning(sheet, split))} for name, sheet in scored.items()
    }
    steady = {name: found for name, sheet in scored.items() if (found := steadiness(sheet))}
    worst = tails_chart({name: tails(sheet) for name, sheet in scored.items()}) + profile_chart(scored)
    begins = "A lifetime begins with a fresh memory."
    if frozen := [note.name for note in header.learners if note.kind == "sb3" and note.name in scored]:
        begins += (
            f" A saved policy ({', '.join(frozen)}) does not learn here: what changes from attempt to attempt is luck."
        )
    parts = [
        _section("Learning by attempt", learning_charts(curves), begins),
        _section(
            "The worst jobs",
            f'<div class="{"pairs" if len(scored) == 1 else "stack"}">{worst}</div>'
            + _worst(records, scored, wrong, folder),
        ),
        _section(
            "Does it know how it is doing?",
            calibration_charts({name: calibration(records, name) for name in scored}),
            "What it expected of the rest of an attempt against what then came (discount 0.99 a step).",
        ),
        _section("How steady, and how early", steadiness_panel(steady)),
    ]
    if len(scored) > 1:
        others = comparison_chart(next(iter(scored)), compared([*scored.values()]))
        parts.append(_section("Learners compared", others))
    return "".join(parts)


def _worst(
    records: Sequence[AttemptRecord], scored: Mapping[str, Sheet], wrong: Mapping[str, Failures], folder: Path
) -> str:
    most = max(2, WORST // len(scored))
    chosen = {name: worst_jobs(sheet, most) for name, sheet in scored.items()}
    wanted = {(name, scored[name].jobs[n].name) for name, indices in chosen.items() for n in indices}
    replays = {(seen.learner, seen.job): seen for seen in read_replays(folder, lambda *key: key in wanted)}
    scores = {
        (record.learner, record.job, record.run, record.attempt): record.score
        for record in records
        if (record.learner, record.job) in wanted
    }
    colour = styles(list(scored))
    inner = ""
    for name, indices in chosen.items():
        drawn = ""
        for n in indices:
            job = scored[name].jobs[n].name
            seen = replays.get((name, job))
            score = scores.get((name, job, seen.run, seen.attempt)) if seen else None
            problems = [f"{status}: {jobs[job]}" for status, jobs in wrong[name].by_status.items() if job in jobs]
            drawn += worst_card(scored[name], n, seen, score, "; ".join(problems), colour[name])
        inner += (f"<h3>{escape(name)}</h3>" if len(scored) > 1 else "") + f'<div class="pairs">{drawn}</div>'
    note = (
        "Chosen by these very scores, so in truth they may be a little better. In a replay every row of what it sees "
        "is one sensor, faint at its least and full at its greatest in this attempt; below it what it did and got."
    )
    return f'<p class="lead">{note}</p>{inner}'


# What was run -------------------------------------------------------------------------------------


def _run(header: ExamHeader) -> str:
    groups: dict[str, list[tuple[str, str]]] = {
        "suite": [
            ("name and version", f"{header.suite}, {header.suite_version}"),
            ("SHA-256", header.suite_hash),
            ("who had access", header.access),
            ("opened", "not sealed" if header.openings is None else count(header.openings, "time")),
            ("head of the log of openings", header.seal or "–"),
            ("jobs, lifetimes on each", f"{len(header.attempts):,}, {header.runs:,}"),
        ],
        "with what": [
            ("commit", f"{header.commit or 'an installed package'}{', changed' if header.dirty else ''}"),
            ("device", header.device),
            ("started", header.started),
            ("took", "not finished" if header.seconds is None else duration(header.seconds)),
            *flat(header.versions),
        ],
        "arguments": flat(header.arguments),
    }
    for note in header.learners:
        pairs = [("kind", note.kind), ("source", note.source), ("SHA-256", note.digest or "–"), *flat(note.provenance)]
        pairs = [(name, text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} …") for name, text in pairs]
        if len(pairs) > SAID:
            pairs = [*pairs[:SAID], ("more", f"{len(pairs) - SAID:,} lines in exam.json")]
        groups[f"learner {note.name}"] = pairs
    inner = "".join(
        f'<div class="group"><h3>{escape(name)}</h3><dl>{definitions(pairs)}</dl></div>'
        for name, pairs in groups.items()
        if pairs
    )
    return f'<div class="box"><div class="groups">{inner}</div></div>'


def _failed(every: Mapping[str, Sheet], wrong: Mapping[str, Failures]) -> str:
    lines = ""
    for name, of_learner in wrong.items():
        for status, jobs in of_learner.by_status.items():
            shown = [*jobs.items()][:SAID]
            if len(jobs) > SAID:
                attempts = count(of_learner.attempts[status], "attempt")
                shown.append((f"{len(jobs) - SAID:,} more jobs, {attempts} in all", ""))
            for job, problem in shown:
                told = cells(("learner", name), ("status", status), ("problem", problem))
                lines += f"<tr><td>{escape(job)}</td>{told}</tr>"
    shown = table(("Job that failed", "Learner", "Status", "What was said"), lines, "words") if lines else ""
    for name, sheet in every.items():
        for what, jobs in (
            ("not applicable, neither passed nor failed", sheet.not_applicable),
            ("without a reference, and so in no score", sheet.without_reference),
        ):
            if jobs:
                listed = ", ".join(job.name for job in jobs[:SAID]) + (" …" if len(jobs) > SAID else "")
                told = f"{name}, {count(len(jobs), 'job')} {what}: {listed}"
                shown += f'<p class="note">{escape(told)}</p>'
    return shown


def _all_jobs(header: ExamHeader, records: Sequence[AttemptRecord], every: Mapping[str, Sheet]) -> str:
    """Every job with its score, behind a fold."""
    returns: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        if record.return_ is not None and record.status == "ok":
            returns[record.learner, record.job].append(record.return_)
    scores = {name: {job.name: s.scores[n].mean() for n, job in enumerate(s.jobs)} for name, s in every.items()}
    split = {record.job: record.split for record in records}
    lines = ""
    for job in header.attempts:
        told = [("split", split.get(job, "–"))]
        for name in every:
            own = returns.get((name, job))
            score = scores[name].get(job)
            told.append((f"{name}, score", "–" if score is None else figure(score)))
            told.append((f"{name}, return", "–" if own is None else number(sum(own) / len(own)).replace("-", "−")))
        lines += f"<tr><td>{escape(job)}</td>{cells(*told)}</tr>"
    head = ("Job", "Split", *(f"{name}, {what}" for name in every for what in ("score", "mean return")))
    return f"<details><summary>All {len(header.attempts):,} jobs</summary>{table(head, lines)}</details>"
