"""What comes into a store and goes out of it: saved runs, logs of other agents, Parquet, Minari.

Parquet and Minari are extras, imported where they are used.
"""

import dataclasses
import hashlib
import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces as gs

from fifteen import checkpoint, experience
from fifteen.config import MindConfig, WorkConfig
from fifteen.errors import FifteenError, JobError, RunError
from fifteen.frames import Layout
from fifteen.instance import Statistics, digit_masks, new_statistics, observe_return, return_scale
from fifteen.jobs.faults import LARGEST_REWARD
from fifteen.jobs.registry import open_job
from fifteen.provenance import device, versions
from fifteen.senses import declared
from fifteen.spaces import Hands, Senses

if TYPE_CHECKING:
    from fifteen.store import Added, Store


class StoreError(FifteenError):
    """A store, or experience for one, that is foreign, newer, corrupted, not finite, unknown, or too large."""


class Part(NamedTuple):
    """Rows that arrive together and are taken in as one: a segment of a run, or a log."""

    sha256: str
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


# --------------------------------------------------------------------------------------------------- saved runs


def read_run(run: Path, job: Any, known: Callable[[str], dict[str, Any] | None]) -> Intake:
    """The experience in the folder of a run, as its last checkpoint names it.

    job: as for `fifteen.resume`. known: a job's row in the store; one that is there need not be opened. Raises
    StoreError and CheckpointError, by name.
    """
    try:
        text = (run / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
        settings, spaces = config["settings"], config["spaces"]
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
    id = _job_id(config["job"], settings["kwargs"])
    row = known(id)
    if row is None:
        row = _opened(run, id, job if job is not None else settings["job"], config, mind)
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
        "versions": json.dumps(config["versions"]),
        "device": config["device"],
        "config": text,
        "statistics": checkpoint.pack(statistics),
    }
    parts = [Part(s["sha256"], s["first"], s["last"], _reader(run / "experience", s)) for s in index["segments"]]
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


