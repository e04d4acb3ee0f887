"""What the benchmarks of nights conclude, on measurements that are known; and one of them end to end, tiny."""

import argparse
import json
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fifteen
from fifteen.config import SIZES
from fifteen.evaluating import Evaluation
from fifteen.frames import Layout
from fifteen.instance import new_statistics
from fifteen.learner import Learner
from fifteen.log import WorkLog
from fifteen.model import unravel
from fifteen.updating import Batch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import amalgamate  # noqa: E402
import growth  # noqa: E402
import many_jobs  # noqa: E402
import merging_rivals  # noqa: E402
import sequence  # noqa: E402

TASK = many_jobs.Task("a", "a-v0", random=-10.0, reference=90.0)
JOBS = ("key-door-wall", "dark-room-scrambled")  # of one shape: compiled once


# -------------------------------------------------------------------------------------------------------- rivals

PARENT = jnp.array([1.0, 1.0, 1.0, 1.0, 1.0])
WEIGHTS = jnp.array([[2.0, 1.0, 0.0, 1.1, 5.0], [4.0, 1.0, 2.5, 1.0, -1.0]])


def test_averaging_and_task_arithmetic():
    np.testing.assert_allclose(merging_rivals.averaged(WEIGHTS), [3.0, 1.0, 1.25, 1.05, 2.0], rtol=1e-6)
    np.testing.assert_allclose(
        merging_rivals.task_arithmetic(WEIGHTS, PARENT, 0.5), [3.0, 1.0, 1.25, 1.05, 2.0], rtol=1e-6
    )
    np.testing.assert_allclose(merging_rivals.task_arithmetic(WEIGHTS, PARENT), [2.6, 1.0, 1.2, 1.04, 1.8], rtol=1e-6)


def test_ties_trims_elects_a_sign_and_merges_those_that_agree():
    # Task vectors [1, 0, -1, .1, 4] and [3, 0, 1.5, 0, -2]. Signs elected: +, none, +, +, +.
    np.testing.assert_allclose(merging_rivals.ties(WEIGHTS, PARENT, kept=1.0), [3.0, 1.0, 2.5, 1.1, 5.0], rtol=1e-6)
    # The two largest of five, then the largest of each.
    np.testing.assert_allclose(merging_rivals.ties(WEIGHTS[1:], PARENT, kept=0.4), [4.0, 1.0, 1.0, 1.0, -1.0])
    np.testing.assert_allclose(merging_rivals.ties(WEIGHTS, PARENT, kept=0.2), [4.0, 1.0, 1.0, 1.0, 5.0])


def test_fisher_merging_weighs_by_what_matters_and_averages_what_does_not():
    fisher = jnp.array([[3.0, 1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 2.0, 0.0]])
    merged = merging_rivals.fisher_merged(WEIGHTS, fisher)
    np.testing.assert_allclose(merged, [2.5, 1.0, 1.25, 1.0, 5.0], atol=1e-4)


def test_diagonal_fisher_is_that_of_the_policy():
    """Against the definition, row by row: E over all actions of the square of the score."""
    config = SIZES["debug"]
    layout = Layout(config.slots, 1, 3, (0,), (-1,), (0,))
    weights = fifteen.new("debug", seed=0).state.weights
    random = np.random.default_rng(0)
    count, rows = 200, 1  # one row, for which the sum over actions is exact
    frames = np.zeros((1, rows, layout.percept_size), np.float32)
    frames[..., :3] = random.normal(size=(1, rows, 3))
    frames[..., layout.slots + 7], frames[..., -1] = 1.0, -1.0
    decisions = np.ones((1, rows, layout.decision_size), np.float32)
    batch = Batch(jnp.asarray(frames), None, jnp.asarray(decisions), jnp.zeros((1, config.memory_size)))
    statistics, continuous = new_statistics(config.slots), jnp.ones(config.slots, bool)
    many = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), batch)
    of = partial(merging_rivals.diagonal_fisher, config=config, layout=layout, wipe=False)
    found = jax.jit(of)(weights, many, statistics, continuous, jax.random.key(0))

    def log_policy(weights):
        model = unravel(weights, config)
        codes = model.codes(layout)
        percept = layout.percept(batch.frames[0, 0], None)
        sensors = jnp.clip(percept.vector * jax.lax.rsqrt(jnp.float32(1.0 + 1e-8)), -8.0, 8.0)
        x = model.encode(percept, sensors, percept.reward / 1e-12, codes)
        _, x = model.unroll(batch.memory[0], x[None], percept.first[None])
        choice = batch.decisions[0, 0, :1].astype(jnp.int32)
        logits = model.policy_logits(model.features(x[0]), model.digit_prefix(choice, codes, layout.digits), codes)
        return jax.nn.log_softmax(logits[0])

    scores = jax.jit(jax.jacobian(log_policy))(weights)  # [B, P]
    exact = jnp.sum(jnp.exp(jax.jit(log_policy)(weights))[:, None] * scores**2, axis=0)
    assert float(jnp.sum(exact)) > 0
    assert float(jnp.sum(found)) == pytest.approx(float(jnp.sum(exact)), rel=0.15)
    assert float(jnp.corrcoef(found, exact)[0, 1]) > 0.97


