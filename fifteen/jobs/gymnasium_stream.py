"""A Gymnasium environment at work: E single environments, one per stream."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from fifteen.errors import JobError, SpaceError
from fifteen.jobs.faults import (
    LARGEST_REWARD,
    count_failure,
    faults_from_array,
    faults_to_array,
    made_anew,
    next_failure,
    usable_reward,
)
from fifteen.jobs.leaves import describe_shape, keep, kept, put_together, shape_check, take_apart
from fifteen.jobs.protocol import (
    Stream,
    Tick,
    attempt_seed,
    check_actions,
    check_state,
    checked_seed,
    checked_step_limit,
)
from fifteen.jobs.replay import (
    MAX_REPLAY,
    actions_from_state,
    as_given,
    difference_note,
    keep_actions,
    same_moment,
)

_RUNNING, _ENDED, _LOST = range(3)  # _LOST: the environment is not where the stream is


@dataclass(slots=True)
class _Place:
    """One stream: its environment and where it stands, as of the last tick."""

    env: gym.Env
    attempt: int = -1
    elapsed: int = 0  # steps taken within the attempt
    status: int = _ENDED
    failures: int = 0  # in a row, without one good step
    observation: Any = None
    reward: float = 0.0
    first: bool = False
    terminated: bool = False
    truncated: bool = False
    mask: Any = None
    actions: list = field(default_factory=list)  # of the attempt, up to MAX_REPLAY


@final
class GymnasiumStream(Stream):
    """E environments of one kind behind the stream protocol.

    An environment that raises, or delivers an observation of another shape, ends its attempt as
    truncated with the last good observation repeated, and is counted; rewards that are not finite
    numbers become 0.0 and are counted. An attempt that fails in `reset` is skipped: its number is
    used up, so that the next one begins from another seed.
    """

    def __init__(
        self,
        envs: Sequence[gym.Env],
        *,
        job_id: str,
        make: Callable[[], gym.Env] | None = None,
        step_limit: int | None = None,
    ):
        """`make` makes an environment anew when one cannot be reset; None: only reset is tried.

        Raises JobError when the environments differ in their spaces or `step_limit` is malformed.
        """
        self.job_id = job_id
        self.num_envs = len(envs)
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        self.notes = []
        self.faults = Counter()
        self.step_limit = checked_step_limit(own_step_limit(envs[0]), step_limit, job_id, self.notes)
        self.replayed_equal = np.ones(self.num_envs, np.bool_)
        self._limit = self.step_limit
        self._make = make
        self._seed: int | None = None
        self._places = [_Place(env) for env in envs]
        self._has_shape = shape_check(self.observation_space)
        self._none = np.zeros(self.num_envs, np.bool_)
        self._all = np.ones(self.num_envs, np.bool_)
        self._none.flags.writeable = self._all.flags.writeable = False  # shared between ticks
        for env in envs[1:]:
            self._check_spaces(env)

    def reset(self, seed: int) -> Tick:
        self._seed = checked_seed(seed)
        for stream, place in enumerate(self._places):
            place.attempt, place.failures = -1, 0
            self._begin(stream, place)
        return self._tick()

    def step(self, actions: Sequence[Any]) -> Tick:
        check_actions(actions, self.job_id, self.num_envs)
        eventful = False
        for stream, place in enumerate(self._places):
            if place.status != _RUNNING:
                eventful = True
                if place.status == _ENDED:
                    self._begin(stream, place)
                else:
                    self._truncate(place)
                continue
            action = actions[stream]
            given = as_given(action)
            try:
                observation, reward, terminated, truncated, info = place.env.step(action)
                if not self._has_shape(observation):
                    raise self._shape_error(observation)
                ended = bool(terminated or truncated)
                mask = info.get("action_mask") if info else None
            except Exception as error:
                eventful = True
                self._truncate(place)
                self._fail(place, "step", error)
                continue
            if type(reward) is not float or not -LARGEST_REWARD <= reward <= LARGEST_REWARD:
                reward = usable_reward(reward, self.faults)
            place.observation, place.reward, place.mask = observation, reward, mask
            place.failures, place.first = 0, False
            place.elapsed += 1
            if place.elapsed <= MAX_REPLAY:
                place.actions.append(given)
            if ended or place.elapsed >= self._limit:
                eventful = True
                place.terminated = bool(terminated)
                place.truncated = not place.terminated
                place.status, place.mask, place.actions = _ENDED, None, []
        return self._tick() if eventful else self._quiet_tick()

    def attempts(self) -> np.ndarray:
        return np.array([place.attempt for place in self._places], np.int64)

    def state(self) -> dict[str, np.ndarray]:
        if self._seed is None:
            raise JobError(f"{self.job_id} has no state before reset(seed)")
        places = self._places
        state = {
            "seed": np.array(self._seed, np.int64),
            "attempt": self.attempts(),
            "elapsed": np.array([place.elapsed for place in places], np.int64),
            "status": np.array([place.status for place in places], np.int8),
            "failures": np.array([place.failures for place in places], np.int64),
            "reward": np.array([place.reward for place in places], np.float64),
            "first": np.array([place.first for place in places], np.bool_),
            "terminated": np.array([place.terminated for place in places], np.bool_),
            "truncated": np.array([place.truncated for place in places], np.bool_),
            "faults": faults_to_array(self.faults),
        }
        for stream, place in enumerate(places):
            keep(
                state,
                f"observation/{stream}",
                take_apart(self.observation_space, place.observation),
            )
            keep_actions(state, stream, self.action_space, place.actions)
        return state

    def restore(self, state: dict[str, np.ndarray]) -> Tick:
        check_state(state, ("attempt", "status"), self.job_id, self.num_envs)
        self._seed = int(state["seed"])
        self.faults = faults_from_array(state["faults"])
        self.replayed_equal = np.ones(self.num_envs, np.bool_)
        for stream, place in enumerate(self._places):
            place.attempt = int(state["attempt"][stream])
            place.elapsed = int(state["elapsed"][stream])
            place.status = int(state["status"][stream])
            place.failures = int(state["failures"][stream])
            place.reward, place.first = float(state["reward"][stream]), bool(state["first"][stream])
            place.terminated = bool(state["terminated"][stream])
            place.truncated = bool(state["truncated"][stream])
            saved = kept(state, f"observation/{stream}")
            place.observation = put_together(self.observation_space, iter(saved))
            place.actions, place.mask = actions_from_state(state, stream, self.action_space), None
            self.replayed_equal[stream] = place.status != _LOST
            if place.status == _RUNNING and not self._replay(self._seed, stream, place, saved):
                place.status = _LOST
                self.replayed_equal[stream] = False
                self.faults["resume differed"] += 1
                self.notes.append(difference_note(self.job_id, stream, place.attempt, place.elapsed))
        return self._tick()

    def close(self) -> None:
        for place in self._places:
            place.env.close()

    def _begin(self, stream: int, place: _Place) -> None:
        """Reset the environment of one stream for its next attempt."""
        if self._seed is None:
            raise JobError(f"{self.job_id}: call reset(seed) before step")
        while True:
            place.attempt += 1
            try:
                place.observation, place.mask = self._reset(self._seed, stream, place)
            except Exception as error:
                self._fail(place, "reset", error)
                self._remake(place)
                continue
            place.elapsed, place.status, place.actions = 0, _RUNNING, []
            place.reward, place.first = 0.0, True
            place.terminated = place.truncated = False
            return

    def _reset(self, seed: int, stream: int, place: _Place) -> tuple[Any, Any]:
        """The first observation and action mask of the place's attempt."""
        result = place.env.reset(seed=attempt_seed(seed, stream, place.attempt))
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"reset must return (observation, info), got {describe_shape(result)}; "
                "gymnasium.utils.env_checker.check_env shows what else differs from the interface"
            )
        observation, info = result
        if not self._has_shape(observation):
            raise self._shape_error(observation)
        return observation, info.get("action_mask") if info else None

    def _replay(self, seed: int, stream: int, place: _Place, saved: list[np.ndarray]) -> bool:
        """Bring the environment to where the place stands; whether it came there."""
        if len(place.actions) != place.elapsed:
            return False
        observation, reward, mask = place.observation, 0.0, None
        ignored: Counter[str] = Counter()  # the faults of these steps were counted at their time
        try:
            observation, mask = self._reset(seed, stream, place)
            for action in place.actions:
                observation, reward, terminated, truncated, info = place.env.step(as_given(action))
                reward = usable_reward(reward, ignored)
                mask = info.get("action_mask") if info else None
                if terminated or truncated or not self._has_shape(observation):
                    return False
        except Exception as error:
            count_failure(self.faults, "replay", error)
            return False
        if not same_moment(self.observation_space, observation, reward, saved, place.reward):
            return False
        place.observation, place.mask = observation, mask
        return True

    def _truncate(self, place: _Place) -> None:
        """End the attempt where it stands, with the last good observation repeated."""
        place.status, place.reward, place.mask, place.actions = _ENDED, 0.0, None, []
        place.first, place.terminated, place.truncated = False, False, True

    def _fail(self, place: _Place, verb: str, error: Exception) -> None:
        place.failures = next_failure(self.job_id, self.faults, place.failures, verb, error)

    def _remake(self, place: _Place) -> None:
        """Replace an environment that cannot be reset, where there is a way to make another."""
        if self._make is not None:
            place.env = made_anew(place.env, self._make, self.job_id, self.faults)
            self._check_spaces(place.env)

    def _check_spaces(self, env: gym.Env) -> None:
        if (env.observation_space, env.action_space) != (self.observation_space, self.action_space):
            raise JobError(
                f"{self.job_id} makes environments with different spaces: {env.observation_space} "
                f"and {env.action_space} beside {self.observation_space} and {self.action_space}; "
                "every stream of a job must have the same spaces"
            )

    def _shape_error(self, observation: Any) -> SpaceError:
        return SpaceError(f"the observation is {describe_shape(observation)}, expected one of {self.observation_space}")

    def _quiet_tick(self) -> Tick:
        """The tick of a moment at which no attempt begins or ends: most of them."""
        places = self._places
        return Tick(
            tuple([place.observation for place in places]),
            np.array([place.reward for place in places]),
            self._none,
            self._none,
            self._none,
            self._all,
            tuple([place.mask for place in places]),
        )

    def _tick(self) -> Tick:
        places = self._places
        return self._quiet_tick()._replace(
            first=np.array([place.first for place in places]),
            terminated=np.array([place.terminated for place in places]),
            truncated=np.array([place.truncated for place in places]),
        )


def own_step_limit(env: gym.Env) -> int | None:
    """Steps after which an environment truncates its own attempts; None where it says nothing."""
    limits = []
    layer = env
    while True:
        if isinstance(layer, TimeLimit):
            limits.append(layer._max_episode_steps)
        if not isinstance(layer, gym.Wrapper):
            break
        layer = layer.env
    spec = env.spec
    if spec is not None and spec.max_episode_steps is not None:
        limits.append(spec.max_episode_steps)
    return min(limits, default=None)
