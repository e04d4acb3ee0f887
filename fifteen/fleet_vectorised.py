"""The transport "vectorised": all instances of a round in this process, their jobs on the device.

Each is kept, saved and told of as a run of `fifteen.work` is, in a folder of its own; what is shared is the process,
what is compiled, and every call of the device for a block of ticks. Acting goes on while updates are computed, with the
weights of one block ago, as in `work`; without updates the next block is acted while the host takes in the one before.
What is computed does not depend on timing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, final

import jax
import jax.numpy as jnp
import numpy as np

from fifteen import crew
from fifteen.checkpoint import SAVE_EVERY_S
from fifteen.errors import FifteenError, JobError, RunError, SpaceError
from fifteen.fleet_member import BLOCKS, Member, NeedsProcess, Task
from fifteen.jobs.native import no_state, state_of
from fifteen.learner import load


class Board(Protocol):
    """Where it is told how the instances stand."""

    def begun(self, number: int) -> None: ...

    def stands(self, number: int, steps: int) -> None: ...

    def ended(self, number: int, how: Any, why: str) -> None: ...


def work_together(tasks: Sequence[Task], parent: Path, board: Board, stop: Callable[[], bool], workers: int) -> None:
    """Let all of them work until they have finished, or `stop` says so: then they are saved.

    tasks: of all who took part so far, also of those who have ended: products of matrices round otherwise where there
    are more or fewer of them. parent: the folder of what they begin as. workers: threads that learn, act and save. A
    job that cannot be opened, and an instance whose numbers are not finite, fails by name and harms no other. Raises
    RunError, before anything has begun, that names the assignments that need a process of their own.
    """
    born = load(parent)
    with ExitStack() as stack:
        members: list[Member] = []
        broken: list[tuple[Task, FifteenError]] = []
        refused = []
        for task in tasks:
            try:
                members.append(Member(task, born))
            except (JobError, SpaceError) as error:
                broken.append((task, error))
            except NeedsProcess as error:
                refused.append(str(error))
        if refused:
            raise RunError(f"these cannot work in one process, give transport='processes': {'; '.join(refused)}")
        for task, error in broken:
            if not task.ended:
                board.ended(task.number, "failed", f"{type(error).__name__}: {error}")
        ready: dict[str, list[Member]] = {}
        for member in members:
            try:
                member.open(stack)
            except (FifteenError, OSError) as error:
                if not member.task.ended:
                    board.ended(member.task.number, "failed", f"{type(error).__name__}: {error}")
                continue
            ready.setdefault(member.task.assignment["learn"], []).append(member)
            if not member.task.ended:
                board.begun(member.task.number)
        # Last, so that it ends first: members are saved in it.
        pool = stack.enter_context(ThreadPoolExecutor(workers, "fifteen-together"))
        shifts = [_Shift(ones, board, pool) for ones in ready.values()]
        while any(shift.open for shift in shifts) and not stop():
            for shift in shifts:
                shift.block()
        for shift in shifts:
            shift.save()


@final
class _Shift:
    """Members who learn in the same way, and the arrays of all of them."""

    def __init__(self, members: Sequence[Member], board: Board, pool: ThreadPoolExecutor):
        kinds = crew.kinds([member.stream.job for member in members])
        self.members = [members[n] for n in sorted(range(len(members)), key=lambda n: (kinds[n], n))]
        first, self._board, self._pool = self.members[0], board, pool
        self._learns = first.assignment["learn"] != "context"
        config, work, wipe = first.config, first.work, first.assignment["learn"] == "weights"
        jobs, desks = [one.stream.job for one in self.members], [one.desk for one in self.members]
        self._work = work
        self._crew, self._jobs = crew.new_crew(jobs, desks, config=config, work=work, wipe=wipe)
        # One call for all is one launch of many small kernels; a CPU computes no faster for it, and has its cores busy
        # with one instance each.
        self._at_once = jax.default_backend() != "cpu"
        self._update = crew.compiled_update(config, work, wipe, self._crew.lines, self._at_once)
        keys = jnp.stack([jax.random.key(one.assignment["seed"]) for one in self.members])
        self._lives = crew.new_lives(first.inherited, keys, config=config, work=work)
        states = [no_state(job) for job in jobs]
        for n, one in enumerate(self.members):
            if (saved := one.saved) is not None and "life.over" in saved:
                own = jax.tree.map(lambda leaf, n=n: leaf[n], self._lives)
                own = jax.tree.map_with_path(lambda path, _, saved=saved: jnp.asarray(saved[_name(path)]), own)
                self._lives = jax.tree.map(lambda all, mine, n=n: all.at[n].set(mine), self._lives, own)
                states[n] = state_of(saved, states[n], one.stream.job_id)
            one.saved = None
        self._states = crew.stacked(self._crew.kinds, states)
        self._weights = self._stacked() if self._learns else first.acting[None]  # who does not learn is as the parent
        self._total = jnp.array([one.assignment["steps"] for one in self.members], jnp.int32)
        self._continuous, self._line = self._crew.continuous, self._crew.line
        self._ticks = work.block if self._learns else BLOCKS * work.block
        self._pending: list[tuple[int, Future, bool]] = []  # member, its update, whether with those of all
        self._ahead: Future | None = None  # the next block, if it has begun
        self._saved_at = time.monotonic()

    @property
    def open(self) -> list["Member"]:
        return [one for one in self.members if one.reason is None]

    def block(self) -> None:
        """One block of ticks of all members, and of updates of those who learn."""
        if not self.open:
            return
        rows = self._lived()
        # What a ring has overwritten can no longer be saved.
        full = any(one.experience.unsaved + 2 * self._ticks > one.experience.capacity for one in self.open)
        due = full or time.monotonic() - self._saved_at >= SAVE_EVERY_S
        if not self._learns and not due and rows.active[~self._gone()].all():
            self._ahead = self._pool.submit(self._act, self._gone())  # while the host takes in what was lived
        self._take_in(rows)
        if due:
            self.save()

    def _lived(self) -> crew.Rows:
        """What the block brought that has begun, or begins now."""
        rows, self._ahead = (self._act(self._gone()) if self._ahead is None else self._ahead.result()), None
        for one, begun in zip(self.members, rows.begun.tolist(), strict=True):
            one.began(begun)
        return rows

    def _take_in(self, rows: crew.Rows) -> None:
        whole: list[int] = []
        ending: list[int] = []
        for n, one in enumerate(self.members):
            if one.reason is not None:
                continue
            count = one.take_in(rows, n)
            lived = rows.frames[n, :count], rows.decisions[n, :count], rows.memory[n]
            if not all(np.isfinite(array).all() for array in lived):
                self._fail(n, "what it perceived or decided is not finite")
            else:
                (whole if count == self._ticks else ending).append(n)
        self.finish()
        if self._learns:
            self._publish()
            self._learn([n for n in whole if self.members[n].reason is None])
        ending = [n for n in ending if self.members[n].reason is None]
        for n in ending:
            self.members[n].reason = "steps"
            self._board.stands(self.members[n].task.number, self.members[n].recorder.step)
        self._save(ending)
        for n in ending:
            if self.members[n].reason == "steps":
                self._board.ended(self.members[n].task.number, "finished", "")
        for n in whole:
            if self.members[n].reason is None:
                with self._at_its_own_risk(n):
                    self.members[n].tell()
                self._board.stands(self.members[n].task.number, self.members[n].recorder.step)

    def _gone(self) -> np.ndarray:
        """Who is not at work any more, bool[N]."""
        return np.array([one.reason is not None for one in self.members])

    def _act(self, gone: np.ndarray) -> crew.Rows:
        """One block of ticks of all members but those who are gone: its rows, on the host."""
        seeds = np.array([one.next_seeds(self._ticks)[: self._ticks] for one in self.members], np.uint32)
        lives = self._lives._replace(over=self._lives.over | gone)
        self._lives, self._states, rows = self._crew.act(
            self._weights, lives, self._states, self._jobs, seeds, self._total
        )
        return crew.Rows(*(np.asarray(x) for x in rows))

    def _publish(self) -> None:
        for one in self.members:
            one.acting = one.learner.state.weights
        self._weights = self._stacked()

    def _stacked(self) -> jax.Array:
        """Weights that the members act with, float32[N, P]."""
        return jnp.stack([one.acting for one in self.members])

    def _learn(self, which: Sequence[int]) -> None:
        """Begin the updates of these members, in the background."""
        work = self._work
        updates = max(1, round(work.block * work.updates_per_step))
        due = [
            n
            for n in which
            if self.members[n].experience.count[0] >= work.warmup
            and self.members[n].experience.available(work.sequence)
        ]
        # Copies: the arrays of the lives are given away at the next block.
        statistics = jax.tree.map(np.array, self._lives.instance.statistics)
        told = {n: self._lesson(n, updates, statistics) for n in due}
        if self._at_once and due:
            # Always as many as there are members, so that nothing is compiled again; what nobody asked for is thrown
            # away.
            lessons = tuple(told.get(n, told[due[0]]) for n in range(len(self.members)))
            future = self._pool.submit(self._run, lessons)
            self._pending = [(n, future, True) for n in due]
        else:
            self._pending = [(n, self._pool.submit(self._run, *lesson), False) for n, lesson in told.items()]

    def _lesson(self, n: int, updates: int, statistics: Any) -> tuple:
        """Arguments of the update of a member."""
        one = self.members[n]
        own = jax.tree.map(lambda leaf: leaf[n], statistics)
        return one.learner.state, one.batch(updates), own, self._continuous[n], self._line[n]

    def _run(self, *lesson: Any) -> Any:
        return jax.block_until_ready(self._update(*lesson))

    def finish(self) -> None:
        """Take over the updates that are under way."""
        for n, future, several in self._pending:
            one = self.members[n]
            state, losses = future.result()[n] if several else future.result()
            if one.reason is not None:
                continue
            if np.isfinite(np.asarray(state.weights)).all():
                one.learner.state = state
                one.losses = {name: float(value) for name, value in losses.items()}
            else:
                self._fail(n, f"its weights are not finite after {int(state.updates)} updates")
        self._pending = []

    def save(self) -> None:
        """All who are at work, as they stand."""
        if self._ahead is not None:
            self._take_in(self._lived())
        self.finish()
        self._save([n for n, one in enumerate(self.members) if one.reason is None])
        self._saved_at = time.monotonic()

    @contextmanager
    def _at_its_own_risk(self, n: int) -> Iterator[None]:
        """A disk that is full is the end of this member, as it would be in a process of its own."""
        try:
            yield
        except FifteenError as error:
            self._fail(n, f"{type(error).__name__}: {error}")

    def _save(self, which: Sequence[int]) -> None:
        """These members, at the same time: most of it is waiting for the disk."""
        if not which:
            return
        lives, jobs = jax.tree.map(np.array, self._lives), self._crew.arrays(self._states)
        under_way = []
        for n in which:
            one, life = self.members[n], jax.tree.map(lambda leaf, n=n: leaf[n], lives)
            one.learner.statistics = jax.tree.map(lambda leaf: jnp.array(leaf), life.instance.statistics)
            named = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(life)}
            with self._at_its_own_risk(n):
                one.tell()
                under_way.append((n, self._pool.submit(one.save, named | jobs[n])))
        for n, future in under_way:
            with self._at_its_own_risk(n):
                future.result()

    def _fail(self, n: int, why: str) -> None:
        one = self.members[n]
        one.reason = "failed"
        self._board.ended(one.task.number, "failed", f"{why}; its run is as it was last saved")


def _name(path: tuple) -> str:
    return f"life{jax.tree_util.keystr(path)}"
