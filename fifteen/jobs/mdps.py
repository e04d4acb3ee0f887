"""Small Markov decision processes whose every number is drawn.

In state s action a leads to s' ~ P(.|s, a) and gives r ~ N(R(s, a), d^2). An attempt begins in state 0 and is
truncated after 10 steps; the state is observed. The template "dense" is the specification of RL^2 (Duan et al., 2016,
arXiv:1611.02779, after Osband and Van Roy, 2013 and 2016): 10 states, 5 actions, P(.|s, a) ~ Dirichlet(1, ..., 1),
R(s, a) ~ N(1, 1), d = 1.

Of the others, "sparse" is Garnet with two successors (Bhatnagar et al., 2009), "chain" is RiverSwim (Strehl and
Littman, 2008) with drawn length, current and actions, "lock" is the combination lock (Kakade, 2003) with a reward that
grows with the depth reached, "ring" moves by the same drawn steps around a circle from wherever one is.

The teacher maximises the mean return of the 10 steps by backward induction (Puterman, 1994, section 4.5):
Q_t(s, a) = R(s, a) + sum_s' P(s'|s, a) max_a' Q_t+1(s', a').
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import between, whole
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

STATES = 10
ACTIONS = 5
HORIZON = 10
ATTEMPTS = 50  # in a lifetime: where each action of a state is tried once or twice, little can be seen to be learned
TIE = 1e-4  # action values this close count as equal: sums of ten float32 numbers are not exact


class MdpState(NamedTuple):
    place: Array  # int32[]
    steps: Array  # int32[], in this attempt


@final
class TabularMdp(Job):
    transitions: Array  # float32[S, A, S]
    bounds: Array  # float32[S, A, S], of the part of [0, 1] that leads to each next state
    rewards: Array  # float32[S, A], means
    deviation: Array  # float32[], of the reward
    policy: Array  # float32[H, S, A], the teacher's probabilities
    step_limit: int = eqx.field(static=True, default=HORIZON)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Discrete(STATES)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(ACTIONS)

    def reset(self, key: Array) -> tuple[MdpState, Array]:
        start = jnp.zeros((), jnp.int32)
        return MdpState(start, start), start

    def step(self, state: MdpState, action: Any, key: Array) -> tuple[MdpState, Array, Array, Array]:
        # One draw serves both: the normal distribution function of a normal number is uniform.
        way, noise = jax.random.normal(key, (2,))
        reward = self.rewards[state.place, action] + self.deviation * noise
        passed = self.bounds[state.place, action] <= jax.scipy.special.ndtr(way)
        place = jnp.sum(passed, dtype=jnp.int32)
        return MdpState(place, state.steps + 1), place, reward, jnp.array(False)


def bounds_of(transitions: Array) -> Array:
    """Upper bounds of the next states' parts of [0, 1]. No rounding opens a gap for a state of probability 0."""
    bounds = jnp.cumsum(transitions, axis=-1)
    return jnp.where(bounds > 1.0 - 1e-6, 2.0, bounds)


def plan(transitions: Array, rewards: Array) -> Array:
    """Optimal probabilities float32[H, S, A] of each step of an attempt, even over ties."""

    def back(values: Array, _: None) -> tuple[Array, Array]:
        action_values = rewards + transitions @ values
        values = jnp.max(action_values, axis=1)
        best = (action_values >= values[:, None] - TIE).astype(jnp.float32)
        return values, best / jnp.sum(best, axis=1, keepdims=True)

    return jax.lax.scan(back, jnp.zeros(STATES), None, length=HORIZON, reverse=True)[1]


def _to(places: Array) -> Array:
    """Transitions that lead to int32[S, A] for certain."""
    return jax.nn.one_hot(places, STATES, dtype=jnp.float32)


class Drawn(NamedTuple):
    """What the kinds are made from: drawn once for all, as each draw takes seconds to compile."""

    weights: Array  # float32[S, A, S], exponential
    shares: Array  # float32[S, A], uniform
    places: Array  # int32[S, A], uniform
    others: Array  # int32[S, A], uniform but for the places
    means: Array  # float32[S, A], N(1, 1)
    order: Array  # int32[S], a permutation that leaves 0, where attempts begin, in its place
    ranks: Array  # int32[A], a permutation
    sizes: Array  # float32[3], uniform


def _draw(key: Array) -> Drawn:
    tables_key, means_key, rest_key = jax.random.split(key, 3)
    tables = jax.random.uniform(tables_key, (STATES, ACTIONS, STATES + 3))
    places = jnp.floor(tables[..., STATES] * STATES).astype(jnp.int32)
    away = 1 + jnp.floor(tables[..., STATES + 1] * (STATES - 1)).astype(jnp.int32)
    rest = jax.random.uniform(rest_key, (STATES + ACTIONS + 3,))
    return Drawn(
        weights=-jnp.log1p(-tables[..., :STATES]),
        shares=tables[..., STATES + 2],
        places=places,
        others=(places + away) % STATES,
        means=1.0 + jax.random.normal(means_key, (STATES, ACTIONS)),
        order=jnp.argsort(rest[:STATES].at[0].set(-1.0)).astype(jnp.int32),
        ranks=jnp.argsort(rest[STATES:-3]).astype(jnp.int32),
        sizes=rest[-3:],
    )


