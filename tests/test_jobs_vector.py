"""Vector environments as streams: every autoreset mode delivers the same ticks."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from fifteen.errors import JobError
from fifteen.jobs import VectorStream, open_job

MODES = list(AutoresetMode)


class Counting(gym.Env):
    """Observes its step; attempts last `length` steps; `fail_at` raises once at that step."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2, start=3)

    def __init__(self, length, fail_at=None, truncates=False, masked=False):
        self.length, self.fail_at, self.truncates = length, fail_at, truncates
        self.masked = masked

    def info(self):
        return {"action_mask": np.array([1, self.steps % 2], np.int8)} if self.masked else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), self.info()

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        if self.steps == self.fail_at:
            self.fail_at = None
            raise ValueError("slipped")
        over = self.steps >= self.length
        shown = np.array([self.steps], np.float32)
        return shown, 0.5, over and not self.truncates, over, self.info()


def vector(mode, *envs, wrapped=False):
    made = SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=mode)
    return VectorWrapper(made) if wrapped else made


def story(stream, steps, seed=11, action=None):
    """Per stream the ticks it was active in: (observation, reward, first, terminated, truncated, mask)."""
    generators = [np.random.default_rng([seed, e]) for e in range(stream.num_envs)]
    stories = [[] for _ in generators]
    ticks = [stream.reset(seed)]
    for _ in range(steps):
        ticks.append(stream.step([action_of(stream, g, action) for g in generators_for(ticks[-1], generators)]))
    for tick in ticks:
        assert not (tick.first | tick.terminated | tick.truncated)[~tick.active].any()
        assert not (tick.terminated & tick.truncated).any()
        for e in np.flatnonzero(tick.active):
            mask = tick.action_masks[e]
            stories[e].append(
                (
                    tuple(np.ravel(tick.observations[e])),
                    tick.rewards[e],
                    bool(tick.first[e]),
                    bool(tick.terminated[e]),
                    bool(tick.truncated[e]),
                    None if mask is None else tuple(mask),
                )
            )
    return stories


def generators_for(tick, generators):
    """None where no action is taken, so that a stream's actions do not depend on the others."""
    takes = tick.active & ~tick.terminated & ~tick.truncated
    return [g if take else None for g, take in zip(generators, takes, strict=True)]


def action_of(stream, generator, action):
    if generator is None:
        return None
    drawn = generator.integers(stream.action_space.n) + stream.action_space.start
    return np.int64(drawn) if action is None else action


def assert_same_stories(one, other, at_least):
    for a, b in zip(one, other, strict=True):
        common = min(len(a), len(b))
        assert common >= at_least
        assert a[:common] == b[:common]


@pytest.mark.parametrize("mode", MODES)
def test_cartpole_is_the_same_in_every_mode_and_as_single_environments(mode):
    singles = story(open_job("CartPole-v1", num_envs=3), 150)
    envs = [gym.make("CartPole-v1", disable_env_checker=True) for _ in range(3)]
    vectored = story(open_job(vector(mode, *envs)), 150)
    assert sum(row[3] for row in singles[0]) > 3
    assert_same_stories(singles, vectored, at_least=120)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_final_observations_rewards_flags_and_masks_in_every_mode(mode, wrapped):
    def envs():
        return Counting(2, masked=True), Counting(3, truncates=True, masked=True), Counting(100)

    factories = iter(envs())
    singles = story(open_job(lambda: next(factories), num_envs=3), 100)
    assert_same_stories(singles, story(open_job(vector(mode, *envs(), wrapped=wrapped)), 100), 40)
    first = [(0.0,), 0.0, True, False, False, (1, 0)]
    assert [list(row) for row in singles[0][:4]] == [
        first,
        [(1.0,), 0.5, False, False, False, (1, 1)],
        [(2.0,), 0.5, False, True, False, None],
        first,
    ]
    assert singles[1][3][2:5] == (False, False, True)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_ends_are_delivered_alone_and_then_everybody(mode):
    stream = open_job(vector(mode, Counting(2), Counting(5)))
    stream.reset(0)
    stream.step([3, 3])
    ends, everybody = stream.step([3, 3]), stream.step([None, None])
    assert list(ends.active) == [True, False] and list(ends.terminated) == [True, False]
    assert ends.observations[1] == 1.0  # what the waiting stream delivered last
    assert ends.rewards[1] == 0.0
    assert list(everybody.active) == [True, True] and list(everybody.first) == [True, False]
    assert everybody.observations[1] == 2.0
    np.testing.assert_array_equal(everybody.rewards, [0.0, 0.5])


