"""One instance at work: running statistics, the unit of rewards, and choices that are always valid."""

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
from fifteen.config import SIZES, WorkConfig
from fifteen.frames import Layout
from fifteen.model import Model, ravel, unravel
from fifteen.spaces import Hands

CONFIG, WORK = SIZES["debug"], WorkConfig()
SLOTS = CONFIG.slots

observe_percepts = jax.jit(instances.observe_percepts, static_argnums=4)
observe_return = jax.jit(instances.observe_return)
return_scale = jax.jit(instances.return_scale)
standardise = jax.jit(instances.standardise)


# Statistics of the sensors ------------------------------------------------------------------------


def watched(vectors, active, statistics=None, work=WORK):
    """Statistics after ticks float32[T, E, slots] of which active bool[T, E] count; rewards are the first sensor."""
    statistics = statistics or instances.new_statistics(SLOTS)
    for row, on in zip(vectors, active, strict=True):
        statistics = observe_percepts(statistics, row, row[:, 0], on, work)
    return statistics


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 3.0, -1000.0]))
@settings(max_examples=25)
def test_statistics_are_those_of_numpy(seed, share, offset):
    random = np.random.default_rng(seed)
    vectors = (offset + random.standard_normal((60, 2, SLOTS)) * random.exponential(2.0, SLOTS)).astype(np.float32)
    active = random.random((60, 2)) < share
    active[0] = [True, False]
    statistics = watched(vectors, active)
    seen = vectors[active].astype(np.float64)
    assert statistics.count == len(seen)
    np.testing.assert_allclose(statistics.reward_square, (seen[:, 0] ** 2).mean(), rtol=1e-3)
    np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-4, atol=1e-3)
    # The first observation varies by one unit, for want of anything better.
    expected = seen.var(0) + 1.0 / len(seen)
    np.testing.assert_allclose(statistics.variance, expected, rtol=2e-3, atol=1e-3 * max(1.0, abs(offset) / 10))


def test_a_moment_without_active_streams_changes_nothing():
    random = np.random.default_rng(0)
    before = watched(random.standard_normal((5, 2, SLOTS)).astype(np.float32), np.ones((5, 2), np.bool_))
    vectors = np.full((2, SLOTS), 7.0, np.float32)
    after = observe_percepts(before, vectors, vectors[:, 0], np.zeros(2, np.bool_), WORK)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_watchful_instance_notices_at_once_that_a_sensor_was_moved():
    random = np.random.default_rng(0)
    before, after = (0.1 * random.standard_normal((ticks, 1, SLOTS)).astype(np.float32) for ticks in (2_000, 60))
    after[:, :, 0] += 2.0
    on = np.ones((2_000, 1), np.bool_)
    for watchful in (False, True):
        work = dataclasses.replace(WORK, statistics_span=1_000.0, watchful=watchful)
        statistics = watched(after, on[:60], watched(before, on, work=work), work)
        assert (abs(statistics.mean[0] - 2.0) < 0.1) == watchful
        assert (statistics.age[0] < 60) == watchful
        # The others are as they were.
        np.testing.assert_allclose(np.sqrt(statistics.variance[1:]), 0.1, rtol=0.1)
        assert (statistics.age[1:] > 1_000).all()


def test_a_watchful_instance_is_not_alarmed_by_what_it_knows():
    random = np.random.default_rng(1)
    ticks = np.arange(3_000)[:, None, None]
    swinging = (np.sin(ticks / 50.0) + 0.1 * random.standard_normal((3_000, 1, SLOTS))).astype(np.float32)
    work = dataclasses.replace(WORK, statistics_span=1_000.0, watchful=True)
    statistics = watched(swinging, np.ones((3_000, 1), np.bool_), work=work)
    assert (statistics.age > 1_000).all()


