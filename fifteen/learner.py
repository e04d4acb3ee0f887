"""The complete state of a learner, and its shell: new, start, act, observe, save, load."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, final, get_args

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fifteen import checkpoint
from fifteen.compiling import compute_where_asked
from fifteen.config import SIZES, Learn, MindConfig, Size, WorkConfig
from fifteen.errors import CheckpointError, RunError
from fifteen.instance import Statistics, new_statistics, read_statistics
from fifteen.jobs.faults import usable_reward
from fifteen.jobs.protocol import Tick
from fifteen.lived import Lived
from fifteen.model import structure
from fifteen.provenance import versions
from fifteen.updating import LearnerState, new_learner_state, optimiser
from fifteen.worker import Moment, Worker

KIND = "learner"
SHIPPED = Path(__file__).with_name("minds") / "base"
"""The schooled learner that ships; its manifest says how it was schooled."""

_YES, _NO = np.ones(1, np.bool_), np.zeros(1, np.bool_)  # shared by ticks, which nobody writes into
_YES.flags.writeable = _NO.flags.writeable = False


@final
class Learner:
    """One mind: weights and what belongs to learning them, and the statistics of its latest lifetime.

    `state` and `statistics` are pytrees; the functions of `fifteen.instance` and `fifteen.updating` work on them
    under `jit` and `vmap`. Drive it with `fifteen.work`, or by hand: `start`, then `act` and `observe` in turn.
    """

    def __init__(
        self,
        config: MindConfig,
        state: LearnerState,
        statistics: Statistics,
        *,
        work: WorkConfig | None = None,
        provenance: dict[str, Any] | None = None,
    ):
        self.config = config
        self.work_config = work or WorkConfig()
        self.state = state
        self.statistics = statistics
        self.provenance = provenance or {}
        self.lived: dict[str, Lived] = {}  # by job: what the latest lifetime on it leaves for the night
        self._worker: Worker | None = None
        self._moment: Moment | None = None
        self._reward: float | None = None  # what the last action brought; None: the next `act` begins an attempt
        self._acted = False  # and `observe` has not told yet what it brought

    # --------------------------------------------------------------------------------- by hand: a live system

    def start(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        seed: int = 0,
        learn: Learn = "context",
    ) -> None:
        """Begin a lifetime on a live system: one decision at a time. Raises SpaceError for unsupported spaces.

        learn: "context" learns with the memory only, every step; "weights" and "both" also update the weights.
        """
        if learn not in get_args(Learn):
            raise RunError(f"learn is {learn!r}, expected 'context', 'weights' or 'both'")
        self.stop()
        self._worker = self.new_worker(observation_space, action_space, seed=seed, learn=learn)
        self._reward, self._acted = None, False

    def act(self, observation: Any, action_mask: Any = None) -> Any:
        """An action of the job's own action space. `action_mask` as in Gymnasium's info["action_mask"]."""
        if self._worker is None:
            raise RunError("act was called before start: call learner.start(observation_space, action_space) first")
        if self._acted:
            raise RunError("act was called twice in a row: tell with observe what the last action brought first")
        first = _YES if self._reward is None else _NO
        tick = Tick((observation,), np.array([self._reward or 0.0]), first, _NO, _NO, _YES, (action_mask,))
        self._moment = self._worker.decide(tick)
        self._acted = True
        return self._moment.actions[0]

    def observe(self, next_observation: Any, reward: float, terminated: bool, truncated: bool) -> None:
        """What the action of the last `act` brought. After an ending, the next `act` begins a new attempt.

        `next_observation` is the last one of the attempt where it ended; otherwise `act` is given it again. A reward
        that is not a finite number counts as 0, and is counted in `faults`.
        """
        if self._worker is None or not self._acted:
            raise RunError("observe was called before act: it tells what the last action brought, once")
        reward = usable_reward(reward, self._worker.faults)
        if terminated or truncated:
            ends = (_YES, _NO) if terminated else (_NO, _YES)
            self._worker.improve()
            self._worker.decide(Tick((next_observation,), np.array([reward]), _NO, *ends, _YES, (None,)))
            self._reward = None
        else:
            self._reward = reward
        self._acted = False
        self._worker.improve()

    def stop(self) -> None:
        """End the lifetime that `start` began: what was learned stays in the weights."""
        if self._worker is None:
            return
        self._worker.close()
        self.adopt(self._worker)
        self._worker = self._moment = self._reward = None
        self._acted = False

    @property
    def expected(self) -> float:
        """v_now at the last `act`: the discounted return of the rest of the attempt, in the job's own units."""
        return float("nan") if self._moment is None else float(self._moment.value[0])

    @property
    def surprise(self) -> float:
        """How far the last observation was from the predicted one, in standard deviations."""
        return float("nan") if self._moment is None else float(self._moment.surprise[0])

    @property
    def faults(self) -> dict[str, int]:
        """Counted reactions to bad input since `start`."""
        return {} if self._worker is None else dict(self._worker.faults)

    # ---------------------------------------------------------------------------------------------- lifetimes

    def new_worker(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        seed: int,
        learn: Learn,
        streams: int = 1,
        record: bool = False,
        lifetimes: int = 1,
    ) -> Worker:
        """Begin a lifetime with this learner's weights. See `Worker`."""
        return Worker(
            self.state,
            self.statistics,
            config=self.config,
            work=self.work_config,
            observation_space=observation_space,
            action_space=action_space,
            seed=seed,
            learn=learn,
            streams=streams,
            record=record,
            lifetimes=lifetimes,
        )

    def settle(self) -> None:
        """Take over what the lifetime begun by `start` has learned so far; it goes on."""
        if self._worker is not None:
            self._worker.finish()
            self.adopt(self._worker)

    def adopt(self, worker: Worker) -> None:
        """Keep what a worker learned. Its updates must be finished."""
        self.state = worker.state
        self.statistics = jax.tree.map(lambda x: jnp.asarray(np.array(x)), worker.instance.statistics)

    # ------------------------------------------------------------------------------------------------- saving

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole learner by name, as it is saved."""
        moments = optax.tree.get(self.state.optimiser, "ScaleByAdamState")
        named = {
            "weights": self.state.weights,
            "target": self.state.target,
            "anchor": self.state.anchor,
            "optimiser/count": moments.count,
            "optimiser/mean": moments.mu,
            "optimiser/square": moments.nu,
            "advantage_variance": self.state.advantage_variance,
            "updates": self.state.updates,
        }
        named |= {f"statistics/{n}": value for n, value in self.statistics._asdict().items()}
        return {name: np.asarray(value) for name, value in named.items()}

    def manifest(self) -> dict[str, Any]:
        """What is saved beside the arrays: JSON-able."""
        return {
            "what": KIND,
            "mind": dataclasses.asdict(self.config),
            "work": dataclasses.asdict(self.work_config),
            "provenance": self.provenance,
            "versions": versions(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the learner into the folder `path`, atomically. Raises CheckpointError on a full disk.

        A lifetime begun by `start` goes on, and what it learned so far is saved.
        """
        self.settle()
        checkpoint.write(Path(path), self.arrays(), self.manifest())
        return Path(path)


