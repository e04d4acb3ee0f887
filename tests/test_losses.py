"""Losses: what they are at their minimum, where they are flat, and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.losses import (
    categorical_loss,
    choose,
    clipped_policy_loss,
    factored_advantage,
    improved_policy,
    masked_log_softmax,
    policy_loss,
    prediction_loss,
    value_loss,
)

FACTORS, BINS, ATOMS = 3, 5, 7

log_softmax_jit = jax.jit(masked_log_softmax)
improved_jit = jax.jit(improved_policy)
policy_gradient = jax.jit(jax.grad(policy_loss))


@st.composite
def policies(draw):
    """(logits float32[M, B], mask bool[M, B] with at least one valid bin of each factor, random generator)."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 1.0, 30.0]))
    mask = random.random((FACTORS, BINS)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    mask[np.arange(FACTORS), random.integers(BINS, size=FACTORS)] = True
    return (spread * random.standard_normal((FACTORS, BINS))).astype(np.float32), mask, random


def softmax(logits, mask):
    """In float64, over the valid bins only."""
    weights = np.where(mask, np.exp(logits.astype(np.float64) - np.where(mask, logits, -np.inf).max(1)[:, None]), 0)
    return weights / weights.sum(1, keepdims=True)


@given(policies())
def test_the_masked_policy_is_the_softmax_of_what_is_valid(policy):
    logits, mask, _ = policy
    log_policy = np.asarray(log_softmax_jit(logits, mask))
    np.testing.assert_allclose(np.exp(log_policy), softmax(logits, mask), atol=1e-5)
    assert (np.exp(log_policy)[~mask] == 0).all()
    assert np.isfinite(log_policy).all()


def test_a_factor_without_a_valid_bin_gives_finite_numbers_and_no_gradient():
    logits, mask = jnp.ones((2, 3)), jnp.array([[False] * 3, [True] * 3])
    assert np.isfinite(masked_log_softmax(logits, mask)).all()
    gradient = jax.grad(policy_loss)(logits, jnp.full((2, 3), 1 / 3), mask)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[0] == 0).all()


def test_choose_by_hand():
    per_slot = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(choose(per_slot, jnp.array([2, 0])), [2.0, 3.0])
    np.testing.assert_array_equal(choose(per_slot, jnp.array([-1, 1])), [0.0, 4.0])


@given(policies())
def test_the_factored_value(policy):
    """Q(a) = V + mean of A_m(a_m), as the mean over factors of Q_m(a_m) demands, and E_pi A_m = 0."""
    logits, mask, random = policy
    action_value = random.standard_normal((FACTORS, BINS)).astype(np.float32)
    probability = softmax(logits, mask)
    advantage, value = factored_advantage(action_value, log_softmax_jit(logits, mask))
    np.testing.assert_allclose(value, (probability * action_value).sum(1).mean(), atol=1e-5)
    np.testing.assert_allclose((probability * advantage).sum(1), 0.0, atol=1e-5)
    choice = np.array([random.choice(np.flatnonzero(valid)) for valid in mask])
    taken = np.take_along_axis(action_value, choice[:, None], 1).mean()
    np.testing.assert_allclose(value + choose(advantage, jnp.asarray(choice)).mean(), taken, atol=1e-5)


@given(policies(), st.sampled_from([1e-3, 0.3, 10.0]))
def test_the_improved_policy_is_a_distribution_over_what_is_valid(policy, scale):
    logits, mask, random = policy
    advantage = random.standard_normal((FACTORS, BINS)).astype(np.float32)
    improved = np.asarray(improved_jit(log_softmax_jit(logits, mask), advantage, mask, np.float32(scale)))
    np.testing.assert_allclose(improved.sum(1), 1.0, atol=1e-5)
    assert (improved[~mask] == 0).all()
    before = softmax(logits, mask)
    expected = before * np.exp(np.clip(advantage / scale, -1, 1))
    np.testing.assert_allclose(improved, expected / expected.sum(1, keepdims=True), atol=1e-5)
    # However large an advantage, no bin gains or loses more than a factor of e squared.
    likely = before > 1e-6
    ratio = improved[likely] / before[likely]
    assert (ratio < np.exp(2.0) * 1.001).all()
    assert (ratio > np.exp(-2.0) * 0.999).all()


