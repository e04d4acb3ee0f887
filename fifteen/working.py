"""One learner, one job: the loop to read first.

job -> percept -> decision -> job, and beside it: rows of experience -> updates of the weights
"""

import dataclasses
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, final

import numpy as np

from fifteen import checkpoint
from fifteen.checkpoint import SAVE_EVERY_S
from fifteen.config import Learn
from fifteen.errors import CheckpointError, RunError, check_positive
from fifteen.experience import Experience
from fifteen.folders import refuse_others
from fifteen.interrupting import interruptible
from fifteen.jobs.protocol import Stream, Tick, checked_seed
from fifteen.jobs.registry import open_job
from fifteen.learner import Learner, from_arrays
from fifteen.lived import remember
from fifteen.log import JsonlSink, Progress, Sink, WorkLog
from fifteen.provenance import commit, device, versions
from fifteen.recorder import Recorder
from fifteen.worker import Worker

Callback = Callable[[Progress], bool | None]


def work(
    learner: Learner,
    job: Any,
    *,
    steps: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    learn: Learn = "both",
    callback: Callback | None = None,
    num_envs: int = 1,
    run: str | Path | None = None,
    sinks: Sequence[Sink] = (),
    kwargs: Mapping[str, Any] | None = None,
    step_limit: int | None = None,
) -> WorkLog:
    """Put a learner to work on a job; it learns the job while doing it, and is updated in place.

    job: a Gymnasium id, a Gymnasium environment, a factory of one, or a Fifteen job id. steps: environment steps of
    all `num_envs` streams together; or episodes: finished attempts. learn: "context" (memory only), "weights" (weights
    are updated, memory is wiped after every attempt) or "both". callback(Progress) stops the run by returning True.
    run: a folder for settings, metrics, experience and the learner, saved every 20 s; go on with `resume`.
    Raises JobError, SpaceError, RunError or CheckpointError, before the first step where that is possible.
    """
    if (steps is None) == (episodes is None):
        raise RunError(f"give one budget, steps or episodes; got steps={steps}, episodes={episodes}")
    check_positive("the budget, steps or episodes,", steps if steps is not None else episodes)
    seed = checked_seed(seed)
    if learn not in ("context", "weights", "both"):
        raise RunError(f"learn is {learn!r}, expected 'context', 'weights' or 'both'")
    settings = {
        "job": job if isinstance(job, str) else None,
        "steps": None if steps is None else int(steps),
        "episodes": None if episodes is None else int(episodes),
        "seed": seed,
        "learn": learn,
        "num_envs": num_envs,
        "kwargs": dict(kwargs or {}),
        "step_limit": step_limit,
    }
    with ExitStack() as stack:
        stream = open_job(job, num_envs=num_envs, kwargs=kwargs, step_limit=step_limit)
        stack.callback(stream.close)
        learner.stop()  # a lifetime begun by hand ends here: it would undo what is learned now
        worker = learner.new_worker(
            stream.observation_space,
            stream.action_space,
            seed=seed,
            learn=learn,
            streams=stream.num_envs,
            record=run is not None,
        )
        stack.callback(worker.close)
        recorder = Recorder(stream.job_id, stream.num_envs, worker.work.discount, steps, episodes)
        tick = stream.reset(seed)
        files = None
        if run is not None:  # only now: what cannot start leaves no folder behind
            config = run_config(settings, stream, learner)
            folder = _new_folder(Path(run), stack)
            files = _Files(folder, config, truncate_at=None)
            stack.callback(files.metrics.close)
            # Saved before it is a run: whenever it is killed, it can be resumed or begun again.
            learner.adopt(worker)
            files.save(learner, stream, worker, recorder)
            checkpoint.atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())
        return _loop(learner, stream, worker, recorder, tick, files, (*sinks,), callback)