# --------------------------------------------------------------------------------------------------- conclusions


def log_of(returns, length):
    n = np.zeros(len(returns))
    lengths = np.full(len(returns), length)
    return WorkLog(np.array(returns, float), lengths, np.cumsum(lengths), n, n, n, {}, (), "steps")


def test_competence_is_the_step_that_ends_the_first_good_window():
    assert TASK.normalised(60.0) == 0.7
    returns = [0.0] * 5 + [60.0] * 12
    assert many_jobs.steps_to_competence(TASK, log_of(returns, 3), 1_000) == 15 * 3
    assert many_jobs.steps_to_competence(TASK, log_of(returns, 3), 44) is None
    assert many_jobs.steps_to_competence(TASK, log_of([59.0] * 40, 3), 1_000) is None


def test_a_score_is_of_all_attempts_of_several_lifetimes(monkeypatch):
    asked = []

    def evaluate(learner, job, *, episodes, lifetimes, seed, kwargs, step_limit):
        asked.append((episodes, lifetimes, seed))
        return Evaluation(np.linspace(-10.0, 90.0, episodes), np.ones(episodes, int), np.zeros(episodes, int))

    monkeypatch.setattr(fifteen, "evaluate", evaluate)
    learner = fifteen.new("debug", seed=0)
    assert many_jobs.score(learner, TASK, 50, 0) == pytest.approx(0.5)
    assert many_jobs.score(learner, TASK, 2, 3) == pytest.approx(0.5)
    base = many_jobs.SCORE_SEED
    assert asked == [(50, 10, base), (2, 2, base + 3_000)]


def test_a_record_of_another_evaluation_is_refused(tmp_path):
    path = tmp_path / "none-0.json"
    path.write_text(json.dumps({"episodes": 50, "measured": {}}))
    assert many_jobs.Ledger(path, {}, {"episodes": 50}, tmp_path).record["measured"] == {}
    with pytest.raises(SystemExit, match="none-0.json does not say its lifetimes, which is 5 now: delete it"):
        many_jobs.Ledger(path, {}, {"episodes": 50, "lifetimes": 5}, tmp_path)


def test_share_kept_leaves_out_jobs_without_a_gain():
    parent = {"a": 0.1, "b": 0.5, "c": 0.9}
    instance = {"a": 0.9, "b": 1.0, "c": 1.0}
    found = amalgamate.shares(parent, instance, {"a": 0.5, "b": 1.1, "c": 0.0})
    assert found == pytest.approx({"a": 0.5, "b": 1.2})
    assert amalgamate.shares(parent, instance, {"c": 0.0}) == {}


def amalgamated(kept, sleeper):
    next_ = f"next/{many_jobs.NEXT[0].name}"
    measured = {"parent/a": 0.0, "instance/a": 1.0, "parent/b": 0.5, "instance/b": 1.0, "parent/c": 0.0}
    measured |= {"instance/c": 0.1, "sleep 8": {"a": kept, "b": 1.0, "c": 0.0}}
    return {
        "steps": 800,
        "jobs": ["a", "b"],
        "measured": {
            **measured,
            f"{next_}/parent": None,
            f"{next_}/sleep": sleeper,
            f"{next_}/a": 400,
            f"{next_}/b": 500,
        },
    }


def test_amalgamation_over_seeds(capsys):
    summary = amalgamate.summed_up([amalgamated(0.9, 200), amalgamated(0.8, None), amalgamated(1.0, 100)])
    assert summary["shares"]["sleep 8"]["mean"] == {"median": 0.95, "low": 0.9, "high": 1.0, "n": 3}
    assert summary["shares"]["sleep 8"]["worst"]["median"] == 0.9
    assert summary["shares"]["sleep 8"]["jobs"] == [2, 2, 2]
    assert summary["next"]["parent"] == {"median": 0.25, "low": 0.125, "high": 1.0, "n": 3}
    assert summary["next"]["quickest instance"] == {"median": 0.5, "low": 0.25, "high": 2.0, "n": 3}
    nobody = {f"next/{TASK.name}/{who}": None for who in ("parent", "sleep", "a")}
    assert amalgamate.next_steps(nobody, TASK.name, 800, ["a"]) is None
    some = {f"next/{TASK.name}/{who}": 5 for who in ("parent", "sleep", "a")}
    assert amalgamate.next_steps(some, TASK.name, 800, ["a"]) == {"parent": 5, "sleep": 5, "a": 5}
    assert amalgamate.next_steps(some, TASK.name, 800, ["a", "b"]) is None
    two = [{"parent": 100, "sleep": 200, "a": 100, "b": 400}, {"parent": 400, "sleep": 200, "a": 100, "b": 400}]
    assert amalgamate.next_ratios(two) == pytest.approx(
        {"parent": 1.0, "quickest instance": 2.0, "best instance": 2.0, "instance in the middle": 1.25}
    )
    two[1] |= {"a": 1_600}
    assert amalgamate.next_ratios(two)["best instance"] == pytest.approx(math.sqrt(0.25))
    assert amalgamate.next_ratios(two)["quickest instance"] == pytest.approx(1.0)
    amalgamate.print_table(summary)
    told = capsys.readouterr().out
    assert "8 instances, share kept, mean: 0.950 [0.900, 1.000], target >= 0.95: reached, uncertain" in told
    assert "16 instances, share kept, worst: not measured" in told


