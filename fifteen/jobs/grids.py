"""Grids: short walks in small worlds that are the same in every attempt of a job, and unknown at its beginning.

Dark room and dark key-to-door are those of Laskin et al. 2022 (In-context reinforcement learning with algorithm
distillation), of 7x7 cells; the lake is Gymnasium's FrozenLake on drawn maps, as in AMAGO's MetaFrozenLake (Grigsby
et al. 2023); the maze is seen one cell around.

Teachers walk shortest paths, on the slippery lake the policy of value iteration.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs import grid_maps as maps
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

ROOM = 7  # cells along a side
LAKE = maps.LAKE
MAZE = maps.MAZE
ROOMS = ("open", "rim", "wall", "wandering", "torus", "drift")  # what dark room and key-to-door have in common
LAKES = ("scattered", "river", "rooms", "moat")


class CellState(NamedTuple):
    cell: Array  # int32[]


class KeyState(NamedTuple):
    cell: Array  # int32[]
    has_key: Array  # int32[], 0 or 1


class Room(eqx.Module):
    """The room of a job: its moves, and where attempts begin."""

    ways: Array  # int32[cells, 5], where each action leads; which action means what is part of the job
    start: Array  # int32[]
    wandering: Array  # bool[], whether attempts begin anywhere
    drift: Array  # float32[], probability that a random action replaces the chosen one

    def begin(self, key: Array) -> Array:
        return jnp.where(self.wandering, jax.random.randint(key, (), 0, ROOM**2), self.start)

    def walk(self, cell: Array, action: Array, key: Array) -> Array:
        luck = jax.random.uniform(key)
        drifting = (luck / jnp.maximum(self.drift, 1e-6) * 5.0).astype(jnp.int32)  # one draw decides both
        return self.ways[cell, jnp.where(luck < self.drift, drifting, action)]


def _draw_room(template: Array, key: Array) -> tuple[Room, Array, Array]:
    """A room and two different cells in it, neither of them the start."""

    def is_template(name: str) -> Array:
        return template == ROOMS.index(name)

    wall_key, row_key, gap_key, meaning_key, drift_key, *cell_keys = jax.random.split(key, 8)
    row = jax.random.randint(row_key, (), 2, ROOM - 2)
    gaps = jax.random.randint(gap_key, (), 1, 3)
    free = maps.bar((ROOM, ROOM), row, gaps, wall_key) | ~is_template("wall")
    ways = maps.exits(free, is_template("torus"))
    ways = jnp.append(ways, jnp.arange(ROOM**2, dtype=jnp.int32)[:, None], axis=1)
    ways = ways[:, jax.random.permutation(meaning_key, 5)]
    edge = np.ones((ROOM, ROOM), np.bool_)
    edge[1:-1, 1:-1] = False
    cells = jnp.arange(ROOM**2)
    among = free.reshape(-1) & (jnp.asarray(edge.reshape(-1)) | ~is_template("rim"))
    first = maps.draw_cell(among, cell_keys[0])
    second = maps.draw_cell(among & (cells != first), cell_keys[1])
    start = maps.draw_cell(free.reshape(-1) & (cells != first) & (cells != second), cell_keys[2])
    drift = jnp.where(is_template("drift"), jax.random.uniform(drift_key, (), minval=0.1, maxval=0.4), 0.0)
    return Room(ways, start, is_template("wandering"), drift), first, second


@final
class DarkRoom(Job):
    """A goal that is not seen: 1 for every step on it. Only the own cell is observed."""

    room: Room
    goal: Array  # int32[]
    once: Array  # bool[], whether the goal ends the attempt
    labels: Array  # int32[cells], how cells are called
    teacher: Array  # float32[cells, 5]
    step_limit: int = eqx.field(static=True, default=30)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Discrete(ROOM**2)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(5)

    def reset(self, key: Array) -> tuple[CellState, Array]:
        cell = self.room.begin(key)
        return CellState(cell), self.labels[cell]

    def step(self, state: CellState, action: Any, key: Array) -> tuple:
        cell = self.room.walk(state.cell, action, key)
        there = cell == self.goal
        return CellState(cell), self.labels[cell], there.astype(jnp.float32), there & self.once


@final
class DarkRoomFamily(Family):
    name: str = eqx.field(static=True, default="grid/dark-room")
    templates: tuple[str, ...] = eqx.field(static=True, default=(*ROOMS, "once", "scrambled"))
    lifetime: int = eqx.field(static=True, default=450)
    reference: str = eqx.field(static=True, default="shortest path to the goal (Laskin et al. 2022)")

    def sample(self, template: Array, key: Array) -> DarkRoom:
        room_key, label_key = jax.random.split(key)
        room, goal, _ = _draw_room(template, room_key)
        labels = jnp.arange(ROOM**2, dtype=jnp.int32)
        scrambled = template == self.templates.index("scrambled")
        return DarkRoom(
            room=room,
            goal=goal,
            once=template == self.templates.index("once"),
            labels=jnp.where(scrambled, jax.random.permutation(label_key, labels), labels),
            teacher=maps.shortest(room.ways, goal),
        )

    def teach(self, job: DarkRoom, state: CellState) -> Array:
        return job.teacher[state.cell]


@final
class KeyDoor(Job):
    """An unseen key, worth 1, and then an unseen door, worth 1, which ends the attempt."""

    room: Room
    key_cell: Array  # int32[]
    door_cell: Array  # int32[]
    marked: Array  # float32[], 0 where having the key is not observed
    teacher: Array  # float32[2, cells, 5], without and with the key
    step_limit: int = eqx.field(static=True, default=50)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (3,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(5)

    def reset(self, key: Array) -> tuple[KeyState, Array]:
        state = KeyState(self.room.begin(key), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, state: KeyState, action: Any, key: Array) -> tuple:
        cell = self.room.walk(state.cell, action, key)
        has_key = state.has_key == 1
        found = (cell == self.key_cell) & ~has_key
        opened = (cell == self.door_cell) & has_key
        state = KeyState(cell, (has_key | found).astype(jnp.int32))
        return state, self._observe(state), (found | opened).astype(jnp.float32), opened

    def _observe(self, state: KeyState) -> Array:
        place = jnp.stack([state.cell // ROOM, state.cell % ROOM]).astype(jnp.float32) / (ROOM - 1) * 2.0 - 1.0
        return jnp.append(place, self.marked * state.has_key.astype(jnp.float32))


@final
class KeyDoorFamily(Family):
    name: str = eqx.field(static=True, default="grid/key-door")
    templates: tuple[str, ...] = eqx.field(static=True, default=(*ROOMS, "unmarked"))
    lifetime: int = eqx.field(static=True, default=600)
    reference: str = eqx.field(static=True, default="shortest paths to key and door (Laskin et al. 2022)")

    def sample(self, template: Array, key: Array) -> KeyDoor:
        room, key_cell, door_cell = _draw_room(template, key)
        marked = jnp.where(template == self.templates.index("unmarked"), 0.0, 1.0)
        teacher = jnp.stack([maps.shortest(room.ways, key_cell), maps.shortest(room.ways, door_cell)])
        return KeyDoor(room=room, key_cell=key_cell, door_cell=door_cell, marked=marked, teacher=teacher)

    def teach(self, job: KeyDoor, state: KeyState) -> Array:
        return job.teacher[state.has_key, state.cell]


GYMNASIUM_ICE = np.array([[tile == "F" for tile in row] for row in ("FFFF.", "F.F..", "FFF..", ".FFF.", ".....")])


@final
class FrozenLake(Job):
    """Across the ice to the goal, worth 1; holes end the attempt. Cells beyond the lake block."""

    ways: Array  # int32[cells, 4]
    holes: Array  # bool[cells]
    start: Array  # int32[]
    goal: Array  # int32[]
    labels: Array  # int32[cells], how cells are called: row by row of the lake's own size
    slip: Array  # float32[], probability of moving at a right angle to what was chosen
    teacher: Array  # float32[cells, 4]
    step_limit: int = eqx.field(static=True, default=100)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Discrete(LAKE**2)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(4)

    def reset(self, key: Array) -> tuple[CellState, Array]:
        return CellState(self.start), self.labels[self.start]

    def step(self, state: CellState, action: Any, key: Array) -> tuple:
        luck = jax.random.uniform(key)
        turn = jnp.where(luck < 0.5 * self.slip, 3, jnp.where(luck < self.slip, 1, 0))
        cell = self.ways[state.cell, (action + turn) % 4]
        there = cell == self.goal
        return CellState(cell), self.labels[cell], there.astype(jnp.float32), there | self.holes[cell]


@final
class FrozenLakeFamily(Family):
    """Lakes of 4x4 or 5x5 cells; half of them go from corner to corner, as Gymnasium's do."""

    name: str = eqx.field(static=True, default="grid/frozen-lake")
    templates: tuple[str, ...] = eqx.field(static=True, default=(*LAKES, *(f"{lake}-slippery" for lake in LAKES)))
    lifetime: int = eqx.field(static=True, default=900)
    reference: str = eqx.field(static=True, default="value iteration on the true map")

    def sample(self, template: Array, key: Array) -> FrozenLake:
        size_key, corner_key, start_key, goal_key, map_key, way_key, slip_key = jax.random.split(key, 7)
        size = jax.random.randint(size_key, (), 4, LAKE + 1)
        rows, columns = jnp.asarray(np.indices((LAKE, LAKE), np.int32))
        inside = (rows < size) & (columns < size)
        start = maps.draw_cell(inside.reshape(-1), start_key)
        goal = maps.draw_cell(inside.reshape(-1) & (jnp.arange(LAKE**2) != start), goal_key)
        corners = jax.random.bernoulli(corner_key)
        start = jnp.where(corners, 0, start)
        goal = jnp.where(corners, (size - 1) * (LAKE + 1), goal)
        ice = maps.draw_lake(template % len(LAKES), size, goal, inside, map_key)
        ice = ice.reshape(-1).at[start].set(True).at[goal].set(True).reshape(ice.shape)
        # Gymnasium's own 4x4 map is for examinations: carving changes it, whichever way the path bends.
        known = (size == 4) & corners & jnp.all((ice == GYMNASIUM_ICE) | ~inside)
        via_key, *bend_keys = jax.random.split(way_key, 3)
        # By way of some cell: where every way had one bend, it could be found without having seen a hole.
        via = jnp.where(known, start, maps.draw_cell(inside.reshape(-1), via_key))
        carved = maps.carve(ice, start, via, jax.random.bernoulli(bend_keys[0]))
        carved = maps.carve(carved, via, goal, jax.random.bernoulli(bend_keys[1]))
        ice = jnp.where(maps.passable(ice & inside, start, goal) & ~known, ice, carved)
        slip = jax.random.uniform(slip_key, (), minval=0.1, maxval=0.8)
        slip = jnp.where(template < len(LAKES), 0.0, slip)
        ways, holes = maps.exits(inside, jnp.array(False)), (inside & ~ice).reshape(-1)
        values = maps.lake_values(ways, holes, goal, slip)
        teacher = maps.best_of(values)
        labels = jnp.where(inside, rows * size + columns, 0).reshape(-1)
        return FrozenLake(ways=ways, holes=holes, start=start, goal=goal, labels=labels, slip=slip, teacher=teacher)

    def teach(self, job: FrozenLake, state: CellState) -> Array:
        return job.teacher[state.cell]


