"""bench/continual_control.py: its jobs against Gymnasium's, its lives against a worker's, its sums by hand."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import continual_work  # noqa: E402
from continual_control import _finish  # noqa: E402
from continual_native import NATIVE, Device, attempts_of  # noqa: E402
from continual_summary import compared, forgetting, forward_transfer, summed_up, verdict  # noqa: E402
from continual_tasks import LIMIT, Attempts, OffsetTasks, Protocol, make, offsets_of  # noqa: E402

import fifteen  # noqa: E402
from fifteen.jobs.plants import PlantState  # noqa: E402
from fifteen.jobs.protocol import Tick  # noqa: E402

PUMP = {"CartPole-v1": 2, "Acrobot-v1": 2, "MountainCar-v0": 1}  # of the state, what a push goes along with


@pytest.mark.parametrize("name", NATIVE)
def test_native_jobs_move_as_gymnasiums_for_a_thousand_steps(name):
    environment: Any = make(name).unwrapped
    job, rng = NATIVE[name], np.random.default_rng(0)
    step = jax.jit(lambda *arguments: job.step(*arguments))
    actions, ended, ends = environment.action_space.n, True, 0
    for n in range(1_200):
        if ended:
            environment.reset(seed=n)
        # From the same state at every step, so that rounding does not add up along a chaotic path.
        plant = jnp.asarray(np.asarray(environment.state), jnp.float32)
        along = np.sign(float(plant[PUMP[name]])) * (-1 if name == "Acrobot-v1" else 1)
        action = int(rng.integers(actions)) if rng.random() < 0.3 else int(along > 0) * (actions - 1)
        state, observation, reward, terminated = step(
            PlantState(plant, jnp.int32(0)), jnp.int32(action), jax.random.key(0)
        )
        expected, pay, ended, _, _ = environment.step(action)
        np.testing.assert_allclose(observation, expected, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(state.plant, environment.state, rtol=2e-4, atol=2e-5)
        assert float(reward) == pay and bool(terminated) == ended
        ends += ended
    assert ends > 0


@pytest.mark.parametrize("name", NATIVE)
def test_native_jobs_begin_as_gymnasiums(name):
    environment: Any = make(name).unwrapped
    theirs = []
    for seed in range(400):
        environment.reset(seed=seed)
        theirs.append(np.asarray(environment.state, np.float64))
    ours = np.asarray(jax.vmap(NATIVE[name].reset)(jax.random.split(jax.random.key(0), 400))[0].plant)
    spread = np.std(theirs, axis=0)
    np.testing.assert_allclose(ours.mean(axis=0), np.mean(theirs, axis=0), atol=0.25 * spread.max())
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.15)
    assert np.ptp(ours, axis=0) == pytest.approx(np.ptp(theirs, axis=0), rel=0.05)


def test_offsets_are_drawn_from_the_seed_and_the_first_task_is_clean():
    offsets = offsets_of("CartPole-v1", 3, 200)
    assert offsets.shape == (200, 4) and offsets.dtype == np.float32
    assert not offsets[0].any() and (offsets[1:] != 0.0).all()
    np.testing.assert_array_equal(offsets, offsets_of("CartPole-v1", 3, 200))
    np.testing.assert_array_equal(offsets[:10], offsets_of("CartPole-v1", 3, 10))
    assert (offsets[1:] != offsets_of("CartPole-v1", 4, 200)[1:]).all()
    assert (offsets[1:] != offsets_of("LunarLander-v3", 3, 200)[1:, :4]).all()
    assert np.std(offsets[1:]) == pytest.approx(2.0, rel=0.08)


def test_the_offset_stays_for_a_task_follows_the_steps_of_the_life_and_says_nothing():
    offsets = np.array([[0.0, 0.0], [2.0, -1.0], [-3.0, 0.5]], np.float32)
    shown, clean = OffsetTasks(make("MountainCar-v0"), offsets, 30), make("MountainCar-v0")
    assert shown.observation_space == gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    seen = []
    for attempt in range(2):
        begun = shown.reset(seed=attempt)[0] - clean.reset(seed=attempt)[0]
        np.testing.assert_allclose(begun, offsets[attempt], atol=1e-6)
        for step in range(45):
            seen.append(shown.step(step % 3)[0] - clean.step(step % 3)[0])
    expected = np.repeat(offsets, [30, 30, 30], axis=0)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    resumed = OffsetTasks(make("MountainCar-v0"), offsets, 30, steps=45)
    np.testing.assert_allclose(resumed.reset(seed=1)[0] - clean.reset(seed=1)[0], offsets[1], atol=1e-6)


def test_attempts_are_cut_at_400_and_nowhere_else():
    for name in ("MountainCar-v0", "Acrobot-v1"):
        job = make(name)
        job.reset(seed=0)
        for step in range(1, LIMIT + 1):
            _, _, terminated, truncated, _ = job.step(1)
            assert not terminated and truncated == (step == LIMIT)


@pytest.fixture(scope="module")
def learner():
    return fifteen.new("debug", seed=0)


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0"])
def test_a_life_on_the_device_is_the_one_that_a_worker_lives(name, learner):
    each = 150
    offsets = offsets_of(name, 1, 3)
    device = Device(learner, name, each)
    statistics = jax.tree.map(lambda leaf: leaf[None], learner.statistics)
    born = device.born(jnp.array([5], jnp.uint32), statistics, jnp.int32(0))
    lives, seen = device.live(born, jnp.asarray(offsets)[None], 3 * each, ticks=3 * each + 100, whole=True)
    seen = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], seen)
    assert int(lives.steps[0]) == 3 * each
    seen = jax.tree.map(lambda leaf: leaf[seen.live], seen)

    before = np.concatenate([[0], seen.steps[:-1]])
    plain = seen.observation - offsets[before // each]
    space: Any = make(name).observation_space
    assert ((plain >= space.low - 1e-4) & (plain <= space.high + 1e-4)).all()
    ends = seen.terminated | seen.truncated
    assert ends.any() and (seen.first[1:] == ends[:-1]).all()
    found = attempts_of(jax.tree.map(lambda leaf: leaf[:, None], seen))[0]
    np.testing.assert_array_equal(np.cumsum(found.lengths), found.steps)
    if name == "MountainCar-v0":
        assert found.lengths.tolist() == [LIMIT] and found.returns.tolist() == [-LIMIT] and seen.truncated.sum() == 1
    else:
        np.testing.assert_array_equal(found.returns, found.lengths)

    job = OffsetTasks(make(name), offsets, each)
    worker = learner.new_worker(job.observation_space, job.action_space, seed=5, learn="context")
    chosen = []
    for n in range(len(ends)):
        flags = (seen.first[n : n + 1], seen.terminated[n : n + 1], seen.truncated[n : n + 1])
        tick = Tick((seen.observation[n],), seen.reward[n : n + 1], *flags, np.ones(1, bool), (None,))
        chosen.append(worker.decide(tick).actions[0])
    worker.close()
    assert [-1 if c is None else int(c) for c in chosen] == np.where(ends, -1, seen.choice).tolist()


def test_retests_on_the_device_begin_after_the_life(learner):
    device = Device(learner, "CartPole-v1", 150)
    statistics = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), learner.statistics)
    offsets = np.stack([offsets_of("CartPole-v1", seed, 2) for seed in (0, 1)])
    lives, found = _finish(device, device.born(jnp.array([0, 1], jnp.uint32), statistics, jnp.int32(0)), offsets, 300)
    assert np.asarray(lives.steps).tolist() == [300, 300]
    assert all(each.steps[-1] <= 300 for each in found)
    _, again = _finish(device, lives, np.concatenate([offsets, offsets[:, :1]], axis=1), 300, 3)
    for each in again:
        assert len(each.returns) == 3 and (each.steps - each.lengths >= 300).all()


def test_a_life_at_work_goes_on_where_it_was_stopped_and_is_tested_again(tmp_path):
    def new():  # work changes a learner
        return fifteen.new("debug", seed=0)

    name, protocol = "CartPole-v1", Protocol(tasks=2, task_steps=200)
    offsets = offsets_of(name, 0, 2)
    whole = continual_work.live(name, new(), offsets, protocol, seed=0, learn="context", run=tmp_path / "whole")
    run = tmp_path / "parts"
    job = OffsetTasks(make(name), offsets, protocol.task_steps)
    fifteen.work(new(), job, steps=400, seed=0, learn="context", run=run, callback=lambda progress: progress.step > 230)
    assert 230 < continual_work.steps_taken(run) < 260
    assert continual_work.steps_at_attempt(run) <= continual_work.steps_taken(run)
    parts = continual_work.live(name, new(), offsets, protocol, seed=0, learn="context", run=run)
    assert not parts.faults
    np.testing.assert_array_equal(parts.attempts.returns, whole.attempts.returns)
    np.testing.assert_array_equal(parts.attempts.steps, whole.attempts.steps)

    kept = continual_work.retest_kept(name, offsets, 0, protocol, attempts=2, run=run)
    assert len(kept.returns) == 2 and (kept.steps - kept.lengths >= protocol.steps).all()
    assert continual_work.steps_taken(run) == protocol.steps  # the life itself stays as it is
    fresh = continual_work.retest_fresh(name, parts.learner, offsets[1], attempts=2, seed=1)
    assert len(fresh.returns) == 2


def test_a_life_is_summed_up_by_the_tasks_in_which_attempts_begin():
    lengths = np.full(80, 10)
    lengths[39] = 20  # begins in the first task, ends in the second
    steps = np.cumsum(lengths)
    returns = np.concatenate([np.zeros(10), np.full(30, 2.0), np.full(5, 1.0), np.full(35, 3.0)])
    found = summed_up(Attempts(returns, lengths, steps), Protocol(tasks=2, task_steps=400), 2.0)
    first, second = found["tasks"]
    assert found["average"] == pytest.approx(170 / 80)
    assert found["average_by_step"] == pytest.approx((170 + 2.0) * 10 / 810)
    assert (first["attempts"], second["attempts"]) == (40, 39)  # the last one begins when the life is over
    assert (first["first"], first["last"], first["mean"]) == (0.0, 2.0, 1.5)
    assert first["steps_to_threshold"] == 100
    assert (second["first"], second["last"]) == (1.0, 3.0)
    assert second["steps_to_threshold"] == 10
    nothing = summed_up(Attempts(returns, lengths, steps), Protocol(tasks=2, task_steps=400), 4.0)
    assert [task["steps_to_threshold"] for task in nothing["tasks"]] == [None, None]


def test_forgetting_transfer_and_verdicts_are_what_they_are_called():
    def task(first, last, steps):
        return {"first": first, "last": last, "steps_to_threshold": steps}

    record: dict[str, Any] = {
        "job": "CartPole-v1",
        "seed": 0,
        "average": 280.0,
        "average_by_step": 300.0,
        "tasks": [task(10.0, 100.0, 50), task(30.0, 90.0, None), task(20.0, 80.0, 7)],
        "retest": {"fresh": [40.0, 50.0, 0.0], "kept": [100.0, 100.0, 0.0]},
    }
    assert forgetting(record, "fresh") == 50.0
    assert forgetting(record, "kept") == -5.0
    assert forward_transfer(record) == 15.0
    better = record | {"seed": 1, "average": 310.0}
    found = compared([record, better], Protocol(tasks=3, task_steps=1_000))
    assert found["average"]["median"] == 295.0 and found["seeds"] == [0, 1]
    assert found["steps_to_threshold"] == [50, 1_000, 7] and found["reached"] == [2, 0, 2]
    assert found["verdict"] == "above the best published, below the oracle"
    assert verdict("CartPole-v1", 299.9) == "reaches the reset oracle"
    assert verdict("MountainCar-v0", -300.0) == "reaches the reset oracle, below the best published"
    assert verdict("LunarLander-v3", -7.0) == "below the best published"
