"""What bench/continual_control.py concludes from finished lives."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from continual_tasks import JOBS, Attempts, Protocol
from measuring import median_interval

FIRST, LAST = 5, 20  # attempts at the beginning and at the end of a task
WINDOW = 20  # attempts whose mean reaches the threshold


def summed_up(attempts: Attempts, protocol: Protocol, threshold: float) -> dict[str, Any]:
    """One life: average return of an attempt, the same weighted by length, and every task.

    An attempt belongs to the task in which it began. steps_to_threshold: steps of the task before the first of 20
    attempts in a row, all of this task, whose mean return reaches the threshold; None where none do.
    """
    returns, lengths = attempts.returns, attempts.lengths
    begun = attempts.steps - lengths
    tasks = []
    for task in range(protocol.tasks):
        which = begun // protocol.task_steps == task
        tasks.append(_task(returns[which], begun[which] - task * protocol.task_steps, threshold))
    return {
        "average": float(returns.mean()),
        "average_by_step": float(np.average(returns, weights=lengths)),
        "attempts": len(returns),
        "tasks": tasks,
    }


def _task(returns: np.ndarray, begun: np.ndarray, threshold: float) -> dict[str, Any]:
    means = np.convolve(returns, np.full(WINDOW, 1.0 / WINDOW), "valid") if len(returns) >= WINDOW else np.zeros(0)
    reached = np.flatnonzero(means >= threshold - 1e-9)
    return {
        "attempts": len(returns),
        "mean": _mean(returns),
        "first": _mean(returns[:FIRST]),
        "last": _mean(returns[-LAST:]),
        "steps_to_threshold": int(begun[reached[0]]) if len(reached) else None,
    }


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def forgetting(record: dict[str, Any], memory: str) -> float:
    """Mean over all tasks but the last: return at the end of the task, less that of the re-test."""
    pairs = zip(record["tasks"][:-1], record["retest"][memory][:-1], strict=True)
    return statistics.fmean(task["last"] - again for task, again in pairs)


def forward_transfer(record: dict[str, Any]) -> float:
    """Mean over all tasks but the first: return of its first attempts, less that of the first task's."""
    first, *later = (task["first"] for task in record["tasks"])
    return statistics.fmean(value - first for value in later)


def compared(records: Sequence[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """All seeds of one job and one column, medians with intervals."""
    name = records[0]["job"]
    average = median_interval([record["average"] for record in records])
    by_task = [[record["tasks"][n]["steps_to_threshold"] for record in records] for n in range(protocol.tasks)]
    return {
        "seeds": sorted(record["seed"] for record in records),
        "average": average,
        "average_by_step": median_interval([record["average_by_step"] for record in records]),
        "forgetting_fresh": median_interval([forgetting(record, "fresh") for record in records]),
        "forgetting_kept": median_interval([forgetting(record, "kept") for record in records]),
        "forward_transfer": median_interval([forward_transfer(record) for record in records]),
        "last_by_task": [
            statistics.median(record["tasks"][n]["last"] for record in records) for n in range(protocol.tasks)
        ],
        # Never reached counts as the length of the task.
        "steps_to_threshold": [
            statistics.median(protocol.task_steps if s is None else s for s in steps) for steps in by_task
        ],
        "reached": [sum(s is not None for s in steps) for steps in by_task],
        "verdict": verdict(name, average["median"]),
    }


def verdict(name: str, average: float) -> str:
    published = JOBS[name]
    if average >= published.oracle:
        return "reaches the reset oracle" + ("" if average >= published.best else ", below the best published")
    return "above the best published, below the oracle" if average > published.best else "below the best published"


def print_table(summary: dict[str, Any]) -> None:
    """Markdown: medians over seeds with intervals, beside what is published."""
    columns = [column for column in summary["columns"] if summary["columns"][column]]

    def cell(found: dict[str, Any] | None, key: str) -> str:
        if found is None:
            return "-"
        value = found[key]
        return f"{value['median']:.1f} [{value['low']:.1f}, {value['high']:.1f}]"

    print("| job | reset oracle | best published | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for name, published in JOBS.items():
        cells = [cell(summary["columns"][column].get(name), "average") for column in columns]
        print(f"| {name} | {published.oracle:g} | {published.best:g} | " + " | ".join(cells) + " |")
    keys = ("average_by_step", "forgetting_fresh", "forgetting_kept", "forward_transfer")
    print("\n| job, column | seeds | by step | forgetting, fresh | forgetting, kept | forward transfer | verdict |")
    print("|---" * 7 + "|")
    for column in columns:
        for name, found in summary["columns"][column].items():
            cells = " | ".join(cell(found, key) for key in keys)
            print(f"| {name}, {column} | {len(found['seeds'])} | {cells} | {found['verdict']} |")
    print("\nBy task number: steps to the threshold (seeds that reached it), and return at the end.\n")
    for column in columns:
        for name, found in summary["columns"][column].items():
            steps = zip(found["steps_to_threshold"], found["reached"], strict=True)
            print(f"* {name}, {column}: " + ", ".join(f"{s:,.0f} ({n})" for s, n in steps))
            print("  " + ", ".join(f"{value:.1f}" for value in found["last_by_task"]))
    for column in columns:
        met = sum(found["average"]["median"] >= JOBS[name].oracle for name, found in summary["columns"][column].items())
        print(f"\n{column}: at or above the reset oracle on {met} of {len(JOBS)} jobs (target: all).")