def test_forgetting_is_best_less_last():
    assert sequence.forgetting([0.5, 0.9, 0.7]) == pytest.approx(0.2)
    assert sequence.forgetting([0.5, 0.6]) == 0.0


def test_every_job_comes_twice_in_the_order_of_the_seed():
    order = sequence.order_of(JOBS, 3)
    assert order[:2] == order[2:] and sorted(order[:2]) == sorted(JOBS)
    assert len({tuple(sequence.order_of(list("abcdefgh"), seed)) for seed in range(5)}) == 5


def test_the_slope_does_not_mind_that_jobs_differ():
    easy, hard = 100.0, 10_000.0

    def seed(first, second):
        place = {first: 1, second: 2}
        return {name: (n, round({"a": easy, "b": hard}[name] * math.exp(-0.5 * n))) for name, n in place.items()}

    both = [seed("a", "b"), seed("b", "a")]
    assert sequence.slope(both) == pytest.approx(-0.5, abs=0.01)
    assert math.isnan(sequence.slope(both[:1])) and sequence.slope_interval(both[:1]) is None
    interval = sequence.slope_interval(both)
    assert interval is not None and interval["low"] <= interval["median"] <= interval["high"]


def lived(last, seed=0):
    first, second = sequence.order_of(("a", "b"), seed)[:2]
    after = [{first: 0.0, second: 0.1}, {first: 0.8, second: 0.2}, {first: 0.7, second: 0.9}]
    after += [{first: 0.9, second: 0.9}, {first: last, second: 1.0}]
    measured = {f"after {n}/{name}": value for n, row in enumerate(after) for name, value in row.items()}
    days = [{"job": first, "competent": 400}, {"job": second, "competent": None}]
    measured |= {f"day {n}": day for n, day in enumerate(days, start=1)}
    return {"jobs": ["a", "b"], "seed": seed, "steps": 1_000, "measured": measured}


def test_a_row_of_jobs_is_judged(capsys):
    summary = sequence.summed_up([lived(0.8), lived(0.7)])
    assert summary["complete"] == 2
    assert summary["forgetting"] == {"median": 0.075, "low": 0.05, "high": 0.1, "n": 2}
    assert summary["since its second night"]["low"] == 0.05
    assert summary["forward transfer"]["median"] == pytest.approx(0.1)
    sequence.print_table(summary)
    assert "forgetting: 0.075 [0.050, 0.100], target <= 0.02: NOT reached; only 2 seeds" in capsys.readouterr().out
    assert "by other attempts" not in summary
    record = lived(0.8)
    first, second = sequence.order_of(("a", "b"), 0)[:2]
    nights = {first: (0, 0, 3, 4), second: (0, 1, 4, 4)}
    assert sequence.doubted_nights([first, second, first, second], 2) == nights
    others = {first: (0.1, 0.1, 0.9, 0.7), second: (0.2, 0.1, 0.8, 0.8)}
    for name, scores in others.items():
        record["measured"] |= {f"others {n}/{name}": x for n, x in zip(nights[name], scores, strict=True)}
    summary = sequence.summed_up([record, lived(0.7)])
    told = {key: value["median"] for key, value in summary["by other attempts"].items()}
    wanted = {"forgetting": 0.1, "forward transfer": -0.1, "since its second night": 0.1}
    wanted |= {"at last": 0.75, "parent": 0.15}
    assert told == pytest.approx(wanted) and summary["by other attempts"]["at last"]["n"] == 1
    sequence.print_table(summary)
    assert "by other attempts, forward transfer: -0.100" in capsys.readouterr().out
    record["measured"][f"after 2/{first}"] = 0.95  # a night that was not asked again, as in records of before
    assert "forgetting" not in (sequence.doubted(record) or {"forgetting": 0.0})
    unfinished = lived(0.8)
    del unfinished["measured"]["after 4/a"]
    assert sequence.summed_up([unfinished]) == {"complete": 0, "begun": 1, "jobs": {}}


