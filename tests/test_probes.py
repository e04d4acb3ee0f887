"""Learning tests: the five probe jobs, each of which isolates one fault, on three seeds within a small budget."""

import numpy as np
import pytest
from small import WORK

import fifteen

STEPS = 400
LAST = 50  # attempts that count

VALUES = {
    "value": 1.0,
    "observation": None,
    "discount": WORK.discount,
    "action": 1.0,
    "policy": 1.0,
}  # None: the return


def learned(probe, learn, seed):
    """(largest error of the value expected, mean return) of the last attempts, and the learner."""
    learner = fifteen.new("debug", seed=seed, work=WORK)
    log = fifteen.work(learner, f"probe/{probe}-v0", steps=STEPS, seed=seed, learn=learn)
    assert log.faults == {}
    exact = log.returns if VALUES[probe] is None else VALUES[probe]
    return np.abs(log.expected - exact)[-LAST:].max(), log.returns[-LAST:].mean(), learner


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("probe", VALUES)
def test_a_probe_is_learned(probe, seed):
    error, mean, learner = learned(probe, "both", seed)
    assert error < 0.1
    if probe in ("action", "policy"):
        assert mean >= 0.9
        assert fifteen.evaluate(learner, f"probe/{probe}-v0", episodes=50).mean >= 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("probe", ["action", "policy"])
def test_a_probe_is_learned_by_the_weights_alone(probe, seed):
    error, mean, _ = learned(probe, "weights", seed)
    assert error < 0.1
    assert mean >= 0.9


@pytest.mark.parametrize("probe", ["action", "policy"])
def test_a_mind_that_was_never_schooled_does_not_learn_in_context(probe):
    """So that the tests above cannot be passed without learning."""
    error, mean, _ = learned(probe, "context", 0)
    assert error > 0.5
    assert mean < 0.9