def new(size: Size | MindConfig = "small", seed: int = 0, *, work: WorkConfig | None = None) -> Learner:
    """An unschooled learner. Raises RunError for an unknown size."""
    if not isinstance(size, MindConfig) and size not in SIZES:
        raise RunError(f"size {size!r} is unknown: choose one of {', '.join(SIZES)}, or give a MindConfig")
    compute_where_asked()
    config = size if isinstance(size, MindConfig) else SIZES[size]
    work = work or WorkConfig()
    state = new_learner_state(config, work, seed)
    born = {"born": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seed": seed, "worked": []}
    return Learner(config, state, new_statistics(config.slots), work=work, provenance=born)


def load(path: str | Path | None = None) -> Learner:
    """A saved learner: the folder it was saved in, or the folder of a run; by default the schooled one that ships.

    How it works may have a setting that this version does not know: it is ignored, and said. Raises CheckpointError if
    it is missing, foreign, newer, truncated or corrupted, or if its mind has such a setting.
    """
    folder = SHIPPED if path is None else learner_folder(Path(path))
    return from_arrays(*checkpoint.read(folder), folder)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and settings must be hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def learner_folder(path: Path) -> Path:
    """Where the checkpoint lies: a run's folder keeps it in `learner`."""
    return path / "learner" if (path / "learner").is_dir() else path


def from_arrays(arrays: dict[str, np.ndarray], manifest: dict[str, Any], path: Path) -> Learner:
    """The learner of a verified checkpoint. Raises CheckpointError where arrays and configuration disagree."""
    compute_where_asked()
    try:
        config = MindConfig(**manifest["mind"])
        work = WorkConfig(**_tuples(checkpoint.known(WorkConfig, manifest["work"], path)))
        needed = sum(math.prod(shape) for shape in structure(config)[0])
        if arrays["weights"].shape != (needed,):
            raise CheckpointError(
                f"{path} holds {arrays['weights'].size} weights, its configuration needs {needed}: "
                "the checkpoint was changed or comes from another version; use another one"
            )
        get = {name: jnp.asarray(array) for name, array in arrays.items()}
        moments = optax.ScaleByAdamState(get["optimiser/count"], get["optimiser/mean"], get["optimiser/square"])
        fresh = optimiser(work).init(get["weights"])
        state = LearnerState(
            weights=get["weights"],
            target=get["target"],
            anchor=get["anchor"],
            optimiser=tuple(moments if isinstance(s, optax.ScaleByAdamState) else s for s in fresh),  # pyright: ignore
            advantage_variance=get["advantage_variance"],
            updates=get["updates"],
        )
        prefix = "statistics/"
        statistics = read_statistics({n.removeprefix(prefix): x for n, x in get.items() if n.startswith(prefix)})
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is a Fifteen checkpoint, but not one of a learner of this version ({error}): use one that "
            "fifteen.Learner.save or a run of this version wrote"
        ) from error
    return Learner(config, state, statistics, work=work, provenance=dict(manifest["provenance"]))
