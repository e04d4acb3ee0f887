"""What the plants of `control` and `swing_ups` share, and the drawn ways in which a learner is wired to one.

A wiring is a gain, a sign, a delay, friction, a constant push, and what is observed in which units.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fifteen.jobs.drawing import between
from fifteen.jobs.native import Job

WIRINGS = ("plain", "reversed", "delayed", "friction", "bias", "hidden-velocity", "units")
ANGULAR_WIRINGS = (*WIRINGS, "angles")  # angles are observed as such, not as cosine and sine


class Wiring(eqx.Module):
    """How the learner is connected to the plant."""

    gain: Array  # float32[], of the actuator; negative where it is reversed
    delayed: Array  # bool[], whether actions act one step late
    friction: Array  # float32[] from 0 to 1
    bias: Array  # float32[], constant push, in parts of the actuator's strength
    shown: Array  # float32[numbers], factor of each observed number: 0 hides it
    angles: Array  # bool[]


class PlantState(NamedTuple):
    plant: Array  # float32[n], positions and velocities
    pending: Array  # the previous action


def standard_wiring(numbers: int) -> Wiring:
    zero, no = jnp.zeros(()), jnp.array(False)
    return Wiring(jnp.ones(()), no, zero, zero, jnp.ones(numbers), no)


def draw_wiring(template: Array, key: Array, velocities: tuple[bool, ...]) -> Wiring:
    """velocities: which of the observed numbers are velocities."""

    def is_template(name: str) -> Array:
        return template == ANGULAR_WIRINGS.index(name)

    values_key, unit_key, sign_key, side_key = jax.random.split(key, 4)
    drawn = draw(values_key, gain=(0.8, 1.25), friction=(0.3, 1.0), bias=(0.1, 0.3))
    numbers = (len(velocities),)
    # Factors of at most 1 keep observations within the bounds that Gymnasium declares.
    units = jax.random.uniform(unit_key, numbers, minval=0.3) * jax.random.rademacher(sign_key, numbers, jnp.float32)
    hidden = is_template("hidden-velocity") & jnp.array(velocities)
    return Wiring(
        jnp.where(is_template("reversed"), -1.0, 1.0) * drawn["gain"],
        is_template("delayed"),
        jnp.where(is_template("friction"), drawn["friction"], 0.0),
        jnp.where(is_template("bias"), drawn["bias"] * jax.random.rademacher(side_key, (), jnp.float32), 0.0),
        jnp.where(hidden, 0.0, jnp.where(is_template("units"), units, 1.0)),
        is_template("angles"),
    )


def draw(key: Array, **ranges: tuple[float, float]) -> dict[str, Any]:
    """One number from each range."""
    parts = jax.random.uniform(key, (len(ranges),))
    return {name: between(part, *limits) for (name, limits), part in zip(ranges.items(), parts, strict=True)}


class Plant(Job):
    """What the four share: an action drives the plant for one step, at once or one step late."""

    wiring: eqx.AbstractVar[Wiring]

    @abc.abstractmethod
    def drive(self, action: Array) -> Array:
        """The force, torque or push of an action."""

    @abc.abstractmethod
    def motion(self, plant: Array, push: Array) -> Array:
        """The plant one step later."""

    def moved(self, state: PlantState, action: Array) -> PlantState:
        acting = jnp.where(self.wiring.delayed, state.pending, action)
        return PlantState(self.motion(state.plant, self.drive(acting)), action)

    def foreseen(self, state: PlantState) -> Array:
        """The plant when the next action acts."""
        return jnp.where(self.wiring.delayed, self.motion(state.plant, self.drive(state.pending)), state.plant)


def wrapped(angle: Array) -> Array:
    """The same angle from -pi to pi."""
    turn = np.float32(2 * np.pi)
    return angle - turn * jnp.round(angle / turn)
