"""Every error that Fifteen raises on purpose. Each text names the value, what was expected, what to do."""


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


class RunError(FifteenError):
    """A run that cannot start or go on: folder in use, contradictory arguments."""
