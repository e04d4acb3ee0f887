"""Bandits: jobs whose actions have no consequence but their reward.

An arm a has the mean m_t(a); pulling it gives a reward of that mean. One attempt is `pulls` pulls and never
terminates. Where there is no context the observation is always zero: what is to be learned is in the learner's own
past actions and rewards.

- Bernoulli: r ~ Bernoulli(m(a)). The template "uniform", m(a) ~ U(0, 1) with k = 5 and n = 100 (or 500), is the
  specification of RL^2 (Duan et al., 2016, arXiv:1611.02779); "linked" follows the dependent arms of Wang et al.
  (2016, arXiv:1611.05763).
- Gaussian: r ~ N(m(a), s(a)^2). The template "testbed", m(a) ~ N(0, 1) and s = 1, is that of Sutton and Barto
  (2018, section 2.3).
- Contextual: a context x_t is drawn and observed before each pull; r ~ Bernoulli(sigmoid(b_i(a) + x_t . w(a))),
  where i is the prototype that x_t was drawn around (logistic bandits: Filippi et al., 2010).
- Drifting: m_t(a) = l_t(a) + A sin(f t + p(a)), r ~ N(m_t(a), s^2), where the level l_t walks, reverts, falls with
  the pulls of its arm (rotting bandits: Levine et al., 2017) or is drawn anew at once (restless and switching
  bandits: Whittle, 1988; Garivier and Moulines, 2011).
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import best, picked
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

ARMS = 5
PULLS = 100
CONTEXT = 4  # numbers in a context
PROTOTYPES = 4  # points that contexts are drawn around
TIE = 1e-6  # means this close count as equal


class BanditState(NamedTuple):
    means: Array  # float32[k], of the next pull


class ContextualState(NamedTuple):
    means: Array  # float32[k], of the next pull
    context: Array  # float32[CONTEXT]


class DriftingState(NamedTuple):
    means: Array  # float32[k], of the next pull
    level: Array  # float32[k], the means without their oscillation
    pulled: Array  # int32[], pulls in this attempt


class Bandit(Job):
    """What the bandits share: k arms and, unless there is a context, nothing to be seen."""

    arms: int = eqx.field(static=True)
    step_limit: int = eqx.field(static=True)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(self.arms)


@final
class Bernoulli(Bandit):
    chances: Array  # float32[k], of a reward of 1

    def reset(self, key: Array) -> tuple[BanditState, Array]:
        return BanditState(self.chances), jnp.zeros(1)

    def step(self, state: BanditState, action: Any, key: Array) -> tuple[BanditState, Array, Array, Array]:
        reward = (jax.random.uniform(key) < picked(state.means, action)).astype(jnp.float32)
        return state, jnp.zeros(1), reward, jnp.array(False)


@final
class BernoulliFamily(Family):
    arms: int = eqx.field(static=True, default=ARMS)
    pulls: int = eqx.field(static=True, default=PULLS)
    name: str = eqx.field(static=True, default="bandit/bernoulli")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("uniform", "one-good-arm", "clustered", "beta-low", "beta-high", "spaced", "linked")
    )
    lifetime: int = eqx.field(static=True, default=3 * PULLS)
    reference: str = eqx.field(
        static=True,
        default="the best arm, its chance known (no regret: Lai and Robbins, 1985); "
        "of those who must learn it, the Gittins index (Gittins, 1979) on 'uniform'",
    )

    def sample(self, template: Array, key: Array) -> Bernoulli:
        k = self.arms

        # Drawn once for all priors: each draw takes seconds to compile.
        drawn = jax.random.uniform(key, (2 * k + 3,))
        each, order, (one, two, three) = drawn[:k], jnp.argsort(drawn[k : 2 * k]), drawn[2 * k :]

        def uniform() -> Array:
            return each

        def one_good_arm() -> Array:
            return 0.05 + 0.45 * one + jnp.where(order == 0, 0.2 + 0.25 * two, 0.0)

        def clustered() -> Array:
            high = order < 1 + jnp.floor((k - 1) * one).astype(jnp.int32)
            return jnp.where(high, 0.55 + 0.3 * two, 0.1 + 0.3 * three) + 0.1 * (each - 0.5)

        # Beta(1, 4) and Beta(4, 1) by inversion: jax.random.beta is a rejection loop.
        def beta_low() -> Array:
            return 1.0 - each ** (1 / 4)

        def beta_high() -> Array:
            return each ** (1 / 4)

        def spaced() -> Array:
            return jnp.linspace(0.3 * one, 0.7 + 0.3 * two, k)[order]

        def linked() -> Array:
            even = 0.1 + 0.8 * one
            return jnp.where(jnp.arange(k) % 2 == 0, even, 1.0 - even)

        priors = [uniform, one_good_arm, clustered, beta_low, beta_high, spaced, linked]
        chances = jax.lax.switch(template, priors)
        return Bernoulli(arms=k, step_limit=self.pulls, chances=chances)

    def teach(self, job: Bernoulli, state: BanditState) -> Array:
        return best(state.means, TIE)


@final
class Gaussian(Bandit):
    means: Array  # float32[k]
    deviations: Array  # float32[k], of the reward

    def reset(self, key: Array) -> tuple[BanditState, Array]:
        return BanditState(self.means), jnp.zeros(1)

    def step(self, state: BanditState, action: Any, key: Array) -> tuple[BanditState, Array, Array, Array]:
        noise = picked(self.deviations, action) * jax.random.normal(key)
        return state, jnp.zeros(1), picked(state.means, action) + noise, jnp.array(False)


@final
class GaussianFamily(Family):
    arms: int = eqx.field(static=True, default=ARMS)
    pulls: int = eqx.field(static=True, default=PULLS)
    name: str = eqx.field(static=True, default="bandit/gaussian")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("testbed", "offset", "scaled", "one-good-arm", "unequal-noise", "spaced")
    )
    lifetime: int = eqx.field(static=True, default=3 * PULLS)
    reference: str = eqx.field(
        static=True,
        default="the best arm, its mean known (no regret: Lai and Robbins, 1985); "
        "of those who must learn it, Thompson sampling (Thompson, 1933; Agrawal and Goyal, 2013)",
    )

    def sample(self, template: Array, key: Array) -> Gaussian:
        k = self.arms
        normal_key, uniform_key = jax.random.split(key)
        normal, drawn = jax.random.normal(normal_key, (k,)), jax.random.uniform(uniform_key, (2 * k + 3,))
        each, order, (one, two, three) = drawn[:k], jnp.argsort(drawn[k : 2 * k]), drawn[2 * k :]
        same, mild = jnp.ones(k), jnp.full(k, 0.3 + 0.7 * three)

        def testbed() -> tuple[Array, Array]:
            return normal, same

        def offset() -> tuple[Array, Array]:
            return normal + 10.0 * (one - 0.5), same

        def scaled() -> tuple[Array, Array]:
            scale = 10.0 ** (1.5 * one - 1.0)
            return scale * normal, scale * same

        def one_good_arm() -> tuple[Array, Array]:
            return 2.0 * one - 1.0 + jnp.where(order == 0, 1.0 + 2.0 * two, 0.0), mild

        def unequal_noise() -> tuple[Array, Array]:
            return normal, 0.1 + 1.9 * each

        def spaced() -> tuple[Array, Array]:
            return order.astype(jnp.float32) * (0.2 + 0.8 * one), mild

        priors = [testbed, offset, scaled, one_good_arm, unequal_noise, spaced]
        means, deviations = jax.lax.switch(template, priors)
        return Gaussian(arms=k, step_limit=self.pulls, means=means, deviations=deviations)

    def teach(self, job: Gaussian, state: BanditState) -> Array:
        return best(state.means, TIE)


@final
class Contextual(Bandit):
    prototypes: Array  # float32[PROTOTYPES, CONTEXT], in [-1, 1]
    spread: Array  # float32[CONTEXT], of the contexts around their prototypes
    biases: Array  # float32[PROTOTYPES, k], log-odds of a reward of 1
    weights: Array  # float32[CONTEXT, k]

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (CONTEXT,), np.float32)

    def reset(self, key: Array) -> tuple[ContextualState, Array]:
        return self._meet(jax.random.uniform(key, (CONTEXT + 1,)))

    def step(self, state: ContextualState, action: Any, key: Array) -> tuple[ContextualState, Array, Array, Array]:
        drawn = jax.random.uniform(key, (CONTEXT + 2,))
        reward = (drawn[-1] < picked(state.means, action)).astype(jnp.float32)
        return *self._meet(drawn[:-1]), reward, jnp.array(False)

    def _meet(self, drawn: Array) -> tuple[ContextualState, Array]:
        """The next context from CONTEXT + 1 uniform numbers."""
        prototype = jnp.floor(drawn[-1] * PROTOTYPES).astype(jnp.int32)
        near = (jnp.arange(PROTOTYPES) == prototype).astype(jnp.float32)
        context = near @ self.prototypes + self.spread * (2.0 * drawn[:-1] - 1.0)
        context = jnp.clip(context, -1.0, 1.0)
        means = jax.nn.sigmoid(near @ self.biases + context @ self.weights)
        return ContextualState(means, context), context


@final
class ContextualFamily(Family):
    arms: int = eqx.field(static=True, default=ARMS)
    pulls: int = eqx.field(static=True, default=2 * PULLS)
    name: str = eqx.field(static=True, default="bandit/contextual")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("one-hot", "linear", "one-feature", "clusters", "irrelevant", "parity")
    )
    lifetime: int = eqx.field(static=True, default=4 * PULLS)
    reference: str = eqx.field(
        static=True,
        default="the best arm of each context, its chance known (no regret: Langford and Zhang, 2007); "
        "of those who must learn it, LinUCB (Li et al., 2010) on 'linear' and on 'one-hot'",
    )

    def sample(self, template: Array, key: Array) -> Contextual:
        k = self.arms
        normal_key, uniform_key = jax.random.split(key)
        normal = jax.random.normal(normal_key, (PROTOTYPES + CONTEXT, k))
        biases, weights = 2.0 * normal[:PROTOTYPES], 2.5 * normal[PROTOTYPES:]
        drawn = jax.random.uniform(uniform_key, (PROTOTYPES + 1, CONTEXT))
        points, order, width = 1.6 * drawn[1:] - 0.8, jnp.argsort(drawn[0]), 0.3 * drawn[0, 0]
        one_bias, nowhere = jnp.tile(biases[:1], (PROTOTYPES, 1)), jnp.zeros((PROTOTYPES, CONTEXT))
        still, wide, no_weights = jnp.zeros(CONTEXT), jnp.ones(CONTEXT), jnp.zeros((CONTEXT, k))

        def one_hot() -> tuple[Array, ...]:
            return jnp.eye(PROTOTYPES, CONTEXT), still, biases, no_weights

        def linear() -> tuple[Array, ...]:
            return nowhere, wide, 0.25 * one_bias, weights

        def one_feature() -> tuple[Array, ...]:
            telling = (order == 0).astype(jnp.float32)
            return nowhere, wide, 0.25 * one_bias, 2.0 * telling[:, None] * weights

        def clusters() -> tuple[Array, ...]:
            return points, width * wide, biases, no_weights

        def irrelevant() -> tuple[Array, ...]:
            return nowhere, wide, one_bias, no_weights

        def parity() -> tuple[Array, ...]:
            # The corners of two drawn features; opposite corners have the same arms, so no single feature tells.
            signs = jnp.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
            one, other = (order == 0).astype(jnp.float32), (order == 1).astype(jnp.float32)
            corners = signs[:, :1] * one[None] + signs[:, 1:] * other[None]
            return corners, wide - one - other, jnp.repeat(biases[:2], 2, axis=0), no_weights

        rules = [one_hot, linear, one_feature, clusters, irrelevant, parity]
        prototypes, spread, biases, weights = jax.lax.switch(template, rules)
        return Contextual(
            arms=k, step_limit=self.pulls, prototypes=prototypes, spread=spread, biases=biases, weights=weights
        )

    def teach(self, job: Contextual, state: ContextualState) -> Array:
        return best(state.means, TIE)


@final
class Drifting(Bandit):
    start: Array  # float32[k], levels that every attempt begins with
    walk: Array  # float32[], deviation of a step of the levels
    reversion: Array  # float32[], part of the way back to the start per step
    rot: Array  # float32[], fall of an arm's level for each of its pulls
    spread: Array  # float32[], deviation of levels drawn anew
    hazard: Array  # float32[], chance per step that they are
    period: Array  # int32[], pulls after which the levels move on to the next arm
    amplitude: Array  # float32[]
    frequency: Array  # float32[], radians per pull
    phases: Array  # float32[k]
    deviation: Array  # float32[], of the reward

    def reset(self, key: Array) -> tuple[DriftingState, Array]:
        return self._at(self.start, jnp.zeros((), jnp.int32)), jnp.zeros(1)

    def step(self, state: DriftingState, action: Any, key: Array) -> tuple[DriftingState, Array, Array, Array]:
        # One normal number only, for the reward: they are dear on a CPU, and the levels' steps add up to normal ones.
        drawn = jax.random.uniform(key, (self.arms + 2,), jnp.float32, -1.0 + 1e-6, 1.0)
        noise, lot, steps = float(np.sqrt(2.0)) * jax.lax.erf_inv(drawn[0]), drawn[1], float(np.sqrt(3.0)) * drawn[2:]
        reward = picked(state.means, action) + self.deviation * noise
        fall = jnp.where(jnp.arange(self.arms) == action, self.rot, 0.0)
        level = state.level - fall + self.reversion * (self.start - state.level) + self.walk * steps
        level = jnp.where(lot < 2.0 * self.hazard - 1.0, self.spread * steps, level)
        pulled = state.pulled + 1
        level = jnp.where(pulled % self.period == 0, jnp.roll(level, 1), level)
        return self._at(level, pulled), jnp.zeros(1), reward, jnp.array(False)

    def _at(self, level: Array, pulled: Array) -> DriftingState:
        angle = self.frequency * pulled.astype(jnp.float32) + self.phases
        return DriftingState(level + self.amplitude * jnp.sin(angle), level, pulled)


@final
class DriftingFamily(Family):
    arms: int = eqx.field(static=True, default=ARMS)
    pulls: int = eqx.field(static=True, default=2 * PULLS)
    name: str = eqx.field(static=True, default="bandit/drifting")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("random-walk", "reverting", "switching", "rotating", "periodic", "rotting")
    )
    lifetime: int = eqx.field(static=True, default=2 * PULLS)
    reference: str = eqx.field(
        static=True,
        default="the best arm of the moment, its mean known (no dynamic regret: Besbes et al., 2014); "
        "of those who must learn it, discounted or sliding-window UCB (Garivier and Moulines, 2011)",
    )

    def sample(self, template: Array, key: Array) -> Drifting:
        k = self.arms
        normal_key, uniform_key = jax.random.split(key)
        start = jax.random.normal(normal_key, (k,))
        drawn = jax.random.uniform(uniform_key, (k + 3,))
        rate, other, third = drawn[:3]
        never = jnp.iinfo(jnp.int32).max
        kind = jnp.arange(len(self.templates)) == template
        walks, reverts, switches, rotates, oscillates, rots = kind
        return Drifting(
            arms=k,
            step_limit=self.pulls,
            start=jnp.where(oscillates, 0.3, 1.0) * start + jnp.where(rots, 1.0, 0.0),
            walk=jnp.where(walks, 0.05 + 0.15 * rate, jnp.where(reverts, 0.2 + 0.2 * rate, 0.0)),
            reversion=jnp.where(reverts, 0.02 + 0.08 * other, 0.0),
            rot=jnp.where(rots, 0.02 + 0.06 * rate, 0.0),
            spread=0.5 + rate,
            hazard=jnp.where(switches, 1.0 / (15.0 + 45.0 * other), 0.0),
            period=jnp.where(rotates, 10 + jnp.floor(40.0 * rate).astype(jnp.int32), never),
            amplitude=jnp.where(oscillates, 0.8 + 1.2 * other, 0.0),
            frequency=2.0 * jnp.pi / (20.0 + 80.0 * rate),
            phases=2.0 * jnp.pi * drawn[3:],
            deviation=0.1 + 0.6 * third,
        )

    def teach(self, job: Drifting, state: DriftingState) -> Array:
        return best(state.means, TIE)


FAMILIES = (BernoulliFamily(), GaussianFamily(), ContextualFamily(), DriftingFamily())