def test_statistics_of_before_sensors_had_an_age_are_read():
    new = watched(np.random.default_rng(2).standard_normal((5, 1, SLOTS)).astype(np.float32), np.ones((5, 1), np.bool_))
    saved = {name: np.asarray(value) for name, value in new._asdict().items() if name not in ("age", "recent")}
    read = instances.read_statistics(saved)
    np.testing.assert_array_equal(read.age, 5.0)
    np.testing.assert_array_equal(read.recent, read.mean)
    with pytest.raises(KeyError, match="variance"):
        instances.read_statistics({name: value for name, value in saved.items() if name != "variance"})


def test_statistics_follow_a_change_however_long_ago_they_began():
    old = instances.new_statistics(SLOTS)._replace(count=jnp.float32(1e9), age=jnp.full(SLOTS, 1e9, jnp.float32))
    random = np.random.default_rng(0)
    vectors = 5.0 + 2.0 * random.standard_normal((400, 1000, SLOTS)).astype(np.float32)
    moved = watched(vectors, np.ones((400, 1000), np.bool_), old)
    np.testing.assert_allclose(moved.mean, 5.0, atol=0.2)
    np.testing.assert_allclose(moved.variance, 4.0, atol=0.8)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_continuous_sensors_are_standardised_and_clipped_and_the_others_are_not(seed):
    random = np.random.default_rng(seed)
    statistics = instances.new_statistics(SLOTS)._replace(
        mean=random.standard_normal(SLOTS).astype(np.float32),
        variance=random.exponential(1.0, SLOTS).astype(np.float32),
    )
    vector = (random.standard_normal(SLOTS) * random.choice([1.0, 1e6], SLOTS)).astype(np.float32)
    continuous = random.random(SLOTS) < 0.5
    sensors = np.asarray(standardise(statistics, vector, continuous))
    np.testing.assert_array_equal(sensors[~continuous], vector[~continuous])
    expected = (vector - statistics.mean) / np.sqrt(statistics.variance)
    limit = np.abs(sensors[continuous]).max(initial=1.0)
    np.testing.assert_allclose(sensors[continuous], np.clip(expected, -limit, limit)[continuous], rtol=1e-3, atol=1e-3)
    assert limit < 100.0


def test_a_sensor_that_never_moves_stays_finite():
    statistics = watched(np.full((50, 1, SLOTS), 1e6, np.float32), np.ones((50, 1), np.bool_))
    sensors = standardise(statistics, np.full(SLOTS, 1e6, np.float32), np.ones(SLOTS, np.bool_))
    np.testing.assert_allclose(sensors, 0.0, atol=1.0)


# The unit of rewards ------------------------------------------------------------------------------


def unit_of(sizes, quantile=0.95, decay=1e-4):
    histogram = instances.new_statistics(SLOTS).histogram
    for size in sizes:
        histogram = observe_return(histogram, np.array([size], np.float32), np.array([True]), decay)
    return float(return_scale(histogram, quantile))


def test_the_unit_of_rewards_is_a_high_quantile_of_returns():
    sizes = 10.0 ** np.random.default_rng(0).uniform(-2, 2, 500)
    for quantile in (0.5, 0.95):
        assert unit_of(sizes, quantile, 0.0) == pytest.approx(np.quantile(sizes, quantile), rel=0.3)


def test_no_returns_and_returns_of_zero_leave_the_unit_at_one():
    assert unit_of([]) == 1.0
    assert unit_of([0.0, 0.0]) == 1.0
    assert unit_of([0.0, 0.0, 20.0]) == pytest.approx(20.0, rel=0.3)


def test_an_outlier_is_not_the_unit_and_an_old_unit_is_forgotten():
    assert unit_of([1.0] * 50 + [1e6] + [1.0] * 50) == pytest.approx(1.0, rel=0.3)
    assert unit_of([1000.0] * 100 + [1.0] * 100, decay=0.05) == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize("size", [1e-30, 1e30, 3e38])
def test_the_unit_stays_finite_and_positive(size):
    assert 0.0 < unit_of([size] * 3) < np.inf


# Acting -------------------------------------------------------------------------------------------


def layout_of(space):
    return Layout(SLOTS, **dataclasses.asdict(Hands(space).shape))


