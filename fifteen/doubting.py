"""Is a memory worth keeping? A stream whose attempts are no better than those with an empty one tries an empty one.

A memory remembers failures as well as it remembers anything: who has failed for a while, because the job has changed or
by chance in a first attempt, may expect to fail and so goes on failing. What it was worth is known from its own returns
alone: those of the attempts that began with an empty memory say what could be had without. While the recent ones are no
better, one attempt is made with an empty memory, the other set aside; the one that did better is kept. Where the empty
one loses, the next such trial waits twice as long. No boundary of a job is told, and none is looked for.

Pure functions of one stream.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

_RECENT = 0.25  # rate of the mean over recent attempts
_EMPTY = 0.2  # least rate of the mean over attempts with an empty memory: the job may have changed
_SOONEST, _LATEST = 4, 32  # attempts from one trial to the next


class Doubt(NamedTuple):
    """What a stream knows of its memory's worth."""

    aside: Array  # float32[memory], the memory that waits while an empty one is tried
    trial: Array  # bool[], the attempt under way began with an empty memory
    returned: Array  # float32[], reward of the attempt so far
    recent: Array  # float32[], mean return of recent attempts
    empty: Array  # float32[], mean return of attempts that began with an empty memory
    trials: Array  # int32[], how many these were; the first attempt of a lifetime is one
    waited: Array  # int32[], attempts since the last of them
    gap: Array  # int32[], attempts from it to the next


def no_doubt(memory: Array) -> Doubt:
    """At the beginning of a lifetime. memory float32[memory]: an empty one."""
    nothing, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return Doubt(memory, jnp.array(True), nothing, nothing, nothing, none, none, jnp.array(_SOONEST, jnp.int32))


def doubted(
    doubt: Doubt, memory: Array, reward: Array, first: Array, ends: Array, active: Array
) -> tuple[Doubt, Array]:
    """After one tick: what is known, and the memory to go on with, float32[memory].

    memory: after the tick. reward float32[], of the tick, in the job's own unit. first, ends, active bool[]: the tick
    begins an attempt, ends one, counts at all.
    """
    returned = jnp.where(first, 0.0, doubt.returned) + reward
    earliest = doubt.trials == 0  # the lifetime's first attempt: there is nothing to compare it with
    rate = jnp.maximum(1.0 / (doubt.trials.astype(jnp.float32) + 1.0), _EMPTY)
    empty = doubt.empty + jnp.where(doubt.trial, rate, 0.0) * (returned - doubt.empty)
    won = doubt.trial & (earliest | (returned > doubt.recent))
    lost = doubt.trial & ~won
    recent = doubt.recent + jnp.where(doubt.trial, 0.0, _RECENT) * (returned - doubt.recent)
    recent = jnp.where(won, returned, recent)
    waited = jnp.where(doubt.trial, 0, doubt.waited + 1)
    gap = jnp.where(lost, jnp.minimum(2 * doubt.gap, _LATEST), doubt.gap)
    worse = (doubt.recent >= doubt.empty) & (recent < empty)  # than before, and than it could be: no time to lose
    gap = jnp.where(won | (~doubt.trial & ((recent > empty) | worse)), _SOONEST, gap)
    begins = ~doubt.trial & (recent <= empty) & (waited >= gap)
    kept = jnp.where(lost, doubt.aside, memory)
    judged = Doubt(
        aside=jnp.where(begins, memory, doubt.aside),
        trial=begins,
        returned=returned,
        recent=recent,
        empty=empty,
        trials=doubt.trials + doubt.trial.astype(jnp.int32),
        waited=waited,
        gap=gap,
    )
    ends = ends & active
    later = doubt._replace(returned=jnp.where(active, returned, doubt.returned))
    chosen = Doubt(*(jnp.where(ends, new, old) for new, old in zip(judged, later, strict=True)))
    return chosen, jnp.where(ends, jnp.where(begins, 0.0, kept), memory)
