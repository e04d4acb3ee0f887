"""What `fifteen exam` does."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import fifteen
from fifteen.commands import Exam
from fifteen.examining.exam import ExamReport


def examine(command: Exam, default: Path, console: Console) -> int:
    """Hold an exam and say where its page is. default: the folder where the command names none."""
    folder = command.run or default
    learners = list(command.learner) or ["shipped"]
    console.print(f"{', '.join(learners)}: the first minute goes into compiling", style="dim", soft_wrap=True)
    columns = TextColumn("lifetimes"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None)
        try:
            report = fifteen.exam(
                learners,
                command.suite,
                run=folder,
                workers=command.workers,
                runs=command.runs,
                callback=lambda done, every: progress.update(bar, completed=done, total=every),
            )
        except KeyboardInterrupt:
            console.print(f"interrupted; what is recorded is kept. To go on: the same command with --run {folder}")
            return 130
    _say(report, console)
    return 0


def _say(report: ExamReport, console: Console) -> None:
    header = report.header
    sealed = "" if header.openings is None else f", opened {header.openings} times, head {header.seal}"
    console.print(
        f"suite {header.suite} {header.suite_version} ({header.suite_hash[:12]}){sealed}: {len(header.attempts)} jobs, "
        f"{header.runs} lifetimes each, {header.seconds:,.0f} s",
        soft_wrap=True,
        highlight=False,
    )
    for note in header.learners:
        counted = Counter(record.status for record in report.records if record.learner == note.name)
        told = ", ".join(f"{count:,} {status}" for status, count in counted.most_common())
        console.print(f"{note.name}: attempts: {told}", soft_wrap=True, highlight=False)
    for finding in header.findings:
        about = ", ".join(part for part in (finding.learner, finding.job) if part)
        console.print(
            f"found, {finding.kind} ({about}): {finding.text}", style="yellow", soft_wrap=True, highlight=False
        )
    console.print(f"page: {report.page}", soft_wrap=True, highlight=False)
