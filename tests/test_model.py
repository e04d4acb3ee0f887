"""The network: what it is step by step it is unrolled, and what a decision was made from is what is replayed."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen import instance as instances
from fifteen import updating
from fifteen.config import SIZES, WorkConfig
from fifteen.cores import DeltaCore
from fifteen.frames import Layout
from fifteen.losses import choose, factored_advantage, masked_log_softmax
from fifteen.model import Model, adapted, expected_value, ravel, structure, unravel
from fifteen.spaces import Hands

DEBUG = SIZES["debug"]
TWO_LAYERS = dataclasses.replace(DEBUG, layers=2, taps=3, adapter=16)
CONFIGS = {"debug": DEBUG, "small": SIZES["small"], "two layers": TWO_LAYERS}
LENGTH = 12


def layout_of(space, config=DEBUG):
    return Layout(config.slots, **dataclasses.asdict(Hands(space).shape))


def perturbed(config, seed=0, noise=0.1):
    """A model whose read-outs are not zero, so that every part matters."""
    weights = ravel(Model(config, np.random.default_rng(seed)))
    weights += noise * np.random.default_rng(seed + 1).standard_normal(len(weights)).astype(np.float32)
    return unravel(jnp.asarray(weights), config)


# Memory layers ------------------------------------------------------------------------------------


def inputs(config, seed, resets):
    random = np.random.default_rng(seed)
    reset = np.zeros(LENGTH, np.bool_)
    reset[resets] = True
    x = random.standard_normal((LENGTH, config.width)).astype(np.float32)
    return random.standard_normal(config.memory_size).astype(np.float32), x, reset


@pytest.fixture(scope="module", params=CONFIGS)
def stepped_and_unrolled(request):
    """(config, T steps one by one, T steps at once) of the same weights."""
    config = CONFIGS[request.param]
    model = perturbed(config)

    @jax.jit
    def stepped(model, state, x, reset):
        return jax.lax.scan(lambda carry, row: model.step(carry, *row), state, (x, reset))

    unrolled = jax.jit(lambda model, *sequence: model.unroll(*sequence))
    return config, partial(stepped, model), partial(unrolled, model)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, LENGTH - 1), max_size=4))
@settings(max_examples=25)
def test_steps_are_the_unrolled_network(stepped_and_unrolled, seed, resets):
    config, stepped, unrolled = stepped_and_unrolled
    sequence = inputs(config, seed, resets)
    for one_by_one, at_once in zip(stepped(*sequence), unrolled(*sequence), strict=True):
        np.testing.assert_allclose(one_by_one, at_once, rtol=1e-3, atol=5e-4)


@given(st.integers(0, 2**32 - 1), st.integers(1, LENGTH - 1))
@settings(max_examples=10)
def test_nothing_of_the_memory_outlives_a_reset(stepped_and_unrolled, seed, at):
    """Neither the fast weights nor the short convolution."""
    config, _, unrolled = stepped_and_unrolled
    state, x, reset = inputs(config, seed, [at])
    other = x.copy()
    other[:at] += 1.0
    here, there = unrolled(state, x, reset), unrolled(-state, other, reset)
    # Decays are summed over a chunk, also over what was before the reset: that rounds otherwise.
    np.testing.assert_allclose(here[0], there[0], atol=1e-5)
    np.testing.assert_allclose(here[1][at:], there[1][at:], atol=1e-5)
    assert np.abs(np.asarray(here[1][:at]) - there[1][:at]).max() > 1e-3


# Acting and replaying -----------------------------------------------------------------------------

ACTIONS = spaces.Tuple([spaces.Discrete(40), spaces.Box(-1.0, 1.0, (1,))])
WORK = WorkConfig()


def lived(config, layout, wipe):
    """A lifetime of LENGTH rows over three attempts: frames, images, decisions, memories, predictions."""
    model, random = perturbed(config), np.random.default_rng(5)
    valid = Hands(ACTIONS).valid((np.arange(40) % 7 == 3, None))
    statistics = instances.new_statistics(config.slots)
    # So much was counted already that the unit of rewards stays where it is.
    statistics = statistics._replace(
        count=jnp.float32(1e9), reward_square=jnp.float32(2.0), histogram=statistics.histogram.at[130].set(1e9)
    )
    instance = instances.new_instance(config, WORK, layout, statistics, 1, jax.random.key(1))
    instance = instance._replace(statistics=statistics)
    act = jax.jit(partial(instances.act, config=config, work=WORK, layout=layout, wipe=wipe))
    frames = np.zeros((LENGTH, layout.percept_size), np.float32)
    images = random.integers(0, 256, (LENGTH, 32, 32, 3), np.uint8)
    none = jnp.zeros(config.slots, bool)  # no sensor is standardised: their statistics move with every row
    decisions, memories, predictions = [], [np.asarray(instance.memory[0])], []
    previous, step, after = np.full(layout.factors, -1.0), 0, (False, False)
    for row in range(LENGTH):
        first = row in (0, 4, 8)
        terminated, truncated = row == 3, row == 7
        if first:
            previous, step = np.full(layout.factors, -1.0), 0
        vector = random.standard_normal(config.slots)
        flags = (first, terminated, truncated, after if first else (False, False))
        reward = 0.0 if first else random.standard_normal()
        layout.write_percept(frames[row], vector, reward, *flags, step, True, previous)
        instance, packed = act(
            model, instance, frames[row : row + 1], images[row : row + 1], valid.single[None], valid.table[None], none
        )
        decisions.append(np.asarray(packed[0]))
        memories.append(np.asarray(instance.memory[0]))
        predictions.append(np.asarray(instance.predicted[0]))
        previous, step, after = decisions[-1][: layout.factors], step + 1, (terminated, truncated)
    return model, statistics, frames, images, np.stack(decisions), memories, predictions


@pytest.mark.parametrize("wipe", [False, True])
def test_what_is_replayed_is_what_was_lived(wipe):
    """Values, probabilities and masks of a decision come out again when its row is read from the replay, with images,
    numbers of several digits and Box dimensions, wherever in the lifetime the sequence begins."""
    layout = layout_of(ACTIONS)
    model, statistics, frames, images, packed, memories, predictions = lived(DEBUG, layout, wipe)
    scale = instances.return_scale(statistics.histogram, WORK.reward_quantile)
    none = jnp.zeros(DEBUG.slots, bool)

    @jax.jit
    def replayed(model, batch):
        told = dict(statistics=statistics, continuous=none, layout=layout, wipe=wipe, codes=None)
        seen = updating._see(model, updating._perceive(model, batch, **told), batch, layout=layout)
        decisions = jax.vmap(layout.decision)(batch.decisions)

        def read(features, prefix, decision):
            logits = model.policy_logits(features, prefix, seen.codes)
            log_policy = masked_log_softmax(WORK.sharpness * logits, decision.mask)
            action_value = expected_value(model.value_logits(features, prefix, seen.codes), DEBUG)
            _, value = factored_advantage(action_value, log_policy)
            prediction = model.predict(features, model.code(decision.choice, seen.codes))
            return choose(log_policy, decision.choice), value, prediction

        return decisions, jax.vmap(read)(seen.features, seen.prefix, decisions)

    rows = LENGTH - 3
    for start in (0, 2, 3):  # in the middle of an attempt, and at its last row
        part = slice(start, start + rows)
        batch = updating.Batch(frames[part], images[part], packed[part], memories[start])
        decisions, (log_prob, value, prediction) = replayed(model, batch)
        np.testing.assert_allclose(log_prob, decisions.log_prob, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(value, decisions.value, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(prediction, predictions[part], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(decisions.scale, scale, rtol=1e-5)
        chosen = np.take_along_axis(np.asarray(decisions.mask), np.asarray(decisions.choice)[:, :, None], 2)
        assert chosen.all()
        sensors = frames[start + 1 : start + rows, : DEBUG.slots]
        missed = np.linalg.norm(np.stack(predictions[start : start + rows - 1])[:, :-1] - sensors, axis=1)
        missed[frames[start + 1 : start + rows, DEBUG.slots + 1] > 0.5] = 0.0
        np.testing.assert_allclose(decisions.surprise[1:], missed, rtol=1e-3, atol=1e-3)
    digits = packed[:, :2].astype(int)  # 40 values are two digits of base 16
    number = (digits * [16, 1]).sum(1)
    assert (number % 7 == 3).all()
    assert (number < 40).all()
    assert len(set(number)) > 1


# Parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_unravel_undoes_ravel(config):
    model = Model(config, np.random.default_rng(3))
    weights = ravel(model)
    assert weights.dtype == np.float32
    assert weights.shape == (sum(int(np.prod(shape)) for shape in structure(config)[0]),)
    again = unravel(jnp.asarray(weights), config)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_gradient_reaches_its_place_in_the_vector():
    weights = jnp.asarray(ravel(Model(DEBUG, np.random.default_rng(0))))
    gradient = jax.grad(lambda w: jnp.sum(unravel(w, DEBUG).value.bias * 3.0))(weights)
    at = np.flatnonzero(unravel(gradient, DEBUG).value.bias)
    np.testing.assert_array_equal(at, np.arange(DEBUG.value_bins))
    np.testing.assert_allclose(jnp.sum(gradient), 3.0 * DEBUG.value_bins)


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_the_memory_has_the_size_that_the_configuration_says(config):
    model = jax.eval_shape(lambda: unravel(jnp.zeros(sum(map(np.prod, structure(config)[0]))), config))
    state = jax.ShapeDtypeStruct((config.memory_size,), jnp.float32)
    x = jax.ShapeDtypeStruct((config.width,), jnp.float32)
    reset = jax.ShapeDtypeStruct((), jnp.bool_)
    after, out = jax.eval_shape(lambda m, *rest: m.step(*rest), model, state, x, reset)
    assert (after.shape, out.shape) == (state.shape, x.shape)


@pytest.fixture(scope="module")
def encode():
    """float32[W] of a percept of which only some fields are said."""
    layout, model = layout_of(spaces.Discrete(3)), perturbed(DEBUG)

    @jax.jit
    def encoded(frame, image):
        percept = layout.percept(frame, image)
        return model.encode(percept, percept.vector, percept.reward, model.codes(layout))

    def one(image=None, **told):
        frame = np.zeros(layout.percept_size, np.float32)
        plain = dict(reward=0.0, first=False, terminated=False, truncated=False, after=(False, False), step=3)
        plain |= dict(active=True, vector=np.zeros(layout.slots), previous=np.full(layout.factors, -1.0))
        layout.write_percept(frame, **(plain | told))
        return np.asarray(encoded(frame, np.zeros((32, 32, 3), np.uint8) if image is None else image))

    return one


def test_everything_that_is_perceived_but_the_endings_reaches_the_network(encode):
    plain, bright = encode(), np.zeros((32, 32, 3), np.uint8)
    bright[4:20, 4:20] = 255
    changes = [dict(vector=np.eye(DEBUG.slots)[5]), dict(reward=1.0), dict(first=True), dict(step=4)]
    changes += [dict(after=(True, False)), dict(after=(False, True)), dict(previous=np.array([2.0]))]
    seen = [encode(**change) for change in [*changes, dict(image=bright)]]
    for here in range(len(seen)):
        for other in [plain, *seen[:here]]:
            assert np.abs(seen[here] - other).max() > 1e-3
    np.testing.assert_array_equal(encode(terminated=True), plain)
    np.testing.assert_array_equal(encode(truncated=True), plain)


def test_extreme_percepts_are_encoded_finitely(encode):
    image = np.full((32, 32, 3), 255, np.uint8)
    worst = dict(vector=np.full(DEBUG.slots, 8.0), reward=3e38, step=10**6, previous=np.array([2.0]))
    assert np.isfinite(encode(image, **worst)).all()


def test_a_fresh_mind_has_no_opinion():
    """A uniform policy and values of zero, whatever it perceives."""
    layout, model = layout_of(ACTIONS), Model(DEBUG, np.random.default_rng(0))

    @jax.jit
    def opinions(features, choice):
        codes = model.codes(layout)
        prefix = model.digit_prefix(choice, codes, layout.digits)
        values = expected_value(model.value_logits(features, prefix, codes), DEBUG)
        return model.policy_logits(features, prefix, codes), values, model.predict(features, model.code(choice, codes))

    features = np.random.default_rng(1).standard_normal(DEBUG.width).astype(np.float32)
    logits, values, prediction = opinions(features, np.zeros(layout.factors, np.int32))
    assert logits.shape == values.shape == (layout.factors, layout.bins)
    np.testing.assert_array_equal(logits, 0.0)
    np.testing.assert_allclose(values, 0.0, atol=1e-6)
    np.testing.assert_array_equal(prediction, 0.0)


def test_a_digit_knows_the_more_significant_digits_of_its_own_number_only():
    layout = layout_of(spaces.Tuple([spaces.Discrete(300), spaces.Discrete(4), spaces.Discrete(4000)]))
    assert layout.digits == (0, 1, 2, 0, 0, 1, 2)
    model = perturbed(DEBUG)
    prefix = jax.jit(lambda choice: model.digit_prefix(choice, model.codes(layout), layout.digits))

    def prefixes(choice):
        return np.asarray(prefix(np.array(choice, np.int32)))

    plain = prefixes([1, 1, 1, 1, 1, 1, 1])
    reached = {0: [1, 2], 1: [2], 2: [], 3: [], 4: [5, 6], 5: [6], 6: []}
    for factor, others in reached.items():
        choice = [1] * 7
        choice[factor] = 2
        changed = np.abs(prefixes(choice) - plain).max(axis=1) > 1e-3
        assert np.flatnonzero(changed).tolist() == others


def test_a_fresh_memory_finds_what_came_of_it_when_it_looked_alike():
    layer = DeltaCore(np.random.default_rng(0), SIZES["small"])
    seen = np.random.default_rng(1).standard_normal((40, SIZES["small"].width)).astype(np.float32)
    seen[30] = seen[10]
    taps, heads = layer.convolution.shape[0], layer.heads
    mixed = jax.vmap(lambda x: layer.project(layer.norm(x)))(seen)
    window = jnp.stack([mixed[n : n + len(seen) - taps + 1] for n in range(taps)], axis=1)  # [N, taps, 3 inner]
    query, key, _ = jax.vmap(lambda row: layer._qkv(jnp.sum(row * layer.convolution, axis=0)))(window)
    likeness = jnp.einsum("hd,nhd->nh", query[30 - taps + 1], key)  # of what is seen at 30 to the keys so far
    best = jnp.argmax(likeness[: 30 - taps + 1], axis=0) + taps - 1
    # Heads in turn: the same percept itself, and the step after it, whose percept tells what came of it.
    assert list(best) == [10, 11] * (heads // 2)


def test_a_mind_that_is_given_an_adapter_says_the_same_and_can_be_without_again():
    weights = jnp.asarray(ravel(perturbed(DEBUG)))
    config = dataclasses.replace(DEBUG, adapter=24)
    wider = adapted(weights, DEBUG, 24)
    x = np.random.default_rng(2).standard_normal(DEBUG.width).astype(np.float32)
    before, after = unravel(weights, DEBUG).features(x), unravel(wider, config).features(x)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(adapted(wider, config, 0), weights)
    assert adapted(wider, config, 24) is wider

    def read(weights):
        return jnp.sum(unravel(weights, config).features(x) ** 2)

    moved = wider - 0.1 * jax.grad(read)(wider)  # silent, but it learns
    learned = unravel(moved, config).adapter
    assert learned is not None and jnp.any(learned.narrow.weight != 0)
