"""A Gymnasium vector environment at work: every autoreset mode delivers the same ticks."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
from gymnasium.vector import VectorEnv

from fifteen.errors import JobError
from fifteen.jobs.faults import (
    count_failure,
    faults_from_array,
    faults_to_array,
    made_anew,
    next_failure,
    usable_reward,
)
from fifteen.jobs.leaves import keep, kept, put_together, take_apart
from fifteen.jobs.protocol import (
    Stream,
    Tick,
    attempt_seed,
    check_actions,
    check_state,
    checked_seed,
    checked_step_limit,
)
from fifteen.jobs.replay import (
    MAX_REPLAY,
    actions_from_state,
    as_given,
    difference_note,
    keep_actions,
    same_moment,
)
from fifteen.jobs.vector_batch import Arrival, VectorBatch


@final
class VectorStream(Stream):
    """A `gymnasium.vector.VectorEnv` behind the stream protocol.

    Gymnasium's own SyncVectorEnv and AsyncVectorEnv, in any mode, and every environment in mode
    DISABLED are reset stream by stream with `options={"reset_mask": ...}`; the first two take the
    seed of each attempt, and so can be restored exactly. Other environments reset their streams
    themselves (NEXT_STEP, SAME_STEP), unseeded after the first attempt: a resume truncates their
    unfinished attempts, and so does, for all streams together, a step limit or an error.

    Except in a NEXT_STEP of the environment's own, final observations come in a tick in which only
    the streams that ended are active; everybody is in the tick after it.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        job_id: str,
        make: Callable[[], VectorEnv] | None = None,
        step_limit: int | None = None,
    ):
        """`make` makes the environment anew when it cannot be reset; None: only reset is tried.

        Raises JobError when the autoreset mode is unknown or `step_limit` is malformed.
        """
        self.job_id = job_id
        self.num_envs = env.num_envs
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.notes = []
        self.faults = Counter()
        self._batch = VectorBatch(env, job_id, self.notes)
        self._limit = checked_step_limit(self._batch.step_limit(), step_limit, job_id, self.notes)
        self.step_limit = self._limit
        self._make = make
        self._seed: int | None = None
        self._failures = 0  # in a row, without one good step
        streams = self.num_envs
        self._none = np.zeros(streams, np.bool_)
        self._none.flags.writeable = False
        self.replayed_equal = ~self._none
        # Where each stream stands: the newest observation, and what came with it.
        self._attempt = np.full(streams, -1, np.int64)
        self._elapsed = np.zeros(streams, np.int64)
        self._observations: list[Any] = [None] * streams
        self._rewards = np.zeros(streams)
        self._first = self._terminated = self._truncated = self._none
        self._masks: list[Any] = [None] * streams
        self._actions: list[list[Any]] = [[] for _ in range(streams)]  # of the unfinished attempts
        self._lost = self._none  # the environment is not where the stream is
        # What was delivered of it, and what comes next.
        self._delivered: tuple = ()
        self._active = self._none
        self._divided = False  # only the ends were delivered; the others wait
        self._begun: tuple[list, list] | None = None  # how SAME_STEP goes on after the ends
        self._restart = False  # the next tick begins every stream anew
        self._adrift = False  # no unfinished attempt can go on

    def reset(self, seed: int) -> Tick:
        self._seed = checked_seed(seed)
        self._attempt[:] = -1
        self._failures = 0
        return self._begin_all(self._seed)

    def step(self, actions: Sequence[Any]) -> Tick:
        if self._seed is None:
            raise JobError(f"{self.job_id}: call reset(seed) before step")
        check_actions(actions, self.job_id, self.num_envs)
        if self._restart:
            return self._begin_all(self._seed)
        if self._adrift:
            return self._truncate_running(self._seed)
        if self._divided:
            return self._begin_ended(self._seed)
        return self._advance(actions, self._seed)

    def attempts(self) -> np.ndarray:
        return self._attempt.copy()

    def state(self) -> dict[str, np.ndarray]:
        if self._seed is None:
            raise JobError(f"{self.job_id} has no state before reset(seed)")
        state = {
            "seed": np.array(self._seed, np.int64),
            "attempt": self._attempt.copy(),
            "elapsed": self._elapsed.copy(),
            "failures": np.array(self._failures, np.int64),
            "reward": self._rewards.copy(),
            "first": self._first.copy(),
            "terminated": self._terminated.copy(),
            "truncated": self._truncated.copy(),
            "lost": self._lost | (~self._ended() & self._adrift),
            "divided": np.array(self._divided),
            "restart": np.array(self._restart),
            "active": self._active.copy(),
            "faults": faults_to_array(self.faults),
        }
        space = self.observation_space
        for stream in range(self.num_envs):
            keep(state, f"observation/{stream}", take_apart(space, self._observations[stream]))
            keep(state, f"delivered/{stream}", take_apart(space, self._delivered[stream]))
            keep_actions(state, stream, self.action_space, self._actions[stream])
        return state

    def restore(self, state: dict[str, np.ndarray]) -> Tick:
        check_state(state, ("attempt", "divided"), self.job_id, self.num_envs)
        space, streams = self.observation_space, range(self.num_envs)
        self._seed = int(state["seed"])
        self.faults = faults_from_array(state["faults"])
        self._failures = int(state["failures"])
        self._attempt, self._elapsed = state["attempt"].copy(), state["elapsed"].copy()
        self._rewards, self._first = state["reward"].copy(), state["first"].copy()
        self._terminated, self._truncated = state["terminated"].copy(), state["truncated"].copy()
        self._divided, self._restart = bool(state["divided"]), bool(state["restart"])
        self._begun, self._masks = None, [None] * self.num_envs
        saved = [kept(state, f"observation/{stream}") for stream in streams]
        self._observations = [put_together(space, iter(leaves)) for leaves in saved]
        self._actions = [actions_from_state(state, stream, self.action_space) for stream in streams]
        running = ~self._ended()
        came = self._replay(self._seed, running & ~state["lost"], saved)
        self.replayed_equal = came | ~running
        self._lost = running & ~came
        self._adrift = not came.any()
        for stream in np.flatnonzero(self._lost & ~state["lost"]):
            self.faults["resume differed"] += 1
            attempt, elapsed = int(self._attempt[stream]), int(self._elapsed[stream])
            self.notes.append(difference_note(self.job_id, int(stream), attempt, elapsed))
        self._delivered = tuple(put_together(space, iter(kept(state, f"delivered/{stream}"))) for stream in streams)
        return self._deliver(state["active"].copy())

    def close(self) -> None:
        self._batch.env.close()

    def _ended(self) -> np.ndarray:
        return self._terminated | self._truncated

    def _advance(self, actions: Sequence[Any], seed: int) -> Tick:
        """One step of the environment, in which only a NEXT_STEP of its own begins attempts."""
        begins, lost = self._ended(), self._lost
        given = [
            self._batch.filler if ignored else as_given(action)
            for action, ignored in zip(actions, begins | lost, strict=True)
        ]
        try:
            arrival = self._batch.step(given)
        except Exception as error:
            self._fail("step", error)
            return self._truncate_running(seed)
        self._failures = 0
        self._attempt += begins
        self._elapsed = np.where(begins, 0, self._elapsed + ~lost)
        self._observations = [
            before if gone else now
            for before, now, gone in zip(self._observations, arrival.observations, lost, strict=True)
        ]
        self._rewards = np.array([usable_reward(reward, self.faults) for reward in arrival.rewards])
        self._rewards[begins | lost] = 0.0
        self._first = begins
        self._terminated = arrival.terminated & ~begins & ~lost
        self._truncated = ((arrival.truncated & ~begins) | self._over(begins) | lost) & ~self._terminated
        self._lost = self._none
        self._record(given)
        ended = self._ended()
        self._masks = [None if end else mask for end, mask in zip(ended, arrival.masks, strict=True)]
        if not ended.any() or not (self._batch.masked or self._batch.same_step):
            return self._deliver(~self._none)
        self._divided = True
        if not self._batch.masked:
            self._begun = (arrival.begun, arrival.masks)
        return self._deliver(ended)

    def _over(self, begins: np.ndarray) -> np.ndarray:
        """bool[E]: attempts that the step limit ends."""
        over = (self._elapsed >= self._limit) & ~begins
        if self._batch.masked or not (over & ~self._terminated).any():
            return over
        self._adrift = True
        note = (
            f"{self.job_id} cannot reset one stream alone: when one attempt reaches the limit of "
            f"{self._limit} steps, the attempts of all {self.num_envs} streams are truncated with it"
        )
        if note not in self.notes:
            self.notes.append(note)
        return over

    def _record(self, given: list[Any]) -> None:
        """Keep the actions of unfinished attempts, where they can be taken again."""
        if not (self._batch.masked and self._batch.seeded):
            return
        ended = self._ended()
        for stream, actions in enumerate(self._actions):
            if ended[stream]:
                self._actions[stream] = []
            elif self._elapsed[stream] <= MAX_REPLAY:
                actions.append(given[stream])

    def _begin_ended(self, seed: int) -> Tick:
        """The tick after the ends: those streams begin anew, and the others, who waited, join."""
        ended = self._ended()
        attempt = self._attempt + ended
        if self._begun is not None:
            observations, masks = self._begun
        else:
            try:
                observations, masks = self._batch.reset_some(ended, self._seeds(seed, attempt))
            except Exception as error:
                self._fail("reset", error)
                return self._truncate_running(seed)
        for stream in np.flatnonzero(ended):
            self._observations[stream], self._masks[stream] = observations[stream], masks[stream]
        self._attempt = attempt
        self._elapsed[ended] = 0
        self._rewards[ended] = 0.0
        self._first = ended
        self._terminated = self._truncated = self._none
        self._divided, self._begun = False, None
        return self._deliver(~self._none)

    def _begin_all(self, seed: int) -> Tick:
        """Reset the whole environment for the next attempt of every stream."""
        while True:
            self._attempt += 1
            try:
                self._observations, self._masks = self._batch.reset(self._seeds(seed, self._attempt))
            except Exception as error:
                self._fail("reset", error)
                self._remake()
                continue
            self._elapsed[:] = 0
            self._rewards = np.zeros(self.num_envs)
            self._first = ~self._none
            self._terminated = self._truncated = self._lost = self._none
            self._actions = [[] for _ in range(self.num_envs)]
            self._divided, self._begun, self._restart, self._adrift = False, None, False, False
            return self._deliver(self._first)

    def _truncate_running(self, seed: int) -> Tick:
        """End every unfinished attempt where it stands; the next tick begins all of them anew."""
        running = ~self._ended()
        if not running.any():
            return self._begin_all(seed)
        if not self._divided:  # else this observation and its reward were not delivered yet
            self._rewards[running] = 0.0
        self._first = self._none
        self._truncated = self._truncated | running
        self._masks = [None] * self.num_envs
        self._divided, self._begun, self._restart, self._adrift = False, None, True, False
        self._lost = self._none
        return self._deliver(running)

    def _deliver(self, active: np.ndarray) -> Tick:
        self._active = active
        self._delivered = tuple(
            now if on or not self._delivered else self._delivered[stream]
            for stream, (now, on) in enumerate(zip(self._observations, active, strict=True))
        )
        return Tick(
            self._delivered,
            np.where(active, self._rewards, 0.0),
            self._first & active,
            self._terminated & active,
            self._truncated & active,
            active,
            tuple(mask if on else None for mask, on in zip(self._masks, active, strict=True)),
        )

    def _replay(self, seed: int, wanted: np.ndarray, saved: list[list[np.ndarray]]) -> np.ndarray:
        """Bring the environment to where the wanted streams stand; bool[E]: which came there."""
        lengths = np.array([len(actions) for actions in self._actions])
        wanted = wanted & (lengths == self._elapsed)
        if not (self._batch.masked and self._batch.seeded and wanted.any()):
            return self._none
        try:
            came, arrival = self._take_again(seed, wanted, lengths)
        except Exception as error:
            count_failure(self.faults, "replay", error)
            return self._none
        ignored: Counter[str] = Counter()  # the faults of these steps were counted at their time
        for stream in map(int, np.flatnonzero(came)):
            observation = arrival.observations[stream]
            reward = usable_reward(arrival.rewards[stream], ignored)
            came[stream] = same_moment(
                self.observation_space, observation, reward, saved[stream], self._rewards[stream]
            )
            if came[stream]:
                self._observations[stream] = observation
                self._masks[stream] = arrival.masks[stream]
        return came

    def _take_again(self, seed: int, wanted: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, Arrival]:
        """Take the kept actions of the wanted streams again: bool[E], which did not end early, and
        where they arrived. All streams step together, so each begins late enough to arrive last.
        Afterwards every stream can be stepped."""
        total = int(lengths.max(where=wanted, initial=0))
        begin = total - lengths  # the step at which the stream's own attempt begins
        seeds = self._seeds(seed, self._attempt)
        observations, masks = self._batch.reset(seeds)
        rewards = np.zeros(self.num_envs)
        ended, came = self._none, wanted.copy()
        for moment in range(total):
            anew = ended | (wanted & (begin == moment))
            if moment and anew.any():
                self._batch.reset_some(anew, seeds)
            within = wanted & (begin <= moment)
            arrival = self._batch.step(
                [
                    as_given(self._actions[stream][moment - int(begin[stream])])
                    if within[stream]
                    else self._batch.filler
                    for stream in range(self.num_envs)
                ]
            )
            ended = arrival.terminated | arrival.truncated
            came &= ~(within & ended)
            observations, rewards, masks = arrival.observations, arrival.rewards, arrival.masks
        anew = ~came | ended | (lengths == 0)
        if total and anew.any():
            fresh, fresh_masks = self._batch.reset_some(anew, seeds)
            for stream in np.flatnonzero(anew):
                observations[stream], masks[stream] = fresh[stream], fresh_masks[stream]
            rewards = np.where(anew, 0.0, rewards)
        return came, Arrival(observations, rewards, self._none, self._none, masks, observations)

    def _seeds(self, seed: int, attempt: np.ndarray) -> list[int]:
        return [attempt_seed(seed, stream, int(number)) for stream, number in enumerate(attempt)]

    def _remake(self) -> None:
        """Replace an environment that cannot be reset, where there is a way to make another."""
        if self._make is not None:
            env = made_anew(self._batch.env, self._make, self.job_id, self.faults)
            self._batch = VectorBatch(env, self.job_id, self.notes)

    def _fail(self, verb: str, error: Exception) -> None:
        self._failures = next_failure(self.job_id, self.faults, self._failures, verb, error)
