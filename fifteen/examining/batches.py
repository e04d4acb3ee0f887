"""Many lifetimes of one of our learners at once, on drawn jobs of several families, all on the device.

Every lifetime is what `fifteen.work(learn="context")` would be on that job: the learner's own way of acting, its
statistics, a fresh memory. `jobs/classroom.py` lives them; this cuts them into attempts.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.config import MindConfig, SchoolConfig, WorkConfig
from fifteen.examining.lifetimes import Attempt, Lived, Seat, drawn_job, recorded
from fifteen.examining.suites import SuiteJob
from fifteen.instance import new_instance
from fifteen.jobs.classroom import Classroom
from fifteen.jobs.families import FAMILIES
from fifteen.learner import Learner
from fifteen.model import unravel

_TICKS = 64  # between two looks at which lifetimes are over


def live_batch(learner: Learner, seats: Sequence[Seat], name: str, seed: int) -> list[Lived]:
    """One lifetime for each seat, on drawn jobs of our own families with budgets of attempts.

    Every family gets as many lifetimes as the one with the most, so seats are best given in even shares. The same
    seats and seed give the same lifetimes. Raises JobError for a family whose spaces the learner cannot take.
    """
    began = time.monotonic()
    families = tuple(sorted({seat.job.family for seat in seats}))
    rows = [[n for n, seat in enumerate(seats) if seat.job.family == family] for family in families]
    each = max(map(len, rows))
    room, tick = _classroom(families, each, learner.config, learner.work_config)
    # Lifetime l F + f is the l-th of family f; those beyond a family's seats only fill up, and wait for nothing.
    place = {n: row * len(families) + f for f, of_family in enumerate(rows) for row, n in enumerate(of_family)}
    wanted = np.zeros(len(room.member), np.int64)
    for n, seat in enumerate(seats):
        assert seat.job.attempts is not None
        wanted[place[n]] = seat.job.attempts
    shown = [n for n, seat in enumerate(seats) if seat.run == 0]
    which = jnp.array([place[n] for n in shown], jnp.int32)

    jobs = tuple(_stacked([seats[n].job for n in np.resize(of_family, each)]) for of_family in rows)
    key, instance_key = jax.random.split(jax.random.key(seed))
    begin = functools.partial(new_instance, room.config, learner.work_config, room.layout, learner.statistics, 1)
    # The states are those of other jobs, but the first tick begins an attempt and leaves nothing of them.
    lifetimes = room.enrol(key)._replace(
        jobs=jobs, instance=jax.jit(jax.vmap(lambda k: begin(key=k)))(jax.random.split(instance_key, len(wanted)))
    )
    model = unravel(learner.state.weights, learner.config)
    done, parts = np.zeros(len(wanted), np.int64), []
    while (done < wanted).any():
        lifetimes, told = tick(model, lifetimes, which)
        parts.append([np.asarray(part) for part in told])
        done += parts[-1][1].sum(axis=1)
    columns = [np.concatenate(column, axis=1) for column in zip(*parts, strict=True)]
    rewards, ends, terminated, values, sound, vectors, choices = columns

    took = (time.monotonic() - began) / wanted.sum()
    lived = []
    for n, seat in enumerate(seats):
        at, desk = place[n], room.desks[place[n] % len(families)]
        last = np.flatnonzero(ends[at])[: wanted[at]]
        first = np.concatenate([[0], last[:-1] + 1])
        attempts = []
        for a, b in zip(first.tolist(), last.tolist(), strict=True):
            whole = bool(sound[at, a : b + 1].all())
            attempts.append(
                Attempt(
                    "ok" if whole else "not finite",
                    "" if whole else "an observation or a reward is not finite",
                    rewards[at, a + 1 : b + 1],
                    values[at, a:b],
                    bool(terminated[at, b]),
                    took,
                )
            )
        if n in shown:
            a, b, row = int(first[-1]), int(last[-1]), shown.index(n)
            actions = np.stack([np.asarray(desk.action(choice)) for choice in choices[row, a:b]])
            attempts[-1] = dataclasses.replace(
                attempts[-1], observations=vectors[row, a:b, : desk.size], actions=actions
            )
        lived.append(recorded(seat, name, attempts))
    return lived


@functools.lru_cache(maxsize=8)
def _classroom(
    families: tuple[str, ...], each: int, config: MindConfig, work: WorkConfig
) -> tuple[Classroom, Callable[..., tuple[Any, tuple[Array, ...]]]]:
    """A classroom for `each` lifetimes of each family, and its compiled ticks."""
    school = SchoolConfig(rollout=_TICKS, projected=0.0, reward_units=(1.0, 1.0))
    chosen = tuple(FAMILIES[name] for name in families)
    room = Classroom(chosen, ((0,),) * len(chosen), each, config=config, school=school, work=work)

    def ticks(model: Any, lifetimes: Any, shown: Array) -> tuple[Any, tuple[Array, ...]]:
        """Of every lifetime [N, T]: rewards, ends, terminated, v_now, all finite. Of those shown [R, T, ...]: percepts
        and choices."""
        lifetimes, rollout = room.live(model, lifetimes, jnp.ones(len(chosen)))
        percepts = jax.vmap(jax.vmap(lambda frame: room.layout.percept(frame, None)))(rollout.frames)
        decisions = jax.vmap(jax.vmap(room.layout.decision))(rollout.decisions)
        told = (
            percepts.reward,
            percepts.terminated | percepts.truncated,
            percepts.terminated,
            decisions.value * decisions.scale,
            jnp.all(jnp.isfinite(rollout.frames), axis=2),
            percepts.vector[shown],
            decisions.choice[shown, :, 0],
        )
        return lifetimes, told

    return room, jax.jit(ticks)


def _stacked(jobs: Sequence[SuiteJob]) -> Any:
    """Drawn jobs of one family as one, [L, ...]."""
    once = {job.id: drawn_job(job) for job in jobs}
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(once[job.id] for job in jobs))
