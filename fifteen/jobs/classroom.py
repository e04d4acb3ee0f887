"""Many lifetimes on many jobs at once, all on the device: what schooling acts in. Pure functions.

Every lifetime is an instance at work exactly as in `fifteen.work`: the same percept, the same choices, the same order
of ticks (the final observation of an attempt has a tick of its own). Families share one layout of percept and choices.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import instance as instances
from fifteen.config import MindConfig, SchoolConfig, WorkConfig
from fifteen.frames import Layout, Percept
from fifteen.instance import Instance, felt_reward, new_instance, new_statistics, return_scale, standardise
from fifteen.jobs.desks import Desk, desk
from fifteen.jobs.explorers import EXPLORERS, Explorer, Step
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job
from fifteen.model import Model

# What draws a family's jobs takes a millisecond, and optimising it would take most of a school's first minute.
_SELDOM = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Lifetimes(NamedTuple):
    """N = L F lifetimes, the families in turn: lifetime l F + f is the l-th of family f."""

    jobs: tuple[Job, ...]  # of each family, [L, ...]
    states: tuple[Any, ...]  # of each family's jobs, [L, ...]
    notes: tuple[Any, ...]  # of each family's explorer, [L, ...]; () where it has none
    instance: Instance  # [N, 1, ...]
    mixing: Array  # float32[N, D, slots], from the job's sensors to the mind's
    projected: Array  # bool[N], mixing is a random projection
    slots: Array  # int32[N, B], the job's action behind each bin
    unit: Array  # float32[N], of reward
    choice: Array  # int32[N], the bin chosen last; -1: none
    elapsed: Array  # int32[N], steps of the attempt
    ended: Array  # bool[N], the last tick ended an attempt, or there was none
    after: Array  # bool[N, 2], the attempt before ended by termination, by truncation
    rollouts: Array  # int32[N], that the lifetime goes on for
    returned: Array  # float32[N], reward of the attempt so far, in the job's own unit
    attempt: Array  # int32[N], from 0
    scores: Array  # float32[N, 3], return of the first, the third and the latest attempt
    key: Array  # uint32[2]


class Rollout(NamedTuple):
    """What N lifetimes lived through in T ticks."""

    frames: Array  # float32[N, T, percept], sensors standardised as the mind saw them, reward in scaled returns
    decisions: Array  # float32[N, T, decision]
    felt: Array  # float32[N, T], reward as the percept showed it
    teacher: Array  # float32[N, T, B], the teacher's probabilities of the bins; zeros where there is no teacher
    memory: Array  # float32[N, memory] before the first tick


class Grades(NamedTuple):
    """Sums over the lifetimes that ended, by family."""

    scores: Array  # float32[F, 3], of the first, third and last attempt
    lifetimes: Array  # float32[F]


@dataclass(frozen=True)
class _Teaching:
    """Who teaches one family's jobs, at which desk: static."""

    family: Family
    explorer: Explorer | None  # its teacher, where one must find out; else the teacher is the family's own
    desk: Desk
    speaks: bool

    def advise(self, job: Any, notes: Any, state: Any) -> Array | None:
        if not self.speaks:
            return None
        return self.family.teach(job, state) if self.explorer is None else self.explorer.advise(job, notes, state)

    def taught(self, action: Array | None) -> Array:
        """What a teacher said as probabilities of the job's own bins, float32[bins].

        All zero where there is no teacher: the cross-entropy to that is no loss.
        """
        desk = self.desk
        if action is None:
            return jnp.zeros(desk.bins)
        if not desk.ordered:
            return action
        place = (action[0] - desk.low) / (desk.high - desk.low) * (desk.ordered - 1)
        distance = jnp.abs(jnp.clip(place, 0.0, desk.ordered - 1.0) - jnp.arange(desk.bins, dtype=jnp.float32))
        return jnp.clip(1.0 - distance, 0.0, 1.0)


