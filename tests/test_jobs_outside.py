"""Environments of other libraries as jobs and families. Tests that need a library are skipped where it is missing."""

import subprocess
import sys
from dataclasses import replace
from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_checks import quick_jit
from gymnasium import spaces
from jax import Array

import fifteen
from fifteen.config import SIZES, SchoolConfig, WorkConfig
from fifteen.errors import JobError
from fifteen.hands import Hands
from fifteen.jobs import gymnax_family, references, xland_family
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.families import FAMILIES, OUTSIDE, find_families
from fifteen.jobs.family import OutsideFamily, Split, read_split
from fifteen.jobs.native import Job
from fifteen.jobs.registry import open_job
from fifteen.losses import policy_loss
from fifteen.model import unravel
from fifteen.senses import Senses
from fifteen.updating import new_learner_state

MISSING = "needs the extra jaxenvs in an environment of its own, see docs/school.md"
SMALL = SchoolConfig(lifetimes=16, rollout=16, minibatches=2)
ROOMY = replace(SIZES["debug"], slots=50)  # the smallest mind that sees a view of XLand-MiniGrid


@pytest.fixture
def gymnax():
    return pytest.importorskip("gymnax", reason=MISSING)


@pytest.fixture
def xminigrid():
    return pytest.importorskip("xminigrid", reason=MISSING)


