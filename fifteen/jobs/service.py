"""Families of work at a service desk or in a workshop: serving queues, keeping a machine.

Queue (`work/queue`): one server and parallel queues in discrete time. Served, a job of class i is done with probability
mu_i and then goes to class j with probability F_ij, else away; the reward is -sum_i c_i q_i. The teacher serves the
nonempty queue of the highest index:

    c_i mu_i                               (Cox & Smith 1961, "Queues"; Buyukkoc, Varaiya & Walrand 1985)
    max_S (c_i - E_i c_exit) / E_i time    with feedback, over the sets S of classes in which to go on (Klimov 1974)
    (c_i + theta_i r_i) mu_i / theta_i     with abandonment at rate theta_i and cost r_i (Atar, Giat & Shimkin 2010)

With set-up times an index counts for the share of time that is service until the queue is empty, W_i / (W_i + 4 D), D
the set-up and W_i = q_i / (mu_i - lambda_i) (after Duenyas & Van Oyen 1996, "Heuristic scheduling of parallel
heterogeneous queues with set-ups"; the 4 was found by simulation). For abandonment and set-up these are heuristics.

Maintenance (`work/maintenance`): a machine's wear is a Markov chain that the learner sees through a noisy sensor
(Derman 1963, "On optimal replacement rules when changes of state are Markovian"; Monahan 1982). The teacher sees the
wear and follows the optimal policy of the chain, by value iteration at discount 0.99, which replaces above a threshold.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import best, between, whole
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

QUEUES = 4
ROOM = 20  # of a queue; who comes to a full one goes away
SHIFT = 100  # steps
MAX_FEEDBACK = 0.8
COST_UNIT = 0.1  # brings returns to the order of 10

WEARS = 10  # levels; the last is the failed machine
RUN, INSPECT, REPAIR, REPLACE = range(4)
SERVICE_LIFE = 100  # steps
DISCOUNT = 0.99
SWEEPS = 400  # of value iteration: their discounted rest is below what separates two actions


class QueueState(NamedTuple):
    lengths: Array  # int32[QUEUES]
    busy: Array  # bool[QUEUES], whether a class is in a burst
    server: Array  # int32[], the queue that the server is at
    setup: Array  # int32[], steps until it can serve there


@final
class Queue(Job):
    """Observes the lengths of the queues and the steps of set-up that are left. An action names the queue to serve."""

    arrival: Array  # float32[QUEUES], probability per step, within a burst
    batch: Array  # int32[], jobs that arrive together
    calm: Array  # float32[QUEUES], probability that a burst ends
    stir: Array  # float32[QUEUES], probability that a burst begins
    service: Array  # float32[QUEUES], probability per step
    feedback: Array  # float32[QUEUES], probability that a job served goes on to another class
    onward: Array  # int32[QUEUES], that class
    impatience: Array  # float32[QUEUES], rate at which each waiting job abandons
    holding: Array  # float32[QUEUES], cost of a job and step
    loss: Array  # float32[QUEUES], cost of a job that abandons
    delay: Array  # int32[], steps of set-up at a change of queue
    index: Array  # float32[QUEUES], the teacher's
    drain: Array  # float32[QUEUES], by which a served queue shrinks per step
    step_limit: int = eqx.field(static=True, default=SHIFT)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(0.0, float(ROOM), (QUEUES + 1,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(QUEUES)

    def reset(self, key: Array) -> tuple[QueueState, Array]:
        busy = jax.random.uniform(key, (QUEUES,)) * (self.calm + self.stir) < self.stir
        nothing = jnp.zeros((), jnp.int32)
        state = QueueState(jnp.zeros(QUEUES, jnp.int32), busy, nothing, nothing)
        return state, self._observe(state)

    def step(self, state: QueueState, action: Any, key: Array) -> tuple:
        draws = jax.random.uniform(key, (3 * QUEUES + 2,))
        come, change, leave = draws[:QUEUES], draws[QUEUES : 2 * QUEUES], draws[2 * QUEUES : 3 * QUEUES]
        server = jnp.asarray(action, jnp.int32)
        setup = jnp.where(server == state.server, state.setup, self.delay)
        there = jnp.arange(QUEUES) == server
        served = there & (setup == 0) & (state.lengths > 0) & (draws[-1] < self.service)
        forward = jnp.any(served) & (draws[-2] < self.feedback[server])
        passed = forward & (jnp.arange(QUEUES) == self.onward[server])
        lengths = state.lengths - served.astype(jnp.int32) + passed.astype(jnp.int32)
        # At most one job of a class abandons per step, so that one draw is enough.
        lost = leave < self.impatience * lengths.astype(jnp.float32)
        lengths = lengths - lost.astype(jnp.int32)
        arrived = state.busy & (come < self.arrival)
        lengths = jnp.minimum(lengths + arrived.astype(jnp.int32) * self.batch, ROOM)
        busy = jnp.where(state.busy, change >= self.calm, change < self.stir)
        state = QueueState(lengths, busy, server, jnp.maximum(setup - 1, 0))
        cost = jnp.sum(self.holding * lengths.astype(jnp.float32) + jnp.where(lost, self.loss, 0.0))
        return state, self._observe(state), -cost, jnp.array(False)

    def _observe(self, state: QueueState) -> Array:
        return jnp.append(state.lengths, state.setup).astype(jnp.float32)


def _accumulated(moves: Array, each: Array) -> Array:
    """What a job gathers on its way, (I - moves)^-1 each, as a series: faster to compile than a solver, and exact to
    float32 since a job goes on with probability MAX_FEEDBACK at most."""
    return jax.lax.fori_loop(0, 80, lambda _, total: each + moves @ total, each)


def klimov_index(holding: Array, service: Array, feedback: Array, onward: Array) -> Array:
    """float32[QUEUES]: Klimov's index, the maximum over all sets of classes; c mu without feedback."""
    routes = feedback[:, None] * (jnp.arange(QUEUES)[None] == onward[:, None]).astype(jnp.float32)
    sets = jnp.array((np.arange(2**QUEUES)[:, None] >> np.arange(QUEUES)[None]) & 1, jnp.float32)
    inside = routes[None] * sets[:, None, :]
    leaving = jnp.sum(routes[None] * (1.0 - sets)[:, None, :] * holding[None, None], axis=-1)
    time = jnp.broadcast_to((1.0 / service)[None], leaving.shape)
    solved = _accumulated(inside, jnp.stack([leaving, time], axis=-1))
    return jnp.max((holding[None] - solved[..., 0]) / solved[..., 1], axis=0)


