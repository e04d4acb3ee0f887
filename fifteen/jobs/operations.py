"""Families of work in operations management: replenishing a stock, and setting a price.

Inventory (`work/inventory`), by the week t, with lead time L, lot size Q and n_t lots ordered:

    on hand before demand   y_t = x_t + Q n_{t-L}
    backlog                 x_{t+1} = y_t - D_t             lost sales: x_{t+1} = max(y_t - D_t, 0)
    reward                  -(h max(y_t - D_t, 0) + p max(D_t - y_t, 0)) / unit

The teacher orders up to the level S_t = F^{-1}(p / (p + h)), F the distribution of D_t + ... + D_{t+L}, by whole lots.
Without lots the level is optimal under backlog where it does not fall faster than demand takes the stock away (Arrow,
Harris & Marschak 1951, "Optimal inventory policy"; Karlin 1960, "Dynamic inventory policy with varying stochastic
demands"; lots: Veinott 1965, "The optimal inventory policy for batch ordering"). Under lost sales with L > 0 it is
optimal only as p / h grows (Huh, Janakiraman, Muckstadt & Rusmevichientong 2009), so it is a strong policy, no bound.

Pricing (`work/pricing`): in each period of a season Poisson(m d(P)) customers buy at price P, where d is the demand
curve; the reward is (P - c) times the sales. The teacher's prices maximise the expected rest of the season by dynamic
programming over the stock left (Gallego & van Ryzin 1994, "Optimal dynamic pricing of inventories with stochastic
demand over finite horizons"); with unlimited stock that is the price that maximises (P - c) d(P).
"""

from typing import Any, NamedTuple, final

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from fifteen.jobs.drawing import between, whole
from fifteen.jobs.family import Family
from fifteen.jobs.native import Job

WEEKS = 52
PHASES = 13  # of the demand: the weeks of a quarter, or the months of four weeks of a year
MAX_LEAD = 4
ORDERS = 9
COUNTS = 32  # demands of one week, in batches, are below it
SUM_COUNTS = 256  # more than any sum of MAX_LEAD + 1 demands, so that the transform does not wrap around

PRICES = 12
SEASON = 20  # periods
STOCK = 64  # stocks are below it
SALES = 24  # sales of one period are below it


def _log_between(unit: Array, low: float, high: float) -> Array:
    return low * (high / low) ** unit


def _poisson(rates: Array, counts: int) -> Array:
    """Probabilities of 0..counts-1, float32[rates, counts], the tail cut off."""
    number = jnp.arange(counts, dtype=jnp.float32)
    rates = jnp.maximum(rates, 1e-6)[:, None]
    log = number[None] * jnp.log(rates) - rates - jax.lax.lgamma(number + 1.0)[None]
    return jax.nn.softmax(log, axis=1)


class InventoryState(NamedTuple):
    week: Array  # int32[]
    stock: Array  # float32[], negative: backlog
    pipeline: Array  # float32[MAX_LEAD], what arrives in the next weeks


