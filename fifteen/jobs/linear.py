"""Linear systems with a quadratic cost, the textbook case of optimal control.

    x' = A x + B u + w,  y = C x,  reward = -(x - r)' Q (x - r) - c u'u,  w normal with deviation `noise`

|u_i| <= 1. The gain of the linear-quadratic regulator u = -K (x - r) follows from the Riccati recursion
P = Q + A' P (A - B K), K = (c I + B' P B)^-1 B' P A (Kalman 1960, Contributions to the theory of optimal control;
Bertsekas, Dynamic Programming and Optimal Control, section 3.1).

Nothing here calls LAPACK: its batched kernels may wait for the pool of threads that they run in, see `memory`.
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

ORDER = 4  # numbers in the state, and in the observation
INPUTS = 1
BOUND = 5.0  # of every number in the state: an unstable system that is left alone stays finite
RICCATI_STEPS = 300


class LinearState(NamedTuple):
    x: Array  # float32[ORDER]


@final
class Linear(Job):
    """A linear system to be held at its set point."""

    a: Array  # float32[ORDER, ORDER]
    b: Array  # float32[ORDER, INPUTS]
    c: Array  # float32[ORDER, ORDER]
    weights: Array  # float32[ORDER], the diagonal of Q
    effort: Array  # float32[], price of u'u
    noise: Array  # float32[]
    target: Array  # float32[ORDER], set point r
    hold: Array  # float32[INPUTS], the input that keeps the system nearest to its set point
    gain: Array  # float32[INPUTS, ORDER], K
    step_limit: int = eqx.field(static=True, default=100)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(-np.inf, np.inf, (ORDER,), np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Box(-1.0, 1.0, (INPUTS,), np.float32)

    def reset(self, key: Array) -> tuple[LinearState, Array]:
        x = 0.5 * jax.random.normal(key, (ORDER,))
        return LinearState(x), self.c @ x

    def step(self, state: LinearState, action: Any, key: Array) -> tuple:
        u = jnp.clip(action, -1.0, 1.0)
        cost = jnp.sum(self.weights * (state.x - self.target) ** 2) + self.effort * jnp.sum(u**2)
        x = self.a @ state.x + self.b @ u + self.noise * jax.random.normal(key, (ORDER,))
        x = jnp.clip(x, -BOUND, BOUND)
        return LinearState(x), self.c @ x, -cost, jnp.array(False)


@final
class LinearFamily(Family):
    """Random linear systems; each template changes one thing about a stable one."""

    name: str = eqx.field(static=True, default="linear/random")
    templates: tuple[str, ...] = eqx.field(
        static=True,
        default=("stable", "rotating", "unstable", "integrators", "two-outputs", "noisy", "set-point"),
    )
    lifetime: int = eqx.field(static=True, default=1000)
    reference: str = eqx.field(
        static=True, default="linear-quadratic regulator on the true state, inputs clipped (Kalman 1960)"
    )

    def sample(self, template: Array, key: Array) -> Linear:
        def is_template(name: str) -> Array:
            return template == self.templates.index(name)

        keys = jax.random.split(key, 10)
        radius = jax.random.uniform(keys[0], (), minval=0.7, maxval=0.95)
        growth = jax.random.uniform(keys[1], (), minval=1.02, maxval=1.1)
        basis = _orthogonal(keys[2])
        a = _stretched(jax.random.normal(keys[3], (ORDER, ORDER)), radius)
        a = jnp.where(is_template("rotating"), 0.99 * basis, a)
        a = jnp.where(is_template("unstable"), basis @ jnp.diag(jnp.array([1.0, 0.7, 0.5, 0.3]) * growth) @ basis.T, a)
        a = jnp.where(is_template("integrators"), jnp.eye(ORDER) + 0.2 * radius * jnp.diag(jnp.ones(ORDER - 1), 1), a)
        b = 0.5 * jax.random.normal(keys[4], (ORDER, INPUTS))
        c = _orthogonal(keys[5])
        outputs = jnp.where(is_template("two-outputs"), jnp.array([1.0, 1.0, 0.0, 0.0]), 1.0)
        noise = jnp.where(is_template("noisy"), 0.3, jax.random.uniform(keys[6], (), maxval=0.05))
        # A set point that some input holds: the equation (I - A) r = B u has a solution u only for some r.
        hold = jnp.where(is_template("set-point"), jax.random.uniform(keys[7], (INPUTS,), minval=-0.6, maxval=0.6), 0.0)
        target = solved(jnp.where(is_template("set-point"), jnp.eye(ORDER) - a, jnp.eye(ORDER)), b @ hold)
        weights = jax.random.uniform(keys[8], (ORDER,), minval=0.01, maxval=0.1)
        effort = jax.random.uniform(keys[9], (), minval=0.003, maxval=0.03)
        gain = regulator(a, b, jnp.diag(weights), effort)
        return Linear(
            a=a,
            b=b,
            c=outputs[:, None] * c,
            weights=weights,
            effort=effort,
            noise=noise,
            target=target,
            hold=hold,
            gain=gain,
        )

    def teach(self, job: Linear, state: LinearState) -> Array:
        return jnp.clip(job.hold - job.gain @ (state.x - job.target), -1.0, 1.0)


def regulator(a: Array, b: Array, q: Array, effort: Array) -> Array:
    """Gain K float32[1, n] of the discrete-time linear-quadratic regulator u = -K x of one input.

    a, q float32[n, n]; b float32[n, 1]; effort float32[], the price of u^2.
    """

    def gain(p: Array) -> Array:
        return b.T @ p @ a / (effort + b.T @ p @ b)

    def back(_: Array, p: Array) -> Array:
        p = q + a.T @ p @ (a - b @ gain(p))
        return 0.5 * (p + p.T)  # rounding would break the symmetry that the recursion relies on

    return gain(jax.lax.fori_loop(0, RICCATI_STEPS, back, q))


def triangular(a: Array) -> tuple[Array, Array]:
    """a = Q R by Householder's reflections (Golub and Van Loan, Matrix Computations, algorithm 5.2.1), all [n, n]."""
    n = a.shape[0]
    q, r = jnp.eye(n), a
    for k in range(n - 1):
        x = jnp.where(jnp.arange(n) < k, 0.0, r[:, k])
        v = x.at[k].add(jnp.where(x[k] < 0.0, -1.0, 1.0) * jnp.sqrt(x @ x))
        v = v / jnp.sqrt(jnp.maximum(v @ v, 1e-30))
        q, r = q - 2.0 * jnp.outer(q @ v, v), r - 2.0 * jnp.outer(v, v @ r)
    return q, r


def _orthogonal(key: Array) -> Array:
    return triangular(jax.random.normal(key, (ORDER, ORDER)))[0]


def solved(a: Array, y: Array) -> Array:
    """x of a x = y: a float32[n, n], x and y float32[n]."""
    q, r = triangular(a)
    right, x = q.T @ y, jnp.zeros_like(y)
    for k in reversed(range(len(y))):
        x = x.at[k].set((right[k] - r[k] @ x) / r[k, k])
    return x


def _stretched(a: Array, radius: Array) -> Array:
    """`a` times a number, so that its spectral radius is nearly `radius`, by Gelfand's formula on a^64."""
    log_norm = jnp.zeros(())
    power = a
    for _ in range(6):
        norm = jnp.linalg.norm(power)
        power = power / norm
        log_norm = 2.0 * (log_norm + jnp.log(norm))
        power = power @ power
    return a * radius / jnp.exp((log_norm + jnp.log(jnp.linalg.norm(power))) / 64.0)


FAMILIES = (LinearFamily(),)
