"""A Gymnasium vector environment stream by stream: batches in and apart, and who resets what."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from fifteen.errors import JobError, SpaceError
from fifteen.jobs.gymnasium_stream import own_step_limit
from fifteen.jobs.leaves import describe_shape, shape_check, some_value


class Arrival(NamedTuple):
    """Where one step of the environment led, by stream."""

    observations: list  # E observations arrived at; where the attempt ended, the final one
    rewards: Sequence | np.ndarray  # E rewards as they came
    terminated: np.ndarray  # bool[E]
    truncated: np.ndarray  # bool[E]
    masks: list  # E action masks or None
    begun: list  # E observations from which the streams go on: SAME_STEP has already reset the ended


@final
class VectorBatch:
    """The E streams of one vector environment.

    masked: a stream can be reset alone, with `options={"reset_mask": ...}`.
    seeded: each stream takes a seed of its own.
    same_step: the environment itself resets a stream in the step that ends its attempt.
    Where neither masked nor same_step holds, it resets the stream in the step after (NEXT_STEP).
    """

    def __init__(self, env: VectorEnv, job_id: str, notes: list[str]):
        self.env = env
        self.num_envs = env.num_envs
        self.action_space = env.single_action_space
        self.observation_space = env.single_observation_space
        self._has_shape = shape_check(self.observation_space)
        mode = _autoreset_mode(env, job_id, notes)
        own_kind = SyncVectorEnv | AsyncVectorEnv
        self.seeded = isinstance(env.unwrapped, own_kind)
        # Gymnasium's own environments understand the mask in every mode, as long as no wrapper that
        # relies on the mode stands before them; AsyncVectorEnv without shared memory forgets, when
        # reset, that it was about to reset a stream itself.
        forgetful = isinstance(env, AsyncVectorEnv) and not env.shared_memory
        self.masked = mode is AutoresetMode.DISABLED or (
            isinstance(env, own_kind) and not (mode is AutoresetMode.NEXT_STEP and forgetful)
        )
        self.same_step = mode is AutoresetMode.SAME_STEP
        self.filler = some_value(self.action_space)  # where an action is ignored, but must be one

    def step_limit(self) -> int | None:
        """Steps after which the environment truncates an attempt; None where it says nothing."""
        inner = self.env.unwrapped
        if isinstance(inner, SyncVectorEnv):
            return own_step_limit(inner.envs[0])
        if self.env.spec is None:
            return None
        return self.env.spec.kwargs.get("max_episode_steps", self.env.spec.max_episode_steps)

    def reset(self, seeds: list[int]) -> tuple[list, list]:
        """Reset every stream: E observations, E masks. One seed serves all where not seeded."""
        seed: Any = seeds if self.seeded else seeds[0]
        observations, infos = self.env.reset(seed=seed)
        return self._apart(observations), self._masks(infos)

    def reset_some(self, which: np.ndarray, seeds: list[int]) -> tuple[list, list]:
        """Reset the streams in `which`, bool[E]; only their observations and masks are meant."""
        seed: Any = seeds if self.seeded else None
        observations, infos = self.env.reset(seed=seed, options={"reset_mask": which.copy()})
        return self._apart(observations), self._masks(infos)

    def step(self, actions: Sequence[Any]) -> Arrival:
        """Take E actions that lie in the action space. Raises what the environment raises, and
        SpaceError when an observation has another shape."""
        batch = concatenate(  # copies: what the environment writes into it, it writes into the copy
            self.action_space, actions, create_empty_array(self.action_space, self.num_envs)
        )
        observations, rewards, terminated, truncated, infos = self.env.step(batch)
        terminated = np.asarray(terminated, np.bool_)
        truncated = np.asarray(truncated, np.bool_) & ~terminated
        if not len(rewards) == len(terminated) == self.num_envs:
            raise ValueError(
                f"a step must deliver {self.num_envs} rewards and flags, got {len(rewards)} and {len(terminated)}"
            )
        begun = self._apart(observations)
        arrived = self._arrived(begun, infos, terminated | truncated)
        return Arrival(arrived, rewards, terminated, truncated, self._masks(infos), begun)

    def _apart(self, observations: Any) -> list:
        parts = list(iterate(self.env.observation_space, observations))
        if len(parts) != self.num_envs or not all(map(self._has_shape, parts)):
            raise SpaceError(
                f"the batch of observations is {describe_shape(observations)}, expected "
                f"{self.num_envs} of {self.observation_space}"
            )
        return parts

    def _arrived(self, observations: list, infos: Any, ended: np.ndarray) -> list:
        if not self.same_step or not ended.any():
            return observations
        final = infos.get("final_obs")
        if final is None:
            raise JobError(
                "the environment resets in the same step but gives no info['final_obs']; deliver the "
                "final observations there, or set metadata['autoreset_mode'] to what it does"
            )
        arrived = list(observations)
        for stream in np.flatnonzero(ended):
            if not self._has_shape(final[stream]):
                raise SpaceError(
                    f"info['final_obs'][{stream}] is {describe_shape(final[stream])}, expected one of "
                    f"{self.observation_space}"
                )
            arrived[stream] = final[stream]
        return arrived

    def _masks(self, infos: Any) -> list:
        masks = infos.get("action_mask") if isinstance(infos, Mapping) else None
        if not isinstance(masks, np.ndarray | list | tuple):
            return [None] * self.num_envs
        present = infos.get("_action_mask", np.ones(self.num_envs, np.bool_))
        return [mask if there else None for mask, there in zip(masks, present, strict=True)]


def _autoreset_mode(env: VectorEnv, job_id: str, notes: list[str]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        notes.append(f"{job_id} does not say metadata['autoreset_mode']; NEXT_STEP, Gymnasium's default, is assumed")
        return AutoresetMode.NEXT_STEP
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        raise JobError(
            f"{job_id} has metadata['autoreset_mode'] = {mode!r}, expected one of {list(AutoresetMode)}"
        ) from error
