"""Frames: how a percept and a decision travel between host, device and disk, each as one flat float32 vector.

One vector costs one transfer where a dozen fields would cost a dozen, and acting is bound by such overheads. All
counts and slots in a frame are small integers that float32 holds exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, final

import jax.numpy as jnp
import numpy as np
from jax import Array

_SCALARS = 8  # reward, first, terminated, truncated, after_termination, after_truncation, step, active


class Percept(NamedTuple):
    """What one stream perceives at one moment. Sensors are raw: the learner's statistics standardise them."""

    vector: Array  # float32[slots]
    image: Array | None  # uint8[32, 32, 3]
    previous: Array  # int32[M], the choice that led here; -1 where there was none
    reward: Array  # float32[], raw
    first: Array  # bool[], begins an attempt
    terminated: Array  # bool[], last of its attempt; never an input of the network, which must value it like any other
    truncated: Array  # bool[], last of its attempt; likewise
    after_termination: Array  # bool[], first of an attempt after one that terminated
    after_truncation: Array  # bool[], first of an attempt after one that was truncated
    step: Array  # int32[], steps since the attempt began


class Decision(NamedTuple):
    """What one stream decided at one moment, and what it expected."""

    choice: Array  # int32[M], one bin of each action factor
    log_prob: Array  # float32[M], of the choice under the policy that chose
    value: Array  # float32[], v_now in scaled returns
    scale: Array  # float32[], rewards of the job per scaled return
    surprise: Array  # float32[], distance between the predicted and the perceived sensors, in standard deviations
    mask: Array  # bool[M, B], bins that were valid


@final
@dataclass(frozen=True)
class Layout:
    """Sizes that fix the place of every field in a frame. Static under jit."""

    slots: int
    factors: int  # M
    bins: int  # B
    digits: tuple[int, ...]  # of each factor: its position within its number
    group: tuple[int, ...]  # of each factor: which number of several digits it belongs to, or -1
    ordered: tuple[int, ...]  # of each factor: how many bins lie in order on a line, 0 where they are alternatives

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """As `dataclasses.asdict` tells it, from JSON, which has no tuples."""
        sizes: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in told.items()}
        return cls(**sizes)

    @property
    def percept_size(self) -> int:
        return self.slots + _SCALARS + self.factors

    @property
    def decision_size(self) -> int:
        return 2 * self.factors + 3 + self.factors * self.bins

    def write_percept(
        self,
        frame: np.ndarray,
        vector: np.ndarray,
        reward: float,
        first: bool,
        terminated: bool,
        truncated: bool,
        after: tuple[bool, bool],
        step: int,
        active: bool,
        previous: np.ndarray,
    ) -> None:
        """Fill frame float32[percept_size] in place, on the host. Fields as in `Percept`."""
        slots = self.slots
        frame[:slots] = vector
        frame[slots : slots + _SCALARS] = (reward, first, terminated, truncated, *after, step, active)
        frame[slots + _SCALARS :] = previous

    def percept(self, frame: Array, image: Array | None) -> Percept:
        """float32[percept_size] -> Percept, on the device."""
        reward, step = frame[self.slots], frame[self.slots + _SCALARS - 2].astype(jnp.int32)
        first, terminated, truncated, *after = (frame[self.slots + i] > 0.5 for i in range(1, _SCALARS - 2))
        previous = frame[self.slots + _SCALARS :].astype(jnp.int32)
        return Percept(
            frame[: self.slots], image, previous, reward, first, terminated, truncated, after[0], after[1], step
        )

    def frame(self, percept: Percept) -> Array:
        """Percept -> float32[percept_size] of an active stream, on the device: what `percept` undoes."""
        flags = (percept.first, percept.terminated, percept.truncated, percept.after_termination)
        scalars = [flag.astype(jnp.float32) for flag in (*flags, percept.after_truncation, percept.step)]
        return jnp.concatenate(
            [
                percept.vector,
                jnp.stack([percept.reward, *scalars, jnp.ones(())]),
                percept.previous.astype(jnp.float32),
            ]
        )

    def active(self, frame: Array) -> Array:
        return frame[self.slots + _SCALARS - 1] > 0.5

    def pack(self, decision: Decision) -> Array:
        """Decision -> float32[decision_size], on the device."""
        scalars = jnp.stack([decision.value, decision.scale, decision.surprise])
        mask = decision.mask.reshape(-1).astype(jnp.float32)
        return jnp.concatenate([decision.choice.astype(jnp.float32), decision.log_prob, scalars, mask])

    def decision(self, packed: Array) -> Decision:
        """float32[decision_size] -> Decision; works on device arrays and on numpy arrays."""
        m = self.factors
        choice, log_prob = packed[:m].astype(jnp.int32), packed[m : 2 * m]
        value, scale, surprise = packed[2 * m], packed[2 * m + 1], packed[2 * m + 2]
        return Decision(choice, log_prob, value, scale, surprise, packed[2 * m + 3 :].reshape(m, self.bins) > 0.5)
