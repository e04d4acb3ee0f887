"""One instance of a fleet whose instances work in one process: its run, in the folder and form of `fifteen.work`."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, final

import jax.numpy as jnp
import numpy as np

from fifteen import checkpoint, crew
from fifteen.errors import JobError, RunError
from fifteen.experience import Experience
from fifteen.frames import Layout
from fifteen.jobs.desks import Desk, desk
from fifteen.jobs.native import NativeStream
from fifteen.jobs.protocol import attempt_seed
from fifteen.jobs.registry import open_job
from fifteen.learner import Learner, from_arrays
from fifteen.log import JsonlSink
from fifteen.recorder import Recorder
from fifteen.updating import Batch
from fifteen.worker import experience_shape
from fifteen.working import run_config

BLOCKS = 8  # in one call where there are no updates: nothing waits for the end of a block
TOGETHER = "together"  # in the manifest of an instance's learner: where it stands


class Task(NamedTuple):
    """What one instance is to do."""

    number: int  # of the assignment
    assignment: dict[str, Any]
    run: Path
    ended: bool = False  # it is there only so that the others are as many as they were: see `crew.Crew.act`


class NeedsProcess(Exception):
    """An assignment that is for another transport."""


@final
class Member:
    """One instance: its run. What changes at every block lies in the arrays of its shift."""

    def __init__(self, task: Task, born: Learner):
        self.task, self.assignment = task, task.assignment
        kwargs, streams = self.assignment["kwargs"], self.assignment["num_envs"]
        stream = open_job(self.assignment["job"], num_envs=streams, kwargs=kwargs)
        if not isinstance(stream, NativeStream) or streams != 1:
            stream.close()
            why = f"num_envs is {streams}" if isinstance(stream, NativeStream) else "it is not native to JAX"
            raise NeedsProcess(f"{task.run.name}: {why}")
        self.stream = stream
        try:
            self.desk: Desk = desk(stream.job, born.config, stream.job_id)
        except JobError as error:
            raise NeedsProcess(f"{task.run.name}: {error}") from error
        self.learner = Learner(
            born.config,
            born.state,
            born.statistics,
            work=born.work_config,
            provenance=json.loads(json.dumps(born.provenance)),
        )
        self.inherited = born.statistics
        self._worked = self.learner.provenance.get("worked", [])
        self.config, self.work = born.config, born.work_config
        self.acting = born.state.weights  # float32[P], of one block ago
        self.layout = Layout(self.config.slots, 1, self.desk.bins, (0,), (-1,), (self.desk.ordered,))
        steps = self.assignment["steps"]
        self.recorder = Recorder(stream.job_id, 1, self.work.discount, steps, None)
        self.generator = np.random.Generator(np.random.PCG64(self.assignment["seed"]))
        self.attempts = 0  # begun
        self.seeds: list[int] = []  # of the attempts to come
        # What a recorder asks of a worker.
        self.losses: dict[str, float] = {}
        self.faults: dict[str, int] = {}
        self.notes: list[str] = []
        self.reason: str | None = "ended" if task.ended else None
        self.saved: dict[str, np.ndarray] | None = None  # where it stood, if it goes on

    @property
    def updates(self) -> int:
        return int(self.learner.state.updates)

    def open(self, stack: ExitStack) -> None:
        """Make the folder of the run, or go on with it. Raises RunError or CheckpointError."""
        run, learner = self.task.run, self.learner
        run.mkdir(parents=True, exist_ok=True)
        stack.enter_context(checkpoint.FolderLock(run))
        position = None
        # Every attempt has a row more than it has steps, and one step at least.
        fields, sizes = experience_shape(self.config, self.work, self.layout, 1, False, 2 * self.assignment["steps"])
        # What one call brings must not be overwritten before it is saved.
        stride, call = sizes["stride"], self.work.block * (BLOCKS if self.assignment["learn"] == "context" else 1)
        sizes["capacity"] = max(sizes["capacity"], -(-2 * call // stride) * stride)
        if (run / "config.json").is_file():
            config = json.loads((run / "config.json").read_text(encoding="utf-8"))
            arrays, manifest = checkpoint.read(run / "learner")
            if TOGETHER not in manifest:
                raise RunError(f"{run} was begun in a process of its own: go on with transport='processes'")
            stands = manifest[TOGETHER]
            sizes["capacity"] = manifest["experience"]["capacity"]  # as this run was begun
            self.learner = from_arrays(arrays, manifest, run)
            self.experience = Experience.load(run / "experience", manifest["experience"], fields, **sizes)
            self.generator.bit_generator.state = stands["generator"]
            self.attempts, self.losses, position = stands["attempts"], stands["losses"], stands["metrics"]
            log = {name.removeprefix("log/"): array for name, array in arrays.items() if name.startswith("log/")}
            self.recorder.restore(log, stands["recorder"])
            self.saved = arrays
            self.acting = jnp.asarray(arrays["acting"])
        else:
            self.experience = Experience(fields, **sizes)
            settings = {**self.assignment, "episodes": None, "step_limit": None}
            config = run_config(settings, self.stream, learner)
        header = {key: config[key] for key in ("job", "settings", "versions", "device", "commit")}
        self.metrics = JsonlSink(run / "metrics.jsonl", header, truncate_at=position)
        stack.callback(self.metrics.close)
        if position is None:
            self.save({})
            checkpoint.atomic_write(run / "config.json", json.dumps(config, indent=2).encode())

    def next_seeds(self, ticks: int) -> list[int]:
        """Seeds of the attempts that may begin within so many ticks."""
        seed = self.assignment["seed"]
        while len(self.seeds) < ticks:
            self.seeds.append(attempt_seed(seed, 0, self.attempts + len(self.seeds)))
        return self.seeds

    def began(self, attempts: int) -> None:
        """So many of the attempts to come have begun."""
        self.attempts += attempts
        del self.seeds[:attempts]

    def take_in(self, rows: crew.Rows, which: int) -> int:
        """Rows of one block, as arrays of the host: keep and count them. How many there were."""
        count = int(np.sum(rows.active[which]))
        slots, stride = self.layout.slots, self.experience.stride
        frames, decisions = rows.frames[which, :count], rows.decisions[which, :count, : self.layout.decision_size]
        apart = rows.frames.shape[1] // rows.memory.shape[1]  # ticks
        begin = -int(self.experience.count[0]) % stride // apart
        memory = rows.memory[which, begin : -(-count // apart) : stride // apart]
        self.experience.extend({"frame": frames, "decision": decisions}, memory)
        value, scale, surprise = decisions[:, 2:5].T
        flags = frames[:, slots + 1 : slots + 4] > 0.5
        self.recorder.record_rows(frames[:, slots], flags, value * scale, scale, surprise)
        return count

    def batch(self, updates: int) -> Batch:
        """Of the common layout."""
        work = self.work
        rows, memory = self.experience.sample(self.generator, updates * work.batch, work.sequence)
        wider = crew.common_layout(self.config).decision_size - self.layout.decision_size
        decisions = np.pad(rows["decision"], ((0, 0), (0, 0), (0, wider)))

        def shaped(array: np.ndarray) -> Any:
            return array.reshape(updates, work.batch, *array.shape[1:])

        return Batch(shaped(rows["frame"]), None, shaped(decisions), shaped(memory))

    def tell(self) -> None:
        worker: Any = self  # it has what is asked for
        self.metrics.write(self.recorder.progress(self.stream, worker, self.reason))

    def save(self, stands: dict[str, np.ndarray]) -> None:
        """As the folder of a run of `work`; its updates must be finished. stands: its life and its job's state."""
        if self.reason == "steps":
            told = {"job": self.stream.job_id, "steps": self.recorder.step, "learn": self.assignment["learn"]}
            # Not added to: who was killed after this save, and before the fleet took note of it, saves again.
            self.learner.provenance["worked"] = [*self._worked, {**told, "reason": self.reason}]
        index = self.experience.save(self.task.run / "experience")
        log = {f"log/{name}": array for name, array in self.recorder.arrays().items()}
        manifest = self.learner.manifest() | {
            "experience": index,
            TOGETHER: {
                "recorder": self.recorder.summary(),
                "generator": self.generator.bit_generator.state,
                "attempts": self.attempts,
                "losses": self.losses,
                "metrics": self.metrics.position(),
            },
        }
        arrays = self.learner.arrays() | {"acting": np.asarray(self.acting)} | log | stands
        checkpoint.write(self.task.run / "learner", arrays, manifest)
        self.experience.prune()
