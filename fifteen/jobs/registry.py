"""Which jobs there are, and how a job of any kind is opened."""

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from fifteen.errors import JobError
from fifteen.jobs.families import FAMILIES, OUTSIDE, is_outside, outside_family
from fifteen.jobs.family import draw_job
from fifteen.jobs.gymnasium_stream import GymnasiumStream
from fifteen.jobs.native import Job, NativeStream
from fifteen.jobs.protocol import Stream
from fifteen.jobs.vector_stream import VectorStream

_ID = re.compile(r"(?:(?P<family>[A-Za-z0-9][\w.-]*)/)?[A-Za-z0-9][\w.-]*-v\d+")
_VERSIONED = re.compile(r".*-v\d+")
_KINDS = (
    f"a registered id, a Gymnasium id, {', '.join(f'{name}/NAME' for name in OUTSIDE)}, 'module:factory', a "
    "gymnasium.Env, a gymnasium.vector.VectorEnv, a native Job, or a callable that returns one of the last three"
)


@dataclass(frozen=True)
class JobSpec:
    """A registered job."""

    id: str  # "name-v0" or "family/name-v0"
    factory: str | Callable[..., Any]  # or "module:factory"; returns an Env, a VectorEnv or a Job
    budget: int | None = None  # environment steps in which it should be learned; None: not said
    description: str = ""
    family: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # given to the factory


_PROBES = "fifteen.jobs.probes"
_registered: dict[str, JobSpec] = {
    spec.id: spec
    for spec in (
        JobSpec(
            "cartpole-hidden-velocity-v0",
            "fifteen.jobs.hidden_velocity:hidden_velocity_cartpole",
            200_000,
            "CartPole-v1 that shows position and angle only: needs memory",
        ),
        JobSpec("probe/value-v0", f"{_PROBES}:ValueProbe", 1_000, "one step, reward 1", "probe"),
        JobSpec(
            "probe/observation-v0",
            f"{_PROBES}:ObservationProbe",
            1_000,
            "one step, the reward is the observation",
            "probe",
        ),
        JobSpec(
            "probe/discount-v0",
            f"{_PROBES}:DiscountProbe",
            1_000,
            "two steps, reward at the end",
            "probe",
        ),
        JobSpec(
            "probe/action-v0",
            f"{_PROBES}:ActionProbe",
            1_000,
            "one step, one of two actions is right",
            "probe",
        ),
        JobSpec(
            "probe/policy-v0",
            f"{_PROBES}:PolicyProbe",
            1_000,
            "one step, the observation tells the right action",
            "probe",
        ),
        *(
            JobSpec(
                f"{name}-v0",
                partial(draw_job, family),
                family.lifetime,
                f"a job drawn by seed, template one of: {', '.join(family.templates)}",
                name.split("/")[0],
                {"seed": 0},
            )
            for name, family in FAMILIES.items()
        ),
    )
}


