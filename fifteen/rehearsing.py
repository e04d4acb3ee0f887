"""School in a night: what a schooled learner can do on jobs that nobody has lived yet is rehearsed. Pure functions.

The sleeper lives through new lifetimes on jobs of school's families, and is taught there what its weights said when
they left school, as older jobs are taught (rehearsal by cloning the policy: Rolnick et al. 2019). That it is the
sleeper who lives them, again with every practice, tells where its new habits lead on jobs like those that it has just
learned (Ross et al. 2011): lifetimes of its teacher never come there. Only for minds whose senses and memory stay as
school left them (`WorkConfig.steady`): what these make of a row is then known once and for all, and an update reads
single rows in any order.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.config import MindConfig, SchoolConfig, WorkConfig
from fifteen.distilling import ROWS, VALUED, apart, as_said, read_out, weighed
from fifteen.errors import JobError, RunError
from fifteen.jobs.classroom import Classroom, Lifetimes
from fifteen.jobs.families import find_families
from fifteen.jobs.family import read_split
from fifteen.model import Model, unravel
from fifteen.teaching import remembered

_LIFETIMES = 4  # of each family
_TICKS = 1024  # of each lifetime


@final
@dataclass(frozen=True)
class School:
    """Who teaches school, and what."""

    weights: Array  # float32[P], as they left school
    families: tuple[str, ...]  # their names


class Schoolwork(NamedTuple):
    """n sequences of T = ROWS rows of all families in a mixed order, and what the teacher says of them."""

    x: Array  # float32[n, T, W], what senses and memory make of the rows
    policy: Array  # float32[n, T, 1, B], probabilities
    value: Array  # float32[n, T / VALUED, 1, B, Z], probabilities of the categorical action values, of some rows
    mask: Array  # bool[n, T, 1, B], valid bins
    acted: Array  # float32[n, T], 0 where a row ends an attempt: there is no action to learn
    member: Array  # int32[n, T], the row's family
    codes: Array | None  # float32[F, 1, B, R], codes of the bins of each family; None: taken out


def families_of(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of those that a learner was schooled in, as far as this version, with the libraries installed, has them.

    None for a learner that was never schooled. Raises RunError where it was, and there is none left.
    """
    schooled = provenance.get("schooled") or ()
    names = dict.fromkeys(name for told in schooled for name in told.get("families", ()))
    found = []
    for name in names:
        with suppress(JobError):  # of another version, or of a library that is not installed
            found += [family.name for family in find_families([name])]
    if names and not found:
        raise RunError(
            f"school cannot be rehearsed: the learner was schooled in {', '.join(names)}, and there is none of these "
            "families here: use the version that schooled it, or SleepConfig(schoolwork=0)"
        )
    return tuple(found)


def senses(weights: Array, mind: MindConfig) -> Array:
    """Those of the weights float32[P] that stay where `WorkConfig.steady`: senses, memory and codes, as one vector."""
    model = unravel(weights, mind)
    codes = (model.factor_code, model.bin_code, model.line_frequency, model.line_phase)
    kept = (model.sense, model.see, model.sense_norm, model.layers, codes)
    return jnp.concatenate([jnp.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(kept)])


