"""One instance at work: what follows its own stream (memory, statistics, keys), and how it acts. Pure functions.

Nothing here is keyed by job or reset by a boundary: statistics and memory follow the stream of experience.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fifteen.config import MindConfig, WorkConfig
from fifteen.doubting import Doubt, doubted, no_doubt
from fifteen.frames import Decision, Layout, Percept
from fifteen.losses import choose, masked_log_softmax
from fifteen.model import Model, expected_value

_SCALE_BINS = 256
_SCALE_LOG10 = (-12.0, 12.0)
_RECENT = 0.05  # rate of a sensor's recent mean
_MOVED, _ALL_MOVED = 4.0, 6.0  # standard deviations between a sensor's mean and its recent one
_SETTLED = 100.0  # observations before which a sensor cannot have been moved
_SENSOR_CLIP = 8.0  # standard deviations


class Statistics(NamedTuple):
    """Running statistics of one instance's stream, shared by its E parallel streams."""

    count: Array  # float32[]
    mean: Array  # float32[slots]
    variance: Array  # float32[slots]
    age: Array  # float32[slots], observations since the sensor's statistics began
    recent: Array  # float32[slots], mean of about the last 20
    reward_square: Array  # float32[], mean of r^2
    histogram: Array  # float32[256] of log10 |discounted return|, slowly forgotten


class Instance(NamedTuple):
    """Everything an instance carries from one moment to the next, for E streams."""

    statistics: Statistics
    memory: Array  # float32[E, memory]
    doubt: Doubt | None  # [E, ...]; None unless `WorkConfig.watchful`
    trailing: Array  # float32[E], discounted sum of the attempt's rewards so far
    predicted: Array  # float32[E, slots + 1], the percept expected next
    noise: Array  # float32[E, K, M, B], standard normal, each of K with its correlation in time; it draws the actions
    key: Array  # uint32[2], data of a threefry key


def new_statistics(slots: int) -> Statistics:
    nothing = jnp.zeros(slots)
    return Statistics(jnp.zeros(()), nothing, jnp.ones(slots), nothing, nothing, jnp.zeros(()), jnp.zeros(_SCALE_BINS))


def read_statistics(saved: Mapping[str, Any]) -> Statistics:
    """Statistics by the names of their fields, as they were saved. KeyError for one that is missing.

    Those of before sensors had an age of their own are read as if all began together.
    """
    saved = {name: jnp.asarray(value) for name, value in saved.items()}
    old = {"age": jnp.full_like(saved["mean"], saved["count"]), "recent": saved["mean"]}
    return Statistics(**{name: {**old, **saved}[name] for name in Statistics._fields})


def new_instance(
    config: MindConfig, work: WorkConfig, layout: Layout, statistics: Statistics, streams: int, key: Array
) -> Instance:
    """The beginning of a lifetime: an empty memory, and statistics that still give way to a new job's."""
    kept = jnp.minimum(1.0, work.inherited / jnp.maximum(statistics.count, 1.0))
    key, noise_key = jax.random.split(key)
    memory = jnp.zeros((streams, config.memory_size))
    return Instance(
        statistics=statistics._replace(
            count=statistics.count * kept, age=statistics.age * kept, histogram=statistics.histogram * kept
        ),
        memory=memory,
        doubt=jax.vmap(no_doubt)(memory) if work.watchful else None,
        trailing=jnp.zeros(streams),
        predicted=jnp.zeros((streams, config.slots + 1)),
        noise=jax.random.normal(noise_key, (streams, len(work.noise_memory), layout.factors, layout.bins)),
        key=jax.random.key_data(key),
    )


