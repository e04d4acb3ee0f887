"""What is checked of every family: rollouts of many of its jobs at once, by its teacher and at random."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from fifteen.jobs.native import NativeStream

# Compiling takes nearly all the time of these checks.
quick_jit = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def without_lapack(function, *arguments):
    """What it gives, compiled; LAPACK's batched kernels may wait for a pool of threads that they fill, for ever."""
    compiled = quick_jit(function).lower(*arguments).compile()
    assert 'custom_call_target="lapack' not in str(compiled.as_text())
    return compiled(*arguments)


def sampled(family, each, seed=0):
    """`each` jobs of every template; the template of row i is i modulo their number."""
    count = each * len(family.templates)
    templates = jnp.arange(count, dtype=jnp.int32) % len(family.templates)
    return without_lapack(jax.vmap(family.sample), templates, jax.random.split(jax.random.key(seed), count))


def roll_out(family, jobs, count, steps):
    """Observations [2, count, steps + 1, ...], advice and returns [2, count] of an attempt each: taught, at random."""

    def attempt(job, taught, key):
        def move(carry, key):
            state, alive = carry
            action_key, step_key = jax.random.split(key)
            advice = family.teach(job, state)
            space = job.action_space
            if isinstance(space, spaces.Discrete):
                odds = jnp.where(taught, advice, 1.0 / int(space.n))
                action = jax.random.categorical(action_key, jnp.log(odds)).astype(jnp.int32)
            else:
                low, high = jnp.asarray(space.low), jnp.asarray(space.high)
                action = jnp.where(taught, advice, jax.random.uniform(action_key, space.shape, minval=low, maxval=high))
            state, observation, reward, terminated = job.step(state, action, step_key)
            return (state, alive & ~terminated), (observation, advice, jnp.where(alive, reward, 0.0))

        state, first = job.reset(key)
        _, (observations, advice, rewards) = jax.lax.scan(
            move, (state, jnp.array(True)), jax.random.split(jax.random.fold_in(key, 1), steps)
        )
        return jnp.concatenate([first[None], observations]), advice, jnp.sum(rewards)

    keys = jax.random.split(jax.random.key(5), count)
    batched = jax.vmap(jax.vmap(attempt, in_axes=(0, None, 0)), in_axes=(None, 0, None))
    return jax.tree.map(np.asarray, without_lapack(batched, jobs, jnp.array([True, False]), keys))


def check_family(family, each=16, steps=100):
    """Returns the jobs, and mean returns float[2, templates] of teacher and chance."""
    jobs = sampled(family, each)
    kinds = len(family.templates)
    observations, advice, returns = roll_out(family, jobs, each * kinds, steps)
    assert np.isfinite(returns).all()
    job = jax.tree.map(lambda leaf: leaf[0], jobs)
    if isinstance(job.observation_space, spaces.Discrete):
        assert observations.min() >= 0
        assert observations.max() < job.observation_space.n
    else:
        assert observations.shape[3:] == job.observation_space.shape
        assert np.isfinite(observations).all()
        assert (observations >= job.observation_space.low - 1e-6).all()
        assert (observations <= job.observation_space.high + 1e-6).all()
    if isinstance(job.action_space, spaces.Discrete):
        np.testing.assert_allclose(advice.sum(axis=-1), 1.0, rtol=1e-5)
    else:
        assert (advice >= job.action_space.low).all()
        assert (advice <= job.action_space.high).all()
    differ = [(leaf[0] != leaf[kinds]).any() for leaf in map(np.asarray, jax.tree.leaves(jobs))]
    assert any(differ)
    stream = NativeStream(job, job_id=family.name)
    stream.reset(0)
    assert stream.step([job.action_space.sample()]).active.all()
    return jobs, returns.reshape(2, each, kinds).mean(axis=1)
