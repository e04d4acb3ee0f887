"""N instances at work on jobs of their own, all on the device, as in `fifteen.work`. Pure functions.

Every instance follows the same order of ticks, with the same functions, as `work` does with one stream; jobs share one
layout of percept and choices. Jobs of one kind, which differ in arrays only, are stepped together.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import instance as instances
from fifteen import updating
from fifteen.config import MindConfig, WorkConfig
from fifteen.frames import Layout, Percept
from fifteen.hands import BOX_BINS
from fifteen.instance import Instance, Statistics, new_instance
from fifteen.jobs.desks import Desk
from fifteen.jobs.native import Job, arrays_of, move
from fifteen.model import Model, unravel
from fifteen.updating import Batch, LearnerState
from fifteen.worker import COMPILER


class Life(NamedTuple):
    """One instance at its job. With a leading axis N where there are several, but for the states of the jobs."""

    instance: Instance  # [1, ...], of one stream
    choice: Array  # int32[], the bin chosen last; -1: none
    elapsed: Array  # int32[], steps of the attempt
    ended: Array  # bool[], the last tick ended an attempt, or there was none
    after: Array  # bool[2], the attempt before ended by termination, by truncation
    seed: Array  # uint32[], of the attempt
    steps: Array  # int32[], taken
    over: Array  # bool[], the budget is used up


class Rows(NamedTuple):
    """What N instances lived through in T ticks: arrays of the device, and of the host once they are read."""

    frames: Any  # float32[N, T, percept]
    decisions: Any  # float32[N, T, decision]
    memory: Any  # float32[N, M, memory] before every T/M-th tick, from the first on
    active: Any  # bool[N, T], False after the budget was used up
    begun: Any  # int32[N], attempts


class Kind(NamedTuple):
    """Jobs that differ in the values of their arrays only: static."""

    job: Job  # without its arrays
    count: int
    desk: Desk


@final
@dataclass(frozen=True)
class Crew:
    """The static side of N instances, those whose jobs are of one kind side by side.

    The layout is the same whatever the jobs are, so that the updates, which take longest to compile, are compiled once.
    """

    config: MindConfig
    work: WorkConfig
    wipe: bool
    kinds: tuple[Kind, ...]
    lines: tuple[int, ...]  # how many bins of a job may lie in order

    @property
    def desks(self) -> list[Desk]:
        """Of the N jobs."""
        return [kind.desk for kind in self.kinds for _ in range(kind.count)]

    @property
    def layout(self) -> Layout:
        return common_layout(self.config)

    @property
    def line(self) -> np.ndarray:
        """Which of the lines the bins of each instance are, int32[N]."""
        return np.array([self.lines.index(one.ordered) for one in self.desks], np.int32)

    @property
    def continuous(self) -> np.ndarray:
        """bool[N, slots]"""
        return np.array([np.pad(np.array(one.continuous), (0, self.config.slots - one.size)) for one in self.desks])

    def arrays(self, states: tuple[Any, ...]) -> list[dict[str, np.ndarray]]:
        """The state of each of the N jobs as `native.arrays_of` it."""
        whole = [(kind.count, arrays_of(several)) for kind, several in zip(self.kinds, states, strict=True)]
        return [{name: array[n] for name, array in named.items()} for count, named in whole for n in range(count)]

    @partial(jax.jit, static_argnums=0, donate_argnums=(2, 3), compiler_options=COMPILER)
    def act(
        self,
        weights: Array,
        lives: Life,
        states: tuple[Any, ...],
        jobs: tuple[Any, ...],
        seeds: Array,
        total: Array,
    ) -> tuple[Life, tuple[Any, ...], Rows]:
        """T ticks of every instance.

        weights float32[N, P], or [1, P] where all have the same; states and jobs (their arrays) of each kind
        [n, ...]; seeds uint32[N, T] of the next attempts; total int32[N], steps that each may take.
        """
        desks, bins = self.desks, self.layout.bins
        limit = np.array([kind.job.step_limit for kind in self.kinds for _ in range(kind.count)], np.int32)
        valid = np.arange(bins)[None] < np.array([one.bins for one in desks])[:, None]
        single = jnp.asarray(valid)[:, None, None]  # [N, 1, 1, B]
        table = jnp.zeros((1, 0, bins), bool)
        continuous = jnp.asarray(self.continuous)
        if len(weights) == 1:  # one product of matrices for all, where each with its own would need N
            models, own = unravel(weights[0], self.config), None
        else:
            models, own = jax.vmap(lambda one: unravel(one, self.config))(weights), 0
        coded = jax.vmap(lambda model, line: codes(model, self.layout, self.lines, line), (own, 0))
        slots = coded(models, jnp.asarray(self.line))
        act = partial(instances.act, config=self.config, work=self.work, layout=self.layout, wipe=self.wipe)

        def one(model: Model, instance: Instance, frame: Array, single: Array, continuous: Array, codes: Array):
            return act(model, instance, frame[None], None, single, table, continuous, codes)

        def tick(carry: tuple[Life, tuple[Any, ...], Array], _: None) -> tuple[Any, tuple[Array, ...]]:
            lives, states, begun = carry
            begin = lives.ended & ~lives.over
            begun = begun + begin.astype(jnp.int32)
            fresh = jnp.take_along_axis(seeds, jnp.maximum(begun - 1, 0)[:, None], axis=1)[:, 0]
            seed = jnp.where(begin, fresh, lives.seed)
            elapsed = jnp.where(begin, 0, lives.elapsed + 1)
            states, sensors, reward, terminated = self._advance(states, jobs, seed, elapsed, lives.choice)
            truncated = (elapsed >= limit) & ~terminated
            ends = terminated | truncated
            # What the last step brought is perceived only where it ended an attempt: as in `work`.
            over = lives.over | ((lives.steps >= total) & ~ends)
            percepts = Percept(
                sensors,
                None,
                jnp.where(begin, -1, lives.choice)[:, None],
                reward,
                begin,
                terminated,
                truncated,
                lives.after[:, 0] & begin,
                lives.after[:, 1] & begin,
                elapsed,
            )
            frames = jax.vmap(self.layout.frame)(percepts)
            acting = jax.vmap(one, (own, 0, 0, 0, 0, 0))
            acted, decisions = acting(models, lives.instance, frames, single, continuous, slots)
            chosen = decisions[:, 0, 0].astype(jnp.int32)
            lived = Life(
                instance=acted,
                choice=jnp.where(ends, -1, chosen),
                elapsed=elapsed,
                ended=ends,
                after=jnp.where(ends[:, None], jnp.stack([terminated, truncated], axis=1), lives.after),
                seed=seed,
                steps=lives.steps + (~ends).astype(jnp.int32),
                over=over,
            )
            lived = jax.tree.map(lambda new, old: _where(over, old, new), lived, lives._replace(over=over))
            return (lived, states, begun), (frames, decisions[:, 0], ~over)

        ticks = seeds.shape[1]
        # Lifetimes whose rows are whole blocks begin a stride of replay at some of these ticks alone.
        apart = math.gcd(self.work.block, self.work.sequence)

        def several(carry: tuple[Life, tuple[Any, ...], Array], _: None) -> tuple[Any, tuple[Any, Array]]:
            memory = carry[0].instance.memory[:, 0]
            carry, rows = jax.lax.scan(tick, carry, None, apart)
            return carry, (rows, memory)

        none = jnp.zeros(len(desks), jnp.int32)
        (lives, states, begun), (rows, memory) = jax.lax.scan(several, (lives, states, none), None, ticks // apart)
        frames, decisions, active = (jnp.swapaxes(row.reshape(ticks, *row.shape[2:]), 0, 1) for row in rows)
        return lives, states, Rows(frames, decisions, jnp.swapaxes(memory, 0, 1), active, begun)

    def _advance(
        self, states: tuple[Any, ...], jobs: tuple[Any, ...], seeds: Array, moments: Array, choices: Array
    ) -> tuple[tuple[Any, ...], Array, Array, Array]:
        """Every job's next state, and sensors float32[N, slots], rewards and whether it terminated."""
        after, rows, n = [], [], 0
        # Kinds differ in their types, so that no array could hold them all: the loop is over types, not over data.
        for kind, own, several in zip(self.kinds, jobs, states, strict=True):
            part = slice(n, n + kind.count)
            n = part.stop

            def step(own: Any, state: Any, seed: Array, moment: Array, choice: Array, kind: Kind = kind) -> tuple:
                desk = kind.desk
                action = desk.action(jnp.clip(choice, 0, desk.bins - 1))
                state, observation, *told = move(eqx.combine(own, kind.job), seed, moment, state, action)
                return state, jnp.pad(desk.sensors(observation), (0, self.config.slots - desk.size)), *told

            state, *row = jax.vmap(step)(own, several, seeds[part], moments[part], choices[part])
            after.append(state)
            rows.append(row)
        sensors, reward, terminated = (jnp.concatenate(parts) for parts in zip(*rows, strict=True))
        return tuple(after), sensors, reward, terminated


