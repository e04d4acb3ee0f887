"""Senses: any Gymnasium observation space -> a percept of fixed size.

One network serves every job, so every observation becomes `float32[slots]` and, where there is one,
an image. The space is compiled into closures once, because they run at every step of every
environment. The same space always gives the same slots, codes and projection, on every machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, final

import gymnasium as gym
import numpy as np
from gymnasium import spaces as gs

from fifteen.codes import CODE_SIZE, TEXT_KEY, category_code, projection, unit_codes
from fifteen.errors import SpaceError

IMAGE_SIZE = 32  # side of the image in a percept, pixels
THUMBNAIL_SIZE = 8  # side of the grey image that stands for the second and later images of a space
SMALLEST_IMAGE = 16  # a uint8 Box with a shorter side than this is a vector
ONE_HOT = 32  # categories up to this many are one-hot, more are random unit codes
ROUNDING = 0.501  # of averaged pixels: halves always go up, in whatever order they were summed
TEXT_SIZE = 32  # dimensions of the code of a text
OPEN_LIMIT = 1e6  # where no bound is declared, observations are clipped this far beyond zero
BOUNDLESS = 1e15  # a bound this large is a dtype's way to say that there is none

_OBSERVABLE = "Box, Discrete, MultiDiscrete, MultiBinary, Text, Dict and Tuple"


class _Draft:
    """What the writers of a compiled space fill in for one observation."""

    __slots__ = ("faults", "image", "vector")

    def __init__(self, size: int):
        self.vector = np.zeros(size, np.float32)
        self.image: np.ndarray | None = None
        self.faults: list[str] = []


_Read = Callable[[Any, list[str]], np.ndarray]  # (observation, faults) -> numbers within bounds
_Write = Callable[[Any, _Draft], None]


@dataclass(frozen=True)
class Sensation:
    """One observation as the mind receives it."""

    vector: np.ndarray  # float32[slots], always finite
    image: np.ndarray | None  # uint8[32, 32, 3]; None where the space has no image
    faults: tuple[str, ...]  # what had to be repaired: "non-finite", "outside", "dtype", "shape"


@final
class Senses:
    """Observations of one Gymnasium space as percepts, in the canonical flattening order.

    Box dimensions as they are (standardising is the model's business), Discrete and each entry of
    MultiDiscrete one-hot or as a unit code, MultiBinary as bits, Text as the sum of the codes of its
    (position, byte) pairs. A uint8 Box of shape [H, W], [H, W, C] or [C, H, W] with sides >= 16 and
    1, 3 or 4 channels is an image: the first is averaged to [32, 32, 3] ([H, W, 4] loses its alpha,
    [4, H, W], a stack of grey frames, its oldest), later ones are 8 x 8 grey values of the vector.
    """

    continuous: np.ndarray  # bool[slots]: slots that a running normaliser may standardise
    has_image: bool
    projected: int  # dimensions beyond the slots, sent through the fixed random projection

    def __init__(self, space: gym.Space, slots: int):
        """Raises SpaceError for Graph, Sequence, OneOf and spaces that Gymnasium does not know."""
        if slots < 4:
            raise ValueError(f"slots is {slots}, expected at least 4: a quarter may be a projection")
        self.has_image = False
        flags: list[bool] = []  # of each dimension: whether it is continuous
        self._write = self._compile(space, "observation", flags)
        dims, shared = len(flags), slots // 4
        self._size, self._own, self.projected = max(dims, slots), slots, 0
        self._projection: np.ndarray | None = None  # float32[projected, slots // 4]
        if dims > slots:
            self._own = slots - shared
            self.projected = dims - self._own
            self._projection = projection(self.projected, shared)
            flags = flags[: self._own] + [True] * shared
        self.continuous = np.zeros(slots, np.bool_)
        self.continuous[: len(flags)] = flags

    def encode(self, observation: Any) -> Sensation:
        """The percept of one observation.

        NaN becomes 0; infinities and values outside the declared bounds (or OPEN_LIMIT, where there
        are none) are clipped, another dtype is converted, axes of length one are added or dropped:
        each is told in `faults`. Raises SpaceError if structure or shape cannot be interpreted.
        """
        draft = _Draft(self._size)
        self._write(observation, draft)
        vector, faults = draft.vector, draft.faults
        if self._projection is not None:
            own, rest = vector[: self._own], vector[self._own :]
            vector = np.concatenate((own, rest @ self._projection))
        return Sensation(vector, draft.image, tuple(dict.fromkeys(faults)) if faults else ())

    def _compile(self, space: gym.Space, where: str, flags: list[bool]) -> _Write:
        if isinstance(space, gs.Dict):
            return _write_dict(
                {k: self._compile(s, f"{where}[{k!r}]", flags) for k, s in space.spaces.items()},
                where,
            )
        if isinstance(space, gs.Tuple):
            return _write_tuple(
                [self._compile(s, f"{where}[{i}]", flags) for i, s in enumerate(space.spaces)],
                where,
            )
        first = len(flags)
        if isinstance(space, gs.Box):
            read = _reader(space, where, *_limits(space))
            if _image_layout(space) and not self.has_image:
                self.has_image = True
                return _write_image(space, read)
            if _image_layout(space):
                flags += [True] * THUMBNAIL_SIZE**2
                return _write_thumbnail(space, read, slice(first, len(flags)))
            flags += [space.dtype.kind != "b"] * size_of(space)
            return _write_values(read, slice(first, len(flags)))
        if isinstance(space, gs.MultiBinary):
            flags += [False] * size_of(space)
            read = _reader(space, where, np.zeros(space.shape), np.ones(space.shape))
            return _write_values(read, slice(first, len(flags)))
        if isinstance(space, gs.Discrete):
            write, width = _write_discrete(space, where, first)
        elif isinstance(space, gs.MultiDiscrete):
            write, width = _write_multi_discrete(space, where, first)
        elif isinstance(space, gs.Text):
            write, width = _write_text(space, where, first), TEXT_SIZE
        else:
            refuse(space, where, _OBSERVABLE)
        flags += [False] * width
        return write


def refuse(space: gym.Space, where: str, supported: str) -> NoReturn:
    """Raises SpaceError for a space that is not among the supported."""
    raise SpaceError(
        f"the {where} space {space} is a {type(space).__name__}, which Fifteen has no fixed slots for. "
        f"Supported are {supported}. Wrap the environment (gymnasium.ObservationWrapper or "
        "ActionWrapper) so that it declares one of these"
    )


def size_of(space: gym.Space) -> int:
    """Dimensions of a space that has a shape."""
    return int(np.prod(space.shape or (), dtype=np.int64))


def declared(space: gs.Box) -> tuple[np.ndarray, np.ndarray]:
    """Which dimensions have a real lower bound, and which an upper. bool[*shape] each."""
    below = space.bounded_below & (np.abs(space.low.astype(np.float64)) < BOUNDLESS)
    above = space.bounded_above & (np.abs(space.high.astype(np.float64)) < BOUNDLESS)
    return below, above


def _limits(space: gs.Box) -> tuple[np.ndarray, np.ndarray]:
    """What observations are clipped to. float64[*shape] each, low <= high."""
    below, above = declared(space)
    low = np.where(below, space.low, 0).astype(np.float64)
    high = np.where(above, space.high, 0).astype(np.float64)
    return (
        np.where(below, low, np.minimum(high, 0) - OPEN_LIMIT),
        np.where(above, high, np.maximum(low, 0) + OPEN_LIMIT),
    )


def _reader(space: gym.Space, where: str, low: np.ndarray, high: np.ndarray) -> _Read:
    """Sound observations pass untouched, others are repaired. low, high: float64[*shape]."""
    shape, dtype = tuple(space.shape or ()), np.dtype(space.dtype)
    wide = np.result_type(dtype, np.float32)  # float16 cannot hold OPEN_LIMIT
    low, high = low.astype(wide), high.astype(wide)
    whole = dtype == np.uint8 and bool((low == 0).all() and (high == 255).all())  # none outside

    def read(observation: Any, faults: list[str]) -> np.ndarray:
        if (
            type(observation) is np.ndarray
            and observation.dtype == dtype
            and observation.shape == shape
            and (whole or ((observation >= low) & (observation <= high)).all())
        ):
            return observation
        values = _numbers(observation, space, where, faults)
        finite = np.isfinite(values)
        if not finite.all():
            faults.append("non-finite")
            values = np.where(np.isnan(values), 0.0, values)
        if dtype.kind in "iu":
            values = np.rint(values)
        clipped = np.clip(values, low, high)
        if ((clipped != values) & finite).any():
            faults.append("outside")
        return clipped

    return read


def _numbers(observation: Any, space: gym.Space, where: str, faults: list[str]) -> np.ndarray:
    """The observation as float64[*space.shape], whatever numbers it consists of."""
    shape, dtype = tuple(space.shape or ()), np.dtype(space.dtype)
    problem = f"the {where} cannot be read as {space}: expected shape {shape} of {dtype}, got "
    advice = ". Make the environment return what it declares, or declare what it returns"
    try:
        array = np.asarray(observation)
        if array.dtype.kind not in "biufO":
            raise TypeError(f"dtype {array.dtype}")
        with np.errstate(over="ignore"):  # too large for float64: becomes an infinity, told later
            values = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpaceError(f"{problem}{type(observation).__name__} ({error}){advice}") from error
    if not np.can_cast(array.dtype, dtype):
        faults.append("dtype")
    if values.shape != shape:
        if [n for n in values.shape if n != 1] != [n for n in shape if n != 1]:
            raise SpaceError(f"{problem}shape {values.shape}{advice}")
        faults.append("shape")
    return values.reshape(shape)


def _write_values(read: _Read, to: slice) -> _Write:
    def write(observation: Any, draft: _Draft) -> None:
        draft.vector[to] = read(observation, draft.faults).reshape(-1)

    return write


def _write_dict(parts: dict[str, _Write], where: str) -> _Write:
    def write(observation: Any, draft: _Draft) -> None:
        known = isinstance(observation, Mapping)
        if not known or not parts.keys() <= observation.keys():
            got = f"keys {list(observation)}" if known else type(observation).__name__
            raise SpaceError(f"the {where} is declared a Dict with keys {list(parts)}, got {got}")
        if len(observation) != len(parts):
            draft.faults.append("shape")  # what was never declared is left out
        for key, write_part in parts.items():
            write_part(observation[key], draft)

    return write


def _write_tuple(parts: list[_Write], where: str) -> _Write:
    def write(observation: Any, draft: _Draft) -> None:
        known = isinstance(observation, tuple | list)
        if not known or len(observation) != len(parts):
            got = f"{len(observation)} parts" if known else type(observation).__name__
            raise SpaceError(f"the {where} is declared a Tuple of {len(parts)} parts, got {got}")
        for part, write_part in zip(observation, parts, strict=True):
            write_part(part, draft)

    return write


def _write_discrete(space: gs.Discrete, where: str, first: int) -> tuple[_Write, int]:
    n, start = int(space.n), int(space.start)
    read = _reader(space, where, np.array(float(start)), np.array(float(start + n - 1)))
    code = category_code(n) if n > ONE_HOT else None
    to = slice(first, first + CODE_SIZE)

    def write(observation: Any, draft: _Draft) -> None:
        if isinstance(observation, int | np.integer):
            value = int(observation)
            if not start <= value < start + n:
                draft.faults.append("outside")
        else:
            value = int(read(observation, draft.faults))
        index = min(max(value - start, 0), n - 1)
        if code is None:
            draft.vector[first + index] = 1.0
        else:
            draft.vector[to] = code(index)

    return write, n if code is None else CODE_SIZE


def _write_multi_discrete(space: gs.MultiDiscrete, where: str, first: int) -> tuple[_Write, int]:
    counts, starts = space.nvec.reshape(-1).astype(np.int64), space.start.astype(np.int64)
    lasts = (starts + space.nvec.astype(np.int64) - 1).astype(np.float64)
    read = _reader(space, where, starts.astype(np.float64), lasts)
    small = counts <= ONE_HOT
    widths = np.where(small, counts, CODE_SIZE)
    offsets = first + np.cumsum(widths) - widths
    large = [(i, int(offsets[i]), category_code(int(counts[i]))) for i in np.flatnonzero(~small)]

    def write(observation: Any, draft: _Draft) -> None:
        values = read(observation, draft.faults).astype(np.int64)
        index = np.minimum((values - starts).reshape(-1), counts - 1)  # float64 may round upwards
        draft.vector[(offsets + index)[small]] = 1.0
        for i, offset, code in large:
            draft.vector[offset : offset + CODE_SIZE] = code(int(index[i]))

    return write, int(widths.sum())


def _write_text(space: gs.Text, where: str, first: int) -> _Write:
    def write(observation: Any, draft: _Draft) -> None:
        if isinstance(observation, bytes):
            draft.faults.append("dtype")
            observation = observation.decode("utf-8", "replace")
        if not isinstance(observation, str):
            got = type(observation).__name__
            raise SpaceError(f"the {where} is declared {space}, expected a str, got {got}")
        if not space.contains(observation):
            draft.faults.append("outside")
        text = observation[: space.max_length].encode("utf-8", "surrogatepass")
        rows = np.arange(len(text), dtype=np.uint64) * 256 + np.frombuffer(text, np.uint8)
        total = unit_codes(TEXT_KEY, rows, TEXT_SIZE).sum(axis=0) / np.sqrt(max(len(text), 1))
        draft.vector[first : first + TEXT_SIZE] = total

    return write


def _image_layout(space: gs.Box) -> str:
    """ "HW", "HWC", "CHW", or "" where the space is no image."""
    shape = space.shape
    if space.dtype == np.uint8:
        if len(shape) == 2 and min(shape) >= SMALLEST_IMAGE:
            return "HW"
        if len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= SMALLEST_IMAGE:
            return "HWC"
        if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) >= SMALLEST_IMAGE:
            return "CHW"
    return ""


def _averager(space: gs.Box, read: _Read, size: int) -> _Read:
    """Images of the space averaged by area to float32[size, size, 1 or 3]."""
    layout = _image_layout(space)
    height, width = space.shape[1:] if layout == "CHW" else space.shape[:2]
    rows, columns = _area_weights(height, size), _area_weights(width, size)

    def average(observation: Any, faults: list[str]) -> np.ndarray:
        image = read(observation, faults).astype(np.float32)
        if layout == "HW":
            image = image[:, :, None]
        elif layout == "CHW":
            image = image[-3:].transpose(1, 2, 0)
        image = image[:, :, :3]
        narrow = rows @ image.reshape(height, -1)
        return columns @ narrow.reshape(size, width, -1)

    return average


def _write_image(space: gs.Box, read: _Read) -> _Write:
    average = _averager(space, read, IMAGE_SIZE)

    def write(observation: Any, draft: _Draft) -> None:
        image = np.floor(average(observation, draft.faults) + ROUNDING).astype(np.uint8)
        draft.image = np.broadcast_to(image, (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()

    return write


def _write_thumbnail(space: gs.Box, read: _Read, to: slice) -> _Write:
    average = _averager(space, read, THUMBNAIL_SIZE)

    def write(observation: Any, draft: _Draft) -> None:
        draft.vector[to] = average(observation, draft.faults).mean(axis=2).reshape(-1) / 255

    return write


def _area_weights(old: int, new: int) -> np.ndarray:
    """Share of each old pixel in each new one. float32[new, old], rows sum to 1."""
    edges = np.arange(new + 1)[:, None] * (old / new)
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0) * (new / old)).astype(np.float32)