@final
class Inventory(Job):
    """Observes stock, units on order, the last week's demand (under lost sales: what was sold) and the time of year."""

    cumulative: Array  # float32[PHASES, COUNTS], of the week's demand in batches
    quarterly: Array  # bool[], else the phases run through the year once
    batch: Array  # float32[], units
    lot: Array  # float32[], units
    lead: Array  # int32[], weeks
    lost: Array  # bool[], else unmet demand waits
    holding: Array  # float32[], cost of a unit and week
    shortage: Array  # float32[], cost of a unit lost, or waiting for a week
    capacity: Array  # float32[], units; more goes back unpaid, and customers beyond it do not wait
    levels: Array  # float32[WEEKS], base-stock levels
    step_limit: int = eqx.field(static=True, default=WEEKS)

    @property
    def observation_space(self) -> gym.Space:
        low = np.array([-np.inf, 0, 0, 0], np.float32)
        return spaces.Box(low, np.array([np.inf, np.inf, np.inf, 1], np.float32), dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(ORDERS)

    def reset(self, key: Array) -> tuple[InventoryState, Array]:
        stock = jnp.round(jax.random.uniform(key) * self.levels[0])
        state = InventoryState(jnp.zeros((), jnp.int32), stock, jnp.zeros(MAX_LEAD))
        return state, self._observe(state, jnp.zeros(()))

    def step(self, state: InventoryState, action: Any, key: Array) -> tuple:
        order = self.lot * jnp.asarray(action, jnp.float32)
        arriving = jnp.where(self.lead == 0, order, state.pipeline[0])
        pipeline = jnp.append(state.pipeline[1:], 0.0)
        pipeline = pipeline + jnp.where(jnp.arange(MAX_LEAD) == self.lead - 1, order, 0.0)
        before = jnp.minimum(state.stock + arriving, self.capacity)
        row = self.cumulative[_phase(state.week, self.quarterly)]
        demand = self.batch * jnp.sum(jax.random.uniform(key) >= row, dtype=jnp.float32)
        after = jnp.maximum(before - demand, -self.capacity)
        held, short = jnp.maximum(after, 0.0), jnp.maximum(-after, 0.0)
        # What was not in stock is not seen when it is lost: the demand is censored.
        seen = jnp.where(self.lost, jnp.minimum(demand, before), demand)
        state = InventoryState(state.week + 1, jnp.where(self.lost, held, after), pipeline)
        reward = -(self.holding * held + self.shortage * short)
        return state, self._observe(state, seen), reward, jnp.array(False)

    def _observe(self, state: InventoryState, seen: Array) -> Array:
        time = jnp.minimum(state.week.astype(jnp.float32) / WEEKS, 1.0)
        return jnp.stack([state.stock, jnp.sum(state.pipeline), seen, time])


def _phase(week: Array, quarterly: Array) -> Array:
    return jnp.where(quarterly, week % PHASES, jnp.minimum(week // 4, PHASES - 1))


def base_stock(pmf: Array, phases: Array, lead: Array, ratio: Array) -> Array:
    """float32[WEEKS]: the least level that covers the demand of lead + 1 weeks with probability `ratio`.

    pmf: float32[PHASES, COUNTS]; phases: int32[WEEKS + MAX_LEAD].
    """
    spectrum = jnp.fft.rfft(pmf, SUM_COUNTS, axis=1)
    total = jnp.ones((WEEKS, SUM_COUNTS // 2 + 1), jnp.complex64)
    for ahead in range(MAX_LEAD + 1):
        factor = spectrum[phases[ahead : ahead + WEEKS]]
        total = jnp.where(ahead <= lead, total * factor, total)
    cumulative = jnp.cumsum(jnp.fft.irfft(total, SUM_COUNTS, axis=1), axis=1)
    return jnp.sum(cumulative < ratio, axis=1, dtype=jnp.float32)


@final
class InventoryFamily(Family):
    name: str = eqx.field(static=True, default="work/inventory")
    templates: tuple[str, ...] = eqx.field(
        static=True, default=("stationary", "seasonal", "intermittent", "trending", "batch", "shift")
    )
    lifetime: int = eqx.field(static=True, default=20 * WEEKS)
    reference: str = eqx.field(
        static=True,
        default="base stock of the known demand over lead time and review (Arrow, Harris & Marschak 1951; Karlin 1960)",
    )

    def sample(self, template: Array, key: Array) -> Inventory:
        units = iter(jax.random.uniform(key, (15,)))
        at = jnp.arange(PHASES, dtype=jnp.float32) / PHASES
        flat = jnp.ones(PHASES)
        swing, offset = between(next(units), 0.4, 0.9), next(units)
        seasonal = 1.0 + swing * jnp.sin(2.0 * jnp.pi * (at + offset))
        direction = jnp.where(next(units) < 0.5, -1.0, 1.0)
        trending = 1.0 + direction * between(next(units), 0.5, 0.9) * (2.0 * at - 1.0)
        moment, jump = between(next(units), 0.2, 0.8), direction * between(next(units), 0.4, 0.8)
        shift = 1.0 + jnp.where(at < moment, -jump, jump)
        shape = jnp.stack([flat, seasonal, flat, trending, flat, shift])[template]
        rates = shape * _log_between(next(units), 1.0, 7.0)
        occurs = jnp.where(template == 2, between(next(units), 0.15, 0.4), 1.0)
        none = jnp.where(jnp.arange(COUNTS) == 0, 1.0 - occurs, 0.0)
        pmf = occurs * _poisson(rates, COUNTS) + none[None]
        batch = jnp.where(template == 4, whole(next(units), 3, 9), 1).astype(jnp.float32)
        lot = between(next(units), 0.3, 0.7) * jnp.mean(rates) * occurs * batch
        lead = whole(next(units), 0, MAX_LEAD + 1)
        quarterly = (template == 1) & (next(units) < 0.5)
        holding, ratio = _log_between(next(units), 0.2, 1.0), _log_between(next(units), 2.0, 15.0)
        phases = _phase(jnp.arange(WEEKS + MAX_LEAD), quarterly)
        levels = jnp.maximum(batch * base_stock(pmf, phases, lead, ratio / (1.0 + ratio)), 1.0)
        # Costs per unit shrink with the units that the job is about, so that returns do not grow with them.
        unit = jnp.mean(levels)
        return Inventory(
            cumulative=jnp.cumsum(pmf, axis=1),
            quarterly=quarterly,
            batch=batch,
            lot=jnp.maximum(jnp.round(lot), 1.0),
            lead=lead,
            lost=next(units) < 0.5,
            holding=holding / unit,
            shortage=holding * ratio / unit,
            capacity=2.0 * jnp.max(levels),
            levels=levels,
        )

    def teach(self, job: Inventory, state: InventoryState) -> Array:
        position = state.stock + jnp.sum(state.pipeline)
        lots = jnp.round((job.levels[jnp.minimum(state.week, WEEKS - 1)] - position) / job.lot)
        return jax.nn.one_hot(jnp.clip(lots, 0, ORDERS - 1).astype(jnp.int32), ORDERS, dtype=jnp.float32)


class PricingState(NamedTuple):
    period: Array  # int32[]
    stock: Array  # int32[], units left; where stock is unlimited it stays


@final
class Pricing(Job):
    """Observes the last period's sales, the share of the stock that is left, and the share of the season gone."""

    cumulative: Array  # float32[PRICES, SALES], of the demand at a price
    margins: Array  # float32[PRICES], price less unit cost
    limited: Array  # bool[]
    stock: Array  # int32[], at the beginning
    best: Array  # int8[SEASON, STOCK], the teacher's price
    step_limit: int = eqx.field(static=True, default=SEASON)

    @property
    def observation_space(self) -> gym.Space:
        return spaces.Box(np.zeros(3, np.float32), np.array([SALES, 1, 1], np.float32), dtype=np.float32)

    @property
    def action_space(self) -> gym.Space:
        return spaces.Discrete(PRICES)

    def reset(self, key: Array) -> tuple[PricingState, Array]:
        state = PricingState(jnp.zeros((), jnp.int32), self.stock)
        return state, self._observe(state, jnp.zeros((), jnp.int32))

    def step(self, state: PricingState, action: Any, key: Array) -> tuple:
        demand = jnp.sum(jax.random.uniform(key) >= self.cumulative[action], dtype=jnp.int32)
        sales = jnp.where(self.limited, jnp.minimum(demand, state.stock), demand)
        state = PricingState(state.period + 1, jnp.where(self.limited, state.stock - sales, state.stock))
        reward = self.margins[action] * sales.astype(jnp.float32)
        # The season's end is an end, not a cut: what is left then is worth nothing.
        over = (state.period >= SEASON) | (state.stock == 0)
        return state, self._observe(state, sales), reward, over

    def _observe(self, state: PricingState, sales: Array) -> Array:
        sold, left, begun = (value.astype(jnp.float32) for value in (sales, state.stock, self.stock))
        return jnp.stack([sold, left / begun, state.period.astype(jnp.float32) / SEASON])


def best_prices(pmf: Array, margins: Array, limited: Array) -> Array:
    """int8[SEASON, STOCK]: backward induction over the season. pmf: float32[PRICES, SALES]."""
    stock, demand = jnp.arange(STOCK)[:, None], jnp.arange(SALES)[None]
    sales = jnp.where(limited, jnp.minimum(demand, stock), demand)
    left = jnp.where(limited, stock - sales, stock)
    gain = jnp.einsum("kj,sj->sk", pmf, sales.astype(jnp.float32)) * margins[None]

    def earlier(value: Array, _: None) -> tuple[Array, Array]:
        action_values = gain + jnp.einsum("kj,sj->sk", pmf, value[left])
        return jnp.max(action_values, axis=1), jnp.argmax(action_values, axis=1).astype(jnp.int8)

    return jax.lax.scan(earlier, jnp.zeros(STOCK), None, length=SEASON, reverse=True)[1]


@final
class PricingFamily(Family):
    name: str = eqx.field(static=True, default="work/pricing")
    templates: tuple[str, ...] = eqx.field(
        static=True,
        default=("linear", "exponential", "logit", "constant elasticity", "kinked", "threshold", "two segments"),
    )
    lifetime: int = eqx.field(static=True, default=30 * SEASON)
    reference: str = eqx.field(
        static=True, default="optimal price of the known demand and the stock left, by DP (Gallego & van Ryzin 1994)"
    )

    def sample(self, template: Array, key: Array) -> Pricing:
        units = jax.random.uniform(key, (10,))
        worth = _log_between(units[0], 0.3, 1.5)  # the money that prices are of the order of
        low, high = between(units[1], 0.1, 0.3), between(units[2], 1.8, 3.0)
        relative = low + (high - low) * jnp.arange(PRICES, dtype=jnp.float32) / (PRICES - 1)
        share = jax.lax.switch(template, _CURVES, relative, units[7:])
        customers = _log_between(units[3], 1.0, 6.0)
        pmf = _poisson(customers * jnp.clip(share, 0.0, 1.0), SALES)
        margins = worth * (relative - between(units[4], 0.0, 0.4))
        limited = units[5] < 0.5
        stock = jnp.round(customers * SEASON * between(units[6], 0.1, 0.5)).astype(jnp.int32)
        stock = jnp.where(limited, jnp.clip(stock, 2, STOCK - 1), STOCK - 1)
        return Pricing(
            cumulative=jnp.cumsum(pmf, axis=1),
            margins=margins,
            limited=limited,
            stock=stock,
            best=best_prices(pmf, margins, limited),
        )

    def teach(self, job: Pricing, state: PricingState) -> Array:
        best = job.best[jnp.minimum(state.period, SEASON - 1), state.stock]
        return jax.nn.one_hot(best, PRICES, dtype=jnp.float32)


def _linear(price: Array, units: Array) -> Array:
    return 1.0 - price / between(units[0], 0.9, 1.8)


def _exponential(price: Array, units: Array) -> Array:
    return jnp.exp(-price * between(units[0], 0.8, 3.0))


def _logit(price: Array, units: Array) -> Array:
    return jax.nn.sigmoid((between(units[0], 0.6, 1.4) - price) * between(units[1], 3.0, 10.0))


def _constant_elasticity(price: Array, units: Array) -> Array:
    return (between(units[0], 0.3, 1.0) / price) ** between(units[1], 1.5, 4.0)


def _kinked(price: Array, units: Array) -> Array:
    kink, flat, steep = (between(units[at], *ends) for at, ends in enumerate([(0.5, 1.5), (0.05, 0.3), (1.5, 4.0)]))
    return 1.0 - flat * jnp.minimum(price, kink) - steep * jnp.maximum(price - kink, 0.0)


def _threshold(price: Array, units: Array) -> Array:
    below, above = between(units[1], 0.6, 1.0), between(units[2], 0.02, 0.15)
    return jnp.where(price <= between(units[0], 0.4, 1.6), below, above)


def _two_segments(price: Array, units: Array) -> Array:
    many = jax.nn.sigmoid((between(units[0], 0.4, 0.7) - price) * 12.0)
    few = jax.nn.sigmoid((between(units[1], 1.2, 1.7) - price) * 12.0)
    rich = between(units[2], 0.15, 0.5)
    return (1.0 - rich) * many + rich * few


_CURVES = (_linear, _exponential, _logit, _constant_elasticity, _kinked, _threshold, _two_segments)

FAMILIES = (InventoryFamily(), PricingFamily())