def test_the_improved_policy_by_hand():
    half = jnp.log(jnp.array([[0.5, 0.5]]))
    both = jnp.ones((1, 2), bool)
    improved = improved_policy(half, jnp.array([[0.25, -0.25]]), both, jnp.float32(0.5))
    np.testing.assert_allclose(improved, [[np.e / (1 + np.e), 1 / (1 + np.e)]], rtol=1e-5)
    same = improved_policy(half, jnp.zeros((1, 2)), both, jnp.float32(0.5))
    np.testing.assert_allclose(same, [[0.5, 0.5]], rtol=1e-6)


@given(policies())
def test_the_gradient_of_the_policy_loss_is_policy_minus_improved(policy):
    logits, mask, random = policy
    improved = softmax(random.standard_normal((FACTORS, BINS)), mask).astype(np.float32)
    gradient = np.asarray(policy_gradient(logits, improved, mask))
    np.testing.assert_allclose(gradient, (softmax(logits, mask) - improved) / FACTORS, atol=1e-5)
    assert (gradient[~mask] == 0).all()
    at_the_goal = policy_gradient(np.log(improved + 1e-30), improved, mask)
    np.testing.assert_allclose(at_the_goal, 0.0, atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 100.0]))
def test_the_value_loss_is_the_cross_entropy_of_the_mixture(seed, spread):
    random = np.random.default_rng(seed)
    logits = (spread * random.standard_normal((FACTORS, ATOMS))).astype(np.float32)
    target = softmax(random.standard_normal((1, ATOMS)), np.ones((1, ATOMS), bool))[0].astype(np.float32)
    mixture = softmax(logits, np.ones_like(logits, bool)).mean(0)
    expected = -(target * np.log(mixture)).sum()
    np.testing.assert_allclose(value_loss(logits, target), expected, rtol=1e-3)
    assert np.isfinite(jax.grad(value_loss)(logits, target)).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_the_clipped_policy_loss_by_hand(ratio, advantage, loss, slope):
    """Nothing pulls the ratio further where it is beyond the clip on the side of the advantage; back it may."""
    value, gradient = jax.value_and_grad(clipped_policy_loss)(jnp.log(ratio), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose([value, gradient], [loss, slope], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factors", [1, 2])
def test_the_value_loss_is_least_where_the_mean_is_the_target(factors):
    """Followed down its gradient, the mean of the mixture becomes the target's."""
    values = np.linspace(-1.0, 1.0, ATOMS).astype(np.float32)
    target = np.zeros(ATOMS, np.float32)
    target[4:6] = 0.5
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((factors, ATOMS)), jnp.float32)
    descend = jax.jit(lambda x: x - 2.0 * jax.grad(value_loss)(x, target))
    for _ in range(500):
        logits = descend(logits)
    mean = jnp.mean(jax.nn.softmax(logits) @ values)
    np.testing.assert_allclose(mean, target @ values, atol=0.01)


def test_one_factor_of_the_value_loss_is_the_plain_cross_entropy():
    logits = jnp.array([0.0, 1.0, 3.0])
    target = jnp.array([0.25, 0.75, 0.0])
    plain = -(0.25 * 0.0 + 0.75 * 1.0) + np.log(1 + np.e + np.e**3)
    np.testing.assert_allclose(categorical_loss(logits, target), plain, rtol=1e-6)
    np.testing.assert_allclose(value_loss(logits[None], target), plain, rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(value_loss)(logits[None], target)[0], jax.nn.softmax(logits) - target, atol=1e-6
    )


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_prediction_loss_pulls_with_the_error(seed):
    prediction, target = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(prediction_loss(prediction, target), ((prediction - target) ** 2).sum() / 2, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(prediction_loss)(prediction, target), prediction - target, atol=1e-6)
