"""Sleep: one learner that does what its instances learned; what cannot be pooled is refused, and nobody is harmed."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fifteen
from fifteen import sleeping
from fifteen.config import SleepConfig
from fifteen.distilling import _places, begin, dream, gradient, learn, picked
from fifteen.errors import CheckpointError, NightError, RunError
from fifteen.lived import bounds
from fifteen.model import unravel

JOBS = ("probe/policy-v0", "probe/action-v0")
NIGHT = SleepConfig(steps=150)


@pytest.fixture(scope="module")
def instances():
    found = []
    for job in JOBS:
        learner = fifteen.new("debug", seed=0)
        fifteen.work(learner, job, steps=1_000, seed=1)
        found.append(learner)
    return found


def weights(learner):
    return np.array(learner.state.weights)


def test_the_sleeper_does_every_job_that_its_instances_learned(instances):
    before = [weights(one) for one in instances]
    told = []
    slept = fifteen.sleep(instances, config=NIGHT, callback=told.append)
    for job in JOBS:
        assert fifteen.evaluate(fifteen.new("debug", seed=0), job, episodes=40).mean < 0.6
        assert fifteen.evaluate(slept, job, episodes=40).mean > 0.9
    assert all((weights(one) == old).all() for one, old in zip(instances, before, strict=True))
    assert [progress.step for progress in told] == list(range(1, 151))
    assert all(progress.losses.keys() == set(JOBS) for progress in told)
    assert told[0].seconds_left is None and told[-1].seconds_left == 0.0 < told[20].seconds_left
    assert (slept.state.anchor == slept.state.weights).all()
    assert slept.provenance["slept"][0]["jobs"] == list(JOBS)


def test_one_instance_alone_does_not_do_the_other_ones_job(instances):
    """Or else the test before this one would show nothing."""
    assert fifteen.evaluate(instances[1], JOBS[0], episodes=40).mean < 0.6


def test_a_night_is_the_same_for_the_same_seed_and_can_be_ended(instances):
    short = SleepConfig(steps=10)
    one, two = (fifteen.sleep(instances, seed=3, config=short) for _ in range(2))
    assert (weights(one) == weights(two)).all()
    ended = fifteen.sleep(instances, seed=3, config=short, callback=lambda progress: progress.step == 2)
    assert not (weights(ended) == weights(one)).all() and np.isfinite(weights(ended)).all()


def test_a_night_of_steady_minds_changes_only_what_reads_their_memory():
    work = dataclasses.replace(fifteen.new("debug").work_config, steady=True)
    parent, found = fifteen.new("debug", seed=0, work=work), []
    for job in JOBS:
        learner = fifteen.new("debug", seed=0, work=work)
        fifteen.work(learner, job, steps=1_000, seed=1)
        found.append(learner)
    slept = fifteen.sleep(found, config=NIGHT)
    before, after = (unravel(one.state.weights, one.config) for one in (parent, slept))
    for name in ("sense", "sense_norm", "layers", "factor_code", "bin_code"):
        for old, new in zip(jax.tree.leaves(getattr(before, name)), jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(old, new)
    for job in JOBS:
        assert fifteen.evaluate(slept, job, episodes=40).mean > 0.9


@pytest.mark.parametrize("adapter", [0, 24])
def test_the_steps_of_the_matrices_that_jobs_share_are_orthogonal(adapter):
    mind = dataclasses.replace(fifteen.new("debug").config, adapter=adapter)
    origin = fifteen.new(mind, seed=0).state.weights
    change = [jnp.asarray(np.random.default_rng(n).standard_normal(origin.shape), jnp.float32) for n in (0, 1)]

    def step_of(steady):
        study = learn(begin(origin, NIGHT, mind, steady), change, origin, NIGHT, mind, steady)
        return unravel(study.weights - origin, mind)

    ours, adam = step_of(True), step_of(False)
    shared = [ours.trunk] + ([ours.adapter.widen, ours.adapter.narrow] if ours.adapter else [])
    assert len(shared) == (3 if adapter else 1)
    for layer in shared:
        stretched = np.linalg.svd(layer.weight, compute_uv=False) / NIGHT.orthogonal_rate
        assert (stretched > 0.5).all() and (stretched < 1.3).all(), stretched
    ratio = NIGHT.steady_learning_rate / NIGHT.learning_rate  # Adam, as everywhere else
    for name in ("policy", "value", "advantage_out", "sense"):
        mine, theirs = getattr(ours, name).weight, getattr(adam, name).weight
        np.testing.assert_allclose(mine, ratio * theirs, rtol=1e-3, atol=1e-6)


def stop_at(step):
    return lambda progress: progress.step == step


def bare(learner):
    """The same learner without anything that was lived."""
    return fifteen.Learner(learner.config, learner.state, learner.statistics, provenance=learner.provenance)


def test_a_night_that_was_stopped_goes_on_bit_for_bit(instances, tmp_path, monkeypatch):
    short, older = SleepConfig(steps=12), list(instances[0].lived.values())
    whole = fifteen.sleep(instances, older=older, seed=3, config=short)

    def night(callback=None, who=instances, **settings):
        return fifteen.sleep(who, run=tmp_path / "night", **{"seed": 3, "config": short, **settings}, callback=callback)

    half = night(stop_at(5), older=older)
    assert half.provenance["slept"][0]["steps_done"] == 5 and (weights(half) != weights(whole)).any()
    for other, named in (({"seed": 4}, "seed"), ({"config": SleepConfig(steps=13)}, "sleep"), ({}, "instances")):
        with pytest.raises(CheckpointError, match=rf"begun otherwise \({named} differ"):
            night(**other, who=instances if other else instances[::-1])
    with pytest.raises(RunError, match="a night that rehearses"):
        night(older=2 * older)
    told = []

    def terminate(progress):
        told.append(progress.step)
        if progress.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    # It goes on without what was lived: its folder has that.
    stopped = night(terminate, who=[bare(one) for one in instances])
    assert told[0] == 6 and told[-1] == stopped.provenance["slept"][0]["steps_done"] == 8
    # Killed within the night: what was saved last counts, and is done again from there.
    monkeypatch.setattr(sleeping, "SAVE_EVERY_S", 0.0)

    def kill(progress):
        if progress.step == 11:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        night(kill)
    assert (tmp_path / "night" / "lessons").is_dir()
    told.clear()
    done = night(terminate)
    assert told == [11, 12]
    assert (weights(done) == weights(whole)).all() and done.provenance["slept"][0]["steps_done"] == 12
    # It is over: its lessons are gone, and nothing is done again.
    assert not (tmp_path / "night" / "lessons").exists()
    assert (weights(night(told.append, who=[bare(one) for one in instances])) == weights(whole)).all()
    assert told == [11, 12]
    assert done.provenance["slept"][0]["jobs"] == [*JOBS, JOBS[0]]


def test_a_night_killed_before_its_first_update_begins_anew(instances, tmp_path, monkeypatch):
    short = SleepConfig(steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(sleeping.desk, "save", lambda *_: 1 / 0)  # when the lessons are written, and nothing else
        with pytest.raises(ZeroDivisionError):
            fifteen.sleep(instances, config=short, run=tmp_path)
    slept = fifteen.sleep(instances[:1], config=short, run=tmp_path)
    assert (weights(slept) == weights(fifteen.sleep(instances[:1], config=short))).all()


def test_weights_alone_are_merged_and_nothing_that_was_lived_is_read(instances):
    strangers = [bare(one) for one in instances]
    parent = np.array(instances[0].state.anchor)
    merged = fifteen.sleep(strangers, weights_only=True)
    drifts = [weights(one) - parent for one in instances]
    drift = weights(merged) - parent
    assert all(drift @ one > 0.3 * np.linalg.norm(drift) * np.linalg.norm(one) for one in drifts)
    assert (merged.state.anchor == merged.state.weights).all()
    assert merged.provenance["slept"][0]["jobs"] == list(JOBS) and merged.provenance["slept"][0]["weights_only"]
    # Who has learned nothing takes nothing away.
    again = fifteen.sleep([*strangers, fifteen.new("debug", seed=0)], weights_only=True)
    assert (weights(again) == weights(merged)).all()
    alone = fifteen.sleep(strangers[:1], weights_only=True)
    np.testing.assert_allclose(weights(alone), weights(instances[0]), atol=1e-6)
    assert np.isfinite(fifteen.evaluate(merged, JOBS[0], episodes=10).mean)


def test_weights_alone_that_cannot_be_merged_are_refused(instances, tmp_path):
    with pytest.raises(RunError, match="at least one instance"):
        fifteen.sleep([], weights_only=True)
    with pytest.raises(RunError, match="instance 2 has another parent"):
        fifteen.sleep([*instances, fifteen.new("debug", seed=7)], weights_only=True)
    with pytest.raises(RunError, match="instance 1 is of another size"):
        fifteen.sleep([instances[0], fifteen.new("small")], weights_only=True)
    with pytest.raises(RunError, match="still their parent's"):
        fifteen.sleep([fifteen.new("debug", seed=0)], weights_only=True)
    with pytest.raises(RunError, match="drop `older` and `run`"):
        fifteen.sleep(instances, weights_only=True, run=tmp_path)
    with pytest.raises(RunError, match="drop .*`practising`"):
        fifteen.sleep(instances, weights_only=True, practising=lambda *_: {})
    with pytest.raises(RunError, match="only steady minds"):
        fifteen.sleep(instances, practising=lambda *_: {})
    sick = bare(instances[0])
    sick.state = sick.state._replace(weights=sick.state.weights.at[0].set(jnp.nan))
    with pytest.raises(RunError, match="instance 1 has weights that are not finite"):
        fifteen.sleep([instances[0], sick], weights_only=True)


def test_older_jobs_are_rehearsed_with_the_parent_as_their_teacher(instances):
    parent = fifteen.sleep(instances[:1], config=NIGHT)
    child = fifteen.Learner(parent.config, parent.state, parent.statistics)
    fifteen.work(child, JOBS[1], steps=1_000, seed=2)
    older = list(instances[0].lived.values())
    slept = fifteen.sleep([child], older=older, config=NIGHT)
    assert fifteen.evaluate(slept, JOBS[0], episodes=40).mean > 0.9
    assert fifteen.evaluate(slept, JOBS[1], episodes=40).mean > 0.9
    assert slept.provenance["slept"][-1]["jobs"] == [JOBS[1], JOBS[0]]
    assert slept.provenance["slept"][-1]["older"] == [JOBS[0]]


def test_what_a_lifetime_leaves_is_what_was_lived(instances):
    (lived,) = instances[0].lived.values()
    percepts = lived.batch.frames
    assert percepts.shape[1] == 512 and lived.job == JOBS[0] and not lived.wipe
    assert percepts[0, 0, lived.layout.slots + 1] == 1.0  # they are spread from the lifetime's beginning on
    shown, first = percepts[..., 0], percepts[..., lived.layout.slots + 1]
    assert set(np.unique(shown[first == 1])) == {-1.0, 1.0}
    assert np.isfinite(lived.batch.memory).all()


def test_a_steady_mind_keeps_longer_sequences_where_there_are_enough():
    def rows_of(lifetime):
        return lambda rows: max(0, (lifetime - rows) // 8 + 1)

    assert bounds(rows_of(8_000), steady=True) == (6, 4096) and bounds(rows_of(8_000), steady=False) == (96, 512)
    assert bounds(rows_of(5_000), steady=True) == (24, 1024)  # of 4,096 rows there are some, but of one moment
    assert bounds(rows_of(130), steady=True) == (1, 128) and bounds(rows_of(100), steady=False) is None


def test_rows_in_a_mixed_order_keep_what_their_teacher_says():
    """A steady mind's rows are mixed; each goes with the same decision and targets as where they are in order."""
    ordered_work = fifteen.new("debug").work_config
    steady = dataclasses.replace(ordered_work, steady=True)
    learner = fifteen.new("debug", seed=0, work=steady)
    fifteen.work(learner, JOBS[0], steps=1_000, seed=1)
    (lived,) = learner.lived.values()
    frames = np.array(lived.batch.frames)
    frames[..., 1] = np.random.default_rng(0).normal(size=frames.shape[:2])  # an idle sensor tells the rows apart
    batch = jax.tree.map(jnp.asarray, lived.batch._replace(frames=frames))

    def told(work):
        """By row: its decision, what is said of its policy and, where there is, of its value."""
        rest = (lived.statistics, jnp.asarray(lived.continuous), learner.config, work, lived.layout, False, False)
        found = jax.tree.map(np.asarray, dream(learner.state.weights, batch, *rest))
        rows = {}
        for n, m in np.ndindex(found.policy.shape[:2]):
            value = found.value[n, m // 4] if m % 4 == 0 else None
            rows[found.rows.frames[n, m, 1]] = found.rows.decisions[n, m], found.policy[n, m], value
        return rows

    ordered, mixed = told(ordered_work), told(steady)
    both = ordered.keys() & mixed.keys()
    assert len(both) > 1_000 and np.ptp([ordered[row][1] for row in both], axis=0).max() > 0.1
    for row in both:
        (decision, policy, value), (mixed_decision, mixed_policy, mixed_value) = ordered[row], mixed[row]
        np.testing.assert_array_equal(decision, mixed_decision)
        np.testing.assert_allclose(policy, mixed_policy, atol=1e-5)
        if value is not None and mixed_value is not None:
            np.testing.assert_allclose(value, mixed_value, atol=1e-5)


def test_who_teaches_by_practice_is_asked_piece_by_piece():
    """What others did before the last 128 rows does not change what it says."""
    learner = fifteen.new("debug", seed=0)
    fifteen.work(learner, JOBS[0], steps=1_000, seed=1)
    (lived,) = learner.lived.values()
    batch = jax.tree.map(jnp.asarray, lived.batch)
    rows = batch.frames.shape[1]
    settings = learner.config, learner.work_config, lived.layout, False, False
    settings = lived.statistics, jnp.asarray(lived.continuous), *settings

    def policy(batch, practised):
        return np.asarray(dream(learner.state.weights, batch, *settings, practised).policy)[0]

    other = batch._replace(frames=batch.frames.at[:, 0].multiply(0.9))
    near, far = slice(0, 128), slice(128, rows // 2)
    for practised in (True, False):
        changed = np.abs(policy(batch, practised) - policy(other, practised)).max(axis=(1, 2))
        assert changed[near].max() > 1e-6
        assert (changed[far].max() == 0.0) == practised
    np.testing.assert_allclose(policy(batch, True)[near], policy(batch, False)[near], atol=1e-6)


def test_what_the_parent_teaches_is_what_it_would_say_itself():
    """Of the very first days that are read: so a sleeper that still is the parent has nothing to learn."""
    work = dataclasses.replace(fifteen.new("debug").work_config, steady=True)
    learner = fifteen.new("debug", seed=0, work=work)
    fifteen.work(learner, JOBS[0], steps=1_000, seed=1)
    (lived,) = learner.lived.values()
    batch = jax.tree.map(jnp.asarray, lived.batch)
    settings = learner.config, work, lived.layout, False
    found = dream(learner.state.weights, batch, lived.statistics, jnp.asarray(lived.continuous), *settings, True)
    _, distance = gradient(learner.state.weights, found, learner.config, lived.layout, 0.01)
    assert abs(float(distance)) < 1e-5


def test_first_days_are_read_from_where_attempts_begin():
    first = np.zeros((3, 100), bool)
    first[0, [0, 30, 60, 95]] = first[2, [10, 20]] = True
    sequences, rows = _places(jnp.asarray(first), 40, 6)
    # Of the first sequence three have 40 rows after them, the second has none and counts with its first row.
    assert list(zip(sequences.tolist(), rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 30),
        (0, 60),
        (1, 0),
        (2, 10),
        (2, 20),
    ]
    sequences, rows = _places(jnp.asarray(first), 40, 3)
    assert list(zip(sequences.tolist(), rows.tolist(), strict=True)) == [(0, 0), (0, 60), (2, 10)]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"steps": "1000"}, "steps of a night must be an integer >= 1, got '1000'"),
        ({"steps": -5}, "integer >= 1, got -5"),
        ({"batch": 0}, "batch of a night must be an integer >= 1"),
        ({"rehearsed": True}, "rehearsed of a night must be an integer >= 0"),
        ({"learning_rate": float("nan")}, "learning_rate of a night must be a finite number >= 0, got nan"),
        ({"max_gradient": None}, "max_gradient of a night must be a finite number"),
    ],
)
def test_what_is_no_setting_of_a_night_is_refused(setting, says):
    with pytest.raises(RunError, match=says):
        SleepConfig(**setting)


