"""The demonstration: the schooled learner in context; a day of several instances on several jobs; a night of them.

It does what the commands do, and leaves what they leave:

    index.html, context.json   the page; the attempts in context, also of a learner without school (unschooled/)
    day.toml, day/, store/     the fleet, its runs, and what all of them lived through
    night/                     the one learner, and the night's page
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import fifteen
from fifteen.charts import Series, chart, running_mean
from fifteen.checkpoint import atomic_write
from fifteen.commands import Sleep, Work
from fifteen.days import run_fleet
from fifteen.judging import RESULTS, WHO
from fifteen.learner import Learner
from fifteen.log import duration, number
from fifteen.night_command import run_sleep
from fifteen.night_report import PAGE, marks, name, shown, worse
from fifteen.report import definitions, write_page, write_report
from fifteen.terminal import TerminalSink

CONTEXT, UNSCHOOLED, DAY, NIGHT = "context.json", "unschooled", "day", "night"
RECENT = 10  # attempts whose running mean is shown where attempts scatter
FLEET = """\
[[instance]]
job = "FrozenLake-v1"
steps = 6000

[[instance]]
job = "work/diagnosis-v0"
steps = 6000
kwargs = { template = "broad treatments", seed = 0 }

[[instance]]
job = "grid/dark-room-v0"
steps = 6000
kwargs = { template = "scrambled", seed = 0 }

[[instance]]
job = "CartPole-v1"
steps = 6000
"""


@dataclass(frozen=True)
class DemoConfig:
    """What is shown."""

    job: str = "CartPole-v1"  # in context
    attempts: int = 20  # of a lifetime in context
    lifetimes: int = 3
    unschooled_steps: int = 6_000  # of the learner beside it
    fleet: str = FLEET  # the day, as TOML
    updates: int = 1_500  # of the night
    episodes: int = 10  # attempts of parent, instance and sleeper at each job


def run_demo(folder: Path, console: Console, config: DemoConfig | None = None) -> int:
    """Show it, and write the page. Where the folder holds an unfinished demonstration, that one goes on.

    Gives the exit status: 0, or 130 when interrupted: the page then shows what was done. Raises RunError where no
    instance finished its day.
    """
    config, began = config or DemoConfig(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        learner = fifteen.load()
        _say(console, 1, f"the schooled learner in context: {config.job}, and a learner without school beside it")
        if not (folder / CONTEXT).is_file():
            context = in_context(learner, folder, config, console)
            atomic_write(folder / CONTEXT, json.dumps(context).encode())
        for line in _lines(json.loads((folder / CONTEXT).read_text(encoding="utf-8"))):
            console.print(line, highlight=False)
        _say(console, 2, f"a day: fifteen work --learner shipped --fleet {folder / 'day.toml'} --run {folder / DAY}")
        atomic_write(folder / "day.toml", config.fleet.encode())
        if run_fleet(Work(fleet=folder / "day.toml"), learner, 1, folder / DAY, console) == 130:
            raise KeyboardInterrupt
        settings = f"--steps {config.updates} --episodes {config.episodes}"
        slept = f"fifteen sleep {folder / DAY} --store {folder}/store --out {folder / NIGHT} {settings}"
        _say(console, 3, f"a night: {slept}")
        asked = Sleep((folder / DAY,), store=folder / "store", steps=config.updates, episodes=config.episodes)
        if run_sleep(asked, learner, folder / NIGHT, console) == 130:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        page = write_demo_report(folder, done=False)
        told = f"interrupted; what was done: {page}\nto go on: fifteen demo --run {folder}"
        console.print(told, soft_wrap=True, highlight=False)
        return 130
    page, took = write_demo_report(folder, done=True), duration(time.monotonic() - began)
    console.print(f"all of it, in {took}: {page}", soft_wrap=True, highlight=False)
    return 0


def _say(console: Console, part: int, what: str) -> None:
    console.print(f"\n{part} of 3, {what}", style="bold", markup=False, highlight=False, soft_wrap=True)


def in_context(learner: Learner, folder: Path, config: DemoConfig, console: Console) -> dict[str, Any]:
    """Attempts at a job whose weights stay as they are, beside those of an unschooled learner who updates its own.

    Gives the job, and of each curve the return of every attempt and the environment step at which it ended, both
    [lifetimes, attempts]: kept (the memory runs through a lifetime), wiped (after every attempt), unschooled. Raises
    KeyboardInterrupt where one of them is interrupted.
    """
    run, sink = folder / UNSCHOOLED, TerminalSink(console)
    try:
        if (run / "config.json").is_file():
            log = fifteen.resume(run, sinks=(sink,))
        else:
            fresh, steps = fifteen.new("small", seed=0), config.unschooled_steps
            log = fifteen.work(fresh, config.job, steps=steps, learn="weights", run=run, sinks=(sink,))
    finally:
        sink.close()
    write_report(run)
    if log.reason == "interrupted":
        raise KeyboardInterrupt

    def lifetimes(episodes: int, seeds: range) -> dict[str, Any]:
        done = []
        for seed in seeds:
            done.append(fifteen.evaluate(learner, config.job, episodes=episodes, seed=seed))
            if len(done[-1].returns) < episodes:  # only an interruption ends it earlier
                raise KeyboardInterrupt
        returns, lengths = (
            np.concatenate([getattr(one, what) for one in done]).reshape(config.lifetimes, config.attempts)
            for what in ("returns", "lengths")
        )
        return {"returns": returns.tolist(), "steps": lengths.cumsum(axis=1).tolist()}

    return {
        "job": config.job,
        "kept": lifetimes(config.attempts, range(config.lifetimes)),
        "wiped": lifetimes(1, range(config.lifetimes * config.attempts)),
        "unschooled": {"returns": [log.returns.tolist()], "steps": [log.steps.tolist()]},
    }


def _curves(context: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By its name in words, steps and returns of each curve, float64[attempts]: means over its lifetimes."""
    found = {}
    for which, what, window in (
        ("kept", "schooled, in context", 1),
        ("wiped", f"schooled, memory wiped after every attempt (last {RECENT})", RECENT),
        ("unschooled", f"without school, updating its weights (last {RECENT})", RECENT),
    ):
        steps, returns = (np.mean(context[which][key], axis=0) for key in ("steps", "returns"))
        found[what] = steps, running_mean(returns, window)
    return found


