"""How the jobs of one kind meet the mind on the device: what `Senses` and `Hands` do on the host, as pure functions.

Only for spaces whose percept and choice need nothing else: a Discrete or a Box is observed, and one Discrete or one
bounded Box dimension is done.
"""

from dataclasses import dataclass
from typing import final

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.config import MindConfig
from fifteen.errors import JobError
from fifteen.hands import Hands
from fifteen.jobs.native import Job
from fifteen.senses import Senses, size_of


@final
@dataclass(frozen=True)
class Desk:
    """How jobs of one pair of spaces meet the mind: static, and hashable."""

    size: int  # D of the observation
    code: tuple[tuple[float, ...], ...] | None  # [n, D] of a Discrete observation
    start: int  # of a Discrete observation
    continuous: tuple[bool, ...]  # [D]
    ordered: int  # bins of a Box action in order, 0 for a Discrete one
    bins: int
    low: float
    high: float

    def sensors(self, observation: Array) -> Array:
        """float32[D]"""
        if self.code is not None:
            return jnp.asarray(np.array(self.code, np.float32))[observation - self.start]
        return jnp.asarray(observation, jnp.float32).reshape(-1)

    def action(self, choice: Array) -> Array:
        """The job's action for one of its own bins, int32[]."""
        if not self.ordered:
            return choice
        place = choice.astype(jnp.float32) / (self.ordered - 1)
        return (self.low + place * (self.high - self.low))[None]


def desk(job: Job, config: MindConfig, who: str) -> Desk:
    """The desk of a job, whose arrays may be mere shapes. Raises JobError, naming `who`, for spaces that need more."""
    seen, done = job.observation_space, job.action_space
    senses, shape = Senses(seen, config.slots), Hands(done, config.max_bins).shape
    box = isinstance(done, spaces.Box)
    simple = shape.factors == 1 and not any(shape.digits)
    if not simple or not (np.isfinite([done.low, done.high]).all() if box else getattr(done, "start", None) == 0):
        raise JobError(
            f"{who} has the action space {done}: on the device an action is one Discrete of at most {config.max_bins} "
            "values from 0, or one bounded Box dimension"
        )
    if not isinstance(seen, spaces.Discrete | spaces.Box) or senses.projected or senses.has_image:
        raise JobError(
            f"{who} has the observation space {seen}: on the device an observation is a Discrete or a Box of at most "
            f"{config.slots} dimensions"
        )
    discrete = isinstance(seen, spaces.Discrete)
    code = np.stack([senses.encode(seen.start + n).vector for n in range(seen.n)]) if discrete else None
    size = size_of(seen) if code is None else int(np.flatnonzero(code.any(axis=0))[-1]) + 1
    return Desk(
        size=size,
        code=None if code is None else tuple(map(tuple, code[:, :size].tolist())),
        start=int(seen.start) if discrete else 0,
        continuous=tuple(senses.continuous[:size].tolist()),
        ordered=shape.ordered[0],
        bins=shape.ordered[0] if box else int(done.n),  # pyright: ignore[reportAttributeAccessIssue]
        low=float(done.low[0]) if box else 0.0,
        high=float(done.high[0]) if box else 0.0,
    )
