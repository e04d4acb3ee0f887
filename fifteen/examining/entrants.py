"""Who sits an exam: a learner of ours, a callable, or a policy of Stable-Baselines3. And how each of them decides.

Every kind is made from a line of JSON (`Entrant.spec`), so that a worker process can make its own, and nothing is
pickled. What cannot be named that way (a lambda, an object) sits the exam in the process that holds it.
"""

import abc
import copy
import hashlib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from fifteen.errors import RunError
from fifteen.examining.records import LearnerKind, LearnerNote
from fifteen.jobs.protocol import Stream, Tick
from fifteen.learner import SHIPPED, Learner, load
from fifteen.worker import Worker

LEARNERS = "learners"
"""In the folder of an exam: our learners, as they were when it began."""


class NotApplicable(Exception):
    """A job whose spaces are not those that a policy was made for: it is not asked."""


class Player(abc.ABC):
    """What lives a lifetime: one decision at a time."""

    @abc.abstractmethod
    def begin(self, stream: Stream, seed: int) -> None:
        """A fresh lifetime on a job. Raises SpaceError for spaces it refuses, NotApplicable for those not its own."""

    @abc.abstractmethod
    def decide(self, tick: Tick) -> tuple[Any, float | None]:
        """The action at a tick of one stream, and v_now in the job's own reward units.

        None: there is no value function. At the last observation of an attempt the action is ignored.
        """

    @abc.abstractmethod
    def end(self) -> None:
        """The lifetime is over."""


