"""Teachers who find out: as good as the methods that they stand for, and only from what happened."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.jobs.bandits import BernoulliFamily
from fifteen.jobs.explorers import EXPLORERS, Step
from fifteen.jobs.grids import DarkRoomFamily, FrozenLakeFamily, KeyDoorFamily
from fifteen.jobs.mdps import TabularMdpFamily


def lived(family, template, attempts, count):
    """Returns of an explorer's own lifetimes, float[count, attempts]."""
    explorer = EXPLORERS[type(family)]

    def attempt(job, notes, key):
        reset_key, step_key = jax.random.split(key)

        def move(carry, key):
            state, notes, over = carry
            action_key, move_key = jax.random.split(key)
            advice = explorer.advise(job, notes, state)
            action = jax.random.choice(action_key, advice.shape[0], p=advice).astype(jnp.int32)
            after, _, reward, terminated = job.step(state, action, move_key)
            noted = explorer.note(job, notes, Step(state, action, after, reward, terminated))
            kept = jax.tree.map(partial(jnp.where, over), (state, notes), (after, noted))
            return (*kept, over | terminated), jnp.where(over, 0.0, reward)

        state, _ = job.reset(reset_key)
        (_, notes, _), rewards = jax.lax.scan(
            move, (state, notes, jnp.array(False)), jax.random.split(step_key, job.step_limit)
        )
        return notes, jnp.sum(rewards)

    def lifetime(key):
        draw_key, key = jax.random.split(key)
        job = family.sample(jnp.int32(family.templates.index(template)), draw_key)
        return jax.lax.scan(partial(attempt, job), explorer.begin(job), jax.random.split(key, attempts))[1]

    return np.asarray(jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(0), count)))


@pytest.mark.parametrize(("pulls", "gittins"), [(100, 78.3), (500, 405.8)])
def test_the_bandits_explorer_is_near_the_gittins_index(pulls, gittins):
    # Duan et al. (2016), table 1; the tolerance is two standard errors of 2,000 bandits.
    assert lived(BernoulliFamily(pulls=pulls), "uniform", 1, 2_000).mean() > gittins - 0.009 * pulls


def test_the_mdp_explorer_beats_what_is_published():
    assert lived(TabularMdpFamily(), "dense", 10, 500).sum(axis=1).mean() > 157.3  # Duan et al. (2016) run again


def test_the_lake_explorer_never_falls_into_the_same_hole_twice():
    returns = lived(FrozenLakeFamily(), "scattered", 10, 100)
    assert returns[:, 0].mean() < 0.5 and returns[:, 7:].mean() > 0.98
    assert (np.diff(returns, axis=1) >= 0).mean() > 0.99


@pytest.mark.parametrize(("family", "most"), [(DarkRoomFamily(), 26.0), (KeyDoorFamily(), 1.95)])
def test_what_was_found_once_is_gone_to_at_once(family, most):
    returns = lived(family, "open", 5, 100)
    assert returns[:, 3:].mean() > most > 1.3 * returns[:, 0].mean()


@pytest.mark.parametrize("family", [BernoulliFamily(), TabularMdpFamily()])
def test_the_first_advice_is_the_same_for_every_job_of_a_template(family):
    explorer = EXPLORERS[type(family)]

    def first(key):
        job = family.sample(jnp.int32(0), key)
        return explorer.advise(job, explorer.begin(job), job.reset(key)[0])

    advice = np.asarray(jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(1), 50)))
    np.testing.assert_array_equal(advice, np.broadcast_to(advice[:1], advice.shape))
    np.testing.assert_allclose(advice.sum(axis=1), 1.0, rtol=1e-6)
