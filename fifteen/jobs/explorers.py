"""Teachers who have to find out: what they advise in a school is how to learn a job, not how to do one that is known.

A teacher who knows what the job hides (`Family.teach`) is right at once, and what is imitated of it is an average over
everything that the job may still turn out to be: posterior sampling, at best. An explorer keeps notes over a lifetime
as a learner keeps its memory, from what happened and nothing else, and advises what a good method of the literature
would do next. Pure functions; the notes are in the school's state and never in a percept.
"""

import abc
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.jobs.bandits import TIE, Bernoulli, BernoulliFamily
from fifteen.jobs.drawing import best
from fifteen.jobs.family import Family
from fifteen.jobs.grid_maps import LAKE, LAKE_DISCOUNT, best_of
from fifteen.jobs.grids import ROOM, DarkRoom, DarkRoomFamily, FrozenLake, FrozenLakeFamily, KeyDoor, KeyDoorFamily
from fifteen.jobs.mdps import ACTIONS, HORIZON, STATES, TabularMdp, TabularMdpFamily, plan


class Step(NamedTuple):
    """What happened in one step of a job."""

    state: Any  # before
    action: Array
    after: Any  # the state
    reward: Array  # float32[]
    terminated: Array  # bool[]


class Explorer(eqx.Module):
    @abc.abstractmethod
    def begin(self, job: Any) -> Any:
        """The notes of a lifetime that begins: a tree of arrays."""

    @abc.abstractmethod
    def note(self, job: Any, notes: Any, step: Step) -> Any:
        """The notes after a step."""

    @abc.abstractmethod
    def advise(self, job: Any, notes: Any, state: Any) -> Array:
        """Probabilities of the job's n actions, float32[n]."""


@final
class BernoulliExplorer(Explorer):
    """The arm whose posterior mean and `width` posterior standard deviations are most, from Beta(1, 1).

    Bayes-UCB (Kaufmann, Cappé and Garivier, 2012) with the quantile of a normal distribution. On the template
    "uniform" it has 78.3 of 100 pulls and 408 of 500, as the Gittins index has, without knowing how many there are.
    """

    width: float = eqx.field(static=True, default=1.5)

    def begin(self, job: Bernoulli) -> Array:
        return jnp.ones((2, job.arms))  # wins and losses, the prior's among them

    def note(self, job: Bernoulli, notes: Array, step: Step) -> Array:
        pulled = jax.nn.one_hot(step.action, job.arms)
        return notes + jnp.stack([step.reward, 1.0 - step.reward])[:, None] * pulled[None]

    def advise(self, job: Bernoulli, notes: Array, state: Any) -> Array:
        count = notes[0] + notes[1]
        mean = notes[0] / count
        return best(mean + self.width * jnp.sqrt(mean * (1.0 - mean) / (count + 1.0)), TIE)


class Table(NamedTuple):
    """What was met in an MDP."""

    visits: Array  # float32[S, A, S]
    rewards: Array  # float32[S, A], sums


@final
class MdpExplorer(Explorer):
    """The optimal plan for mean transitions and for mean rewards plus `width` posterior standard deviations.

    An exploration bonus for what is not yet known of a Bayesian model (Kolter and Ng, 2009, "Near-Bayesian exploration
    in polynomial time"), planned anew at every step. The prior is that of RL^2's specification: rewards N(1, 1),
    transitions Dirichlet, here of `pseudo` visits of each state. Over 10 and 50 episodes of "dense" it has 162 and 964.
    """

    width: float = eqx.field(static=True, default=0.8)
    pseudo: float = eqx.field(static=True, default=0.3)

    def begin(self, job: TabularMdp) -> Table:
        return Table(jnp.zeros((STATES, ACTIONS, STATES)), jnp.zeros((STATES, ACTIONS)))

    def note(self, job: TabularMdp, notes: Table, step: Step) -> Table:
        here = jax.nn.one_hot(step.state.place, STATES)[:, None] * jax.nn.one_hot(step.action, ACTIONS)[None]
        there = jax.nn.one_hot(step.after.place, STATES)
        return Table(notes.visits + here[..., None] * there[None, None], notes.rewards + here * step.reward)

    def advise(self, job: TabularMdp, notes: Table, state: Any) -> Array:
        visits = jnp.sum(notes.visits, axis=-1)
        noise = jnp.maximum(job.deviation, 0.1) ** 2
        precision = 1.0 + visits / noise
        rewards = (1.0 + notes.rewards / noise) / precision + self.width * jax.lax.rsqrt(precision)
        transitions = (notes.visits + self.pseudo) / (visits + STATES * self.pseudo)[..., None]
        return plan(transitions, rewards)[jnp.minimum(state.steps, HORIZON - 1), state.place]


class Ice(NamedTuple):
    """What was met on a lake."""

    safe: Array  # bool[cells], stood upon
    holes: Array  # bool[cells], fallen into
    goal: Array  # bool[cells], reached