def observe_percepts(
    statistics: Statistics, vectors: Array, rewards: Array, active: Array, work: WorkConfig
) -> Statistics:
    """Welford's update with a batch: vectors float32[E, slots], rewards float32[E], active bool[E].

    Where `work.watchful`, a sensor whose recent mean is far from where it used to be has been moved: its statistics
    begin anew, for together they would describe neither before nor after. Very far, and those of all sensors do.
    """
    weight = active.astype(jnp.float32)[:, None]  # [E, 1]
    added = jnp.sum(weight)
    total = jnp.minimum(statistics.count, work.statistics_span) + added
    share = jnp.where(total > 0, added / jnp.maximum(total, 1.0), 0.0)
    batch_mean = jnp.sum(weight * vectors, axis=0) / jnp.maximum(added, 1.0)
    batch_variance = jnp.sum(weight * (vectors - batch_mean[None]) ** 2, axis=0) / jnp.maximum(added, 1.0)
    recent = statistics.recent + jnp.where(added > 0, _RECENT, 0.0) * (batch_mean - statistics.recent)
    age = jnp.minimum(statistics.age, work.statistics_span)
    if work.watchful:
        far = jnp.abs(recent - statistics.mean) * jax.lax.rsqrt(statistics.variance + 1e-8)
        far = jnp.where(age >= _SETTLED, far, 0.0)
        age = jnp.where((far > _MOVED) | jnp.any(far > _ALL_MOVED), 0.0, age)
    begins = (age == 0) & (added > 0)
    own = added / jnp.maximum(age + added, 1.0)  # [slots]
    offset = batch_mean - statistics.mean
    variance = (1 - own) * statistics.variance + own * batch_variance + own * (1 - own) * offset**2
    square = jnp.sum(jnp.where(active, rewards, 0.0) ** 2) / jnp.maximum(added, 1.0)
    return Statistics(
        count=total,
        mean=statistics.mean + own * offset,
        # The first observation says where the sensors are, not how much they vary.
        variance=jnp.where(begins, jnp.ones_like(variance), variance),
        age=age + added,
        recent=jnp.where(begins, batch_mean, recent),
        reward_square=statistics.reward_square + share * (square - statistics.reward_square),
        histogram=statistics.histogram,
    )


def standardise(statistics: Statistics, vector: Array, continuous: Array) -> Array:
    """float32[slots] -> float32[slots]: continuous sensors in standard deviations, clipped; the others as they are."""
    scaled = (vector - statistics.mean) * jax.lax.rsqrt(statistics.variance + 1e-8)
    return jnp.where(continuous, jnp.clip(scaled, -_SENSOR_CLIP, _SENSOR_CLIP), vector)


def felt_reward(statistics: Statistics, reward: Array) -> Array:
    """A reward as the mind perceives it, float32[] in units of its root mean square.

    The scale of returns would not do: where every step is rewarded a hundred rewards are one return, and whether the
    last one came would be lost among the other inputs.
    """
    return reward / jnp.maximum(jnp.sqrt(statistics.reward_square), 1e-12)


def observe_return(histogram: Array, size: Array, active: Array, decay: float) -> Array:
    """Count |discounted return| float32[E] in the histogram; zeros say nothing about the unit."""
    low, high = _SCALE_LOG10
    place = (jnp.log10(jnp.maximum(size, 1e-30)) - low) * (_SCALE_BINS / (high - low))
    index = jnp.clip(place, 0, _SCALE_BINS - 1).astype(jnp.int32)
    counted = jnp.where(active & (size > 0), 1.0, 0.0)
    return (histogram * (1.0 - decay)).at[index].add(counted)


def return_scale(histogram: Array, quantile: float) -> Array:
    """The `quantile` of |discounted return|, interpolated within its bin; 1 while nothing was counted."""
    low, high = _SCALE_LOG10
    cumulative = jnp.cumsum(histogram)
    wanted = quantile * cumulative[-1]
    index = jnp.argmax(cumulative >= wanted)
    inside = (wanted - (cumulative[index] - histogram[index])) / jnp.maximum(histogram[index], 1e-30)
    place = index.astype(jnp.float32) + jnp.clip(inside, 0.0, 1.0)
    return jnp.where(cumulative[-1] > 0, 10.0 ** (low + place * ((high - low) / _SCALE_BINS)), 1.0)


