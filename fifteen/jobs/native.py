"""Jobs written in JAX: the Job protocol, and E copies of one job behind the stream protocol."""

import abc
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.errors import JobError
from fifteen.jobs.faults import faults_from_array, faults_to_array, usable_reward
from fifteen.jobs.leaves import (
    describe_shape,
    keep,
    kept,
    put_together,
    shape_check,
    some_value,
    take_apart,
)
from fifteen.jobs.protocol import (
    Stream,
    Tick,
    attempt_seed,
    check_actions,
    check_state,
    checked_seed,
    checked_step_limit,
)


class Job(eqx.Module):
    """A job as two pure functions of arrays, for one stream; `vmap` makes many of it.

    Parameters of a job are its fields. Truncation at `step_limit` is the caller's business.
    """

    step_limit: eqx.AbstractVar[int]  # steps after which an attempt is truncated

    @property
    @abc.abstractmethod
    def observation_space(self) -> gym.Space: ...

    @property
    @abc.abstractmethod
    def action_space(self) -> gym.Space: ...

    @abc.abstractmethod
    def reset(self, key: Array) -> tuple[Any, Any]:
        """Begin an attempt: (state, observation), each a pytree of arrays."""

    @abc.abstractmethod
    def step(self, state: Any, action: Any, key: Array) -> tuple[Any, Any, Array, Array]:
        """(state, observation, reward float32[], terminated bool[])."""