@final
class QueueFamily(Family):
    name: str = eqx.field(static=True, default="work/queue")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("memoryless", "bursty", "batch arrivals", "abandonment", "set-up", "feedback")
    )
    lifetime: int = eqx.field(static=True, default=15 * SHIFT)
    reference: str = eqx.field(
        static=True,
        default="c mu rule (Cox & Smith 1961) and its forms for feedback (Klimov 1974), abandonment (Atar et al. 2010) "
        "and set-up (Duenyas & Van Oyen 1996)",
    )

    def sample(self, template: Array, key: Array) -> Queue:
        rows = iter(jax.random.uniform(key, (14, QUEUES)))
        bursty, batches, abandonment, setup, fed = (template == kind for kind in range(1, 6))
        service = between(next(rows), 0.3, 0.95)
        holding = COST_UNIT * 0.1 * 20.0 ** next(rows)  # 0.1 to 2 units
        feedback = jnp.where(fed, between(next(rows), 0.0, MAX_FEEDBACK), 0.0)
        onward = (jnp.arange(QUEUES) + whole(next(rows), 1, QUEUES)) % QUEUES
        classes = whole(next(rows)[0], 2, QUEUES + 1)
        used = jnp.argsort(next(rows)) < classes
        mix = jnp.where(used, between(next(rows), 0.2, 1.0), 0.0)
        routes = feedback[:, None] * (jnp.arange(QUEUES)[None] == onward[:, None]).astype(jnp.float32)
        visits = _accumulated(routes.T, mix[:, None])[:, 0]
        # Waiting for set-ups takes time, and the index of abandonment is meant for more work than can be done.
        usual = between(next(rows)[0], 0.6, 0.9)
        load = jnp.where(setup, usual - 0.2, jnp.where(abandonment, usual + 0.6, usual))
        arrival = mix * load / jnp.sum(visits / service)
        batch = jnp.where(batches, whole(next(rows)[0], 2, 6), 1)
        calm = jnp.where(bursty, between(next(rows), 0.03, 0.15), 0.0)
        part = jnp.where(bursty, between(next(rows), 0.3, 0.6), 1.0)
        impatience = jnp.where(abandonment, between(next(rows), 0.02, 0.1), 0.0)
        loss = jnp.where(abandonment, holding * between(next(rows), 0.0, 20.0), 0.0)
        index = jnp.where(
            abandonment,
            (holding + impatience * loss) * service / jnp.maximum(impatience, 1e-3),
            klimov_index(holding, service, feedback, onward),
        )
        return Queue(
            arrival=jnp.minimum(arrival / part / batch.astype(jnp.float32), 0.95),
            batch=batch,
            calm=calm,
            stir=jnp.where(bursty, calm * part / jnp.maximum(1.0 - part, 0.1), 1.0),
            service=service,
            feedback=feedback,
            onward=onward,
            impatience=impatience,
            holding=holding,
            loss=loss,
            delay=jnp.where(setup, whole(next(rows)[0], 1, 5), 0),
            index=index,
            drain=jnp.maximum(service - arrival, 0.05),
        )

    def teach(self, job: Queue, state: QueueState) -> Array:
        work = state.lengths.astype(jnp.float32) / job.drain
        here = jnp.arange(QUEUES) == state.server
        waiting = jnp.where(here, state.setup, 4 * job.delay).astype(jnp.float32)
        score = jnp.where(state.lengths > 0, job.index * work / jnp.maximum(work + waiting, 1e-3), 0.0)
        # Nothing waits anywhere: any queue will do, unless leaving this one costs a set-up.
        return best(jnp.maximum(score, jnp.where(here & (job.delay > 0), 1e-6, 0.0)), 0.0)


