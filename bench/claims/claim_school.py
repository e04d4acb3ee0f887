"""What the claims about schooling share: scores in context, and a school whose jobs are a fixed pool."""

from functools import partial
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from yardsticks import Candidate, draw

from fifteen.config import SchoolConfig
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.family import Family
from fifteen.jobs.references import normalised
from fifteen.learner import Learner
from fifteen.teaching import SchoolState, optimiser, teach_round


@final
class Pool(Family):
    """A fixed number of jobs of another family, drawn evenly."""

    base: Family
    jobs: Any  # of the base, [P, ...]
    name: str = eqx.field(static=True)
    lifetime: int = eqx.field(static=True)
    templates: tuple[str, ...] = eqx.field(static=True, default=("pool",))
    reference: str = eqx.field(static=True, default="that of the base")

    def sample(self, template: Array, key: Array) -> Any:
        count = len(jax.tree.leaves(self.jobs)[0])
        number = jax.random.randint(key, (), 0, count)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[number], self.jobs)

    def teach(self, job: Any, state: Any) -> Array | None:
        return self.base.teach(job, state)


class PoolSchool:
    """Schools of pools of one family, one after the other, as `fifteen.school` does it; compiled once."""

    def __init__(self, learner: Learner, family: Family, steps: int, config: SchoolConfig):
        """learner: of the size that all learners have; steps: ticks of all lifetimes together."""
        self._family, self._config, self._work = family, config, learner.work_config.on_policy()
        self.rounds = max(1, round(steps / (config.lifetimes * config.rollout)))
        self._updates = self.rounds * config.epochs * config.minibatches
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], family.sample(jnp.int32(0), jax.random.key(0)))
        room = self._room(learner, one)
        self._advance = jax.jit(partial(teach_round, room=room, updates=self._updates), donate_argnums=0)

    def _room(self, learner: Learner, jobs: Any) -> Classroom:
        """Rooms of all pools are alike but for what they draw, which the compiled round does not."""
        family = self._family
        pool = Pool(base=family, jobs=jobs, name=family.name, lifetime=family.lifetime)
        return Classroom(
            (pool,), ((0,),), self._config.lifetimes, config=learner.config, school=self._config, work=self._work
        )

    def school(self, learner: Learner, jobs: Any, seed: int) -> None:
        """School the learner on jobs [P, ...] of the family; its weights are replaced."""
        room = self._room(learner, jobs)
        enrol_key, key = jax.random.split(jax.random.key(seed))
        weights = jnp.copy(learner.state.weights)
        state = SchoolState(
            weights=weights,
            optimiser=optimiser(self._config, self._updates).init(weights),
            lifetimes=room.enrol(enrol_key),
            scales=jnp.ones(1),
            rounds=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(key),
        )
        for _ in range(self.rounds):
            lifetimes, _ = room.renew(state.lifetimes)
            state, _, spoiled = self._advance(state._replace(lifetimes=lifetimes))
            if np.asarray(spoiled).any():
                raise SystemExit(
                    f"{self._family.name} gave observations or rewards that are not finite: nothing is recorded"
                )
        learner.state = learner.state._replace(weights=state.weights)


class Examiner:
    """Scores of one learner in context on one family: weights as they are, the memory empty at first."""

    def __init__(self, learner: Learner, family: Family, attempts: int, jobs: int):
        """attempts: of each lifetime; jobs: lifetimes that are examined at once, one on each."""
        self._candidate = Candidate(learner, family, attempts, jobs)
        self._family, self._jobs = family, jobs

    def score(self, templates: tuple[str, ...], seed: int) -> float:
        """Mean return of all attempts on jobs drawn for this seed, 0 for chance and 1 for the family's reference."""
        family = self._family
        indices = tuple(map(family.templates.index, templates))
        draw_key, work_key = jax.random.split(jax.random.key(seed))
        returns = self._candidate.work(draw(family, indices, self._jobs, draw_key), self._jobs, work_key)
        return normalised(family, indices, float(returns.mean()))
