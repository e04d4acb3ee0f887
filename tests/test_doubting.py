"""Memories that are doubted: a stream that is caught gets out, and one that remembers well is left in peace."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.doubting import Doubt, doubted, no_doubt

_doubted = jax.jit(doubted)
_YES, _NO = jnp.array(True), jnp.array(False)


def _attempts(
    returns: Callable[[int, np.ndarray], float], number: int, lived: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[bool, np.ndarray]]:
    """Attempts of two ticks: whether each was a trial, and the memory after it was judged.

    returns(n, memory): of attempt n with the memory it began with. lived: what an attempt makes of the memory.
    """
    memory = jnp.zeros(3)
    doubt = no_doubt(memory)
    for n in range(number):
        trial, begun = bool(doubt.trial), np.asarray(memory)
        doubt, memory = _doubted(doubt, memory, jnp.zeros(()), _YES, _NO, _YES)
        np.testing.assert_array_equal(memory, begun)
        memory = jnp.asarray(lived(np.asarray(memory)))
        doubt, memory = _doubted(doubt, memory, jnp.float32(returns(n, begun)), _NO, _YES, _YES)
        yield trial, np.asarray(memory)


def _older(memory: np.ndarray) -> np.ndarray:
    return memory + np.float32(1.0)


def test_a_memory_that_helps_is_never_doubted():
    told = list(_attempts(lambda _, memory: min(memory[0], 5.0), 200, _older))
    assert [trial for trial, _ in told] == [True] + [False] * 199  # the first attempt begins with an empty one
    np.testing.assert_array_equal(told[-1][1], np.full(3, 200.0))


def test_who_was_caught_in_a_first_attempt_gets_out():
    def returns(n: int, memory: np.ndarray) -> float:
        return -500.0 if n == 0 or memory[0] >= n else -80.0  # fails with all that it remembers since the first

    told = list(_attempts(returns, 12, _older))
    trials = [n for n, (trial, _) in enumerate(told) if trial]
    assert trials == [0, 5]
    np.testing.assert_array_equal(told[-1][1], np.full(3, 12.0 - 5.0))


def test_who_is_caught_after_a_change_gets_out_soon():
    changed = 1_000

    def returns(n: int, memory: np.ndarray) -> float:
        return 10.0 if n >= changed and memory[0] > n - changed else 400.0

    told = list(_attempts(returns, changed + 20, _older))
    (out, *_) = [n for n, (_, memory) in enumerate(told) if n >= changed and memory[0] <= 20]
    assert out <= changed + 10


def test_a_trial_that_is_lost_gives_the_memory_back_and_makes_trials_rarer():
    told = list(_attempts(lambda _, memory: 0.0, 1_000, _older))
    trials = [n for n, (trial, _) in enumerate(told) if trial]
    np.testing.assert_array_equal(np.diff(trials)[:5], [5, 9, 17, 33, 33])
    # What the lost attempts would have added is not there.
    np.testing.assert_array_equal(told[-1][1], np.full(3, 1_000.0 - (len(trials) - 1)))


def test_what_does_not_count_changes_nothing():
    doubt = no_doubt(jnp.zeros(3))._replace(returned=jnp.float32(2.0))
    after, memory = _doubted(doubt, jnp.ones(3), jnp.float32(7.0), _YES, _YES, _NO)
    np.testing.assert_array_equal(memory, np.ones(3))
    for name, was, now in zip(Doubt._fields, doubt, after, strict=True):
        np.testing.assert_array_equal(was, now, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_whatever_the_returns_a_memory_is_the_one_lived_with_the_one_set_aside_or_empty(rewards: list[float]):
    memory, doubt = jnp.zeros(3), no_doubt(jnp.zeros(3))
    for reward in rewards:
        aside = np.asarray(doubt.aside)
        lived = memory + 1.0
        doubt, memory = _doubted(doubt, lived, jnp.float32(reward), _YES, _YES, _YES)
        known = [np.asarray(lived), aside, np.zeros(3, np.float32)]
        assert any(np.array_equal(memory, one) for one in known)
        assert bool(doubt.trial) == (not np.asarray(memory).any())
        assert np.isfinite([float(doubt.recent), float(doubt.empty)]).all()
