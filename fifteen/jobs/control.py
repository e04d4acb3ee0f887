"""The classic control problems with drawn physics, and with the learner wired to them in drawn ways.

With the standard parameters each moves as Gymnasium's environment of the same name does; equations and constants are
those of its sources (gymnasium/envs/classic_control). Origins: cart-pole of Barto, Sutton & Anderson 1983 (Neuronlike
adaptive elements; equations with friction in its appendix), mountain car of Moore 1990 (Efficient memory-based
learning for robot control). Pendulum and acrobot are in `swing_ups`. No drawn job has Gymnasium's exact parameters:
they are drawn from continuous ranges.

Teachers: for the cart-pole a linear-quadratic regulator, its force rounded to full left or right; for the mountain
car energy pumping. A delayed action is met by predicting the state in which it will act.
"""

from dataclasses import replace
from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs import swing_ups
from fifteen.jobs.family import Family
from fifteen.jobs.linear import regulator
from fifteen.jobs.plants import (
    WIRINGS,
    Plant,
    PlantState,
    Wiring,
    draw,
    draw_wiring,
    standard_wiring,
)

POSITION_LIMITS = (-1.2, 0.6)  # of the mountain car
SPEED_LIMIT = 0.07


@final
class CartPole(Plant):
    """A pole on a cart, to be kept upright. Plant: x, x', angle, angle'. Actions: push left, push right."""

    gravity: Array
    cart_mass: Array
    pole_mass: Array
    half_length: Array
    force: Array
    time_step: Array
    angle_limit: Array
    track_limit: Array
    wiring: Wiring
    gains: Array  # float32[4], of the teacher
    step_limit: int = eqx.field(static=True, default=200)

    @classmethod
    def standard(cls) -> "CartPole":
        """The parameters of CartPole-v1."""
        values = dict(
            gravity=9.8,
            cart_mass=1.0,
            pole_mass=0.1,
            half_length=0.5,
            force=10.0,
            time_step=0.02,
            angle_limit=12 * 2 * np.pi / 360,
            track_limit=2.4,
        )
        return cls(**jax.tree.map(jnp.float32, values), wiring=standard_wiring(4), gains=jnp.zeros(4)).taught()

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-np.inf, np.inf, (4,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(2)

    def reset(self, key: Array) -> tuple[PlantState, Array]:
        state = PlantState(jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05), jnp.zeros((), jnp.int32))
        return state, self.wiring.shown * state.plant

    def step(self, state: PlantState, action: Any, key: Array) -> tuple:
        state = self.moved(state, action)
        x, _, angle, _ = state.plant
        fallen = (jnp.abs(x) > self.track_limit) | (jnp.abs(angle) > self.angle_limit)
        return state, self.wiring.shown * state.plant, jnp.ones(()), fallen

    def drive(self, action: Array) -> Array:
        return self.force * (jnp.where(action == 1, 1.0, -1.0) * self.wiring.gain + self.wiring.bias)

    def motion(self, plant: Array, push: Array) -> Array:
        _, speed, angle, spin = plant
        mass, moment = self.cart_mass + self.pole_mass, self.pole_mass * self.half_length
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        drag = 0.1 * self.wiring.friction * self.force * jnp.sign(speed)
        pivot_drag = 0.5 * self.wiring.friction * self.half_length * spin
        common = (push + moment * spin**2 * sine - drag) / mass
        angle_acceleration = (self.gravity * sine - cosine * common - pivot_drag) / (
            self.half_length * (4.0 / 3.0 - self.pole_mass * cosine**2 / mass)
        )
        acceleration = common - moment * angle_acceleration * cosine / mass
        return plant + self.time_step * jnp.stack([speed, acceleration, spin, angle_acceleration])

    def taught(self) -> "CartPole":
        """The same with the gains of its regulator."""
        upright = jnp.zeros(4), jnp.zeros(())
        a, b = jax.jacfwd(self.motion, 0)(*upright), jax.jacfwd(self.motion, 1)(*upright)
        weights = jnp.array([1.0, 0.1, 10.0, 0.1])
        effort = 0.1 / self.force**2
        return replace(self, gains=regulator(a, b[:, None], jnp.diag(weights), effort)[0])


