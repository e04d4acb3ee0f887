"""Replenishing a stock and setting a price: dynamics and plans against numpy, and what the teacher is worth."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from fifteen.jobs import NativeStream
from fifteen.jobs.operations import FAMILIES, SALES, SEASON, STOCK, WEEKS

BATCH = 40  # jobs per template


def playing(family):
    """(family, jobs [templates * BATCH], returns and observations of the teacher, and of the random policy)."""
    templates = jnp.repeat(jnp.arange(len(family.templates), dtype=jnp.int32), BATCH)
    jobs = jax.jit(jax.vmap(family.sample))(templates, jax.random.split(jax.random.key(0), templates.size))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, 0, None))
    def play(job, key, draws, taught):
        def tick(carry, given):
            state, total, alive = carry
            key, draw = given
            probabilities = family.teach(job, state)
            even = jnp.full_like(probabilities, 1.0 / probabilities.size)
            chosen = jnp.cumsum(jnp.where(taught, probabilities, even))
            action = jnp.minimum(jnp.sum(draw >= chosen, dtype=jnp.int32), probabilities.size - 1)
            state, observation, reward, terminated = job.step(state, action, key)
            total = total + jnp.where(alive, reward, 0.0)
            return (state, total, alive & ~terminated), (observation, jnp.sum(probabilities))

        begun = (job.reset(key)[0], jnp.zeros(()), jnp.array(True))
        (_, total, _), seen = jax.lax.scan(tick, begun, (jax.random.split(key, job.step_limit), draws))
        return total, seen

    keys = jax.random.split(jax.random.key(1), templates.size)
    draws = jax.random.uniform(jax.random.key(2), (templates.size, jobs.step_limit))
    return family, jobs, *(jax.device_get(play(jobs, keys, draws, jnp.array(taught))) for taught in (True, False))


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def played(request):
    return playing(request.param)


def one(jobs, which):
    return jax.tree.map(lambda leaf: leaf[which], jobs)


def check_observations(played):
    _, jobs, *outcomes = played
    space = jobs.observation_space
    for returns, (observations, sums) in outcomes:
        assert np.isfinite(returns).all() and np.isfinite(observations).all()
        np.testing.assert_allclose(sums, 1.0, rtol=1e-5)
        assert space.contains(observations[0, 0])
        low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (0, space.n - 1)
        assert (observations >= low).all() and (observations <= high).all()


def check_teacher(played):
    family, _, (taught, _), (chance, _) = played
    gains = (taught - chance).reshape(len(family.templates), BATCH)
    assert (gains.mean(1) > 4 * gains.std(1) / math.sqrt(BATCH)).all()
    assert ((gains > 0).mean(1) > 0.6).all()
    assert 1 < np.abs(taught).mean() < 100


def check_distinct(jobs):
    numbers = np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(jobs)], 1)
    assert len(np.unique(numbers, axis=0)) == len(numbers)


def check_stream(family, job):
    stream = NativeStream(job, num_envs=1, job_id=family.name)
    tick = stream.reset(0)
    for _ in range(5):
        tick = stream.step([np.int64(1)])
    assert stream.observation_space.contains(tick.observations[0])
    assert stream.faults == {}


def test_jobs_and_teacher(played):
    family, jobs, *_ = played
    check_observations(played)
    check_teacher(played)
    check_distinct(jobs)
    check_stream(family, one(jobs, 0))


@pytest.mark.parametrize("played", [FAMILIES[0]], indirect=True, ids=["inventory"])
def test_the_inventory_balances_and_its_levels_are_quantiles(played):
    _, jobs, *_ = played
    for which in range(0, len(jobs.lead), 17):
        job = jax.device_get(one(jobs, which))
        lead, holding, shortage = int(job.lead), float(job.holding), float(job.shortage)
        calendar = [week % 13 if job.quarterly else min(week // 4, 12) for week in range(WEEKS + 4)]
        pmf = np.diff(job.cumulative.astype(np.float64), axis=1, prepend=0.0)
        for week in (0, 30):
            total = np.ones(1)
            for ahead in range(lead + 1):
                total = np.convolve(total, pmf[calendar[week + ahead]])
            covered = np.cumsum(total)
            level, ratio = round(job.levels[week] / job.batch), shortage / (shortage + holding)
            assert covered[level] > ratio - 1e-4
            assert level <= 1 or covered[level - 1] < ratio + 1e-4


def test_inventory_moves_as_in_numpy():
    family = FAMILIES[0]
    sample, step = jax.jit(family.sample), jax.jit(lambda job, state, action, key: job.step(state, action, key))
    for seed in range(4):
        job = sample(jnp.int32(seed), jax.random.key(seed))
        key = jax.random.key(100 + seed)
        state, _ = job.reset(key)
        stock, ordered, lead = float(state.stock), [], int(job.lead)
        for week in range(20):
            key, use = jax.random.split(key)
            lots = (week * 5) % 9
            ordered.append(lots * float(job.lot))
            stock = min(stock + (ordered[week - lead] if week >= lead else 0.0), float(job.capacity))
            row = job.cumulative[week % 13 if job.quarterly else week // 4]
            demand = float(job.batch) * int(np.searchsorted(row, float(jax.random.uniform(use)), side="right"))
            rest = max(stock - demand, -float(job.capacity))
            cost = float(job.holding) * max(rest, 0.0) + float(job.shortage) * max(-rest, 0.0)
            seen = min(demand, stock) if job.lost else demand
            stock = max(rest, 0.0) if job.lost else rest
            state, observation, reward, terminated = step(job, state, jnp.int32(lots), use)
            waiting = sum(ordered[max(week - lead + 1, 0) : week + 1])
            np.testing.assert_allclose(observation, [stock, waiting, seen, (week + 1) / WEEKS], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(reward, -cost, rtol=1e-4, atol=1e-4)
            assert not terminated


@pytest.mark.parametrize("played", [FAMILIES[1]], indirect=True, ids=["pricing"])
def test_prices_are_optimal(played):
    _, jobs, *_ = played
    unlimited = 0
    for which in range(0, len(jobs.stock), 23):
        job = jax.device_get(one(jobs, which))
        pmf = np.diff(job.cumulative.astype(np.float64), axis=1, prepend=0.0)
        if not job.limited:
            unlimited += 1
            gains = pmf @ np.arange(SALES) * job.margins
            assert (gains[job.best[:, 0]] > gains.max() - 1e-4).all()
            continue
        value = np.zeros(STOCK)
        for period in reversed(range(SEASON)):
            gains = np.zeros((STOCK, len(job.margins)))
            for demand in range(SALES):
                sold = np.minimum(demand, np.arange(STOCK))
                gained = sold[:, None] * job.margins[None] + value[np.arange(STOCK) - sold][:, None]
                gains += gained * pmf[:, demand][None]
            value = gains.max(1)
            chosen = np.take_along_axis(gains, job.best[period].astype(int)[:, None], 1)[:, 0]
            np.testing.assert_allclose(chosen, value, rtol=1e-4, atol=1e-4)
    assert unlimited


@pytest.mark.parametrize("played", [FAMILIES[1]], indirect=True, ids=["pricing"])
def test_a_season_ends_when_its_time_or_its_stock_does(played):
    _, jobs, *_ = played
    first_limited = int(np.argmax(jobs.limited))
    for which in (first_limited, int(np.argmin(jobs.limited))):
        job = one(jobs, which)
        left, sales_row = int(job.stock), np.asarray(job.cumulative[0])
        state, _ = job.reset(jax.random.key(0))
        for period in range(1, SEASON + 1):
            key = jax.random.key(period)
            demand = int(np.searchsorted(sales_row, float(jax.random.uniform(key)), side="right"))
            sales = min(demand, left) if job.limited else demand
            left -= sales if job.limited else 0
            state, observation, reward, terminated = job.step(state, jnp.int32(0), key)
            np.testing.assert_allclose(reward, sales * float(job.margins[0]), rtol=1e-5)
            np.testing.assert_allclose(observation, [sales, left / int(job.stock), period / SEASON], rtol=1e-5)
            assert bool(terminated) == (period == SEASON or left == 0)
            if terminated:
                break
