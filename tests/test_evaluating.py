"""Frozen copies on a job: the learner stays as it was, attempts are spread over lifetimes, practice leaves its rows."""

import json
import os
import signal

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small import WORK, Drift, Walk

import fifteen
from fifteen.errors import RunError
from fifteen.evaluating import LIFETIMES, ROWS, Evaluation, practise


def new():
    return fifteen.new("debug", seed=0, work=WORK)


def test_evaluate_leaves_the_learner_as_it_was():
    learner = new()
    fifteen.work(learner, Walk, steps=80)
    before = {name: array.copy() for name, array in learner.arrays().items()}
    provenance = json.dumps(learner.provenance)
    stats = fifteen.evaluate(learner, "CartPole-v1", episodes=4, seed=2)
    again = fifteen.evaluate(learner, "CartPole-v1", episodes=4, seed=2)
    other = fifteen.evaluate(learner, "CartPole-v1", episodes=4, seed=3)
    np.testing.assert_array_equal(stats.returns, again.returns)
    assert (stats.returns != other.returns).any()
    np.testing.assert_array_equal(stats.returns, stats.lengths)
    assert (stats.mean, stats.std) == (pytest.approx(stats.returns.mean()), pytest.approx(stats.returns.std()))
    for name, array in learner.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert json.dumps(learner.provenance) == provenance


@pytest.mark.parametrize("job", ["CartPole-v1", "work/queue-v0"])
def test_attempts_are_spread_over_lifetimes(job):
    learner = new()
    before = {name: array.copy() for name, array in learner.arrays().items()}
    told = fifteen.evaluate(learner, job, episodes=8, lifetimes=3, seed=2, step_limit=20)
    assert np.bincount(told.lifetimes).tolist() == [3, 3, 2]
    assert told.returns.shape == told.lengths.shape == (8,)
    assert (told.lengths <= 20).all()
    several = fifteen.evaluate(learner, job, episodes=6, lifetimes=3, num_envs=2, seed=2, step_limit=20)
    assert np.bincount(several.lifetimes).tolist() == [2, 2, 2]
    for name, array in learner.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("lifetimes", [0, 1.0, 3])
def test_lifetimes_without_attempts_are_refused(lifetimes):
    with pytest.raises(RunError, match=f"lifetimes .*{lifetimes}"):
        fifteen.evaluate(new(), Walk, episodes=2, lifetimes=lifetimes)


class Pictures(Walk):
    """Walk that shows a picture of its step."""

    observation_space = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)

    def _shown(self):
        return np.full((32, 32, 3), 7 * self._steps % 256, np.uint8)

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed, options=options)
        return self._shown(), info

    def step(self, action):
        _, *others = super().step(action)
        return self._shown(), *others


def test_the_later_half_of_every_lifetime_counts():
    lifetimes = np.array([0, 1, 0, 0, 1, 0, 2])
    told = Evaluation(np.arange(7.0), np.ones(7, np.int64), lifetimes)
    assert told.late(20).tolist() == [3.0, 5.0, 4.0, 6.0]
    assert told.late(2).tolist() == [2.0, 4.0, 6.0]  # of the first two attempts of each
    assert Evaluation(*(np.zeros(0, np.int64) for _ in range(3))).late(20).size == 0


def test_practice_leaves_the_rows_of_first_days_and_their_attempts():
    learner = new()
    before = {name: array.copy() for name, array in learner.arrays().items()}
    one, two = (practise(learner, Drift(), attempts=1, seed=3) for _ in range(2))
    assert one.days.images is None and one.days.frames.shape == (LIFETIMES, ROWS, one.days.layout.percept_size)
    assert one.days.decisions.shape == (LIFETIMES, ROWS, one.days.layout.decision_size)
    np.testing.assert_array_equal(one.days.frames, two.days.frames)
    np.testing.assert_array_equal(one.days.decisions, two.days.decisions)
    for name, array in learner.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    percepts = jax.vmap(jax.vmap(lambda frame: one.days.layout.percept(frame, None)))(one.days.frames)
    assert bool(percepts.first[:, 0].all())
    for number in range(LIFETIMES):
        ends = np.flatnonzero(percepts.terminated[number] | percepts.truncated[number])
        totals = np.diff(np.concatenate([[0.0], np.cumsum(percepts.reward[number])[ends]]))
        returns = one.attempts.returns[one.attempts.lifetimes == number]
        np.testing.assert_array_equal(returns[: len(totals)], totals)
    assert (one.days.frames[0] != one.days.frames[1]).any()


def test_practice_with_images_and_with_streams_that_rest():
    def pictures():
        return Pictures()

    image = practise(new(), pictures, attempts=1, seed=0, rows=40)
    assert image.days.images is not None and image.days.images.shape == (LIFETIMES, 40, 32, 32, 3)
    assert image.days.images.any()
    # A vector environment rests in the streams that have ended while others do not.
    mode = AutoresetMode.NEXT_STEP
    vector = practise(
        new(), lambda: SyncVectorEnv([Walk] * LIFETIMES, autoreset_mode=mode), attempts=1, seed=0, rows=40
    )
    percepts = jax.vmap(jax.vmap(lambda frame: vector.days.layout.percept(frame, None)))(vector.days.frames)
    assert (vector.days.frames[..., vector.days.layout.slots + 7] == 1.0).all()  # rows of streams that were active only
    assert bool(percepts.first[:, 0].all())


def test_practice_that_is_interrupted_says_so_and_an_evaluation_has_fewer_attempts():
    class Ending(Walk):
        taken = 0

        def step(self, action):
            Ending.taken += 1
            if Ending.taken == 30:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(action)

    with pytest.raises(KeyboardInterrupt):
        practise(new(), Ending, attempts=1, seed=0)
    Ending.taken = 0
    assert 0 < len(fifteen.evaluate(new(), Ending, episodes=500).returns) < 500


def test_practice_goes_on_until_there_are_enough_attempts():
    long = practise(new(), Walk, attempts=150, seed=0, step_limit=200)
    assert (np.bincount(long.attempts.lifetimes) >= 150).all() and long.days.frames.shape[1] == ROWS
