"""Values of Gymnasium spaces as plain arrays: check their shape, take apart, put together."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from fifteen.errors import SpaceError

_ARRAYS = (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)


def shape_check(space: spaces.Space) -> Callable[[Any], bool]:
    """A function that tells whether a value has the structure and shapes of `space`.

    Values and dtypes are not looked at; spaces without a fixed structure let everything pass.
    """
    if isinstance(space, _ARRAYS):
        shape = space.shape
        return lambda value: _shape(value) == shape
    if isinstance(space, spaces.Discrete):
        return lambda value: isinstance(value, int | np.integer) or _shape(value) == ()
    if isinstance(space, spaces.Text):
        return lambda value: isinstance(value, str)
    if isinstance(space, spaces.Dict):
        entries = {key: shape_check(part) for key, part in space.spaces.items()}
        return lambda value: (
            isinstance(value, Mapping) and all(key in value and check(value[key]) for key, check in entries.items())
        )
    if isinstance(space, spaces.Tuple):
        checks = [shape_check(part) for part in space.spaces]
        return lambda value: (
            isinstance(value, Sequence)
            and len(value) == len(checks)
            and all(check(part) for check, part in zip(checks, value, strict=True))
        )
    return lambda value: True


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a number or a nesting of numbers; None for anything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.shape
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # ragged
        return None
    return array.shape if array.dtype.kind in "biuf" else None


def describe_shape(value: Any) -> str:
    """The structure of a value in a few words, for error texts."""
    if isinstance(value, Mapping):
        return f"a mapping with keys {sorted(map(str, value))}"
    shape = _shape(value)
    kind = type(value).__name__
    return f"{kind} of shape {shape}" if shape is not None else kind


def take_apart(space: spaces.Space, value: Any) -> list[np.ndarray]:
    """The arrays of a value, in the space's order. Numbers keep the dtype they came with.

    Raises SpaceError for spaces that are not made of arrays.
    """
    if isinstance(space, (*_ARRAYS, spaces.Discrete)):
        array = np.array(value)
        return [array if array.dtype.kind in "biuf" else array.astype(space.dtype)]
    if isinstance(space, spaces.Text):
        return [np.frombuffer(value.encode("utf-8", "surrogatepass"), np.uint8).copy()]
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.spaces.items() for leaf in take_apart(part, value[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part, inner in zip(space.spaces, value, strict=True) for leaf in take_apart(part, inner)]
    raise SpaceError(
        f"{space} has no form as arrays; supported are Box, Discrete, MultiDiscrete, MultiBinary, Text, Tuple and Dict"
    )


def put_together(space: spaces.Space, leaves: Iterator[np.ndarray]) -> Any:
    """The value whose arrays `take_apart` gave, in the same order."""
    if isinstance(space, spaces.Discrete):
        return next(leaves)[()]
    if isinstance(space, spaces.Text):
        return next(leaves).tobytes().decode("utf-8", "surrogatepass")
    if isinstance(space, spaces.Dict):
        return {key: put_together(part, leaves) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(put_together(part, leaves) for part in space.spaces)
    return np.array(next(leaves))


def some_value(space: spaces.Space) -> Any:
    """A value of the space, always the same; the space's own generator is left alone."""
    space = copy.deepcopy(space)
    space.seed(0)
    return space.sample()


def equal_leaves(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether two values are the same to the bit (NaN equals NaN, 0.0 differs from -0.0)."""
    return len(one) == len(other) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(one, other, strict=True)
    )


def kept(state: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """The arrays `prefix/0`, `prefix/1`, ... of a state."""
    leaves = []
    while (leaf := state.get(f"{prefix}/{len(leaves)}")) is not None:
        leaves.append(leaf)
    return leaves


def keep(state: dict[str, np.ndarray], prefix: str, leaves: Sequence[np.ndarray]) -> None:
    """Put arrays into a state as `prefix/0`, `prefix/1`, ..."""
    state.update({f"{prefix}/{number}": leaf for number, leaf in enumerate(leaves)})
