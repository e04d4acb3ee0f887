"""Five probe jobs. Each is solved at once by a right learner, and each fails for one reason only.

Taken in order they tell where a fault sits: a probe that fails while those before it pass has its
fault in the part it adds. Values are those of the optimal policy at discount 0.99 per step.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.native import Job

STEP_LIMIT = 10  # never reached: every attempt terminates after one or two steps


class ProbeState(NamedTuple):
    shown: Array  # float32[], the observation on which the next action is taken


class Probe(Job):
    """What the probes share: one number is observed."""

    step_limit: int = eqx.field(static=True, default=STEP_LIMIT)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)


def _constant() -> tuple[ProbeState, Array]:
    return ProbeState(jnp.zeros(())), jnp.zeros(1)


def _sign(key: Array) -> tuple[ProbeState, Array]:
    shown = jax.random.rademacher(key, (), jnp.float32)
    return ProbeState(shown), shown[None]


def _end(state: ProbeState, reward: Array) -> tuple[ProbeState, Array, Array, Array]:
    return state, jnp.zeros(1), reward, jnp.array(True)


@final
class ValueProbe(Probe):
    """One action, one step, reward 1. Isolates the value head: its loss, its bins, its optimiser.

    Optimal return 1.0; v_now 1.0 at the only observation, 0.
    """

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(1)

    def reset(self, key: Array) -> tuple[ProbeState, Array]:
        return _constant()

    def step(self, state: ProbeState, action: Any, key: Array) -> tuple:
        return _end(state, jnp.ones(()))


@final
class ObservationProbe(Probe):
    """One action, one step, reward equal to the observation, -1 or +1 with even odds. Isolates the
    way of the observation into the value: encoding, normalisation, the alignment of rows.

    Optimal return: the observation, 0.0 on average; v_now equal to the observation.
    """

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(1)

    def reset(self, key: Array) -> tuple[ProbeState, Array]:
        return _sign(key)

    def step(self, state: ProbeState, action: Any, key: Array) -> tuple:
        return _end(state, state.shown)


@final
class DiscountProbe(Probe):
    """One action, two steps, reward 1 after the second; the observation is -1, then +1. Isolates
    bootstrapping: discount, targets across a step, the cut at termination.

    Optimal return 1.0; v_now 0.99 at -1 and 1.0 at +1.
    """

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(1)

    def reset(self, key: Array) -> tuple[ProbeState, Array]:
        return ProbeState(jnp.array(-1.0)), jnp.full(1, -1.0)

    def step(self, state: ProbeState, action: Any, key: Array) -> tuple:
        last = state.shown > 0
        shown = jnp.where(last, 0.0, 1.0)
        return ProbeState(jnp.ones(())), shown[None], last.astype(jnp.float32), last


@final
class ActionProbe(Probe):
    """Two actions, one step, reward +1 for action 1 and -1 for action 0. Isolates the policy:
    advantages, their sign, the policy loss.

    Optimal return 1.0, by action 1; v_now 1.0 at the only observation, 0.
    """

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(2)

    def reset(self, key: Array) -> tuple[ProbeState, Array]:
        return _constant()

    def step(self, state: ProbeState, action: Any, key: Array) -> tuple:
        return _end(state, jnp.where(action == 1, 1.0, -1.0))


@final
class PolicyProbe(Probe):
    """Two actions, one step, observation -1 or +1 with even odds, reward +1 for action 1 at +1 and
    action 0 at -1, else -1. Isolates the dependence of policy and value on the observation together.

    Optimal return 1.0; v_now 1.0 at either observation.
    """

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(2)

    def reset(self, key: Array) -> tuple[ProbeState, Array]:
        return _sign(key)

    def step(self, state: ProbeState, action: Any, key: Array) -> tuple:
        return _end(state, jnp.where((action == 1) == (state.shown > 0), 1.0, -1.0))
