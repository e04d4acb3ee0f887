"""Rules to be found out: reward machines over objects (Toro Icarte et al. 2018, Using reward machines for high-level
task specification).

The teacher walks the shortest way to the object that value iteration on the rule names.
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

YARD = 5  # cells along a side
TOUCH = 4  # the fifth action, after the four directions
OVER = 3  # the stage that ends the attempt


class YardState(NamedTuple):
    at: Array  # int32[2], row and column
    objects: Array  # int32[3, 2]
    stage: Array  # int32[]


# The rules for objects 0, 1 and 2, renamed by a draw. For each stage and each object: (next stage, pay).
_RULES: dict[str, list[list[tuple[int, float]]]] = {
    "one": [[(OVER, 1.0), (OVER, -0.5), (OVER, -0.5)]],
    "order": [[(1, 0.3), (0, 0), (0, 0)], [(0, 0), (2, 0.3), (0, 0)], [(0, 0), (0, 0), (OVER, 1.0)]],
    "silent-order": [[(1, 0), (0, 0), (0, 0)], [(1, 0), (2, 0), (0, 0)], [(1, 0), (0, 0), (OVER, 2.0)]],
    "pair": [[(1, 0), (0, 0), (OVER, -0.5)], [(1, 0), (OVER, 1.0), (OVER, -0.5)]],
    "alternate": [[(1, 0.3), (0, 0), (0, 0)], [(1, 0), (0, 0.3), (1, 0)]],
    "repeat": [[(1, 0), (0, 0), (0, 0)], [(2, 0), (0, 0), (0, 0)], [(OVER, 1.0), (0, 0), (0, 0)]],
    "fetch": [[(1, 0), (0, -0.1), (0, -0.1)], [(1, 0), (0, 0.5), (0, 0.1)]],
    "temptation": [[(OVER, 0.3), (1, -0.1), (0, 0)], [(OVER, 0.3), (1, 0), (OVER, 2.0)]],
}
_NEXT_STAGES = np.zeros((len(_RULES), OVER, 3), np.int32)
_PAYS = np.zeros((len(_RULES), OVER, 3), np.float32)
for _rule, _stages in enumerate(_RULES.values()):
    _NEXT_STAGES[_rule, : len(_stages)] = [[stage for stage, _ in row] for row in _stages]
    _PAYS[_rule, : len(_stages)] = [[pay for _, pay in row] for row in _stages]


@final
class Rules(Job):
    """Three objects to be touched as a hidden rule has it; they lie elsewhere in every attempt."""

    next_stages: Array  # int32[OVER, 3], by stage and touched object
    pays: Array  # float32[OVER, 3]
    meanings: Array  # int32[5], the direction or touch of each action
    targets: Array  # int32[OVER], the object to touch next
    step_limit: int = eqx.field(static=True, default=50)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (8,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(5)

    def reset(self, key: Array) -> tuple[YardState, Array]:
        _, cells = jax.lax.top_k(jax.random.uniform(key, (YARD**2,)), 4)
        places = jnp.stack([cells // YARD, cells % YARD], axis=1)
        state = YardState(places[0], places[1:], jnp.zeros((), jnp.int32))
        return state, _observe_yard(state)

    def step(self, state: YardState, action: Any, key: Array) -> tuple:
        meaning = self.meanings[action]
        touched = jnp.all(state.objects == state.at[None], axis=1) & (meaning == TOUCH)
        touches = jnp.any(touched)
        stage = jnp.where(touches, jnp.sum(self.next_stages[state.stage] * touched.astype(jnp.int32)), state.stage)
        pay = jnp.sum(self.pays[state.stage] * touched.astype(jnp.float32))
        at = jnp.clip(state.at + jnp.asarray(_YARD_STEPS)[meaning], 0, YARD - 1)
        state = YardState(at, state.objects, stage)
        return state, _observe_yard(state), pay, stage == OVER


_YARD_STEPS = np.stack([np.append(maps.ROW_STEPS, 0), np.append(maps.COLUMN_STEPS, 0)], axis=1).astype(np.int32)


def _observe_yard(state: YardState) -> Array:
    """The own place, and the way to each object."""
    own = state.at.astype(jnp.float32) * (2.0 / (YARD - 1)) - 1.0
    ways = (state.objects - state.at[None]).astype(jnp.float32) / (YARD - 1)
    return jnp.append(own, ways.reshape(-1))


@final
class RulesFamily(Family):
    name: str = eqx.field(static=True, default="grid/rules")
    templates: tuple[str, ...] = eqx.field(static=True, default=tuple(_RULES))
    lifetime: int = eqx.field(static=True, default=1000)
    reference: str = eqx.field(
        static=True, default="shortest walk to the object that value iteration on the rule names"
    )

    def sample(self, template: Array, key: Array) -> Rules:
        name_key, meaning_key, pay_key = jax.random.split(key, 3)
        names = jax.random.permutation(name_key, 3)
        next_stages = jnp.asarray(_NEXT_STAGES)[template][:, names]
        pays = jnp.asarray(_PAYS)[template][:, names] * jax.random.uniform(pay_key, (), minval=0.5, maxval=2.0)

        def back(_: Array, values: Array) -> Array:
            # A touch takes about four steps, and attempts are short.
            ahead = jnp.append(jnp.max(values, axis=1), jnp.zeros(1))
            return pays + 0.8 * ahead[next_stages]

        values = jax.lax.fori_loop(0, 30, back, jnp.zeros((OVER, 3)))
        targets = jnp.argmax(values, axis=1).astype(jnp.int32)
        meanings = jax.random.permutation(meaning_key, jnp.arange(5, dtype=jnp.int32))
        return Rules(next_stages=next_stages, pays=pays, meanings=meanings, targets=targets)

    def teach(self, job: Rules, state: YardState) -> Array:
        return towards(job, state, job.targets[state.stage])


def towards(job: Rules, state: YardState, target: Array) -> Array:
    """Probabilities float32[5], even over the shortest ways to an object, int32[], and touching it there."""
    down, across = state.objects[target] - state.at
    good = jnp.stack([across < 0, down > 0, across > 0, down < 0, (down == 0) & (across == 0)]).astype(jnp.float32)
    return (good / jnp.sum(good))[job.meanings]


FAMILIES = (RulesFamily(),)
