"""Maps of the grid families: what is free, where moves lead, and the plans of their teachers.

A map is `free`, bool[height, width]; cells are numbered row by row. Directions are 0 left, 1 down, 2 right, 3 up, as
in Gymnasium's toy text. The binary-tree maze and the toppled pillars are textbook algorithms (Buck 2015, Mazes for
Programmers).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROW_STEPS = np.array([0, 1, 0, -1], np.int32)
COLUMN_STEPS = np.array([-1, 0, 1, 0], np.int32)
LAKE = 5  # cells along a side
MAZE = 9
LAKE_DISCOUNT = 0.98  # makes the shorter of two safe paths the better one
LAKE_SWEEPS = 150
FAR = 1e3  # the distance of cells that cannot be reached


def exits(free: Array, wraps: Array) -> Array:
    """Where each direction leads from each cell, int32[cells, 4]: nowhere at a wall, nor at the rim unless it wraps."""
    height, width = free.shape
    cells = np.arange(height * width, dtype=np.int32)[:, None]
    rows, columns = cells // width + ROW_STEPS[None], cells % width + COLUMN_STEPS[None]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    ahead = jnp.asarray(rows % height * width + columns % width)
    return jnp.where(free.reshape(-1)[ahead] & (jnp.asarray(inside) | wraps), ahead, jnp.asarray(cells))


def distances(ways: Array, goal: Array) -> Array:
    """Fewest moves to the goal, float32[cells], for ways int32[cells, n]."""
    cells = ways.shape[0]
    start = jnp.where(jnp.arange(cells) == goal, 0.0, FAR)

    def nearer(_: Array, found: Array) -> Array:
        return jnp.minimum(found, 1.0 + jnp.min(found[ways], axis=1))

    # A shortest path visits a cell once, and on these maps no more than two cells in three.
    return jax.lax.fori_loop(0, 2 * cells // 3, nearer, start)


def best_of(values: Array) -> Array:
    """Probabilities, uniform over the best of the last axis."""
    best = (values > jnp.max(values, axis=-1, keepdims=True) - 1e-5).astype(jnp.float32)
    return best / jnp.sum(best, axis=-1, keepdims=True)


def shortest(ways: Array, goal: Array) -> Array:
    """The policy of the shortest paths to the goal, float32[cells, n]."""
    return best_of(-distances(ways, goal)[ways])


def draw_cell(among: Array, key: Array) -> Array:
    """One of the cells where `among`, bool[cells]."""
    return jnp.argmax(jnp.where(among, jax.random.uniform(key, among.shape), -1.0)).astype(jnp.int32)


def carve(free: Array, start: Array, goal: Array, down_first: Array) -> Array:
    """The map with a path of one bend from start to goal."""
    rows, columns = _axes(free.shape)
    width = free.shape[1]
    row, column = start // width, start % width
    to_row, to_column = goal // width, goal % width
    bend_row, bend_column = jnp.where(down_first, to_row, row), jnp.where(down_first, column, to_column)
    between_rows = (rows >= jnp.minimum(row, to_row)) & (rows <= jnp.maximum(row, to_row))
    between_columns = (columns >= jnp.minimum(column, to_column)) & (columns <= jnp.maximum(column, to_column))
    return free | (between_rows & (columns == bend_column)) | (between_columns & (rows == bend_row))


def passable(free: Array, start: Array, goal: Array) -> Array:
    return distances(exits(free, jnp.array(False)), goal)[start] < FAR


def scattered(shape: tuple[int, int], blocked: Array, key: Array) -> Array:
    """Each cell is blocked with the same probability."""
    return jax.random.uniform(key, shape) >= blocked


def bar(shape: tuple[int, int], row: Array, gaps: Array, key: Array) -> Array:
    """One blocked row with the given number of gaps, or column at even odds; the map must be square for that."""
    row_key, turn_key = jax.random.split(key)
    rows, columns = _axes(shape)
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(row_key, shape[1:])))
    free = (rows != row) | (rank[None] < gaps)
    return jnp.where(jax.random.bernoulli(turn_key), free.T, free)


def bars(shape: tuple[int, int], key: Array) -> Array:
    """Every other row is blocked but for one gap or two."""
    gap_key, turn_key = jax.random.split(key)
    rows, _ = _axes(shape)
    scores = jax.random.uniform(gap_key, shape)
    opened = (scores == jnp.max(scores, axis=1, keepdims=True)) | (scores < 0.5 / shape[1])
    free = (rows % 2 == 0) | opened
    return jnp.where(jax.random.bernoulli(turn_key), free.T, free)


def rooms(shape: tuple[int, int], row: Array, column: Array, key: Array) -> Array:
    """Four rooms, by a blocked row and column; each of the four walls has one door."""
    rows, columns = _axes(shape)
    scores = jax.random.uniform(key, shape)
    free = jnp.ones(shape, jnp.bool_)
    for wall in (
        (rows == row) & (columns < column),
        (rows == row) & (columns > column),
        (columns == column) & (rows < row),
        (columns == column) & (rows > row),
    ):
        ranked = jnp.where(wall, scores, -1.0)
        free = free & (~wall | (ranked == jnp.max(ranked)))
    return free & ~((rows == row) & (columns == column))


def moat(shape: tuple[int, int], goal: Array, inside: Array, key: Array) -> Array:
    """Blocked around the goal but for one of the cells beside it; `inside`, bool[shape], are the cells of the map."""
    rows, columns = _axes(shape)
    down, across = jnp.abs(rows - goal // shape[1]), jnp.abs(columns - goal % shape[1])
    scores = jnp.where(inside & (down + across == 1), jax.random.uniform(key, shape), -1.0)
    return (jnp.maximum(down, across) != 1) | (scores == jnp.max(scores))


def binary_tree(shape: tuple[int, int], loops: Array, key: Array) -> Array:
    """Every node opens the way up or left; nodes sit at even rows and columns. Walls fall with probability `loops`."""
    way_key, loop_key, flip_key = jax.random.split(key, 3)
    rows, columns = _axes(shape)
    up = (jax.random.bernoulli(way_key, shape=shape) | (columns == 0)) & (rows != 0)
    nodes = (rows % 2 == 0) & (columns % 2 == 0)
    above = jnp.roll(nodes & up, -1, axis=0)
    beside = jnp.roll(nodes & ~up & (columns != 0), -1, axis=1)
    pillars = (rows % 2 == 1) & (columns % 2 == 1)
    free = nodes | above | beside | (~pillars & jax.random.bernoulli(loop_key, loops, shape))
    flips = jax.random.bernoulli(flip_key, shape=(2,))
    free = jnp.where(flips[0], free[::-1], free)
    return jnp.where(flips[1], free[:, ::-1], free)


def toppled_pillars(shape: tuple[int, int], key: Array) -> Array:
    """Pillars at odd rows and columns, each fallen to one of its four sides."""
    rows, columns = _axes(shape)
    side = jax.random.randint(key, shape, 0, 4)
    pillars = (rows % 2 == 1) & (columns % 2 == 1)
    blocked = pillars
    for direction, (down, across) in enumerate(zip(ROW_STEPS, COLUMN_STEPS, strict=True)):
        blocked = blocked | jnp.roll(pillars & (side == direction), (int(down), int(across)), axis=(0, 1))
    return ~blocked


def draw_lake(kind: Array, size: Array, goal: Array, inside: Array, key: Array) -> Array:
    """The ice of a lake, bool[LAKE, LAKE]; `kind` indexes LAKES."""
    shape = (LAKE, LAKE)
    kind_key, share_key, hole_key, row_key, column_key, bridge_key = jax.random.split(key, 6)
    share = jax.random.uniform(share_key, (), minval=0.1, maxval=0.5)
    row = jax.random.randint(row_key, (), 1, size - 1)
    column = jax.random.randint(column_key, (), 1, size - 1)
    bridges = jax.random.randint(bridge_key, (), 1, 3)
    pattern = jax.lax.switch(
        kind,
        [
            lambda: jnp.ones(shape, jnp.bool_),
            lambda: bar(shape, row, bridges, kind_key),
            lambda: rooms(shape, row, column, kind_key),
            lambda: moat(shape, goal, inside, kind_key),
        ],
    )
    return pattern & scattered(shape, jnp.where(kind == 0, share, 0.3 * share), hole_key)


def draw_maze(template: Array, key: Array) -> Array:
    shape = (MAZE, MAZE)
    key, share_key, row_key, column_key = jax.random.split(key, 4)
    share = jax.random.uniform(share_key, (), minval=0.15, maxval=0.35)
    row, column = jax.random.randint(row_key, (), 2, MAZE - 2), jax.random.randint(column_key, (), 2, MAZE - 2)
    return jax.lax.switch(
        template,
        [
            lambda: scattered(shape, jnp.float32(0.05), key),
            lambda: scattered(shape, share, key),
            lambda: rooms(shape, row, column, key),
            lambda: bars(shape, key),
            lambda: toppled_pillars(shape, key),
            lambda: binary_tree(shape, jnp.float32(0.0), key),
            lambda: binary_tree(shape, share, key),
        ],
    )


def views(free: Array, goal: Array) -> Array:
    """What each cell shows: walls around, the goal around, row and column from -1 to 1; float32[cells, 18]."""
    blocked = jnp.pad(~free, 1, constant_values=True)
    goals = jnp.pad((jnp.arange(MAZE**2) == goal).reshape(MAZE, MAZE), 1)
    around = [(down, across) for down in range(3) for across in range(3) if (down, across) != (1, 1)]
    seen = [grid[d : d + MAZE, a : a + MAZE].reshape(-1) for grid in (blocked, goals) for d, a in around]
    places = np.indices((MAZE, MAZE)).reshape(2, -1).T.astype(np.float32) / (MAZE - 1) * 2 - 1
    return jnp.concatenate([jnp.stack(seen, axis=1).astype(jnp.float32), jnp.asarray(places)], axis=1)


def lake_values(ways: Array, holes: Array, goal: Array, slip: Array) -> Array:
    """Values of the four moves in every cell, float32[cells, 4], by value iteration."""
    ends = holes | (jnp.arange(LAKE**2) == goal)

    def back(_: Array, values: Array) -> Array:
        worth = jnp.where(ends, 0.0, LAKE_DISCOUNT * jnp.max(values, axis=1)).at[goal].set(1.0)
        ahead = worth[ways]
        return (1.0 - slip) * ahead + 0.5 * slip * (jnp.roll(ahead, 1, axis=1) + jnp.roll(ahead, -1, axis=1))

    return jax.lax.fori_loop(0, LAKE_SWEEPS, back, jnp.zeros((LAKE**2, 4)))


def _axes(shape: tuple[int, ...]) -> tuple[Array, Array]:
    rows, columns = np.indices(shape, np.int32)
    return jnp.asarray(rows), jnp.asarray(columns)
