"""Updates of the weights, on batches written by hand: what is learned, and what must not matter."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from fifteen.config import SIZES, WorkConfig
from fifteen.frames import Layout
from fifteen.instance import new_statistics
from fifteen.losses import masked_log_softmax
from fifteen.model import unravel
from fifteen.spaces import Hands
from fifteen.updating import Batch, new_learner_state, update

CONFIG = SIZES["debug"]
WORK = WorkConfig(learning_rate=3e-3, target_rate=0.1)
LAYOUT = Layout(CONFIG.slots, **dataclasses.asdict(Hands(spaces.Discrete(2)).shape))
UPDATES, SEQUENCES, ROWS = 10, 4, 5  # K, N, T + 1

improve = jax.jit(partial(update, config=CONFIG, work=WORK, layout=LAYOUT, wipe=False))
STATISTICS = new_statistics(CONFIG.slots)  # nothing counted: rewards are their own unit
CONTINUOUS = np.ones(CONFIG.slots, np.bool_)


@pytest.fixture
def fresh():
    return new_learner_state(CONFIG, WORK, 0)


def one_step_attempts(random, reward_of):
    """K batches of attempts of one step: rows begin an attempt and end one in turn, drawn uniformly at random."""
    shape = (UPDATES, SEQUENCES, ROWS)
    frames = np.zeros((*shape, LAYOUT.percept_size), np.float32)
    decisions = np.zeros((*shape, LAYOUT.decision_size), np.float32)
    for k, n in np.ndindex(UPDATES, SEQUENCES):
        phase = int(random.integers(2))
        for t in range(ROWS):
            ends = (t + phase) % 2 == 1
            choice = int(random.integers(2))
            before = decisions[k, n, t - 1, 0] if t else float(random.integers(2))
            LAYOUT.write_percept(
                frames[k, n, t],
                vector=np.zeros(CONFIG.slots),
                reward=reward_of(before) if ends else 0.0,
                first=not ends,
                terminated=ends,
                truncated=False,
                after=(False, False) if ends else (True, False),
                step=int(ends),
                active=True,
                previous=np.array([before if ends else -1.0]),
            )
            decisions[k, n, t] = (choice, np.log(0.5), 0.0, 1.0, 0.0, True, True)
    memory = np.zeros((UPDATES, SEQUENCES, CONFIG.memory_size), np.float32)
    return Batch(frames, None, decisions, memory)


def ends_of(batch):
    return np.array(jax.vmap(jax.vmap(jax.vmap(lambda f: LAYOUT.percept(f, None).terminated)))(batch.frames))


def trained(state, random, reward_of, calls):
    metrics = {}
    for _ in range(calls):
        state, metrics = improve(state, one_step_attempts(random, reward_of), STATISTICS, CONTINUOUS)
    return state, metrics


def assert_finite(*trees):
    for leaf in jax.tree.leaves(trees):
        assert np.isfinite(np.asarray(leaf)).all()


@pytest.mark.parametrize("reward", [1.0, -0.5])
def test_the_value_becomes_a_constant_reward(fresh, reward):
    state, metrics = trained(fresh, np.random.default_rng(0), lambda choice: reward, calls=30)
    assert float(metrics["value"]) == pytest.approx(reward, abs=0.1)
    assert int(state.updates) == 30 * UPDATES
    assert_finite(state, metrics)


def test_the_policy_learns_the_better_action_from_what_another_policy_did(fresh):
    """Actions drawn evenly, +1 for one of them: the value of the policy learned from them is nearly +1, not 0."""
    state, metrics = trained(fresh, np.random.default_rng(0), lambda choice: 2 * choice - 1, calls=50)
    assert float(metrics["value"]) > 0.8
    assert_finite(state, metrics)


def test_updates_in_one_call_are_calls_of_one_update(fresh):
    batch = one_step_attempts(np.random.default_rng(1), lambda choice: choice)
    together, _ = improve(fresh, batch, STATISTICS, CONTINUOUS)
    state = fresh
    for k in range(UPDATES):
        state, _ = improve(state, jax.tree.map(lambda x, k=k: x[k : k + 1], batch), STATISTICS, CONTINUOUS)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_was_decided_where_no_action_is_taken_does_not_matter(fresh):
    """At the last row of an attempt, and at the last row of a sequence, whose action brought nothing yet."""
    batch = one_step_attempts(np.random.default_rng(2), lambda choice: choice)
    idle = ends_of(batch)
    idle[:, :, -1] = True
    other = batch.decisions.copy()
    other[idle, 0] = 1.0 - other[idle, 0]
    other[idle, 1] = -7.0
    one, _ = improve(fresh, batch, STATISTICS, CONTINUOUS)
    two, _ = improve(fresh, batch._replace(decisions=other), STATISTICS, CONTINUOUS)
    assert (np.asarray(one.weights) != np.asarray(fresh.weights)).any()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_masked_actions_leave_everything_finite(fresh):
    batch = one_step_attempts(np.random.default_rng(3), lambda choice: choice)
    state = fresh
    for _ in range(5):
        closed = batch.decisions.copy()
        # Of half of the rows only the chosen bin is open, and where no action is taken none is.
        rows = np.random.default_rng(4).random(closed.shape[:-1]) < 0.5
        closed[rows, 5:] = np.eye(2)[closed[rows, 0].astype(int)]
        closed[rows, 1] = 0.0
        closed[ends_of(batch), 5:] = 0.0
        state, metrics = improve(state, batch._replace(decisions=closed), STATISTICS, CONTINUOUS)
        assert_finite(state, metrics)


@pytest.mark.parametrize("reward", [1e30, -1e30])
def test_a_monstrous_reward_leaves_the_weights_finite(fresh, reward):
    state, metrics = trained(fresh, np.random.default_rng(5), lambda choice: reward, calls=3)
    assert_finite(state.weights, state.target, state.optimiser)


def test_without_anything_to_learn_the_weights_are_drawn_to_their_anchor_only(fresh):
    """A batch in which no action was taken at all: no gradient, no NaN from dividing by no rows."""
    batch = one_step_attempts(np.random.default_rng(6), lambda choice: choice)
    template = batch.frames[ends_of(batch)][0]
    batch = batch._replace(frames=np.broadcast_to(template, batch.frames.shape))
    away = fresh._replace(weights=fresh.weights + 1.0)
    state, metrics = improve(away, batch, STATISTICS, CONTINUOUS)
    assert_finite(state, metrics)
    kept = (1.0 - WORK.learning_rate * WORK.anchor_decay) ** UPDATES
    np.testing.assert_allclose(state.weights - fresh.anchor, kept, atol=1e-5)
    np.testing.assert_array_equal(state.anchor, fresh.anchor)
    toward = 1.0 - (1.0 - WORK.target_rate) ** UPDATES
    np.testing.assert_allclose(state.target - fresh.target, toward, atol=1e-3)


def test_an_update_moves_the_target_slowly(fresh):
    batch = one_step_attempts(np.random.default_rng(7), lambda choice: choice)
    state, _ = improve(fresh, jax.tree.map(lambda x: x[:1], batch), STATISTICS, CONTINUOUS)
    expected = fresh.target + WORK.target_rate * (state.weights - fresh.target)
    np.testing.assert_allclose(state.target, expected, atol=1e-6)
    assert jnp.abs(state.weights - fresh.weights).max() > 1e-4


def first_of(frame):
    return bool(LAYOUT.percept(jnp.asarray(frame), None).first)


def steady(fresh, batch, **settings):
    work = dataclasses.replace(WORK, steady=True, **settings)
    told = dict(config=CONFIG, work=work, layout=LAYOUT, wipe=False)
    return jax.jit(partial(update, **told))(fresh, batch, STATISTICS, CONTINUOUS)


def test_what_perceives_and_remembers_stays_steady(fresh):
    batch = one_step_attempts(np.random.default_rng(0), lambda choice: choice)
    state, metrics = steady(fresh, batch)
    assert_finite(state, metrics)
    before, after = unravel(fresh.weights, CONFIG), unravel(state.weights, CONFIG)
    for name in ("sense", "see", "sense_norm", "layers", "factor_code", "bin_code", "line_frequency", "line_phase"):
        for old, new in zip(jax.tree.leaves(getattr(before, name)), jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(old, new)
    for name in ("trunk", "policy", "advantage_out", "imagined"):
        assert jnp.abs(getattr(after, name).weight - getattr(before, name).weight).max() > 1e-3


def test_what_reads_the_memory_learns_from_an_empty_one_too(fresh):
    """A memory that was lived does not matter for the half of the sequences that are read with an empty one."""
    batch = one_step_attempts(np.random.default_rng(0), lambda choice: choice)
    full = np.random.default_rng(1).standard_normal(batch.memory.shape).astype(np.float32)
    half = full.copy()
    half[:, : SEQUENCES // 2] = 0.0
    states = [steady(fresh, batch._replace(memory=memory))[0].weights for memory in (full, half, batch.memory)]
    np.testing.assert_array_equal(states[0], states[1])
    assert jnp.abs(states[0] - states[2]).max() > 1e-5


def test_loyalty_bounds_how_far_the_policy_goes_from_the_parents(fresh):
    def odds(loyalty):
        """Log-odds of the better of two actions after learning."""
        work = dataclasses.replace(WORK, steady=True, loyalty=loyalty)
        learn = jax.jit(partial(update, config=CONFIG, work=work, layout=LAYOUT, wipe=False))
        state, random = fresh, np.random.default_rng(0)
        for _ in range(30):
            state, _ = learn(state, one_step_attempts(random, lambda choice: choice), STATISTICS, CONTINUOUS)
        model = unravel(state.weights, CONFIG)
        codes = model.codes(LAYOUT)
        frame = next(f for f in one_step_attempts(random, lambda choice: choice).frames[0, 0] if first_of(f))
        percept = LAYOUT.percept(jnp.asarray(frame), None)
        x = model.encode(percept, percept.vector, percept.reward, codes)
        _, x = model.step(jnp.zeros(CONFIG.memory_size), x, jnp.array(False))
        logits = model.policy_logits(model.features(x), jnp.zeros((1, CONFIG.rank)), codes)
        log_policy = masked_log_softmax(logits, jnp.arange(codes.shape[1])[None] < 2)[0]
        return float(log_policy[1] - log_policy[0])

    free, loyal = odds(0.0), odds(1e9)
    assert free > 3.0  # improvement upon improvement
    assert 0.5 < loyal < 2.1  # e^1 for the better and e^-1 for the other, once, upon a parent who is of two minds


def test_a_schooled_learner_is_steady_loyal_and_acts_as_in_school():
    known = WorkConfig().schooled()
    assert known.steady and known.loyalty > 0 and known.inherited == 0.0 and known.noise_memory == (0.0,)