def test_an_update_rehearses_some_of_many_jobs_and_learns_all_of_the_day():
    config = SleepConfig(rehearsed=3, batch=5)
    available, rehearsed = [40] * 20, [False] * 2 + [True] * 18
    seen = set()
    for step in range(60):
        found = picked(1, step, available, rehearsed, config)
        again = picked(1, step, available, rehearsed, config)
        assert found.keys() >= {0, 1} and len(found) == 5 and all((found[n] == again[n]).all() for n in found)
        assert all(rows.shape == (5,) and 0 <= rows.min() and rows.max() < 40 for rows in found.values())
        seen |= found.keys()
    assert seen == set(range(20))
    assert picked(1, 0, [7], [True], config).keys() == {0}  # a night may be nothing but rehearsal


def test_what_cannot_sleep_together_is_refused(instances):
    with pytest.raises(RunError, match="at least one instance"):
        fifteen.sleep([])
    with pytest.raises(RunError, match="nothing was lived"):
        fifteen.sleep([fifteen.new("debug")])
    with pytest.raises(NightError, match=r"by the instances \[1\]"):
        fifteen.sleep([instances[0], fifteen.new("debug", seed=0)])
    with pytest.raises(RunError, match="instance 2 has another parent"):
        fifteen.sleep([*instances, fifteen.new("debug", seed=7)])
    with pytest.raises(RunError, match="instance 1 is of another size"):
        fifteen.sleep([instances[0], fifteen.new("small")])
    work = dataclasses.replace(fifteen.new("debug").work_config, steady=True)
    with pytest.raises(RunError, match="instance 1 is steady"):
        fifteen.sleep([instances[0], fifteen.new("debug", seed=0, work=work)])
    with pytest.raises(NightError, match=r"nothing was lived .* by the instances \[0\]"):
        fifteen.sleep([fifteen.new("debug")], older=[])
    sick = fifteen.Learner(instances[0].config, instances[0].state, instances[0].statistics)
    sick.state = sick.state._replace(weights=sick.state.weights.at[0].set(jnp.nan))
    with pytest.raises(RunError, match="instance 1 has weights that are not finite"):
        fifteen.sleep([instances[0], sick])