@final
class LearnerPlayer(Player):
    """A learner of ours, in context: weights frozen, and a fresh memory for each lifetime that runs through it."""

    def __init__(self, learner: Learner):
        self.learner = learner
        self._worker: Worker | None = None

    def begin(self, stream: Stream, seed: int) -> None:
        self._worker = self.learner.new_worker(
            stream.observation_space, stream.action_space, seed=seed, learn="context"
        )

    def decide(self, tick: Tick) -> tuple[Any, float | None]:
        assert self._worker is not None
        moment = self._worker.decide(tick)
        return moment.actions[0], float(moment.value[0])

    def end(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


@final
class PolicyPlayer(Player):
    """A frozen policy: observation -> action. What has an `observation_space` or `action_space` is asked only there."""

    def __init__(self, policy: Callable[[Any], Any], observation_space: Any = None, action_space: Any = None):
        self._policy = policy
        self._own = observation_space, action_space
        self._job_id, self._action_space = "", gym.Space()

    def begin(self, stream: Stream, seed: int) -> None:
        for own, of_job in zip(self._own, (stream.observation_space, stream.action_space), strict=True):
            if own is not None and not fits(own, of_job):
                raise NotApplicable(f"made for {own}, the job has {of_job}")
        self._job_id, self._action_space = stream.job_id, stream.action_space

    def decide(self, tick: Tick) -> tuple[Any, float | None]:
        if tick.terminated[0] or tick.truncated[0]:
            return None, None
        action = self._policy(tick.observations[0])
        if isinstance(self._action_space, spaces.Discrete) and np.size(action) == 1:
            action = np.asarray(action).reshape(())[()]
        elif isinstance(self._action_space, spaces.Box):
            action = np.asarray(action, self._action_space.dtype)
        if not self._action_space.contains(action):
            raise ValueError(f"the policy gave {action!r} in {self._job_id}, expected one of {self._action_space}")
        return action, None

    def end(self) -> None:
        """Nothing is held."""


def fits(own: gym.Space, of_job: gym.Space) -> bool:
    """Whether a policy made for one space can meet another: equal, or boxes that differ in their bounds only.

    A box of actions must have the same bounds as well: it is the job's range that the policy's numbers mean. For
    observations bounds say only what may occur; variants of one job often declare others.
    """
    if isinstance(own, spaces.Box) and isinstance(of_job, spaces.Box):
        return own.shape == of_job.shape and own.dtype == of_job.dtype
    return own == of_job


@dataclass(frozen=True)
class Entrant:
    """One who sits the exam."""

    note: LearnerNote
    spec: dict[str, str] | None  # makes it anew in another process; None: only `made` is there
    made: Any = field(default=None, compare=False)  # a Learner, or a policy


def admit(learners: Any) -> tuple[Entrant, ...]:
    """The entrants: one, several, or by name.

    Each is a `Learner`; a callable; an object with `predict` as in Stable-Baselines3; "shipped"; the folder of a saved
    learner or run; "sb3:ALGO:FILE.zip"; or "module:factory" of any of the first three. Raises RunError for others.
    """
    if isinstance(learners, Mapping):
        named = dict(learners)
    else:
        several = list(learners) if isinstance(learners, Sequence) and not isinstance(learners, str) else [learners]
        named = {}
        for learner in several:
            name = _name(learner)
            number = sum(known == name or known.startswith(f"{name} (") for known in named)
            named[f"{name} ({number + 1})" if number else name] = learner
    if not named:
        raise RunError("nobody sits the exam: give one learner or several")
    return tuple(_admit(str(name), learner) for name, learner in named.items())


def saved(entrants: Sequence[Entrant], folder: Path) -> tuple[Entrant, ...]:
    """The same entrants; learners of ours are in the folder now, where other processes find them as they are."""
    kept = []
    for n, entrant in enumerate(entrants):
        if isinstance(entrant.made, Learner):
            place = folder / LEARNERS / f"{n}-{re.sub(r'[^A-Za-z0-9.]+', '-', entrant.note.name).strip('-')}"
            entrant.made.save(place)
            entrant = Entrant(entrant.note, {"kind": "fifteen", "path": str(place)}, entrant.made)
        kept.append(entrant)
    return tuple(kept)


def player(entrant: Entrant) -> Player:
    """What lives its lifetimes. Raises RunError or CheckpointError where it cannot be made."""
    made = entrant.made if entrant.made is not None else _made(entrant.spec or {})
    if isinstance(made, Learner):
        return LearnerPlayer(made)
    if hasattr(made, "predict"):
        return PolicyPlayer(
            lambda observation: made.predict(observation, deterministic=True)[0],
            getattr(made, "observation_space", None),
            getattr(made, "action_space", None),
        )
    return PolicyPlayer(made, getattr(made, "observation_space", None), getattr(made, "action_space", None))


def _admit(name: str, given: Any) -> Entrant:
    if isinstance(given, str) and given.startswith("sb3:"):
        spec = _sb3_spec(given)
        digest = hashlib.sha256(Path(spec["path"]).read_bytes()).hexdigest()
        return Entrant(LearnerNote(name, "sb3", given, {}, digest), spec)
    if isinstance(given, str | Path):
        if ":" in str(given) and not Path(given).exists():
            made = named_object(str(given))()
            if isinstance(made, Learner):
                return _learner_entrant(name, str(given), made)
            return Entrant(LearnerNote(name, _kind(made, given), str(given)), {"kind": "factory", "name": str(given)})
        return _learner_entrant(name, str(given), load(SHIPPED if str(given) == "shipped" else given))
    if isinstance(given, Learner):
        return _learner_entrant(name, "a learner in memory", given)
    found = f"{getattr(given, '__module__', '')}:{getattr(given, '__qualname__', type(given).__qualname__)}"
    kind = _kind(given, found)
    spec = {"kind": "policy", "name": found} if kind == "callable" and _importable(found, given) else None
    return Entrant(LearnerNote(name, kind, found), spec, None if spec else given)


def _learner_entrant(name: str, source: str, learner: Learner) -> Entrant:
    learner.settle()
    digest = hashlib.sha256(np.asarray(learner.state.weights).tobytes()).hexdigest()
    return Entrant(LearnerNote(name, "fifteen", source, copy.deepcopy(learner.provenance), digest), None, learner)


def _made(spec: dict[str, str]) -> Any:
    match spec["kind"]:
        case "fifteen":
            return load(spec["path"])
        case "sb3":
            return _sb3_class(spec["algorithm"]).load(spec["path"], device="cpu")
        case "factory":
            return named_object(spec["name"])()
        case _:
            return named_object(spec["name"])


def _sb3_spec(given: str) -> dict[str, str]:
    parts = given.split(":", 2)
    if len(parts) != 3 or not Path(parts[2]).is_file():
        raise RunError(f"{given!r}: expected sb3:ALGO:FILE.zip with a file that is there, such as sb3:PPO:cartpole.zip")
    _sb3_class(parts[1])
    return {"kind": "sb3", "algorithm": parts[1], "path": parts[2]}


def _sb3_class(algorithm: str) -> Any:
    """PPO, DQN, SAC, ... of Stable-Baselines3, or of its contrib package."""
    problems = []
    for module in ("stable_baselines3", "sb3_contrib"):
        try:
            if hasattr(found := importlib.import_module(module), algorithm):
                return getattr(found, algorithm)
        except ImportError as error:
            problems.append(str(error))
    raise RunError(
        f"there is no algorithm {algorithm!r} of Stable-Baselines3 here ({'; '.join(problems) or 'unknown name'}): "
        "pip install stable-baselines3 sb3-contrib"
    )


def named_object(name: str) -> Any:
    """What "module:name" is. Raises RunError where there is none, or it cannot be called."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise RunError(f"{name!r} cannot be had ({error}): expected module:name, importable from here") from error
    if not callable(found):
        raise RunError(f"{name!r} is {found!r}, expected something to call")
    return found


def _importable(name: str, given: Any) -> bool:
    module, _, path = name.partition(":")
    if module in ("", "__main__") or "<" in path:
        return False
    try:
        return named_object(name) is given
    except RunError:
        return False


def _kind(made: Any, given: Any) -> LearnerKind:
    if hasattr(made, "predict"):
        return "sb3"
    if callable(made):
        return "callable"
    raise RunError(
        f"{given!r} is {made!r}, expected a fifteen.Learner, a policy (observation -> action), an object with predict, "
        "'shipped', the folder of a learner, 'sb3:ALGO:FILE.zip', or 'module:factory' of one of these"
    )


def _name(given: Any) -> str:
    if isinstance(given, str | Path):
        text = str(given).rpartition(":")[2]
        return Path(text).stem if str(given).startswith("sb3:") else Path(text).name
    if isinstance(given, Learner):
        return "learner"
    return getattr(given, "__name__", type(given).__name__)
