"""What `bits.py` simulates: beliefs that are told something, learners that memorise, and curves of their pass rate."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# What an episode tells ------------------------------------------------------------------------------


def entropy(odds: np.ndarray) -> np.ndarray:
    """Bits of distributions float64[..., N]: float64[...]."""
    safe = np.where(odds > 0.0, odds, 1.0)
    return -(odds * np.log2(safe)).sum(axis=-1)


def told(belief: np.ndarray, generator: np.random.Generator) -> dict[str, float]:
    """Bits that one episode tells on average, and the share of guesses that pass.

    belief float64[Q, N]: what is believed of the answers of Q questions. The answers are drawn from it, so it is right
    as beliefs go; the guess is drawn from it too. Pass or fail changes the belief by Bayes' rule: what was guessed is
    the answer, or is excluded. The label leaves no doubt. Bits: entropy of the belief before less after.
    """
    rows = np.arange(len(belief))
    ends = np.cumsum(belief, axis=1)
    last = belief.shape[1] - 1
    answer, guess = (
        np.minimum((ends < generator.random((len(belief), 1)) * ends[:, -1:]).sum(axis=1), last) for _ in range(2)
    )
    passed = answer == guess
    left = belief.copy()
    left[rows, guess] = 0.0
    left /= np.maximum(left.sum(axis=1, keepdims=True), 1e-300)  # nothing is left where nothing was in doubt
    before = entropy(belief)
    after = np.where(passed, 0.0, entropy(left))
    rate = float(passed.mean())
    return {
        "pass_rate": rate,
        "pass_or_fail": float((before - after).mean()),
        "label": float(before.mean()),
        "entropy_of_pass_rate": float(entropy(np.array([rate, 1.0 - rate]))),
    }


# Memorising one of N --------------------------------------------------------------------------------

Signal = Literal["pass or fail", "label", "elimination"]
KNOWN = 0.9  # probability of the answer at which it counts as memorised


def episodes_to_memorise(signal: Signal, count: int, rate: float, seeds: np.ndarray, budget: int) -> np.ndarray:
    """Episodes until the answer, one of `count`, has a probability of 0.9; float64[seeds], NaN: not within the budget.

    "pass or fail": REINFORCE on logits, baseline the running mean of passes (rate 0.1); "label": gradient of the
    cross-entropy; "elimination": guesses at random among what has not failed yet, the best that pass or fail allows.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    if signal == "elimination":
        # The answer's place in a random order of guesses; the last one is known without trying.
        order = jax.vmap(lambda key: jax.random.randint(key, (), 1, count + 1))(keys)
        return np.minimum(np.asarray(order, np.float64), count - 1.0)
    found = np.asarray(_memorise(signal == "label", count, jnp.float32(rate), keys, budget), np.float64)
    return np.where(found < 0.0, np.nan, found)


@partial(jax.jit, static_argnums=(0, 1, 4))
def _memorise(labelled: bool, count: int, rate: Array, keys: Array, budget: int) -> Array:
    """int32[seeds], -1: not within the budget. The answer is number 0."""

    def unknown(state: tuple[Array, ...]) -> Array:
        logits, _, done = state
        return (jax.nn.softmax(logits)[0] < KNOWN) & (done < budget)

    def one(key: Array) -> Array:
        def episode(state: tuple[Array, ...]) -> tuple[Array, ...]:
            logits, baseline, done = state
            odds = jax.nn.softmax(logits)
            guess = jax.random.categorical(jax.random.fold_in(key, done), logits)
            passed = (guess == 0).astype(jnp.float32)
            chosen, weight = (0, 1.0) if labelled else (guess, passed - baseline)
            logits = logits + rate * weight * (jax.nn.one_hot(chosen, count) - odds)
            return logits, baseline + 0.1 * (passed - baseline), done + 1

        logits, _, done = jax.lax.while_loop(unknown, episode, (jnp.zeros(count), jnp.float32(0.0), jnp.int32(0)))
        return jnp.where(jax.nn.softmax(logits)[0] < KNOWN, -1, done)

    return jax.vmap(one)(keys)


# Curves of the pass rate ----------------------------------------------------------------------------

QUESTIONS, ANSWERS, FEATURES = 256, 16, 32


class Kind(NamedTuple):
    """What is learned from pass or fail by REINFORCE, baseline the running mean of passes."""

    shared: bool  # weights over features, so that one question helps another; else logits for every question
    spread: float  # deviation of the logits at first: some questions are nearly known, some nearly hopeless
    rate: float
    rounds: int  # in each, every question is asked once


