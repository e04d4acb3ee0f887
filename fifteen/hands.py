"""Hands: a fixed grid of choices -> actions of any Gymnasium space.

One network serves every job, so every action is a choice among M factors x B bins, of which a job
opens some. The space is compiled into closures once, because they run at every step.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import ge
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from fifteen.errors import JobError, SpaceError
from fifteen.senses import declared, refuse, size_of

BOX_BINS = 11  # bins of a Box dimension
LARGEST_CHOICE = 4096  # values of a Discrete, or of an entry of a MultiDiscrete
WIDENING, WIDEST = 1.002, 1e4  # growth of the half-range of an unbounded Box dimension, and its cap

_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple"

# An action consists of K numbers, each of one factor or of several (its digits).
_Decode = Callable[[np.ndarray, np.ndarray], Any]  # (int[K], float64[K] half-ranges) -> action
_Allow = Callable[[Any, list[Any]], None]  # (mask, K times None or bool[n], to be filled in)


@dataclass(frozen=True)
class HandShape:
    """The grid of choices of one action space; hashable, so that it can be static under jit."""

    factors: int  # M
    bins: int  # B, the smallest that the space needs
    digits: tuple[int, ...]  # [M] position within the factor's multi-digit group, else 0
    group: tuple[int, ...]  # [M] index of the factor's multi-digit group, else -1
    ordered: tuple[int, ...]  # [M] bins of a Box dimension, which lie in order; 0 for mere alternatives


class Valid(NamedTuple):
    """Which choices lead to an action. The digits of a group are drawn in order, given the first."""

    single: np.ndarray  # bool[M, B]; the rows of multi-digit factors are all False
    table: np.ndarray  # bool[G, B, ..., B], an axis for each digit: valid numbers of each group


@final
class Hands:
    """Actions of one Gymnasium space as choices among M factors x B bins, in canonical order.

    One factor for each Discrete, entry of MultiDiscrete, bit of MultiBinary and dimension of Box;
    more than `bins` values are several digits, most significant first. A bounded Box dimension is an
    even grid, ends included; an unbounded one a grid over `range`, which widens as its end is chosen.
    """

    shape: HandShape
    range: np.ndarray  # float64[M]: present half-range of unbounded Box factors; state to be saved

    def __init__(self, space: gym.Space, bins: int = 16, max_factors: int = 128):
        """Raises SpaceError for spaces that are unsupported, empty, or of too many factors."""
        if not 2 <= bins <= 16:
            raise ValueError(f"bins is {bins}, expected 2 to 16")
        counts: list[int] = []  # [K] values of each number
        self._decode, self._allow = _hand(space, "action", counts, bins)
        if not counts:
            raise SpaceError(f"the action space {space} has a single action: nothing to choose")
        if max(counts) > LARGEST_CHOICE:
            raise SpaceError(
                f"the action space {space} has a choice among {max(counts)} values, at most "
                f"{LARGEST_CHOICE} are supported. Split it (gymnasium.ActionWrapper, MultiDiscrete)"
            )
        length = next(d for d in range(1, 13) if bins**d >= max(counts))  # of every group
        lengths = [length if n > bins else 1 for n in counts]
        if sum(lengths) > max_factors:
            raise SpaceError(
                f"the action space {space} needs {sum(lengths)} factors (one for each dimension, bit "
                f"or digit), at most {max_factors} are supported. Wrap the environment "
                "(gymnasium.ActionWrapper) so that fewer choices make up an action"
            )
        several = np.array(lengths) > 1
        groups = np.where(several, np.cumsum(several) - 1, -1).tolist()
        self.shape = HandShape(
            factors=sum(lengths),
            bins=bins if several.any() else max(counts),
            digits=tuple(d for n in lengths for d in range(n)),
            group=tuple(g for g, n in zip(groups, lengths, strict=True) for _ in range(n)),
            ordered=tuple(
                c if box and n == 1 else 0
                for c, n, box in zip(counts, lengths, _in_boxes(space), strict=True)
                for _ in range(n)
            ),
        )
        self.range = np.ones(self.shape.factors)
        self._space, self._counts, self._groups = space, counts, groups
        self._first = np.cumsum([0, *lengths[:-1]], dtype=np.int64)  # [K] first factor of each number
        self._place: np.ndarray | None = None  # [M] what a digit counts for
        if several.any():
            self._place = np.array([bins ** (n - 1 - d) for n in lengths for d in range(n)])
        self._all = Valid(
            np.zeros((self.shape.factors, self.shape.bins), np.bool_),
            np.zeros((several.sum(), *[self.shape.bins] * length), np.bool_),
        )
        self._all = self._with([np.ones(n, np.bool_) for n in counts])
        for array in self._all:
            array.flags.writeable = False  # shared by all calls of `valid`

    def valid(self, action_mask: Any = None) -> Valid:
        """Which choices are open. action_mask: as Gymnasium's `space.sample(mask=...)` takes it.

        Raises JobError if the mask has another structure or shape, or allows no action.
        """
        if action_mask is None:
            return self._all
        allowed: list[Any] = [None] * len(self._counts)
        self._allow(action_mask, allowed)
        return self._with(allowed)

    def _with(self, allowed: list[Any]) -> Valid:
        single, table = self._all.single.copy(), self._all.table.copy()
        for flags, first, group in zip(allowed, self._first, self._groups, strict=True):
            if flags is not None and group < 0:
                single[first, : len(flags)] = flags
            elif flags is not None:
                table[group].reshape(-1)[: len(flags)] = flags
        return Valid(single, table)

    def decode(self, choice: np.ndarray) -> Any:
        """The action of a choice, always inside the space. choice: int[M], each in 0..B-1.

        Widens `range` where the outermost bin of an unbounded dimension is chosen. Raises SpaceError
        for a choice that stands for no action.
        """
        numbers = np.asarray(choice)
        if numbers.shape != self.range.shape:
            raise SpaceError(f"the choice has shape {numbers.shape}, expected {self.range.shape}")
        if self._place is not None:
            numbers = np.add.reduceat(numbers * self._place, self._first)
        listed = numbers.tolist()  # faster than numpy for the few numbers that an action has
        if min(listed) < 0 or any(map(ge, listed, self._counts)):
            raise SpaceError(
                f"the choice {choice} stands for the numbers {listed}, but {self._space} has only "
                f"{self._counts} values. Draw from valid()"
            )
        if self._place is None:
            return self._decode(numbers, self.range)
        ranges = self.range[self._first]
        action = self._decode(numbers, ranges)
        self.range[self._first] = ranges
        return action


def _hand(space: gym.Space, where: str, counts: list[int], bins: int) -> tuple[_Decode, _Allow]:
    """How numbers become an action, and a mask flags. Appends the values of each number to counts."""
    if isinstance(space, gs.Dict):
        return _hand_dict(space, where, counts, bins)
    if isinstance(space, gs.Tuple):
        return _hand_tuple(space, where, counts, bins)
    if isinstance(space, gs.Box):
        return _hand_box(space, where, counts, bins)
    if isinstance(space, gs.Discrete):
        return _hand_discrete(space, where, counts)
    if isinstance(space, gs.MultiDiscrete):
        return _hand_multi_discrete(space, where, counts)
    if isinstance(space, gs.MultiBinary):
        return _hand_multi_binary(space, where, counts)
    refuse(space, where, _SUPPORTED)


def _in_boxes(space: gym.Space) -> list[bool]:
    """Of each number that an action consists of, in canonical order: whether it is a Box dimension."""
    if isinstance(space, gs.Dict):
        return [flag for part in space.spaces.values() for flag in _in_boxes(part)]
    if isinstance(space, gs.Tuple):
        return [flag for part in space.spaces for flag in _in_boxes(part)]
    size = 1 if isinstance(space, gs.Discrete) else math.prod(space.shape or ())
    return [isinstance(space, gs.Box)] * size


def _hand_dict(space: gs.Dict, where: str, counts: list[int], bins: int) -> tuple[_Decode, _Allow]:
    hands = {k: _hand(s, f"{where}[{k!r}]", counts, bins) for k, s in space.spaces.items()}

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return {key: part(numbers, ranges) for key, (part, _) in hands.items()}

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is None:
            return
        if not isinstance(mask, Mapping) or mask.keys() != hands.keys():
            raise _bad_mask(mask, where, f"a dict with the keys {list(hands)}")
        for key, (_, allow_part) in hands.items():
            allow_part(mask[key], allowed)

    return decode, allow


def _hand_tuple(space: gs.Tuple, where: str, counts: list[int], bins: int) -> tuple[_Decode, _Allow]:
    hands = [_hand(s, f"{where}[{i}]", counts, bins) for i, s in enumerate(space.spaces)]

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return tuple([part(numbers, ranges) for part, _ in hands])

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is None:
            return
        if not isinstance(mask, tuple | list) or len(mask) != len(hands):
            raise _bad_mask(mask, where, f"a tuple of {len(hands)} masks")
        for part, (_, allow_part) in zip(mask, hands, strict=True):
            allow_part(part, allowed)

    return decode, allow


def _hand_discrete(space: gs.Discrete, where: str, counts: list[int]) -> tuple[_Decode, _Allow]:
    k, n, start, kind = len(counts), int(space.n), int(space.start), space.dtype.type
    counts.append(n)

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return kind(start + int(numbers[k]))

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is not None:
            allowed[k] = _flags(mask, n, where)

    return decode, allow


def _hand_multi_discrete(space: gs.MultiDiscrete, where: str, counts: list[int]) -> tuple[_Decode, _Allow]:
    first, values = len(counts), [int(n) for n in space.nvec.reshape(-1)]
    counts += values
    to, start = slice(first, len(counts)), space.start

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return start + numbers[to].astype(start.dtype).reshape(start.shape)

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is None:
            return
        entries = [mask]
        for n in start.shape:  # tuples as deep as nvec has axes
            if any(not isinstance(e, tuple | list | np.ndarray) or len(e) != n for e in entries):
                raise _bad_mask(mask, where, f"nested tuples of shape {start.shape}")
            entries = [part for entry in entries for part in entry]
        allowed[to] = [_flags(e, n, where) for e, n in zip(entries, values, strict=True)]

    return decode, allow


def _hand_multi_binary(space: gs.MultiBinary, where: str, counts: list[int]) -> tuple[_Decode, _Allow]:
    first, shape = len(counts), space.shape
    counts += [2] * size_of(space)
    to = slice(first, len(counts))

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return numbers[to].astype(np.int8).reshape(shape)

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is None:
            return
        kinds = f"shape {shape} of 0 (only 0), 1 (only 1) and 2 (either)"
        bits = _entries(mask, (0, 1, 2), shape, where, kinds).reshape(-1)
        allowed[to] = list(np.stack((bits != 1, bits != 0), axis=1))

    return decode, allow


def _hand_box(space: gs.Box, where: str, counts: list[int], bins: int) -> tuple[_Decode, _Allow]:
    first, shape, dtype = len(counts), space.shape, space.dtype
    integer = dtype.kind != "f"
    wide = dtype if integer else np.result_type(dtype, np.float64)
    limits = [a.reshape(-1).tolist() for a in (space.low, space.high, *declared(space))]
    grids = [_grid(a, b, c, d, integer, bins) for a, b, c, d in zip(*limits, strict=True)]
    counts += [len(base) for base, _ in grids]
    to, rows = slice(first, len(counts)), np.arange(len(grids))

    def filled(lists: list[list], kind: np.dtype | type) -> np.ndarray:  # [dimensions, bins]
        full = [row + row[-1:] * (bins - len(row)) for row in lists]  # no number reaches these
        return np.array(full, kind).reshape(-1, bins)

    base = filled([base for base, _ in grids], wide)
    reach = filled([reach for _, reach in grids], np.float64)
    growth = np.where(np.abs(reach) == 1, WIDENING, 1.0)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    table = np.minimum(np.maximum(base.T, low), high).astype(dtype).T

    def decode_bounded(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        return table[rows, numbers[to]].reshape(shape)

    if integer:  # only the step is a float: float64 cannot hold every int64
        zero = [base[0] for base, _ in grids]
        down = np.array([max(a - b, -WIDEST) for a, b in zip(limits[0], zero, strict=True)])
        up = np.array([min(a - b, WIDEST) for a, b in zip(limits[1], zero, strict=True)])

        def moved(at: tuple, move: np.ndarray) -> np.ndarray:
            step = np.clip(np.rint(move), down, up).astype(np.int64)
            return base[at] + step.astype(dtype)  # unsigned: wraps around to the right sum
    else:
        largest = np.finfo(str(dtype)).max
        lowest, highest = np.maximum(low, -largest), np.minimum(high, largest)

        def moved(at: tuple, move: np.ndarray) -> np.ndarray:
            return np.clip(base[at] + move, lowest, highest).astype(dtype)

    def decode(numbers: np.ndarray, ranges: np.ndarray) -> Any:
        at = rows, numbers[to]
        action = moved(at, reach[at] * ranges[to])
        ranges[to] = np.minimum(ranges[to] * growth[at], WIDEST)
        return action.reshape(shape)

    def allow(mask: Any, allowed: list[Any]) -> None:
        if mask is not None:
            raise _bad_mask(mask, where, "None, since a Box has no mask")

    return (decode if reach.any() else decode_bounded), allow


def _grid(low: Any, high: Any, below: bool, above: bool, integer: bool, bins: int) -> tuple[list, list]:
    """The bins of one dimension: value = base + reach x half-range. below, above: bounds exist."""
    k = min(BOX_BINS, bins)
    shares = [i / (k - 1) for i in range(k)]
    if integer and int(high) - int(low) < bins:
        exact = list(range(int(low), int(high) + 1))
        return exact, [0.0] * len(exact)
    if below and above and low == high:
        return [low], [0.0]
    if below and above:
        even = [low * (1 - share) + high * share for share in shares]
        return [round(x) for x in even] if integer else even, [0.0] * k
    if below:
        return [low] * k, shares
    if above:
        return [high] * k, [share - 1 for share in shares]
    return [min(max(0, low), high)] * k, [2 * share - 1 for share in shares]


def _flags(mask: Any, n: int, where: str) -> np.ndarray:
    """bool[n] of the mask of one number."""
    kinds = f"shape ({n},) of 0 (forbidden) and 1 (allowed)"
    flags = _entries(mask, (0, 1), (n,), where, kinds) == 1
    if not flags.any():
        raise _bad_mask(mask, where, f"{kinds}, at least one of them 1")
    return flags


def _entries(mask: Any, values: tuple[int, ...], shape: tuple[int, ...], where: str, expected: str) -> np.ndarray:
    try:
        array = np.asarray(mask)
    except ValueError as error:  # ragged
        raise _bad_mask(mask, where, expected) from error
    known = [array == value for value in values]
    if array.shape != shape or not np.logical_or.reduce(known).all():
        raise _bad_mask(mask, where, expected)
    return array


def _bad_mask(mask: Any, where: str, expected: str) -> JobError:
    return JobError(
        f"the action mask of the {where} is {mask!r}, expected {expected}, as in Gymnasium's "
        "space.sample(mask=...). Correct info['action_mask'] in the environment"
    )
