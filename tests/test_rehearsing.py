"""School in a night: it is rehearsed as it was when the learner left it, and only where there was one."""

import dataclasses
import itertools
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from small import WORK

import fifteen
from fifteen import checkpoint, rehearsing, sleeping
from fifteen.checkpoint import MANIFEST
from fifteen.config import SleepConfig
from fifteen.distilling import ROWS, VALUED
from fifteen.errors import CheckpointError, RunError
from fifteen.lessons import LESSONS
from fifteen.nights import night
from fifteen.rehearsing import School, families_of, picked, school_gradient, schoolwork, senses
from fifteen.remembering import SCHOOL
from fifteen.sleeping import fingerprint
from fifteen.store import Store

JOB = "probe/policy-v0"
FAMILIES = ("bandit/bernoulli", "control/pendulum")  # of different numbers of bins, alternatives and in order
NIGHT = SleepConfig(
    steps=8
)  # 16 sequences of school in an update: as many as there are, so that one gradient is compiled


@pytest.fixture(autouse=True, scope="module")
def little():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsing, "_LIFETIMES", 2)
        patch.setattr(rehearsing, "_TICKS", 256)
        rehearsing._opened.cache_clear()
        yield
    rehearsing._opened.cache_clear()


def changed_heads(learner, seed):
    """Other weights of what reads the memory, float32[P]."""
    weights = np.array(learner.state.weights)
    change = np.random.default_rng(seed).normal(0.0, 0.3, weights.shape).astype(np.float32)
    change[np.asarray(senses(jnp.arange(len(weights), dtype=jnp.float32), learner.config)).astype(int)] = 0.0
    return jnp.asarray(weights + change)


def schooled(families=FAMILIES, work=None):
    """As if: a policy that is not uniform, and the provenance of a school."""
    learner = fifteen.new("debug", seed=0, work=work or WORK.schooled())
    weights = changed_heads(learner, 1)
    learner.state = learner.state._replace(weights=weights, target=jnp.copy(weights), anchor=jnp.copy(weights))
    learner.provenance["schooled"] = [{"families": dict.fromkeys(families, ["any"])}]
    return learner


@pytest.fixture(scope="module")
def instance():
    """Lived on a job, and says something else than its parent."""
    learner = schooled()
    fifteen.work(learner, JOB, steps=600, seed=1)
    learner.state = learner.state._replace(weights=changed_heads(learner, 2))
    return learner


def weights(learner):
    return np.array(learner.state.weights)


def taught(seed=0, pupil=None, number=0):
    """By default the teacher lives it, too."""
    learner = schooled()
    teacher = learner.state.weights
    pupil = teacher if pupil is None else pupil
    return schoolwork(School(teacher, FAMILIES), pupil, learner.config, learner.work_config, seed, number)


def distance(learner, lived):
    _, nats = school_gradient(learner.state.weights, lived, jnp.arange(len(lived.x)), learner.config, 0.01)
    return float(nats)


def test_what_the_teacher_says_is_what_the_same_weights_say():
    learner, lived = schooled(), taught()
    gradient, nats = school_gradient(learner.state.weights, lived, jnp.arange(len(lived.x)), learner.config, 0.01)
    assert abs(float(nats)) < 1e-5 and float(jnp.linalg.norm(gradient)) < 1e-4
    other = school_gradient(changed_heads(learner, 2), lived, jnp.arange(len(lived.x)), learner.config, 0.01)
    assert float(other[1]) > 0.05
    # Nothing that stays in a steady mind is to change.
    assert not np.asarray(senses(other[0], learner.config)).any() and np.asarray(other[0]).any()