def register_job(
    id: str,
    factory: str | Callable[..., Any],
    *,
    budget: int | None = None,
    description: str = "",
    family: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> JobSpec:
    """Give a job a versioned id, so that it can be opened by name.

    `factory` is called with `kwargs` and returns a new gymnasium.Env at every call, or a VectorEnv,
    or a native Job; a string "module:factory" is imported when the job is opened. `budget` is in
    environment steps. Raises JobError when the id is malformed or taken, by Gymnasium too.
    """
    match = _ID.fullmatch(id) if isinstance(id, str) else None
    if match is None:
        raise JobError(f"a job id is 'name-v0' or 'family/name-v0' with a version at the end, got {id!r}")
    if id in _registered or id in gym.registry:
        where = "Fifteen" if id in _registered else "Gymnasium"
        raise JobError(f"{id!r} is already registered in {where}; choose another name or version")
    if not (callable(factory) or (isinstance(factory, str) and ":" in factory)):
        raise JobError(f"the factory of {id!r} must be a callable or 'module:name', got {factory!r}")
    if budget is not None and budget < 1:
        raise JobError(f"the budget of {id!r} must be a positive number of steps, got {budget!r}")
    spec = JobSpec(id, factory, budget, description, family or match["family"], dict(kwargs or {}))
    _registered[id] = spec
    return spec


def jobs() -> tuple[JobSpec, ...]:
    """The registered jobs, in the order of their ids.

    Every Gymnasium id can be opened besides, and every environment of gymnax and XLand-MiniGrid where they are
    installed.
    """
    return tuple(_registered[id] for id in sorted(_registered))


def open_job(
    job: Any,
    *,
    num_envs: int = 1,
    kwargs: Mapping[str, Any] | None = None,
    step_limit: int | None = None,
) -> Stream:
    """Put a job to work as `num_envs` parallel streams.

    `job` is a registered id, a Gymnasium id (also "module:Name-v0"), "gymnax/NAME", "xland/NAME", "module:factory", an
    instance of gymnasium.Env, gymnasium.vector.VectorEnv or a native Job, or a callable that returns one.
    `kwargs` go to the factory. `step_limit` truncates attempts after so many steps, where the job
    itself does not do so earlier; without any limit of its own the default of 10,000 is in force.
    Raises JobError when the job is unknown, cannot be made, or cannot be had `num_envs` times.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise JobError(f"num_envs must be a positive number of streams, got {num_envs!r}")
    if isinstance(job, gym.Env | VectorEnv | Job):
        if kwargs:
            raise JobError(
                f"kwargs {dict(kwargs)} are for a factory, but {job} is made already; pass an id or a "
                "factory, or no kwargs"
            )
        return _at_work(job, None, _instance_id(job), num_envs, step_limit)
    job_id, factory, given = _factory(job, dict(kwargs or {}))

    def make() -> Any:
        try:
            return factory(**given)
        except Exception as error:
            raise JobError(f"{job_id} cannot be made: {type(error).__name__}: {error}") from error

    return _at_work(make(), make, job_id, num_envs, step_limit)


def _factory(job: Any, kwargs: dict[str, Any]) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """(job id, factory, its keyword arguments) of everything that is not an instance."""
    if isinstance(job, str):
        if (spec := _registered.get(job)) is not None:
            made_by = _imported(spec.factory) if isinstance(spec.factory, str) else spec.factory
            return job, made_by, {**spec.kwargs, **kwargs}
        if job in gym.registry or (":" in job and _VERSIONED.fullmatch(job)):
            # Senses and streams check and repair what arrives; the checker would raise instead.
            return job, gym.make, {"id": job, "disable_env_checker": True, **kwargs}
        if is_outside(job):
            return job, partial(draw_job, outside_family(job)), {"seed": 0, **kwargs}
        if ":" in job:
            return job, _imported(job), kwargs
        raise JobError(_unknown(job))
    if callable(job):
        module = getattr(job, "__module__", "")
        return f"{module}:{getattr(job, '__qualname__', type(job).__name__)}", job, kwargs
    raise JobError(f"a job is {_KINDS}; got {job!r}")


def _imported(name: str) -> Callable[..., Any]:
    """The factory that "module:factory" names."""
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise JobError(
            f"the module of {name!r} cannot be imported: {error}; is it installed, or its folder on PYTHONPATH?"
        ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise JobError(
            f"{module_name!r} has no callable {path!r}; 'module:factory' must name one that returns an "
            "environment or a native Job"
        )
    return found


def _unknown(job: str) -> str:
    known = {id.lower(): id for id in (*gym.registry, *_registered)}
    close = [known[id] for id in difflib.get_close_matches(job.lower(), known, n=5, cutoff=0.5)]
    hint = f"the closest known ids are {', '.join(close)}" if close else "no known id is close to it"
    return f"there is no job {job!r}; {hint}. A job is {_KINDS}"


def _instance_id(job: Any) -> str:
    if not isinstance(job, Job) and job.spec is not None:
        return job.spec.id
    return type(job).__name__ if isinstance(job, Job) else type(job.unwrapped).__name__


def _at_work(made: Any, make: Callable[[], Any] | None, job_id: str, num_envs: int, step_limit: int | None) -> Stream:
    """The stream for what a factory made, or for an instance (make is None)."""
    if isinstance(made, Job):
        return NativeStream(made, num_envs=num_envs, job_id=job_id, step_limit=step_limit)
    if isinstance(made, VectorEnv):
        if num_envs not in (1, made.num_envs):
            raise JobError(
                f"{job_id} is a vector environment of {made.num_envs} streams, num_envs={num_envs} "
                "was asked for; make it with as many, or leave num_envs away"
            )
        return VectorStream(made, job_id=job_id, make=make, step_limit=step_limit)
    if not isinstance(made, gym.Env):
        raise JobError(f"{job_id} made {made!r}, expected a gymnasium.Env, a VectorEnv or a native Job")
    envs = [made]
    if num_envs > 1:
        if make is None:
            raise JobError(
                f"one environment cannot be {num_envs} streams; pass a factory of {job_id} (a "
                "callable that makes a new environment) or its id"
            )
        try:
            for _ in range(num_envs - 1):
                envs.append(make())
        except JobError:
            for env in envs:
                env.close()
            raise
        if len({id(env) for env in envs}) < num_envs:
            raise JobError(f"the factory {job_id} must make a new environment at every call")
    return GymnasiumStream(envs, job_id=job_id, make=make, step_limit=step_limit)
