"""What a teacher is who has to find out: notes over a lifetime, and advice out of them. See `explorers.py`."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array


class Step(NamedTuple):
    """What happened in one step of a job."""

    state: Any  # before
    action: Array
    after: Any  # the state
    reward: Array  # float32[]
    terminated: Array  # bool[]


class Explorer(eqx.Module):
    @abc.abstractmethod
    def begin(self, job: Any) -> Any:
        """The notes of a lifetime that begins: a tree of arrays."""

    @abc.abstractmethod
    def note(self, job: Any, notes: Any, step: Step) -> Any:
        """The notes after a step."""

    @abc.abstractmethod
    def advise(self, job: Any, notes: Any, state: Any) -> Array:
        """Probabilities of the job's n actions, float32[n]."""


def lived(explorer: Explorer, job: Any, attempts: int, key: Array) -> Array:
    """Return of every attempt of an explorer's own lifetime on a job, float32[attempts]."""

    def attempt(notes: Any, key: Array) -> tuple[Any, Array]:
        def going(carry: tuple) -> Array:
            *_, steps, over = carry
            return (steps < job.step_limit) & ~over

        def move(carry: tuple) -> tuple:
            state, notes, returned, steps, _ = carry
            action_key, step_key = jax.random.split(jax.random.fold_in(key, steps))
            action = jax.random.categorical(action_key, jnp.log(explorer.advise(job, notes, state))).astype(jnp.int32)
            after, _, reward, terminated = job.step(state, action, step_key)
            notes = explorer.note(job, notes, Step(state, action, after, reward, terminated))
            return after, notes, returned + reward, steps + 1, terminated

        state, _ = job.reset(jax.random.fold_in(key, job.step_limit))
        begun = state, notes, jnp.float32(0.0), jnp.int32(0), jnp.array(False)
        _, notes, returned, *_ = jax.lax.while_loop(going, move, begun)
        return notes, returned

    return jax.lax.scan(attempt, explorer.begin(job), jax.random.split(key, attempts))[1]