@final
class LakeExplorer(Explorer):
    """Value iteration over what is believed of each cell, on the true ways and slips.

    A cell not yet stood upon is a hole with probability `hole`; it is the goal with its share of what probability the
    goal still has, where the far corners of both sizes have half of it.
    """

    hole: float = eqx.field(static=True, default=0.25)
    sweeps: int = eqx.field(static=True, default=30)

    def begin(self, job: FrozenLake) -> Ice:
        return Ice(*(jnp.zeros(LAKE**2, bool) for _ in range(3)))

    def note(self, job: FrozenLake, notes: Ice, step: Step) -> Ice:
        there = jnp.arange(LAKE**2) == step.after.cell
        here = jnp.arange(LAKE**2) == step.state.cell
        goal = step.reward > 0
        return Ice(
            safe=notes.safe | here | (there & ~step.terminated),
            holes=notes.holes | (there & step.terminated & ~goal),
            goal=notes.goal | (there & goal),
        )

    def advise(self, job: FrozenLake, notes: Ice, state: Any) -> Array:
        cells = np.arange(LAKE**2)
        corner = np.isin(cells, [(size - 1) * (LAKE + 1) for size in (LAKE - 1, LAKE)])
        unknown = ~(notes.safe | notes.holes | (cells == state.cell)) & ~jnp.any(notes.goal)
        likely = jnp.where(unknown, jnp.asarray(np.where(corner, 0.25, 0.5 / len(cells)), jnp.float32), 0.0)
        goal = jnp.where(notes.goal, 1.0, likely / jnp.maximum(jnp.sum(likely), 1e-6))
        met = notes.safe | (cells == state.cell)
        hole = jnp.where(met, 0.0, jnp.where(notes.holes, 1.0, self.hole))
        on = jnp.where(notes.goal, 0.0, (1.0 - goal) * (1.0 - hole)) * LAKE_DISCOUNT

        def back(_: Array, values: Array) -> Array:
            ahead = (goal + on * jnp.max(values, axis=1))[job.ways]
            sides = jnp.roll(ahead, 1, axis=1) + jnp.roll(ahead, -1, axis=1)
            return (1.0 - job.slip) * ahead + 0.5 * job.slip * sides

        return best_of(jax.lax.fori_loop(0, self.sweeps, back, jnp.zeros((LAKE**2, 4)))[state.cell])


class Search(NamedTuple):
    """Where something was looked for in a room: P things, one after the other."""

    been: Array  # bool[P, cells]
    found: Array  # bool[P, cells]


def _search(notes: Search, phase: Array, ways: Array, cell: Array) -> Array:
    """The way to the nearest cells that may hold what is looked for, or to the one that does: float32[n].

    The value of a cell is the chance that it is the one, `1 / 10` while unknown, else that of the cells ahead,
    discounted by 0.9.
    """
    cells = jnp.arange(ROOM**2)
    found, been = notes.found[phase], notes.been[phase] | (cells == cell)
    hope = jnp.where(found, 1.0, jnp.where(been | jnp.any(found), 0.0, 0.1))

    def back(_: Array, values: Array) -> Array:
        return hope + (1.0 - hope) * 0.9 * jnp.max(values[ways], axis=1)

    values = jax.lax.fori_loop(0, 2 * ROOM, back, hope)
    return best_of(values[ways[cell]])


def _looked(notes: Search, phase: Array, cell: Array, there: Array) -> Search:
    at = (jnp.arange(notes.been.shape[0]) == phase)[:, None] & (jnp.arange(ROOM**2) == cell)[None]
    return Search(notes.been | at, notes.found | (at & there))


def _nothing(things: int) -> Search:
    return Search(jnp.zeros((things, ROOM**2), bool), jnp.zeros((things, ROOM**2), bool))


@final
class DarkRoomExplorer(Explorer):
    """To the nearest cell where the goal may be, or to the goal."""

    def begin(self, job: DarkRoom) -> Search:
        return _nothing(1)

    def note(self, job: DarkRoom, notes: Search, step: Step) -> Search:
        return _looked(notes, jnp.int32(0), step.after.cell, step.reward > 0)

    def advise(self, job: DarkRoom, notes: Search, state: Any) -> Array:
        return _search(notes, jnp.int32(0), job.room.ways, state.cell)


@final
class KeyDoorExplorer(Explorer):
    """The same for the key, and then for the door."""

    def begin(self, job: KeyDoor) -> Search:
        return _nothing(2)

    def note(self, job: KeyDoor, notes: Search, step: Step) -> Search:
        return _looked(notes, step.state.has_key, step.after.cell, step.reward > 0)

    def advise(self, job: KeyDoor, notes: Search, state: Any) -> Array:
        return _search(notes, state.has_key, job.room.ways, state.cell)


EXPLORERS: dict[type[Family], Explorer] = {
    BernoulliFamily: BernoulliExplorer(),
    TabularMdpFamily: MdpExplorer(),
    FrozenLakeFamily: LakeExplorer(),
    DarkRoomFamily: DarkRoomExplorer(),
    KeyDoorFamily: KeyDoorExplorer(),
}
