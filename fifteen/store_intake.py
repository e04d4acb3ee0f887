"""What comes into a store: the experience of saved runs, and logs of other agents."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gs

from fifteen import checkpoint, experience
from fifteen.config import MindConfig, WorkConfig
from fifteen.errors import JobError, StoreError
from fifteen.frames import Layout
from fifteen.instance import Statistics, digit_masks, new_statistics, observe_return, return_scale
from fifteen.jobs.faults import LARGEST_REWARD
from fifteen.jobs.registry import open_job
from fifteen.provenance import device, versions
from fifteen.senses import declared
from fifteen.spaces import Hands, Senses


class Part(NamedTuple):
    """Rows that arrive together and are taken in as one: segments of a run, or a log."""

    sha256: tuple[str, ...]  # of each segment
    first: list[int]  # [E], the first row of each stream
    last: list[int]  # [E], one beyond the last
    read: Callable[[], dict[str, np.ndarray]]  # rows/<field> [rows, *shape], stream after stream, and memory; verified


class Log(NamedTuple):
    """n steps of whole attempts, one after the other. Composite observations: dicts and tuples of arrays."""

    observations: Any  # [n + attempts, ...], of every attempt the last one too
    actions: Any  # [n, ...]
    rewards: Any  # [n]
    terminated: Any  # bool[n]
    truncated: Any  # bool[n]


@dataclass(frozen=True)
class Intake:
    """What a store takes in, from whatever source."""

    where: str  # for messages
    job: dict[str, Any]  # a row of the table jobs
    run: dict[str, Any]  # a row of the table runs, without id, lived and times
    parts: list[Part]
    mind: MindConfig
    faults: Mapping[str, int]


def joined(parts: Sequence[Part], stride: int, rows: int) -> list[Part]:
    """Parts that go on from one another as one, as long as it has at most so many rows of a stream.

    A slow system saves a few rows at a time: what is taken in part by part would be as many files and transactions.
    stride: of the run.
    """
    groups: list[list[Part]] = []
    for part in parts:
        before = groups[-1] if groups else []
        small = before and max(b - a for a, b in zip(before[0].first, part.last, strict=True)) <= rows
        if small and before[-1].last == part.first:
            before.append(part)
        else:
            groups.append([part])
    return [_one_of(group, stride) for group in groups]


def _one_of(parts: Sequence[Part], stride: int) -> Part:
    if len(parts) == 1:
        return parts[0]

    def read() -> dict[str, np.ndarray]:
        pieces: dict[str, list[list[np.ndarray]]] = {}  # of every part, of every stream
        for part in parts:
            first, last = np.array(part.first), np.array(part.last)
            cuts, memory_cuts = np.cumsum(last - first)[:-1], np.cumsum(-(-last // stride) - -(-first // stride))[:-1]
            for name, array in part.read().items():
                pieces.setdefault(name, []).append(np.split(array, memory_cuts if name == "memory" else cuts))
        each = range(len(parts[0].first))
        return {name: np.concatenate([part[e] for e in each for part in of]) for name, of in pieces.items()}

    return Part(tuple(sha256 for part in parts for sha256 in part.sha256), parts[0].first, parts[-1].last, read)


# --------------------------------------------------------------------------------------------------- saved runs


def read_run(run: Path, job: Any, known: Callable[[str], dict[str, Any] | None]) -> Intake:
    """The experience in the folder of a run, as its last checkpoint names it.

    job: as for `fifteen.resume`. known: a job's row in the store; one that is there need not be opened. Raises
    StoreError and CheckpointError, by name.
    """
    try:
        text = (run / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
        settings = {name: config["settings"][name] for name in ("job", "kwargs", "step_limit", "learn", "seed")}
        spaces = {name: config["spaces"][name] for name in ("observation", "action")}
        id = _job_id(config["job"], settings["kwargs"])
        ran = {"versions": json.dumps(config["versions"]), "device": config["device"], "config": text}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{run} is not the folder of a run: its config.json cannot be read ({error!r})") from error
    arrays, manifest = checkpoint.read(run / "learner")
    index = manifest.get("experience")
    version = index.get("format") if isinstance(index, dict) else None
    if index is None or version != experience.FORMAT:
        raise StoreError(
            f"{run} has experience of format {version}, this version of Fifteen takes in format {experience.FORMAT}: "
            "use the version that wrote it, or leave the run out"
        )
    try:
        mind = MindConfig(**manifest["mind"])
        statistics = {name: arrays[f"statistics/{name}"] for name in Statistics._fields}
        anchor = hashlib.sha256(arrays["anchor"].tobytes()).hexdigest()
    except (KeyError, TypeError) as error:
        raise StoreError(f"{run} was saved by another version of Fifteen ({error!r}): leave it out") from error
    _check_finite(statistics, f"{run / 'learner'} (the statistics)")
    row = known(id)
    if row is None:
        row = _opened(run, id, job if job is not None else settings["job"], settings, spaces, mind)
    row |= {"observation_space": spaces["observation"], "action_space": spaces["action"]}
    if index["fields"] != json.loads(row["fields"]) or index["memory_size"] != mind.memory_size:
        raise StoreError(f"{run} has rows of {index['fields']}, job {id!r} has {row['fields']}: leave the run out")
    about = {
        "name": hashlib.sha256((text + anchor).encode()).hexdigest(),
        "job": id,
        "parent": anchor,
        "learn": settings["learn"],
        "seed": settings["seed"],
        "streams": index["streams"],
        "stride": index["stride"],
        "statistics": checkpoint.pack(statistics),
        **ran,
    }
    parts = [Part((s["sha256"],), s["first"], s["last"], _reader(run / "experience", s)) for s in index["segments"]]
    return Intake(str(run), row, about, parts, mind, {})


def _reader(folder: Path, segment: dict[str, Any]) -> Callable[[], dict[str, np.ndarray]]:
    path = folder / segment["file"]

    def read() -> dict[str, np.ndarray]:
        data = checkpoint.read_verified(path, size=segment["bytes"], sha256=segment["sha256"])
        arrays = checkpoint.unpack(data, path)
        _check_finite(arrays, str(path))
        return arrays

    return read


def _check_finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise StoreError(
                f"{where}: {name} has {int((~np.isfinite(array)).sum())} numbers that are not finite: the learner or "
                "its job went wrong; leave it out"
            )


def _opened(
    run: Path, id: str, job: Any, settings: dict[str, Any], spaces: dict[str, str], mind: MindConfig
) -> dict[str, Any]:
    """The row of a job that the store does not know. StoreError if it cannot be opened, or is not what it was."""
    if job is None:
        raise StoreError(f"{run} was begun with an environment, not an id: pass it again, add_run(run, job=...)")
    try:
        stream = open_job(job, kwargs=settings["kwargs"], step_limit=settings["step_limit"])
    except JobError as error:
        raise StoreError(f"{run}: its job {id!r} cannot be opened: {error}; or leave the run out") from error
    try:
        found = {"observation": str(stream.observation_space), "action": str(stream.action_space)}
        row = _job_row(id, stream.observation_space, stream.action_space, mind)
    finally:
        stream.close()
    if found != spaces:
        raise StoreError(
            f"{run}: its job {id!r} has the spaces {found} now, the run was lived with {spaces}: leave it out"
        )
    kept = {"job": settings["job"], "kwargs": json.dumps(settings["kwargs"], sort_keys=True)}
    return row | kept | {"step_limit": settings["step_limit"], "source": None}


def _job_id(job: str, kwargs: Mapping[str, Any]) -> str:
    return f"{job} {json.dumps(kwargs, sort_keys=True)}" if kwargs else job


def _job_row(id: str, observation_space: gym.Space, action_space: gym.Space, mind: MindConfig) -> dict[str, Any]:
    senses = Senses(observation_space, mind.slots)
    layout = Layout(mind.slots, **dataclasses.asdict(Hands(action_space, mind.max_bins, mind.max_factors).shape))
    shapes = {"frame": [layout.percept_size], "decision": [layout.decision_size]}
    fields: dict[str, Any] = {name: {"shape": shape, "dtype": "float32"} for name, shape in shapes.items()}
    if senses.has_image:
        fields["image"] = {"shape": [32, 32, 3], "dtype": "uint8"}
    return {
        "id": id,
        "observation_space": str(observation_space),
        "action_space": str(action_space),
        "layout": json.dumps(dataclasses.asdict(layout)),
        "continuous": json.dumps(senses.continuous.tolist()),
        "fields": json.dumps(fields),
    }


# --------------------------------------------------------------------------------------- logs of other agents


def read_log(
    log: Log,
    job: str,
    kwargs: dict[str, Any],
    source: str,
    observation_space: gym.Space,
    action_space: gym.Space,
    mind: MindConfig,
) -> Intake:
    """A log as rows of one stream.

    Box actions become the nearest bins. What a log does not tell: memories, values and surprises are 0, the
    log-probability of every choice is 0, every action was valid. Raises StoreError for arrays that do not fit together,
    numbers that are not finite, actions outside the space, and unbounded Box actions.
    """
    id = f"{_job_id(job, kwargs)} from {source}"
    row = _job_row(id, observation_space, action_space, mind)
    row |= {"job": job, "kwargs": json.dumps(kwargs, sort_keys=True), "step_limit": None, "source": source}
    layout = Layout(mind.slots, **dataclasses.asdict(Hands(action_space, mind.max_bins, mind.max_factors).shape))
    rewards = np.asarray(log.rewards, np.float64)
    terminated, truncated = np.asarray(log.terminated, np.bool_), np.asarray(log.truncated, np.bool_)
    n = len(rewards)
    if rewards.shape != (n,) or terminated.shape != (n,) or truncated.shape != (n,) or not n:
        raise StoreError(
            f"{id}: rewards {rewards.shape}, terminated {terminated.shape}, truncated {truncated.shape}: expected one "
            "number of each for every step, and at least one step"
        )
    if len(wrong := np.flatnonzero(~(np.abs(rewards) <= LARGEST_REWARD))):
        raise StoreError(
            f"{id}: the reward of step {wrong[0]}, from 0, is {rewards[wrong[0]]}, expected a number within "
            f"+-{LARGEST_REWARD:g}: mend the log or leave it out"
        )
    ended = terminated | truncated
    lasts = np.flatnonzero(ended if ended[-1] else np.append(ended[:-1], True))  # the last step of each attempt
    observations = _items(observation_space, log.observations, n + len(lasts), f"{id}: the observations")
    actions = _items(action_space, log.actions, n, f"{id}: the actions")
    choices = _choices(action_space, actions, layout, mind, id)

    step_rows = np.arange(n) + np.searchsorted(lasts, np.arange(n))  # the row from which each step was taken
    total = n + len(lasts)
    senses, faults = Senses(observation_space, mind.slots), Counter()
    frames = np.zeros((total, layout.percept_size), np.float32)
    images = np.zeros((total, 32, 32, 3), np.uint8)
    chosen = np.zeros((total, layout.factors), np.int32)
    chosen[step_rows] = choices
    taken = np.full(total, -1)
    taken[step_rows] = np.arange(n)
    trailing = np.zeros(total)
    begin, after, discounted = 0, (False, False), 0.0
    for at in range(total):
        first, over = at == begin, taken[at] < 0
        sensation = senses.encode(observations[at])
        if "non-finite" in sensation.faults:
            raise StoreError(f"{id}: observation {at} is not finite; mend the log or leave it out")
        faults.update(f"observation {fault}" for fault in sensation.faults)
        arrived = 0 if first else taken[at - 1]  # the step that led here
        reward = 0.0 if first else float(rewards[arrived])
        ends = (bool(terminated[arrived]), bool(truncated[arrived] and not terminated[arrived]))
        ends = ends if over else (False, False)
        discounted = reward + (0.0 if first else WorkConfig().discount * discounted)
        previous = np.full(layout.factors, -1.0) if first else chosen[at - 1]
        before, vector = (after if first else (False, False)), sensation.vector
        layout.write_percept(frames[at], vector, reward, first, ends[0], ends[1], before, at - begin, True, previous)
        trailing[at] = discounted
        if sensation.image is not None:
            images[at] = sensation.image
        if over:
            begin, after = at + 1, ends
    statistics = _statistics(frames, trailing, layout)
    rows = {"rows/frame": frames, "rows/decision": _decisions(chosen, statistics, action_space, layout, mind)}
    if senses.has_image:
        rows["rows/image"] = images
    stride = WorkConfig().sequence
    rows["memory"] = np.zeros((-(-total // stride), mind.memory_size), np.float32)
    digest = hashlib.sha256(id.encode())
    for name in sorted(rows):
        digest.update(rows[name].data)
    about = {
        "name": digest.hexdigest(),
        "job": id,
        "parent": None,
        "learn": None,
        "seed": None,
        "streams": 1,
        "stride": stride,
        "versions": json.dumps(versions()),
        "device": device(),
        "config": json.dumps({"job": job, "kwargs": kwargs, "source": source}),
        "statistics": checkpoint.pack({name: np.asarray(value) for name, value in statistics._asdict().items()}),
    }
    return Intake(id, row, about, [Part((digest.hexdigest(),), [0], [total], lambda: rows)], mind, faults)


def _statistics(frames: np.ndarray, trailing: np.ndarray, layout: Layout) -> Statistics:
    """Those of all rows: frames float32[n, percept], discounted sums of rewards so far float64[n]."""
    vectors, rewards = frames[:, : layout.slots].astype(np.float64), frames[:, layout.slots].astype(np.float64)
    empty = new_statistics(layout.slots).histogram
    size = jnp.asarray(np.abs(trailing), jnp.float32)
    mean = jnp.asarray(vectors.mean(axis=0), jnp.float32)
    return Statistics(
        count=jnp.asarray(len(frames), jnp.float32),
        mean=mean,
        variance=jnp.asarray(vectors.var(axis=0), jnp.float32),
        age=jnp.full_like(mean, len(frames)),
        recent=mean,
        reward_square=jnp.asarray(np.mean(rewards**2), jnp.float32),
        histogram=observe_return(empty, size, jnp.ones(len(frames), jnp.bool_), 0.0),
    )


def _decisions(
    chosen: np.ndarray, statistics: Statistics, space: gym.Space, layout: Layout, mind: MindConfig
) -> np.ndarray:
    """Packed decisions float32[n, decision] of choices int32[n, M] that were made by whoever acted."""
    single, table = map(jnp.asarray, Hands(space, mind.max_bins, mind.max_factors).valid())
    masks = jax.jit(jax.vmap(lambda choice: digit_masks(single, table, choice, layout)))(jnp.asarray(chosen))
    packed = np.zeros((len(chosen), layout.decision_size), np.float32)
    packed[:, : layout.factors] = chosen
    packed[:, 2 * layout.factors + 1] = return_scale(statistics.histogram, WorkConfig().reward_quantile)
    packed[:, 2 * layout.factors + 3 :] = np.asarray(masks).reshape(len(chosen), -1)
    return packed


def _items(space: gym.Space, data: Any, number: int, where: str) -> list[Any]:
    """Stacked data of a space, one by one."""
    if isinstance(space, gs.Dict):
        parts = {key: _items(part, data[key], number, f"{where}[{key!r}]") for key, part in space.spaces.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(number)]
    if isinstance(space, gs.Tuple):
        parts = [_items(part, data[i], number, f"{where}[{i}]") for i, part in enumerate(space.spaces)]
        return [tuple(part[i] for part in parts) for i in range(number)]
    if len(data) != number:
        raise StoreError(
            f"{where} are {len(data)}, expected {number}: one for each step, and of observations the last one of each "
            "attempt besides"
        )
    return list(data)


def _choices(space: gym.Space, actions: list[Any], layout: Layout, mind: MindConfig, where: str) -> np.ndarray:
    """int32[n, M]: what `Hands.decode` makes these actions of; of Box actions the nearest that there are."""
    numbers = _numbers(space, actions, mind, where)  # [n, K]
    columns, k = [], -1
    for m, digit in enumerate(layout.digits):
        k += digit == 0
        length = 1 if layout.group[m] < 0 else 1 + max(layout.digits)
        columns.append(numbers[:, k] // layout.bins ** (length - 1 - digit) % layout.bins)
    return np.stack(columns, axis=1).astype(np.int32)


def _numbers(space: gym.Space, actions: list[Any], mind: MindConfig, where: str) -> np.ndarray:
    """int64[n, K]: the numbers that actions consist of, in canonical order."""
    if isinstance(space, gs.Dict):
        parts = [_numbers(part, [a[key] for a in actions], mind, where) for key, part in space.spaces.items()]
        return np.concatenate(parts, axis=1)
    if isinstance(space, gs.Tuple):
        parts = [_numbers(part, [a[i] for a in actions], mind, where) for i, part in enumerate(space.spaces)]
        return np.concatenate(parts, axis=1)
    values = np.stack([np.asarray(action) for action in actions]).reshape(len(actions), -1)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at = np.flatnonzero(~np.isfinite(values).all(axis=1))[0]
        raise StoreError(
            f"{where}: the action of step {at}, from 0, is {values[at]}, not finite: mend the log or leave it out"
        )
    if isinstance(space, gs.Box):
        if not all(bound.all() for bound in declared(space)):
            raise StoreError(f"{where}: actions of {space}, which has no bounds, cannot be told in bins; rescale them")
        hands = Hands(space, mind.max_bins, mind.max_factors)
        counts = hands.valid().single.sum(axis=1)  # [K] bins
        grid = np.stack([hands.decode(np.minimum(b, counts - 1)).reshape(-1) for b in range(hands.shape.bins)])
        return np.abs(values[:, None].astype(np.float64) - grid.astype(np.float64)).argmin(axis=1)
    start, counts = 0, 2  # of a MultiBinary
    if isinstance(space, gs.Discrete):
        start, counts = space.start, space.n
    elif isinstance(space, gs.MultiDiscrete):
        start, counts = space.start, space.nvec.reshape(-1)
    numbers = values.astype(np.int64) - np.asarray(start, np.int64).reshape(-1)
    wrong = ((numbers < 0) | (numbers >= counts)).any(axis=1) | (values != values.astype(np.int64)).any(axis=1)
    if wrong.any():
        at = np.flatnonzero(wrong)[0]
        raise StoreError(f"{where}: the action of step {at}, from 0, is {values[at]}, outside {space}: mend the log")
    return numbers
