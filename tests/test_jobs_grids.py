"""Grids: their maps, and their plans against searches in plain Python."""

from collections import deque
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_checks import check_family

from fifteen.jobs import grid_maps as maps
from fifteen.jobs.grids import (
    GYMNASIUM_ICE,
    CellState,
    DarkRoomFamily,
    FrozenLake,
    FrozenLakeFamily,
    KeyDoorFamily,
    MazeFamily,
)
from fifteen.jobs.rules import OVER, RulesFamily


def searched(ways, goal):
    """Distances to the goal by breadth-first search."""
    found, queue = {int(goal): 0}, deque([int(goal)])
    while queue:
        cell = queue.popleft()
        for before in np.flatnonzero((ways == cell).any(axis=1)):
            if int(before) not in found:
                found[int(before)] = found[cell] + 1
                queue.append(int(before))
    return found


def check_shortest(ways, goal, policy):
    found = searched(ways, goal)
    for cell in found:
        lengths = np.array([found.get(int(cell_ahead), 10**6) for cell_ahead in ways[cell]])
        best = lengths == lengths.min()
        np.testing.assert_allclose(policy[cell], best / best.sum(), rtol=1e-6)
    return found


def test_dark_rooms():
    jobs, (teacher, chance) = check_family(DarkRoomFamily(), steps=30)
    assert (teacher > 2 * chance).all(), (teacher, chance)
    for number in range(16):
        found = check_shortest(*[np.asarray(x[number]) for x in (jobs.room.ways, jobs.goal, jobs.teacher)])
        assert int(jobs.room.start[number]) in found


def test_keys_and_doors():
    jobs, (teacher, chance) = check_family(KeyDoorFamily(), steps=50)
    assert (teacher > chance + 0.8).all(), (teacher, chance)
    assert (jobs.key_cell != jobs.door_cell).all()
    check_shortest(*[np.asarray(x[2]) for x in (jobs.room.ways, jobs.door_cell, jobs.teacher[:, 1])])


def test_frozen_lakes():
    family = FrozenLakeFamily()
    jobs, (teacher, chance) = check_family(family, each=24, steps=60)
    assert (teacher > chance + 0.3).all(), (teacher, chance)
    np.testing.assert_array_equal(teacher[:4], 1.0)  # where nothing slips, a path exists and is found
    for number in (0, 1, 2, 3):
        ways, holes, goal = (np.asarray(x[number]) for x in (jobs.ways, jobs.holes, jobs.goal))
        found = searched(np.where(holes[ways], np.arange(25)[:, None], ways), goal)
        values = maps.lake_values(jobs.ways[number], jobs.holes[number], jobs.goal[number], jnp.float32(0.0))
        for cell, distance in found.items():
            if distance > 0 and not holes[cell]:
                np.testing.assert_allclose(values[cell].max(), maps.LAKE_DISCOUNT ** (distance - 1), rtol=1e-4)


def test_a_lake_moves_as_gymnasiums():
    rows = ["SFFHF", "FHFFF", "FFFHF", "HFFFF", "FFHFG"]
    tiles = np.array([list(row) for row in rows]).reshape(-1)
    environment: Any = gym.make("FrozenLake-v1", desc=rows, is_slippery=True, disable_env_checker=True).unwrapped
    ways = maps.exits(jnp.ones((5, 5), jnp.bool_), jnp.array(False))
    holes, start, goal = jnp.asarray(tiles == "H"), jnp.int32(0), jnp.int32(24)
    slip, labels = jnp.float32(2 / 3), jnp.arange(25, dtype=jnp.int32)
    job = FrozenLake(
        ways=ways, holes=holes, start=start, goal=goal, labels=labels, slip=slip, teacher=jnp.zeros((25, 4))
    )
    step = jax.jit(jax.vmap(job.step, in_axes=(None, None, 0)))
    keys = jax.random.split(jax.random.key(0), 600)
    for cell in np.flatnonzero((tiles == "F") | (tiles == "S")):
        for action in range(4):
            state, _, rewards, ended = step(CellState(jnp.int32(cell)), jnp.int32(action), keys)
            odds = {}
            for part, ahead, reward, terminated in environment.P[int(cell)][action]:
                odds[ahead] = odds.get(ahead, 0.0) + part
                there = np.asarray(state.cell) == ahead
                assert (np.asarray(rewards)[there] == reward).all()
                assert (np.asarray(ended)[there] == terminated).all()
            for ahead, part in odds.items():
                assert abs(np.mean(np.asarray(state.cell) == ahead) - part) < 0.1


def test_cells_are_numbered_by_the_lakes_own_size_as_gymnasiums():
    jobs = jax.vmap(FrozenLakeFamily().sample, in_axes=(None, 0))(jnp.int32(0), jax.random.split(jax.random.key(0), 40))
    sizes = np.where(np.asarray(jobs.ways)[:, 3, 2] == 4, 5, 4)  # whether one can walk into the fifth column
    for number, size in enumerate(sizes):
        inside = (np.arange(25) // 5 < size) & (np.arange(25) % 5 < size)
        np.testing.assert_array_equal(np.asarray(jobs.labels[number])[inside], np.arange(size**2))
    assert set(sizes) == {4, 5}


def test_gymnasiums_own_lake_is_changed_by_carving():
    for down_first in (False, True):
        carved = maps.carve(jnp.asarray(GYMNASIUM_ICE), jnp.int32(0), jnp.int32(18), jnp.array(down_first))
        assert (np.asarray(carved) != GYMNASIUM_ICE).any()
        assert maps.passable(carved, jnp.int32(0), jnp.int32(18))


def test_mazes():
    family = MazeFamily()
    jobs, (teacher, chance) = check_family(family)
    assert (teacher > chance + 0.8).all(), (teacher, chance)
    for number in range(2 * len(family.templates)):
        ways, goal, policy = (np.asarray(x[number]) for x in (jobs.ways, jobs.goal, jobs.teacher))
        found = check_shortest(ways, goal, policy)
        assert found[int(jobs.start[number])] >= 5
        # A cell shows walls (left, below, right, above are 3, 6, 4, 1 of those around) where its moves lead nowhere.
        walls = np.asarray(jobs.views[number])[:, [3, 6, 4, 1]] == 1
        for cell in found:
            np.testing.assert_array_equal(walls[cell], ways[cell] == cell)


@pytest.mark.parametrize("loops", [0.0, 0.5])
def test_a_binary_tree_maze_is_a_tree(loops):
    free = maps.binary_tree((9, 9), jnp.float32(loops), jax.random.key(1))
    cells = int(free.sum())
    edges = int((free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum())
    assert (edges == cells - 1) == (loops == 0)
    inside = np.asarray(free).reshape(-1)
    found = searched(np.asarray(maps.exits(free, jnp.array(False))), np.flatnonzero(inside)[0])
    assert inside[list(found)].sum() == cells


def test_rules():
    family = RulesFamily()
    jobs, (teacher, chance) = check_family(family, steps=50)
    assert (teacher > chance + 0.5).all(), (teacher, chance)
    # Where one object pays at once, it is the one to touch.
    one = family.templates.index("one")
    assert int(jobs.targets[one][0]) == int(np.argmax(jobs.pays[one][0]))
    order = family.templates.index("order")
    stages = [int(jobs.next_stages[order][stage][jobs.targets[order][stage]]) for stage in range(OVER)]
    assert stages == [1, 2, OVER]