def resume(
    run: str | Path,
    *,
    job: Any = None,
    steps: int | None = None,
    callback: Callback | None = None,
    sinks: Sequence[Sink] = (),
) -> WorkLog:
    """Go on with the run in a folder from where it was last saved, exactly as if it had not stopped.

    job: needed only where the run was begun with an environment or a factory instead of an id. steps: a new total
    budget. The learner is `fifteen.load(run)` afterwards. Raises CheckpointError or RunError where it cannot.
    """
    folder = Path(run)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder} is not the folder of a run: it has no config.json")
    with ExitStack() as stack:
        stack.enter_context(checkpoint.FolderLock(folder))
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
        arrays, manifest = checkpoint.read(folder / "learner")
        state = manifest.get("run")
        if state is None:
            raise CheckpointError(f"{folder} holds a learner, but no run to go on with: use fifteen.work(run=...)")
        learner = from_arrays(arrays, manifest, folder)
        given = job if job is not None else settings["job"]
        if given is None:
            raise RunError(f"{folder} was begun with an environment, not an id: pass it again, resume(run, job=...)")
        stream = open_job(
            given, num_envs=settings["num_envs"], kwargs=settings["kwargs"], step_limit=settings["step_limit"]
        )
        stack.callback(stream.close)
        worker = learner.new_worker(
            stream.observation_space,
            stream.action_space,
            seed=settings["seed"],
            learn=settings["learn"],
            streams=stream.num_envs,
        )
        stack.callback(worker.close)
        fields, sizes = worker.experience_shape()
        worker.experience = None  # the loaded one takes its room: both together would be twice the bound
        experience = Experience.load(folder / "experience", manifest["experience"], fields, **sizes)
        worker.restore(_within(arrays, "run/"), state["worker"], learner.statistics, experience)
        total = settings["steps"] if steps is None else steps
        recorder = Recorder(
            stream.job_id, stream.num_envs, worker.work.discount, total, None if steps else settings["episodes"]
        )
        recorder.restore(_within(arrays, "log/"), state["recorder"])
        stream.faults.update(state["faults"])
        tick = stream.restore(_within(arrays, "job/"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = _Files(folder, config, truncate_at=state["metrics"])
        stack.callback(files.metrics.close)
        return _loop(learner, stream, worker, recorder, tick, files, (*sinks,), callback)


def _loop(
    learner: Learner,
    stream: Stream,
    worker: Worker,
    recorder: "Recorder",
    tick: Tick,
    files: "_Files | None",
    sinks: tuple[Sink, ...],
    callback: Callback | None,
) -> WorkLog:
    """The run itself. `tick` is the next one to be perceived."""
    reason: str | None = recorder.reason(tick)
    outlets = sinks if files is None else (*sinks, files.metrics)
    begun = recorder.step

    def save() -> None:
        worker.finish()
        learner.adopt(worker)
        if files is not None:
            files.save(learner, stream, worker, recorder)

    with interruptible() as interrupted, _adopting(learner, worker):
        while reason is None:
            block_ends = worker.at_boundary
            moment = worker.decide(tick)
            recorder.record(tick, moment)
            tick = stream.step(moment.actions)
            worker.improve()
            if interrupted.is_set():
                reason = "interrupted"
            reason = reason or recorder.reason(tick)
            if not (block_ends or reason):
                continue
            progress = recorder.progress(stream, worker, reason)
            if callback is not None and reason is None and callback(progress):
                reason = "callback"
                progress = dataclasses.replace(progress, reason=reason)
            for outlet in outlets:
                outlet.write(progress)
            if files is not None and files.due(worker) and reason is None:
                save()
        if recorder.step > begun:  # a resumed run that was finished already adds nothing
            learner.provenance.setdefault("worked", []).append(
                {"job": stream.job_id, "steps": recorder.step, "learn": worker.learn, "reason": reason}
            )
            worker.finish()
            if (lived := remember(worker, stream.job_id)) is not None:
                learner.lived[stream.job_id] = lived
        save()
    return recorder.log(stream, worker, reason)


@final
class _Files:
    """The folder of a run: config.json, metrics.jsonl, experience/, and learner/, whose manifest ties them together."""

    def __init__(self, folder: Path, config: dict[str, Any], truncate_at: int | None):
        self._folder = folder
        self._saved_at = time.monotonic()
        header = {key: config[key] for key in ("job", "settings", "versions", "device", "commit")}
        self.metrics = JsonlSink(folder / "metrics.jsonl", header, truncate_at=truncate_at)

    def due(self, worker: Worker) -> bool:
        """It is time; or the ring would write over rows that are not on the disk yet."""
        assert worker.experience is not None
        full = worker.experience.unsaved + worker.work.block > worker.experience.capacity
        return full or time.monotonic() - self._saved_at >= SAVE_EVERY_S

    def save(self, learner: Learner, stream: Stream, worker: Worker, recorder: Recorder) -> None:
        """Experience first, then the one checkpoint that names it: whatever is interrupted, one of them is whole."""
        assert worker.experience is not None
        index = worker.experience.save(self._folder / "experience")
        parts = {"run/": worker.arrays(), "log/": recorder.arrays(), "job/": stream.state()}
        named = {prefix + name: array for prefix, part in parts.items() for name, array in part.items()}
        state = {
            "worker": worker.summary(),
            "recorder": recorder.summary(),
            "faults": dict(stream.faults),
            "metrics": self.metrics.position(),
        }
        manifest = learner.manifest() | {"run": state, "experience": index}
        checkpoint.write(self._folder / "learner", learner.arrays() | named, manifest)
        worker.experience.prune()
        self._saved_at = time.monotonic()


def _within(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _new_folder(folder: Path, stack: ExitStack) -> Path:
    """Make and lock the folder of a new run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}; give another one") from error
    stack.enter_context(checkpoint.FolderLock(folder))
    if (folder / "config.json").exists():
        raise RunError(f"{folder} holds a run already: go on with fifteen.resume, or give another folder")
    refuse_others(folder)
    return folder


def run_config(settings: dict[str, Any], stream: Stream, learner: Learner) -> dict[str, Any]:
    """What is written to config.json. Raises RunError for kwargs that JSON cannot hold."""
    try:
        json.dumps(settings)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"the kwargs {settings['kwargs']!r} cannot be kept in the folder of a run ({error}): give numbers, texts, "
            "lists and dicts of these, or a factory instead of kwargs"
        ) from error
    return {
        "id": uuid.uuid4().hex,  # of the run: two may be alike in everything else
        "job": stream.job_id,
        "settings": settings,
        "mind": dataclasses.asdict(learner.config),
        "work": dataclasses.asdict(learner.work_config),
        "spaces": {"observation": str(stream.observation_space), "action": str(stream.action_space)},
        "step_limit": stream.step_limit,
        "versions": versions(),
        "device": device(),
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextmanager
def _adopting(learner: Learner, worker: Worker) -> Iterator[None]:
    """What was learned until an error is not lost with it."""
    try:
        yield
    except Exception:
        with suppress(RunError):  # of updates under way: what ended the run is the other error
            worker.finish()
        learner.adopt(worker)
        raise
