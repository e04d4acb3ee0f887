"""Environments of XLand-MiniGrid (Nikulin et al., 2024, arXiv:2312.12044) as jobs, such as "xland/MiniGrid-Empty-6x6".

Observed is the library's view of the 5 x 5 cells before the agent, of each cell the numbers of its tile and its colour.
MiniGrid's own view of 7 x 7 would be more numbers than most minds have slots for. The library's `step` does not reset;
the discount that it tells is 0 at termination alone. Its step limit is the job's, which truncates.
"""

import functools
from importlib import metadata
from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs.family import OutsideFamily
from fifteen.jobs.native import Job
from fifteen.jobs.outside import arrays, check_known, library, lifetime_of, usual_numbers

VIEW = 5  # cells, each way
NUMBERS = 2  # of a cell: tile and colour


@final
class XlandJob(Job):
    """An environment of XLand-MiniGrid; see `xland_job`."""

    environment: Any = eqx.field(static=True)  # the library's Environment: one object for each id
    params: Any  # the library's EnvParams; the arrays of a ruleset are the job's hidden parameters
    step_limit: int = eqx.field(static=True)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(0.0, np.inf, (VIEW * VIEW * NUMBERS,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(self.environment.num_actions(self.params))

    def reset(self, key: Array) -> tuple[Any, Array]:
        with usual_numbers():
            # The state keeps the key; as plain numbers it can be saved with the rest.
            begun = self.environment.reset(self.params, jax.random.key_data(key))
        return arrays(begun), _seen(begun)

    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Array, Array, Array]:
        with usual_numbers():
            moved = self.environment.step(self.params, state, jnp.asarray(action, jnp.int32))
        return arrays(moved), _seen(moved), jnp.asarray(moved.reward, jnp.float32), moved.discount == 0.0


def xland_job(name: str, ruleset: Any = None) -> XlandJob:
    """The environment that XLand-MiniGrid knows as `name`.

    ruleset: what is to be achieved and by which rules, a `xminigrid.types.RuleSet`; the environments "XLand-..." need
    one, the others have their own. Raises JobError where the library is missing or has no such environment, and where
    there would be nothing to achieve.
    """
    job_id = f"xland/{name}"
    xminigrid = library("xminigrid", job_id)
    check_known(name, xminigrid.registered_environments(), job_id)
    if name == "MiniGrid-Playground":
        raise JobError(f"{job_id} has no goal: nothing in it is ever rewarded")
    needs_ruleset = name.startswith("XLand-")
    if needs_ruleset and ruleset is None:
        raise JobError(
            f"{job_id} has no goal but that of a ruleset, and the library's benchmarks of rulesets are downloaded: get "
            f"one, and give the job fifteen.jobs.xland_family.xland_job({name!r}, ruleset)"
        )
    if ruleset is not None and not needs_ruleset:
        raise JobError(f"{job_id} has a goal of its own and takes no ruleset")
    environment, params = _made(name)
    if ruleset is not None:
        params = params.replace(ruleset=ruleset)
    return XlandJob(environment, params, int(params.max_steps))


def xland_family(name: str) -> OutsideFamily:
    """The environment that XLand-MiniGrid knows as `name`, as a family. Raises JobError as `xland_job` does."""
    job = xland_job(name)
    version = f"xminigrid {metadata.version('xminigrid')}"
    return OutsideFamily(name=f"xland/{name}", templates=(version,), lifetime=lifetime_of(job.step_limit), job=job)


@functools.cache
def _made(name: str) -> tuple[Any, Any]:
    with usual_numbers():
        return library("xminigrid", f"xland/{name}").make(name, view_size=VIEW)


def _seen(moment: Any) -> Array:
    return moment.observation.astype(jnp.float32).reshape(-1)
