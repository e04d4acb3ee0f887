"""Policy distillation on stored sequences: what a teacher says of them, and one update towards it. Pure functions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from optax import contrib

from fifteen.config import MindConfig, SleepConfig, WorkConfig
from fifteen.frames import Layout
from fifteen.instance import Statistics, felt_reward, new_statistics, observe_percepts, standardise
from fifteen.losses import masked_log_softmax, policy_loss
from fifteen.model import Model, unravel
from fifteen.updating import Batch

ROWS = 64  # of what counts as a sequence where rows need no order
_SHORTER = (512, 64)  # rows of the shorter first days that are read beside the longest ones
VALUED = 4  # values are learned at one of so many rows: they take most of an update and weigh least


class Rows(NamedTuple):
    """T consecutive rows of a lifetime, or n times T."""

    frames: Array  # float32[T, percept]
    images: Array | None  # uint8[T, 32, 32, 3]
    decisions: Array  # float32[T, decision]


class Dream(NamedTuple):
    """Sequences of one job and what its teacher says of them: n sequences of T rows.

    Where senses and memory are the same for all, what they make of the rows is known once and for all, and the rows
    of all sequences are in a mixed order.
    """

    rows: Rows
    policy: Array  # float32[n, T, M, B], probabilities
    value: Array  # float32[n, T / VALUED, M, B, Z], probabilities of the categorical action values, of some rows
    seen: tuple[Array, Array] | None  # sensors float32[n, T, slots] and felt rewards [n, T], as on a first day
    x: Array | None  # float32[n, T, W], or what senses and memory make of these


class Study(NamedTuple):
    """All that an update changes."""

    weights: Array  # float32[P]
    moments: optax.OptState


def dream(
    weights: Array,
    batch: Batch,
    statistics: Statistics,
    continuous: Array,
    mind: MindConfig,
    work: WorkConfig,
    layout: Layout,
    wipe: bool,
    first_day: bool,
    practised: bool = False,
) -> Dream:
    """What a teacher of weights float32[P] says of first days that begin where attempts did.

    batch: n sequences of L rows. continuous: bool[slots], see `Senses`. wipe: the teacher's memory was wiped after
    every attempt. It says what it says with the memory and the statistics it had, or, `first_day`, with those of the
    very first days that are read. There are n of L / 2 rows. Where `work.steady` the sleeper's senses and memory are
    the teacher's, so that first days may be long: an update is one of single rows, and unrolls nothing. Then as many
    rows are of shorter ones, for who fails at a first day's beginning, which is rare among its rows, gets no further.

    practised: somebody else lived it. Who reads all of it remembers, after a while, what one does who fails, and says
    what nobody ever taught it: it is asked piece by piece, with its own memory before each.
    """
    every = Rows(batch.frames, batch.images, batch.decisions)

    def saying(rows: Rows, memory: Array) -> tuple[Array, Array]:
        x, first = _perceived(weights, rows, statistics, continuous, mind, layout)
        return _said(weights, _remembered(weights, memory, x, first & wipe, mind), rows, mind, layout)

    told = None
    if not first_day:
        told = _by_piece(saying, every, batch.memory) if practised else saying(every, batch.memory)
    first = _firsts(batch.frames, layout)

    def reading(length: int, number: int) -> Dream:
        rows, said = _cut((every, told), *_places(first, length, number), length)
        x, sensors, felt = _perceived_first(weights, rows, continuous, mind, work, layout)
        empty, never = jnp.zeros((number, mind.memory_size)), jnp.zeros((number, length), bool)
        x = _remembered(weights, empty, x, never, mind)
        policy, value = said or _said(weights, x, rows, mind, layout)
        if work.steady:
            return Dream(rows._replace(images=None), policy, value, None, x)
        return Dream(rows, policy, value[:, ::VALUED], (sensors, felt), None)

    sequences, rows = first.shape
    longest = reading(rows // 2, sequences)
    if not work.steady:
        return longest
    lengths = [length for length in _SHORTER if length < rows // 2]
    shorter = [reading(length, sequences * rows // (2 * len(lengths) * length)) for length in lengths]
    return _mixed([longest, *shorter])


def _by_piece(saying: Callable[[Rows, Array], tuple[Array, Array]], rows: Rows, memory: Array) -> tuple[Array, Array]:
    """What is said of n sequences, float32[n, T, ...], read in pieces of ROWS: each after the ROWS before it.

    memory: float32[n, memory], before that. T: a multiple of ROWS, 2 * ROWS at least.
    """
    number, length = rows.frames.shape[:2]
    sequence, at = (x.reshape(-1) for x in np.indices((number, length // ROWS), np.int32))
    begin = ROWS * np.maximum(at - 1, 0)
    said = saying(_cut(rows, sequence, begin, 2 * ROWS), memory[sequence])
    told = _cut(said, np.arange(len(at), dtype=np.int32), ROWS * at - begin, ROWS)
    return jax.tree.map(lambda x: x.reshape(number, length, *x.shape[2:]), told)


# The parts of a dream are compiled apart, for what takes longest, the memory's part, is the same for every layout.


@partial(jax.jit, static_argnames=("layout",))
def _firsts(frames: Array, layout: Layout) -> Array:
    """Rows that begin an attempt, bool[n, T], of float32[n, T, percept]."""
    return jax.vmap(jax.vmap(lambda frame: layout.percept(frame, None).first))(frames)


@partial(jax.jit, static_argnames=("length",))
def _cut(tree: Any, sequence: Array, begin: Array, length: int) -> Any:
    """Of every leaf [N, T, ...] `length` rows of the sequences int32[n], from the rows int32[n] on."""
    part = partial(jax.lax.dynamic_slice_in_dim, slice_size=length)
    return jax.tree.map(lambda x: jax.vmap(lambda s, b: part(x[s], b))(sequence, begin), tree)


@partial(jax.jit, static_argnames=("mind", "layout"))
def _perceived(
    weights: Array, rows: Rows, statistics: Statistics, continuous: Array, mind: MindConfig, layout: Layout
) -> tuple[Array, Array]:
    """What senses with these statistics make of sequences, float32[n, T, W], and which rows begin an attempt."""
    model = unravel(weights, mind)

    def one(rows: Rows) -> tuple[Array, Array]:
        percepts = jax.vmap(layout.percept)(rows.frames, rows.images)
        sensors = jax.vmap(lambda v: standardise(statistics, v, continuous))(percepts.vector)
        return _encoded(model, rows, felt_reward(statistics, percepts.reward), sensors, layout), percepts.first

    return jax.vmap(one)(rows)


@partial(jax.jit, static_argnames=("mind", "work", "layout"))
def _perceived_first(
    weights: Array, rows: Rows, continuous: Array, mind: MindConfig, work: WorkConfig, layout: Layout
) -> tuple[Array, Array, Array]:
    """What senses make of sequences as if a lifetime began with each, float32[n, T, W]; sensors and felt rewards."""
    model = unravel(weights, mind)

    def one(rows: Rows) -> tuple[Array, Array, Array]:
        sensors, felt = _first_day(rows, continuous, work, layout)
        return _encoded(model, rows, felt, sensors, layout), sensors, felt

    return jax.vmap(one)(rows)


@partial(jax.jit, static_argnames=("mind",))
def _remembered(weights: Array, memory: Array, x: Array, reset: Array, mind: MindConfig) -> Array:
    """What the memory float32[n, memory] makes of it, wiped where reset bool[n, T]: float32[n, T, W], both."""
    model = unravel(weights, mind)
    return jax.vmap(lambda memory, x, reset: model.unroll(memory, x, reset)[1])(memory, x, reset)


@partial(jax.jit, static_argnames=("mind", "layout"))
def _said(weights: Array, x: Array, rows: Rows, mind: MindConfig, layout: Layout) -> tuple[Array, Array]:
    """As `as_said`, of sequences. x: float32[n, T, W], see `_remembered`."""
    model = unravel(weights, mind)

    def one(x: Array, rows: Rows) -> tuple[Array, Array]:
        mask = jax.vmap(layout.decision)(rows.decisions).mask
        return as_said(*_read(model, x, rows, model.codes(layout), layout), mask)

    return jax.vmap(one)(x, rows)


def _places(first: Array, length: int, number: int) -> tuple[Array, Array]:
    """Where first days of `length` rows begin: sequence and row, both int32[number], spread evenly over attempts.

    first: bool[n, L], rows that begin an attempt. A sequence without one early enough counts with its first row.
    """
    fits = first & (jnp.arange(first.shape[1]) <= first.shape[1] - length)[None]
    fits = fits.at[:, 0].set(fits[:, 0] | ~jnp.any(fits, axis=1))
    rank = jnp.cumsum(fits.reshape(-1))
    wanted = 1 + ((jnp.arange(number) * rank[-1]) // number)
    at = jnp.searchsorted(rank, wanted)
    return at // first.shape[1], at % first.shape[1]


def _mixed(dreams: list[Dream]) -> Dream:
    """The rows of all in another order, in sequences of ROWS."""
    flat = [jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), one) for one in dreams]
    every = jax.tree.map(lambda *parts: jnp.concatenate(parts), *flat)
    order = np.random.default_rng(0).permutation(len(every.policy)).reshape(-1, ROWS)
    some = every.value[order[:, ::VALUED]]
    return jax.tree.map(lambda x: x[order], every._replace(value=None))._replace(value=some)


def begin(origin: Array, config: SleepConfig, mind: MindConfig, steady: bool) -> Study:
    """Before the first update: as the parent, float32[P]. steady: see `WorkConfig`."""
    return Study(jnp.copy(origin), _optimiser(config, mind, steady).init(origin))


@jax.jit
def drawn(dream: Dream, picked: Array) -> Dream:
    """The picked sequences, int32[n]. Apart from `gradient`, which is compiled once however many there are of a job."""
    return jax.tree.map(lambda x: x[picked], dream)


@partial(jax.jit, static_argnames=("mind", "layout", "value_weight"))
def gradient(
    weights: Array, dream: Dream, mind: MindConfig, layout: Layout, value_weight: float
) -> tuple[Array, Array]:
    """Of the loss of one lesson on some of its sequences, float32[P], and the distance to its teacher's policy, nats.

    The distance is the cross-entropy to the teacher's policy beyond the teacher's own entropy.
    """
    loss = partial(_loss, mind=mind, layout=layout, value_weight=value_weight)
    return jax.grad(loss, has_aux=True)(weights, dream)


@partial(jax.jit, static_argnames=("config", "mind", "steady"))
def learn(
    study: Study,
    gradients: list[Array],
    origin: Array,
    config: SleepConfig,
    mind: MindConfig,
    steady: bool,
    school: Array | None = None,
) -> Study:
    """One update by the mean of the lessons' gradients, each float32[P], and the pull toward the origin.

    school: the gradient of school, see `rehearsing`; it counts as much as `config.rehearsed` jobs.
    """
    total, count = sum(gradients[1:], gradients[0]), len(gradients)
    if school is not None:
        total, count = total + config.rehearsed * school, count + config.rehearsed
    total = total / count
    total = total + config.anchor_decay * (study.weights - origin)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes float and int32.
        step, moments = _optimiser(config, mind, steady).update(total, study.moments)
    return Study(study.weights + jnp.asarray(step), moments)


def _optimiser(config: SleepConfig, mind: MindConfig, steady: bool) -> optax.GradientTransformation:
    """Of flat weights, float32[P]."""
    rate, steps = config.learning_rate, optax.scale_by_adam()
    if steady:
        rate = config.steady_learning_rate
        steps = _with_muon(steps, config.orthogonal_rate / rate, mind)
    falling = optax.linear_schedule(-rate, 0.0, config.steps)
    return optax.chain(optax.clip_by_global_norm(config.max_gradient), steps, optax.scale_by_schedule(falling))


def _with_muon(others: optax.GradientTransformation, size: float, mind: MindConfig) -> optax.GradientTransformation:
    """The steps of the matrices between memory and heads made orthogonal (Muon, Jordan et al. 2024), times `size`.

    All jobs share them: so no direction that many jobs agree in drowns one that a single job needs.
    """
    muon = optax.chain(contrib.scale_by_muon(), optax.scale(size))

    def shared(model: Model) -> list[Any]:
        adapter = () if model.adapter is None else (model.adapter.widen, model.adapter.narrow)
        return [layer.weight for layer in (*adapter, model.trunk)]

    def init(params: Any) -> Any:
        return others.init(params), [muon.init(matrix) for matrix in shared(unravel(params, mind))]

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step, other = others.update(updates, state[0], params)
        told = [muon.update(g, s) for g, s in zip(shared(unravel(updates, mind)), state[1], strict=True)]
        whole = eqx.tree_at(shared, unravel(jnp.asarray(step), mind), [matrix for matrix, _ in told])
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(whole)]), (other, [s for _, s in told])

    return optax.GradientTransformation(init, update)


def _encoded(model: Model, rows: Rows, felt: Array, sensors: Array, layout: Layout) -> Array:
    """What the senses make of one sequence, float32[T, W]."""
    percepts = jax.vmap(layout.percept)(rows.frames, rows.images)
    codes = model.codes(layout)
    return jax.vmap(lambda p, s, r: model.encode(p, s, r, codes))(percepts, sensors, felt)


def _read(model: Model, x: Array, rows: Rows, codes: Array, layout: Layout, valued: int = 1) -> tuple[Array, Array]:
    """As `read_out`, of rows. x: float32[T, W], see `_remembered`."""
    choices = rows.decisions[:, : layout.factors].astype(jnp.int32)
    prefix = jax.vmap(lambda c: model.digit_prefix(c, codes, layout.digits))(choices)
    return read_out(model, x, prefix, codes, valued)


def read_out(model: Model, x: Array, prefix: Array, codes: Array, valued: int = 1) -> tuple[Array, Array]:
    """Policy and value logits of one sequence: float32[T, M, B] and [T / valued, M, B, Z].

    x: what senses and memory make of it, float32[T, W]. prefix: float32[T, M, R], see `Model.digit_prefix`. codes:
    float32[M, B, R] of all rows, or of each, [T, M, B, R]. valued: values of one of so many rows.
    """
    each = codes.ndim == 4
    axes = (0, 0, 0 if each else None)
    features = jax.vmap(model.features)(x)
    logits = jax.vmap(model.policy_logits, axes)(features, prefix, codes)
    some = codes[::valued] if each else codes
    return logits, jax.vmap(model.value_logits, axes)(features[::valued], prefix[::valued], some)


def as_said(logits: Array, value: Array, mask: Array) -> tuple[Array, Array]:
    """Probabilities of what was `read_out`: of the policy, and of the values. mask: bool[T, M, B], valid bins."""
    return jnp.exp(jax.vmap(masked_log_softmax)(logits, mask)), jax.nn.softmax(value, axis=-1)


def _first_day(rows: Rows, continuous: Array, work: WorkConfig, layout: Layout) -> tuple[Array, Array]:
    """Sensors float32[T, slots] and felt rewards float32[T] of one sequence as if a lifetime began with it."""
    percepts = jax.vmap(layout.percept)(rows.frames, rows.images)
    yes = jnp.ones(1, bool)

    def row(statistics: Statistics, now: tuple[Array, Array]) -> tuple[Statistics, tuple[Array, Array]]:
        vector, reward = now
        statistics = observe_percepts(statistics, vector[None], reward[None], yes, work)
        return statistics, (standardise(statistics, vector, continuous), felt_reward(statistics, reward))

    # The reward that came before the sequence began is nobody's.
    rewards = percepts.reward.at[0].set(0.0)
    return jax.lax.scan(row, new_statistics(layout.slots), (percepts.vector, rewards))[1]


def _loss(
    weights: Array, dream: Dream, *, mind: MindConfig, layout: Layout, value_weight: float
) -> tuple[Array, Array]:
    """Mean distance to what the teacher says, and of the policy alone: cross-entropy less the teacher's entropy."""
    model = unravel(weights, mind)

    def one(dream: Dream) -> tuple[Array, Array, Array, Array]:
        decisions = jax.vmap(layout.decision)(dream.rows.decisions)
        percepts = jax.vmap(lambda frame: layout.percept(frame, None))(dream.rows.frames)
        acted = jnp.where(percepts.terminated | percepts.truncated, 0.0, 1.0)
        if dream.seen is not None:
            sensors, felt = dream.seen
            x, codes = _encoded(model, dream.rows, felt, sensors, layout), model.codes(layout)
            x = model.unroll(jnp.zeros(mind.memory_size), x, jnp.zeros(len(x), bool))[1]
        else:  # only what reads the memory learns
            assert dream.x is not None
            x, codes = dream.x, jax.lax.stop_gradient(model.codes(layout))
        said = dream.policy, dream.value
        return apart(_read(model, x, dream.rows, codes, layout, VALUED), said, decisions.mask, acted)

    return weighed(jax.vmap(one)(dream), value_weight)


