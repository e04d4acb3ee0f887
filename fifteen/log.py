"""Metrics out: what a run reports, and the sinks that take it (JSON lines, TensorBoard)."""

import abc
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from fifteen.errors import FifteenError, RunError

RECENT = 20
"""Attempts in the running mean that is shown everywhere."""


@dataclass(frozen=True)
class Attempt:
    """One finished attempt (episode). Returns are in the job's own reward units."""

    stream: int
    number: int  # of the stream's attempts, from 0
    step: int  # environment steps of the run, all streams together, when it ended
    ret: float  # undiscounted return
    length: int  # environment steps
    terminated: bool  # False: it was truncated
    expected: float  # v_now at its first observation
    discounted: float  # discounted return that was then obtained
    surprise: float  # mean prediction error of its steps


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Callbacks and sinks get one after every block of steps."""

    job: str
    step: int  # environment steps so far, all streams together
    steps_total: int | None  # None: the budget is in episodes
    attempt: int  # finished attempts
    last_return: float | None
    recent: float | None  # mean return of the last 20 attempts
    expected: float  # v_now at this moment, in the job's own reward units
    surprise: float  # running mean of the prediction error
    steps_per_s: float
    seconds_left: float | None
    updates: int
    reward_scale: float  # rewards are divided by it before the learner sees them
    losses: dict[str, float]
    finished: tuple[Attempt, ...]  # attempts that ended since the last call
    faults: dict[str, int] = field(default_factory=dict)  # counted reactions since the run began
    notes: tuple[str, ...] = ()  # everything said about the run so far
    reason: str | None = None  # on the last call: why the run ended


@dataclass(frozen=True)
class WorkLog:
    """What a run of `fifteen.work` brought: one entry per finished attempt, n of them."""

    returns: np.ndarray  # float64[n]
    lengths: np.ndarray  # int64[n]
    steps: np.ndarray  # int64[n] environment step at which the attempt ended
    expected: np.ndarray  # float64[n] v_now at the attempt's start, in the job's own reward units
    discounted: np.ndarray  # float64[n] obtained discounted return
    surprise: np.ndarray  # float64[n] mean prediction error
    faults: dict[str, int]
    notes: tuple[str, ...]
    reason: str  # "steps" | "episodes" | "callback" | "interrupted"


@dataclass(frozen=True)
class SchoolProgress:
    """Where a school stands."""

    steps: int  # ticks of all lifetimes so far
    steps_total: int
    seconds: float  # since this process took up the school
    steps_per_second: float
    # By family: first, third and last attempt of the lifetimes that ended lately; 0 is chance, 1 the reference. Of
    # another library's environment the raw returns.
    scores: dict[str, tuple[float, float, float]]
    metrics: dict[str, float]


class Sink(abc.ABC):
    """Takes the progress of a run. `write` must be cheap: it is called inside the loop."""

    @abc.abstractmethod
    def write(self, progress: Progress) -> None: ...

    @abc.abstractmethod
    def close(self) -> None: ...


@final
class JsonlSink(Sink):
    """Appends to a file of JSON lines: one "run" line, every attempt, and progress now and then.

    A new file begins with {"kind": "run", **header}. `truncate_at` is a `position()` saved with a
    checkpoint: what was written after it belongs to steps that will be done again and is cut off.
    `every_s` is the least number of seconds between two progress lines.
    """

    def __init__(
        self,
        path: Path,
        header: dict[str, Any] | None = None,
        *,
        truncate_at: int | None = None,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._clock = clock
        self._said: float | None = None
        self._last: Progress | None = None
        self._time_before = 0.0  # seconds that the run took before this process
        if truncate_at is not None:
            self._time_before = _cut(path, truncate_at)
        self._file = path.open("a", encoding="utf-8")
        self._start = clock()
        if self._file.tell() == 0:
            self._line({"kind": "run", **(header or {})})

    def write(self, progress: Progress) -> None:
        time_s = round(self._time_before + self._clock() - self._start, 3)
        for attempt in progress.finished:
            entry = asdict(attempt)
            entry["return"] = entry.pop("ret")
            self._line({"kind": "attempt", "job": progress.job, "time_s": time_s, **entry})
        due = self._said is None or self._clock() - self._said >= self._every_s
        if due or progress.reason is not None:
            self._progress(progress, time_s)
        else:
            self._last = progress

    def position(self) -> int:
        """Bytes written so far; they are on the disk when this returns."""
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        if self._file.closed:
            return
        if self._last is not None:
            self._progress(self._last, round(self._time_before + self._clock() - self._start, 3))
        self.position()
        self._file.close()

    def _progress(self, progress: Progress, time_s: float) -> None:
        entry: dict[str, Any] = {
            "kind": "progress",
            "step": progress.step,
            "time_s": time_s,
            "steps_per_s": round(progress.steps_per_s, 1),
            "updates": progress.updates,
            "reward_scale": progress.reward_scale,
            "expected": progress.expected,
            "surprise": progress.surprise,
            "losses": progress.losses,
        }
        if progress.faults:
            entry["faults"] = progress.faults
        if progress.notes:
            entry["notes"] = list(progress.notes)
        if progress.reason is not None:
            entry["reason"] = progress.reason
        self._line(entry)
        with self._named():
            self._file.flush()
        self._said = self._clock()
        self._last = None

    def _line(self, entry: dict[str, Any]) -> None:
        with self._named():
            self._file.write(json.dumps(_finite(entry), allow_nan=False) + "\n")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Raises RunError where the disk does not take what is written."""
        try:
            yield
        except OSError as error:
            raise RunError(
                f"cannot write {self._file.name}: {error.strerror or error}. The run stands where it was last saved: "
                "make room, then resume it"
            ) from error


