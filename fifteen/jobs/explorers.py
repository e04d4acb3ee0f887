"""Teachers who have to find out: what they advise in a school is how to learn a job, not how to do one that is known.

A teacher who knows what the job hides (`Family.teach`) is right at once, and what is imitated of it is an average over
everything that the job may still turn out to be: posterior sampling, at best. An explorer keeps notes over a lifetime
as a learner keeps its memory, from what happened and nothing else, and advises what a good method of the literature
would do next. Pure functions; the notes are in the school's state and never in a percept.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.jobs.bandit_explorers import BernoulliExplorer, ContextualExplorer, DriftingExplorer
from fifteen.jobs.bandits import TIE, BernoulliFamily, ContextualFamily, DriftingFamily
from fifteen.jobs.diagnosis import CONDITIONS, RESULTS, TESTS, Diagnosis, DiagnosisFamily, DiagnosisState
from fifteen.jobs.drawing import best
from fifteen.jobs.explorer import Explorer, Step
from fifteen.jobs.family import Family
from fifteen.jobs.grid_maps import LAKE, LAKE_DISCOUNT, best_of
from fifteen.jobs.grids import ROOM, DarkRoom, DarkRoomFamily, FrozenLake, FrozenLakeFamily, KeyDoor, KeyDoorFamily
from fifteen.jobs.mdps import ACTIONS, HORIZON, STATES, TabularMdp, TabularMdpFamily, plan
from fifteen.jobs.rules import OVER, TOUCH, Rules, RulesFamily, YardState, towards


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


@final
class RulesExplorer(Explorer):
    """The best plan over walks between objects, where a touch that was never tried at a stage is hoped to be good.

    R-max (Brafman and Tennenholtz, 2002) on the decision process of Toro Icarte et al. (2018); steps are discounted by
    `patience`. Of the rule it uses what was touched only.
    """

    hope: float = eqx.field(static=True, default=1.0)
    patience: float = eqx.field(static=True, default=0.95)

    def begin(self, job: Rules) -> Array:
        return jnp.zeros((OVER, 3), bool)

    def note(self, job: Rules, notes: Array, step: Step) -> Array:
        before = step.state
        here = jnp.all(before.objects == before.at[None], axis=1) & (job.meanings[step.action] == TOUCH)
        return notes | ((jnp.arange(OVER) == before.stage)[:, None] & here[None])

    def advise(self, job: Rules, notes: Array, state: YardState) -> Array:
        def steps(places: Array) -> Array:
            """To each object and to touch it, float32[n, 3]."""
            return 1.0 + jnp.sum(jnp.abs(places[:, None] - state.objects[None]), axis=2).astype(jnp.float32)

        between = self.patience ** steps(state.objects)  # [from, to]

        def touch(later: Array) -> Array:
            """What a touch is worth, float32[OVER, 3]; later float32[OVER, 3] is the worth of stages at objects."""
            ahead = jnp.append(later, jnp.zeros((1, 3)), axis=0)[job.next_stages, jnp.arange(3)[None]]
            return jnp.where(notes, job.pays + ahead, self.hope)

        def back(_: Array, later: Array) -> Array:
            return jnp.max(between[None] * touch(later)[:, None], axis=2)

        worth = touch(jax.lax.fori_loop(0, 20, back, jnp.zeros((OVER, 3))))[state.stage]
        return towards(job, state, jnp.argmax(worth * self.patience ** steps(state.at[None])[0]))


class Cases(NamedTuple):
    """What is known of conditions and tests."""

    conditions: Array  # float32[CONDITIONS], how many there were
    results: Array  # float32[TESTS, CONDITIONS, RESULTS], how many there were
    seen: Array  # float32[TESTS, RESULTS], in this attempt


@final
class DiagnosisExplorer(Explorer):
    """The treatment of the highest expected reward, or the test that is worth more than its cost.

    The worth of a test is what one more result lets expect (Howard, 1966, "Information value theory"), and more where
    it was seldom done. How results depend on conditions is counted, each case as it probably was after its treatment
    (soft counts: Dempster, Laird and Rubin, 1977). A condition is known by what cures it: cures and costs are the true
    ones.
    """

    width: float = eqx.field(static=True, default=0.15)
    pseudo: float = eqx.field(static=True, default=0.3)

    def begin(self, job: Diagnosis) -> Cases:
        return Cases(
            jnp.ones(CONDITIONS),
            jnp.full((TESTS, CONDITIONS, RESULTS), self.pseudo, jnp.float32),
            jnp.zeros((TESTS, RESULTS)),
        )

    def _belief(self, notes: Cases, seen: Array) -> tuple[Array, Array]:
        """Conditions float32[CONDITIONS], and the odds of each result, as `Cases.results`."""
        odds = notes.results / jnp.sum(notes.results, axis=2, keepdims=True)
        return jax.nn.softmax(jnp.log(notes.conditions) + jnp.einsum("tcr,tr->c", jnp.log(odds), seen)), odds

    def note(self, job: Diagnosis, notes: Cases, step: Step) -> Cases:
        seen = jnp.where(step.state.event == 0, 0.0, notes.seen)
        tested = ~step.terminated
        new = (jnp.arange(TESTS * RESULTS) == step.after.event - 1) & tested
        cured = step.reward + job.costs[step.action] > 0.0
        chance = job.cures[jnp.maximum(step.action - TESTS, 0)]
        was = self._belief(notes, seen)[0] * jnp.where(cured, chance, 1.0 - chance)
        was = jnp.where(tested, 0.0, was / jnp.maximum(jnp.sum(was), 1e-9))
        return Cases(
            notes.conditions + was,
            notes.results + was[None, :, None] * seen[:, None, :],
            seen + new.astype(jnp.float32).reshape(TESTS, RESULTS),
        )

    def advise(self, job: Diagnosis, notes: Cases, state: DiagnosisState) -> Array:
        seen = jnp.where(state.event == 0, 0.0, notes.seen)
        belief, odds = self._belief(notes, seen)
        worth = job.cures * (job.benefit + job.harm) - job.harm - job.costs[TESTS:, None]  # [TREATMENTS, CONDITIONS]
        now = worth @ belief
        after = jnp.einsum("tcr,c,mc->trm", odds, belief, worth)
        done = jnp.sum(notes.results, axis=(1, 2)) - self.pseudo * CONDITIONS * RESULTS
        new = jnp.where(jnp.sum(seen, axis=1) > 0, 0.0, self.width * (job.benefit + job.harm) / jnp.sqrt(1.0 + done))
        tests = jnp.sum(jnp.max(after, axis=2), axis=1) - job.costs[:TESTS] + new
        return best(jnp.append(tests, now), TIE)


EXPLORERS: dict[type[Family], Explorer] = {
    BernoulliFamily: BernoulliExplorer(),
    ContextualFamily: ContextualExplorer(),
    DriftingFamily: DriftingExplorer(),
    TabularMdpFamily: MdpExplorer(),
    FrozenLakeFamily: LakeExplorer(),
    DarkRoomFamily: DarkRoomExplorer(),
    KeyDoorFamily: KeyDoorExplorer(),
    RulesFamily: RulesExplorer(),
    DiagnosisFamily: DiagnosisExplorer(),
}
