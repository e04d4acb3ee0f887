"""Jobs written in JAX as streams, and the five probes."""

from typing import Any, NamedTuple

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs import Job, NativeStream, open_job
from fifteen.jobs.probes import (
    ActionProbe,
    DiscountProbe,
    ObservationProbe,
    PolicyProbe,
    Probe,
    ValueProbe,
)

TRACES = []


class WalkState(NamedTuple):
    place: Array
    key: Array  # a typed key, as jobs may carry one
    count: Array


class Walk(Job):
    """A random walk with nested observations and actions; ends beyond `edge`; parameters are fields."""

    drift: Array
    edge: float = eqx.field(static=True, default=1e9)
    step_limit: int = eqx.field(static=True, default=7)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Dict({"place": spaces.Box(-9, 9, (2,)), "count": spaces.Discrete(100)})

    @property
    def action_space(self) -> gym.Space:
        return spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)])

    def observation(self, state: WalkState) -> dict:
        return {"place": state.place, "count": state.count}

    def reset(self, key: Array) -> tuple[Any, Any]:
        state = WalkState(jax.random.normal(key, (2,)), key, jnp.array(0))
        return state, self.observation(state)

    def step(self, state: WalkState, action: Any, key: Array) -> tuple[Any, Any, Array, Array]:
        TRACES.append(1)
        push, turn = action
        own, use = jax.random.split(state.key)
        noise = jax.random.normal(key, (2,)) + jax.random.normal(use, (2,))
        place = state.place + self.drift + push + noise
        state = WalkState(place, own, state.count + 1)
        reward = jnp.sum(place) + turn.astype(jnp.float32)
        return state, self.observation(state), reward, jnp.abs(place[0]) > self.edge


def walk_stream(num_envs=2, **options):
    job = Walk(drift=jnp.array([0.1, 0.2]), **options)
    return NativeStream(job, num_envs=num_envs, job_id="walk")


def act(stream, generator):
    push = generator.uniform(-1, 1, (stream.num_envs, 2)).astype(np.float32)
    return [(push[e], np.int64(generator.integers(3))) for e in range(stream.num_envs)]


def play(stream, tick, steps, seed):
    generator = np.random.default_rng(seed)
    return [tick] + [stream.step(act(stream, generator)) for _ in range(steps)]


def leaves(ticks):
    return [leaf for tick in ticks for leaf in jax.tree.leaves(tuple(tick))]


def assert_equal(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_ticks_of_a_native_job():
    stream = walk_stream(edge=4.0)
    ticks = play(stream, stream.reset(0), 100, 0)
    for before, after in zip(ticks, ticks[1:], strict=False):
        np.testing.assert_array_equal(after.first, before.terminated | before.truncated)
    for tick in ticks:
        for e in range(2):
            assert tick.observations[e]["place"].shape == (2,)
            assert tick.observations[e]["place"].dtype == np.float32
            assert isinstance(tick.observations[e]["count"], np.integer)
            if tick.first[e]:
                assert (tick.rewards[e], tick.observations[e]["count"]) == (0, 0)
            assert tick.truncated[e] <= (tick.observations[e]["count"] == 7)
            beyond = not tick.first[e] and abs(tick.observations[e]["place"][0]) > 4.0
            assert tick.terminated[e] == beyond
        assert tick.rewards.dtype == np.float64
        assert tick.active.all()
    assert any(tick.terminated.any() for tick in ticks)
    assert any(tick.truncated.any() for tick in ticks)
    firsts = np.sum([tick.first for tick in ticks], axis=0)
    np.testing.assert_array_equal(stream.attempts(), firsts - 1)


def test_streams_attempts_and_seeds_differ_and_repeat():
    ticks = play(stream := walk_stream(), stream.reset(0), 20, 0)
    begun = [tuple(t.observations[e]["place"]) for t in ticks for e in range(2) if t.first[e]]
    assert len(set(begun)) == len(begun) > 4
    assert_equal(leaves(ticks), leaves(play(stream, stream.reset(0), 20, 0)))
    other = play(stream, stream.reset(1), 20, 0)
    assert ticks[0].observations[0]["place"][0] != other[0].observations[0]["place"][0]


def test_a_stream_does_not_depend_on_how_many_others_there_are():
    one, two = walk_stream(1), walk_stream(2)
    a, b = one.reset(0), two.reset(0)
    action = (np.zeros(2, np.float32), 1)
    for _ in range(20):
        np.testing.assert_array_equal(a.observations[0]["place"], b.observations[0]["place"])
        a, b = one.step([action]), two.step([action, action])


def test_one_compilation_for_all_streams_of_a_kind():
    edge = 3.25  # a static field that no other test uses
    stream = walk_stream(edge=edge)
    tick = stream.reset(0)
    TRACES.clear()
    play(stream, tick, 30, 0)
    stream.step([(np.zeros(2), 1), (np.zeros(2, np.float16), np.int8(2))])
    stream.reset(1)
    assert not TRACES
    other = NativeStream(Walk(drift=jnp.array([3.0, 4.0]), edge=edge), num_envs=2, job_id="other")
    assert len(TRACES) == 1  # its shapes are checked, nothing is compiled
    play(other, other.restore(stream.state()), 30, 0)
    assert len(TRACES) == 1


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_resume_goes_on_bit_for_bit_at_any_step(num_envs):
    whole = walk_stream(num_envs, edge=2.0)
    ticks = play(whole, whole.reset(3), 12, 0)
    for before in range(12):
        half = walk_stream(num_envs, edge=2.0)
        stopped = play(half, half.reset(3), before, 0)[-1]
        rest = walk_stream(num_envs, edge=2.0)
        tick = rest.restore(half.state())
        assert_equal(leaves([stopped]), leaves([tick]))
        assert rest.replayed_equal.all()
        generator = np.random.default_rng(0)
        for _ in range(before):
            act(rest, generator)
        for later in ticks[before + 1 :]:
            assert_equal(leaves([later]), leaves([rest.step(act(rest, generator))]))


def test_a_state_of_another_job_is_refused():
    stream = walk_stream()
    stream.reset(0)
    probes = open_job("probe/value-v0", num_envs=2)
    with pytest.raises(JobError, match="missing or of another shape"):
        probes.restore(stream.state())
    with pytest.raises(JobError, match="does not belong"):
        walk_stream(3).restore(stream.state())


class Misshapen(Probe):
    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(2)

    def reset(self, key: Array) -> tuple[Any, Any]:
        return jnp.zeros(()), jnp.zeros(3)

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, Array, Array]:
        return state, jnp.zeros(3), jnp.zeros(()), jnp.array(False)


