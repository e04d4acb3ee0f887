"""What happened in a run, attempt by attempt: counted for budgets, told to sinks, kept for the log."""

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from fifteen.jobs.protocol import Stream, Tick
from fifteen.log import RECENT, Attempt, Progress, WorkLog
from fifteen.worker import Moment, Worker

_SPEED_WINDOW_S = 5.0


@final
class Recorder:
    """What happened, attempt by attempt. All returns in the job's own reward units."""

    def __init__(self, job: str, streams: int, discount: float, steps: int | None, episodes: int | None):
        self._job, self._discount = job, discount
        self._steps_total, self._episodes_total = steps, episodes
        self.step = 0  # environment steps of all streams together
        # Of the attempt under way: number, return, length, expected, discounted, surprise.
        self._open = np.zeros((streams, 6))
        self._finished: list[tuple[float, ...]] = []  # the columns of a WorkLog
        self._new: list[Attempt] = []
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._expected = self._surprise = 0.0
        self._scale = 1.0
        self._speed: deque[tuple[float, int]] = deque()  # (monotonic seconds, step) of the last progress
        self._begun: tuple[float, int] | None = None  # the first of them: what comes before it is compiling

    def record(self, tick: Tick, moment: Moment) -> None:
        """Count one tick and what was decided at it."""
        for stream in range(len(self._open)):
            if tick.active[stream]:
                self._count(
                    stream,
                    float(tick.rewards[stream]),
                    (bool(tick.first[stream]), bool(tick.terminated[stream]), bool(tick.truncated[stream])),
                    float(moment.value[stream]),
                    float(moment.surprise[stream]),
                )
        self._expected = float(np.mean(moment.value))
        self._scale = moment.scale

    def record_rows(
        self, rewards: np.ndarray, flags: np.ndarray, value: np.ndarray, scale: np.ndarray, surprise: np.ndarray
    ) -> None:
        """Count T ticks of the only stream: float32[T], but flags bool[T, 3], first, terminated, truncated.

        value: in reward units, as a `Moment`'s.
        """
        columns = (rewards.tolist(), flags.tolist(), value.tolist(), surprise.tolist())
        for row in zip(*columns, strict=True):
            self._count(0, *row)
        if len(value):
            self._expected, self._scale = float(value[-1]), float(scale[-1])

    def _count(self, stream: int, reward: float, flags: Sequence[bool], value: float, surprise: float) -> None:
        attempt = self._open[stream]
        first, terminated, truncated = flags
        if first:
            attempt[1:] = 0.0
            attempt[3] = value
        else:
            attempt[4] += self._discount ** attempt[2] * reward
            attempt[1] += reward
            attempt[2] += 1
            attempt[5] += surprise
            self._surprise += 0.01 * (surprise - self._surprise)
        if terminated or truncated:
            self._close(stream, terminated)
        else:
            self.step += 1

    def _close(self, stream: int, terminated: bool) -> None:
        number, total, length, expected, discounted, surprise = self._open[stream].tolist()
        ended = Attempt(
            stream=stream,
            number=int(number),
            step=self.step,
            ret=total,
            length=int(length),
            terminated=terminated,
            expected=expected,
            discounted=discounted,
            surprise=surprise / max(length, 1.0),
        )
        self._new.append(ended)
        self._finished.append((ended.ret, ended.length, ended.step, expected, discounted, ended.surprise))
        self._recent.append(ended.ret)
        self._open[stream, 0] += 1

    def reason(self, tick: Tick) -> str | None:
        """Why the run ends now, if its budget is used up. `tick` is the next one to be perceived."""
        if self._steps_total is not None and self.step >= self._steps_total:
            # An attempt that the last step ended is still perceived and counted. Other streams act meanwhile: there
            # may be more endings, but never more than one step of each stream beyond the budget.
            ends = (tick.active & (tick.terminated | tick.truncated)).any()
            if not ends or self.step >= self._steps_total + len(self._open):
                return "steps"
        if self._episodes_total is not None and len(self._finished) >= self._episodes_total:
            return "episodes"
        return None

    def progress(self, stream: Stream, worker: Worker, reason: str | None) -> Progress:
        now = time.monotonic()
        self._speed.append((now, self.step))
        self._begun = self._begun or (now, self.step)
        while len(self._speed) > 2 and now - self._speed[1][0] > _SPEED_WINDOW_S:
            self._speed.popleft()
        speed = _speed(self._speed[0], self._speed[-1])
        # The updates compile in the middle of the run: without the longer view this would look like hours.
        lasting = max(speed, _speed(self._begun, self._speed[-1]))
        left = None
        if self._steps_total is not None and lasting > 0.0:
            left = max(0.0, (self._steps_total - self.step) / lasting)
        finished, self._new = tuple(self._new), []
        return Progress(
            job=self._job,
            step=self.step,
            steps_total=self._steps_total,
            attempt=len(self._finished),
            last_return=self._recent[-1] if self._recent else None,
            recent=float(np.mean(self._recent)) if self._recent else None,
            expected=self._expected,
            surprise=self._surprise,
            steps_per_s=speed,
            seconds_left=left,
            updates=worker.updates,
            reward_scale=self._scale,
            losses=worker.losses,
            finished=finished,
            faults=_faults(stream, worker),
            notes=(*stream.notes, *worker.notes),
            reason=reason,
        )

    def log(self, stream: Stream, worker: Worker, reason: str) -> WorkLog:
        columns = np.array(self._finished, np.float64).reshape(-1, 6).T
        returns, lengths, steps, expected, discounted, surprise = columns
        return WorkLog(
            returns=returns,
            lengths=lengths.astype(np.int64),
            steps=steps.astype(np.int64),
            expected=expected,
            discounted=discounted,
            surprise=surprise,
            faults=_faults(stream, worker),
            notes=(*stream.notes, *worker.notes),
            reason=reason,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {"open": self._open.copy(), "finished": np.array(self._finished, np.float64).reshape(-1, 6)}

    def summary(self) -> dict[str, Any]:
        return {"step": self.step, "surprise": self._surprise}

    def restore(self, arrays: Mapping[str, np.ndarray], summary: Mapping[str, Any]) -> None:
        self._open[:] = arrays["open"]
        self._finished = [tuple(row) for row in arrays["finished"].tolist()]
        self._recent.extend(row[0] for row in self._finished[-RECENT:])
        self.step, self._surprise = int(summary["step"]), float(summary["surprise"])


def _speed(then: tuple[float, int], now: tuple[float, int]) -> float:
    """Steps per second between two (seconds, step)."""
    return (now[1] - then[1]) / max(now[0] - then[0], 1e-9)


def _faults(stream: Stream, worker: Worker) -> dict[str, int]:
    return dict(Counter(stream.faults) + Counter(worker.faults))