@pytest.fixture(scope="module")
def mind():
    """A model with opinions."""
    weights = ravel(Model(CONFIG, np.random.default_rng(0)))
    weights += 0.1 * np.random.default_rng(1).standard_normal(len(weights)).astype(np.float32)
    return unravel(jnp.asarray(weights), CONFIG)


PAIR = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(40)])


@pytest.fixture(scope="module")
def acting(mind):
    """(layout, function of (instance, frames, valid)) of two streams with two numbers, one of two digits."""
    layout = layout_of(PAIR)
    act = jax.jit(partial(instances.act, config=CONFIG, work=WORK, layout=layout, wipe=False))
    continuous = jnp.ones(SLOTS, bool)

    def one(instance, frames, valid, model=mind):
        instance, packed = act(model, instance, frames, None, valid[0], valid[1], continuous)
        return instance, jax.vmap(layout.decision)(packed)

    return layout, one


def born(layout, seed=0):
    return instances.new_instance(CONFIG, WORK, layout, instances.new_statistics(SLOTS), 2, jax.random.key(seed))


def frames_of(layout, random, rewards, active=(True, True), first=False):
    frames = np.zeros((2, layout.percept_size), np.float32)
    for frame, reward, on in zip(frames, rewards, active, strict=True):
        vector, previous = random.standard_normal(SLOTS), np.zeros(layout.factors)
        layout.write_percept(frame, vector, reward, first, False, False, (False, False), 1, on, previous)
    return frames


def both(masks=(None, None)):
    valid = [Hands(PAIR).valid(mask) for mask in masks]
    return np.stack([v.single for v in valid]), np.stack([v.table for v in valid])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_rewards_makes_no_difference(acting, factor):
    """Rewards of a millionth or a million times the size: the same scaled rewards, choices and scaled values."""
    layout, act = acting

    def run(factor):
        random, instance = np.random.default_rng(7), born(layout)
        scaled, choices, values = [], [], []
        for moment in range(40):
            rewards = random.uniform(-0.5, 1.0, 2) * factor
            instance, decision = act(instance, frames_of(layout, random, rewards, first=moment % 15 == 0), both())
            scaled.append(rewards / np.asarray(decision.scale))
            choices.append(np.asarray(decision.choice))
            values.append(np.asarray(decision.value))
        return np.stack(scaled), np.stack(choices), np.stack(values)

    plain, other = run(1.0), run(factor)
    np.testing.assert_allclose(other[0], plain[0], rtol=1e-3)
    np.testing.assert_array_equal(other[1], plain[1])
    np.testing.assert_allclose(other[2], plain[2], rtol=1e-3, atol=1e-3)
    assert 0.1 < np.abs(plain[0]).max() < 10.0


