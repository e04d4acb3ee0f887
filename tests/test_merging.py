"""Merging by weights alone: what equal, crossing and contradicting drifts come to."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fifteen.merging import merge

NUMBERS = st.floats(-3, 3, width=32)


def drift(origin, *drifts):
    """What merging adds to the origin."""
    origin = np.array(origin, np.float32)
    drifted = origin + np.array(drifts, np.float32)
    return np.array(merge(jnp.asarray(origin), jnp.asarray(drifted))) - origin


def test_equal_drifts_stay_as_they_are():
    np.testing.assert_allclose(drift([1, 2], [3, -4], [3, -4], [3, -4]), [3, -4], rtol=1e-6)


def test_drifts_at_right_angles_share_the_length_of_one():
    np.testing.assert_allclose(drift([5, 0, 1, 0], *2 * np.eye(4)), 4 * [1.0], rtol=1e-5)


def test_drifts_that_contradict_one_another_are_not_blown_up():
    np.testing.assert_allclose(drift([0, 0], [1, 0.01], [-1, 0.01]), [0, 0.01 * 2**0.5], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(drift([0, 0], [1, 2], [-1, -2]), [0, 0])


@given(arrays(np.float32, (3, 5), elements=NUMBERS), st.permutations(range(3)))
def test_no_order_and_no_more_than_the_longest(drifts, order):
    merged = drift(np.zeros(5), *drifts)
    np.testing.assert_allclose(drift(np.zeros(5), *drifts[list(order)]), merged, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(merged) <= np.linalg.norm(drifts, axis=1).max() * 1.0001 + 1e-6
    np.testing.assert_allclose(drift(np.zeros(5), drifts[0]), drifts[0], rtol=1e-5, atol=1e-15)
