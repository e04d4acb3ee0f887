"""Whole lives on the device, many at once: jobs written in JAX, and the same functions that act in `fifteen.work`.

Only for learners whose weights stay as they are. Every life is one instance with one stream, as in
`fifteen.work(learn="context")`: the same percepts in the same order of ticks, of which the final observation of an
attempt has one of its own.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from continual_tasks import LIMIT, Attempts, make
from jax import Array

from fifteen import instance as instances
from fifteen.frames import Layout, Percept
from fifteen.instance import Instance, Statistics, new_instance
from fifteen.jobs.control import CartPole, MountainCar
from fifteen.jobs.native import Job
from fifteen.jobs.swing_ups import Acrobot
from fifteen.learner import Learner
from fifteen.model import Model, unravel
from fifteen.spaces import Hands, Senses

NATIVE: Mapping[str, Job] = {
    "CartPole-v1": CartPole.standard(),
    "Acrobot-v1": Acrobot.standard(),
    "MountainCar-v0": MountainCar.standard(),
}


class Lives(NamedTuple):
    """S lives, each where it stands."""

    instance: Instance  # [S, 1, ...]
    state: Any  # of the jobs, [S, ...]
    choice: Array  # int32[S], the action chosen last
    elapsed: Array  # int32[S], steps of the attempt
    ended: Array  # bool[S], the last tick ended an attempt, or there was none
    after: Array  # bool[S, 2], the attempt before ended by termination, by truncation
    returned: Array  # float32[S], reward of the attempt so far
    steps: Array  # int32[S], of the life
    key: Array  # uint32[S, 2], of the job


class Seen(NamedTuple):
    """What one tick showed of S lives, and what was chosen."""

    live: Array  # bool[S], False: the life was over before
    observation: Array  # float32[S, D]
    reward: Array  # float32[S]
    first: Array  # bool[S]
    terminated: Array  # bool[S]
    truncated: Array  # bool[S]
    choice: Array  # int32[S]
    returned: Array  # float32[S], of the attempt so far
    elapsed: Array  # int32[S], steps of the attempt so far
    steps: Array  # int32[S], of the life so far


@final
class Device:
    """One learner on one job: what is static, and the functions over `Lives`."""

    def __init__(self, learner: Learner, name: str, task_steps: int):
        self.config, self.work, self.task_steps = learner.config, learner.work_config, task_steps
        job, environment = NATIVE[name], make(name)
        hands = Hands(environment.action_space, self.config.max_bins, self.config.max_factors)
        senses = Senses(environment.observation_space, self.config.slots)
        environment.close()
        self.layout = Layout(self.config.slots, **dataclasses.asdict(hands.shape))
        self._single, self._table = (jnp.asarray(part)[None] for part in hands.valid())
        self._continuous = jnp.asarray(senses.continuous)
        self._parameters, self._static = eqx.partition(job, eqx.is_array)
        self._weights = learner.state.weights
        self.born = jax.jit(jax.vmap(self._born, in_axes=(0, 0, None)))
        self._live = jax.jit(self._lived, static_argnames=("ticks", "whole"))

    def _born(self, seed: Array, statistics: Statistics, steps: Array) -> Lives:
        """A life that begins: seed uint32[], statistics of a lifetime before, steps int32[] taken before."""
        key = jax.random.fold_in(jax.random.key(seed), 1)
        state, _ = eqx.combine(self._parameters, self._static).reset(key)
        return Lives(
            instance=new_instance(self.config, self.work, self.layout, statistics, 1, jax.random.key(seed)),
            state=jax.tree.map(_strong, state),
            choice=jnp.zeros((), jnp.int32),
            elapsed=jnp.zeros((), jnp.int32),
            ended=jnp.array(True),
            after=jnp.zeros(2, bool),
            returned=jnp.zeros(()),
            steps=jnp.asarray(steps, jnp.int32),
            key=jax.random.key_data(key),
        )

    def live(self, lives: Lives, offsets: Array, until: int, *, ticks: int, whole: bool = False) -> tuple[Lives, Any]:
        """Some ticks of every life; one that has taken `until` steps stays as it is.

        offsets float32[S, tasks, D], of which the last one stays. Returns the lives and the `Seen` of every tick,
        [T, S]: with whole=False without what was observed and chosen.
        """
        return self._live(self._weights, self._parameters, lives, offsets, jnp.int32(until), ticks=ticks, whole=whole)

    def _lived(
        self, weights: Array, parameters: Any, lives: Lives, offsets: Array, until: Array, *, ticks: int, whole: bool
    ) -> tuple[Lives, Seen]:
        model, job = unravel(weights, self.config), eqx.combine(parameters, self._static)
        move = jax.vmap(partial(self._tick, model, job), in_axes=(0, 0, None))

        def tick(lives: Lives, _: None) -> tuple[Lives, Seen]:
            lives, seen = move(lives, offsets, until)
            return lives, seen if whole else seen._replace(observation=None, choice=None)

        return jax.lax.scan(tick, lives, None, ticks)

    def _tick(self, model: Model, job: Any, life: Lives, offsets: Array, until: Array) -> tuple[Lives, Seen]:
        key, job_key = jax.random.split(jax.random.wrap_key_data(life.key))
        begin = life.ended
        elapsed = jnp.where(begin, 0, life.elapsed + 1)
        steps = life.steps + (~begin).astype(jnp.int32)
        *gone_on, reward, terminated = job.step(life.state, life.choice, job_key)
        state, observation = jax.tree.map(
            lambda new, old: _strong(jnp.where(begin, new, old)), job.reset(job_key), tuple(gone_on)
        )
        observation = observation + offsets[jnp.minimum(life.steps // self.task_steps, offsets.shape[0] - 1)]
        reward = jnp.where(begin, 0.0, jnp.asarray(reward, jnp.float32))
        terminated = terminated & ~begin
        truncated = (elapsed >= LIMIT) & ~terminated
        percept = Percept(
            vector=jnp.pad(observation, (0, self.config.slots - observation.shape[0])),
            image=None,
            previous=jnp.where(begin, -1, life.choice)[None],
            reward=reward,
            first=begin,
            terminated=terminated,
            truncated=truncated,
            after_termination=life.after[0] & begin,
            after_truncation=life.after[1] & begin,
            step=elapsed,
        )
        instance, packed = instances.act(
            model,
            life.instance,
            self.layout.frame(percept)[None],
            None,
            self._single,
            self._table,
            self._continuous,
            config=self.config,
            work=self.work,
            layout=self.layout,
            wipe=False,
        )
        choice = self.layout.decision(packed[0]).choice[0]
        ends = terminated | truncated
        returned = jnp.where(begin, 0.0, life.returned) + reward
        lived = Lives(
            instance=instance,
            state=state,
            choice=choice,
            elapsed=elapsed,
            ended=ends,
            after=jnp.where(ends, jnp.stack([terminated, truncated]), life.after),
            returned=returned,
            steps=steps,
            key=jax.random.key_data(key),
        )
        live = life.steps < until
        kept = jax.tree.map(lambda new, old: jnp.where(live, new, old), lived, life)
        seen = Seen(live, observation, reward, begin, terminated, truncated, choice, returned, elapsed, steps)
        return kept, seen


def attempts_of(seen: Seen) -> list[Attempts]:
    """Attempts that ended in some ticks, of every life."""
    ends = np.asarray(seen.live & (seen.terminated | seen.truncated))
    returned, elapsed, steps = (np.asarray(part) for part in (seen.returned, seen.elapsed, seen.steps))
    return [
        Attempts(
            returned[ends[:, s], s].astype(np.float64),
            elapsed[ends[:, s], s].astype(np.int64),
            steps[ends[:, s], s].astype(np.int64),
        )
        for s in range(ends.shape[1])
    ]


def _strong(leaf: Array) -> Array:
    """Not of weak type, so that what comes back in needs no second compilation."""
    return jax.lax.convert_element_type(leaf, leaf.dtype)
