"""Targets: against plain loops written from the papers' definitions, and against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.returns import later_returns, retrace, support, symexp, symlog, two_hot

LENGTH = 7  # rows of the random sequences; one length, compiled once

retrace_jit = jax.jit(retrace)
later_jit = jax.jit(later_returns)
two_hot_jit = jax.jit(two_hot)


# Categorical values -------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5))
def test_symexp_undoes_symlog(numbers):
    x = np.array(numbers, np.float32)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(symlog(-x), -symlog(x))


def test_symlog_by_hand():
    x = np.array([-1.0, 0.0, 1.0, np.e - 1.0, 1e6], np.float32)
    np.testing.assert_allclose(symlog(x), [-0.6931472, 0.0, 0.6931472, 1.0, 13.815512], rtol=1e-6)


@pytest.mark.parametrize(("bins", "limit"), [(21, 1.2), (51, 1.2), (7, 4.0)])
def test_the_support_is_ascending_and_symmetric(bins, limit):
    values = np.asarray(support(bins, limit))
    assert values.dtype == np.float32
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, -values[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values[-1], np.expm1(limit), rtol=1e-6)
    assert abs(values[bins // 2]) < 1e-6


@given(st.floats(-3.0, 3.0, width=32), st.integers(0, 20))
@settings(max_examples=200)
def test_two_hot_has_the_mean_that_was_asked_for(x, bin):
    values = np.asarray(support(21, 1.2))
    for wanted in (np.float32(x), values[bin]):
        weights = np.asarray(two_hot_jit(wanted, values))
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-5)
        np.testing.assert_allclose(weights @ values, np.clip(wanted, values[0], values[-1]), atol=1e-5)
        places = np.flatnonzero(weights)
        assert len(places) <= 2
        assert places[-1] - places[0] <= 1


def test_two_hot_by_hand():
    values = jnp.array([-2.0, 0.0, 1.0])
    for x, expected in ((-5.0, [1, 0, 0]), (-0.5, [0.25, 0.75, 0]), (0.0, [0, 1, 0]), (0.9, [0, 0.1, 0.9])):
        np.testing.assert_allclose(two_hot(jnp.float32(x), values), expected, atol=1e-6)


# Retrace ------------------------------------------------------------------------------------------


def retrace_by_definition(reward, terminated, ends, action_value, state_value, log_ratio, discount, trace):
    """Munos et al. 2016, eq. 3: Q(x_t, a_t) + sum_{s >= t} gamma^(s-t) (prod_{t < i <= s} c_i) delta_s.

    delta_s = r_s + gamma E_pi Q(x_{s+1}, .) - Q(x_s, a_s), and c_i = lambda min(1, pi / mu). Termination leaves no
    value behind; whatever ended the attempt, no delta of another attempt belongs to the sum.
    """
    length = len(reward)
    targets = np.full(length, np.nan)
    for t in range(length):
        if ends[t]:
            continue
        total, product = float(action_value[t]), 1.0
        for s in range(t, length):
            if s > t:
                if ends[s]:
                    break
                product *= trace * min(1.0, np.exp(float(log_ratio[s])))
            ahead = 0.0 if terminated[s + 1] else float(state_value[s + 1])
            delta = float(reward[s]) + discount * ahead - float(action_value[s])
            total += discount ** (s - t) * product * delta
        targets[t] = total
    return targets


@st.composite
def stretches(draw):
    """(reward, terminated, ends, action_value, state_value, log_ratio) with attempts that end anywhere."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = np.array(draw(st.lists(st.sampled_from("...TU"), min_size=LENGTH + 1, max_size=LENGTH + 1)))
    kinds[1:][np.isin(kinds[:-1], ["T", "U"])] = "."  # an attempt has a first row that does not end it
    terminated = kinds == "T"
    numbers = random.standard_normal((4, LENGTH + 1)).astype(np.float32)
    return numbers[0, 1:], terminated, terminated | (kinds == "U"), numbers[1], numbers[2], 2 * numbers[3]


