"""Random linear systems against plain numpy, and their regulator against SciPy's Riccati equation."""

import jax
import numpy as np
import pytest
from family_checks import check_family
from scipy.linalg import solve_discrete_are

from fifteen.jobs.linear import BOUND, LinearFamily, LinearState, solved, triangular


def test_random_linear_systems():
    family = LinearFamily()
    jobs, (teacher, chance) = check_family(family)
    assert (teacher > 0.5 * chance).all(), (teacher, chance)  # costs: less than half
    kinds = len(family.templates)
    for number in range(2 * kinds):
        job = jax.tree.map(lambda leaf, number=number: np.asarray(leaf[number], np.float64), jobs)
        costs = np.diag(job.weights), job.effort * np.eye(1)
        p = solve_discrete_are(job.a, job.b, *costs)
        gain = np.linalg.solve(costs[1] + job.b.T @ p @ job.b, job.b.T @ p @ job.a)
        np.testing.assert_allclose(job.gain, gain, rtol=1e-3, atol=0.02)  # float32 against float64; gains up to 65
        np.testing.assert_allclose(job.a @ job.target + job.b @ job.hold, job.target, atol=1e-3)
    radius = np.abs(np.linalg.eigvals(np.asarray(jobs.a))).max(axis=1).reshape(-1, kinds)
    assert (radius[:, family.templates.index("stable")] < 0.97).all()
    assert (radius[:, family.templates.index("unstable")] > 1.01).all()


def test_a_step_is_the_matrix_equation():
    family = LinearFamily()
    job = jax.jit(family.sample)(np.int32(0), jax.random.key(3))
    x, u, key = np.array([1.0, -2.0, 0.5, 0.1], np.float32), np.array([-4.0], np.float32), jax.random.key(0)
    state, observation, reward, terminated = job.step(LinearState(jax.numpy.asarray(x)), u, key)
    u[0] = -1.0
    noise = float(job.noise) * np.asarray(jax.random.normal(key, (4,)))
    after = np.clip(np.asarray(job.a) @ x + np.asarray(job.b) @ u + noise, -BOUND, BOUND)
    np.testing.assert_allclose(state.x, after, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(observation, np.asarray(job.c) @ after, rtol=1e-4, atol=1e-5)
    cost = (np.asarray(job.weights) * x**2).sum() + float(job.effort) * (u**2).sum()
    np.testing.assert_allclose(reward, -cost, rtol=1e-5)
    assert not terminated


@pytest.mark.parametrize("seed", range(5))
def test_reflections_give_what_lapack_gives(seed):
    random = np.random.default_rng(seed)
    a, y = random.standard_normal((4, 4)).astype(np.float32), random.standard_normal(4).astype(np.float32)
    for mine, theirs in zip(jax.jit(triangular)(a), np.linalg.qr(a), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    np.testing.assert_allclose(a @ jax.jit(solved)(a, y), y, atol=1e-4)


def test_reflections_of_a_matrix_with_a_column_of_zeros_are_finite():
    a = np.diag(np.array([1.0, 0.0, 2.0, 0.0], np.float32))
    q, r = jax.jit(triangular)(a)
    np.testing.assert_allclose(q @ r, a, atol=1e-6)
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-6)