def schoolwork(school: School, pupil: Array, mind: MindConfig, work: WorkConfig, seed: int, number: int) -> Schoolwork:
    """What a pupil lives through in 4 lifetimes of 1,024 ticks of each family, as on a job, from the beginning.

    Of templates for schooling only; other jobs for every number. pupil: weights float32[P], with the senses and the
    memory of the teacher. The same for the same arguments on the same device.
    """
    room, live = _opened(school.families, mind, work)
    lifetimes, lived = room.enrol(jax.random.fold_in(jax.random.key(seed), number)), []
    for _ in range(_TICKS // room.school.rollout):
        lifetimes, rows = live(pupil, lifetimes)
        lived.append([np.asarray(part) for part in rows])
    x, mask, acted = (np.concatenate(parts, axis=1) for parts in zip(*lived, strict=True))  # [N, _TICKS, ...]
    member = np.broadcast_to(np.asarray(room.member)[:, None], acted.shape)
    order = np.random.default_rng(0).permutation(acted.size).reshape(-1, ROWS)
    x, mask, acted, member = (
        jnp.asarray(part.reshape(-1, *part.shape[2:])[order]) for part in (x, mask, acted, member)
    )
    model = unravel(school.weights, mind)
    count = len(room.families)
    codes = room.codes(model, jnp.arange(count), jnp.zeros(count, bool))
    policy, value = _said(school.weights, x, mask, member, codes, mind)
    return Schoolwork(x, policy, value, mask, acted, member, codes)


def picked(seed: int, step: int, available: int, batch: int) -> np.ndarray:
    """Which of the available sequences the update number `step` learns from, int32[batch]: see `distilling.picked`."""
    return np.random.Generator(np.random.PCG64([seed, step, 1])).integers(available, size=batch, dtype=np.int32)


@partial(jax.jit, static_argnames=("mind", "value_weight"))
def school_gradient(
    weights: Array, lived: Schoolwork, picked: Array, mind: MindConfig, value_weight: float
) -> tuple[Array, Array]:
    """Of the loss of school on the picked sequences, float32[P], and the distance to its teacher's policy, nats.

    As `distilling.gradient`, of what reads the memory alone. picked: int32[batch].
    """

    def loss(weights: Array, part: Schoolwork) -> tuple[Array, Array]:
        model = unravel(weights, mind)

        def one(part: Schoolwork) -> tuple[Array, Array, Array, Array]:
            assert lived.codes is not None
            said = part.policy, part.value
            return apart(_read(model, part.x, lived.codes[part.member]), said, part.mask, part.acted)

        return weighed(jax.vmap(one)(part), value_weight)

    part = jax.tree.map(lambda x: x[picked], lived._replace(codes=None))
    return jax.grad(loss, has_aux=True)(weights, part)


@functools.cache  # compiled once for all nights of a process
def _opened(names: tuple[str, ...], mind: MindConfig, work: WorkConfig) -> tuple[Classroom, Callable[..., Any]]:
    """The classroom, and a rollout in it."""
    split, families = read_split(), find_families(names)
    templates = tuple(split.indices(family) for family in families)
    # Nothing is mixed, for on a job nothing is, and what school's teachers say is not asked for.
    school = SchoolConfig(projected=0.0)
    room = Classroom(families, templates, _LIFETIMES, config=mind, school=school, work=work, taught=False)
    return room, jax.jit(partial(_live, room=room))


def _live(weights: Array, lifetimes: Lifetimes, room: Classroom) -> tuple[Lifetimes, tuple[Array, Array, Array]]:
    """A rollout: the lifetimes after it; x float32[N, T, W], mask bool[N, T, 1, B], acted float32[N, T]."""
    model = unravel(weights, room.config)
    codes = room.codes(model, room.member, lifetimes.projected)
    lifetimes, rollout = room.live(model, lifetimes, jnp.ones(len(room.families)))
    percepts, x = jax.vmap(partial(remembered, model, room))(rollout, codes)
    mask = jax.vmap(jax.vmap(room.layout.decision))(rollout.decisions).mask
    return lifetimes, (x, mask, jnp.where(percepts.terminated | percepts.truncated, 0.0, 1.0))


@partial(jax.jit, static_argnames="mind")
def _said(weights: Array, x: Array, mask: Array, member: Array, codes: Array, mind: MindConfig) -> tuple[Array, Array]:
    """Policy and value of `Schoolwork`: one sequence after the other, for all at once would take much memory."""
    model = unravel(weights, mind)

    def one(rows: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, mask, member = rows
        return as_said(*_read(model, x, codes[member]), mask)

    return jax.lax.map(one, (x, mask, member))


def _read(model: Model, x: Array, codes: Array) -> tuple[Array, Array]:
    """As `read_out`, values of one of VALUED rows: x float32[T, W], codes float32[T, 1, B, R]."""
    return read_out(model, x, jnp.zeros((x.shape[0], 1, codes.shape[3])), codes, VALUED)


def fits(school: School, origin: Array, mind: MindConfig) -> bool:
    """Whether the senses and the memory of minds that began as `origin`, float32[P], are those that left school."""
    same = school.weights.shape == origin.shape
    return same and bool(jnp.all(senses(school.weights, mind) == senses(origin, mind)))