@final
class Waiting(Job):
    """Pays 2 in each of its three steps, whatever is done."""

    step_limit: int = eqx.field(static=True, default=3)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(0.0, 1.0, (2,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(3)

    def reset(self, key: Array) -> tuple[Array, Array]:
        shown = jax.random.uniform(key, (2,))
        return shown, shown

    def step(self, state: Array, action: Any, key: Array) -> tuple[Array, Array, Array, Array]:
        return state, state, jnp.float32(2.0), jnp.array(False)


@pytest.fixture
def waiting(monkeypatch):
    family = OutsideFamily("theirs/waiting", ("theirs 1.0",), 40, Waiting())
    monkeypatch.setitem(OUTSIDE, "theirs", lambda name: family)
    return family


def classroom(names, **settings):
    families = find_families(names)
    templates = tuple(read_split().indices(family) for family in families)
    school = SchoolConfig(rollout=32, **settings)
    return Classroom(families, templates, 2, config=SIZES["small"], school=school, work=WorkConfig().on_policy())


# ------------------------------------------------------------------------------------------ without any library


@pytest.mark.parametrize(
    ("name", "module"), [("gymnax/CartPole-v1", "gymnax"), ("xland/MiniGrid-Empty-5x5", "xminigrid")]
)
def test_a_missing_library_says_what_to_install(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    for attempt in (open_job, lambda name: find_families([name]), lambda name: fifteen.school(None, [name], 100)):
        with pytest.raises(JobError, match=rf"{name} needs {module}, .*: pip install 'fifteen\[jaxenvs\]'"):
            attempt(name)


def test_no_library_is_imported_before_it_is_asked_for():
    program = "import sys, fifteen, fifteen.cli; print(*{'gymnax', 'xminigrid', 'flax', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("name", ["gymnax", "gymnax/", "xland", "elsewhere/CartPole-v1"])
def test_what_names_no_environment_of_others_is_unknown(name):
    with pytest.raises(JobError, match=f"no family '{name}'.*gymnax/NAME, xland/NAME"):
        find_families([name])
    with pytest.raises(JobError, match=f"no job '{name}'.*gymnax/NAME, xland/NAME"):
        open_job(name)


def test_where_there_is_no_teacher_there_is_no_loss(waiting):
    room = classroom(["theirs/waiting", "bandit/bernoulli"])
    model = unravel(new_learner_state(SIZES["small"], WorkConfig(), 0).weights, SIZES["small"])
    _, rollout = jax.jit(room.live)(model, room.enrol(jax.random.key(0)), jnp.ones(2))
    silent = np.asarray(room.member) == 0
    assert (np.asarray(rollout.teacher)[silent] == 0.0).all()
    np.testing.assert_allclose(rollout.teacher[~silent].sum(axis=2), 1.0, rtol=1e-5)
    logits, mask = jnp.array([[3.0, -1.0, 0.5]]), jnp.array([[True, True, False]])
    loss, slope = jax.value_and_grad(policy_loss)(logits, jnp.zeros((1, 3)), mask)
    assert float(loss) == 0.0
    assert (np.asarray(slope) == 0.0).all()


def test_a_school_scores_others_by_their_raw_return(waiting, tmp_path):
    learner = fifteen.new("debug")
    progress = fifteen.school(learner, ["theirs/waiting"], 16 * 16 * 6, config=SMALL, run=tmp_path)
    assert progress.scores == {"theirs/waiting": (6.0, 6.0, 6.0)}
    assert progress.metrics["teacher_loss"] == 0.0
    assert learner.provenance["schooled"][-1]["families"] == {"theirs/waiting": ["theirs 1.0"]}
    page = (tmp_path / "report.html").read_text()
    assert "Raw returns, in no mean: theirs/waiting." in page
    assert "Learning within a lifetime" not in page


def test_only_others_go_without_a_split_a_reference_and_a_teacher(waiting, monkeypatch):
    own = FAMILIES["bandit/bernoulli"]
    empty = Split({}, {}, "")
    assert empty.indices(waiting) == (0,)
    assert empty.indices(waiting, held_out=True) == ()
    with pytest.raises(JobError, match="the split knows no family 'bandit/bernoulli'"):
        empty.indices(own)
    monkeypatch.setattr(references, "references", dict)
    assert references.normalised(waiting, (0,), 6.0) == 6.0
    with pytest.raises(JobError, match="bandit/bernoulli has no reference"):
        references.normalised(own, (0,), 6.0)
    with pytest.raises(JobError, match="theirs/waiting has no teacher"):
        references.measure(waiting, jobs=2)


# ------------------------------------------------------------------------------------------------------- gymnax


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-misc", "Pendulum-v1"])
def test_gymnax_jobs_move_as_gymnax_does(gymnax, name):
    """And the observation that ends an attempt is the job's own, not the first of the next."""
    env, params = gymnax.make(name)
    job = gymnax_family.gymnax_family(name).job
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs_seen, theirs = env.reset(jax.random.key(3), params)
    ours, seen = jax.jit(job.reset)(jax.random.key(3))
    np.testing.assert_array_equal(seen, theirs_seen)
    step = jax.jit(job.step)
    for moment in range(params.max_steps_in_episode):
        key = jax.random.key(moment)
        action = jnp.array([1.5]) if name == "Pendulum-v1" else jnp.int32(1)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            _, theirs, reward, terminated, truncated, info = env.step(key, theirs, action, params)
        ours, seen, *told = step(ours, action, jax.random.split(key)[0])
        np.testing.assert_allclose(seen, info["final_observation"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(told, [reward, terminated], rtol=1e-5, atol=1e-6)
        if terminated or truncated:
            break
    assert bool(truncated) == (name == "Pendulum-v1")
    assert bool(terminated) != bool(truncated)


@pytest.mark.parametrize(
    ("name", "ends", "terminates"),
    [
        ("CartPole-v1", range(5, 30), True),
        ("MountainCar-v0", [200], False),
        ("BernoulliBandit-misc", [100], False),
        ("DeepSea-bsuite", [8], True),  # in the very step of its limit
    ],
)
def test_a_gymnax_step_limit_truncates(gymnax, name, ends, terminates):
    stream = open_job(f"gymnax/{name}")
    tick = stream.reset(0)
    steps = 0
    while not (tick.terminated | tick.truncated).any():
        tick = stream.step([1])
        steps += 1
    assert steps in ends
    assert (tick.terminated.all(), tick.truncated.all()) == (terminates, not terminates)
    assert stream.step([1]).first.all()
    assert (stream.notes, dict(stream.faults)) == ([], {})


@pytest.mark.parametrize("name", ["CartPole-v1", "FourRooms-misc", "FrozenLake-misc", "Pendulum-v1"])
def test_gymnax_sensors_and_actions_are_those_of_work(gymnax, name):
    desk = classroom([f"gymnax/{name}"]).desks[0]
    job = gymnax_family.gymnax_family(name).job
    senses, hands = Senses(job.observation_space, 64), Hands(job.action_space)
    _, seen = job.reset(jax.random.key(0))
    assert seen.dtype == job.observation_space.dtype or seen.dtype == jnp.int32
    sensation = senses.encode(np.asarray(seen))
    assert sensation.faults == ()
    np.testing.assert_allclose(desk.sensors(seen), sensation.vector[: desk.size], rtol=1e-6)
    for choice in range(desk.bins):
        np.testing.assert_allclose(desk.action(jnp.int32(choice)), hands.decode(np.array([choice])), atol=1e-6)


def test_a_gymnax_job_goes_on_from_its_state(gymnax):
    stream, again = open_job("gymnax/CartPole-v1", num_envs=2), open_job("gymnax/CartPole-v1", num_envs=2)
    stream.reset(5)
    for _ in range(12):
        stream.step([0, 1])
    again.restore(stream.state())
    for moment in range(20):
        one, other = stream.step([moment % 2, 1]), again.step([moment % 2, 1])
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.terminated, other.terminated)


def test_a_school_of_gymnax_goes_on_exactly(gymnax, tmp_path):
    names, steps = ["gymnax/CartPole-v1", "bandit/bernoulli"], 6 * 16 * 16
    whole, parts = fifteen.new("debug"), fifteen.new("debug")
    progress = fifteen.school(whole, names, steps, config=SMALL)
    assert progress.metrics["teacher_loss"] > 0.0
    fifteen.school(parts, names, steps, config=SMALL, run=tmp_path, callback=lambda p: p.steps >= steps // 2)
    again = fifteen.new("debug")
    fifteen.school(again, names, steps, config=SMALL, run=tmp_path)
    assert (np.asarray(again.state.weights) == np.asarray(whole.state.weights)).all()
    assert whole.provenance["schooled"][-1]["families"]["gymnax/CartPole-v1"][0].startswith("gymnax 1.")
    log = fifteen.work(whole, "gymnax/CartPole-v1", steps=150, learn="context")
    assert len(log.returns) > 2
    assert (log.returns == log.lengths).all()


def test_what_gymnax_cannot_give_is_said(gymnax, monkeypatch):
    with pytest.raises(JobError, match="no job 'gymnax/CartPol-v1': the library has CartPole-v1"):
        open_job("gymnax/CartPol-v1")
    with pytest.raises(JobError, match="gymnax/Reacher-misc has the action space"):
        fifteen.school(fifteen.new("debug"), ["gymnax/Reacher-misc"], 100, config=SMALL)
    monkeypatch.setattr(gymnax_family.metadata, "version", lambda name: "0.0.9")
    with pytest.raises(JobError, match="needs gymnax 1.0, 0.0.9 merges"):
        open_job("gymnax/CartPole-v1")


# ------------------------------------------------------------------------------------------------ XLand-MiniGrid


FORWARD, CLOCKWISE = 0, 1


def test_an_xland_goal_terminates_and_its_step_limit_truncates(xminigrid):
    stream = open_job("xland/MiniGrid-Empty-5x5", num_envs=2)
    tick = stream.reset(0)
    way = [FORWARD, FORWARD, CLOCKWISE, FORWARD, FORWARD]  # from the upper left corner to the goal at the lower right
    ended, paid = np.zeros(2, int), np.zeros(2)
    for moment in range(100):
        tick = stream.step([way[moment % 6] if moment % 6 < 5 else FORWARD, CLOCKWISE])
        if moment == 4:
            assert tick.terminated.tolist() == [True, False]
            assert not tick.truncated.any()
            np.testing.assert_allclose(tick.rewards, [1.0 - 0.9 * 5 / 100, 0.0], rtol=1e-6)
        ended += tick.terminated
        paid += tick.rewards
    assert ended.tolist() == [16, 0]
    assert paid[1] == 0.0
    assert tick.truncated.tolist() == [False, True]
    assert (stream.notes, dict(stream.faults)) == ([], {})


def test_an_xland_job_sees_what_the_library_shows(xminigrid):
    env, params = xminigrid.make("MiniGrid-EmptyRandom-5x5", view_size=5)
    job = xland_family.xland_job("MiniGrid-EmptyRandom-5x5")
    assert job.step_limit == params.max_steps

    @quick_jit
    def both(key):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            begun = env.reset(params, jax.random.key_data(key))
            moved = env.step(params, begun, jnp.int32(CLOCKWISE))
        state, seen = job.reset(key)
        _, seen_then, reward, terminated = job.step(state, CLOCKWISE, key)
        return (begun.observation, moved.observation), (seen, seen_then), reward, terminated

    shown, seen, reward, terminated = both(jax.random.key(1))
    assert (np.asarray(shown[0]) != np.asarray(shown[1])).any()
    for ours, theirs in zip(seen, shown, strict=True):
        np.testing.assert_array_equal(np.asarray(ours).reshape(5, 5, 2), theirs)
        assert job.observation_space.contains(np.asarray(ours))
    assert (float(reward), bool(terminated)) == (0.0, False)


def test_a_ruleset_is_what_an_xland_job_hides(xminigrid):
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
    from xminigrid.core.goals import AgentNearGoal
    from xminigrid.core.rules import EmptyRule
    from xminigrid.types import RuleSet

    ball = TILES_REGISTRY[Tiles.BALL, Colors.RED]
    rules = EmptyRule().encode()[None]
    job = xland_family.xland_job("XLand-MiniGrid-R1-9x9", RuleSet(AgentNearGoal(ball).encode(), rules, ball[None]))
    stream = open_job(job, num_envs=8)
    stream.reset(0)
    random = np.random.default_rng(0)
    ticks = [stream.step(list(random.integers(0, 3, 8))) for _ in range(200)]
    won = np.array([tick.terminated for tick in ticks])
    rewards = np.array([tick.rewards for tick in ticks])
    assert won.any()
    assert (rewards[won] > 0.0).all() and (rewards[~won] == 0.0).all()


def test_a_school_takes_an_xland_family(xminigrid):
    learner = fifteen.new(ROOMY)
    before = np.asarray(learner.state.weights)
    progress = fifteen.school(learner, ["xland/MiniGrid-EmptyRandom-5x5"], 16 * 16 * 2, config=SMALL)
    assert (np.asarray(learner.state.weights) != before).any()
    assert np.isfinite(list(progress.metrics.values())).all()
    assert progress.metrics["teacher_loss"] == 0.0
    with pytest.raises(JobError, match="at most 32 dimensions"):
        fifteen.school(fifteen.new("debug"), ["xland/MiniGrid-EmptyRandom-5x5"], 100, config=SMALL)


@pytest.mark.parametrize(
    ("name", "ruleset", "match"),
    [
        ("MiniGrid-Emty-5x5", None, "no job 'xland/MiniGrid-Emty-5x5': the library has MiniGrid-Empty-5x5"),
        ("MiniGrid-Playground", None, "has no goal"),
        ("XLand-MiniGrid-R1-9x9", None, "has no goal but that of a ruleset"),
        ("MiniGrid-Empty-5x5", (), "takes no ruleset"),
    ],
)
def test_what_xland_cannot_give_is_said(xminigrid, name, ruleset, match):
    with pytest.raises(JobError, match=match):
        xland_family.xland_job(name, ruleset)
