"""Control families: with the standard parameters they move as Gymnasium's environments do."""

from functools import partial
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_checks import check_family

from fifteen.jobs.control import CartPole, CartPoleFamily, MountainCar, MountainCarFamily
from fifteen.jobs.plants import PlantState
from fifteen.jobs.swing_ups import Acrobot, AcrobotFamily, Pendulum, PendulumFamily


@pytest.mark.parametrize(
    "family, margin",
    [(CartPoleFamily(), 100.0), (PendulumFamily(), 50.0), (AcrobotFamily(), 60.0), (MountainCarFamily(), 60.0)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_teachers_beat_chance_in_every_template(family, margin):
    _, (teacher, chance) = check_family(family, each=12, steps=200)
    assert (teacher - chance > margin).all(), (teacher, chance)


@pytest.mark.parametrize(
    "job, name",
    [
        (CartPole.standard(), "CartPole-v1"),
        (Pendulum.standard(), "Pendulum-v1"),
        (Acrobot.standard(), "Acrobot-v1"),
        (MountainCar.standard(), "MountainCar-v0"),
    ],
    ids=["cart-pole", "pendulum", "acrobot", "mountain-car"],
)
def test_the_standard_plant_moves_as_gymnasiums(job, name):
    environment: Any = gym.make(name, disable_env_checker=True).unwrapped
    step = jax.jit(partial(type(job).step, job))
    seen = set()
    for seed in range(4):
        environment.reset(seed=seed)
        environment.action_space.seed(seed)
        held, rng = environment.action_space.sample(), np.random.default_rng(seed)
        for _ in range(150):
            # From the same state at every step, so that rounding does not add up along a chaotic path.
            plant = jnp.asarray(np.asarray(environment.state), jnp.float32)
            if rng.random() < 0.2:
                held = environment.action_space.sample()
            pending = jnp.zeros((), jnp.float32 if name.startswith("Pendulum") else jnp.int32)
            _, observation, reward, terminated = step(PlantState(plant, pending), jnp.asarray(held), jax.random.key(0))
            expected, pay, ended, _, _ = environment.step(held)
            np.testing.assert_allclose(observation, expected, rtol=2e-4, atol=2e-5)
            np.testing.assert_allclose(reward, pay, rtol=1e-4, atol=1e-4)
            assert bool(terminated) == ended
            seen.add(ended)
            if ended:
                break
    assert seen == ({False, True} if name.startswith("CartPole") else {False})


def test_the_regulator_keeps_the_standard_pole_up_and_a_delayed_action_acts_later():
    family, job = CartPoleFamily(), CartPole.standard()

    @jax.jit
    def attempt(key):
        def move(state, _):
            action = jnp.argmax(family.teach(job, state)).astype(jnp.int32)
            state, _, _, fallen = job.step(state, action, key)
            return state, fallen

        return jax.lax.scan(move, job.reset(key)[0], None, 500)[1].any()

    assert not attempt(jax.random.key(2))
    delayed = family.sample(jnp.int32(family.templates.index("delayed")), jax.random.key(0))
    state, _ = delayed.reset(jax.random.key(0))
    first = [delayed.step(state, jnp.int32(action), jax.random.key(0))[0] for action in (0, 1)]
    np.testing.assert_array_equal(first[0].plant, first[1].plant)
    second = [delayed.step(state, jnp.int32(0), jax.random.key(0))[0] for state in first]
    assert second[0].plant[1] < second[1].plant[1]
