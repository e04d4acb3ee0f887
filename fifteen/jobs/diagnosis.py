"""Diagnosis (`work/diagnosis`): find out what is wrong, then treat it.

A condition is drawn from a prior; a test gives a result of a distribution that depends on the condition and a treatment
ends the attempt (Ledley & Lusted 1959, "Reasoning foundations of medical diagnosis"). The teacher knows the condition
and gives the treatment of the highest expected reward at once, which bounds all others.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import best, between, whole
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

CONDITIONS = 5
TESTS = 5
RESULTS = 5
TREATMENTS = 5
MAX_ACTIONS = 15


class DiagnosisState(NamedTuple):
    condition: Array  # int32[]
    event: Array  # int32[], the last one


@final
class Diagnosis(Job):
    """Observes the last event: 0 the beginning, 1 + test * RESULTS + result, and at the end 1 + TESTS * RESULTS.
    Actions: the tests, then the treatments."""

    prior: Array  # float32[CONDITIONS], cumulative
    results: Array  # float32[TESTS, CONDITIONS, RESULTS], cumulative over results
    cures: Array  # float32[TREATMENTS, CONDITIONS], probabilities
    costs: Array  # float32[TESTS + TREATMENTS]
    benefit: Array  # float32[], of a cure
    harm: Array  # float32[], where there is none
    policy: Array  # float32[CONDITIONS, TESTS + TREATMENTS], the teacher's
    step_limit: int = eqx.field(static=True, default=MAX_ACTIONS)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Discrete(2 + TESTS * RESULTS)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(TESTS + TREATMENTS)

    def reset(self, key: Array) -> tuple[DiagnosisState, Array]:
        condition = jnp.sum(jax.random.uniform(key) >= self.prior[:-1], dtype=jnp.int32)
        nothing = jnp.zeros((), jnp.int32)
        return DiagnosisState(condition, nothing), nothing

    def step(self, state: DiagnosisState, action: Any, key: Array) -> tuple:
        draw, action = jax.random.uniform(key), jnp.asarray(action, jnp.int32)
        test, treatment = jnp.minimum(action, TESTS - 1), jnp.maximum(action - TESTS, 0)
        treated = action >= TESTS
        result = jnp.sum(draw >= self.results[test, state.condition, :-1], dtype=jnp.int32)
        outcome = jnp.where(draw < self.cures[treatment, state.condition], self.benefit, -self.harm)
        reward = jnp.where(treated, outcome, 0.0) - self.costs[action]
        event = jnp.where(treated, 1 + TESTS * RESULTS, 1 + test * RESULTS + result)
        return DiagnosisState(state.condition, event), event, reward, treated


@final
class DiagnosisFamily(Family):
    name: str = eqx.field(static=True, default="work/diagnosis")
    templates: tuple[str, ...] = eqx.field(
        static=True,
        default=(
            "decisive test",
            "noisy tests",
            "cheap and dear",
            "common condition",
            "broad treatments",
            "halving tests",
        ),
    )
    lifetime: int = eqx.field(static=True, default=600)
    reference: str = eqx.field(
        static=True, default="the best treatment of the known condition, at once (Ledley & Lusted 1959); a bound"
    )

    def sample(self, template: Array, key: Array) -> Diagnosis:
        draws = jax.random.uniform(key, (27, CONDITIONS))
        rows = iter(draws[15:])
        decisive, noisy, unequal, common, broad, halving = (template == kind for kind in range(6))
        weights = 0.3 + next(rows)
        usual = (jnp.argsort(next(rows)) == 0).astype(jnp.float32)
        most = jnp.where(common, between(next(rows)[0], 0.6, 0.8), 0.0)
        prior = most * usual + (1.0 - most) * weights / jnp.sum(weights)

        one = jnp.argsort(next(rows)) == 0
        good = jnp.argsort(next(rows)) < whole(next(rows)[0], 1, TESTS)
        spread = next(rows)
        accuracy = 0.7 + 0.25 * spread
        accuracy = jnp.where(decisive, jnp.where(one, 0.97, 0.05 + 0.1 * spread), accuracy)
        accuracy = jnp.where(noisy, 0.35 + 0.3 * spread, accuracy)
        accuracy = jnp.where(unequal, jnp.where(good, 0.95, 0.3 + 0.2 * spread), accuracy)
        accuracy = jnp.where(halving, 0.85 + 0.14 * spread, accuracy)
        meant = jnp.argsort(draws[:TESTS], axis=1)  # a permutation of the conditions for each test
        # A halving test knows two groups of conditions only, so that no single one tells them apart.
        meant = jnp.where(halving, (meant >= 3).astype(jnp.int32), meant)
        told = (meant[:, :, None] == jnp.arange(RESULTS)[None, None]).astype(jnp.float32)
        possible = jnp.where(halving, (jnp.arange(RESULTS) < 2).astype(jnp.float32) / 2.0, 1.0 / RESULTS)
        results = accuracy[:, None, None] * told + (1.0 - accuracy)[:, None, None] * possible[None, None]

        cured = jnp.argsort(next(rows))[:, None] == jnp.arange(CONDITIONS)[None]
        also, chance = draws[5:10] < 0.4, draws[10:15]
        cures = jnp.where(cured | (broad & also), 0.8 + 0.2 * chance, 0.15 * chance)
        benefit, harm = between(next(rows)[0], 5.0, 15.0), between(next(rows)[0], 0.0, 5.0)
        share = jnp.append(next(rows), next(rows))
        fee = jnp.where(unequal, jnp.where(good, 1.0 + share[:TESTS], 0.1), 0.1 + 0.5 * share[:TESTS])
        costs = jnp.append(fee, 1.5 * share[TESTS:])
        value = cures * (benefit + harm) - harm - costs[TESTS:, None]
        return Diagnosis(
            prior=jnp.cumsum(prior),
            results=jnp.cumsum(results, axis=2),
            cures=cures,
            costs=costs,
            benefit=benefit,
            harm=harm,
            policy=jnp.append(jnp.zeros((CONDITIONS, TESTS)), best(value.T, 0.0), axis=1),
        )

    def teach(self, job: Diagnosis, state: DiagnosisState) -> Array:
        return job.policy[state.condition]


FAMILIES = (DiagnosisFamily(),)
