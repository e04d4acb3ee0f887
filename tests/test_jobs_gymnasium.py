"""Single Gymnasium environments as streams: the order of ticks, and what faults turn into."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from fifteen.errors import JobError
from fifteen.jobs import DEFAULT_STEP_LIMIT, GymnasiumStream, attempt_seed
from fifteen.jobs.faults import MAX_KINDS
from fifteen.jobs.gymnasium_stream import own_step_limit


class Scripted(gym.Env):
    """Observes (resets, steps); `script` may change what a step delivers, or raise."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=5, script=None, reset_script=None):
        self.length, self.script, self.reset_script = length, script, reset_script
        self.resets = self.steps = self.closed = 0

    def observation(self):
        return np.array([self.resets, self.steps], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets, self.steps = self.resets + 1, 0
        result = self.observation(), {}
        return result if self.reset_script is None else self.reset_script(self, result)

    def step(self, action):
        self.steps += 1
        result = [self.observation(), 1.0, self.steps >= self.length, False, {}]
        if self.script is not None:
            self.script(self, result)
        return tuple(result)

    def close(self):
        self.closed += 1


def stream_of(*envs, **options):
    return GymnasiumStream(envs, job_id="scripted", **options)


def at_step(number, change):
    """A script that changes the result of step `number` of the first attempt."""

    def script(env, result):
        if env.resets == 1 and env.steps == number:
            change(result)

    return script


def raising(error):
    def change(*_):
        raise error

    return change


def test_final_and_first_observations_have_ticks_of_their_own():
    stream = stream_of(Scripted(length=2), Scripted(length=3))
    ticks = [stream.reset(0)] + [stream.step([0, 1]) for _ in range(5)]
    seen = [[tuple(map(int, tick.observations[e])) for tick in ticks] for e in range(2)]
    assert seen[0] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert seen[1] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]
    table = np.array([[t.rewards, t.first, t.terminated, t.truncated, t.active] for t in ticks])
    np.testing.assert_array_equal(table[:, 0, 0], [0, 1, 1, 0, 1, 1])
    np.testing.assert_array_equal(table[:, 0, 1], [0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(table[:, 1, 0], [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(table[:, 1, 1], [1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(table[:, 2, 0], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(table[:, 2, 1], [0, 0, 0, 1, 0, 0])
    assert not table[:, 3].any()
    assert table[:, 4].all()
    np.testing.assert_array_equal(stream.attempts(), [1, 1])
    assert ticks[0].rewards.dtype == np.float64


def test_every_attempt_begins_from_its_own_seed():
    stream = stream_of(*(gym.make("CartPole-v1", disable_env_checker=True) for _ in range(2)))
    plain = gym.make("CartPole-v1")
    tick, begun = stream.reset(3), [0, 0]
    for _ in range(60):
        for e in np.flatnonzero(tick.first):
            expected, _ = plain.reset(seed=attempt_seed(3, int(e), begun[e]))
            np.testing.assert_array_equal(tick.observations[e], expected)
            begun[e] += 1
        tick = stream.step([np.int64(0)] * 2)
    assert min(begun) > 3
    np.testing.assert_array_equal(stream.attempts(), np.array(begun) - 1)


def test_attempt_seeds_are_31_bit_and_differ():
    seeds = {attempt_seed(s, e, n) for s in range(5) for e in range(5) for n in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert attempt_seed(0, 0, 0) == attempt_seed(0, 0, 0)


def test_the_action_of_a_stream_that_ended_is_ignored():
    given = []
    env = Scripted(length=1)
    env.step = lambda action: (given.append(action), Scripted.step(env, action))[1]
    stream = stream_of(env)
    stream.reset(0)
    stream.step([1])
    assert stream.step([None]).first[0]
    assert given == [1]


def test_terminated_wins_over_truncated():
    stream = stream_of(gym.wrappers.TimeLimit(Scripted(length=3), 3))
    stream.reset(0)
    tick = [stream.step([0]) for _ in range(3)][-1]
    assert (tick.terminated[0], tick.truncated[0]) == (True, False)


def test_an_attempt_that_never_ends_is_truncated_at_the_default_and_said():
    stream = stream_of(Scripted(length=10**9))
    assert stream.step_limit == DEFAULT_STEP_LIMIT
    assert len(stream.notes) == 1 and "10000" in stream.notes[0]
    stream.reset(0)
    for _ in range(DEFAULT_STEP_LIMIT - 1):
        tick = stream.step([0])
    assert not tick.truncated[0]
    tick = stream.step([0])
    assert (tick.terminated[0], tick.truncated[0]) == (False, True)
    assert tick.observations[0][1] == DEFAULT_STEP_LIMIT
    assert stream.step([0]).first[0]


def test_the_smaller_step_limit_is_in_force():
    def inner():
        return gym.wrappers.TimeLimit(Scripted(length=10**9), 7)

    assert own_step_limit(gym.make("CartPole-v1")) == 500
    assert own_step_limit(Scripted()) is None
    assert stream_of(inner()).step_limit == 7
    assert stream_of(inner(), step_limit=4).step_limit == 4
    stream = stream_of(inner(), step_limit=9)
    assert (stream.step_limit, stream.notes) == (7, [])
    stream = stream_of(Scripted(length=10**9), step_limit=2)
    assert stream.notes == []
    stream.reset(0)
    assert [bool(stream.step([0]).truncated[0]) for _ in range(4)] == [False, True, False, False]


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "10"])
def test_a_malformed_step_limit_is_refused(limit):
    with pytest.raises(JobError, match="positive number of steps"):
        stream_of(Scripted(), step_limit=limit)


def test_an_error_in_step_truncates_the_attempt_at_the_last_good_observation():
    stream = stream_of(Scripted(script=at_step(3, raising(ValueError("motor\nlost")))), Scripted())
    stream.reset(0)
    before = [stream.step([0, 0]) for _ in range(2)][-1]
    tick = stream.step([0, 0])
    np.testing.assert_array_equal(tick.observations[0], before.observations[0])
    assert (tick.rewards[0], tick.terminated[0], tick.truncated[0]) == (0.0, False, True)
    assert (tick.rewards[1], tick.truncated[1]) == (1.0, False)
    tick = stream.step([0, 0])
    assert tick.first[0] and not tick.first[1]
    assert stream.faults == {"step raised: ValueError: motor": 1}
    for _ in range(20):
        stream.step([0, 0])
    assert sum(stream.faults.values()) == 1


def test_three_failures_in_a_row_give_the_job_up():
    stream = stream_of(Scripted(script=raising(ValueError("broken"))))
    stream.reset(0)
    with pytest.raises(JobError, match="scripted failed 3 times in a row.*broken") as caught:
        for _ in range(10):
            stream.step([0])
    assert isinstance(caught.value.__cause__, ValueError)
    assert stream.faults == {"step raised: ValueError: broken": 3}


def test_a_good_step_between_failures_keeps_the_job_going():
    def every_second(env, result):
        if env.steps == 2:
            raise ValueError("now and then")

    stream = stream_of(Scripted(script=every_second))
    stream.reset(0)
    for _ in range(30):
        stream.step([0])
    assert stream.faults["step raised: ValueError: now and then"] == 10


def test_a_keyboard_interrupt_passes():
    stream = stream_of(Scripted(script=raising(KeyboardInterrupt())))
    stream.reset(0)
    with pytest.raises(KeyboardInterrupt):
        stream.step([0])
    assert not stream.faults


@pytest.mark.parametrize(
    ("reward", "kept", "fault"),
    [
        (np.nan, 0.0, "reward non-finite"),
        (-np.inf, 0.0, "reward non-finite"),
        (np.float32(np.inf), 0.0, "reward non-finite"),
        (np.zeros(3), 0.0, "reward not a number"),
        ("much", 0.0, "reward not a number"),
        (np.array([2.5]), 2.5, None),
        (np.float32(1.5), 1.5, None),
        (3, 3.0, None),
        (1e6, 1e6, None),
        (1e-6, 1e-6, None),
    ],
)
def test_rewards_are_finite_floats(reward, kept, fault):
    stream = stream_of(Scripted(script=at_step(1, lambda result: result.__setitem__(1, reward))))
    stream.reset(0)
    tick = stream.step([0])
    assert tick.rewards[0] == kept
    assert tick.rewards.dtype == np.float64
    assert not tick.truncated[0]
    assert stream.faults == ({fault: 1} if fault else {})


@pytest.mark.parametrize(
    "observation",
    [np.zeros(3, np.float32), np.zeros((1, 2)), None, "off", [[1.0], 2.0], np.array(["a", "b"])],
)
def test_an_observation_of_another_shape_ends_the_attempt(observation):
    stream = stream_of(Scripted(script=at_step(2, lambda result: result.__setitem__(0, observation))))
    stream.reset(0)
    before, tick = stream.step([0]), stream.step([0])
    np.testing.assert_array_equal(tick.observations[0], before.observations[0])
    assert tick.truncated[0]
    (fault,) = stream.faults
    assert fault.startswith("step raised: SpaceError: the observation is")
    assert "Box" in fault


def test_nan_observations_and_other_dtypes_are_left_to_the_senses():
    odd = np.array([np.nan, 1e30])
    stream = stream_of(Scripted(script=at_step(1, lambda result: result.__setitem__(0, odd))))
    stream.reset(0)
    assert stream.step([0]).observations[0] is odd
    assert not stream.faults


def fails_at_first(result):
    return lambda env, good: result(good) if env.resets == 1 else good


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (raising(OSError("no display")), "reset raised: OSError: no display"),
        (lambda good: good[0], "reset raised: TypeError: reset must return (observation, info)"),
        (lambda good: (np.zeros(5), {}), "reset raised: SpaceError: the observation is"),
        (lambda good: (None, {}), "reset raised: SpaceError: the observation is"),
    ],
)
def test_a_bad_reset_is_tried_again_from_the_next_seed(result, fault):
    stream = stream_of(Scripted(reset_script=fails_at_first(result)))
    tick = stream.reset(0)
    assert tick.first[0] and tick.observations[0][0] == 2
    np.testing.assert_array_equal(stream.attempts(), [1])
    (counted,) = stream.faults
    assert counted.startswith(fault)


def test_an_environment_that_cannot_be_reset_is_made_anew():
    def worn_out(env, good):
        if env.resets > 1:
            raise OSError("worn out")
        return good

    made = []

    def make():
        made.append(Scripted(length=2, reset_script=worn_out))
        return made[-1]

    stream = GymnasiumStream([make()], job_id="scripted", make=make)
    stream.reset(0)
    firsts = sum(bool(stream.step([0]).first[0]) for _ in range(12))
    assert firsts == 4
    assert len(made) == 5
    assert [env.closed for env in made] == [1, 1, 1, 1, 0]
    assert stream.faults == {"reset raised: OSError: worn out": 4}


def test_a_reset_that_always_fails_gives_the_job_up():
    stream = stream_of(Scripted(reset_script=raising(OSError("gone"))))
    with pytest.raises(JobError, match="in reset: OSError: gone") as caught:
        stream.reset(0)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_environment_that_cannot_be_made_anew_is_an_error():
    stream = stream_of(Scripted(reset_script=raising(OSError("gone"))), make=raising(RuntimeError("no more")))
    with pytest.raises(JobError, match="not be made anew: RuntimeError: no more"):
        stream.reset(0)


def test_fault_texts_are_bounded():
    def counting(env, result):
        if env.steps == 2:
            raise ValueError(f"reading {env.resets} {'x' * 1000}")

    stream = stream_of(Scripted(script=counting))
    stream.reset(0)
    for _ in range(3 * (MAX_KINDS + 20)):
        stream.step([0])
    assert len(stream.faults) <= MAX_KINDS + 1
    assert max(map(len, stream.faults)) < 220
    assert sum(stream.faults.values()) == MAX_KINDS + 20


def test_action_masks_come_with_the_observation_and_not_with_the_last():
    def masked(env, result):
        result[4]["action_mask"] = np.array([1, env.steps % 2], np.int8)

    def first(env, good):
        return good[0], {"action_mask": np.array([0, 1], np.int8)}

    stream = stream_of(Scripted(length=3, script=masked, reset_script=first), Scripted(length=9))
    ticks = [stream.reset(0)] + [stream.step([0, 0]) for _ in range(4)]
    masks = [None if t.action_masks[0] is None else list(t.action_masks[0]) for t in ticks]
    assert masks == [[0, 1], [1, 1], [1, 0], None, [0, 1]]
    assert all(tick.action_masks[1] is None for tick in ticks)


def test_wrong_use_is_said():
    stream = stream_of(Scripted(), Scripted())
    with pytest.raises(JobError, match="call reset"):
        stream.step([0, 0])
    with pytest.raises(JobError, match="before reset"):
        stream.state()
    for seed in (-1, 1.5, True, None, 2**63):
        with pytest.raises(JobError, match="seed must be"):
            stream.reset(seed)  # pyright: ignore[reportArgumentType]
    stream.reset(np.int64(7))  # pyright: ignore[reportArgumentType]
    with pytest.raises(JobError, match="takes as many actions, got 1"):
        stream.step([0])


def test_streams_of_one_job_have_the_same_spaces():
    other = Scripted()
    other.observation_space = spaces.Box(0, 1, (3,))
    with pytest.raises(JobError, match="different spaces"):
        stream_of(Scripted(), other)


def test_close_closes_every_environment():
    envs = [Scripted(), Scripted()]
    stream_of(*envs).close()
    assert [env.closed for env in envs] == [1, 1]
