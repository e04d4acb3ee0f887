"""Random codes: directions and projections that are the same on every machine and in every process."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

CODE_SIZE = 16  # dimensions of the code of a large category
TABLE_ROWS = 65_536  # codes of categories up to this many are kept in a table
TEXT_KEY, _PROJECTION_KEY = 2**63, 2**63 + 1  # keys of other codes: no category count reaches these


def _gaussian(key: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Nearly normal numbers of mean 0, a fixed function of key, row and column.

    splitmix64 of a counter; the four 16-bit words of each result are summed, so that unlike a
    generator's normal numbers they are exact integers, equal on every machine and version.
    rows: uint64[k]. Returns float64[k, columns] of standard deviation sqrt((2**32 - 1) / 3).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        counter = rows[:, None] * np.uint64(columns) + np.arange(1, columns + 1, dtype=np.uint64)
        start = _scrambled(np.array([key], np.uint64))
        bits = _scrambled(start + counter * np.uint64(0x9E3779B97F4A7C15))
    words = bits.view(np.uint16).reshape(*bits.shape, 4)
    return words.sum(axis=2, dtype=np.float64) - 2 * 65_535


def _scrambled(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def unit_codes(key: int, rows: np.ndarray, size: int) -> np.ndarray:
    """A random direction for each row. rows: uint64[k]. Returns float32[k, size], unit length."""
    codes = _gaussian(key, rows, size)
    return (codes / np.sqrt((codes**2).sum(axis=1, keepdims=True))).astype(np.float32)


@lru_cache(maxsize=16)
def category_code(n: int) -> Callable[[int], np.ndarray]:
    """Index of one of n categories -> float32[CODE_SIZE]."""
    if n <= TABLE_ROWS:
        return unit_codes(n, np.arange(n, dtype=np.uint64), CODE_SIZE).__getitem__
    return lambda index: unit_codes(n, np.array([index], np.uint64), CODE_SIZE)[0]


def projection(rest: int, columns: int) -> np.ndarray:
    """float32[rest, columns], fixed numbers of standard deviation 1 / sqrt(rest)."""
    rows = np.array_split(np.arange(rest, dtype=np.uint64), rest // 4096 + 1)  # bounds the memory
    blocks = [_gaussian(_PROJECTION_KEY, block, columns).astype(np.float32) for block in rows]
    return np.concatenate(blocks) * np.float32(np.sqrt(3 / (2.0**32 - 1) / rest))