KINDS = {
    "equally hard": Kind(False, 0.0, 1.0, 400),
    "of all difficulties": Kind(False, 2.5, 1.0, 6_000),
    "with shared features": Kind(True, 0.0, 1.0, 4_000),
}


def pass_rates(kind: Kind, seeds: np.ndarray, rounds: int | None = None) -> np.ndarray:
    """Pass rate before every round, float32[seeds, rounds]: the mean probability of the right answer.

    With shared features the questions are new in every round, so that nothing can be memorised.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return np.asarray(_pass_rates(kind._replace(rounds=rounds or kind.rounds), keys))


@partial(jax.jit, static_argnums=0)
def _pass_rates(kind: Kind, keys: Array) -> Array:
    def one(key: Array) -> Array:
        begin_key, teacher_key, key = jax.random.split(key, 3)
        size = FEATURES if kind.shared else QUESTIONS
        weights = kind.spread * jax.random.normal(begin_key, (size, ANSWERS))
        teacher = jax.random.normal(teacher_key, (FEATURES, ANSWERS))

        def ask(state: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], Array]:
            weights, baseline = state
            asked_key, guess_key = jax.random.split(jax.random.fold_in(key, number))
            if kind.shared:
                asked = jax.random.normal(asked_key, (QUESTIONS, FEATURES)) * FEATURES**-0.5
                answers = jnp.argmax(asked @ teacher, axis=1)
                logits = asked @ weights
            else:
                asked, answers, logits = None, jnp.zeros(QUESTIONS, jnp.int32), weights
            odds = jax.nn.softmax(logits)
            guess = jax.random.categorical(guess_key, logits)
            passed = (guess == answers).astype(jnp.float32)
            change = (passed - baseline)[:, None] * (jax.nn.one_hot(guess, ANSWERS) - odds)
            if asked is not None:
                change = asked.T @ change / QUESTIONS * FEATURES
                baseline = baseline + 0.1 * (jnp.mean(passed) - baseline)
            else:
                baseline = baseline + 0.1 * (passed - baseline)
            rate = jnp.mean(jnp.take_along_axis(odds, answers[:, None], axis=1))
            return (weights + kind.rate * change, baseline), rate

        begin: Any = (weights, jnp.zeros(QUESTIONS))
        return jax.lax.scan(ask, begin, jnp.arange(kind.rounds))[1]

    return jax.vmap(one)(keys)


# Laws -----------------------------------------------------------------------------------------------


def fit_sigmoid(spent: np.ndarray, rate: np.ndarray, first: float) -> Any:
    """p = p0 + (A - p0) / (1 + (m / C)^B), A at most 1: a function of C (Khatri et al., 2025, equation 1).

    spent float64[n], C; rate float64[n]; first: p0, the pass rate of before. Least squares over a grid of B and m.
    """
    power = np.geomspace(0.1, 10.0, 100)[:, None, None]
    middle = np.geomspace(spent[0] / 10.0, 1_000.0 * spent[-1], 300)[:, None]
    shape = 1.0 / (1.0 + (middle / spent) ** power)  # [100, 300, n]
    rise = ((shape * (rate - first)).sum(axis=-1) / np.maximum((shape**2).sum(axis=-1), 1e-300)).clip(0.0, 1.0 - first)
    error = ((rise[..., None] * shape + first - rate) ** 2).sum(axis=-1)
    b, m = np.unravel_index(int(error.argmin()), error.shape)
    found = power[b, 0, 0], middle[m, 0], rise[b, m]
    return lambda c: first + found[2] / (1.0 + (found[1] / c) ** found[0])


def fit_power_law(spent: np.ndarray, rate: np.ndarray) -> Any:
    """p = A - D / C^B, A at most 1, D at least 0: a function of C, as `fit_sigmoid`."""
    power = np.geomspace(0.01, 10.0, 300)[:, None]
    shape = (spent[0] / spent) ** power  # [300, n]
    centred = shape - shape.mean(axis=1, keepdims=True)
    fall = -(centred * rate).sum(axis=1) / np.maximum((centred**2).sum(axis=1), 1e-300)
    top = rate.mean() + fall * shape.mean(axis=1)
    # Where the best A is above 1, A is 1 and only D is left.
    bounded = ((1.0 - rate) * shape).sum(axis=1) / (shape**2).sum(axis=1)
    top, fall = np.where(top > 1.0, 1.0, top), np.maximum(np.where(top > 1.0, bounded, fall), 0.0)
    error = ((top[:, None] - fall[:, None] * shape - rate) ** 2).sum(axis=1)
    best = int(error.argmin())
    return lambda c: top[best] - fall[best] * (spent[0] / c) ** power[best, 0]