def test_a_vector_environment_of_another_kind_keeps_its_own_next_step():
    plain = CartPoleVectorEnv(num_envs=2)
    stream = open_job(CartPoleVectorEnv(num_envs=2), step_limit=500)
    tick = stream.reset(1)
    seed = tick and int(np.random.SeedSequence((1, 0, 0)).generate_state(1)[0] >> 1)
    expected, _ = plain.reset(seed=seed)
    np.testing.assert_array_equal(np.stack(tick.observations), expected)
    ended = np.zeros(2, bool)
    for _ in range(60):
        observations, rewards, terminated, truncated, _ = plain.step(np.array([1, 0]))
        tick = stream.step([None if end else action for end, action in zip(ended, [1, 0], strict=True)])
        # The filler in the place of an ignored action does not matter: the stream is being reset.
        np.testing.assert_array_equal(np.stack(tick.observations), observations)
        np.testing.assert_array_equal(tick.rewards, rewards)
        np.testing.assert_array_equal(tick.terminated, terminated)
        np.testing.assert_array_equal(tick.truncated, truncated)
        np.testing.assert_array_equal(tick.first, ended)
        assert tick.active.all()
        ended = terminated | truncated
    assert stream.attempts().min() > 2


@pytest.mark.parametrize("mode", MODES)
def test_the_step_limit_truncates_one_stream_alone_where_it_can_be_reset_alone(mode):
    stories = story(open_job(vector(mode, Counting(3), Counting(10**9)), step_limit=5), 60)
    assert [row[0][0] for row in stories[1][:8]] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert stories[1][5][4] and not stories[1][5][3]
    assert all(row[4] == (row[0][0] == 5) for row in stories[1])
    assert not any(row[4] for row in stories[0])


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_elsewhere_the_step_limit_truncates_all_and_says_so(mode):
    made = vector(mode, Counting(3), Counting(10**9), wrapped=True)
    stream = open_job(made, step_limit=5)
    stories = story(stream, 40)
    assert len(stream.notes) == 1 and "truncated with it" in stream.notes[0]
    for rows in stories:
        ends = [bool(row[3] or row[4]) for row in rows]
        firsts = [row[2] for row in rows]
        assert firsts == [True, *ends[:-1]]  # an attempt begins after an end, and only there
    assert max(row[0][0] for row in stories[1]) == 5
    assert sum(row[4] for row in stories[1]) > 3


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_an_error_truncates_all_and_the_environment_goes_on(mode, wrapped):
    envs = Counting(4), Counting(9, fail_at=6)
    stories = story(stream := open_job(vector(mode, *envs, wrapped=wrapped)), 60)
    assert stream.faults == {"step raised: ValueError: slipped": 1}
    for rows in stories:
        ends = [bool(row[3] or row[4]) for row in rows]
        assert [row[2] for row in rows] == [True, *ends[:-1]]
        assert len(rows) > 30
    cut = [row for row in stories[1] if row[4]]
    assert len(cut) == 1
    assert (cut[0][0], cut[0][1]) == ((5.0,), 0.0)


