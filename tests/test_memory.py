"""Fast-weight memory: one step at a time and many at once are the same equation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen import memory

SIZE = 4
LENGTHS = (1, 9, 17, 40)  # few, because each is compiled anew
CHUNKS = (8, 16, 32)

step = jax.jit(memory.delta_step)
chunk = jax.jit(memory.delta_chunk)


@functools.cache
def unroll(size):
    return jax.jit(functools.partial(memory.unroll, chunk=size))


def by_the_equation(state, query, key, value, write, log_decay, reset):
    """S_t = a S + b (v - a S k) k^T, y = S q; in float64, from the page."""
    state, reads = np.array(state, np.float64), []
    for q, k, v, b, log_a, forget in zip(query, key, value, write, log_decay, reset, strict=True):
        faded = np.zeros_like(state) if forget else np.exp(np.float64(log_a)) * state
        state = faded + b * np.outer(v - faded @ k, k)
        reads.append(state @ q)
    return state, np.array(reads)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


@st.composite
def sequences(draw):
    """(state, query, key, value, write, log_decay, reset) of any length, with resets anywhere."""
    length = draw(st.sampled_from(LENGTHS))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Observations that stay the same give keys that stay the same: all correlations between 0 and 1.
    shared = draw(st.sampled_from([0.0, 1.0, 10.0, 1e6]))
    key = unit(random.standard_normal((length, SIZE)) + shared * random.standard_normal(SIZE))
    write = draw(st.sampled_from([None, 0.0, 0.5, 0.9, 1.0]))
    decay = draw(st.sampled_from([None, 0.0, -1e-3, -30.0]))
    reset = np.zeros(length, np.bool_)
    reset[draw(st.lists(st.integers(0, length - 1), max_size=5))] = True
    return (
        random.standard_normal((SIZE, SIZE)).astype(np.float32),
        unit(random.standard_normal((length, SIZE))).astype(np.float32),
        key.astype(np.float32),
        random.standard_normal((length, SIZE)).astype(np.float32),
        (random.random(length) if write is None else np.full(length, write)).astype(np.float32),
        (-random.exponential(1.0, length) if decay is None else np.full(length, decay)).astype(np.float32),
        reset,
    )


def one_by_one(state, *inputs):
    reads = []
    for row in zip(*inputs, strict=True):
        state, read = step(state, *row)
        reads.append(read)
    return np.asarray(state), np.stack(reads)


def assert_same(given, expected):
    for a, b in zip(given, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@given(sequences())
@settings(max_examples=60)
def test_all_forms_are_the_equation(sequence):
    expected = by_the_equation(*sequence)
    assert_same(one_by_one(*sequence), expected)
    for size in CHUNKS:
        assert_same(unroll(size)(*sequence), expected)
    if len(sequence[1]) <= max(CHUNKS):
        assert_same(chunk(*sequence), expected)


@given(sequences(), st.data())
@settings(max_examples=20)
def test_a_sequence_may_be_read_in_parts(sequence, data):
    state, *inputs = sequence
    cut = data.draw(st.integers(0, len(inputs[0])))
    middle, first = one_by_one(state, *(x[:cut] for x in inputs)) if cut else (state, inputs[2][:0])
    last, second = one_by_one(middle, *(x[cut:] for x in inputs)) if cut < len(inputs[0]) else (middle, first[:0])
    assert_same((last, np.concatenate([first, second])), by_the_equation(*sequence))


@given(sequences(), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_reset_forgets_everything_before(sequence, seed):
    state, *inputs, reset = sequence
    random = np.random.default_rng(seed)
    at = int(random.integers(len(reset)))
    reset[at:] = False
    reset[at] = True
    other = [x.copy() for x in inputs]
    for x, column in zip(other[:3], inputs[:3], strict=True):
        x[:at] = random.permutation(column[:at]) + 1.0
    here = unroll(8)(state, *inputs, reset)
    there = unroll(8)(state + np.float32(1.0), *other, reset)
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1][at:], there[1][at:])


@functools.cache
def gradients():
    def total(form, floats, reset):
        state, read = form(*floats, reset)
        return jnp.sum(state**2) + jnp.sum(jnp.cos(read))

    def scanned(state, *inputs):
        return jax.lax.scan(lambda carry, row: memory.delta_step(carry, *row), state, inputs)

    forms = (scanned, memory.delta_chunk, functools.partial(memory.unroll, chunk=8))
    return [jax.jit(jax.grad(functools.partial(total, form))) for form in forms]


@given(sequences().filter(lambda sequence: len(sequence[1]) == LENGTHS[2]))
@settings(max_examples=20)
def test_gradients_are_finite_and_equal(sequence):
    *floats, reset = sequence
    by_steps, *others = [gradient(tuple(floats), reset) for gradient in gradients()]
    for other in others:
        for a, b in zip(by_steps, other, strict=True):
            assert np.isfinite(b).all()
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-3 * max(1.0, np.abs(a).max()))


@pytest.mark.parametrize("length", [9, 17, 40])
@pytest.mark.parametrize("write", [0.5, 0.9, 1.0])
def test_keys_that_stay_the_same(length, write):
    """What an observation that never changes gives: the system within a chunk is then as ill-conditioned as it gets."""
    random = np.random.default_rng(0)
    key = np.broadcast_to(unit(np.ones(SIZE)), (length, SIZE)).astype(np.float32)
    sequence = (
        np.zeros((SIZE, SIZE), np.float32),
        key,
        key,
        random.standard_normal((length, SIZE)).astype(np.float32),
        np.full(length, write, np.float32),
        np.full(length, -1e-3, np.float32),
        np.zeros(length, np.bool_),
    )
    assert_same(unroll(32)(*sequence), by_the_equation(*sequence))


def test_golden_numbers():
    """Two steps by hand: k = e1 writes (2, 4) with strength 1/2; half is kept, then k = e1 again."""
    state = np.zeros((2, 2), np.float32)
    query = np.array([[1.0, 0.0], [1.0, 1.0]], np.float32)
    key = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    value = np.array([[2.0, 4.0], [3.5, 0.0]], np.float32)
    write = np.array([0.5, 1.0], np.float32)
    log_decay = np.log(np.array([1.0, 0.5], np.float32))
    reset = np.zeros(2, np.bool_)
    final, read = memory.delta_chunk(*map(jnp.asarray, (state, query, key, value, write, log_decay, reset)))
    np.testing.assert_allclose(read, [[1.0, 2.0], [3.5, 0.0]], atol=1e-6)
    np.testing.assert_allclose(final, [[3.5, 0.0], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("length", [5, 33, 64])
def test_the_default_chunk_over_any_length(length):
    random = np.random.default_rng(length)
    sequence = (
        random.standard_normal((SIZE, SIZE)).astype(np.float32),
        *(unit(random.standard_normal((2, length, SIZE))).astype(np.float32)),
        random.standard_normal((length, SIZE)).astype(np.float32),
        random.random(length).astype(np.float32),
        -random.exponential(0.1, length).astype(np.float32),
        random.random(length) < 0.1,
    )
    state, read = memory.unroll(*map(jnp.asarray, sequence))
    assert read.shape == (length, SIZE)
    assert_same((state, read), by_the_equation(*sequence))


def test_the_last_write_is_recalled_and_others_are_left_alone():
    """The delta rule: with strength 1 a key gives back exactly its last value, and orthogonal keys keep theirs."""
    keys = np.eye(SIZE, dtype=np.float32)[[0, 1, 2, 0]]
    values = np.random.default_rng(0).standard_normal((4, SIZE)).astype(np.float32)
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    state, _ = chunk(np.zeros((SIZE, SIZE), np.float32), keys, keys, values, ones, zeros, np.zeros(4, np.bool_))
    np.testing.assert_allclose(np.asarray(state) @ np.eye(SIZE)[:3].T, values[[3, 1, 2]].T, atol=1e-6)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_substitution_solves_the_system_and_its_gradient_is_lapacks(length, seed):
    random = np.random.default_rng(seed)
    lower = (random.uniform(-1.0, 1.0, (length, length)) / length**0.5).astype(np.float32)
    right, weight = random.standard_normal((2, length, 3)).astype(np.float32)

    def lapack(lower, right):
        return jax.lax.linalg.triangular_solve(lower, right, left_side=True, lower=True, unit_diagonal=True)

    def whole(solve):
        return jax.value_and_grad(lambda a, b: jnp.sum(weight * solve(a, b)), argnums=(0, 1))(
            jnp.asarray(lower), jnp.asarray(right)
        )

    exact = np.linalg.solve(np.tril(lower.astype(np.float64), -1) + np.eye(length), right)
    np.testing.assert_allclose(memory.substitute(jnp.asarray(lower), jnp.asarray(right)), exact, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(jax.tree.leaves(whole(memory.substitute)), jax.tree.leaves(whole(lapack)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_nothing_in_the_memory_waits_for_a_thread_of_the_pool_it_runs_in():
    """LAPACK's batched solver does, so that a school hung for ever on a machine of two cores."""
    batch = [jnp.zeros((64, 16, SIZE))] * 3 + [jnp.zeros((64, 16))] * 2 + [jnp.zeros((64, 16), bool)]

    def loss(state, query, key, value, write, log_decay, reset):
        return jnp.sum(jax.vmap(memory.unroll)(state, query, key, value, write, log_decay, reset)[1] ** 2)

    compiled = jax.jit(jax.grad(loss, argnums=(1, 2, 3, 4, 5))).lower(jnp.zeros((64, SIZE, SIZE)), *batch).compile()
    assert "custom-call" not in str(compiled.as_text())