def test_lifetimes_of_all_families_are_lived_from_their_beginning():
    lived = taught()
    n = 2 * 2 * 256 // ROWS
    assert lived.x.shape == (n, ROWS, 32) and lived.value.shape[:2] == (n, ROWS // VALUED)
    members = np.asarray(lived.member)
    assert (members == 0).sum() == (members == 1).sum() and (np.ptp(members, axis=1) == 1).all()
    bins = np.asarray(lived.mask).sum(axis=(2, 3))
    assert [set(bins[members == n].tolist()) for n in range(2)] == [{5}, {11}]
    policy = np.asarray(lived.policy)
    np.testing.assert_allclose(policy.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    assert (policy[~np.asarray(lived.mask)] == 0.0).all() and np.ptp(policy[members == 1], axis=0).max() > 0.1
    # Attempts of one pull have a row to act in and one that ends them; a pendulum's 200 steps end once in 256 ticks.
    acted = np.asarray(lived.acted)
    ended = [int((acted[members == n] == 0).sum()) for n in range(2)]
    assert ended[1] == 2 and 0 < ended[0] <= 256
    again, others = taught(), (taught(seed=1), taught(number=1))
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(lived, again, strict=True))
    assert all((np.asarray(other.x) != np.asarray(lived.x)).any() for other in others)
    assert (picked(0, 1, 9, 5) == picked(0, 1, 9, 5)).all() and picked(0, 1, 9, 5).max() < 9


def test_the_pupil_lives_and_the_teacher_says_what_it_would_do_there():
    teacher = schooled()
    pupil = changed_heads(teacher, 2)
    lived, of_teacher = taught(pupil=pupil), taught()
    assert (np.asarray(lived.x) != np.asarray(of_teacher.x)).any()
    every = jnp.arange(len(lived.x))
    far, near = (school_gradient(who, lived, every, teacher.config, 0.01)[1] for who in (pupil, teacher.state.weights))
    assert abs(float(near)) < 1e-5 < 0.05 < float(far)


def test_the_sleeper_lives_through_school_at_first_and_with_every_practice(instance, monkeypatch):
    pupils, live = [], sleeping.schoolwork

    def noted(school, pupil, mind, work, seed, number):
        pupils.append((number, np.array(pupil)))
        return live(school, pupil, mind, work, seed, number)

    monkeypatch.setattr(sleeping, "schoolwork", noted)
    told = []
    fifteen.sleep([instance], config=NIGHT, callback=told.append)
    assert [number for number, _ in pupils] == [0, 1, 2, 3]
    assert (pupils[0][1] == weights(schooled())).all()
    assert all((one != other).any() for (_, one), (_, other) in itertools.pairwise(pupils))
    assert [one.step for one in told if one.practising] == [2, 4, 6]


def test_a_night_keeps_what_school_taught(instance):
    told, nights = [], {}
    for share in (0, NIGHT.schoolwork):
        config = dataclasses.replace(NIGHT, steps=60, schoolwork=share)
        nights[share] = fifteen.sleep([instance], config=config, callback=told.append)
    with_school, without = nights[NIGHT.schoolwork], nights[0]
    lived = taught(seed=7)  # not those that were rehearsed
    assert distance(instance, lived) > 0.05
    assert distance(with_school, lived) < 0.5 * distance(without, lived)
    assert {*told[0].losses} == {JOB} and {*told[-1].losses} == {JOB, "school"}
    assert told[60].losses["school"] < 1e-5  # the first update has nothing to learn there
    assert told[-1].losses[JOB] < 0.7 * told[60].losses[JOB]
    assert [one.provenance["slept"][-1]["school"] for one in (with_school, without)] == [True, False]
    parent = schooled()
    assert (senses(with_school.state.weights, parent.config) == senses(parent.state.weights, parent.config)).all()


def test_a_night_with_school_goes_on_bit_for_bit(instance, tmp_path):
    whole = fifteen.sleep([instance], seed=3, config=NIGHT)

    def go_on(**settings):
        return fifteen.sleep([instance], run=tmp_path, **{"seed": 3, "config": NIGHT, **settings})

    half = go_on(callback=lambda progress: progress.step == 3)
    assert half.provenance["slept"][-1]["steps_done"] == 3
    other = schooled()
    other.state = other.state._replace(weights=changed_heads(other, 5))
    with pytest.raises(CheckpointError, match=r"begun otherwise \(school differ"):
        go_on(school=other)
    assert (tmp_path / LESSONS / "pupil-1").is_dir()  # it had practised once
    rehearsing._opened.cache_clear()
    done = go_on()
    assert (weights(done) == weights(whole)).all() and not (tmp_path / LESSONS).exists()
    assert (weights(fifteen.sleep([instance], seed=3, config=NIGHT, school=other)) != weights(whole)).any()


def test_a_night_of_before_school_was_rehearsed_goes_on_without(instance, tmp_path):
    without = dataclasses.replace(NIGHT, schoolwork=0)
    whole = fifteen.sleep([instance], config=without)
    fifteen.sleep([instance], config=without, run=tmp_path, callback=lambda progress: progress.step == 3)
    arrays, manifest = checkpoint.read(tmp_path)
    assert manifest["about"].pop("school") is None and manifest["about"]["sleep"].pop("schoolwork") == 0
    assert manifest["about"]["mind"].pop("adapter") == 0
    assert manifest["about"]["sleep"].pop("orthogonal_rate")  # all of them are of later versions
    checkpoint.write(tmp_path, arrays, manifest)
    done = fifteen.sleep([instance], config=NIGHT, run=tmp_path)
    assert (weights(done) == weights(whole)).all() and not done.provenance["slept"][-1]["school"]


def test_a_night_whose_updates_were_others_is_not_gone_on_with(instance, tmp_path):
    fifteen.sleep([instance], config=NIGHT, run=tmp_path, callback=lambda progress: progress.step == 3)
    arrays, manifest = checkpoint.read(tmp_path)
    others = {name: array for name, array in arrays.items() if "mu" not in name.split(".")[-1]}
    assert len(others) < len(arrays)
    checkpoint.write(tmp_path, others, manifest)
    with pytest.raises(CheckpointError, match="a version whose updates were others: it cannot go on exactly"):
        fifteen.sleep([instance], config=NIGHT, run=tmp_path)


def test_without_a_school_there_is_none_to_rehearse(instance, monkeypatch):
    def refuse(*_):
        raise AssertionError("school was rehearsed")

    monkeypatch.setattr(sleeping, "schoolwork", refuse)
    unsteady = schooled(work=WORK)
    assert sleeping._school(None, unsteady.state.weights, None, unsteady, NIGHT) is None
    unschooled = fifteen.new("debug", seed=0, work=WORK.schooled())
    unschooled.state, unschooled.lived = instance.state, instance.lived
    slept = fifteen.sleep([unschooled], config=NIGHT)
    assert slept.provenance["slept"][-1]["school"] is False
    # Where only the parent teaches there is nothing to spoil.
    older = list(instance.lived.values())
    parent = schooled()
    slept = fifteen.sleep([parent], older=older, config=NIGHT)
    assert (weights(slept) == weights(parent)).all() and not slept.provenance["slept"][-1]["school"]


def test_a_school_that_cannot_be_is_refused(instance):
    stranger = schooled()
    stranger.state = stranger.state._replace(weights=fifteen.new("debug", seed=8).state.weights)
    small = fifteen.new("small", work=WORK.schooled())
    small.provenance["schooled"] = stranger.provenance["schooled"]
    for school, why in ((stranger, "other senses"), (small, "other senses"), (fifteen.new("debug"), "never schooled")):
        with pytest.raises(RunError, match=why):
            fifteen.sleep([instance], school=school, config=NIGHT)
    with pytest.raises(RunError, match="`school`"):
        fifteen.sleep([instance], school=schooled(), weights_only=True)
    known = {"schooled": [{"families": {"no/such": []}}, {"families": {FAMILIES[0]: [], "nolibrary/X": []}}]}
    assert families_of(known) == FAMILIES[:1] and families_of({}) == ()
    with pytest.raises(RunError, match="none of these families"):
        families_of({"schooled": known["schooled"][:1]})


def test_the_store_keeps_who_left_school(tmp_path):
    parent, day = schooled(), schooled()
    fifteen.work(day, JOB, steps=300, seed=1, run=tmp_path / "first")
    with Store(tmp_path / "store") as store:

        def slept(run, name):
            """The learner after the night, and who taught school."""
            told = night([tmp_path / run], store, config=NIGHT, run=tmp_path / name)
            return told.learner, checkpoint.read(tmp_path / name)[1]["about"]["school"]

        child, teacher = slept("first", "night-1")
        (folder,) = (tmp_path / "store" / SCHOOL).iterdir()
        assert teacher == fingerprint(parent.state.weights)
        assert (weights(fifteen.load(folder)) == weights(parent)).all()
        before = (folder / MANIFEST).stat().st_mtime_ns
        assert (weights(child) != weights(parent)).any()
        fifteen.work(child, JOB, steps=300, seed=2, run=tmp_path / "second")
        assert slept("second", "night-2")[1] == teacher
        assert [*folder.parent.iterdir()] == [folder] and (folder / MANIFEST).stat().st_mtime_ns == before
        (folder / MANIFEST).write_bytes(b"{")
        with pytest.raises(CheckpointError, match=r"as it left school.*cannot be read.*or delete"):
            slept("second", "night-3")
        shutil.rmtree(folder.parent)
        assert slept("second", "night-3")[1] == fingerprint(child.state.anchor)
    assert not (tmp_path / "store" / SCHOOL).exists()