def kinds(jobs: Sequence[Job]) -> list[int]:
    """Of each job the first one that differs from it in the values of its arrays only."""
    told: list[Any] = []
    for job in jobs:
        arrays, static = eqx.partition(job, eqx.is_array)
        leaves, tree = jax.tree.flatten(arrays)
        told.append((static, tree, [(leaf.shape, leaf.dtype) for leaf in leaves]))
    return [told.index(one) for one in told]


def new_crew(
    jobs: Sequence[Job], desks: Sequence[Desk], *, config: MindConfig, work: WorkConfig, wipe: bool
) -> tuple[Crew, tuple[Any, ...]]:
    """N jobs, those of one kind side by side, and the desk of each: the crew, and the jobs' arrays as `act` takes."""
    first = [n for n, kind in enumerate(kinds(jobs)) if kind == n]
    split = [eqx.partition(job, eqx.is_array) for job in jobs]
    counts = np.diff([*first, len(jobs)]).tolist()
    members = tuple(Kind(split[n][1], count, desks[n]) for n, count in zip(first, counts, strict=True))
    lines = tuple(sorted({0, BOX_BINS, *(one.ordered for one in desks)}))
    return Crew(config, work, wipe, members, lines), stacked(members, [arrays for arrays, _ in split])


def stacked(members: Sequence[Kind], trees: Sequence[Any]) -> tuple[Any, ...]:
    """N trees as one for each kind, [n, ...]."""
    left = iter(trees)
    return tuple(jax.tree.map(lambda *x: jnp.stack(x), *(next(left) for _ in range(kind.count))) for kind in members)