def apart(
    read: tuple[Array, Array], said: tuple[Array, Array], mask: Array, acted: Array
) -> tuple[Array, Array, Array, Array]:
    """How far one sequence, as it is `read_out`, is from what its teacher says of it: sums over its rows, float32[].

    said: see `as_said`; values, here and in what is read, of one of VALUED rows. mask: bool[T, M, B], valid bins.
    acted: float32[T], 1 where a row counts. Returns distances of policies and of values, and the numbers of rows that
    counted for the one and for the other.
    """
    (logits, value), (policy, taught) = read, said
    entropy = -jnp.sum(jnp.where(policy > 0, policy * jnp.log(policy + 1e-12), 0.0), axis=2)
    distance = jax.vmap(policy_loss)(logits, policy, mask) - jnp.mean(entropy, axis=1)
    open_bins = mask.astype(jnp.float32)[::VALUED]
    values = -jnp.sum(taught * jax.nn.log_softmax(value), axis=-1)  # [T / VALUED, M, B]
    values = jnp.sum(open_bins * values, axis=(1, 2)) / jnp.maximum(jnp.sum(open_bins, axis=(1, 2)), 1.0)
    some = acted[::VALUED]
    return jnp.sum(acted * distance), jnp.sum(some * values), jnp.sum(acted), jnp.sum(some)


def weighed(sums: tuple[Array, Array, Array, Array], value_weight: float) -> tuple[Array, Array]:
    """Mean loss and mean distance of policies, float32[] each. sums: those of `apart`, float32[n] each."""
    distance, values, acted, some = (jnp.sum(x) for x in sums)
    distance = distance / acted
    return distance + value_weight * values / jnp.maximum(some, 1.0), distance


def picked(
    seed: int, step: int, available: Sequence[int], rehearsed: Sequence[bool], config: SleepConfig
) -> dict[int, np.ndarray]:
    """What the update number `step` learns from: of some lessons, by number, which sequences, int32[config.batch].

    available: how many sequences each lesson has. rehearsed: which ones no instance of the day teaches; of these
    `config.rehearsed` are drawn, of the others all. It depends on seed and step alone, so that a night which goes on
    needs no generator's state.
    """
    generator = np.random.Generator(np.random.PCG64([seed, step]))
    older = np.flatnonzero(rehearsed)
    drawn = generator.choice(older, size=min(config.rehearsed, len(older)), replace=False)
    jobs = [*np.flatnonzero(~np.asarray(rehearsed, np.bool_)), *drawn]
    return {int(job): generator.integers(available[job], size=config.batch, dtype=np.int32) for job in jobs}