@final
class Classroom:
    """The static side: families, layout, and the functions over `Lifetimes`: `enrol`, `renew`, and the pure `live`."""

    def __init__(
        self,
        families: tuple[Family, ...],
        templates: tuple[tuple[int, ...], ...],  # of each family
        each: int,  # L, lifetimes of each family
        *,
        config: MindConfig,
        school: SchoolConfig,
        work: WorkConfig,
        taught: bool = True,
    ):
        """taught: whether teachers speak. Raises JobError for a family whose spaces a school cannot take."""
        shapes = [jax.eval_shape(f.sample, jnp.zeros((), jnp.int32), jax.random.key(0)) for f in families]
        self.desks = tuple(desk(job, config, f"the family {f.name}") for f, job in zip(families, shapes, strict=True))
        self.teachings = tuple(
            _Teaching(family, EXPLORERS.get(type(family)) if taught else None, met, taught)
            for family, met in zip(families, self.desks, strict=True)
        )
        self.families, self.templates, self.each = families, templates, each
        self.config, self.school, self.work = config, school, work
        self.dims = max(met.size for met in self.desks)  # D
        self.bins = max(met.bins for met in self.desks)  # B
        # In turn, so that a part of the lifetimes on one of several devices has all families.
        self.member = jnp.tile(jnp.arange(len(families)), each)  # int32[N]
        self.layout = Layout(config.slots, 1, self.bins, (0,), (-1,), (0,))
        self._continuous = jnp.stack(
            [jnp.pad(jnp.asarray(met.continuous), (0, config.slots - met.size)) for met in self.desks]
        )
        self._own = jnp.array([met.bins for met in self.desks])
        self._limit = jnp.array([job.step_limit for job in shapes])
        self._rollouts = jnp.array([-(-family.lifetime // school.rollout) for family in families])
        pairs = zip(self.teachings, templates, strict=True)
        self._draws = [
            jax.jit(partial(self._draw, teaching, chosen), compiler_options=_SELDOM) for teaching, chosen in pairs
        ]
        self._begin, self._refresh = jax.jit(self._new), jax.jit(self._renewed)

    def codes(self, model: Model, member: Array, projected: Array) -> Array:
        """Codes of the bins of lifetimes of the families `member` int32[n], projected bool[n]: float32[n, 1, B, R]."""
        slots = self.config.slots
        rows = []
        for met in self.desks:
            code = model.codes(Layout(slots, 1, met.bins, (0,), (-1,), (met.ordered,)))
            rows.append(jnp.pad(code, ((0, 0), (0, self.bins - met.bins), (0, 0))))
        own = jnp.stack(rows)[member]  # [n, 1, B, R], by the job's own order
        return jnp.where(projected[:, None, None, None], model.bin_code[None, None, : self.bins], own)

    def enrol(self, key: Array) -> Lifetimes:
        """N new lifetimes, of ages drawn evenly so that they do not all end at once."""
        key, fresh_key, draw_key, age_key = jax.random.split(key, 4)
        fresh = self._begin(fresh_key)
        ages = jax.random.uniform(age_key, self.member.shape)
        rollouts = 1 + (ages * fresh["rollouts"].astype(jnp.float32)).astype(jnp.int32)
        fresh["rollouts"] = jnp.minimum(rollouts, fresh["rollouts"])
        drawn = [draw(jax.random.fold_in(draw_key, n)) for n, draw in enumerate(self._draws)]
        jobs, states, notes = zip(*drawn, strict=True)
        return Lifetimes(jobs, states, notes, key=jax.random.key_data(key), **fresh)

    def renew(self, lifetimes: Lifetimes) -> tuple[Lifetimes, Grades]:
        """Replace the lifetimes that are over by new ones on new jobs, and grade them.

        Called between rounds, and not compiled as one: jobs are drawn only in families where a lifetime is over, and
        what draws them is compiled once for every school that has the family.
        """
        over = lifetimes.rollouts <= 0
        key, fresh_key, draw_key = jax.random.split(jax.random.wrap_key_data(lifetimes.key), 3)
        grades, lifetimes = self._refresh(lifetimes, over, fresh_key)
        parts = list(zip(lifetimes.jobs, lifetimes.states, lifetimes.notes, strict=True))
        by_family = np.asarray(over).reshape(self.each, len(self.families))
        for n in np.flatnonzero(by_family.any(axis=0)):
            drawn = self._draws[n](jax.random.fold_in(draw_key, n))
            parts[n] = _chosen(drawn, parts[n], by_family[:, n])
        jobs, states, notes = zip(*parts, strict=True)
        return lifetimes._replace(jobs=jobs, states=states, notes=notes, key=jax.random.key_data(key)), grades

    def _draw(self, teaching: _Teaching, templates: tuple[int, ...], key: Array) -> tuple[Job, Any, Any]:
        """L new jobs of one family, [L, ...], states to begin from and notes."""
        template_key, job_key, state_key = jax.random.split(key, 3)
        chosen = jax.random.choice(template_key, jnp.array(templates, jnp.int32), (self.each,))
        jobs = jax.vmap(teaching.family.sample)(chosen, jax.random.split(job_key, self.each))
        states, _ = jax.vmap(lambda job, key: job.reset(key))(jobs, jax.random.split(state_key, self.each))
        notes = () if teaching.explorer is None else jax.vmap(teaching.explorer.begin)(jobs)
        return jobs, jax.tree.map(_strong, states), notes

    def _renewed(self, lifetimes: Lifetimes, over: Array, key: Array) -> tuple[Grades, Lifetimes]:
        """Everything but the jobs of the lifetimes that are over, bool[N], as at a beginning."""
        graded = over & (lifetimes.attempt > 0)  # the first ones may end before their first attempt does
        member = jax.nn.one_hot(self.member, len(self.families)) * graded.astype(jnp.float32)[:, None]
        grades = Grades(member.T @ lifetimes.scores, jnp.sum(member, axis=0))
        fresh = self._new(key)
        kept = {name: getattr(lifetimes, name) for name in fresh}
        return grades, lifetimes._replace(**_chosen(fresh, kept, over))

    def _new(self, key: Array) -> dict[str, Any]:
        """Everything of N new lifetimes but their jobs."""
        count, slots = len(self.member), self.config.slots
        instance_key, mixing_key, which_key, order_key, unit_key, length_key = jax.random.split(key, 6)
        projected = jax.random.uniform(which_key, (count,)) < self.school.projected
        random = jax.random.normal(mixing_key, (count, self.dims, slots)) * self.dims**-0.5
        order = jnp.argsort(jax.random.uniform(order_key, (count, self.bins)), axis=1).astype(jnp.int32)
        begin = partial(new_instance, self.config, self.work, self.layout, new_statistics(slots), 1)
        longest = self._rollouts[self.member].astype(jnp.float32)
        shortest = jnp.minimum(longest, -(-self.school.shortest // self.school.rollout))
        rollouts = shortest * (longest / shortest) ** jax.random.uniform(length_key, (count,))
        low, high = np.log(self.school.reward_units[0]), np.log(self.school.reward_units[1])
        return {
            "instance": jax.vmap(lambda k: begin(key=k))(jax.random.split(instance_key, count)),
            "mixing": jnp.where(projected[:, None, None], random, jnp.eye(self.dims, slots)[None]),
            "projected": projected,
            "slots": jnp.where(projected[:, None], order, jnp.arange(self.bins, dtype=jnp.int32)[None]),
            "unit": jnp.exp(jax.random.uniform(unit_key, (count,), minval=low, maxval=high)),
            "choice": jnp.full(count, -1, jnp.int32),
            "elapsed": jnp.zeros(count, jnp.int32),
            "ended": jnp.ones(count, bool),
            "after": jnp.zeros((count, 2), bool),
            "rollouts": jnp.round(rollouts).astype(jnp.int32),
            "returned": jnp.zeros(count),
            "attempt": jnp.zeros(count, jnp.int32),
            "scores": jnp.zeros((count, 3)),
        }

    def live(self, model: Model, lifetimes: Lifetimes, scales: Array) -> tuple[Lifetimes, Rollout]:
        """T ticks of every lifetime with the weights as they are. scales: float32[F], see `return_scales`."""
        codes = self.codes(model, self.member, lifetimes.projected)
        valid = jnp.arange(self.bins)[None] < self._own[self.member][:, None]  # [N, B] by the job's own order
        single = jnp.take_along_axis(valid, lifetimes.slots, axis=1)[:, None, None]  # [N, 1, 1, B]
        table = jnp.zeros((len(self.member), 1, 0, self.bins), bool)
        continuous = self._continuous[self.member] | lifetimes.projected[:, None]
        act = partial(
            instances.act, model, config=self.config, work=self.work, layout=self.layout, wipe=False, images=None
        )

        def decide(instance: Instance, frame: Array, single: Array, table: Array, continuous: Array, codes: Array):
            return act(
                instance=instance, frames=frame[None], single=single, table=table, continuous=continuous, codes=codes
            )

        def tick(lifetimes: Lifetimes, _: None) -> tuple[Lifetimes, tuple[Array, ...]]:
            key, tick_key = jax.random.split(jax.random.wrap_key_data(lifetimes.key))
            begin = lifetimes.ended
            elapsed = jnp.where(begin, 0, lifetimes.elapsed + 1)
            action = jnp.take_along_axis(lifetimes.slots, jnp.maximum(lifetimes.choice, 0)[:, None], axis=1)[:, 0]
            states, notes, sensors, reward, terminated, taught = self._advance(lifetimes, begin, action, tick_key)
            reward = jnp.where(begin, 0.0, reward)
            terminated = terminated & ~begin
            truncated = (elapsed >= self._limit[self.member]) & ~terminated
            vector = jax.vmap(jnp.matmul)(sensors, lifetimes.mixing)  # [N, slots]
            previous = jnp.where(begin, -1, lifetimes.choice)
            percept = Percept(
                vector,
                None,
                previous[:, None],
                reward * lifetimes.unit,
                begin,
                terminated,
                truncated,
                lifetimes.after[:, 0] & begin,
                lifetimes.after[:, 1] & begin,
                elapsed,
            )
            frames = jax.vmap(self.layout.frame)(percept)
            instance, decision = jax.vmap(decide)(lifetimes.instance, frames, single, table, continuous, codes)
            decided = jax.vmap(self.layout.decision)(decision[:, 0])
            seen = percept._replace(
                vector=jax.vmap(standardise)(instance.statistics, vector, continuous),
                reward=reward / scales[self.member],
            )
            ends = terminated | truncated
            returned = jnp.where(begin, 0.0, lifetimes.returned) + reward
            which = jnp.stack([lifetimes.attempt == 0, lifetimes.attempt <= 2, ends], axis=1) & ends[:, None]
            lived = lifetimes._replace(
                states=states,
                notes=notes,
                instance=instance,
                choice=jnp.where(ends, -1, decided.choice[:, 0]),
                elapsed=elapsed,
                ended=ends,
                after=jnp.where(ends[:, None], jnp.stack([terminated, truncated], axis=1), lifetimes.after),
                returned=returned,
                attempt=lifetimes.attempt + ends.astype(jnp.int32),
                scores=jnp.where(which, returned[:, None], lifetimes.scores),
                key=jax.random.key_data(key),
            )
            taught = jnp.take_along_axis(taught, lifetimes.slots, axis=1)
            felt = jax.vmap(felt_reward)(instance.statistics, percept.reward)
            return lived, (jax.vmap(self.layout.frame)(seen), decision[:, 0], felt, taught)

        memory = lifetimes.instance.memory[:, 0]
        lifetimes, rows = jax.lax.scan(tick, lifetimes, None, self.school.rollout)
        rollout = Rollout(*(jnp.swapaxes(row, 0, 1) for row in rows), memory=memory)
        return lifetimes._replace(rollouts=lifetimes.rollouts - 1), rollout

    def return_scales(self, lifetimes: Lifetimes) -> Array:
        """Rewards per scaled return of each family, in its jobs' own unit, float32[F]: the mean over its lifetimes.

        A lifetime's own scale, which serves on the job, begins anew with every lifetime and would rate its first
        rewards many times higher than the later ones.
        """
        own = jax.vmap(lambda histogram: return_scale(histogram, self.work.reward_quantile))(
            lifetimes.instance.statistics.histogram
        )
        return jnp.mean((own / lifetimes.unit).reshape(self.each, -1), axis=0)

    def spoiled(self, rollout: Rollout) -> Array:
        """Lifetimes of each family that met a number that is not finite, int32[F]."""
        sound = jnp.all(jnp.isfinite(rollout.frames), axis=(1, 2))
        return jnp.sum((~sound).astype(jnp.int32).reshape(self.each, -1), axis=0)

    def _advance(
        self, lifetimes: Lifetimes, begin: Array, action: Array, key: Array
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], Array, Array, Array, Array]:
        """Every job's next state and notes, and sensors float32[N, D], reward, terminated and teacher float32[N, B]."""
        begins, actions = (x.reshape(self.each, len(self.desks)) for x in (begin, action))
        states, notes, rows = [], [], []
        # Families differ in their types, so that no array could hold them all: the loop is over types, not over data.
        for n, teaching in enumerate(self.teachings):
            keys = jax.random.split(jax.random.fold_in(key, n), self.each)
            move = jax.vmap(partial(_move, teaching, self.dims, self.bins))
            before = lifetimes.jobs[n], lifetimes.states[n], lifetimes.notes[n]
            state, note, *row = move(*before, begins[:, n], actions[:, n], keys)
            states.append(state)
            notes.append(note)
            rows.append(row)
        sensors, reward, terminated, taught = (
            jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for parts in zip(*rows, strict=True)
        )
        return tuple(states), tuple(notes), sensors, reward, terminated, taught


def _move(
    teaching: _Teaching, dims: int, bins: int, job: Any, state: Any, notes: Any, begin: Array, choice: Array, key: Array
) -> tuple[Any, Any, Array, Array, Array, Array]:
    """One tick of one job: begin an attempt, or take a step."""
    met, explorer = teaching.desk, teaching.explorer
    first = job.reset(key)
    action = met.action(jnp.minimum(choice, met.bins - 1))
    after, observation, reward, terminated = job.step(state, action, key)
    if explorer is not None:
        noted = explorer.note(job, notes, Step(state, action, after, reward, terminated))
        notes = jax.tree.map(lambda new, old: jnp.where(begin, old, new), noted, notes)
    both = (after, observation)
    state, observation = jax.tree.map(lambda new, old: _strong(jnp.where(begin, new, old)), first, both)
    sensors = jnp.pad(met.sensors(observation), (0, dims - met.size))
    taught = jnp.pad(teaching.taught(teaching.advise(job, notes, state)), (0, bins - met.bins))
    return state, notes, sensors, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), taught


@jax.jit
def _chosen(new: Any, old: Any, over: Array) -> Any:
    """`new` where over, bool[n], else `old`: trees of [n, ...]."""
    return jax.tree.map(lambda a, b: jnp.where(over.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)


def _strong(leaf: Array) -> Array:
    """Not of weak type, so that what comes back in needs no second compilation."""
    return jax.lax.convert_element_type(leaf, leaf.dtype)
