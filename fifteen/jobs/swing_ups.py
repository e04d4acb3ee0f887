"""Pendulum and acrobot, to be swung up, with drawn physics and drawn wirings; more about them in `control`.

Origins: Gymnasium's Pendulum, and the acrobot of Sutton 1996 (Generalization in reinforcement learning), both after
the sources of gymnasium/envs/classic_control. Teachers: energy shaping and a proportional-derivative law near the top
for the pendulum (Astrom & Furuta 2000, Swinging up a pendulum by energy control), energy pumping for the acrobot.
"""

from typing import Any, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.family import Family
from fifteen.jobs.plants import ANGULAR_WIRINGS, Plant, PlantState, Wiring, draw, draw_wiring, standard_wiring, wrapped

TORQUE_LIMIT = 2.0  # of the pendulum's action
SPIN_LIMITS = (4 * np.pi, 9 * np.pi)  # of the acrobot's joints


@final
class Pendulum(Plant):
    """A pendulum to be swung up and held. Plant: angle from upright, angle'. Action: torque."""

    gravity: Array
    mass: Array
    length: Array
    time_step: Array
    strength: Array  # torque of an action of 1
    spin_limit: Array
    reward_scale: Array
    wiring: Wiring
    step_limit: int = eqx.field(static=True, default=200)

    @classmethod
    def standard(cls) -> "Pendulum":
        """The parameters of Pendulum-v1."""
        values = dict(
            gravity=10.0, mass=1.0, length=1.0, time_step=0.05, strength=1.0, spin_limit=8.0, reward_scale=1.0
        )
        return cls(**jax.tree.map(jnp.float32, values), wiring=standard_wiring(3))

    @property
    def observation_space(self) -> gym.Space:
        high = np.array([1.0, 1.0, 8.0], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Box(-TORQUE_LIMIT, TORQUE_LIMIT, (1,), np.float32)

    def reset(self, key: Array) -> tuple[PlantState, Array]:
        plant = jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([np.pi, 1.0], jnp.float32)
        return PlantState(plant, jnp.zeros(())), self._observe(plant)

    def step(self, state: PlantState, action: Any, key: Array) -> tuple:
        torque = jnp.clip(action[0], -TORQUE_LIMIT, TORQUE_LIMIT)
        angle, spin = state.plant
        cost = wrapped(angle) ** 2 + 0.1 * spin**2 + 0.001 * torque**2
        state = self.moved(state, torque)
        return state, self._observe(state.plant), -self.reward_scale * cost, jnp.array(False)

    def drive(self, action: Array) -> Array:
        return self.strength * (action * self.wiring.gain + TORQUE_LIMIT * self.wiring.bias)

    def motion(self, plant: Array, push: Array) -> Array:
        angle, spin = plant
        falling = 3.0 * self.gravity / (2.0 * self.length) * jnp.sin(angle)
        acceleration = falling + 3.0 / (self.mass * self.length**2) * push - 0.3 * self.wiring.friction * spin
        spin = jnp.clip(spin + acceleration * self.time_step, -self.spin_limit, self.spin_limit)
        return jnp.stack([angle + spin * self.time_step, spin])

    def _observe(self, plant: Array) -> Array:
        angle, spin = plant
        heading = jnp.where(
            self.wiring.angles,
            jnp.stack([wrapped(angle) / np.float32(np.pi), jnp.zeros(())]),
            jnp.stack([jnp.cos(angle), jnp.sin(angle)]),
        )
        return self.wiring.shown * jnp.append(heading, spin)


@final
class PendulumFamily(Family):
    name: str = eqx.field(static=True, default="control/pendulum")
    templates: tuple[str, ...] = eqx.field(static=True, default=ANGULAR_WIRINGS)
    lifetime: int = eqx.field(static=True, default=2000)
    reference: str = eqx.field(
        static=True, default="energy shaping, then proportional-derivative control (Astrom & Furuta 2000)"
    )

    def sample(self, template: Array, key: Array) -> Pendulum:
        physics_key, wiring_key = jax.random.split(key)
        # The squared frequency is bounded so that the spin limit, at most 8, leaves enough energy for the top.
        drawn = draw(
            physics_key,
            mass=(0.5, 2.0),
            length=(0.6, 1.6),
            time_step=(0.035, 0.06),
            spin_limit=(7.5, 8.0),
            reward_scale=(0.05, 0.2),
            squared=(6, 14),
            ratio=(0.35, 0.7),  # of the greatest torque to that of gravity
        )
        gravity = drawn.pop("squared") * 2.0 * drawn["length"] / 3.0
        strength = drawn.pop("ratio") * 0.5 * drawn["mass"] * gravity * drawn["length"] / TORQUE_LIMIT
        wiring = draw_wiring(template, wiring_key, (False, False, True))
        return Pendulum(**drawn, gravity=gravity, strength=strength, wiring=wiring)

    def teach(self, job: Pendulum, state: PlantState) -> Array:
        angle, spin = job.foreseen(state)
        angle = wrapped(angle)
        squared = 1.5 * job.gravity / job.length  # of the frequency of small swings
        missing = squared * (1.0 - jnp.cos(angle)) - 0.5 * spin**2
        pump = 20.0 * missing * jnp.where(spin < 0, -1.0, 1.0)
        hold = -squared * (jnp.sin(angle) + angle) - 2.0 * jnp.sqrt(squared) * spin
        near = (jnp.abs(angle) < 0.5) & (jnp.abs(spin) < jnp.sqrt(squared))
        wanted = jnp.where(near, hold, pump) + 0.3 * job.wiring.friction * spin
        action = wanted * job.mass * job.length**2 / 3.0 / job.strength - TORQUE_LIMIT * job.wiring.bias
        return jnp.clip(action / job.wiring.gain, -TORQUE_LIMIT, TORQUE_LIMIT)[None]


@final
class Acrobot(Plant):
    """Two links, driven at the joint between them, to be swung up. Plant: both angles, both spins.

    Actions: torque -1, 0, +1. Angle 1 is measured from hanging down, angle 2 from link 1.
    """

    gravity: Array
    mass_1: Array
    mass_2: Array
    length_1: Array
    centre_1: Array
    centre_2: Array
    inertia: Array
    torque: Array
    time_step: Array
    height: Array  # of the tip, in links, that ends the attempt
    wiring: Wiring
    step_limit: int = eqx.field(static=True, default=200)

    @classmethod
    def standard(cls) -> "Acrobot":
        """The parameters of Acrobot-v1."""
        values = dict(
            gravity=9.8,
            mass_1=1.0,
            mass_2=1.0,
            length_1=1.0,
            centre_1=0.5,
            centre_2=0.5,
            inertia=1.0,
            torque=1.0,
            time_step=0.2,
            height=1.0,
        )
        return cls(**jax.tree.map(jnp.float32, values), wiring=standard_wiring(6))

    @property
    def observation_space(self) -> gym.Space:
        high = np.array([1.0, 1.0, 1.0, 1.0, *SPIN_LIMITS], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(3)

    def reset(self, key: Array) -> tuple[PlantState, Array]:
        plant = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return PlantState(plant, jnp.ones((), jnp.int32)), self._observe(plant)

    def step(self, state: PlantState, action: Any, key: Array) -> tuple:
        state = self.moved(state, action)
        up = -jnp.cos(state.plant[0]) - jnp.cos(state.plant[0] + state.plant[1]) > self.height
        return state, self._observe(state.plant), jnp.where(up, 0.0, -1.0), up

    def drive(self, action: Array) -> Array:
        return self.torque * ((action - 1).astype(jnp.float32) * self.wiring.gain + self.wiring.bias)

    def motion(self, plant: Array, push: Array) -> Array:
        step = self.time_step
        rate_1 = self._rates(plant, push)
        rate_2 = self._rates(plant + 0.5 * step * rate_1, push)
        rate_3 = self._rates(plant + 0.5 * step * rate_2, push)
        rate_4 = self._rates(plant + step * rate_3, push)
        plant = plant + step / 6.0 * (rate_1 + 2.0 * rate_2 + 2.0 * rate_3 + rate_4)
        limits = jnp.array(SPIN_LIMITS, jnp.float32)
        return jnp.concatenate([wrapped(plant[:2]), jnp.clip(plant[2:], -limits, limits)])

    def _rates(self, plant: Array, push: Array) -> Array:
        angle_1, angle_2, spin_1, spin_2 = plant
        cosine, sine = jnp.cos(angle_2), jnp.sin(angle_2)
        lever = self.mass_2 * self.length_1 * self.centre_2
        own = self.mass_2 * self.centre_2**2 + self.inertia
        d1 = self.mass_1 * self.centre_1**2 + self.mass_2 * self.length_1**2 + own + 2.0 * lever * cosine + self.inertia
        d2 = own + lever * cosine
        phi_2 = self.mass_2 * self.centre_2 * self.gravity * jnp.sin(angle_1 + angle_2)
        phi_1 = phi_2 - lever * spin_2 * (spin_2 + 2.0 * spin_1) * sine
        phi_1 += (self.mass_1 * self.centre_1 + self.mass_2 * self.length_1) * self.gravity * jnp.sin(angle_1)
        net = push - 0.05 * self.wiring.friction * self.torque * spin_2
        bend = (net + d2 / d1 * phi_1 - lever * spin_1**2 * sine - phi_2) / (own - d2**2 / d1)
        return jnp.stack([spin_1, spin_2, -(d2 * bend + phi_1) / d1, bend])

    def _observe(self, plant: Array) -> Array:
        angles = plant[:2]
        straight = jnp.stack([angles / np.float32(np.pi), jnp.zeros(2)], axis=1)
        round_ = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
        heading = jnp.where(self.wiring.angles, straight, round_).reshape(4)
        return self.wiring.shown * jnp.concatenate([heading, plant[2:]])


@final
class AcrobotFamily(Family):
    name: str = eqx.field(static=True, default="control/acrobot")
    templates: tuple[str, ...] = eqx.field(static=True, default=ANGULAR_WIRINGS)
    lifetime: int = eqx.field(static=True, default=2000)
    reference: str = eqx.field(static=True, default="energy pumping: full torque against the spin of link 1")

    def sample(self, template: Array, key: Array) -> Acrobot:
        physics_key, wiring_key = jax.random.split(key)
        drawn = draw(
            physics_key,
            gravity=(7, 12),
            mass_1=(0.7, 1.3),
            mass_2=(0.7, 1.3),
            length_1=(0.8, 1.3),
            centre_1=(0.4, 0.6),
            centre_2=(0.4, 0.6),
            inertia=(0.6, 1.3),
            time_step=(0.15, 0.22),
            height=(0.6, 1.3),
            ratio=(0.22, 0.35),  # of the torque to that of gravity on link 2
        )
        torque = drawn.pop("ratio") * drawn["mass_2"] * drawn["gravity"] * drawn["centre_2"]
        wiring = draw_wiring(template, wiring_key, (False, False, False, False, True, True))
        return Acrobot(**drawn, torque=torque, wiring=wiring)

    def teach(self, job: Acrobot, state: PlantState) -> Array:
        spin = job.foreseen(state)[2]
        return jax.nn.one_hot(jnp.where(spin * job.wiring.gain < 0, 2, 0), 3)


FAMILIES = (PendulumFamily(), AcrobotFamily())
