"""A learner at work on a pair of spaces: perceive, decide, remember, learn. The host side of the pure functions.

`Worker` holds everything that changes while working, and nothing of the job itself, so that the same code serves the
loop of `work` and a live system driven by hand.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen import instance as instances
from fifteen import updating
from fifteen.config import Learn, MindConfig, WorkConfig
from fifteen.doubting import Doubt
from fifteen.errors import CheckpointError, RunError
from fifteen.experience import Experience, Field
from fifteen.frames import Layout
from fifteen.instance import Instance, Statistics
from fifteen.jobs.protocol import Tick
from fifteen.model import structure, unravel
from fifteen.spaces import Hands, Senses
from fifteen.updating import Batch, LearnerState

# The matrices are small: threads that wait for their share of one cost more than they bring, and acting and learning
# already have a core each.
COMPILER = {"xla_cpu_multi_thread_eigen": False}
_REPLAY_BYTES = 2_000_000_000
_DOUBT = "instance/doubt/"  # of saved arrays


class Moment(NamedTuple):
    """What E streams decided and expected at one tick."""

    actions: list[Any]  # E actions in the job's own space; meaningless where no action is taken
    value: np.ndarray  # float32[E], v_now in the job's own reward units
    scale: float  # rewards of the job per scaled return
    surprise: np.ndarray  # float32[E]


@dataclass(frozen=True)
class _Compiled:
    """The functions of one shape, compiled once per process."""

    begin: Callable[[Statistics, Array], Instance]
    act: Callable[..., tuple[Instance, Array]]
    update: Callable[..., tuple[LearnerState, dict[str, Array]]]
    publish: Callable[[Array], list[Array]]


@functools.cache
def compiled(
    config: MindConfig, work: WorkConfig, layout: Layout, wipe: bool, streams: int, lifetimes: int
) -> _Compiled:
    """Everything static is in the arguments, so one shape is traced and compiled once.

    lifetimes: so many at once, with as many of the streams each, in order; their instances have a leading axis then.
    """
    shapes, tree = structure(config)
    ends = list(itertools.accumulate(shape[0] for shape in shapes if len(shape) == 1))
    settings: dict[str, Any] = dict(config=config, work=work, layout=layout, wipe=wipe)

    # Arrays, not a Model, and all vectors in one: flattening a tree of modules and handing over forty arrays would cost
    # a good part of what deciding costs.
    def publish(weights: Array) -> list[Array]:
        leaves = jax.tree.leaves(unravel(weights, config))
        return [jnp.concatenate([leaf for leaf in leaves if leaf.ndim == 1]), *(x for x in leaves if x.ndim != 1)]

    def act(published: list[Array], *arguments: Any) -> tuple[Instance, Array]:
        vectors, others = iter(jnp.split(published[0], ends[:-1])), iter(published[1:])
        model = tree.unflatten([next(vectors if len(shape) == 1 else others) for shape in shapes])
        one = partial(instances.act, model, **settings)
        if lifetimes == 1:
            return one(*arguments)
        instance, *each, continuous = arguments
        each = jax.tree.map(lambda x: x.reshape(lifetimes, streams // lifetimes, *x.shape[1:]), each)
        instance, decisions = jax.vmap(partial(one, continuous=continuous))(instance, *each)
        return instance, decisions.reshape(streams, -1)

    def begin(statistics: Statistics, key: Array) -> Instance:
        one = partial(instances.new_instance, config, work, layout, statistics, streams // lifetimes)
        return one(key) if lifetimes == 1 else jax.vmap(one)(jax.random.split(key, lifetimes))

    return _Compiled(
        begin=jax.jit(begin),
        act=jax.jit(act, donate_argnums=1, compiler_options=COMPILER),
        update=jax.jit(partial(updating.update, **settings), compiler_options=COMPILER),
        publish=jax.jit(publish),
    )


@final
class Worker:
    """One instance at work. Not thread-safe; every public method is called from the loop's thread."""

    def __init__(
        self,
        state: LearnerState,
        statistics: Statistics,
        *,
        config: MindConfig,
        work: WorkConfig,
        observation_space: gym.Space,
        action_space: gym.Space,
        seed: int,
        learn: Learn,
        streams: int = 1,
        record: bool = False,
        lifetimes: int = 1,
    ):
        """Begin a lifetime. record: keep experience also when the weights do not learn from it.

        lifetimes: begin so many, with `streams` of each; they know nothing of each other, and are only lived: learn is
        "context", nothing is recorded, and there are no statistics to go on with. Raises SpaceError for spaces that
        cannot be sensed or handled.
        """
        streams *= lifetimes
        self.config, self.work, self.learn, self.streams = config, work, learn, streams
        self.senses = Senses(observation_space, config.slots)
        self.hands = Hands(action_space, config.max_bins, config.max_factors)
        shape = self.hands.shape
        self.layout = Layout(config.slots, **dataclasses.asdict(shape))
        self.faults: Counter[str] = Counter()
        self.notes: list[str] = []
        if self.senses.projected:
            self.notes.append(
                f"{self.senses.projected} observation dimensions are beyond the {config.slots} slots and go through "
                "a fixed random projection"
            )
        self._functions = compiled(config, work, self.layout, learn == "weights", streams, lifetimes)
        self.state = state
        self.acting = self._functions.publish(state.weights)
        self.instance = self._functions.begin(statistics, jax.random.key(seed))
        self.losses: dict[str, float] = {}
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._continuous = jnp.asarray(self.senses.continuous)
        self._frames = np.zeros((streams, self.layout.percept_size), np.float32)
        self._images = np.zeros((streams, 32, 32, 3), np.uint8) if self.senses.has_image else None
        self._previous = np.full((streams, shape.factors), -1.0, np.float32)
        self._steps = np.zeros(streams, np.int64)
        self._after = [(False, False)] * streams
        self._valid = self._valid_actions((None,) * streams)
        self._ticks = 0  # since the last block of updates
        self._pending: Future | None = None
        self._pool = ThreadPoolExecutor(1, "fifteen-update")
        self.experience = self._new_experience() if record or learn != "context" else None
        # Of the latest tick, of every stream: name -> [E, ...]; those of streams that were not active mean nothing.
        self.rows: dict[str, np.ndarray] = {}

    # ------------------------------------------------------------------------------------------------ acting

    def decide(self, tick: Tick) -> Moment:
        """Perceive a tick of E streams and choose actions. Records the rows. The hot path of everything."""
        for stream in range(self.streams):
            if tick.active[stream]:
                self._perceive(tick, stream)
            else:
                self._frames[stream, self.layout.slots + 7] = 0.0
        masked = any(mask is not None for mask in tick.action_masks)
        single, table = self._valid_actions(tick.action_masks) if masked else self._valid
        memory = None
        if self.experience is not None and self.experience.due().any():
            memory = np.asarray(self.instance.memory)
        self.instance, packed = self._functions.act(
            self.acting, self.instance, self._frames, self._images, single, table, self._continuous
        )
        decisions = np.asarray(packed)
        self.rows = {"frame": self._frames, "decision": decisions}
        if self._images is not None:
            self.rows["image"] = self._images
        if self.experience is not None:
            self.experience.append(self.rows, tick.active, memory)
        return self._moment(tick, decisions)

    def _perceive(self, tick: Tick, stream: int) -> None:
        sensation = self.senses.encode(tick.observations[stream])
        if sensation.faults:
            self.faults.update(f"observation {fault}" for fault in sensation.faults)
        first = bool(tick.first[stream])
        if first:
            self._steps[stream] = 0
            self._previous[stream] = -1.0
        self.layout.write_percept(
            self._frames[stream],
            sensation.vector,
            float(tick.rewards[stream]),
            first,
            bool(tick.terminated[stream]),
            bool(tick.truncated[stream]),
            self._after[stream] if first else (False, False),
            int(self._steps[stream]),
            True,
            self._previous[stream],
        )
        if self._images is not None and sensation.image is not None:
            self._images[stream] = sensation.image

    def _moment(self, tick: Tick, decisions: np.ndarray) -> Moment:
        factors = self.layout.factors
        actions: list[Any] = [None] * self.streams
        for stream in range(self.streams):
            if not tick.active[stream]:
                continue
            if tick.terminated[stream] or tick.truncated[stream]:
                self._after[stream] = (bool(tick.terminated[stream]), bool(tick.truncated[stream]))
                continue
            choice = decisions[stream, :factors]
            actions[stream] = self.hands.decode(choice.astype(np.int64))
            self._previous[stream] = choice
            self._steps[stream] += 1
        value, scale, surprise = decisions[:, 2 * factors : 2 * factors + 3].T
        return Moment(actions, value * scale, float(scale[0]), surprise)

    def _valid_actions(self, masks: tuple) -> tuple[Array, Array]:
        valid = [self.hands.valid(mask) for mask in masks]
        return jnp.stack([v.single for v in valid]), jnp.stack([v.table for v in valid])

    # ---------------------------------------------------------------------------------------------- learning

    @property
    def at_boundary(self) -> bool:
        """A block of ticks is complete: the next `improve` takes the last block's result and starts another."""
        return self._ticks + 1 >= self.work.block

    def improve(self) -> None:
        """Count one tick; at a block's end take over the finished updates and begin the next in the background.

        Acting goes on with the weights of one block ago while a second core learns. What is computed does not depend
        on timing: the same ticks always meet the same weights. Raises RunError as `finish` does.
        """
        self._ticks += 1
        if self._ticks < self.work.block:
            return
        self._ticks = 0
        if self.learn == "context":
            return
        self.finish()
        self.acting = self._functions.publish(self.state.weights)
        assert self.experience is not None
        sequence = self.work.sequence
        rows = int(self.experience.count.sum())
        if rows < self.work.warmup or not self.experience.available(sequence):
            return
        batch = self._batch(max(1, round(self.work.block * self.streams * self.work.updates_per_step)))
        # A copy: the instance's own buffers are given away at the next decision.
        statistics = jax.tree.map(np.array, self.instance.statistics)
        self._pending = self._pool.submit(self._run, self.state, batch, statistics)

    def finish(self) -> None:
        """Wait for updates that are under way. Raises RunError where they came to weights that are not finite.

        The state is that of before them then.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.state, losses = pending.result()
            self.losses = {name: float(value) for name, value in losses.items()}

    def _run(self, state: LearnerState, batch: Batch, statistics: Statistics) -> Any:
        state, losses = jax.block_until_ready(self._functions.update(state, batch, statistics, self._continuous))
        if not np.isfinite(np.asarray(state.weights)).all():
            raise RunError(
                f"the weights are not finite after {int(state.updates):,} updates: lower WorkConfig.learning_rate; "
                "those of before are kept, and a run stands where it was last saved"
            )
        return state, losses

    def _batch(self, updates: int) -> Batch:
        assert self.experience is not None
        rows, memory = self.experience.sample(self._generator, updates * self.work.batch, self.work.sequence)

        def shaped(array: np.ndarray) -> Any:
            return array.reshape(updates, self.work.batch, *array.shape[1:])

        image = rows.get("image")
        return Batch(
            shaped(rows["frame"]),
            None if image is None else shaped(image),
            shaped(rows["decision"]),
            shaped(memory),
        )

    def close(self) -> None:
        """End the lifetime: finish updates and stop the background thread."""
        try:
            self.finish()
        finally:
            self._pool.shutdown()

    @property
    def updates(self) -> int:
        """Updates of the weights so far, in all lifetimes; those under way are not counted."""
        return int(self.state.updates)

    # ------------------------------------------------------------------------------------------- saved state

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything of the lifetime that is an array, except weights and experience. Call `finish` before."""
        named = {f"acting/{n}": leaf for n, leaf in enumerate(self.acting)}
        named |= {
            "instance/memory": self.instance.memory,
            "instance/trailing": self.instance.trailing,
            "instance/predicted": self.instance.predicted,
            "instance/noise": self.instance.noise,
            "instance/key": self.instance.key,
            "hands/range": self.hands.range,
            "host/previous": self._previous,
            "host/steps": self._steps,
            "host/after": np.array(self._after, np.bool_),
        }
        if self.instance.doubt is not None:
            named |= {f"{_DOUBT}{name}": value for name, value in self.instance.doubt._asdict().items()}
        return {name: np.asarray(value) for name, value in named.items()}

    def summary(self) -> dict[str, Any]:
        """What of the lifetime is no array: JSON-able."""
        return {
            "ticks": self._ticks,
            "generator": self._generator.bit_generator.state,
            "faults": dict(self.faults),
            "losses": self.losses,
        }

    def restore(
        self,
        arrays: dict[str, np.ndarray],
        summary: dict[str, Any],
        statistics: Statistics,
        experience: Experience | None,
    ) -> None:
        """Stand where `arrays` and `summary` were taken. Raises CheckpointError where they do not fit."""
        mine = self.arrays()
        # Of before memories were doubted: it does not change what the others mean.
        arrays = {name: array for name, array in mine.items() if name.startswith(_DOUBT)} | arrays
        for name, array in mine.items():
            if name not in arrays or arrays[name].shape != array.shape:
                raise CheckpointError(
                    f"the saved run has no fitting {name} (expected {array.dtype}{list(array.shape)}): it was saved "
                    "with another configuration or for another job; resume it with the settings it was started with"
                )
        self.acting = [jnp.asarray(arrays[f"acting/{n}"]) for n in range(len(self.acting))]
        doubt = self.instance.doubt
        if doubt is not None:
            doubt = Doubt(**{name: jnp.asarray(arrays[f"{_DOUBT}{name}"]) for name in Doubt._fields})
        self.instance = Instance(
            statistics=jax.tree.map(jnp.asarray, statistics),
            memory=jnp.asarray(arrays["instance/memory"]),
            doubt=doubt,
            trailing=jnp.asarray(arrays["instance/trailing"]),
            predicted=jnp.asarray(arrays["instance/predicted"]),
            noise=jnp.asarray(arrays["instance/noise"]),
            key=jnp.asarray(arrays["instance/key"]),
        )
        self.hands.range[:] = arrays["hands/range"]
        self._previous[:] = arrays["host/previous"]
        self._steps[:] = arrays["host/steps"]
        self._after = [(bool(a), bool(b)) for a, b in arrays["host/after"]]
        self._ticks = int(summary["ticks"])
        self._generator.bit_generator.state = summary["generator"]
        self.faults = Counter(summary["faults"])
        self.losses = dict(summary["losses"])
        self.experience = experience

    def experience_shape(self) -> tuple[dict[str, Field], dict[str, int]]:
        """Fields of a row, and the sizes that an `Experience` of this worker has."""
        return experience_shape(self.config, self.work, self.layout, self.streams, self.senses.has_image)

    def _new_experience(self) -> Experience:
        fields, sizes = self.experience_shape()
        if sizes["capacity"] * self.streams < self.work.replay - self.streams * self.work.sequence:
            self.notes.append(
                f"replay holds {sizes['capacity'] * self.streams} rows instead of {self.work.replay}: more would take "
                f"over {_REPLAY_BYTES // 10**9} GB"
            )
        return Experience(fields, **sizes)


def experience_shape(
    config: MindConfig, work: WorkConfig, layout: Layout, streams: int, has_image: bool, most: int | None = None
) -> tuple[dict[str, Field], dict[str, int]]:
    """Fields of a row, and the sizes of the `Experience` of a lifetime. most: no more rows will come, if known."""
    fields = {
        "frame": Field((layout.percept_size,), "float32"),
        "decision": Field((layout.decision_size,), "float32"),
    }
    row = 4 * (layout.percept_size + layout.decision_size + config.memory_size // work.sequence)
    if has_image:
        fields["image"] = Field((32, 32, 3), "uint8")
        row += 32 * 32 * 3
    rows = min(work.replay, _REPLAY_BYTES // row) // streams
    stride = work.sequence
    if most is not None:
        rows = min(rows, -(-most // stride) * stride)
    sizes = {
        "streams": streams,
        "capacity": max(2 * stride, rows // stride * stride),
        "stride": stride,
        "memory_size": config.memory_size,
    }
    return fields, sizes