@final
class CartPoleFamily(Family):
    name: str = eqx.field(static=True, default="control/cart-pole")
    templates: tuple[str, ...] = eqx.field(static=True, default=WIRINGS)
    lifetime: int = eqx.field(static=True, default=2000)
    reference: str = eqx.field(static=True, default="never falling: the step limit (Barto, Sutton & Anderson 1983)")

    def sample(self, template: Array, key: Array) -> CartPole:
        physics_key, wiring_key = jax.random.split(key)
        drawn = draw(
            physics_key,
            gravity=(6, 13),
            cart_mass=(0.6, 1.6),
            pole_mass=(0.05, 0.3),
            half_length=(0.3, 0.9),
            force=(7, 14),
            time_step=(0.015, 0.025),
            angle_limit=(0.15, 0.3),
            track_limit=(1.6, 3.2),
        )
        wiring = draw_wiring(template, wiring_key, (False, True, False, True))
        return CartPole(**drawn, wiring=wiring, gains=jnp.zeros(4)).taught()

    def teach(self, job: CartPole, state: PlantState) -> Array:
        wanted = -jnp.dot(job.gains, job.foreseen(state)) - job.force * job.wiring.bias
        return jax.nn.one_hot((wanted * job.wiring.gain > 0).astype(jnp.int32), 2)


@final
class MountainCar(Plant):
    """A car too weak for its hill. Plant: position, velocity. Actions: push left, none, push right."""

    force: Array
    gravity: Array
    steepness: Array  # the ground is the sine of this times the position
    goal: Array
    speed_limit: Array
    wiring: Wiring
    step_limit: int = eqx.field(static=True, default=200)

    @classmethod
    def standard(cls) -> "MountainCar":
        """The parameters of MountainCar-v0."""
        values = dict(force=0.001, gravity=0.0025, steepness=3.0, goal=0.5, speed_limit=SPEED_LIMIT)
        return cls(**jax.tree.map(jnp.float32, values), wiring=standard_wiring(2))

    @property
    def observation_space(self) -> gym.Space:
        high = np.array([-POSITION_LIMITS[0], SPEED_LIMIT], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(3)

    def reset(self, key: Array) -> tuple[PlantState, Array]:
        plant = jnp.stack([jax.random.uniform(key, (), minval=-0.6, maxval=-0.4), jnp.zeros(())])
        return PlantState(plant, jnp.ones((), jnp.int32)), self.wiring.shown * plant

    def step(self, state: PlantState, action: Any, key: Array) -> tuple:
        state = self.moved(state, action)
        there = (state.plant[0] >= self.goal) & (state.plant[1] >= 0)
        return state, self.wiring.shown * state.plant, -jnp.ones(()), there

    def drive(self, action: Array) -> Array:
        return self.force * ((action - 1).astype(jnp.float32) * self.wiring.gain + self.wiring.bias)

    def motion(self, plant: Array, push: Array) -> Array:
        position, speed = plant
        speed = speed * (1.0 - 0.005 * self.wiring.friction) + push
        speed = speed - self.gravity * jnp.cos(self.steepness * position)
        speed = jnp.clip(speed, -self.speed_limit, self.speed_limit)
        position = jnp.clip(position + speed, *POSITION_LIMITS)
        speed = jnp.where((position == np.float32(POSITION_LIMITS[0])) & (speed < 0), 0.0, speed)
        return jnp.stack([position, speed])


@final
class MountainCarFamily(Family):
    name: str = eqx.field(static=True, default="control/mountain-car")
    templates: tuple[str, ...] = eqx.field(static=True, default=WIRINGS)
    lifetime: int = eqx.field(static=True, default=2000)
    reference: str = eqx.field(static=True, default="energy pumping: full push along the velocity (Moore 1990)")

    def sample(self, template: Array, key: Array) -> MountainCar:
        physics_key, wiring_key = jax.random.split(key)
        drawn = draw(
            physics_key,
            gravity=(0.0015, 0.003),
            steepness=(2.8, 3.2),
            goal=(0.42, 0.52),
            speed_limit=(0.06, SPEED_LIMIT),
            ratio=(0.5, 0.65),  # of the force to gravity
        )
        force = drawn.pop("ratio") * drawn["gravity"]
        return MountainCar(**drawn, force=force, wiring=draw_wiring(template, wiring_key, (False, True)))

    def teach(self, job: MountainCar, state: PlantState) -> Array:
        # From rest to the left: the goal is on the right, and the way back from the left gains speed.
        rightward = job.foreseen(state)[1] > 0
        return jax.nn.one_hot(jnp.where(rightward == (job.wiring.gain > 0), 2, 0), 3)


FAMILIES = (CartPoleFamily(), MountainCarFamily(), *swing_ups.FAMILIES)
