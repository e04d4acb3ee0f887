"""Tabular MDPs: the specification, the dynamics, and plans against an independent computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.jobs import NativeStream
from fifteen.jobs.mdps import FAMILIES, HORIZON

(FAMILY,) = FAMILIES
PER_TEMPLATE = 20
COUNT = len(FAMILY.templates) * PER_TEMPLATE
KEY = jax.random.key(0)

sample = jax.jit(jax.vmap(FAMILY.sample))


@pytest.fixture(scope="module")
def jobs():
    templates = jnp.repeat(jnp.arange(len(FAMILY.templates), dtype=jnp.int32), PER_TEMPLATE)
    return sample(templates, jax.random.split(KEY, COUNT))


@pytest.fixture(scope="module")
def attempts(jobs):
    """States, actions, next places and rewards [2, jobs, attempts, 10]: under the teacher, and at random."""

    def attempt(job, taught, key):
        def step(state, key):
            choose, move = jax.random.split(key)
            likely = jnp.where(taught, FAMILY.teach(job, state), 1.0 / 5.0)
            action = jnp.sum(jnp.cumsum(likely)[:-1] <= jax.random.uniform(choose))
            after, place, reward, terminated = job.step(state, action, move)
            return after, (state, action, place, reward, terminated)

        return jax.lax.scan(step, job.reset(key)[0], jax.random.split(key, HORIZON))[1]

    both = jax.vmap(jax.vmap(jax.vmap(attempt, (None, None, 0)), (0, None, 0)), (None, 0, 0))
    keys = jax.random.split(jax.random.key(1), (2, COUNT, 40))
    return jax.tree.map(np.asarray, jax.jit(both)(jobs, jnp.array([True, False]), keys))


def induced(transitions, rewards, policy=None):
    """Values float64[H + 1, S] of the best policy, or of the one given."""
    values = np.zeros((HORIZON + 1, len(rewards)))
    for moment in reversed(range(HORIZON)):
        for state in range(len(rewards)):
            worth = [
                rewards[state, action]
                + sum(transitions[state, action, to] * values[moment + 1, to] for to in range(10))
                for action in range(5)
            ]
            values[moment, state] = max(worth) if policy is None else np.dot(policy[moment, state], worth)
    return values


def test_the_teacher_beats_chance_in_every_template(attempts):
    states, _, places, rewards, terminated = attempts
    assert np.isfinite(rewards).all() and rewards.dtype == np.float32 and not terminated.any()
    assert places.min() >= 0 and places.max() <= 9
    assert (states.place[..., 0] == 0).all()
    np.testing.assert_array_equal(states.place[..., 1:], places[..., :-1])
    taught, at_random = rewards.sum(-1).mean(-1).reshape(2, len(FAMILY.templates), PER_TEMPLATE)
    error = np.std(taught - at_random, axis=1) / np.sqrt(PER_TEMPLATE)
    assert (taught.mean(1) - at_random.mean(1) > 4 * error).all()


def test_plans_are_optimal(jobs, attempts):
    transitions, rewards, policies = (
        np.asarray(leaf, np.float64) for leaf in (jobs.transitions, jobs.rewards, jobs.policy)
    )
    np.testing.assert_allclose(policies.sum(-1), 1.0, rtol=1e-6)
    for number in range(0, COUNT, 10):
        best = induced(transitions[number], rewards[number])
        np.testing.assert_allclose(induced(transitions[number], rewards[number], policies[number]), best, atol=2e-3)
        returns = attempts[3][0, number].sum(-1)
        assert abs(returns.mean() - best[0, 0]) < 5 * returns.std() / np.sqrt(len(returns)) + 1e-3


def test_equally_good_actions_are_taught_alike(jobs):
    # At the start of a chain two actions lead right, and nothing else is worth it.
    start = FAMILY.templates.index("chain") * PER_TEMPLATE
    first = np.sort(np.asarray(jobs.policy)[start : start + PER_TEMPLATE, 0, 0], axis=-1)
    np.testing.assert_allclose(first, np.tile([0, 0, 0, 0.5, 0.5], (PER_TEMPLATE, 1)))
    # Of the last step only the reward counts, and in a ring that is the state's alone.
    start = FAMILY.templates.index("ring") * PER_TEMPLATE
    np.testing.assert_allclose(np.asarray(jobs.policy)[start : start + PER_TEMPLATE, -1], 0.2)


def test_dynamics_are_those_of_the_tables(jobs, attempts):
    states, actions, places, rewards, _ = (jax.tree.map(lambda leaf: leaf[1], part) for part in attempts)
    job = np.arange(COUNT)[:, None, None]
    chances = np.asarray(jobs.transitions)[job, states.place, actions]
    np.testing.assert_allclose(chances.sum(-1), 1.0, rtol=1e-5)
    assert (np.take_along_axis(chances, places[..., None], axis=-1) > 0).all()
    # Where each state is next as often as it should be, the deviations are standard normal numbers.
    expected, variance = chances.sum((1, 2)), (chances * (1 - chances)).sum((1, 2))
    often = np.eye(10)[places].sum((1, 2))
    scores = ((often - expected) / np.sqrt(variance + 1e-9))[variance > 5]
    assert len(scores) > 500 and abs(scores.mean()) < 0.15 and abs(scores.std() - 1.0) < 0.15
    noise = (rewards - np.asarray(jobs.rewards)[job, states.place, actions]) / np.asarray(jobs.deviation)[:, None, None]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1.0) < 0.02
    assert abs(np.corrcoef(noise.ravel(), places.ravel())[0, 1]) < 0.02


def test_dense_is_the_specification_of_rl2(jobs, attempts):
    transitions, rewards = (np.asarray(leaf)[:PER_TEMPLATE] for leaf in (jobs.transitions, jobs.rewards))
    assert FAMILY.templates[0] == "dense" and FAMILY.lifetime == 500 and jobs.step_limit == 10
    assert transitions.shape[1:] == (10, 5, 10) and jobs.observation_space.n == 10 and jobs.action_space.n == 5
    # Dirichlet(1, ..., 1) of ten: E[p^2] = 2 / (10 * 11).
    assert abs((transitions**2).mean() - 2 / 110) < 1e-3
    assert abs(rewards.mean() - 1.0) < 0.15 and abs(rewards.std() - 1.0) < 0.1
    assert (np.asarray(jobs.deviation)[:PER_TEMPLATE] == 1.0).all()
    # Every step of random play is worth 1 on average, whatever the transitions.
    assert abs(attempts[3][1, :PER_TEMPLATE].sum(-1).mean() - 10.0) < 1.5


def test_the_structure_of_the_other_templates(jobs):
    tables = {
        name: np.asarray(jobs.transitions)[i * PER_TEMPLATE : (i + 1) * PER_TEMPLATE]
        for i, name in enumerate(FAMILY.templates)
    }
    assert set(np.unique((tables["sparse"] > 0).sum(-1))) <= {1, 2}
    for name in ("deterministic", "lock"):
        assert set(np.unique(tables[name])) == {0.0, 1.0}
    rewards = np.asarray(jobs.rewards)
    goal = FAMILY.templates.index("goal") * PER_TEMPLATE
    assert ((rewards[goal : goal + PER_TEMPLATE] > 0).all(-1).sum(-1) == 1).all()
    # Each move around a ring gets back to where it began.
    ring = tables["ring"].astype(np.float64)
    assert (np.linalg.matrix_power(ring[:, :, 0] > 0, 10)[:, np.arange(10), np.arange(10)] > 0).all()
    assert np.allclose(ring.sum(1), 1.0, atol=1e-5)


def test_jobs_differ_and_are_streams(jobs):
    templates = jnp.repeat(jnp.arange(len(FAMILY.templates), dtype=jnp.int32), PER_TEMPLATE)
    other = sample(templates, jax.random.split(jax.random.key(7), COUNT))
    assert (np.asarray(jobs.transitions) != np.asarray(other.transitions)).any((1, 2, 3)).all()
    stream = NativeStream(jax.tree.map(lambda leaf: leaf[0], jobs), num_envs=2, job_id="mdp/tabular-v0")
    tick = stream.reset(0)
    assert [int(seen) for seen in tick.observations] == [0, 0]
    ticks = [stream.step([np.int64(1), np.int64(4)]) for _ in range(11)]
    assert all(stream.observation_space.contains(seen) for tick in ticks for seen in tick.observations)
    assert [bool(tick.truncated.all()) for tick in ticks] == [False] * 9 + [True, False]
    assert ticks[-1].first.all()
