"""Recall: jobs in which what was seen some steps ago decides what is right now.

How a symbol looks, and which action answers it, is drawn for each job: first that is to be learned, from attempt to
attempt, and then in each attempt the symbol is to be remembered.

- T-maze (Bakker, 2001, "Reinforcement learning with long short-term memory"): a corridor of `length` steps, at its end
  a junction. A cue seen on the way tells the side of the goal. Turning at the junction terminates the attempt with 4
  at the goal and -0.1 at the other side; a move into a wall gives -0.1, any other 0. In "majority" five cues are shown
  and the side seen more often counts (Morcos and Harvey, 2016).
- Memory chain (bsuite's memory_len and memory_size: Osband et al., 2020, arXiv:1908.03568): items are shown one after
  the other, after a delay one of them is asked for; 1 for the right answer and -1 for any other terminates the
  attempt. The observation tells the time that remains, as in bsuite.
- Repeat previous (POPGym: Morad et al., 2023, arXiv:2303.01859): in each step the symbol of `delay` steps ago is asked
  for, 1 for the right answer and -1 for any other, 0 while there is none. POPGym's k is delay + 1, and its rewards are
  divided by the number of steps.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import picked, whole
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

SYMBOLS = 4
CHANNELS = 4  # numbers that show a symbol

LONGEST = 12  # corridor
CUES = 5  # shown in "majority": odd, so that one side always has more
MAZE_LIMIT = 40  # steps
AHEAD, BACK, LEFT, RIGHT = range(4)
GOAL, MISTAKE = 4.0, -0.1

ITEMS = 3
LONGEST_DELAY = 20
CHAIN_LIMIT = ITEMS + LONGEST_DELAY + 1

FARTHEST = 8  # steps back that a symbol can be asked for
REPEAT_LIMIT = 50


class Drawn(NamedTuple):
    """What the jobs of all families here are made from: drawn at once, as each draw takes seconds to compile."""

    codes: Array  # float32[2, SYMBOLS, CHANNELS], how symbols look: in one channel each, and dense, in all
    order: Array  # int32[SYMBOLS], a permutation
    rest: Array  # float32[4], uniform


def _draw(key: Array) -> Drawn:
    drawn = jax.random.uniform(key, (SYMBOLS * CHANNELS + 2 * SYMBOLS + CHANNELS + 4,))
    sizes, rows, order, signs, rest = jnp.split(drawn, np.cumsum([SYMBOLS * CHANNELS, SYMBOLS, SYMBOLS, CHANNELS]))
    # The rows of a Hadamard matrix differ from each other in two channels.
    dense = jnp.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], jnp.float32)
    signed = jnp.stack([jnp.eye(SYMBOLS, CHANNELS), dense])[:, jnp.argsort(rows)]
    signed = signed * jnp.where(signs < 0.5, -1.0, 1.0)[None, None]
    # Of size 0.5 to 1, so that noise of up to 0.5 leaves the signs.
    sizes = 0.5 + 0.5 * sizes.reshape(1, SYMBOLS, CHANNELS)
    return Drawn(signed * sizes, jnp.argsort(order).astype(jnp.int32), rest)


class MazeState(NamedTuple):
    place: Array  # int32[], steps from the start; the junction is at `length`
    length: Array  # int32[]
    signs: Array  # float32[LONGEST], the side of the cue shown at each place: -1 left, 1 right, 0 no cue
    goal: Array  # int32[], LEFT or RIGHT


@final
class TMaze(Job):
    codes: Array  # float32[2, CHANNELS], how the cues for left and right look
    moves: Array  # int32[4], AHEAD, BACK, LEFT or RIGHT: what each action does
    shortest: Array  # int32[], corridor
    longest: Array  # int32[]
    late: Array  # bool[], the cue is shown at a drawn place of the corridor, not at its start
    majority: Array  # bool[], CUES cues are shown
    noise: Array  # float32[], of the channels in all places
    step_limit: int = eqx.field(static=True, default=MAZE_LIMIT)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (CHANNELS + 2,), np.float32)  # the cue, whether at the start, at the junction

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(4)

    def reset(self, key: Array) -> tuple[MazeState, Array]:
        drawn = jax.random.uniform(key, (CUES + 2 + CHANNELS,))
        sides = jnp.where(drawn[:CUES] < 0.5, -1.0, 1.0)
        length = whole(drawn[CUES], self.shortest, self.longest + 1)
        shown_at = jnp.where(self.late, whole(drawn[CUES + 1], 0, length), 0)
        single = jnp.where(jnp.arange(LONGEST) == shown_at, sides[0], 0.0)
        signs = jnp.where(self.majority, jnp.pad(sides, (0, LONGEST - CUES)), single)
        goal = jnp.where(jnp.sum(signs) > 0, RIGHT, LEFT).astype(jnp.int32)
        state = MazeState(jnp.zeros((), jnp.int32), length, signs, goal)
        return state, self._look(state, drawn[-CHANNELS:])

    def step(self, state: MazeState, action: Any, key: Array) -> tuple[MazeState, Array, Array, Array]:
        move = picked(self.moves, action)
        at_junction = state.place == state.length
        turn = (move == LEFT) | (move == RIGHT)
        wall = (turn & ~at_junction) | ((move == AHEAD) & at_junction) | ((move == BACK) & (state.place == 0))
        step = jnp.where(turn | wall, 0, jnp.where(move == AHEAD, 1, -1))
        end = turn & at_junction
        reward = jnp.where(end & (move == state.goal), GOAL, jnp.where(end | wall, MISTAKE, 0.0))
        state = state._replace(place=state.place + step)
        return state, self._look(state, jax.random.uniform(key, (CHANNELS,))), reward, end

    def _look(self, state: MazeState, drawn: Array) -> Array:
        sign = picked(state.signs, state.place)
        cue = jnp.where(sign == 0.0, 0.0, jnp.where(sign > 0, self.codes[1], self.codes[0]))
        cue = jnp.clip(cue + self.noise * (2.0 * drawn - 1.0), -1.0, 1.0)
        flags = jnp.stack([state.place == 0, state.place == state.length]).astype(jnp.float32)
        return jnp.concatenate([cue, flags])


@final
class TMazeFamily(Family):
    name: str = eqx.field(static=True, default="recall/t-maze")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("fixed-length", "varied-length", "dense-cue", "noise", "late-cue", "majority")
    )
    lifetime: int = eqx.field(static=True, default=400)
    reference: str = eqx.field(
        static=True,
        default="straight ahead and to the side of the cue: 4 an attempt (Bakker, 2001)",
    )

    def sample(self, template: Array, key: Array) -> TMaze:
        drawn = _draw(key)
        _, varied, dense, noisy, late, majority = jnp.arange(len(self.templates)) == template
        lowest = jnp.where(majority, CUES, 2)
        longest = whole(drawn.rest[0], lowest, LONGEST - 1)
        return TMaze(
            codes=jnp.where(dense | noisy, drawn.codes[1], drawn.codes[0])[:2],
            moves=drawn.order,
            shortest=jnp.where(varied, whole(drawn.rest[1], lowest, longest + 1), longest),
            longest=jnp.where(varied, jnp.minimum(longest + 2, LONGEST), longest),
            late=late,
            majority=majority,
            noise=jnp.where(noisy, 0.1 + 0.4 * drawn.rest[2], 0.0),
        )

    def teach(self, job: TMaze, state: MazeState) -> Array:
        wanted = jnp.where(state.place == state.length, state.goal, AHEAD)
        return (job.moves == wanted).astype(jnp.float32)


class ChainState(NamedTuple):
    steps: Array  # int32[], in this attempt
    items: Array  # int32[ITEMS], symbols
    asked: Array  # int32[], which item
    delay: Array  # int32[], steps between the last item and the question


@final
class MemoryChain(Job):
    codes: Array  # float32[SYMBOLS, CHANNELS]
    answers: Array  # int32[SYMBOLS], the right action for each symbol
    kinds: Array  # int32[], symbols in use
    count: Array  # int32[], items shown
    shortest: Array  # int32[], delay
    longest: Array  # int32[]
    noise: Array  # float32[], of the channels in all steps
    distracting: Array  # bool[], symbols that do not count are shown during the delay
    step_limit: int = eqx.field(static=True, default=CHAIN_LIMIT)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (CHANNELS + ITEMS + 1,), np.float32)  # the symbol, which is asked, time left

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(SYMBOLS)

    def reset(self, key: Array) -> tuple[ChainState, Array]:
        drawn = jax.random.uniform(key, (ITEMS + 2 + CHANNELS + 1,))
        state = ChainState(
            jnp.zeros((), jnp.int32),
            whole(drawn[:ITEMS], 0, self.kinds),
            whole(drawn[ITEMS], 0, self.count),
            whole(drawn[ITEMS + 1], self.shortest, self.longest + 1),
        )
        return state, self._look(state, drawn[-CHANNELS - 1 :])

    def step(self, state: ChainState, action: Any, key: Array) -> tuple[ChainState, Array, Array, Array]:
        end = state.steps == self.count + state.delay
        right = action == picked(self.answers, picked(state.items, state.asked))
        reward = jnp.where(end, jnp.where(right, 1.0, -1.0), 0.0)
        state = state._replace(steps=state.steps + 1)
        return state, self._look(state, jax.random.uniform(key, (CHANNELS + 1,))), reward, end

    def _look(self, state: ChainState, drawn: Array) -> Array:
        last = self.count + state.delay
        other = whole(drawn[-1], 0, self.kinds)
        item = jnp.where(state.steps < self.count, picked(state.items, state.steps), other)
        shown = (state.steps < self.count) | (self.distracting & (state.steps < last))
        symbol = jnp.where(shown, picked(self.codes, item), 0.0)
        symbol = jnp.clip(symbol + self.noise * (2.0 * drawn[:-1] - 1.0), -1.0, 1.0)
        asked = ((jnp.arange(ITEMS) == state.asked) & (state.steps == last)).astype(jnp.float32)
        left = jnp.maximum(1.0 - state.steps.astype(jnp.float32) / last.astype(jnp.float32), 0.0)
        return jnp.concatenate([symbol, asked, left[None]])


@final
class MemoryChainFamily(Family):
    name: str = eqx.field(static=True, default="recall/memory-chain")
    templates: tuple[str, ...] = eqx.field(
        static=True,
        default=("length", "symbols", "dense-symbols", "noise", "distractors", "varied-delay", "size"),
    )
    lifetime: int = eqx.field(static=True, default=400)
    reference: str = eqx.field(
        static=True,
        default="the answer to the symbol asked for: 1 an attempt, no regret in bsuite (Osband et al., 2020)",
    )

    def sample(self, template: Array, key: Array) -> MemoryChain:
        drawn = _draw(key)
        _, symbols, dense, noisy, distracting, varied, several = jnp.arange(len(self.templates)) == template
        one = jnp.ones((), jnp.int32)
        longest = whole(drawn.rest[0], one, LONGEST_DELAY + 1)
        more = whole(drawn.rest[3], 3, SYMBOLS + 1)
        return MemoryChain(
            codes=jnp.where(dense | noisy, drawn.codes[1], drawn.codes[0]),
            answers=drawn.order,
            kinds=jnp.where(symbols | dense, more, 2),
            count=jnp.where(several, more - 1, 1),  # 2 or 3
            shortest=jnp.where(varied, whole(drawn.rest[1], one, longest + 1), longest),
            longest=longest,
            noise=jnp.where(noisy, 0.1 + 0.4 * drawn.rest[2], 0.0),
            distracting=distracting,
        )

    def teach(self, job: MemoryChain, state: ChainState) -> Array:
        right = jax.nn.one_hot(picked(job.answers, picked(state.items, state.asked)), SYMBOLS, dtype=jnp.float32)
        return jnp.where(state.steps == job.count + state.delay, right, 1.0 / SYMBOLS)


class RepeatState(NamedTuple):
    steps: Array  # int32[], in this attempt
    recent: Array  # int32[FARTHEST + 1], symbols; the one shown now is the first
    due: Array  # int32[], the symbol asked for now, -1 if there is none yet
    delay: Array  # int32[]


@final
class RepeatPrevious(Job):
    codes: Array  # float32[SYMBOLS, CHANNELS]
    answers: Array  # int32[SYMBOLS], the right action for each symbol
    shortest: Array  # int32[], delay
    longest: Array  # int32[]
    noise: Array  # float32[], of the channels
    stay: Array  # float32[], chance that the symbol is that of the step before
    mark: Array  # float32[], chance that a symbol is marked: then the last marked one is asked for; 0: by delay
    step_limit: int = eqx.field(static=True, default=REPEAT_LIMIT)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (CHANNELS + 2,), np.float32)  # the symbol, its mark, the delay

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(SYMBOLS)

    def reset(self, key: Array) -> tuple[RepeatState, Array]:
        drawn = jax.random.uniform(key, (CHANNELS + 4,))
        delay = whole(drawn[-1], self.shortest, self.longest + 1)
        nothing = jnp.full(FARTHEST + 1, -1, jnp.int32)
        return self._show(RepeatState(jnp.zeros((), jnp.int32), nothing, nothing[0], delay), drawn[:-1])

    def step(self, state: RepeatState, action: Any, key: Array) -> tuple[RepeatState, Array, Array, Array]:
        right = action == picked(self.answers, state.due)
        reward = jnp.where(state.due < 0, 0.0, jnp.where(right, 1.0, -1.0))
        state, seen = self._show(state._replace(steps=state.steps + 1), jax.random.uniform(key, (CHANNELS + 3,)))
        return state, seen, reward, jnp.array(False)

    def _show(self, state: RepeatState, drawn: Array) -> tuple[RepeatState, Array]:
        """Draw the next symbol from CHANNELS + 3 uniform numbers."""
        new = jnp.floor(drawn[CHANNELS] * SYMBOLS).astype(jnp.int32)
        stays = (drawn[CHANNELS + 1] < self.stay) & (state.steps > 0)
        symbol = jnp.where(stays, state.recent[0], new)
        recent = jnp.concatenate([symbol[None], state.recent[:-1]])
        marked = drawn[CHANNELS + 2] < self.mark
        due = jnp.where(marked, symbol, state.due)
        due = jnp.where(self.mark > 0.0, due, picked(recent, state.delay))
        shown = picked(self.codes, symbol)
        shown = jnp.clip(shown + self.noise * (2.0 * drawn[:CHANNELS] - 1.0), -1.0, 1.0)
        told = jnp.where(self.shortest < self.longest, state.delay.astype(jnp.float32) / FARTHEST, 0.0)
        seen = jnp.concatenate([shown, jnp.stack([marked.astype(jnp.float32), told])])
        return RepeatState(state.steps, recent, due, state.delay), seen


@final
class RepeatPreviousFamily(Family):
    name: str = eqx.field(static=True, default="recall/repeat-previous")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("short", "long", "dense-symbols", "noise", "sticky", "varied-delay", "marked")
    )
    lifetime: int = eqx.field(static=True, default=6 * REPEAT_LIMIT)
    reference: str = eqx.field(
        static=True,
        default="the answer to the symbol asked for in every step: POPGym's highest return (Morad et al., 2023)",
    )

    def sample(self, template: Array, key: Array) -> RepeatPrevious:
        drawn = _draw(key)
        _, long, dense, noisy, sticky, varied, marked = jnp.arange(len(self.templates)) == template
        least = jnp.where(long, 3, 1)
        delay = whole(drawn.rest[0], least, jnp.where(long, FARTHEST, jnp.where(varied, 1, 2)) + 1)
        return RepeatPrevious(
            codes=jnp.where(dense | noisy, drawn.codes[1], drawn.codes[0]),
            answers=drawn.order,
            shortest=delay,
            longest=jnp.where(varied, 4, delay),
            noise=jnp.where(noisy, 0.1 + 0.4 * drawn.rest[2], 0.0),
            stay=jnp.where(sticky, 0.3 + 0.5 * drawn.rest[3], 0.0),
            mark=jnp.where(marked, 0.15 + 0.25 * drawn.rest[3], 0.0),
        )

    def teach(self, job: RepeatPrevious, state: RepeatState) -> Array:
        right = jax.nn.one_hot(picked(job.answers, state.due), SYMBOLS, dtype=jnp.float32)
        return jnp.where(state.due < 0, 1.0 / SYMBOLS, right)


FAMILIES = (TMazeFamily(), MemoryChainFamily(), RepeatPreviousFamily())