class MaintenanceState(NamedTuple):
    wear: Array  # int32[], level; WEARS - 1 is the failed machine


@final
class Maintenance(Job):
    """Observes the sensor's reading of the wear (share of its range), whether it is an inspection's exact one, and
    whether the machine has failed. Actions: run, inspect (which runs too), repair, replace."""

    cumulative: Array  # float32[WEARS, WEARS], of the wear after a step of running
    noise: Array  # float32[], standard deviation of a reading
    blind: Array  # bool[], whether there is a sensor only at inspections
    rewards: Array  # float32[4, WEARS], by action
    mended: Array  # int32[], levels of wear that a repair takes away
    policy: Array  # float32[WEARS, 4], the teacher's
    step_limit: int = eqx.field(static=True, default=SERVICE_LIFE)

    @property
    def observation_space(self) -> gym.Space:
        low, high = np.array([-np.inf, 0, 0], np.float32), np.array([np.inf, 1, 1], np.float32)
        return spaces.Box(low, high, dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(4)

    def reset(self, key: Array) -> tuple[MaintenanceState, Array]:
        wear = jnp.zeros((), jnp.int32)
        return MaintenanceState(wear), self._observe(wear, jnp.array(False), key)

    def step(self, state: MaintenanceState, action: Any, key: Array) -> tuple:
        run_key, sense_key = jax.random.split(key)
        worn = jnp.sum(jax.random.uniform(run_key) >= self.cumulative[state.wear], dtype=jnp.int32)
        worn = jnp.minimum(worn, WEARS - 1)
        repaired = _repaired(state.wear, self.mended)
        wear = jnp.where(action == REPAIR, repaired, jnp.where(action == REPLACE, 0, worn))
        reward = self.rewards[action, state.wear]
        return MaintenanceState(wear), self._observe(wear, action == INSPECT, sense_key), reward, jnp.array(False)

    def _observe(self, wear: Array, inspected: Array, key: Array) -> Array:
        true = wear.astype(jnp.float32) / (WEARS - 1)
        sensed = jnp.where(self.blind, 0.0, true + self.noise * jax.random.normal(key))
        flags = jnp.stack([inspected, wear == WEARS - 1]).astype(jnp.float32)
        return jnp.append(jnp.where(inspected, true, sensed)[None], flags)


def _repaired(wear: Array, mended: Array) -> Array:
    """A failed machine is beyond repair."""
    return jnp.where(wear == WEARS - 1, wear, jnp.maximum(wear - mended, 0))


def optimal_maintenance(chain: Array, rewards: Array, mended: Array) -> Array:
    """float32[WEARS, 4]: the probabilities of the optimal policy, by value iteration.

    chain: float32[WEARS, WEARS], of running; rewards: float32[4, WEARS].
    """
    repaired = _repaired(jnp.arange(WEARS), mended)

    def action_values(value: Array) -> Array:
        run = jnp.sum(chain * value[None], axis=1)
        return rewards + DISCOUNT * jnp.stack([run, run, value[repaired], jnp.full(WEARS, value[0])])

    value = jax.lax.fori_loop(0, SWEEPS, lambda _, value: jnp.max(action_values(value), axis=0), jnp.zeros(WEARS))
    return best(action_values(value).T, 1e-4)


@final
class MaintenanceFamily(Family):
    name: str = eqx.field(static=True, default="work/maintenance")
    templates: tuple[str, ...] = eqx.field(
        static=True,
        default=("linear wear", "shocks", "sudden failure", "accelerating wear", "hidden wear", "shown wear"),
    )
    lifetime: int = eqx.field(static=True, default=10 * SERVICE_LIFE)
    reference: str = eqx.field(
        static=True, default="optimal policy of the known and seen wear, by value iteration (Derman 1963); a bound"
    )

    def sample(self, template: Array, key: Array) -> Maintenance:
        units = iter(jax.random.uniform(key, (15,)))
        shocks, sudden, accelerating, hidden, shown = (template == kind for kind in range(1, 6))
        wear = jnp.arange(WEARS, dtype=jnp.float32)
        steady = jnp.full(WEARS, between(next(units), 0.1, 0.5))
        rising = between(next(units), 0.05, 0.2) * (1.0 + between(next(units), 0.3, 0.8) * wear)
        creep = jnp.where(
            accelerating, rising, jnp.where(shocks, 0.2 * steady, jnp.where(sudden, 0.5 * steady, steady))
        )
        shock, size = between(next(units), 0.05, 0.25), whole(next(units), 3, 7)
        shock = jnp.where(shocks, shock, 0.0)
        failure = jnp.where(sudden, between(next(units), 0.005, 0.03) * (1.0 + wear), 0.0)
        creep = jnp.minimum(creep, 1.0 - shock - failure)
        chain = (
            failure[:, None] * _moves(WEARS)
            + shock * _moves(size)
            + creep[:, None] * _moves(1)
            + (1.0 - failure - shock - creep)[:, None] * _moves(0)
        )
        # Wear that is to be hidden must not show in what the machine makes either.
        fading = jnp.where(hidden, 0.0, between(next(units), 0.1, 0.9))
        failed = wear == WEARS - 1
        output = jnp.where(failed, -between(next(units), 0.2, 1.0), 1.0 - fading * (wear / (WEARS - 1)) ** 2)
        new, repair = between(next(units), 2.0, 5.0), between(next(units), 0.3, 1.5)
        breakdown = jnp.where(failed, between(next(units), 3.0, 10.0), 0.0)
        inspected = output - between(next(units), 0.05, 0.3)
        rewards = jnp.stack([output, inspected, jnp.full(WEARS, -repair), -new - breakdown])
        mended = whole(next(units), 2, 6)
        return Maintenance(
            cumulative=jnp.cumsum(chain, axis=1),
            noise=jnp.where(shown, 0.0, between(next(units), 0.05, 0.3)),
            blind=hidden,
            rewards=rewards,
            mended=mended,
            policy=optimal_maintenance(chain, rewards, mended),
        )

    def teach(self, job: Maintenance, state: MaintenanceState) -> Array:
        return job.policy[state.wear]


def _moves(levels: Array | int) -> Array:
    """float32[WEARS, WEARS]: the chain in which the wear grows by so many levels."""
    wear = jnp.arange(WEARS)
    return (jnp.minimum(wear + levels, WEARS - 1)[:, None] == wear[None]).astype(jnp.float32)


FAMILIES = (QueueFamily(), MaintenanceFamily())
