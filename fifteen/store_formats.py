"""What goes out of a store for other tools, and comes in from them: Parquet and Minari.

Both are extras, imported where they are used.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from fifteen.config import MindConfig
from fifteen.errors import RunError, StoreError
from fifteen.store import Added, Store


def export_parquet(store: Store, path: str | Path) -> int:
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
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return rows


def export_minari(store: Store, job: str, dataset_id: str) -> Any:
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


def _attempts(store: Store, job: str) -> Iterator[dict[str, np.ndarray]]:
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


def import_minari(store: Store, dataset: Any, *, job: str | None = None, mind: MindConfig | None = None) -> Added:
    """Take in a Minari dataset, or one by its id if it is on this machine, marked as foreign.

    job: by default the id of the dataset's environment, with its kwargs. Raises RunError without the extra "minari";
    StoreError as `Store.add_arrays`, and for a dataset without a step.
    """
    minari = _extra("minari", "minari")
    data = minari.load_dataset(dataset) if isinstance(dataset, str) else dataset
    kwargs = None
    if job is None and data.env_spec is not None:
        job, kwargs = data.env_spec.id, data.env_spec.kwargs
    if job is None:
        raise StoreError(f"the dataset {data.id} does not say its environment: say it, import_minari(..., job=...)")
    episodes = [episode for episode in data.iterate_episodes() if len(episode.rewards)]
    if not episodes:
        raise StoreError(f"the dataset {data.id} has no step in any of its episodes: there is nothing to take in")
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
        kwargs=kwargs,
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