def _relabelled(drawn: Drawn, transitions: Array, rewards: Array) -> tuple[Array, Array]:
    """The same with the states in another order, so that the number of a state says nothing."""
    return transitions[drawn.order][:, :, drawn.order], rewards[drawn.order]


def _dense(drawn: Drawn) -> tuple[Array, Array, Array]:
    # Normalised exponential numbers are Dirichlet(1, ..., 1).
    transitions = drawn.weights / jnp.sum(drawn.weights, axis=-1, keepdims=True)
    return transitions, drawn.means, jnp.ones(())


def _sparse(drawn: Drawn) -> tuple[Array, Array, Array]:
    share = drawn.shares[..., None]
    return share * _to(drawn.places) + (1.0 - share) * _to(drawn.others), drawn.means, jnp.ones(())


def _deterministic(drawn: Drawn) -> tuple[Array, Array, Array]:
    return _to(drawn.places), drawn.means, drawn.sizes[0]


def _goal(drawn: Drawn) -> tuple[Array, Array, Array]:
    slip = between(drawn.sizes[0], 0.0, 0.3)
    transitions = (1.0 - slip) * _to(drawn.places) + slip / STATES
    # Not state 0, where attempts begin: a reward there would need no search.
    goal = jnp.arange(STATES) == whole(drawn.sizes[1], 1, STATES)
    worth = jnp.where(goal, between(drawn.sizes[2], 1.0, 3.0), 0.0)
    return transitions, jnp.tile(worth[:, None], (1, ACTIONS)), jnp.full((), 0.1)


def _chain(drawn: Drawn) -> tuple[Array, Array, Array]:
    last = whole(drawn.sizes[0], 2, 6)  # not beyond what ten steps reach
    # In every state two actions lead right, two left and one nowhere.
    moves = jnp.array([1, 1, 0, -1, -1], jnp.int32)[drawn.ranks]
    here = jnp.broadcast_to(jnp.arange(STATES)[:, None], (STATES, ACTIONS))
    there = jnp.clip(here + moves[None], 0, jnp.maximum(last, here))
    current = between(drawn.sizes[1], 0.0, 0.3)
    transitions = (1.0 - current) * _to(there) + current * _to(jnp.maximum(here - 1, 0))
    near, far = between(drawn.shares[0, 0], 0.05, 0.25), between(drawn.sizes[2], 1.0, 3.0)
    rewards = jnp.where(here == 0, near, jnp.where(here == last, far, 0.0))
    return *_relabelled(drawn, transitions, rewards), jnp.full((), 0.1)


def _ring(drawn: Drawn) -> tuple[Array, Array, Array]:
    moves = jnp.array([-2, -1, 0, 1, 2], jnp.int32)[drawn.ranks]
    here = jnp.broadcast_to(jnp.arange(STATES)[:, None], (STATES, ACTIONS))
    slip = between(drawn.sizes[0], 0.0, 0.3)
    transitions = (1.0 - slip) * _to((here + moves[None]) % STATES) + slip * _to(here)
    rewards = jnp.tile(drawn.means[:, :1], (1, ACTIONS))
    return *_relabelled(drawn, transitions, rewards), between(drawn.sizes[1], 0.0, 0.5)


def _lock(drawn: Drawn) -> tuple[Array, Array, Array]:
    last = whole(drawn.sizes[0], 3, STATES)
    here = jnp.arange(STATES)[:, None]
    right = jnp.floor(drawn.shares[:, :1] * ACTIONS).astype(jnp.int32) == jnp.arange(ACTIONS)[None]
    step = between(drawn.sizes[1], 0.3, 1.0)
    rewards = jnp.where(right, step * (here + 1).astype(jnp.float32), 0.0)
    transitions = _to(jnp.where(right, jnp.minimum(here + 1, last), 0))
    return *_relabelled(drawn, transitions, rewards), jnp.full((), 0.1)


@final
class TabularMdpFamily(Family):
    name: str = eqx.field(static=True, default="mdp/tabular")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("dense", "sparse", "deterministic", "goal", "chain", "ring", "lock")
    )
    lifetime: int = eqx.field(static=True, default=ATTEMPTS * HORIZON)
    reference: str = eqx.field(
        static=True,
        default="the optimal policy by backward induction (Puterman, 1994), the process known; "
        "of those who must learn it, PSRL (Osband et al., 2013) on 'dense'",
    )

    def sample(self, template: Array, key: Array) -> TabularMdp:
        kinds = [_dense, _sparse, _deterministic, _goal, _chain, _ring, _lock]
        transitions, rewards, deviation = jax.lax.switch(template, kinds, _draw(key))
        return TabularMdp(
            transitions=transitions,
            bounds=bounds_of(transitions),
            rewards=rewards,
            deviation=deviation,
            policy=plan(transitions, rewards),
        )

    def teach(self, job: TabularMdp, state: MdpState) -> Array:
        return job.policy[jnp.minimum(state.steps, HORIZON - 1), state.place]


FAMILIES = (TabularMdpFamily(),)