def _opened(run: Path, id: str, job: Any, config: dict[str, Any], mind: MindConfig) -> dict[str, Any]:
    """The row of a job that the store does not know. StoreError if it cannot be opened, or is not what it was."""
    settings = config["settings"]
    if job is None:
        raise StoreError(f"{run} was begun with an environment, not an id: pass it again, add_run(run, job=...)")
    try:
        stream = open_job(job, kwargs=settings["kwargs"], step_limit=settings["step_limit"])
    except JobError as error:
        raise StoreError(f"{run}: its job {id!r} cannot be opened: {error}; or leave the run out") from error
    found = {"observation": str(stream.observation_space), "action": str(stream.action_space)}
    row = _job_row(id, stream.observation_space, stream.action_space, mind)
    stream.close()
    if found != config["spaces"]:
        raise StoreError(
            f"{run}: its job {id!r} has the spaces {found} now, the run was lived with {config['spaces']}: leave it out"
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
    if not (np.abs(rewards) <= LARGEST_REWARD).all():
        raise StoreError(f"{id}: reward {np.flatnonzero(~(np.abs(rewards) <= LARGEST_REWARD))[0]} is not finite")
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
    return Intake(id, row, about, [Part(digest.hexdigest(), [0], [total], lambda: rows)], mind, faults)


def _statistics(frames: np.ndarray, trailing: np.ndarray, layout: Layout) -> Statistics:
    """Those of all rows: frames float32[n, percept], discounted sums of rewards so far float64[n]."""
    vectors, rewards = frames[:, : layout.slots].astype(np.float64), frames[:, layout.slots].astype(np.float64)
    empty = new_statistics(layout.slots).histogram
    size = jnp.asarray(np.abs(trailing), jnp.float32)
    return Statistics(
        count=jnp.asarray(len(frames), jnp.float32),
        mean=jnp.asarray(vectors.mean(axis=0), jnp.float32),
        variance=jnp.asarray(vectors.var(axis=0), jnp.float32),
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
        raise StoreError(f"{where}: action {np.flatnonzero(~np.isfinite(values).all(axis=1))[0]} is not finite")
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
        raise StoreError(f"{where}: action {np.flatnonzero(wrong)[0]} is outside {space}")
    return numbers


# ------------------------------------------------------------------------------------------------ other formats


def export_parquet(store: "Store", path: str | Path) -> int:
    """Write everything a store holds into one Parquet file, a row group for each segment. Returns the rows.

    Columns: job, source, run, stream, row; the percept and the decision field by field, as of `fifteen.frames`; image
    (32 * 32 * 3 bytes) or null. Raises RunError without the extra "parquet".
    """
    arrow, parquet = _extra("pyarrow", "parquet"), _extra("pyarrow.parquet", "parquet")
    floats, flags = arrow.list_(arrow.float32()), ("first", "terminated", "truncated")
    flags += ("after_termination", "after_truncation")
    schema = arrow.schema(
        [("job", arrow.string()), ("source", arrow.string()), ("run", arrow.int64()), ("stream", arrow.int64())]
        + [("row", arrow.int64()), ("vector", floats), ("reward", arrow.float32())]
        + [(name, arrow.bool_()) for name in flags]
        + [("step", arrow.int32()), ("previous", floats), ("choice", floats), ("log_prob", floats)]
        + [(name, arrow.float32()) for name in ("value", "scale", "surprise")]
        + [("mask", arrow.list_(arrow.bool_())), ("image", arrow.binary())]
    )
    path, rows = Path(path), 0
    partial = path.with_name(f".{path.name}.partial")
    try:
        with parquet.ParquetWriter(partial, schema) as writer:
            for job in store.jobs():
                slots, m = job.layout.slots, job.layout.factors
                for segment in store.segments(job.id):
                    arrays = store.read(segment)
                    frame, decision, image = arrays["rows/frame"], arrays["rows/decision"], arrays.get("rows/image")
                    n, scalars = len(frame), frame[:, slots : slots + 8]
                    columns = {
                        "job": [job.id] * n,
                        "source": [job.source] * n,
                        "run": [segment.run] * n,
                        "stream": [segment.stream] * n,
                        "row": np.arange(segment.first, segment.last),
                        "vector": list(frame[:, :slots]),
                        "reward": scalars[:, 0],
                        **{name: scalars[:, 1 + i] > 0.5 for i, name in enumerate(flags)},
                        "step": scalars[:, 6].astype(np.int32),
                        "previous": list(frame[:, slots + 8 :]),
                        "choice": list(decision[:, :m]),
                        "log_prob": list(decision[:, m : 2 * m]),
                        **{name: decision[:, 2 * m + i] for i, name in enumerate(("value", "scale", "surprise"))},
                        "mask": list(decision[:, 2 * m + 3 :] > 0.5),
                        "image": [None] * n if image is None else [one.tobytes() for one in image],
                    }
                    writer.write_table(arrow.table(columns, schema=schema))
                    rows += n
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another path"
        ) from error
    return rows


def export_minari(store: "Store", job: str, dataset_id: str) -> Any:
    """Make a Minari dataset of the whole attempts that a store holds of a job, and return it.

    Observations are percepts (the sensor vector, and the image where there is one), actions are the choices of the
    factors: what the learner saw and did, whatever the job's own spaces. Raises RunError without the extra "minari".
    """
    minari = _extra("minari", "minari")
    buffers = _extra("minari.data_collector.episode_buffer", "minari")
    record = next((record for record in store.jobs() if record.id == job), None)
    attempts = list(_attempts(store, job))  # StoreError where the job is unknown
    if record is None or not attempts:
        raise StoreError(f"{store.folder} holds no whole attempt of job {job!r}: nothing to export")
    layout = record.layout
    spaces: dict[str, gym.Space] = {"vector": gs.Box(-np.inf, np.inf, (layout.slots,), np.float32)}
    if "rows/image" in attempts[0]:
        spaces["image"] = gs.Box(0, 255, (32, 32, 3), np.uint8)
    episodes = []
    for rows in attempts:
        frame, scalars = rows["rows/frame"], rows["rows/frame"][:, layout.slots : layout.slots + 8]
        seen = {"vector": frame[:, : layout.slots]} | ({"image": rows["rows/image"]} if "image" in spaces else {})
        episodes.append(
            buffers.EpisodeBuffer(
                id=len(episodes),
                observations=seen,
                actions=rows["rows/decision"][:-1, : layout.factors].astype(np.int64),
                rewards=scalars[1:, 0].tolist(),
                terminations=(scalars[1:, 2] > 0.5).tolist(),
                truncations=(scalars[1:, 3] > 0.5).tolist(),
            )
        )
    return minari.create_dataset_from_buffers(
        dataset_id,
        episodes,
        observation_space=gs.Dict(spaces),
        action_space=gs.MultiDiscrete([layout.bins] * layout.factors),
        algorithm_name=record.source or "fifteen",
        description=f"Percepts and choices in job {job}, from a store of Fifteen.",
        data_format="arrow",
        jpeg_encoding=False,
    )


def _attempts(store: "Store", job: str) -> Iterator[dict[str, np.ndarray]]:
    """The rows of each whole attempt, in order: first row to the one that ended it."""
    record = next((record for record in store.jobs() if record.id == job), None)
    held = sorted(store.segments(job), key=lambda s: (s.run, s.stream, s.first))
    chain: list[dict[str, np.ndarray]] = []
    for place, segment in enumerate(held):
        chain.append({name: rows for name, rows in store.read(segment).items() if name != "memory"})
        after = held[place + 1] if place + 1 < len(held) else None
        if after and (after.run, after.stream, after.first) == (segment.run, segment.stream, segment.last):
            continue
        assert record is not None
        rows = {name: np.concatenate([piece[name] for piece in chain]) for name in chain[0]}
        first, *ends = (rows["rows/frame"][:, record.layout.slots + 1 : record.layout.slots + 4] > 0.5).T
        begin = None
        for at in range(len(first)):
            begin = at if first[at] else begin
            if begin is not None and (ends[0][at] or ends[1][at]):
                yield {name: array[begin : at + 1] for name, array in rows.items()}
                begin = None
        chain = []


def import_minari(store: "Store", dataset: Any, *, job: str | None = None, mind: MindConfig | None = None) -> "Added":
    """Take in a Minari dataset, or one by its id if it is on this machine, marked as foreign.

    job: by default the id of the dataset's environment. Raises RunError without the extra "minari"; StoreError as
    `Store.add_arrays`.
    """
    minari = _extra("minari", "minari")
    data = minari.load_dataset(dataset) if isinstance(dataset, str) else dataset
    job = job or (None if data.env_spec is None else data.env_spec.id)
    if job is None:
        raise StoreError(f"the dataset {data.id} does not say its environment: say it, import_minari(..., job=...)")
    episodes = [episode for episode in data.iterate_episodes() if len(episode.rewards)]
    flags = {name: [np.array(getattr(e, name), np.bool_) for e in episodes] for name in ("terminations", "truncations")}
    for terminated, truncated in zip(*flags.values(), strict=True):
        truncated[-1] |= not terminated[-1]  # an episode ends where the next one begins
    return store.add_arrays(
        job,
        _joined(data.observation_space, [episode.observations for episode in episodes]),
        _joined(data.action_space, [episode.actions for episode in episodes]),
        np.concatenate([episode.rewards for episode in episodes]),
        *(np.concatenate(flag) for flag in flags.values()),
        source=data.id,
        observation_space=data.observation_space,
        action_space=data.action_space,
        mind=mind,
    )


def _joined(space: gym.Space, stacks: list[Any]) -> Any:
    """Stacked data of several episodes as of one."""
    if isinstance(space, gs.Dict):
        return {key: _joined(part, [stack[key] for stack in stacks]) for key, part in space.spaces.items()}
    if isinstance(space, gs.Tuple):
        return tuple(_joined(part, [stack[i] for stack in stacks]) for i, part in enumerate(space.spaces))
    return [item for stack in stacks for item in stack]


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RunError(f"{module} cannot be imported ({error}): pip install 'fifteen[{extra}]'") from error
