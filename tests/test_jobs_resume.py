"""A stream restored from its state, in place of the one that was stopped, goes on as if never stopped."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fifteen.errors import JobError
from fifteen.jobs import GymnasiumStream, VectorStream, open_job
from fifteen.jobs.leaves import equal_leaves, take_apart

MODES = list(AutoresetMode)


def played(stream, tick, steps, seed):
    """The ticks of `steps` steps with random actions that depend on `seed` only."""
    generator = np.random.default_rng(seed)
    space = stream.action_space
    ticks = [tick]
    for _ in range(steps):
        space.seed(int(generator.integers(2**31)))
        ticks.append(stream.step([space.sample() for _ in range(stream.num_envs)]))
    return ticks


def assert_same_ticks(space, one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a[1:6], b[1:6], strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        for x, y in zip(a.observations, b.observations, strict=True):
            assert equal_leaves(take_apart(space, x), take_apart(space, y))
        for x, y in zip(a.action_masks, b.action_masks, strict=True):
            np.testing.assert_array_equal(x, y)


def check_exact(make, before, after=40):
    whole, half, rest = make(), make(), make()
    expected = played(whole, played(whole, whole.reset(5), before, 1)[-1], after, 2)
    stopped = played(half, half.reset(5), before, 1)[-1]
    state = load(save(half.state()))
    half.close()
    tick = rest.restore(state)
    assert_same_ticks(rest.observation_space, [stopped], [tick])
    assert rest.replayed_equal.all()
    assert_same_ticks(rest.observation_space, expected, played(rest, tick, after, 2))
    np.testing.assert_array_equal(whole.attempts(), rest.attempts())
    assert whole.faults == rest.faults
    again, once = rest.state(), whole.state()
    assert again.keys() == once.keys()
    for name, array in once.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("job", ["CartPole-v1", "FrozenLake-v1", "cartpole-hidden-velocity-v0"])
@settings(max_examples=12, deadline=None)
@given(before=st.integers(0, 60))
def test_gymnasium_environments_resume_exactly(job, num_envs, before):
    check_exact(lambda: open_job(job, num_envs=num_envs), before)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=8, deadline=None)
@given(before=st.integers(0, 60))
def test_vector_environments_resume_exactly(mode, num_envs, before):
    def make():
        envs = [lambda: gym.make("CartPole-v1", disable_env_checker=True)] * num_envs
        return open_job(SyncVectorEnv(envs, autoreset_mode=mode))

    check_exact(make, before)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("job", ["probe/observation-v0", "probe/discount-v0"])
def test_native_jobs_resume_exactly_at_any_step(job, num_envs):
    for before in range(4):
        check_exact(lambda: open_job(job, num_envs=num_envs), before, after=6)


class Structured(gym.Env):
    """Nested observations and actions; writes into the action that it is given."""

    observation_space = spaces.Dict(
        {
            "place": spaces.Tuple([spaces.Box(-9, 9, (2,), np.float64), spaces.Discrete(50)]),
            "said": spaces.Text(20),
            "bits": spaces.MultiBinary(3),
        }
    )
    action_space = spaces.Dict({"push": spaces.Box(-1, 1, (2,), np.float32), "turn": spaces.MultiDiscrete([3, 4])})

    def observation(self):
        return {
            "place": (self.place.copy(), int(self.np_random.integers(50))),
            "said": "à" * int(self.np_random.integers(0, 20)),
            "bits": self.np_random.integers(0, 2, 3, np.int8),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.observation(), {"action_mask": self.np_random.integers(0, 2, 3)}

    def step(self, action):
        action["push"] *= 0.5
        self.place += action["push"] + action["turn"].sum()
        mask = {"action_mask": self.np_random.integers(0, 2, 3)}
        return self.observation(), float(self.place[0]), self.np_random.random() < 0.1, False, mask


@settings(max_examples=15, deadline=None)
@given(before=st.integers(0, 40))
def test_nested_spaces_masks_and_written_actions_resume_exactly(before):
    check_exact(lambda: GymnasiumStream([Structured(), Structured()], job_id="nested"), before)


class Fickle(gym.Env):
    """Ends after `length` steps; `offset` shifts what it observes from step `since` on."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=6, offset=0.0, since=0, fails=False):
        self.length, self.offset, self.since, self.fails = length, offset, since, fails

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.fails:
            raise OSError("not there any more")
        self.steps += 1
        shown = self.steps + (self.offset if self.steps >= self.since else 0.0)
        return np.array([shown], np.float32), 1.0, self.steps >= self.length, False, {}