@final
class Maze(Job):
    """To a goal worth 1 at a price of 0.01 per step; the eight cells around are seen, and the own place."""

    ways: Array  # int32[cells, 4]
    start: Array  # int32[]
    goal: Array  # int32[]
    views: Array  # float32[cells, 18], what is observed in each cell
    teacher: Array  # float32[cells, 4]
    step_limit: int = eqx.field(static=True, default=100)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (18,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(4)

    def reset(self, key: Array) -> tuple[CellState, Array]:
        return CellState(self.start), self.views[self.start]

    def step(self, state: CellState, action: Any, key: Array) -> tuple:
        cell = self.ways[state.cell, action]
        there = cell == self.goal
        return CellState(cell), self.views[cell], jnp.where(there, 1.0, 0.0) - 0.01, there


@final
class MazeFamily(Family):
    name: str = eqx.field(static=True, default="grid/maze")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("open", "scattered", "rooms", "bars", "pillars", "binary-tree", "braided")
    )
    lifetime: int = eqx.field(static=True, default=1000)
    reference: str = eqx.field(static=True, default="shortest path to the goal")

    def sample(self, template: Array, key: Array) -> Maze:
        map_key, start_key, goal_key, carve_key = jax.random.split(key, 4)
        free = maps.draw_maze(template, map_key)
        start = maps.draw_cell(free.reshape(-1), start_key)
        cells = jnp.arange(MAZE**2)
        apart = jnp.abs(cells // MAZE - start // MAZE) + jnp.abs(cells % MAZE - start % MAZE) >= 5
        goal = maps.draw_cell(free.reshape(-1) & apart, goal_key)
        carved = maps.carve(free, start, goal, jax.random.bernoulli(carve_key))
        free = jnp.where(maps.passable(free, start, goal), free, carved)
        ways = maps.exits(free, jnp.array(False))
        teacher = maps.shortest(ways, goal)
        return Maze(ways=ways, start=start, goal=goal, views=maps.views(free, goal), teacher=teacher)

    def teach(self, job: Maze, state: CellState) -> Array:
        return job.teacher[state.cell]


FAMILIES = (DarkRoomFamily(), KeyDoorFamily(), FrozenLakeFamily(), MazeFamily())
