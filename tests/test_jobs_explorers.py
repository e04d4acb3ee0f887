"""Teachers who find out: as good as the methods that they stand for, and only from what happened."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_checks import quick_jit

from fifteen.jobs.bandits import BernoulliFamily, ContextualFamily, DriftingFamily
from fifteen.jobs.diagnosis import DiagnosisFamily
from fifteen.jobs.explorer import lived
from fifteen.jobs.explorers import EXPLORERS
from fifteen.jobs.grids import DarkRoomFamily, FrozenLakeFamily, KeyDoorFamily
from fifteen.jobs.mdps import TabularMdpFamily
from fifteen.jobs.references import normalised
from fifteen.jobs.rules import RulesFamily


def returns(family, template, attempts, count, jit=quick_jit):
    """Returns of an explorer's own lifetimes, float[count, attempts]."""

    def lifetime(key):
        draw_key, key = jax.random.split(key)
        job = family.sample(jnp.int32(family.templates.index(template)), draw_key)
        return lived(EXPLORERS[type(family)], job, attempts, key)

    return np.asarray(jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(0), count)))


@pytest.mark.parametrize(("pulls", "gittins"), [(100, 78.3), (500, 405.8)])
def test_the_bandits_explorer_is_near_the_gittins_index(pulls, gittins):
    # Duan et al. (2016), table 1; the tolerance is two standard errors of 2,000 bandits.
    assert returns(BernoulliFamily(pulls=pulls), "uniform", 1, 2_000, jax.jit).mean() > gittins - 0.009 * pulls


def test_the_mdp_explorer_beats_what_is_published():
    found = returns(TabularMdpFamily(), "dense", 10, 500, jax.jit)
    assert found.sum(axis=1).mean() > 157.3  # Duan et al. (2016) run again


def test_the_lake_explorer_never_falls_into_the_same_hole_twice():
    found = returns(FrozenLakeFamily(), "scattered", 10, 100)
    assert found[:, 0].mean() < 0.5 and found[:, 7:].mean() > 0.98
    assert (np.diff(found, axis=1) >= 0).mean() > 0.99


@pytest.mark.parametrize(("family", "most"), [(DarkRoomFamily(), 26.0), (KeyDoorFamily(), 1.95)])
def test_what_was_found_once_is_gone_to_at_once(family, most):
    found = returns(family, "open", 5, 100)
    assert found[:, 3:].mean() > most > 1.3 * found[:, 0].mean()


@pytest.mark.parametrize(
    ("family", "template", "attempts", "least"),
    [
        (ContextualFamily(), "linear", 4, 0.93),
        (ContextualFamily(), "clusters", 4, 0.86),
        (DriftingFamily(), "switching", 1, 0.7),
        (DriftingFamily(), "random-walk", 1, 0.85),
        (RulesFamily(), "one", 8, 0.94),
        (RulesFamily(), "temptation", 12, 0.94),
        (DiagnosisFamily(), "decisive test", 60, 0.65),
    ],
)
def test_what_the_other_explorers_come_to(family, template, attempts, least):
    # 1 is whoever knows the job; the last attempt of a lifetime. Over other 512 lifetimes it differs by up to 0.05.
    latest = returns(family, template, attempts, 512)[:, -1].mean()
    assert normalised(family, (family.templates.index(template),), float(latest)) > least


@pytest.mark.parametrize("family", [BernoulliFamily(), ContextualFamily(), DriftingFamily(), TabularMdpFamily()])
def test_the_first_advice_is_the_same_for_every_job_of_a_template(family):
    explorer = EXPLORERS[type(family)]

    def first(key):
        job = family.sample(jnp.int32(0), key)
        return explorer.advise(job, explorer.begin(job), job.reset(key)[0])

    advice = np.asarray(jax.jit(jax.vmap(first))(jax.random.split(jax.random.key(1), 50)))
    np.testing.assert_array_equal(advice, np.broadcast_to(advice[:1], advice.shape))
    np.testing.assert_allclose(advice.sum(axis=1), 1.0, rtol=1e-6)
