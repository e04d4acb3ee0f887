"""Teachers of bandits who have to find out: the arm whose mean and what is not yet known of it are most together.

The index is a posterior mean and some posterior standard deviations: Bayes-UCB (Kaufmann, Cappé and Garivier, 2012)
with the quantile of a normal distribution.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from fifteen.jobs.bandits import (
    CONTEXT,
    TIE,
    Bernoulli,
    Contextual,
    ContextualState,
    Drifting,
    DriftingState,
)
from fifteen.jobs.drawing import best
from fifteen.jobs.explorer import Explorer, Step


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


class Odds(NamedTuple):
    """What is believed of the log-odds of each arm, linear in one and the context: normal."""

    means: Array  # float32[k, 1 + CONTEXT]
    covariances: Array  # float32[k, 1 + CONTEXT, 1 + CONTEXT]


@final
class ContextualExplorer(Explorer):
    """Logistic regression on the context for each arm, by an extended Kalman filter.

    GLM-UCB (Filippi et al., 2010) with the posterior of Laplace, one observation at a time. Contexts around four points
    are linear too: as many numbers as points. Where 1 is the best arm of each context it has 0.79 in the first attempt
    and 0.96 in the fourth, over templates of school.
    """

    width: float = eqx.field(static=True, default=1.0)
    deviation: float = eqx.field(static=True, default=2.0)  # of each weight, before anything was seen

    def begin(self, job: Contextual) -> Odds:
        size = 1 + CONTEXT
        prior = jnp.tile(self.deviation**2 * jnp.eye(size)[None], (job.arms, 1, 1))
        return Odds(jnp.zeros((job.arms, size)), prior)

    def note(self, job: Contextual, notes: Odds, step: Step) -> Odds:
        seen = jnp.append(jnp.ones(1), step.state.context)
        chance = jax.nn.sigmoid(notes.means @ seen)
        gain = notes.covariances @ seen  # [k, 1 + CONTEXT]
        known = jnp.maximum(chance * (1.0 - chance), 0.05)  # in one observation; far off it would never be doubted
        pulled = jax.nn.one_hot(step.action, job.arms) * known / (1.0 + known * (gain @ seen))
        moved = (pulled / known * (step.reward - chance))[:, None] * gain
        return Odds(
            notes.means + moved, notes.covariances - pulled[:, None, None] * gain[:, :, None] * gain[:, None, :]
        )

    def advise(self, job: Contextual, notes: Odds, state: ContextualState) -> Array:
        seen = jnp.append(jnp.ones(1), state.context)
        variance = jnp.maximum((notes.covariances @ seen) @ seen, 0.0)
        return best(notes.means @ seen + self.width * jnp.sqrt(variance), TIE)


class Levels(NamedTuple):
    """What is believed of the arms, normal: at the beginning of every attempt, and now."""

    start: Array  # float32[k], means
    start_variance: Array  # float32[k]
    now: Array  # float32[k]
    now_variance: Array  # float32[k]


@final
class DriftingExplorer(Explorer):
    """A Kalman filter for each arm (Kalman, 1960), on the true noise and speed of the drift.

    Attempts begin with the same levels, of which the more is believed the earlier in an attempt they were seen. Where 1
    is the best arm of every moment it has 0.78 in the first attempt and 0.83 in the second, over templates of school.
    """

    width: float = eqx.field(static=True, default=1.2)

    def begin(self, job: Drifting) -> Levels:
        mean, variance = jnp.zeros(job.arms), jnp.ones(job.arms)
        return Levels(mean, variance, mean, variance)

    def note(self, job: Drifting, notes: Levels, step: Step) -> Levels:
        pulled = jax.nn.one_hot(step.action, job.arms)
        mean, variance = self._now(notes, step.state)
        noise = job.deviation**2
        drift = job.walk**2 + job.hazard * (1.0 + job.spread**2) + (job.amplitude * job.frequency) ** 2
        gain = pulled * variance / (variance + noise)
        mean = mean + gain * (step.reward - mean)
        variance = variance * (1.0 - gain)
        elapsed = step.state.pulled.astype(jnp.float32)
        doubt = noise + drift * elapsed + (job.rot * elapsed) ** 2
        gain = pulled * notes.start_variance / (notes.start_variance + doubt)
        start = notes.start + gain * (step.reward - notes.start)
        kept = 1.0 - job.reversion
        return Levels(
            start=start,
            start_variance=notes.start_variance * (1.0 - gain),
            now=kept * (mean - job.rot * pulled) + job.reversion * start,
            now_variance=kept**2 * variance + drift,
        )

    def advise(self, job: Drifting, notes: Levels, state: DriftingState) -> Array:
        mean, variance = self._now(notes, state)
        return best(mean + self.width * jnp.sqrt(variance), TIE)

    def _now(self, notes: Levels, state: DriftingState) -> tuple[Array, Array]:
        first = state.pulled == 0
        return jnp.where(first, notes.start, notes.now), jnp.where(first, notes.start_variance, notes.now_variance)