def act(
    model: Model,
    instance: Instance,
    frames: Array,
    images: Array | None,
    single: Array,
    table: Array,
    continuous: Array,
    codes: Array | None = None,
    *,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
    wipe: bool,
) -> tuple[Instance, Array]:
    """Perceive and decide, for E streams.

    frames float32[E, percept]; images uint8[E, 32, 32, 3] or None; single bool[E, M, B] and table
    bool[E, G, B, ...]: valid actions, see `spaces.Valid`; continuous bool[slots]; codes
    float32[M, B, R] of the action slots, by default the layout's; wipe: forget at every attempt's beginning.
    Returns the instance and packed decisions float32[E, decision]. Streams that are not active are left as they were.
    """
    active = jax.vmap(layout.active)(frames)
    percepts = jax.vmap(layout.percept)(frames, images)
    statistics = observe_percepts(instance.statistics, percepts.vector, percepts.reward, active, work)
    trailing = jnp.where(percepts.first, 0.0, work.discount * instance.trailing) + percepts.reward
    histogram = observe_return(statistics.histogram, jnp.abs(trailing), active, work.scale_decay)
    statistics = statistics._replace(histogram=histogram)
    scale = return_scale(histogram, work.reward_quantile)
    key, noise_key = jax.random.split(jax.random.wrap_key_data(instance.key))
    kept = jnp.array(work.noise_memory)[None, :, None, None]
    fresh = jax.random.normal(noise_key, instance.noise.shape)
    noise = kept * instance.noise + jnp.sqrt(1.0 - kept**2) * fresh
    codes = model.codes(layout) if codes is None else codes

    def one(
        memory: Array, predicted: Array, percept: Percept, single: Array, table: Array, noise: Array
    ) -> tuple[Array, Array, Array]:
        sensors = standardise(statistics, percept.vector, continuous)
        x = model.encode(percept, sensors, felt_reward(statistics, percept.reward), codes)
        memory, x = model.step(memory, x, percept.first if wipe else jnp.zeros((), bool))
        features = model.features(x)
        choice, log_prob, mask, value = _decide(model, features, codes, single, table, noise, config, work, layout)
        surprise = jnp.where(percept.first, 0.0, jnp.sqrt(jnp.sum((predicted[:-1] - sensors) ** 2)))
        decision = Decision(choice, log_prob, value, scale, surprise, mask)
        return memory, model.predict(features, model.code(choice, codes)), layout.pack(decision)

    memory, predicted, decisions = jax.vmap(one)(
        instance.memory, instance.predicted, percepts, single, table, jnp.sum(noise, axis=1) * kept.size**-0.5
    )
    memory, doubt = jnp.where(active[:, None], memory, instance.memory), instance.doubt
    if doubt is not None and not wipe:
        ends = percepts.terminated | percepts.truncated
        doubt, memory = jax.vmap(doubted)(doubt, memory, percepts.reward, percepts.first, ends, active)
    acted = Instance(
        statistics=statistics,
        memory=memory,
        doubt=doubt,
        trailing=jnp.where(active, trailing, instance.trailing),
        predicted=jnp.where(active[:, None], predicted, instance.predicted),
        noise=jnp.where(active[:, None, None, None], noise, instance.noise),
        key=jax.random.key_data(key),
    )
    return acted, decisions


def _decide(
    model: Model,
    features: Array,
    codes: Array,
    single: Array,
    table: Array,
    noise: Array,
    config: MindConfig,
    work: WorkConfig,
    layout: Layout,
) -> tuple[Array, Array, Array, Array]:
    """Draw a choice, most significant digits first, so that every number drawn is valid.

    The draw is argmax(log mu + g), mu ~ pi^sharpness, with Gumbel noise g made of `noise` float32[M, B]. At every step
    its distribution is exactly mu, but noise that is correlated in time explores further than noise that is not
    wherever the policy is indifferent (Eberhard et al. 2023, "Pink noise is all you need", there for continuous
    actions).
    Returns choice int32[M], log_prob float32[M] (log mu), mask bool[M, B], value float32[] (E_mu Q).
    """
    gumbel = -jnp.log(-jax.scipy.special.log_ndtr(noise))
    choice = jnp.full(layout.factors, -1, jnp.int32)
    mask, log_policy, prefix = single, jnp.zeros(single.shape), jnp.zeros((layout.factors, config.rank))
    for digit in range(1 + max(layout.digits)):
        mask = digit_masks(single, table, choice, layout)
        prefix = model.digit_prefix(choice, codes, layout.digits)
        log_policy = masked_log_softmax(work.sharpness * model.policy_logits(features, prefix, codes), mask)
        drawn = jnp.argmax(log_policy + gumbel, axis=1).astype(jnp.int32)
        choice = jnp.where(jnp.array([d == digit for d in layout.digits]), drawn, choice)
    action_value = expected_value(model.value_logits(features, prefix, codes), config)
    value = jnp.sum(jnp.exp(log_policy) * action_value, axis=1)
    return choice, choose(log_policy, choice), mask, jnp.mean(value)


def digit_masks(single: Array, table: Array, choice: Array, layout: Layout) -> Array:
    """Valid bins of every factor, given the more significant digits chosen so far.

    single bool[M, B]; table bool[G, B, ..., B] with one axis per digit; choice int32[M]. Returns bool[M, B].
    """
    if table.shape[0] == 0:
        return single
    rows, remaining = [], table[0]
    for factor, (digit, group) in enumerate(zip(layout.digits, layout.group, strict=True)):
        if group < 0:
            rows.append(single[factor])
            continue
        remaining = table[group] if digit == 0 else remaining
        rows.append(jnp.any(remaining, axis=tuple(range(1, remaining.ndim))))
        remaining = remaining[jnp.maximum(choice[factor], 0)]
    return jnp.stack(rows)
