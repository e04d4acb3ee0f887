"""What jobs there are, and every way of opening one."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import SyncVectorEnv

from fifteen.errors import JobError
from fifteen.jobs import (
    GymnasiumStream,
    JobSpec,
    NativeStream,
    VectorStream,
    jobs,
    open_job,
    register_job,
    registry,
)
from fifteen.jobs.probes import ValueProbe

PROBES = {f"probe/{name}-v0" for name in ("value", "observation", "discount", "action", "policy")}


@pytest.fixture(autouse=True)
def only_built_in_jobs(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


def make_cartpole(sutton_barto_reward=False):
    return gym.make("CartPole-v1", sutton_barto_reward=sutton_barto_reward)


class Factories:
    cartpole = staticmethod(make_cartpole)
    nothing = 3


def test_the_jobs_that_come_along():
    known = {spec.id: spec for spec in jobs()}
    assert {*PROBES, "cartpole-hidden-velocity-v0"} <= known.keys()
    for spec in known.values():
        assert isinstance(spec, JobSpec) and spec.description and spec.budget
        stream = open_job(spec.id, num_envs=2)
        tick = stream.reset(0)
        assert stream.job_id == spec.id and stream.num_envs == len(tick.observations) == 2
        assert all(stream.observation_space.contains(seen) for seen in tick.observations)
        assert stream.notes == []
        stream.close()
    assert {id for id, spec in known.items() if spec.family == "probe"} == PROBES


def test_hidden_velocity_cartpole_shows_position_and_angle():
    hidden, whole = open_job("cartpole-hidden-velocity-v0"), open_job("CartPole-v1")
    assert hidden.step_limit == 500
    assert hidden.observation_space.shape == (2,)
    a, b = hidden.reset(0), whole.reset(0)
    for step in range(30):
        np.testing.assert_array_equal(a.observations[0], b.observations[0][[0, 2]])
        assert a.observations[0].dtype == np.float32
        a, b = hidden.step([step % 2]), whole.step([step % 2])


def test_registered_jobs_are_opened_with_their_kwargs():
    spec = register_job("sutton/cartpole-v3", make_cartpole, budget=9, kwargs={"sutton_barto_reward": True})
    assert spec in jobs()
    assert (spec.family, spec.budget) == ("sutton", 9)
    for kwargs, reward in ((None, 0.0), ({"sutton_barto_reward": False}, 1.0)):
        stream = open_job("sutton/cartpole-v3", kwargs=kwargs)
        stream.reset(0)
        assert stream.step([0]).rewards[0] == reward
    register_job("by-name-v0", f"{__name__}:Factories.cartpole", family="control")
    assert isinstance(open_job("by-name-v0"), GymnasiumStream)


@pytest.mark.parametrize("id", ["cartpole", "a/b/c-v0", "-v0", "name-v", "name v-v0", "", 7, None])
def test_malformed_ids_are_refused(id):
    with pytest.raises(JobError, match="'name-v0' or 'family/name-v0'"):
        register_job(id, make_cartpole)


def test_ids_that_are_taken_are_refused():
    with pytest.raises(JobError, match="already registered in Fifteen"):
        register_job("probe/value-v0", make_cartpole)
    with pytest.raises(JobError, match="already registered in Gymnasium"):
        register_job("CartPole-v1", make_cartpole)


def test_malformed_registrations_are_refused():
    with pytest.raises(JobError, match="must be a callable or 'module:name'"):
        register_job("mine-v0", "make_cartpole")
    with pytest.raises(JobError, match="positive number of steps"):
        register_job("mine-v0", make_cartpole, budget=0)
    assert "mine-v0" not in {spec.id for spec in jobs()}


@pytest.mark.parametrize("id", ["CartPol-v1", "cartpole-v1", "CartPole", "CartPole-v99"])
def test_an_unknown_id_names_the_closest_known(id):
    with pytest.raises(JobError, match=f"no job '{id}'.*CartPole-v1"):
        open_job(id)


def test_an_unknown_id_close_to_ours_or_to_none():
    with pytest.raises(JobError, match="probe/value-v0"):
        open_job("probe/valu-v0")
    with pytest.raises(JobError, match="no known id is close"):
        open_job("%%%")


@pytest.mark.parametrize(
    ("job", "id"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("gymnasium.envs:CartPole-v1", "gymnasium.envs:CartPole-v1"),
        (f"{__name__}:make_cartpole", f"{__name__}:make_cartpole"),
        (f"{__name__}:Factories.cartpole", f"{__name__}:Factories.cartpole"),
        (make_cartpole, f"{__name__}:make_cartpole"),
        (CartPoleEnv, "gymnasium.envs.classic_control.cartpole:CartPoleEnv"),
        (partial(gym.make, "CartPole-v1"), "functools:partial"),
    ],
)
def test_ids_and_factories_open_as_many_streams_as_asked(job, id):
    stream = open_job(job, num_envs=3)
    assert isinstance(stream, GymnasiumStream)
    assert (stream.job_id, stream.num_envs) == (id, 3)
    assert stream.reset(0).first.all()
    stream.step([0, 1, 0])


def test_instances():
    stream = open_job(gym.make("CartPole-v1"))
    assert isinstance(stream, GymnasiumStream) and stream.job_id == "CartPole-v1"
    assert open_job(CartPoleEnv()).job_id == "CartPoleEnv"
    stream = open_job(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
    assert isinstance(stream, VectorStream)
    assert (stream.job_id, stream.num_envs, stream.step_limit) == ("CartPole-v1", 2, 500)
    stream = open_job(gym.make_vec("CartPole-v1", num_envs=2, max_episode_steps=40))
    assert (stream.step_limit, stream.notes) == (40, [])
    stream = open_job(ValueProbe(), num_envs=4)
    assert isinstance(stream, NativeStream)
    assert (stream.job_id, stream.num_envs) == ("ValueProbe", 4)


def test_factories_of_native_jobs_and_vector_environments():
    assert isinstance(open_job(ValueProbe, num_envs=2), NativeStream)
    stream = open_job(lambda: SyncVectorEnv([make_cartpole] * 3), num_envs=3)
    assert isinstance(stream, VectorStream) and stream.num_envs == 3


def test_kwargs_reach_gymnasium():
    stream = open_job("FrozenLake-v1", kwargs={"is_slippery": False, "map_name": "8x8"})
    assert stream.observation_space == spaces.Discrete(64)


def test_what_cannot_be_opened_says_why():
    env, shared = gym.make("CartPole-v1"), gym.make("CartPole-v1")
    vector = SyncVectorEnv([make_cartpole] * 2)
    for job, options, text in [
        (env, {"num_envs": 2}, "pass a factory"),
        (env, {"kwargs": {"a": 1}}, "made already"),
        (ValueProbe(), {"kwargs": {"a": 1}}, "made already"),
        (vector, {"num_envs": 3}, "vector environment of 2 streams"),
        (lambda: shared, {"num_envs": 2}, "new environment at every call"),
        ("CartPole-v1", {"num_envs": 0}, "num_envs must be a positive"),
        ("CartPole-v1", {"num_envs": True}, "num_envs must be a positive"),
        ("CartPole-v1", {"kwargs": {"wheels": 3}}, "cannot be made: TypeError.*wheels"),
        (lambda: 5, {}, "made 5, expected"),
        (7, {}, "a job is a registered id.*got 7"),
        ("no_such_module_here:make", {}, "cannot be imported.*PYTHONPATH"),
        (f"{__name__}:missing", {}, "no callable 'missing'"),
        (f"{__name__}:Factories.nothing", {}, "no callable 'Factories.nothing'"),
    ]:
        with pytest.raises(JobError, match=text):
            open_job(job, **options)


def test_what_was_made_is_closed_where_it_cannot_be_had_often_enough():
    made, closed = [], []

    class Counted(CartPoleEnv):
        def close(self):
            closed.append(self)
            super().close()

    def make():
        if len(made) == 2:
            raise RuntimeError("only two licences")
        made.append(Counted())
        return made[-1]

    with pytest.raises(JobError, match="only two licences"):
        open_job(make, num_envs=3)
    assert closed == made
