"""The terminal view of a run: live where there is a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fifteen.log import RECENT, Progress, SchoolProgress, Sink, duration, number

P = TypeVar("P")


@final
class TerminalSink(Sink):
    """A live view where there is a terminal; elsewhere plain lines, at most one every 5 s."""

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(markup=False)
        self._clock = clock
        self._live: Live | None = None
        self._every_s = 0.25 if self._console.is_terminal else 5.0
        self._shown: float | None = None
        self._last: Progress | None = None  # not shown yet
        self._notes = 0  # how many of the run's notes have been printed
        self._curve = Curve()

    def write(self, progress: Progress) -> None:
        for attempt in progress.finished:
            self._curve.add(attempt.ret)
        for note in progress.notes[self._notes :]:
            self._console.print(Text(f"note: {note}", style="yellow"))
        self._notes = len(progress.notes)
        due = self._shown is None or self._clock() - self._shown >= self._every_s
        if due or progress.reason is not None:
            self._show(progress)
        else:
            self._last = progress

    def close(self) -> None:
        if self._last is not None:
            self._show(self._last)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, progress: Progress) -> None:
        if self._console.is_terminal:
            # No refresh thread: it would take the interpreter from the loop.
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            view = live_view(progress, self._curve, min(self._console.width, 100))
            self._live.update(view, refresh=True)
        else:
            self._console.print(plain_line(progress), markup=False, highlight=False, soft_wrap=True)
        self._shown = self._clock()
        self._last = None


@final
class PeriodicView(Generic[P]):
    """How something long goes: a table where there is a terminal; elsewhere plain lines, at most one every 15 s."""

    def __init__(
        self,
        console: Console,
        table: Callable[[P], RenderableType],
        line: Callable[[P], str],
        urgent: Callable[[P], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """urgent: of a progress that is always shown, as the last one is."""
        self._console, self._table, self._line, self._urgent, self._clock = console, table, line, urgent, clock
        self._every_s = 1.0 if console.is_terminal else 15.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: float | None = None

    def __enter__(self) -> "PeriodicView[P]":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def write(self, progress: P) -> None:
        if not self._urgent(progress) and self._shown is not None and self._clock() - self._shown < self._every_s:
            return
        self._shown = self._clock()
        if self._live is not None:
            self._live.update(self._table(progress), refresh=True)
        else:
            self._console.print(self._line(progress), markup=False, highlight=False, soft_wrap=True)


def school_view(console: Console) -> PeriodicView[SchoolProgress]:
    return PeriodicView(console, school_table, school_line, lambda told: told.steps >= told.steps_total)


def school_line(progress: SchoolProgress) -> str:
    scores = ", ".join(f"{name} {last:.2f}" for name, (_, _, last) in progress.scores.items())
    return f"{_school_steps(progress)}; last attempts: {scores}"


def school_table(progress: SchoolProgress) -> RenderableType:
    """Score of each family by attempt: 0 is chance, 1 the reference."""
    table = Table(title=_school_steps(progress), title_justify="left", border_style="dim")
    for name in ("family", "first", "third", "last"):
        table.add_column(name, justify="left" if name == "family" else "right")
    for family, scores in progress.scores.items():
        table.add_row(family, *(f"{score:.2f}" for score in scores))
    return table


def _school_steps(progress: SchoolProgress) -> str:
    rate = progress.steps_per_second
    left = f", {duration((progress.steps_total - progress.steps) / rate)} left" if rate > 0 else ""
    return f"{progress.steps:,} of {progress.steps_total:,} steps, {rate:,.0f} steps/s{left}"


class Curve:
    """A history of any length in at most `2 * cells` averages, for a line of block characters."""

    BLOCKS = "▁▂▃▄▅▆▇█"

    def __init__(self, cells: int = 40) -> None:
        self._cells = cells
        self._means: list[float] = []
        self._per_mean = 1  # values that one mean stands for
        self._open: list[float] = []  # values that do not fill a mean yet

    def add(self, value: float) -> None:
        self._open.append(value)
        if len(self._open) < self._per_mean:
            return
        self._means.append(math.fsum(self._open) / len(self._open))
        self._open = []
        if len(self._means) == 2 * self._cells:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._per_mean *= 2

    def __str__(self) -> str:
        if not self._means:
            return ""
        low, high = min(self._means), max(self._means)
        unit = (high - low) / (len(self.BLOCKS) - 1) or 1.0
        return "".join(self.BLOCKS[round((mean - low) / unit)] for mean in self._means)


def live_view(progress: Progress, curve: Curve, width: int) -> RenderableType:
    """What a terminal of `width` columns shows of a run."""
    bar = ProgressBar(
        total=progress.steps_total,
        completed=progress.step,
        pulse=progress.steps_total is None,
        complete_style="cyan",
        finished_style="cyan",
    )
    top = Table.grid(padding=(0, 2), expand=True)
    top.add_column(ratio=1)
    top.add_column(justify="right", no_wrap=True)
    top.add_row(bar, _steps(progress) + _left(progress))

    pairs = [
        ("attempts", f"{progress.attempt:,}"),
        ("last return", number(progress.last_return)),
        (f"mean of {RECENT}", Text(number(progress.recent), style="bold")),
        ("expects", number(progress.expected)),
        ("surprise", number(progress.surprise)),
        ("speed", f"{progress.steps_per_s:,.0f} steps/s"),
    ]
    across = 3 if width >= 80 else 2
    figures = Table.grid(padding=(0, 2), expand=True)
    for _ in range(across):
        figures.add_column(style="dim", no_wrap=True)
        figures.add_column(justify="right", ratio=1, no_wrap=True)
    for first in range(0, len(pairs), across):
        figures.add_row(*(cell for pair in pairs[first : first + across] for cell in pair))
    rows: list[RenderableType] = [top, "", figures]
    if line := str(curve):
        rows += ["", Text.assemble(("returns  ", "dim"), (line, "cyan"), no_wrap=True)]
    if progress.faults:
        rows += ["", Text(_faults(progress), style="yellow")]
    return Panel(
        Group(*rows),
        title=Text(progress.job, style="bold not dim"),
        title_align="left",
        border_style="dim",
        padding=(1, 2),
        width=width,
    )


def plain_line(progress: Progress) -> str:
    """The same in one line, for files and pipes."""
    parts = [
        f"{progress.job}: {_steps(progress)}",
        f"attempts {progress.attempt:,}",
        f"return {number(progress.last_return)}",
        f"mean of {RECENT} {number(progress.recent)}",
        f"expects {number(progress.expected)}",
        f"surprise {number(progress.surprise)}",
        f"{progress.steps_per_s:,.0f} steps/s" + _left(progress),
    ]
    return ", ".join(parts + ([_faults(progress)] if progress.faults else []))


def _steps(progress: Progress) -> str:
    total = "" if progress.steps_total is None else f" of {progress.steps_total:,}"
    return f"{progress.step:,}{total} steps"


def _left(progress: Progress) -> str:
    return "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"


def _faults(progress: Progress) -> str:
    return "faults: " + ", ".join(f"{name} x{n}" for name, n in sorted(progress.faults.items()))
