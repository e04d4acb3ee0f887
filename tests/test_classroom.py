"""The classroom against the host: what a lifetime perceives and does there is what it would at work."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.config import SIZES, SchoolConfig, WorkConfig
from fifteen.errors import JobError
from fifteen.hands import Hands
from fifteen.jobs.bandits import Gaussian
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.families import FAMILIES, find_families
from fifteen.jobs.family import draw_job, read_split
from fifteen.jobs.registry import jobs, open_job
from fifteen.model import Model, unravel
from fifteen.senses import Senses
from fifteen.updating import new_learner_state

CONFIG = SIZES["debug"]
WORK = WorkConfig().on_policy()
NAMES = ("bandit/bernoulli", "mdp/tabular", "control/pendulum")


def classroom(names=NAMES, each=4, **settings):
    families = find_families(names)
    school = SchoolConfig(rollout=32, **settings)
    templates = tuple(read_split().indices(family) for family in families)
    return Classroom(families, templates, each, config=CONFIG, school=school, work=WORK)


@pytest.mark.parametrize("name", FAMILIES)
def test_sensors_and_actions_are_those_of_work(name):
    room = Classroom(find_families([name]), ((0,),), 1, config=SIZES["small"], school=SchoolConfig(), work=WORK)
    desk = room.desks[0]
    job = draw_job(FAMILIES[name], 0)
    senses, hands = Senses(job.observation_space, 64), Hands(job.action_space)
    job.observation_space.seed(0)
    for _ in range(5):
        observation = job.observation_space.sample()
        np.testing.assert_allclose(desk.sensors(observation), senses.encode(observation).vector[: desk.size], rtol=1e-6)
    assert (senses.continuous[: desk.size] == desk.continuous).all()
    for choice in range(desk.bins):
        there = hands.decode(np.array([choice]))
        np.testing.assert_allclose(desk.action(jnp.int32(choice)), there, rtol=1e-6, atol=1e-6)
        if desk.ordered:  # what a teacher does is told as the bins around it
            taught = room.teachings[0].taught(jnp.asarray(there))
            np.testing.assert_allclose(taught[choice], 1.0, atol=1e-5)


def test_lifetimes_live_as_ticks_come():
    room = classroom(projected=0.0, reward_units=(1.0, 1.0))
    model = unravel(new_learner_state(CONFIG, WORK, 0).weights, CONFIG)
    lifetimes = room.enrol(jax.random.key(0))
    lived, rollout = jax.jit(room.live)(model, lifetimes, jnp.ones(3))
    percepts = jax.vmap(jax.vmap(lambda frame: room.layout.percept(frame, None)))(rollout.frames)
    percepts = jax.tree.map(np.asarray, percepts)
    ends = percepts.terminated | percepts.truncated
    assert percepts.first[:, 0].all()
    assert (percepts.first[:, 1:] == ends[:, :-1]).all()  # an ending is a tick of its own, and a beginning follows
    assert (percepts.reward[percepts.first] == 0.0).all()
    assert (percepts.step[percepts.first] == 0).all()
    mdp = np.flatnonzero(np.asarray(room.member) == 1)
    assert (percepts.step[mdp][percepts.truncated[mdp]] == 10).all()
    assert (percepts.after_truncation == (percepts.first & (percepts.step == 0) & after(ends, lifetimes))).all()
    choice = np.asarray(jax.vmap(jax.vmap(room.layout.decision))(rollout.decisions).choice)[:, :, 0]
    previous = percepts.previous[:, :, 0]
    assert (previous[:, 1:] == np.where(percepts.first[:, 1:], -1, choice[:, :-1])).all()
    assert np.isfinite(rollout.frames).all()
    np.testing.assert_allclose(rollout.teacher.sum(axis=2), 1.0, rtol=1e-5)
    assert (np.asarray(lived.rollouts) == np.asarray(lifetimes.rollouts) - 1).all()
    # A dense MDP has its return counted from the rewards that arrived.
    rewards = np.asarray(lived.returned)
    assert np.isfinite(rewards).all()


def after(ends, lifetimes):
    """bool[N, T]: the row before was the last of its attempt."""
    before = np.zeros((len(ends), 1), bool)
    return np.concatenate([before, ends[:, :-1]], axis=1)


def test_what_is_over_is_renewed_and_graded():
    room = classroom(each=2)
    lifetimes = room.enrol(jax.random.key(0))
    over = np.array([True, False, True, False, False, True])
    rollouts = np.where(over, 0, lifetimes.rollouts).astype(np.int32)
    scores = np.arange(18, dtype=np.float32).reshape(6, 3)
    lifetimes = lifetimes._replace(
        rollouts=jnp.asarray(rollouts), scores=jnp.asarray(scores), attempt=jnp.full(6, 7, jnp.int32)
    )
    renewed, grades = room.renew(lifetimes)
    assert (np.asarray(renewed.attempt) == np.where(over, 0, 7)).all()
    member = np.asarray(room.member)
    for family in range(3):
        chosen = over & (member == family)
        assert int(grades.lifetimes[family]) == chosen.sum()
        np.testing.assert_allclose(grades.scores[family], scores[chosen].sum(axis=0))
    means = [np.asarray(room_jobs) for room_jobs in jax.tree.leaves(renewed.jobs[0])]
    old = [np.asarray(leaf) for leaf in jax.tree.leaves(lifetimes.jobs[0])]
    changed = [(a != b).reshape(2, -1).any(axis=1) for a, b in zip(means, old, strict=True)]
    assert (np.any(changed, axis=0) == over.reshape(2, 3)[:, 0]).all()


def test_mixed_sensors_and_permuted_actions_are_the_same_job():
    room = classroom(("bandit/gaussian",), each=64, projected=1.0)
    lifetimes = room.enrol(jax.random.key(1))
    assert (np.sort(np.asarray(lifetimes.slots), axis=1) == np.arange(5)).all()
    model = Model(CONFIG, np.random.default_rng(0))
    _, rollout = jax.jit(partial(room.live, jax.tree.map(jnp.asarray, model)))(lifetimes, jnp.ones(1))
    (jobs,) = lifetimes.jobs
    assert isinstance(jobs, Gaussian)
    best = np.asarray(jobs.means).argmax(axis=1)
    taught = np.asarray(rollout.teacher).argmax(axis=2)
    slots = np.asarray(lifetimes.slots)
    assert (np.take_along_axis(slots, taught, axis=1) == best[:, None]).all()


def test_an_explorer_notes_what_happened_in_its_own_lifetime_only():
    room = classroom(("bandit/bernoulli",), each=8)
    lifetimes = room.enrol(jax.random.key(1))
    model = jax.tree.map(jnp.asarray, Model(CONFIG, np.random.default_rng(0)))
    lived, rollout = jax.jit(partial(room.live, model))(lifetimes, jnp.ones(1))
    counts = np.asarray(lived.notes[0]).sum(axis=1) - 2.0  # the prior's
    percepts = jax.vmap(jax.vmap(lambda frame: room.layout.percept(frame, None)))(rollout.frames)
    assert (counts.sum(axis=1) == (~np.asarray(percepts.first)).sum(axis=1)).all()  # a first observation has no pull
    over = lived._replace(rollouts=jnp.asarray(np.arange(8) % 2, jnp.int32))
    renewed, _ = room.renew(over)
    np.testing.assert_array_equal(renewed.notes[0][1::2], lived.notes[0][1::2])
    assert (np.asarray(renewed.notes[0])[::2] == 1.0).all()


def test_every_family_is_split_registered_and_referred_to():
    split = read_split()
    known = {spec.id for spec in jobs()}
    for name, family in FAMILIES.items():
        assert set(split.indices(family)) | set(split.indices(family, held_out=True)) == set(
            range(len(family.templates))
        )
        assert f"{name}-v0" in known
        assert family.reference


def test_a_family_job_opens_by_id():
    stream = open_job("grid/frozen-lake-v0", kwargs={"seed": 3, "template": "river"})
    assert stream.reset(0).first.all()
    stream.close()
    with pytest.raises(JobError, match="no template 'nowhere'"):
        open_job("grid/frozen-lake-v0", kwargs={"template": "nowhere"})


def test_an_unknown_family_is_refused():
    with pytest.raises(JobError, match="no family 'bandits'"):
        find_families(["bandits"])


def test_a_frame_made_on_the_device_is_the_one_made_on_the_host():
    layout = classroom(each=1).layout
    random = np.random.default_rng(0)
    written = np.zeros(layout.percept_size, np.float32)
    vector = random.standard_normal(layout.slots).astype(np.float32)
    layout.write_percept(written, vector, 0.5, True, False, True, (False, True), 7, True, np.array([3.0]))
    percept = layout.percept(jnp.asarray(written), None)
    assert (np.asarray(layout.frame(percept)) == written).all()