@final
class NativeStream(Stream):
    """E copies of a native job, its observations as numpy arrays. Jobs that differ in their array
    fields only share one compilation for each E; other fields must be hashable.

    The key of a step is folded from the seed of its attempt and the step within it, so that a
    stream restored from its state goes on bit for bit; nothing has to be replayed.
    """

    def __init__(self, job: Job, *, num_envs: int = 1, job_id: str, step_limit: int | None = None):
        """Raises JobError when the job's functions contradict each other or its spaces."""
        self.job = job
        self.job_id = job_id
        self.num_envs = num_envs
        self.observation_space = job.observation_space
        self.action_space = job.action_space
        self.notes = []
        self.faults = Counter()
        self._limit = checked_step_limit(job.step_limit, step_limit, job_id, self.notes)
        self.step_limit = self._limit
        self.replayed_equal = np.ones(num_envs, np.bool_)
        self._seed: int | None = None
        self._filler = some_value(self.action_space)  # for streams whose action is ignored
        self._action_dtypes = [leaf.dtype for leaf in take_apart(self.action_space, self._filler)]
        state = _checked_shapes(job, self._filler, job_id)
        self._job_state = jax.tree.map(lambda leaf: _empty(leaf, num_envs), state)
        self._parameters, self._static = eqx.partition(job, eqx.is_array)
        self._attempt = np.full(num_envs, -1, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._attempt_seeds = np.zeros(num_envs, np.uint32)
        self._all = np.ones(num_envs, np.bool_)
        self._all.flags.writeable = False
        self._tick: Tick | None = None

    def reset(self, seed: int) -> Tick:
        self._seed = checked_seed(seed)
        self._attempt[:] = -1
        return self._advance([self._filler] * self.num_envs, self._all, self._seed)

    def step(self, actions: Sequence[Any]) -> Tick:
        if self._seed is None or self._tick is None:
            raise JobError(f"{self.job_id}: call reset(seed) before step")
        check_actions(actions, self.job_id, self.num_envs)
        begins = self._tick.terminated | self._tick.truncated
        given = [self._filler if begin else action for action, begin in zip(actions, begins, strict=True)]
        return self._advance(given, begins, self._seed)

    def attempts(self) -> np.ndarray:
        return self._attempt.copy()

    def state(self) -> dict[str, np.ndarray]:
        if self._seed is None or self._tick is None:
            raise JobError(f"{self.job_id} has no state before reset(seed)")
        state = {
            "seed": np.array(self._seed, np.int64),
            "attempt": self._attempt.copy(),
            "elapsed": self._elapsed.copy(),
            "reward": self._tick.rewards,
            "first": self._tick.first,
            "terminated": self._tick.terminated,
            "truncated": self._tick.truncated,
            "faults": faults_to_array(self.faults),
        }
        for stream, observation in enumerate(self._tick.observations):
            keep(state, f"observation/{stream}", take_apart(self.observation_space, observation))
        return state | arrays_of(self._job_state)

    def restore(self, state: dict[str, np.ndarray]) -> Tick:
        check_state(state, ("attempt", "first"), self.job_id, self.num_envs)
        self._job_state = state_of(state, self._job_state, self.job_id)
        self._seed = int(state["seed"])
        self.faults = faults_from_array(state["faults"])
        self._attempt, self._elapsed = state["attempt"].copy(), state["elapsed"].copy()
        self._seed_attempts(self._all, self._seed)
        observations = tuple(
            put_together(self.observation_space, iter(kept(state, f"observation/{stream}")))
            for stream in range(self.num_envs)
        )
        self._tick = Tick(
            observations,
            state["reward"].copy(),
            state["first"].copy(),
            state["terminated"].copy(),
            state["truncated"].copy(),
            self._all,
            (None,) * self.num_envs,
        )
        return self._tick

    def close(self) -> None:
        """Nothing is held."""

    def _advance(self, actions: list[Any], begins: np.ndarray, seed: int) -> Tick:
        """Step every stream, or begin its next attempt where `begins`, bool[E]."""
        self._attempt += begins
        self._elapsed = np.where(begins, 0, self._elapsed + 1)
        self._seed_attempts(begins, seed)
        self._job_state, *arrived = _move(
            self._static,
            self._parameters,
            self._attempt_seeds,
            self._elapsed.astype(np.int32),
            self._job_state,
            self._batch(actions),
        )
        observations, rewards, terminated = jax.device_get(arrived)
        truncated = (self._elapsed >= self._limit) & ~terminated
        self._tick = Tick(
            tuple(jax.tree.map(lambda leaf, e=stream: leaf[e], observations) for stream in range(self.num_envs)),
            np.array([usable_reward(reward, self.faults) for reward in rewards]),
            begins,
            terminated,
            truncated,
            self._all,
            (None,) * self.num_envs,
        )
        return self._tick

    def _seed_attempts(self, which: np.ndarray, seed: int) -> None:
        for stream in np.flatnonzero(which):
            number = int(self._attempt[stream])
            self._attempt_seeds[stream] = attempt_seed(seed, int(stream), number)

    def _batch(self, actions: list[Any]) -> Any:
        """E actions as one, always of the same shapes and dtypes."""
        parts = zip(*[take_apart(self.action_space, action) for action in actions], strict=True)
        leaves = [np.stack(part).astype(dtype) for part, dtype in zip(parts, self._action_dtypes, strict=True)]
        return put_together(self.action_space, iter(leaves))


@partial(jax.jit, static_argnames=("static",))
def _move(
    static: Job,  # the job without its arrays, so that jobs that differ in these share one compilation
    parameters: Job,  # the arrays
    seeds: Array,  # uint32[E], of the attempts
    moments: Array,  # int32[E], step within the attempt; 0 begins it
    states: Any,  # [E, ...]
    actions: Any,  # [E, ...]
) -> tuple[Any, Any, Array, Array]:
    """Every stream's next state, observation, reward float32[E] and terminated bool[E]."""
    job = eqx.combine(parameters, static)
    return jax.vmap(partial(move, job))(seeds, moments, states, actions)


def move(job: Job, seed: Array, moment: Array, state: Any, action: Any) -> tuple[Any, Any, Array, Array]:
    """One tick of one stream: begin an attempt where `moment` is 0, or take a step. Pure.

    seed uint32[], of the attempt; moment int32[], step within it. Returns state, observation, reward float32[] and
    terminated bool[].
    """
    begin = moment == 0
    key = jax.random.fold_in(jax.random.key(seed), moment)
    first = job.reset(key)
    state, observation, reward, terminated = job.step(state, action, key)
    state, observation = jax.tree.map(lambda new, old: _strong(jnp.where(begin, new, old)), first, (state, observation))
    reward = jnp.where(begin, 0.0, jnp.asarray(reward, jnp.float32))
    return state, observation, reward, jnp.asarray(terminated, jnp.bool_) & ~begin


def no_state(job: Job) -> Any:
    """Zeros in the shape of a job's state, before its first attempt has begun."""
    state, _ = jax.eval_shape(job.reset, jax.random.key(0))
    return jax.tree.map(lambda leaf: _empty(leaf, 1)[0], state)


def arrays_of(job_state: Any) -> dict[str, np.ndarray]:
    """A job's state as arrays to be saved."""
    leaves = jax.tree.leaves_with_path(job_state)
    return {f"job{jax.tree_util.keystr(path)}": np.array(_data(leaf)) for path, leaf in leaves}


def state_of(arrays: Mapping[str, np.ndarray], like: Any, job_id: str) -> Any:
    """The state whose `arrays_of` these are, `like` another of the job. JobError where they do not fit."""

    def saved(path: tuple, leaf: Array) -> Array:
        array, data = arrays.get(f"job{jax.tree_util.keystr(path)}"), _data(leaf)
        if array is None or (array.shape, array.dtype) != (data.shape, data.dtype):
            raise JobError(
                f"this state does not belong to {job_id}: its array {jax.tree_util.keystr(path)!r} is missing or of "
                "another shape; open the job with the kwargs that it was saved with"
            )
        return _like(jnp.asarray(array), leaf)

    return jax.tree.map_with_path(saved, like)


def _checked_shapes(job: Job, action: Any, job_id: str) -> Any:
    """The shapes of the job's state. Raises JobError where they contradict each other."""
    key = jax.random.key(0)
    try:
        begun = jax.eval_shape(job.reset, key)
        *gone_on, reward, terminated = jax.eval_shape(job.step, begun[0], jax.tree.map(np.asarray, action), key)
    except Exception as error:
        raise JobError(f"{job_id} cannot be traced: {type(error).__name__}: {error}") from error
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), begun[1])
    if not shape_check(job.observation_space)(empty):
        raise JobError(f"{job_id} observes {describe_shape(empty)}, expected one of {job.observation_space}")
    if _shapes(begun) != _shapes(tuple(gone_on)) or (reward.shape, terminated.shape) != ((), ()):
        raise JobError(
            f"reset and step of {job_id} must give states and observations of the same structure, "
            f"shapes and dtypes, and step a scalar reward and terminated: reset gives {begun}, step "
            f"{(*gone_on, reward, terminated)}"
        )
    return begun[0]


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _strong(leaf: Array) -> Array:
    """Not of weak type, so that a state that comes back in needs no second compilation."""
    return leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, leaf.dtype)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Array) -> Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(data: Array, leaf: Array) -> Array:
    return jax.random.wrap_key_data(data) if _is_key(leaf) else data


def _empty(leaf: Any, streams: int) -> Array:
    """Zeros in the shape of a state before there is one; the first move replaces it."""
    if _is_key(leaf):
        return jnp.broadcast_to(jax.random.key(0), (streams, *leaf.shape))
    return jnp.zeros((streams, *leaf.shape), leaf.dtype)