def test_a_learner_that_a_night_left_as_it_was_is_not_asked_again(monkeypatch):
    task = sequence.TASKS["CartPole-v1"]
    monkeypatch.setattr(sequence, "score", lambda learner, task, episodes, seed: learner)
    monkeypatch.setattr(sequence, "parent_at", lambda given, seed, number, folder: number / 10)
    given = argparse.Namespace(episodes=50)
    nights = {"day 2": {"updates": 0}, "day 3": {"updates": 0}, "after 1/CartPole-v1": 0.7}
    ledger: Any = SimpleNamespace(record={"measured": nights}, folder=None)
    assert sequence.again(ledger, given, 0, 2, task) == 0.7
    assert sequence.again(ledger, given, 0, 3, task) == 0.4  # not known after the night before


def test_growth_by_rehearsal_and_by_what_is_stored(capsys):
    def night(jobs, read, rows, update):
        counts = {"stored jobs": jobs, "read": read, "in an update": min(read, 9), "stored rows": rows}
        return counts | {"update_ms": update, "else_s": 2.0 + jobs / 100}

    measured = {f"night, {n} jobs": night(n, min(n, 33), 1_000 * n, 5.0 + 8.0 * n) for n in (1, 10, 50, 100)}
    measured |= {f"night, {n} x rows": night(10, 10, 10_000 * n, 80.0 + n) for n in (1, 4)}
    measured |= {
        f"instance {n}, block {b}": {"decision_us": 100.0 + b, "resident_mb": 400.0 + n}
        for n in (1, 10)
        for b in (0, 1, 2)
    }
    found = growth.summed_up(measured, [1, 10])
    assert found["for each job in it"] == found["jobs stored"] == pytest.approx(805 / 85 - 1)
    assert found["jobs stored, all else"] == pytest.approx(3 / 2.5 - 1)
    assert found["rows stored"] == pytest.approx(84 / 81 - 1)
    assert found["decision_us"]["growth"] == 0.0
    assert found["resident_mb"]["growth"] == pytest.approx(410 / 401 - 1)
    growth.print_table(measured, found)
    told = capsys.readouterr().out
    assert "with the rows stored: +3.7%, target < 10%: reached" in told
    assert "over ten times the jobs: +847.1%, target < 10%: NOT reached" in told
    assert "stored and not read: +20.0%, target < 10%: NOT reached" in told


def test_all_tasks_can_be_told_apart_and_have_a_scale():
    named = [*many_jobs.SEQUENCE, *many_jobs.NEXT[3:]]
    tasks = [*named, *many_jobs.every_template(150)]
    assert len(many_jobs.SEQUENCE) == 20 and len(many_jobs.TASKS) == len(named) == 23
    assert len(many_jobs.INSTANCES) == max(amalgamate.COUNTS)
    assert len({(task.job, json.dumps(task.kwargs)) for task in tasks[23:]}) == 150
    assert all(task.reference > task.random for task in tasks)


# ---------------------------------------------------------------------------------------------------- end to end


def test_amalgamation_end_to_end_and_nothing_twice(tmp_path, monkeypatch, capsys):
    parent: Learner = fifteen.new("debug", seed=0)
    parent.save(tmp_path / "parent")
    monkeypatch.setattr(sys, "argv", [amalgamate.__file__])
    parser = argparse.ArgumentParser()
    many_jobs.ask(parser, many_jobs.INSTANCES)
    given = parser.parse_args(["--learner", str(tmp_path / "parent"), "--jobs", *JOBS])
    given.__dict__ |= {"steps": 700, "night": 4, "episodes": 1, "counts": [2], "next": 0, "rivals": True}
    given.__dict__ |= {"results": tmp_path / "results", "runs": tmp_path / "runs"}

    def measured():
        ledger = many_jobs.open_ledger(parser, given, "amalgamate", 0, ("sleep", "episodes", "lifetimes"))
        amalgamate.measure(ledger, given, 0)
        return ledger.record["measured"]

    first = measured()
    expected = {f"{who}/{job}" for who in ("parent", "instance") for job in JOBS}
    assert first.keys() == expected | {f"{name} 2" for name in ("sleep", "joint training", *amalgamate.RIVALS)}
    assert all(set(first[f"{name} 2"]) == set(JOBS) for name in amalgamate.RIVALS)
    assert json.loads((tmp_path / "results/amalgamate/parent-0.json").read_text())["lifetimes"] == many_jobs.LIFETIMES
    capsys.readouterr()
    assert measured() == first and capsys.readouterr().out == ""
    given.steps = 800
    with pytest.raises(SystemExit, match="was measured with steps 700, not 800"):
        measured()