class Inconsistent(Misshapen):
    def reset(self, key: Array) -> tuple[Any, Any]:
        return jnp.zeros(()), jnp.zeros(1)


class Untraceable(Misshapen):
    def reset(self, key: Array) -> tuple[Any, Any]:
        return (jnp.zeros(()), jnp.zeros(1)) if jax.random.normal(key, ()) > 0 else (0, 0)


def test_a_job_that_contradicts_itself_is_refused_before_the_first_step():
    with pytest.raises(JobError, match=r"observes ndarray of shape \(3,\), expected one of Box"):
        NativeStream(Misshapen(), job_id="misshapen")
    with pytest.raises(JobError, match="reset and step of inconsistent must give"):
        NativeStream(Inconsistent(), job_id="inconsistent")
    with pytest.raises(JobError, match="untraceable cannot be traced: TracerBoolConversionError"):
        NativeStream(Untraceable(), job_id="untraceable")


class Overflowing(Walk):
    def step(self, state: WalkState, action: Any, key: Array) -> tuple[Any, Any, Array, Array]:
        state, observation, _, terminated = super().step(state, action, key)
        return state, observation, jnp.array(jnp.nan), terminated


def test_rewards_that_are_not_finite_are_zero_and_counted():
    stream = NativeStream(Overflowing(drift=jnp.zeros(2)), job_id="overflowing")
    stream.reset(0)
    tick = stream.step([(np.zeros(2), 0)])
    assert tick.rewards[0] == 0
    assert stream.faults == {"reward non-finite": 1}


def test_the_smaller_step_limit_is_in_force():
    assert open_job(Walk(drift=jnp.zeros(2)), step_limit=3).step_limit == 3
    assert open_job(Walk(drift=jnp.zeros(2)), step_limit=9).step_limit == 7


def attempt(probe, choose, seed):
    """Observations and rewards of one attempt of a probe, actions by `choose(observation)`."""
    stream = open_job(probe)
    tick = stream.reset(seed)
    observations, rewards = [float(tick.observations[0][0])], []
    while not tick.terminated[0]:
        assert not tick.truncated[0]
        tick = stream.step([choose(observations[-1])])
        assert stream.observation_space.contains(tick.observations[0])
        observations.append(float(tick.observations[0][0]))
        rewards.append(float(tick.rewards[0]))
    return observations[:-1], rewards


def test_probes_pay_what_they_say():
    for seed in range(6):
        assert attempt(ValueProbe(), lambda _: 0, seed) == ([0.0], [1.0])
        assert attempt(DiscountProbe(), lambda _: 0, seed) == ([-1.0, 1.0], [0.0, 1.0])
        assert attempt(ActionProbe(), lambda _: 1, seed) == ([0.0], [1.0])
        assert attempt(ActionProbe(), lambda _: 0, seed) == ([0.0], [-1.0])
        (shown,), (reward,) = attempt(ObservationProbe(), lambda _: 0, seed)
        assert abs(shown) == 1.0 and reward == shown
        right = attempt(PolicyProbe(), lambda observation: int(observation > 0), seed)
        wrong = attempt(PolicyProbe(), lambda observation: int(observation < 0), seed)
        assert (right[1], wrong[1]) == ([1.0], [-1.0])


def test_probes_show_both_signs():
    for probe in (ObservationProbe(), PolicyProbe()):
        stream = open_job(probe, num_envs=64)
        shown = np.ravel(stream.reset(0).observations)
        assert 16 < np.sum(shown > 0) < 48
