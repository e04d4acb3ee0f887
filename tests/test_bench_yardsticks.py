"""The yardsticks' lakes: Gymnasium's maps as they are, and who plays on them."""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv, generate_random_map

from fifteen.jobs.explorers import LakeExplorer
from fifteen.jobs.grids import CellState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import yardsticks  # noqa: E402

COUNT = 60


@pytest.fixture(scope="module")
def lakes():
    return yardsticks.gymnasium_lakes(COUNT, 3)


def test_the_lakes_are_those_of_gymnasiums_random_maps(lakes):
    step = jax.jit(jax.vmap(jax.vmap(yardsticks.FrozenLake.step, in_axes=(None, None, 0, None)), (None, 0, None, None)))
    actions, cells = np.arange(4, dtype=np.int32), np.arange(25, dtype=np.int32)
    for number in (0, 1, COUNT - 1):
        rows = generate_random_map(size=5, p=0.8, seed=3 * yardsticks.MAPS + number)
        environment = FrozenLakeEnv(desc=rows, is_slippery=False)
        job = jax.tree.map(lambda leaf, number=number: leaf[number], lakes)
        assert int(job.reset(jax.random.key(0))[1]) == 0
        state, label, reward, terminated = step(job, CellState(cells), actions, jax.random.key(0))
        np.testing.assert_array_equal(label, state.cell)
        for cell in np.flatnonzero(~job.holes)[:-1]:
            for action in range(4):
                [(_, ahead, pay, ended)] = environment.P[int(cell)][action]
                here = cell, action
                assert (int(state.cell[here]), float(reward[here]), bool(terminated[here])) == (ahead, pay, ended)


def test_other_seeds_have_other_lakes(lakes):
    assert len({holes.tobytes() for holes in lakes.holes}) > 0.9 * COUNT
    assert (yardsticks.gymnasium_lakes(2, 4).holes != lakes.holes[:2]).any()


def test_who_plans_over_beliefs_finds_the_way_and_who_wanders_does_not(lakes):
    keys = jax.random.split(jax.random.key(0), COUNT)
    planned, wandered = (
        np.asarray(jax.jit(jax.vmap(partial(yardsticks.played, explorer)))(lakes, keys))
        for explorer in (LakeExplorer(), yardsticks.Wanderer())
    )
    assert planned.shape == wandered.shape == (COUNT, yardsticks.LAKE_ATTEMPTS)
    assert planned[:, 7:].mean() > 0.95 > planned[:, 0].mean() > wandered.mean()