def common_layout(config: MindConfig) -> Layout:
    """Of one action factor with all bins that a mind has."""
    return Layout(config.slots, 1, config.max_bins, (0,), (-1,), (0,))


def codes(model: Model, layout: Layout, lines: tuple[int, ...], line: Array) -> Array:
    """Codes float32[1, B, R] of the bins of a job of which lines[line] lie in order; line int32[]."""
    return jnp.stack([model.codes(dataclasses.replace(layout, ordered=(ordered,))) for ordered in lines])[line]


@partial(jax.jit, static_argnames=("config", "work"))
def new_lives(statistics: Statistics, keys: Array, *, config: MindConfig, work: WorkConfig) -> Life:
    """The beginning of N lifetimes after that of `statistics`; keys [N], one for each."""
    count, no = len(keys), jnp.zeros(len(keys), bool)
    begin = partial(new_instance, config, work, common_layout(config), statistics, 1)
    return Life(
        instance=jax.vmap(lambda key: begin(key=key))(keys),
        choice=jnp.full(count, -1, jnp.int32),
        elapsed=jnp.zeros(count, jnp.int32),
        ended=~no,
        after=jnp.zeros((count, 2), bool),
        seed=jnp.zeros(count, jnp.uint32),
        steps=jnp.zeros(count, jnp.int32),
        over=no,
    )


@functools.cache
def compiled_update(
    config: MindConfig, work: WorkConfig, wipe: bool, lines: tuple[int, ...], together: bool
) -> Callable[..., Any]:
    """`updating.update` for an instance of a crew: (state, batches, statistics, continuous, line) as in `Crew`.

    together: for any number at once, a tuple of such tuples, one call of the device.
    """

    def update(state: LearnerState, batches: Batch, statistics: Statistics, continuous: Array, line: Array) -> Any:
        layout = common_layout(config)
        own = partial(codes, layout=layout, lines=lines, line=line)
        return updating.update(
            state, batches, statistics, continuous, config=config, work=work, layout=layout, wipe=wipe, codes=own
        )

    def update_all(lessons: tuple[tuple, ...]) -> list[Any]:
        several = jax.vmap(update)(*jax.tree.map(lambda *x: jnp.stack(x), *lessons))
        return [jax.tree.map(lambda leaf, n=n: leaf[n], several) for n in range(len(lessons))]

    return jax.jit(update_all if together else update, compiler_options=COMPILER)


def _where(flag: Array, yes: Array, no: Array) -> Array:
    """yes where flag, bool[N], else no: [N, ...] both."""
    return jnp.where(flag.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)
