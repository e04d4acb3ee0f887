"""What a fleet is asked to do: assignments and settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fifteen.config import Learn
from fifteen.errors import RunError

Transport = Literal["processes", "ray", "vectorised"]


@dataclass(frozen=True)
class Assignment:
    """What one instance is to do. As the arguments of `fifteen.work`."""

    job: str  # an id, or "module:factory": another process has to find it
    steps: int  # environment steps of all streams together
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    learn: Learn = "both"
    num_envs: int = 1

    def __post_init__(self):
        """Raises RunError for what cannot be an assignment. Whether there is such a job shows when it begins."""
        if not isinstance(self.job, str) or not self.job:
            raise RunError(f"the job of an assignment is an id or 'module:factory', got {self.job!r}")
        for name, least in (("steps", 1), ("seed", 0), ("num_envs", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RunError(f"{name} of the assignment to {self.job} must be an integer >= {least}, got {value!r}")
        if self.learn not in get_args(Learn):
            raise RunError(
                f"learn of the assignment to {self.job} is {self.learn!r}, expected one of {get_args(Learn)}"
            )
        try:
            json.dumps(dict(self.kwargs))
        except (TypeError, ValueError) as error:
            raise RunError(
                f"the kwargs {self.kwargs!r} of {self.job} are not JSON ({error}): use plain values"
            ) from error


@dataclass(frozen=True)
class FleetConfig:
    """How a fleet is run. None of it changes what an instance learns in its steps, but for the transport "vectorised".

    That draws other actions where these are correlated in time, see docs/fleet.md.
    """

    transport: Transport = "processes"  # vectorised: all in this process, for JAX-native jobs
    address: str | None = None  # of a Ray cluster; None or "local": Ray on this machine
    workers: int | None = None  # instances at the same time, one core each; None: one for each core
    patience_s: float = 300.0  # without a beat (one comes every 8 steps of a job) an instance hangs; compiling counts
    deadline_s: float | None = None  # of the round: who is not done by then is late; None: all are waited for
    restarts: int = 2  # of an instance whose process died or hung

    def __post_init__(self):
        if self.transport not in get_args(Transport):
            raise RunError(f"the transport is {self.transport!r}, expected one of {get_args(Transport)}")
        if self.address is not None and self.transport != "ray":
            raise RunError(f"the address {self.address!r} is one of a Ray cluster: add transport='ray'")
        for name, least in (("workers", 1), ("patience_s", 1e-3), ("deadline_s", 1e-3), ("restarts", 0)):
            value = getattr(self, name)
            kinds = (int, float) if name.endswith("_s") else (int,)
            wrong = type(value) not in kinds or value < least
            if wrong and not (value is None and name in ("workers", "deadline_s")):
                raise RunError(f"{name} of a fleet must be a number >= {least:g}, whole where it counts, got {value!r}")
