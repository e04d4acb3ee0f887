"""The work of an exam as tasks, and one process at work on them; `workers.py` has many of these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final

from fifteen.errors import FifteenError
from fifteen.examining.batches import live_batch
from fifteen.examining.entrants import Entrant, LearnerPlayer, Player, player
from fifteen.examining.leaks import leaks
from fifteen.examining.lifetimes import Attempt, Lived, Seat, live, recorded
from fifteen.examining.records import Finding
from fifteen.examining.suites import Suite


@dataclass(frozen=True)
class Task:
    """What one process does in one go: lifetimes of one learner, or looking for leaks in a job."""

    kind: Literal["batch", "lifetimes", "audit"]
    seats: tuple[tuple[str, int], ...]  # (job, run)
    entrant: int = 0  # its place among the entrants; of no meaning for an audit
    seed: int = 0  # of a batch


@dataclass(frozen=True)
class Begun:
    """These lifetimes are lived from now on: whatever happens before the next event happened in them."""

    seats: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Ended:
    """Lifetimes that are over, and what was found."""

    lived: tuple[Lived, ...] = ()
    findings: tuple[Finding, ...] = ()


Event = Begun | Ended
Failure = Literal["crashed", "timed out"]


@final
class Hall:
    """What a process needs to work on tasks."""

    def __init__(self, suites: Sequence[Suite], entrants: Sequence[Entrant], seconds: float):
        """suites: the suite and its twins. seconds: wall time that one lifetime may take."""
        self.suites, self.entrants, self.seconds = tuple(suites), tuple(entrants), seconds
        self._seats = {job.id: (suite, job) for suite in suites for job in suite.jobs}
        self._players: dict[int, Player] = {}

    def seat(self, job: str, run: int) -> Seat:
        return Seat(*self._seats[job], run)

    def work(self, task: Task) -> Iterator[Event]:
        """Do a task. What raises, raised in the seats begun last."""
        if task.kind == "audit":
            yield Begun(task.seats)
            yield Ended(findings=tuple(leaks(self.seat(*task.seats[0]).job)))
            return
        name = self.entrants[task.entrant].note.name
        if task.kind == "lifetimes":
            for seat in task.seats:
                yield Begun((seat,))
                yield Ended((live(self._player(task.entrant), self.seat(*seat), name, self.seconds),))
            return
        yield Begun(task.seats)
        made = self._player(task.entrant)
        assert isinstance(made, LearnerPlayer)
        seats = [self.seat(*seat) for seat in task.seats]
        try:
            lived = live_batch(made.learner, seats, name, task.seed)
        except FifteenError as error:  # the learner cannot take a family's spaces: which one, the text says
            lived = [recorded(seat, name, [Attempt("refused", str(error))]) for seat in seats]
        yield Ended(tuple(lived))

    def failed(
        self, task: Task, begun: Sequence[tuple[str, int]], status: Failure, problem: str
    ) -> tuple[Ended, list[Task]]:
        """What stands in the place of lifetimes during which a process died or raised, and what is still to do.

        Of a batch nobody knows which job it was: its halves are tried alone. One job that fails alone has failed.
        """
        left = tuple(seat for seat in task.seats if seat not in set(begun))
        again = [Task(task.kind, left, task.entrant, task.seed)] if left and task.kind == "lifetimes" else []
        jobs = sorted({job for job, _ in begun})
        if task.kind == "audit":
            text = f"it could not be searched for leaks: {problem}"
            return Ended(findings=(Finding(status, "", jobs[0], text),)), []
        if len(jobs) > 1:
            first = set(jobs[: len(jobs) // 2])
            halves = [tuple(s for s in begun if (s[0] in first) == half) for half in (True, False)]
            return Ended(), [Task("batch", half, task.entrant, task.seed) for half in halves]
        name = self.entrants[task.entrant].note.name
        return Ended(tuple(recorded(self.seat(*seat), name, [Attempt(status, problem)]) for seat in begun)), again

    def _player(self, entrant: int) -> Player:
        if entrant not in self._players:
            self._players[entrant] = player(self.entrants[entrant])
        return self._players[entrant]
