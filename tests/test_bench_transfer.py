"""What bench/transfer.py concludes from runs, against runs that are known in every step; and programs timed in turn."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fifteen.log import WorkLog

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import blocks  # noqa: E402
import transfer  # noqa: E402
from development_jobs import BUDGET, DevelopmentJob, Solved  # noqa: E402
from peers import CURVE_POINTS, thinned  # noqa: E402

JOB = DevelopmentJob("CartPole-v1", 10.0, 3, lambda: None)
LIMIT = 500  # of CartPole-v1


def log_of(returns, lengths):
    n = np.zeros(len(returns))
    steps = np.cumsum(lengths)
    return WorkLog(np.array(returns, float), np.array(lengths), steps, n, n, n, {}, (), "steps")


def test_the_steps_before_the_window_are_those_until_its_first_attempt_begins():
    found = transfer.judged(log_of([0, 5, 9, 10, 11, 0, 30, 30], [4, 6, 7, 8, 9, 1, 2, 3]), JOB, 50)
    assert found["solved"] and found["steps"] == 34
    assert found["steps_before"] == 10
    assert found["best_window_mean"] == 20.0


def test_at_least_one_attempt_comes_before_the_window():
    found = transfer.judged(log_of([12, 12, 12], [7, 8, 9]), JOB, 50)
    assert found["steps_before"] == 7


def test_unsolved_counts_as_the_budget_and_the_last_tenth_is_what_ended_in_it():
    found = transfer.judged(log_of([1, 2, 3, 4], [20, 70, 4, 5]), JOB, 100)
    assert not found["solved"]
    assert found["steps"] == found["steps_before"] == 100
    assert found["last_tenth"] == 3.5
    assert transfer.judged(log_of([1], [20]), JOB, 100)["last_tenth"] is None


def parallel(seed, envs, most):
    """A record of attempts of random lengths in several environments at once, and the steps before its window."""
    random = np.random.default_rng(seed)
    ends = []  # (step, environment, step at which the attempt began, return)
    for env in range(envs):
        ticks = 0
        while len(ends) < (env + 1) * most // envs:
            began, ticks = ticks, ticks + int(random.integers(1, LIMIT))
            ends.append((ticks * envs, env, began * envs, float(np.round(12.0 * ticks / 3e5 * random.random(), 3))))
    ends.sort()
    solved, curve, begun = Solved(JOB.threshold, JOB.window, 10**9), [], 0
    for n, (step, _, _, ret) in enumerate(ends):
        curve.append((step, ret))
        if solved.add(ret, step) is not None:
            begun = ends[n - JOB.window + 1][2]
            break
    assert solved.step is not None
    record: dict[str, Any] = {"job": "CartPole-v1", "window": JOB.window, "threshold": JOB.threshold, "solved": True}
    record |= {"steps": solved.step, "episodes": len(curve), "curve": thinned(curve)}
    record["settings"] = {"n_envs": envs}
    return record, begun


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("envs", [1, 8])
def test_a_thinned_record_bounds_the_steps_before_the_window_from_below(seed, envs):
    record, begun = parallel(seed, envs, 16_000)
    assert record["episodes"] > CURVE_POINTS
    least = transfer.least_before(record)
    gap = record["episodes"] / CURVE_POINTS + (0 if envs == 1 else envs)
    assert begun - 2 * (gap + 1) * LIMIT - (0 if envs == 1 else envs * LIMIT) <= least <= begun


def test_a_whole_record_of_one_environment_tells_exactly_what_ours_does():
    returns, lengths = [0, 5, 9, 10, 11], [4, 6, 7, 8, 9]
    log = log_of(returns, lengths)
    record = {"job": "CartPole-v1", "window": 3, "threshold": 10.0, "solved": True, "steps": 34, "episodes": 5}
    record["curve"] = thinned(list(zip(log.steps.tolist(), returns, strict=True)))
    assert transfer.least_before(record) == transfer.judged(log, JOB, 50)["steps_before"] == 10


def test_an_unsolved_or_failed_record_counts_as_the_budget():
    assert transfer.least_before({"solved": False}) == transfer.least_before({"status": "failed"}) == BUDGET


def test_there_is_no_mean_without_enough_seeds_of_every_job():
    one, two = transfer.LIKE[:2]
    samples = {one.name: ([1, 2, 3, 4, 5], [10, 20, 30, 40, 50])}
    assert transfer.compared(samples, [one, two]) == {"ratios": {one.name: 0.1}, "missing": [two.name]}
    samples[two.name] = ([4, 4, 4], [10] * 5)
    assert transfer.compared(samples, [one, two])["missing"] == [two.name]
    samples[two.name] = ([4] * 5, [10] * 5)
    found = transfer.compared(samples, [one, two])
    assert found["mean"] == pytest.approx(0.2)
    assert found["interval"][0] <= 0.2 <= found["interval"][1]


def test_unsolved_counts_as_the_whole_budget_even_where_the_run_was_cut_short():
    record = {"solved": False, "steps": 600, "steps_before": 600, "last_tenth": None}
    assert transfer.summed_up([record], transfer.LIKE[0])["steps"] == [BUDGET]
    assert transfer.summed_up([record], transfer.UNLIKE[1])["steps"] == [60_000]


def test_every_run_is_of_one_file_and_none_is_left_out():
    names = [job.name for job in (*transfer.LIKE, *transfer.UNLIKE)]
    runs = transfer.all_runs(names, range(5))
    assert (
        len({run.path(Path()) for run in runs}) == len(runs) == 5 * (2 * len(transfer.LIKE) + 2 * len(transfer.UNLIKE))
    )


PROGRAM = """
import itertools
from blocks import Blocks

blocks = Blocks({"who": "counter"})
for round in itertools.count(1):
    if blocks(3 * round):
        break
"""


def test_a_program_runs_whole_rounds_when_it_is_asked_and_ends_when_it_is_no_longer(monkeypatch):
    folder = str(Path(blocks.__file__).parent)
    program = blocks.Program([sys.executable, "-c", PROGRAM], {"PYTHONPATH": folder})
    assert program.told == {"who": "counter"}
    assert program.run(0.05) > 0.0
    assert program.run(0.01) > 0.0
    program.close()
    with pytest.raises(SystemExit, match="ended with 3"):
        blocks.Program([sys.executable, "-c", "raise SystemExit(3)"])
