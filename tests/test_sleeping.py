"""Sleep: one learner that does what its instances learned; what cannot be pooled is refused, and nobody is harmed."""

import jax.numpy as jnp
import numpy as np
import pytest

import fifteen
from fifteen.config import SleepConfig
from fifteen.errors import RunError
from fifteen.lived import LENGTHS

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
    assert [progress.step for progress in told] == list(range(15, 151, 15))
    assert all(progress.losses.keys() == set(JOBS) for progress in told)
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


def test_older_jobs_are_rehearsed_with_the_parent_as_their_teacher(instances):
    parent = fifteen.sleep(instances[:1], config=NIGHT)
    child = fifteen.Learner(parent.config, parent.state, parent.statistics)
    fifteen.work(child, JOBS[1], steps=1_000, seed=2)
    older = list(instances[0].lived.values())
    slept = fifteen.sleep([child], older=older, config=NIGHT)
    assert fifteen.evaluate(slept, JOBS[0], episodes=40).mean > 0.9
    assert fifteen.evaluate(slept, JOBS[1], episodes=40).mean > 0.9
    assert slept.provenance["slept"][0]["jobs"] == [JOBS[1], JOBS[0]]


def test_what_a_lifetime_leaves_is_what_was_lived(instances):
    (lived,) = instances[0].lived.values()
    percepts = lived.batch.frames
    assert percepts.shape[1] == LENGTHS[0] and lived.job == JOBS[0] and not lived.wipe
    shown, first = percepts[..., 0], percepts[..., lived.layout.slots + 1]
    assert set(np.unique(shown[first == 1])) == {-1.0, 1.0}
    assert np.isfinite(lived.batch.memory).all()


def test_what_cannot_sleep_together_is_refused(instances):
    with pytest.raises(RunError, match="at least one instance"):
        fifteen.sleep([])
    with pytest.raises(RunError, match="nothing was lived"):
        fifteen.sleep([fifteen.new("debug")])
    with pytest.raises(RunError, match="instance 2 has another parent"):
        fifteen.sleep([*instances, fifteen.new("debug", seed=7)])
    with pytest.raises(RunError, match="instance 1 is of another size"):
        fifteen.sleep([instances[0], fifteen.new("small")])
    sick = fifteen.Learner(instances[0].config, instances[0].state, instances[0].statistics)
    sick.state = sick.state._replace(weights=sick.state.weights.at[0].set(jnp.nan))
    with pytest.raises(RunError, match="instance 1 has weights that are not finite"):
        fifteen.sleep([instances[0], sick])
