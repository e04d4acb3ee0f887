"""Every error that Fifteen raises on purpose. Each text names the value, what was expected, what to do."""

from typing import Any

import numpy as np


class FifteenError(Exception):
    """Base of all errors raised on purpose, so that a caller can catch them together."""


class SpaceError(FifteenError):
    """A space, observation or action that cannot be sensed or handled."""


class JobError(FifteenError):
    """A job that is unknown, malformed, or keeps failing."""


class CheckpointError(FifteenError):
    """A checkpoint that is missing, foreign, newer, truncated, corrupted, or could not be written."""


class StoreError(FifteenError):
    """A store, or experience for one, that is foreign, newer, corrupted, not finite, unknown, or too large."""


class NoRoomError(StoreError):
    """A store whose budget cannot hold what it has to: no fault of what was to be taken in."""


class RunError(FifteenError):
    """A run that cannot start or go on: folder in use, contradictory arguments, weights that are not finite."""


class NightError(RunError):
    """A night that comes to nothing: nobody, nothing lived, or a sleeper that went wrong. The parent stays as it is."""


def check_count(name: str, value: Any) -> None:
    """Raises RunError unless the argument of this name is an integer that is not negative."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise RunError(f"{name} must be an integer >= 0, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises RunError unless the argument of this name is a positive integer."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise RunError(f"{name} must be a positive number, got {value!r}")
