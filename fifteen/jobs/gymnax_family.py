"""Environments of gymnax (Lange, 2022, https://github.com/RobertTLange/gymnax) as jobs, such as "gymnax/CartPole-v1".

gymnax's `step` begins the next attempt by itself, so that the last observation of an attempt is lost. What is wrapped
is `step_env`: it does not reset, and since gymnax 1.0 its flag is termination alone. The step limit,
`max_steps_in_episode`, is the job's, which truncates.
"""

import functools
from dataclasses import dataclass
from importlib import metadata
from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs.family import OutsideFamily
from fifteen.jobs.native import Job
from fifteen.jobs.outside import INSTALL, arrays, check_known, library, lifetime_of, usual_numbers


@dataclass(frozen=True, eq=False)  # compared by identity: one object for each id, so that its jobs share compilations
class _Environment:
    simulator: Any  # gymnax's Environment
    params: Any  # gymnax's EnvParams, the defaults
    observation_space: gym.Space
    action_space: gym.Space


@final
class GymnaxJob(Job):
    """An environment of gymnax with its default parameters."""

    environment: _Environment = eqx.field(static=True)
    step_limit: int = eqx.field(static=True)

    @property
    def observation_space(self) -> gym.Space:
        return self.environment.observation_space

    @property
    def action_space(self) -> gym.Space:
        return self.environment.action_space

    def reset(self, key: Array) -> tuple[Any, Array]:
        with usual_numbers():
            observation, state = self.environment.simulator.reset_env(key, self.environment.params)
        return arrays(state), self._seen(observation)

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Array, Array, Array]:
        discrete = isinstance(self.action_space, spaces.Discrete)
        action = jnp.asarray(action, jnp.int32 if discrete else jnp.float32)
        with usual_numbers():
            observation, state, reward, terminated, _ = self.environment.simulator.step_env(
                key, state, action, self.environment.params
            )
        return arrays(state), self._seen(observation), jnp.asarray(reward, jnp.float32), terminated

    def _seen(self, observation: Any) -> Array:
        discrete = isinstance(self.observation_space, spaces.Discrete)
        return jnp.asarray(observation, jnp.int32 if discrete else jnp.float32)


def gymnax_family(name: str) -> OutsideFamily:
    """The environment that gymnax knows as `name`, as a family.

    Raises JobError where gymnax is missing or older than 1.0, or has no such environment, or one of other spaces than
    Discrete and Box.
    """
    job_id = f"gymnax/{name}"
    gymnax = library("gymnax", job_id)
    version = metadata.version("gymnax")
    if version.startswith("0."):
        raise JobError(f"{job_id} needs gymnax 1.0, {version} merges termination with the step limit: {INSTALL}")
    check_known(name, gymnax.registered_envs, job_id)
    environment = _made(name)
    limit = int(environment.params.max_steps_in_episode)
    job = GymnaxJob(environment=environment, step_limit=limit)
    return OutsideFamily(name=job_id, templates=(f"gymnax {version}",), lifetime=lifetime_of(limit), job=job)


@functools.cache
def _made(name: str) -> _Environment:
    gymnax = library("gymnax", f"gymnax/{name}")
    convert = gymnax.environments.spaces.gymnax_space_to_gym_space
    try:
        with usual_numbers():
            simulator, params = gymnax.make(name)
            seen, done = convert(simulator.observation_space(params)), convert(simulator.action_space(params))
    except Exception as error:  # such as MNISTBandit-bsuite, where its data cannot be downloaded
        raise JobError(f"gymnax/{name} cannot be made: {type(error).__name__}: {error}") from error
    for space in (seen, done):
        if not isinstance(space, spaces.Discrete | spaces.Box):
            raise JobError(f"gymnax/{name} has the space {space}, expected Discrete or Box")
    if isinstance(seen, spaces.Box):
        # The bounds that gymnax declares do not hold everywhere: GaussianBandit-misc, MemoryChain-bsuite.
        seen = spaces.Box(-np.inf, np.inf, seen.shape, np.float32)
    return _Environment(simulator, params, seen, done)