@given(stretches(), st.sampled_from([0.0, 0.9, 0.99, 1.0]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=200)
def test_retrace_is_the_sum_of_its_definition(stretch, discount, trace):
    given = np.asarray(retrace_jit(*stretch, discount, trace))
    expected = retrace_by_definition(*stretch, discount, trace)
    acted = ~stretch[2][:-1]
    assert np.isfinite(given).all()
    np.testing.assert_allclose(given[acted], expected[acted], rtol=1e-4, atol=1e-4)


@given(stretches(), st.integers(0, 2**32 - 1))
def test_nothing_behind_an_ending_reaches_the_attempt_before_it(stretch, seed):
    reward, terminated, ends, action_value, state_value, log_ratio = stretch
    random = np.random.default_rng(seed)
    end = int(random.integers(1, LENGTH))
    ends[end], ends[end + 1] = True, False
    terminated &= ends
    before = np.asarray(retrace_jit(*stretch, 0.99, 0.9))
    others = [x.copy() for x in (reward, action_value, state_value, log_ratio)]
    others[0][end:] += 100.0  # reward[t] arrives with row t + 1
    others[1][end:] -= 100.0  # there is no action at the last row: nothing may ask for its value
    others[2][end + 1 :] += 100.0
    others[3][end:] -= 3.0
    if terminated[end]:
        others[2][end] += 100.0
    after = np.asarray(retrace_jit(others[0], terminated, ends, *others[1:], 0.99, 0.9))
    np.testing.assert_array_equal(before[:end], after[:end])


def test_retrace_by_hand():
    """gamma = lambda = 1/2. Three steps: the second is off-policy with pi/mu = 1/2, the last one terminates."""
    targets = retrace(
        reward=jnp.array([1.0, 2.0, 4.0]),
        terminated=jnp.array([False, False, False, True]),
        ends=jnp.array([False, False, False, True]),
        action_value=jnp.array([0.0, 1.0, 2.0, 50.0]),
        state_value=jnp.array([0.0, 3.0, 5.0, 70.0]),
        log_ratio=jnp.log(jnp.array([1.0, 0.5, 4.0, 1.0])),
        discount=0.5,
        trace=0.5,
    )
    # 4; then 2 + (5 + 1/2 (4 - 2)) / 2 = 5; then 1 + (3 + 1/4 (5 - 1)) / 2 = 3
    np.testing.assert_allclose(targets, [3.0, 5.0, 4.0], atol=1e-6)


def test_truncation_bootstraps_where_termination_does_not():
    def target(terminated):
        return retrace(
            reward=jnp.array([1.0]),
            terminated=jnp.array([False, terminated]),
            ends=jnp.array([False, True]),
            action_value=jnp.zeros(2),
            state_value=jnp.array([0.0, 10.0]),
            log_ratio=jnp.zeros(2),
            discount=0.9,
            trace=0.9,
        )

    np.testing.assert_allclose(target(True), [1.0])
    np.testing.assert_allclose(target(False), [10.0])


def test_the_full_trace_of_a_certain_policy_is_the_discounted_return():
    """With one action E_pi Q = Q(a), and every value cancels, however wrong it is."""
    reward = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
    ends = np.array([False] * 4 + [True])
    value = np.random.default_rng(0).standard_normal(5).astype(np.float32)
    targets = retrace(*map(jnp.asarray, (reward, ends, ends, value, value, np.zeros(5, np.float32))), 0.9, 1.0)
    expected = [sum(0.9 ** (s - t) * reward[s] for s in range(t, 4)) for t in range(4)]
    np.testing.assert_allclose(targets, expected, rtol=1e-5, atol=1e-5)


# Later attempts -----------------------------------------------------------------------------------


def later_by_definition(now, later, first, ends, attempt_discount, trace):
    """The same written forward: every row's bootstrap with the weight with which the trace reaches it."""
    last = len(now) - 1
    targets = []
    for t in range(last):
        total, weight = 0.0, 1.0
        for s in range(t + 1, last + 1):
            if ends[s - 1] and first[s]:
                weight *= attempt_discount
                total += weight * float(now[s])
            stops = 1.0 if s == last else 1.0 - trace
            total += weight * stops * float(later[s])
            weight *= trace
        targets.append(total)
    return np.array(targets)


@given(stretches(), st.sampled_from([0.0, 0.93, 1.0]), st.sampled_from([0.0, 0.9, 1.0]))
@settings(max_examples=100)
def test_later_returns_are_the_forward_sum(stretch, attempt_discount, trace):
    _, _, ends, now, later, _ = stretch
    first = np.concatenate([[True], ends[:-1]])
    given = later_jit(now, later, first, ends, attempt_discount, trace)
    expected = later_by_definition(now, later, first, ends, attempt_discount, trace)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


def test_later_returns_by_hand():
    """One boundary, between rows 1 and 2, at which v_now is 10: 1/2 (10 + 4) = 7 there, then (2 + 7) / 2."""
    targets = later_returns(
        now_value=jnp.array([9.0, 9.0, 10.0]),
        later_value=jnp.array([1.0, 2.0, 4.0]),
        first=jnp.array([True, False, True]),
        ends=jnp.array([False, True, False]),
        attempt_discount=0.5,
        trace=0.5,
    )
    np.testing.assert_allclose(targets, [4.5, 7.0], atol=1e-6)