def test_a_stream_that_delivers_nothing_is_left_as_it_was(acting):
    layout, act = acting
    random, instance = np.random.default_rng(3), born(layout)
    for _ in range(3):
        instance, _ = act(instance, frames_of(layout, random, (1.0, 2.0)), both())
    before = jax.tree.map(np.array, instance)
    frames = frames_of(layout, random, (1.0, np.nan), active=(True, False))
    after, decision = act(instance, frames, both())
    for name in set(instances.Instance._fields) - {"statistics", "key", "doubt"}:
        a, b = getattr(before, name), np.asarray(getattr(after, name))
        np.testing.assert_array_equal(a[1], b[1], err_msg=name)
        assert (a[0] != b[0]).any(), name
    on = np.array([True, False])
    alone = observe_percepts(before.statistics, frames[:, :SLOTS], np.zeros(2, np.float32), on, WORK)
    np.testing.assert_allclose(after.statistics.mean, alone.mean, rtol=1e-5)
    assert np.isfinite(jax.tree.leaves(after.statistics)[0])
    assert np.isfinite(np.asarray(after.statistics.histogram)).all()
    assert np.isfinite(np.asarray(decision.value[0]))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_only_valid_numbers_are_ever_drawn(acting, seed):
    layout, act = acting
    random, instance = np.random.default_rng(seed), born(layout, seed)
    hands = Hands(PAIR)
    masks = []
    for _ in range(2):
        small, large = random.random(3) < 0.4, random.random(40) < random.choice([0.02, 0.2, 0.9])
        small[random.integers(3)] = large[random.integers(40)] = True
        masks.append((small, large))
    for _ in range(3):
        instance, decision = act(instance, frames_of(layout, random, (0.0, 0.0)), both(masks))
        for stream, (small, large) in enumerate(masks):
            choice = np.asarray(decision.choice[stream])
            one, other = hands.decode(choice)
            assert small[one]
            assert large[other]
            assert np.take_along_axis(np.asarray(decision.mask[stream]), choice[:, None], 1).all()
            # The first digits that are open, and the last ones behind the first that was drawn.
            numbers = np.flatnonzero(large)
            np.testing.assert_array_equal(np.flatnonzero(decision.mask[stream][1]), np.unique(numbers // 16))
            behind = numbers[numbers // 16 == choice[1]] % 16
            np.testing.assert_array_equal(np.flatnonzero(decision.mask[stream][2]), behind)
        assert (np.asarray(decision.log_prob) <= 0).all()
        assert np.isfinite(np.asarray(decision.log_prob)).all()


def test_digit_masks_of_several_numbers_are_independent():
    space = spaces.Tuple([spaces.Discrete(300), spaces.Discrete(5), spaces.Discrete(4000)])
    layout, valid = layout_of(space), Hands(space).valid()
    choice = np.array([1, 2, 0, 4, 15, 9, 0], np.int32)  # 288 to 303 of 300; 3984 to 3999 of 4000
    masks = np.asarray(instances.digit_masks(*valid, choice, layout))
    open_bins = [np.flatnonzero(row).tolist() for row in masks]
    sixteen = list(range(16))
    assert open_bins == [[0, 1], sixteen[:3], sixteen[:12], [0, 1, 2, 3, 4], sixteen, sixteen[:10], sixteen]


def test_a_mind_without_an_opinion_draws_every_action_equally_often(acting):
    """At every single moment noise that is correlated in time has exactly the policy's distribution."""
    layout, act = acting
    fresh = Model(CONFIG, np.random.default_rng(0))
    random = np.random.default_rng(0)
    instance, frames, valid = born(layout), frames_of(layout, random, (0.0, 0.0)), both()
    drawn = []
    for _ in range(1500):
        # Another instance every time, without drawing it on the device.
        noise = random.standard_normal(instance.noise.shape).astype(np.float32)
        other = instance._replace(noise=noise, key=random.integers(2**32, size=2, dtype=np.uint32))
        drawn.append(np.asarray(act(other, frames, valid, fresh)[1].choice))
    numbers = np.concatenate(drawn)
    for factor in (0, 1):  # the first digit of 40 in base 16 is 0, 1 or 2
        shares = np.bincount(numbers[:, factor], minlength=3) / len(numbers)
        np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_a_new_lifetime_keeps_what_it_knows_but_gives_way():
    layout = layout_of(PAIR)
    old = instances.new_statistics(SLOTS)._replace(
        count=jnp.float32(50_000.0), mean=jnp.full(SLOTS, 3.0), histogram=jnp.full(256, 100.0)
    )
    instance = instances.new_instance(CONFIG, WORK, layout, old, 3, jax.random.key(0))
    np.testing.assert_array_equal(instance.statistics.mean, 3.0)
    assert 0 < instance.statistics.count < old.count
    np.testing.assert_allclose(
        instance.statistics.histogram / old.histogram, instance.statistics.count / old.count, rtol=1e-5
    )
    assert instance.memory.shape == (3, CONFIG.memory_size)
    assert not np.asarray(instance.memory).any()
    young = old._replace(count=jnp.float32(10.0))
    assert instances.new_instance(CONFIG, WORK, layout, young, 1, jax.random.key(0)).statistics.count == 10.0
