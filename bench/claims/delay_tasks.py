"""The tasks of `delay.py`: an episode is K steps in which something is decided, then D in which there is only waiting.

Every state is met at most once in an episode, as time is part of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Choose = Callable[[Array, Array], Array]  # (state int32[], luck float32[]) -> action int32[]


class Lived(NamedTuple):
    """One episode of K + D steps."""

    states: Array  # int32[K], in which something was decided
    actions: Array  # int32[K]
    waits: Array  # int32[D], the states in which nothing is decided, numbered for themselves
    rewards: Array  # float32[K + D]
    good: Array  # float32[], how well it was decided, 0 to 1


class Task(NamedTuple):
    steps: int  # K
    decisions: int  # states in which something is decided
    actions: int
    waits: int  # states in which there is only waiting
    luck: int  # U, random numbers that an episode takes: drawn at once, as drawing takes long to compile
    live: Callable[[Choose, Array], Lived]  # luck float32[U], uniform in [0, 1)
    known: tuple[np.ndarray, np.ndarray]  # float32[decisions], float32[waits]: values of the best policy
    features: tuple[
        np.ndarray, np.ndarray
    ]  # float32[decisions, F], float32[waits, F]: values are nearly linear in them
    threshold: float  # solved: the mean of `good` ...
    window: int  # ... over so many episodes


def chain(horizon: int) -> Task:
    """T decisions, right (1) or wrong (0); the share of right ones is the reward, at the end."""
    length = horizon + 1

    def live(choose: Choose, luck: Array) -> Lived:
        def step(right: Array, row: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            time, luck = row
            state = time * length + right
            action = choose(state, luck)
            return right + action, (state, action)

        right, (states, actions) = jax.lax.scan(step, jnp.int32(0), (jnp.arange(horizon), luck))
        share = right.astype(jnp.float32) / horizon
        rewards = jnp.zeros(horizon).at[-1].set(share)
        return Lived(states, actions, jnp.zeros(0, jnp.int32), rewards, share)

    time, right = np.divmod(np.arange(horizon * length), length)
    value = (right + horizon - time) / horizon
    known = value.astype(np.float32), np.zeros(1, np.float32)
    features = np.stack([np.ones(len(time)), right / horizon, 1.0 - time / horizon], axis=1)
    told = features.astype(np.float32), np.zeros((1, 3), np.float32)
    return Task(horizon, horizon * length, 2, 1, horizon, live, known, told, 0.9, 100)


MOVES, SIDE, APPLE = 8, 3, 0.5


def key_to_door(horizon: int) -> Task:
    """Eight moves in a room with a key in a corner, `horizon` steps of apples, then 1 for who has the key."""
    cells = SIDE * SIDE
    x, y = np.arange(cells) % SIDE, np.arange(cells) // SIDE
    ways = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    moved = np.stack(
        [np.clip(y + dy, 0, SIDE - 1) * SIDE + np.clip(x + dx, 0, SIDE - 1) for dx, dy in ways], axis=1
    )  # [cells, 4]; the key is in cell 0

    def live(choose: Choose, luck: Array) -> Lived:
        def step(place: tuple[Array, Array], row: tuple[Array, Array]):
            (cell, has), (time, luck) = place, row
            state = (time * cells + cell) * 2 + has
            action = choose(state, luck)
            cell = jnp.asarray(moved, jnp.int32)[cell, action]
            return (cell, jnp.maximum(has, (cell == 0).astype(jnp.int32))), (state, action)

        start, moving, apples = luck[0], luck[1 : 1 + MOVES], luck[1 + MOVES :]
        place = 1 + _one_of(cells - 1, start), jnp.int32(0)
        (_, has), (states, actions) = jax.lax.scan(step, place, (jnp.arange(MOVES), moving))
        apples = jnp.where(apples < 0.5, APPLE, -APPLE)
        door = has.astype(jnp.float32)
        rewards = jnp.concatenate([jnp.zeros(MOVES), apples.at[-1].add(door)])
        return Lived(states, actions, jnp.arange(horizon) * 2 + has, rewards, door)

    time, cell, has = np.unravel_index(np.arange(MOVES * cells * 2), (MOVES, cells, 2))
    reachable = (x + y)[cell] <= MOVES - time
    known = np.maximum(has, reachable).astype(np.float32), np.tile(np.array([0, 1], np.float32), horizon)
    left, has = np.divmod(np.arange(2 * horizon), 2)
    waiting = np.stack([1.0 - has, has, 1.0 - left / horizon], axis=1)
    states, luck = MOVES * cells * 2, 1 + MOVES + horizon
    return Task(MOVES, states, 4, 2 * horizon, luck, live, known, _beside(states, waiting), 0.9, 100)


PRICE = np.array([18.0, 28.0, 31.0, 59.0])
REPAIR, REPAIR_DEVIATION = np.array([1.0, 4.0, 5.0, 24.5]), np.array([2.0, 2.0, 2.0, 1.0])
DELIVERY, DELIVERY_DEVIATION = np.array([0.5, 2.5, 4.5, 18.0]), 1.5
EVENT_COST, EVENTS = np.array([0.1, 7.0]), 50 * np.array([0.1, 0.05])  # a jam, a flat tyre; how many are expected
TOLD_APART = 20, 12  # numbers of jams, of flat tyres
UNIT = 0.1  # of rewards


def watch_repair(horizon: int) -> Task:
    """RUDDER's task with `horizon` steps. Action 1 repairs."""
    brands, (jams, tyres) = len(PRICE), TOLD_APART
    chances = EVENTS / horizon
    shape = 2, brands, horizon, jams, tyres
    net = PRICE - DELIVERY

    def live(choose: Choose, luck: Array) -> Lived:
        brand = _one_of(brands, luck[0])
        repaired = choose(brand, luck[1])
        first, last = jax.scipy.special.ndtri(jnp.clip(luck[2:4], 1e-6, 1.0 - 1e-6))
        happened = luck[4:].reshape(horizon, 2) < jnp.asarray(chances, jnp.float32)[None]
        events = jnp.cumsum(happened.astype(jnp.int32), axis=0)  # [T, 2], after every step
        seen = jnp.minimum(events[:-1], jnp.array(TOLD_APART)[None] - 1)
        times = jnp.arange(1, horizon)
        waits = (((repaired * brands + brand) * horizon + times) * jams + seen[:, 0]) * tyres + seen[:, 1]
        cost = jnp.asarray(REPAIR, jnp.float32)[brand] + jnp.asarray(REPAIR_DEVIATION, jnp.float32)[brand] * first
        brought = jnp.asarray(net, jnp.float32)[brand] - DELIVERY_DEVIATION * last
        brought = brought - events[-1].astype(jnp.float32) @ jnp.asarray(EVENT_COST, jnp.float32)
        rewards = jnp.zeros(horizon).at[0].set(-cost).at[-1].add(brought)
        better = jnp.asarray(worth > 0.0)[brand].astype(jnp.int32)
        good = (repaired == better).astype(jnp.float32)
        return Lived(brand[None], repaired[None], waits, UNIT * rewards * repaired.astype(jnp.float32), good)

    worth = net - REPAIR - EVENTS @ EVENT_COST
    repaired, brand, time, jam, tyre = np.indices(shape)
    to_come = (horizon - time) * (chances @ EVENT_COST)
    value = UNIT * repaired * (net[brand] - jam * EVENT_COST[0] - tyre * EVENT_COST[1] - to_come)
    known = (UNIT * np.maximum(worth, 0.0)).astype(np.float32), value.reshape(-1).astype(np.float32)
    brand_code = brand[..., None] == np.arange(brands)
    counts = np.stack([jam / EVENTS[0], tyre / EVENTS[1], 1.0 - time / horizon], axis=-1)
    waiting = repaired[..., None] * np.concatenate([brand_code, counts], axis=-1)
    told = _beside(brands, waiting.reshape(value.size, -1))
    return Task(1, brands, 2, value.size, 4 + 2 * horizon, live, known, told, 0.9, 250)


def _one_of(count: int, luck: Array) -> Array:
    """0 to count - 1, int32[]."""
    return jnp.minimum((luck * count).astype(jnp.int32), count - 1)


def _beside(decisions: int, waiting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One feature for every deciding state, and beside them those of the waiting ones, float[waits, f]."""
    count, size = waiting.shape
    deciding = np.eye(decisions, decisions + size, dtype=np.float32)
    return deciding, np.concatenate([np.zeros((count, decisions)), waiting], axis=1).astype(np.float32)


TASKS: dict[str, Callable[[int], Task]] = {
    "chain": chain,
    "key to door": key_to_door,
    "watch repair": watch_repair,
}
