"""A saved learner on what the literature measures in-context learning by, against classical rivals on the same jobs.

    python bench/yardsticks.py --learner PATH          # all yardsticks, written to bench/results/yardsticks.json
    python bench/yardsticks.py --learner PATH --quick  # a small number of jobs; nothing is written

The learner works through one lifetime on each job: its weights stay as they are, its memory is empty at the beginning
and is never wiped. It draws its actions from its policy, as in a school; nothing is made greedy. The rivals
(`bench/rivals.py`) know the family that jobs are drawn from, where their source does, and work on the same jobs with
luck of their own. A number of jobs is of each seed; 0 leaves the yardstick out. Intervals are of 95 % over all jobs.

- Bernoulli bandits of RL^2 (Duan et al., 2016): 5 arms of uniform chances, 100 or 500 pulls; total reward.
  Target: >= 0.99 of the Gittins index policy.
- Tabular MDPs of RL^2: 10 states, 5 actions, 10 or 100 episodes of 10 steps; total reward.
  Target: 10 episodes: >= 156.2 and >= every rival; 100 episodes: >= OPSRL.
- Frozen lakes of 5x5 cells, not slippery, with drawn holes; success by attempt. Target: >= 0.90 at attempts 8 and 15.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fifteen.config import SchoolConfig
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.family import Family
from fifteen.learner import Learner
from fifteen.model import unravel

QUICK = {"bandits": 200, "mdps": 40, "lakes": 100, "seeds": 1}
LAKE_ATTEMPTS = 15
LAKE_MARKS = (8, 15)  # attempts, from 1
NORMAL = 1.96

# Duan et al. (2016, arXiv:1611.02779), tables 1 and 2; SNAIL: Mishra et al. (2018, arXiv:1707.03141), tables 1 and 2,
# with their own run of RL^2.
PUBLISHED = {
    "bandits, 100 pulls": {"rl2": 78.7, "gittins": 78.3, "snail": 79.1},
    "bandits, 500 pulls": {"rl2": 401.6, "gittins": 405.8, "snail": 408.1},
    "mdps, 10 episodes": {"rl2": 156.2, "rl2, run again": 157.3},
    "mdps, 100 episodes": {"opsrl": 1973.9, "rl2": 1913.7},
}

Totals = dict[str, np.ndarray]  # by policy, float64[jobs]


class Candidate:
    """A learner that works through lifetimes on many jobs of one family at once."""

    def __init__(self, learner: Learner, family: Family, attempts: int, ticks: int, each: int):
        """ticks: as many as the longest lifetime of so many attempts can have; each: jobs at once."""
        steps = jax.eval_shape(family.sample, jnp.zeros((), jnp.int32), jax.random.key(0)).step_limit
        # The final observation of an attempt has a tick of its own.
        school = SchoolConfig(rollout=steps + 1, projected=0.0, reward_units=(1.0, 1.0))
        work = dataclasses.replace(learner.work_config, noise_memory=(0.0,))  # as in a school
        self._room = Classroom((family,), ((0,),), each, config=learner.config, school=school, work=work)
        self._model = unravel(learner.state.weights, learner.config)
        self._attempts, self._live = attempts, jax.jit(self._lived)

    def _lived(self, model: Any, lifetimes: Any) -> tuple[Any, jax.Array, jax.Array]:
        lifetimes, rollout = self._room.live(model, lifetimes, jnp.ones(1))
        percepts = jax.vmap(jax.vmap(lambda frame: self._room.layout.percept(frame, None)))(rollout.frames)
        return lifetimes, percepts.reward, percepts.terminated | percepts.truncated

    def work(self, jobs: Any, count: int, key: jax.Array) -> np.ndarray:
        """Return of every attempt, float64[count, attempts], on jobs [count, ...]."""
        each, returns = self._room.each, []
        for n, start in enumerate(range(0, count, each)):
            # The last ones are filled up with the first: another number would be compiled anew.
            part = jax.tree.map(lambda leaf, start=start: leaf[np.arange(start, start + each) % count], jobs)
            returns.append(self._work(part, jax.random.fold_in(key, n)))
        return np.concatenate(returns)[:count]

    def _work(self, jobs: Any, key: jax.Array) -> np.ndarray:
        # The states are those of other jobs, but the first tick begins an attempt and leaves nothing of them.
        lifetimes = self._room.enrol(key)._replace(jobs=(jobs,))
        returns = np.zeros((self._room.each, self._attempts))
        done = np.zeros(self._room.each, np.int64)
        while (done < self._attempts).any():
            lifetimes, rewards, ends = self._live(self._model, lifetimes)
            rewards, ends = np.asarray(rewards, np.float64), np.asarray(ends)
            attempt = done[:, None] + np.cumsum(ends, axis=1) - ends
            row, column = np.nonzero(attempt < self._attempts)
            np.add.at(returns, (row, attempt[row, column]), rewards[row, column])
            done += ends.sum(axis=1)
        return returns