def test_three_failures_in_a_row_give_the_job_up():
    class Broken(Counting):
        def step(self, action):
            raise ValueError("always")

    stream = open_job(vector(AutoresetMode.NEXT_STEP, Broken(3)))
    stream.reset(0)
    with pytest.raises(JobError, match="failed 3 times in a row.*always") as caught:
        for _ in range(10):
            stream.step([3])
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_factory_makes_a_vector_environment_anew_when_it_cannot_be_reset():
    class WornOut(Counting):
        def reset(self, *, seed=None, options=None):
            if getattr(self, "steps", None) is not None:
                raise OSError("worn out")
            return super().reset(seed=seed, options=options)

    made = []

    def make():
        made.append(vector(AutoresetMode.DISABLED, WornOut(2)))
        return made[-1]

    stream = open_job(make)
    stream.reset(0)
    assert sum(bool(stream.step([3]).first[0]) for _ in range(9)) == 3
    assert len(made) == 4


class Scripted(VectorEnv):
    """A vector environment of another kind, two streams, whose step delivers what it is told."""

    def __init__(self, mode, *results):
        self.num_envs = 2
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2, 1), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = spaces.MultiDiscrete([2, 2])
        self.results = list(results)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions):
        ok = np.ones((2, 1), np.float32), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}
        return self.results.pop(0) if self.results else ok


NO, ONE = np.zeros(2, bool), np.array([True, False])


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        ((np.zeros((2, 3)), np.ones(2), NO, NO, {}), "step raised: SpaceError: the batch"),
        ((np.zeros((3, 1)), np.ones(2), NO, NO, {}), "step raised: SpaceError: the batch"),
        (
            (np.zeros((2, 1)), np.ones(3), NO, NO, {}),
            "step raised: ValueError: a step must deliver",
        ),
        ((np.zeros((2, 1)), np.ones(2), NO, NO), "step raised: ValueError"),
        (
            (np.zeros((2, 1)), np.ones(2), ONE, NO, {}),
            "step raised: JobError: the environment resets",
        ),
    ],
)
def test_malformed_steps_are_counted_and_bounded(result, fault):
    stream = open_job(Scripted(AutoresetMode.SAME_STEP, result))
    stream.reset(0)
    assert stream.step([0, 1]).truncated.all()
    assert stream.step([0, 1]).first.all()
    assert stream.step([0, 1]).rewards.all()
    (counted,) = stream.faults
    assert counted.startswith(fault)


def test_rewards_that_are_not_finite_are_zero_and_counted():
    rewards = np.array([np.nan, np.inf])
    stream = open_job(Scripted(AutoresetMode.NEXT_STEP, (np.ones((2, 1)), rewards, NO, NO, {})))
    stream.reset(0)
    np.testing.assert_array_equal(stream.step([0, 0]).rewards, [0, 0])
    assert stream.faults == {"reward non-finite": 2}


def test_a_mode_that_is_not_said_or_not_known():
    stream = open_job(Scripted(None), step_limit=9)
    assert "NEXT_STEP" in stream.notes[0]
    assert open_job(Scripted("SameStep"), step_limit=9).notes == []
    with pytest.raises(JobError, match=r"metadata\['autoreset_mode'\] = 'Sometimes'"):
        open_job(Scripted("Sometimes"))


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_where_streams_cannot_be_seeded_a_resume_truncates_all(mode):
    def make():
        return VectorStream(vector(mode, Counting(3), Counting(5), wrapped=True), job_id="own")

    stopped = make()
    stopped.reset(0)
    for steps in range(6):
        stopped.step([3, 3])
        stream = make()
        tick = stream.restore(stopped.state())
        unfinished = ~(tick.terminated | tick.truncated)
        assert stream.faults["resume differed"] == unfinished.sum(), steps
        following = stream.step([3, 3])
        assert (following.truncated == (unfinished & following.active)).all()
        assert stream.step([3, 3]).first.all()


def test_worker_processes_deliver_the_same():
    factory = partial(gym.make, "CartPole-v1", disable_env_checker=True)
    made = AsyncVectorEnv([factory, factory], context="spawn")
    try:
        stream = open_job(made, step_limit=500)
        assert_same_stories(story(open_job("CartPole-v1", num_envs=2), 80), story(stream, 80), 50)
    finally:
        made.close()
