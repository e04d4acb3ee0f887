"""Does an environment give its answer away? What is looked for is simple; that nothing is found is no proof.

- In `info`, something that can be taken as the action: a policy that copies it is played against a random one on the
  same seeds. Learners here do not read `info`, but others do, and whoever wrote it may have put it elsewhere too.
- In `info` or in the observation, the number that the attempt was seeded with: whoever has it can compute the rest.
- In `info`, a name that sounds like an answer.

Only Gymnasium environments are searched; native jobs have no `info`. A leak that is spread over several entries,
encoded, or within the observation is not found.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from fifteen.examining.comparing import sign_flip_test
from fifteen.examining.records import Finding
from fifteen.examining.suites import SuiteJob
from fifteen.jobs.registry import jobs

ATTEMPTS = 20
"""Attempts of each policy."""
STEPS = 200
"""Most steps of an attempt."""
ALPHA = 0.001
"""Level at which copying is held to be better than chance."""

_SUSPICIOUS = re.compile(r"answer|solution|best_?action|optimal|correct_?action|target_?action|label|secret", re.I)
_HONEST = ("action_mask",)  # says what is possible, not what is right


def leaks(job: SuiteJob) -> Iterator[Finding]:
    """What a job gives away. Nothing of jobs that cannot be made: the exam says that they are missing."""
    env = _made(job)
    if env is None:
        return
    try:
        keys, seeded = _seen(env)
        for key in sorted(keys):
            if (gain := _gain(env, key)) is not None:
                copied, chance = gain
                text = (
                    f"info[{key!r}] gives the answer away: a policy that copies it returns {copied:.4g} on average, a "
                    f"random one {chance:.4g}, on the same {ATTEMPTS} seeds"
                )
                yield Finding("leak", "", job.id, text)
            elif _SUSPICIOUS.search(key):
                yield Finding("leak", "", job.id, f"info has {key!r}: is that the answer? Copying it brings nothing")
        for place in seeded:
            yield Finding(
                "leak", "", job.id, f"{place} shows the seed of the attempt: all that is hidden follows from it"
            )
    finally:
        env.close()


def _made(job: SuiteJob) -> gym.Env | None:
    """A job's environment; None where it is native or cannot be made."""
    known = {spec.id: spec for spec in jobs()}
    try:
        if (spec := known.get(job.job)) is not None:
            factory: Any = spec.factory if callable(spec.factory) else _named(spec.factory)
            made = factory(**{**spec.kwargs, **job.arguments})
        elif job.job in gym.registry or re.search(r"-v\d+$", job.job):
            made = gym.make(job.job, disable_env_checker=True, **job.arguments)
        else:
            made = _named(job.job)(**job.arguments)
    except Exception:
        return None
    return made if isinstance(made, gym.Env) else None


def _named(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    return getattr(importlib.import_module(module), path)


def _seen(env: gym.Env) -> tuple[set[str], list[str]]:
    """The keys of info, and where the seed is shown."""
    keys: set[str] = set()
    shown: list[set[str]] = []
    env.action_space.seed(0)
    for seed in (471_100_817, 902_667_331, 1_318_699_013):  # no number that occurs by itself
        observation, info = env.reset(seed=seed)
        places: set[str] = set()
        for _ in range(STEPS):
            keys |= {key for key in info if key not in _HONEST}
            places |= {f"info[{key!r}]" for key, value in info.items() if _holds(value, seed)}
            if _holds(observation, seed):
                places.add("the observation")
            observation, _, terminated, truncated, info = env.step(env.action_space.sample(_mask(env, info)))
            if terminated or truncated:
                break
        shown.append(places)
    return keys, sorted(set.intersection(*shown))


def _holds(value: Any, seed: int) -> bool:
    if isinstance(value, Mapping):
        return any(_holds(item, seed) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds(item, seed) for item in value)
    if isinstance(value, str):
        return str(seed) in value
    if isinstance(value, np.ndarray | np.generic | int | float) and not isinstance(value, bool):
        array = np.asarray(value)
        return array.dtype.kind in "iuf" and bool((array == seed).any())
    return False


def _gain(env: gym.Env, key: str) -> tuple[float, float] | None:
    """Mean returns of copying info[key] and of chance, where copying is better; None where it is not, or cannot be."""
    env.action_space.seed(1)
    copied, chance = np.zeros(ATTEMPTS), np.zeros(ATTEMPTS)
    for attempt in range(ATTEMPTS):
        total = _attempt(env, attempt, key)
        if total is None:
            return None
        copied[attempt] = total
        chance[attempt] = _attempt(env, attempt, None) or 0.0
    if copied.mean() <= chance.mean() or not np.isfinite([copied, chance]).all():
        return None
    p = sign_flip_test(copied[:, None], chance[:, None], families=None, seed=0)
    return (float(copied.mean()), float(chance.mean())) if p <= ALPHA else None


def _attempt(env: gym.Env, seed: int, key: str | None) -> float | None:
    """Return of one attempt, by chance (key None) or copying; None where there was not once something to copy."""
    _, info = env.reset(seed=seed)
    total, ever = 0.0, key is None
    for _ in range(STEPS):
        action = None if key is None else _as_action(env.action_space, info.get(key))
        ever = ever or action is not None
        if action is None:
            action = env.action_space.sample(_mask(env, info))
        _, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        if terminated or truncated:
            break
    return total if ever else None


def _as_action(space: gym.Space, value: Any) -> Any:
    """A value of info as an action; None where it is none."""
    if isinstance(space, spaces.Discrete):
        whole = isinstance(value, bool | int | np.bool_ | np.integer) or (
            isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iub"
        )
        action: Any = np.int64(np.asarray(value).reshape(())) if whole else None
    elif isinstance(space, spaces.Box) and isinstance(value, np.ndarray | float | np.floating):
        array = np.asarray(value, space.dtype)
        action = array.reshape(space.shape) if array.size == np.prod(space.shape) else None
    else:
        action = value if isinstance(value, np.ndarray) else None
    return action if action is not None and space.contains(action) else None


def _mask(env: gym.Env, info: Mapping[str, Any]) -> Any:
    return info.get("action_mask") if isinstance(env.action_space, spaces.Discrete) else None
