"""The learners of `delay.py`: tables, with and without a value function, many seeds and settings at once."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from delay_tasks import Task
from jax import Array

EXPLORATION = 0.1  # epsilon, of action values
CHUNK = 250  # episodes between two looks at what is solved


class Settings(NamedTuple):
    """What is searched over: float32[] each."""

    rate: Any  # step size of what decides
    critic: Any  # of the values beside a policy; of REINFORCE's mean returns
    trace: Any  # lambda


class Tables(NamedTuple):
    """What a learner knows."""

    decide: Array  # float32[states, actions], logits of a policy, or action values
    value: Array  # float32[states], beside a policy; "mean": of returns; "linear": weights float32[F]
    wait: Array  # float32[waits], values of the states in which nothing is decided


class Learner(NamedTuple):
    """critic: action values alone; or what is beside a policy: mean returns, a table, a linear function, the truth."""

    critic: Literal["action values", "mean", "table", "linear", "known"]
    grid: tuple[Settings, ...]

    @property
    def gradient(self) -> bool:
        """Whether it has a policy."""
        return self.critic != "action values"


def _grid(rates: Sequence[float], critics: Sequence[float], traces: Sequence[float]) -> tuple[Settings, ...]:
    return tuple(Settings(*chosen) for chosen in itertools.product(rates, critics, traces))


_POLICY_RATES, _VALUE_RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
LEARNERS = {
    "REINFORCE": Learner("mean", _grid(_POLICY_RATES, (0.01, 0.1), (1.0,))),
    "actor-critic": Learner("table", _grid(_POLICY_RATES, (0.03, 0.1, 0.3), (0.0, 0.9))),
    "actor-critic, linear": Learner("linear", _grid(_POLICY_RATES, (0.1, 0.3, 1.0), (0.0, 0.9))),
    "value known": Learner("known", _grid(_POLICY_RATES, (0.0,), (0.0,))),
    "Monte-Carlo control": Learner("action values", _grid(_VALUE_RATES, (0.0,), (1.0,))),
    "Q(lambda)": Learner("action values", _grid(_VALUE_RATES, (0.0,), (0.0, 0.5, 0.9))),
    "TD(0)": Learner("action values", _grid(_VALUE_RATES, (0.0,), (0.0,))),
}


def lambda_returns(rewards: Array, following: Array, trace: Array) -> Array:
    """G_t = r_t + (1 - lambda) V_{t+1} + lambda G_{t+1}, float32[T] (Sutton and Barto, 2018, equation 12.18).

    rewards float32[T]; following float32[T], V of the next state, 0 after the last one. With lambda = 1 no V is in it.
    """

    def back(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, value = row
        later = reward + (1.0 - trace) * value + trace * later
        return later, later

    return jax.lax.scan(back, jnp.zeros(()), (rewards, following), reverse=True)[1]


def fresh(task: Task, learner: Learner, value: float = 0.0) -> Tables:
    """Tables before the first episode; value: of all action values and waiting states."""
    decide = jnp.full((task.decisions, task.actions), value)
    if learner.critic == "known":
        return Tables(decide, *map(jnp.asarray, task.known))
    size = task.features[0].shape[1] if learner.critic == "linear" else task.decisions
    return Tables(decide, jnp.zeros(size), jnp.full(task.waits, value))


def live(task: Task, learner: Learner, settings: Settings, tables: Tables, luck: Array) -> tuple[Tables, Array]:
    """One episode with luck float32[U], and the tables after it; beside them how well it was decided, float32[]."""

    def choose(state: Array, luck: Array) -> Array:
        row = tables.decide[state]
        if learner.gradient:
            odds = jax.nn.softmax(row)
        else:
            best = (row == jnp.max(row)).astype(jnp.float32)
            odds = EXPLORATION / task.actions + (1.0 - EXPLORATION) * best / jnp.sum(best)
        passed = jnp.cumsum(odds)[:-1] <= luck
        return jnp.sum(passed.astype(jnp.int32))

    lived = task.live(choose, luck)
    at, taken, waits = lived.states, lived.actions, lived.waits
    rows = tables.decide[at]  # [K, A]
    met = jnp.concatenate([jnp.asarray(f)[i] for f, i in zip(task.features, (at, waits), strict=True)])  # [K + D, F]
    if learner.critic == "linear":
        values = met @ tables.value
    else:
        now = tables.value[at] if learner.gradient else jnp.max(rows, axis=1)
        values = jnp.concatenate([now, tables.wait[waits]])
    following = jnp.concatenate([values[1:], jnp.zeros(1)])
    returns = lambda_returns(lived.rewards, following, settings.trace)
    errors = returns - values  # [K + D]
    decided, waited = jnp.split(errors, [task.steps])
    if not learner.gradient:
        change = returns[: task.steps] - rows[jnp.arange(task.steps), taken]
        decide = tables.decide.at[at, taken].add(settings.rate * change)
        return Tables(decide, tables.value, tables.wait.at[waits].add(settings.rate * waited)), lived.good
    advantage = returns - tables.value[at[0]] if learner.critic == "mean" else errors
    score = jax.nn.one_hot(taken, task.actions) - jax.nn.softmax(rows, axis=1)
    decide = tables.decide.at[at].add(settings.rate * advantage[: task.steps, None] * score)
    value, wait = tables.value, tables.wait
    if learner.critic == "mean":
        value = value.at[at[0]].add(settings.critic * advantage[0])
    elif learner.critic == "table":
        value, wait = value.at[at].add(settings.critic * decided), wait.at[waits].add(settings.critic * waited)
    elif learner.critic == "linear":
        # The step is measured by the length of the features, so that one grid of step sizes serves all tasks.
        value = value + settings.critic * (errors @ met) / jnp.sum(met**2)
    return Tables(decide, value, wait), lived.good


def episodes_to_solve(
    task: Task,
    learner: Learner,
    settings: Sequence[Settings],
    seeds: Sequence[int],
    budget: int,
    *,
    value: float = 0.0,
    enough: int | None = None,
) -> np.ndarray:
    """Episodes until solved, float64[settings, seeds], NaN where it was not within the budget.

    A seed is the same luck whoever runs beside it. enough: stop as soon as one of the settings has solved it in so many
    seeds.
    """
    lanes = [(one, seed) for one in settings for seed in seeds]
    chosen = Settings(*(jnp.array([getattr(one, name) for one, _ in lanes]) for name in Settings._fields))
    keys = jnp.stack([jax.random.key(seed) for _, seed in lanes])

    def lane(settings: Settings, tables: Tables, key: Array, start: Array) -> tuple[Tables, Array]:
        def episode(tables: Tables, number: Array) -> tuple[Tables, Array]:
            luck = jax.random.uniform(jax.random.fold_in(key, number), (task.luck,))
            return live(task, learner, settings, tables, luck)

        return jax.lax.scan(episode, tables, start + jnp.arange(CHUNK))

    run = jax.jit(jax.vmap(lane, in_axes=(0, 0, 0, None)), donate_argnums=1)
    tables = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(lanes), axis=0), fresh(task, learner, value))
    solved, recent = np.full(len(lanes), np.nan), np.zeros((len(lanes), 0))
    for start in range(0, budget, CHUNK):
        tables, good = run(chosen, tables, keys, jnp.int32(start))
        recent = np.concatenate([recent[:, max(0, recent.shape[1] - task.window + 1) :], np.asarray(good)], axis=1)
        sums = np.cumsum(np.pad(recent, ((0, 0), (1, 0))), axis=1)
        if recent.shape[1] < task.window:
            continue
        reached = (sums[:, task.window :] - sums[:, : -task.window]) / task.window >= task.threshold - 1e-6
        new = np.isnan(solved) & reached.any(axis=1)
        solved[new] = start + CHUNK - reached.shape[1] + 1 + reached[new].argmax(axis=1)
        count = np.isfinite(solved).reshape(len(settings), len(seeds)).sum(axis=1)
        if np.isfinite(solved).all() or (enough is not None and (count >= enough).any()):
            break
    return solved.reshape(len(settings), len(seeds))


def tuned(task: Task, learner: Learner, budget: int, seeds: Sequence[int], enough: int) -> Settings:
    """The settings that solve the task in `enough` of the seeds first, or else those that do in the most."""
    found = episodes_to_solve(task, learner, learner.grid, seeds, budget, enough=enough)
    at = np.sort(np.where(np.isnan(found), np.inf, found), axis=1)[:, enough - 1]
    count = np.minimum(np.isfinite(found).sum(axis=1), enough)
    return learner.grid[int(np.lexsort((at, -count))[0])]
