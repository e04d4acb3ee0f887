"""Instances side by side on the device: the same numbers as one by one."""

import jax
import numpy as np
from small import WORK

import fifteen
from fifteen import crew
from fifteen.updating import Batch


def test_updates_of_several_at_once_are_those_of_each():
    parent = fifteen.new("debug", seed=0, work=WORK)
    config, work = parent.config, parent.work_config
    layout = crew.common_layout(config)
    random = np.random.default_rng(0)

    def lesson(line):
        shape = 2, work.batch, work.sequence + 1
        frames = np.zeros((*shape, layout.percept_size), np.float32)
        frames[..., : config.slots] = random.normal(size=(*shape, config.slots))
        frames[..., config.slots] = random.normal(size=shape)
        decisions = np.zeros((*shape, layout.decision_size), np.float32)
        decisions[..., 0] = random.integers(3, size=shape)
        decisions[..., 1], decisions[..., 5:8] = -1.0, 1.0
        memory = random.normal(size=(2, work.batch, config.memory_size)).astype(np.float32)
        batch = Batch(frames, None, decisions, memory)
        return parent.state, batch, jax.tree.map(np.asarray, parent.statistics), np.ones(config.slots, bool), line

    lessons = tuple(lesson(np.int32(line)) for line in (0, 1))
    settings = config, work, False, (0, 11)
    several = crew.compiled_update(*settings, together=True)(lessons)
    for mine, given in zip(several, lessons, strict=True):
        alone = crew.compiled_update(*settings, together=False)(*given)
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(alone), strict=True):
            # Adam's first steps are as large as the rate however small the gradient, so rounding shows.
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2e-3, atol=0.1 * work.learning_rate)