def as_singles(*envs):
    return GymnasiumStream(envs, job_id="fickle")


def as_vector(mode):
    def stream(*envs):
        factories = [lambda env=env: env for env in envs]
        return VectorStream(SyncVectorEnv(factories, autoreset_mode=mode), job_id="fickle")

    return stream


@pytest.mark.parametrize("streams_of", [as_singles, *map(as_vector, MODES)])
@pytest.mark.parametrize(
    "changed",
    [{"offset": 1e-6, "since": 2}, {"length": 2}, {"length": 3}, {"fails": True}],
    ids=["observation", "earlier end", "end at the moment", "error"],
)
def test_an_attempt_that_differs_is_truncated_counted_and_said(streams_of, changed):
    stopped = streams_of(Fickle(), Fickle(length=5))
    played(stopped, stopped.reset(0), 3, 0)
    state = stopped.state()
    stream = streams_of(Fickle(**changed), Fickle(length=5))
    tick = stream.restore(state)
    assert not (tick.terminated | tick.truncated).any()
    assert tick.observations[0] == 3.0
    # An error stops a whole vector environment, so that there both streams are lost.
    both = streams_of is not as_singles and "fails" in changed
    assert list(stream.replayed_equal) == [False, not both]
    assert stream.faults["resume differed"] == 1 + both
    assert sum("did not come back to step 3" in note for note in stream.notes) == 1 + both
    tick = stream.step([0, 0])
    assert (tick.truncated[0], tick.rewards[0]) == (True, 0.0)
    assert tick.observations[0] == 3.0
    tick = stream.step([0, 0])
    assert tick.first[0] and tick.observations[0] == 0.0
    np.testing.assert_array_equal(stream.attempts(), [1, int(both)])
    if not both:
        rest = [tick] + [stream.step([0, 0]) for _ in range(3)]
        assert sum(bool(t.terminated[1] and t.active[1]) for t in rest) == 1


def test_a_lost_stream_that_is_saved_again_is_counted_once():
    for streams_of in (as_singles, *map(as_vector, MODES)):
        stopped = streams_of(Fickle(), Fickle())
        played(stopped, stopped.reset(0), 3, 0)
        state = stopped.state()
        lost = streams_of(Fickle(offset=1.0), Fickle())
        lost.restore(state)
        stream = streams_of(Fickle(), Fickle())
        stream.restore(lost.state())
        assert list(stream.replayed_equal) == [False, True]
        assert stream.faults == {"resume differed": 1}
        tick = stream.step([0, 0])
        assert list(tick.truncated) == [True, False]


def test_a_state_of_another_job_is_refused():
    one = open_job("CartPole-v1")
    one.reset(0)
    state = one.state()
    for other in (
        open_job("CartPole-v1", num_envs=2),
        open_job("probe/value-v0"),
        open_job(SyncVectorEnv([lambda: gym.make("CartPole-v1")])),
    ):
        with pytest.raises(JobError, match="does not belong"):
            other.restore(state)


def test_counted_faults_are_part_of_the_state():
    one = as_singles(Fickle())
    one.reset(0)
    one.faults["reward non-finite"] += 4
    other = as_singles(Fickle())
    other.restore(one.state())
    assert other.faults == {"reward non-finite": 4}