def _cut(path: Path, truncate_at: int) -> float:
    """Cut the file behind a saved position; the seconds that the lines which stay speak of."""
    size = path.stat().st_size if path.exists() else 0
    if size < truncate_at:
        raise RunError(
            f"{path} has {size} bytes, but {truncate_at} had been written when the run was saved: "
            "it was changed or lost. Put the original back, or start a new run with --learner."
        )
    with path.open("r+b") as file:
        file.truncate(truncate_at)
        file.seek(max(0, truncate_at - 65_536))
        tail = file.read().splitlines()
    for line in reversed(tail[1:] if truncate_at > 65_536 else tail):
        time_s = json.loads(line).get("time_s")
        if time_s is not None:
            return float(time_s)
    return 0.0


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null, so that every reader can read the file."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@final
class TensorBoardSink(Sink):
    """Scalars for TensorBoard, all over environment steps. Needs the extra `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise FifteenError(
                "TensorBoard output needs the package tensorboardX: "
                "pip install 'fifteen[tensorboard]', or go without --tensorboard"
            ) from error
        self._open = partial(SummaryWriter, str(folder))
        self._writer: Any = None  # opened by the first write: a run that cannot start leaves nothing

    def write(self, progress: Progress) -> None:
        self._writer = self._writer or self._open()
        for attempt in progress.finished:
            self._add("attempt/return", attempt.ret, attempt.step)
            self._add("attempt/length", attempt.length, attempt.step)
            self._add("attempt/expected", attempt.expected, attempt.step)
            self._add("attempt/discounted", attempt.discounted, attempt.step)
            self._add("attempt/surprise", attempt.surprise, attempt.step)
        if progress.finished:
            self._add("progress/recent", progress.recent, progress.step)
            self._add("progress/steps_per_s", progress.steps_per_s, progress.step)
            self._add("progress/updates", progress.updates, progress.step)
            self._add("progress/reward_scale", progress.reward_scale, progress.step)
            for name, value in progress.losses.items():
                self._add(f"losses/{name}", value, progress.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(name, value, step)


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; a dash for what is not known yet."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e7 or 0 < abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """3725 -> "1:02:05", 65 -> "1:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