def _lines(context: Mapping[str, Any]) -> list[str]:
    return [
        f"{what}: {number(returns[0])} in attempt 1, {number(returns[-1])} in attempt {len(returns)}, "
        f"at step {steps[-1]:,.0f}"
        for what, (steps, returns) in _curves(context).items()
        if len(returns)
    ]


def _context_chart(context: Mapping[str, Any]) -> str:
    lifetimes, attempts = np.shape(context["kept"]["returns"])
    return chart(
        f"{context['job']}, in context",
        f"The schooled learner's weights stay as they are: mean of {lifetimes} lifetimes of {attempts} attempts. Its "
        f"school had generated jobs of this kind. The other lines are means of the last {RECENT} attempts.",
        [
            Series(*curve, "line", style, what)
            for (what, curve), style in zip(_curves(context).items(), ("main", "guide", "quiet"), strict=True)
        ],
        x_label="environment steps",
        y_label="return",
    )


# ------------------------------------------------------------------------------------------------------ the page


def write_demo_report(folder: Path, *, done: bool) -> Path:
    """Write folder/index.html from what is there, all of it where done, and give its path."""
    places = folder / CONTEXT, folder / NIGHT / RESULTS
    context, told = (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None for path in places)
    lead = (
        "A learner that was schooled on generated jobs meets jobs that it has not seen. In context it learns a job "
        "while its weights stay as they are: what it finds out is in its memory. By day several instances of it work, "
        "each on a job, and learn with their weights too. By night what they lived through becomes one learner for all "
        "of these jobs."
    )
    lead += "" if done else " This demonstration was interrupted: the page shows what was done."
    body = (
        '<header><p class="eyebrow">Fifteen · the demonstration</p>'
        f'<h1>Many instances, one learner</h1><p class="lead">{escape(lead)}</p></header>'
        f"{_figures(told) if told else ''}"
        f'<div class="charts">{_context_chart(context) if context else ""}</div>'
        f'<div class="boxes">{_table(told) + _left_out(told) if told else ""}{_links(folder)}</div>'
        f"<footer>Made from {CONTEXT} and {NIGHT}/{RESULTS} in the folder of this page.</footer>"
    )
    return write_page(folder / "index.html", "Demonstration · Fifteen", body)


def _figures(told: Mapping[str, Any]) -> str:
    shares = [job["kept"]["estimate"] for job in told["jobs"] if job["kept"]]
    took = duration(told["night"]["seconds"])
    figures = [("instances took part", f"{len(told['took_part'])}"), ("the night took, min:s", took)]
    if shares:
        jobs = f"{len(shares)} job{'' if len(shares) == 1 else 's'} with a gain"
        figures += [(f"share of the day's gain kept, mean of {jobs}", f"{np.mean(shares):.2f}".replace("-", "−"))]
    figures += [("jobs worse after the night than before", f"{len(worse(told))} of {len(told['jobs'])}")]
    return f'<dl class="figures">{definitions(figures)}</dl>'


def _table(told: Mapping[str, Any]) -> str:
    heads = ("before", "after the day", "after the night", "share kept")
    rows = []
    for job in told["jobs"]:
        cells = zip(heads, [*(shown(job.get(who)) for who in WHO), shown(job["kept"], 2)], strict=True)
        inner = "".join(f'<td data-name="{head}">{cell.replace("-", "−")}</td>' for head, cell in cells)
        link = f"{DAY}/{Path(job['run']).name}/report.html"
        what = name(job, told["jobs"])
        rows.append(f'<tr><td><span><a href="{escape(link)}">{escape(what)}</a>{marks(job)}</span></td>{inner}</tr>')
    return (
        '<section class="box scroll"><h2>One learner for all of them</h2><p class="lead">Mean return of '
        f"{told['asked']['episodes']} attempts with a fresh memory and no weight updates, with its interval at "
        f"{told['level']:.0%}: the schooled learner before, the instance that worked on the job after the day, the one "
        "learner after the night. A share is told where the gain of the day can be told from nothing.</p>"
        f"<table><thead><tr><th>Job</th>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _left_out(told: Mapping[str, Any]) -> str:
    """Of the day's instances, those whose learning is not in the one learner; empty where there is none."""
    if not told["left_out"]:
        return ""
    items = "".join(f"<li>{escape(Path(run).name)}: {escape(why)}</li>" for run, why in told["left_out"])
    return f'<section class="box"><h2>Left out</h2><ul class="plain">{items}</ul></section>'


def _links(folder: Path) -> str:
    pages = {f"by day: {run.name}": f"{DAY}/{run.name}/report.html" for run in sorted(folder.glob(f"{DAY}/*-*"))}
    pages |= {"by night": f"{NIGHT}/{PAGE}", "the learner without school": f"{UNSCHOOLED}/report.html"}
    there = {what: page for what, page in pages.items() if (folder / page).is_file()}
    items = "".join(f'<li><a href="{escape(page)}">{escape(what)}</a></li>' for what, page in there.items())
    return f'<section class="box"><h2>Pages of every part</h2><ul class="plain">{items}</ul></section>'
