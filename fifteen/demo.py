"""The demonstration: the schooled learner picks jobs up in context, and a fresh one learns each of five jobs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import fifteen
from fifteen.charts import Series, chart
from fifteen.log import WorkLog, number
from fifteen.report import write_index, write_report
from fifteen.terminal import TerminalSink


@dataclass(frozen=True)
class DemoJob:
    """A job is solved when the mean return of the last `window` attempts reaches `threshold`."""

    id: str
    steps: int  # environment steps
    threshold: float
    window: int = 20  # attempts


DEMO_JOBS = (
    DemoJob("CartPole-v1", 18_000, 475.0),
    DemoJob("Acrobot-v1", 5_000, -100.0),
    DemoJob("FrozenLake-v1", 10_000, 0.70, window=100),
    DemoJob("Pendulum-v1", 10_000, -250.0),
    DemoJob("cartpole-hidden-velocity-v0", 15_000, 300.0),
)
COLUMNS = ("Steps", "First 20", "Last 20", "Solved at step")
CONTEXT_JOBS = ("CartPole-v1", "Acrobot-v1")  # of those above, whose fresh learner is the comparison
ATTEMPTS, LIFETIMES = 20, 3  # of the schooled learner on each
MARKS = (1, 3, ATTEMPTS)  # attempts in the table


def run_demo(
    folder: Path,
    console: Console,
    jobs: tuple[DemoJob, ...] = DEMO_JOBS,
    context_jobs: tuple[str, ...] = CONTEXT_JOBS,
) -> int:
    """Work on the jobs one after the other, each from scratch, then on some of them with the schooled learner, in
    context; print a table and the reports' path.

    Gives the exit status: 0, or 130 when interrupted.
    """
    rows: dict[Path, tuple[str, ...]] = {}
    fresh: dict[str, np.ndarray] = {}
    log = None
    for n, job in enumerate(jobs, start=1):
        console.print(f"{n} of {len(jobs)}: {job.id}, from scratch", style="dim", highlight=False)
        run = folder / f"{n}-{job.id}"
        sink = TerminalSink(console)
        try:
            learner = fifteen.new(size="small", seed=0)
            log = fifteen.work(learner, job.id, steps=job.steps, learn="weights", run=run, sinks=(sink,))
        finally:
            sink.close()
        write_report(run)
        rows[run] = row(job, log)
        fresh[job.id] = log.returns
        if log.reason == "interrupted":
            break

    table = Table(title="One configuration, every job from scratch", title_justify="left")
    table.add_column("Job", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for job, cells in zip(jobs, rows.values(), strict=False):
        table.add_row(job.id, *cells)
    console.print(table)
    interrupted = log is not None and log.reason == "interrupted"
    charts = [] if interrupted else [in_context(job, fresh[job], console) for job in context_jobs]
    index = write_index(folder, "Five jobs, one configuration", COLUMNS, rows, charts)
    console.print(f"reports: {index}", soft_wrap=True, highlight=False)
    return 130 if interrupted else 0


def in_context(job: str, fresh: np.ndarray, console: Console) -> str:
    """The schooled learner on a job it was not schooled on, its weights as they are: a chart of returns by attempt.

    fresh: returns of a fresh learner that updates its weights, float64[n].
    """
    learner = fifteen.load()
    kept = [fifteen.evaluate(learner, job, episodes=ATTEMPTS, seed=seed).returns for seed in range(LIFETIMES)]
    wiped = [
        [float(fifteen.evaluate(learner, job, episodes=1, seed=seed).returns[0]) for seed in range(n, n + ATTEMPTS)]
        for n in range(0, LIFETIMES * ATTEMPTS, ATTEMPTS)
    ]
    curves = {
        "schooled, in context": np.mean(kept, axis=0),
        "schooled, memory wiped after every attempt": np.mean(wiped, axis=0),
        "fresh, updating its weights": fresh[:ATTEMPTS],
    }
    for name, returns in curves.items():
        marks = ", ".join(f"{number(float(returns[n - 1]))} in attempt {n}" for n in MARKS if n <= len(returns))
        console.print(f"{job}, {name}: {marks}", highlight=False)
    return chart(
        f"{job}: the first {ATTEMPTS} attempts",
        f"Mean of {LIFETIMES} lifetimes of the schooled learner, whose weights stay as they are; one of a fresh one.",
        [
            Series(np.arange(1.0, len(returns) + 1.0), returns, "line", style, name)
            for (name, returns), style in zip(curves.items(), ("main", "guide", "quiet"), strict=True)
        ],
        x_label="attempt",
        y_label="return",
    )


def row(job: DemoJob, log: WorkLog) -> tuple[str, ...]:
    """Cells for COLUMNS. The step is the budget, or less when the run was interrupted."""
    steps = job.steps if log.reason == "steps" else int(log.steps[-1]) if len(log.steps) else 0
    solved = solved_at(log.returns, log.steps, job.threshold, job.window)
    return (
        f"{steps:,}",
        number(float(log.returns[:20].mean())) if len(log.returns) else "–",
        number(float(log.returns[-20:].mean())) if len(log.returns) else "–",
        "–" if solved is None else f"{solved:,}",
    )


def solved_at(returns: np.ndarray, steps: np.ndarray, threshold: float, window: int) -> int | None:
    """The environment step at which the mean of a full window first reached the threshold.

    returns float64[n], steps int64[n]; None if it never did.
    """
    if len(returns) < window:
        return None
    total = np.concatenate([[0.0], np.cumsum(returns)])
    reached = (total[window:] - total[:-window]) / window >= threshold
    return int(steps[window - 1 :][reached.argmax()]) if reached.any() else None
