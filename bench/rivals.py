"""Classical rivals of a learner that learns in context: bandit algorithms, and planners on tabular MDPs.

Pure but for the generator they are given, and vectorised over J jobs. A bandit policy sees the wins and losses of every
arm and chooses an arm; an MDP policy sees the transitions and rewards so far and plans a whole episode. NumPy and not
JAX: its gamma and beta numbers are an order of magnitude faster on a CPU, and they are most of the work.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Rng = np.random.Generator

# wins int[J, k], losses int[J, k], pulls so far, generator -> arms int[J]
BanditPolicy = Callable[[np.ndarray, np.ndarray, int, Rng], np.ndarray]

# visits float32[J, S, A, S], reward sums float32[J, S, A], generator -> actions int[J, H, S]
MdpPolicy = Callable[[np.ndarray, np.ndarray, Rng], np.ndarray]

# RL^2 (Duan et al., 2016) scales UCB1's bonus by a constant; on uniform arms and 100 pulls 0.2 does best.
UCB_BONUS = 0.2
OPSRL_SAMPLES = 10
# The best over 100 episodes of the "dense" MDPs among 1, 5 and 10 samples and spreads of 0.5, 0.7 and 1: the exact
# posterior explores too much for so few episodes. What RL^2 reports of OPSRL lies between the two.
_TUNED = {"samples": 5, "spread": 0.5}
GITTINS_LEVELS = 129  # known arms that an unknown one is compared with; a multiple of the chunk, and one more
_CHUNK = 8


# ------------------------------------------------------------------------------------------------------- bandits


def play_bandits(policy: BanditPolicy, chances: np.ndarray, pulls: int, rng: Rng) -> np.ndarray:
    """Total reward of a policy on Bernoulli bandits of the given chances, float[J, k]: float64[J]."""
    jobs = np.arange(len(chances))
    wins, losses = np.zeros(chances.shape, np.int64), np.zeros(chances.shape, np.int64)
    for pulled in range(pulls):
        arms = policy(wins, losses, pulled, rng)
        won = rng.random(len(chances)) < chances[jobs, arms]
        wins[jobs, arms] += won
        losses[jobs, arms] += ~won
    return wins.sum(axis=1).astype(np.float64)


def random_arm(wins: np.ndarray, losses: np.ndarray, pulled: int, rng: Rng) -> np.ndarray:
    """Every arm alike."""
    return rng.integers(wins.shape[1], size=len(wins))


def ucb1(wins: np.ndarray, losses: np.ndarray, pulled: int, rng: Rng, *, bonus: float = UCB_BONUS) -> np.ndarray:
    """argmax_a  w(a) / n(a) + c sqrt(2 ln t / n(a)), every arm once at first (Auer et al., 2002: c = 1)."""
    count = wins + losses
    often = np.maximum(count, 1)
    index = wins / often + bonus * np.sqrt(2.0 * np.log(max(pulled, 1)) / often)
    return _break_ties(np.where(count == 0, np.inf, index), rng)


def thompson(wins: np.ndarray, losses: np.ndarray, pulled: int, rng: Rng) -> np.ndarray:
    """argmax_a of a draw from Beta(1 + w(a), 1 + l(a)) (Thompson, 1933; Agrawal and Goyal, 2012)."""
    return rng.beta(1 + wins, 1 + losses).argmax(axis=1)


def gittins(pulls: int) -> BanditPolicy:
    """The policy of the finite-horizon Gittins index: argmax_a nu_m(1 + w(a), 1 + l(a)), m pulls remaining.

    With a known and an unknown arm it is optimal; with several unknown ones it is not quite, as the horizon is finite
    (Kaufmann, 2018, On Bayesian index policies for sequential resource allocation, section 3).
    """
    table = gittins_table(pulls)

    def choose(wins: np.ndarray, losses: np.ndarray, pulled: int, rng: Rng) -> np.ndarray:
        return _break_ties(table[pulled][wins + losses, wins], rng)

    return choose


def gittins_table(pulls: int, levels: int = GITTINS_LEVELS) -> list[np.ndarray]:
    """Indices nu_m(1 + w, 1 + n - w) for m = pulls - t: entry t is float32[t + 1, t + 1] by n and w (w <= n).

    By calibration (Gittins, Glazebrook and Weber, 2011, section 8.4), undiscounted and for a finite horizon: beside a
    known arm that pays x, an unknown arm with the posterior Beta(a, b) and the mean u = a / (a + b) has the advantage

        C_m(a, b; x) = u - x + u max(0, C_{m-1}(a + 1, b; x)) + (1 - u) max(0, C_{m-1}(a, b + 1; x)),

    and nu_m(a, b) is its zero in x, interpolated between evenly spaced levels of x: C is convex and falls in x.
    """
    if (levels - 1) % _CHUNK:
        raise ValueError(f"levels is {levels}, expected a multiple of {_CHUNK} and one more")
    known = np.linspace(0.0, 1.0, levels, dtype=np.float32)
    counts = np.arange(pulls + 1, dtype=np.float32)
    mean = np.minimum((counts[None] + 1.0) / (counts[:, None] + 2.0), 1.0)  # of n pulls and w wins
    table = [np.zeros((t + 1, t + 1), np.float32) for t in range(pulls)]
    # Few levels at a time: what they need stays within the processor's cache. A zero lies in one chunk only.
    for start in range(0, levels - 1, _CHUNK):
        x = known[start : start + _CHUNK + 1, None, None]
        worth = np.zeros((_CHUNK + 1, pulls + 1, pulls + 1), np.float32)
        for t in reversed(range(pulls)):
            u, lost = mean[: t + 1, : t + 1], worth[:, 1 : t + 2, : t + 1]
            advantage = worth[:, 1 : t + 2, 1 : t + 2] - lost
            advantage *= u
            advantage += lost
            advantage += u
            advantage -= x
            _note_zeros(advantage, x[:, 0, 0], table[t])
            worth = np.maximum(advantage, 0.0, out=advantage)
    return table


def _note_zeros(advantage: np.ndarray, x: np.ndarray, found: np.ndarray) -> None:
    """Write the zeros that lie between the levels x into `found`."""
    here = np.flatnonzero((advantage[0] > 0.0) & (advantage[-1] <= 0.0))
    values = advantage.reshape(len(x), -1)[:, here]
    below = (values > 0.0).sum(axis=0) - 1
    low, high = (np.take_along_axis(values, (below + more)[None], axis=0)[0] for more in (0, 1))
    found.reshape(-1)[here] = x[below] + (x[1] - x[0]) * low / (low - high)


def _break_ties(index: np.ndarray, rng: Rng) -> np.ndarray:
    """argmax over the last axis, at random among equals."""
    best = index == index.max(axis=-1, keepdims=True)
    return (best * rng.random(index.shape)).argmax(axis=-1)


# ---------------------------------------------------------------------------------------------------------- MDPs


def play_mdps(
    policy: MdpPolicy,
    transitions: np.ndarray,
    rewards: np.ndarray,
    deviation: np.ndarray,
    episodes: int,
    rng: Rng,
    horizon: int = 10,
) -> np.ndarray:
    """Returns float64[J, episodes] of a policy on MDPs whose episodes begin in state 0.

    transitions float32[J, S, A, S]; rewards float32[J, S, A], means of normal rewards of the deviation float32[J].
    """
    count, states = rewards.shape[:2]
    jobs, bounds = np.arange(count), np.cumsum(transitions, axis=-1)[..., :-1]
    visits, sums = np.zeros(transitions.shape, np.float32), np.zeros(rewards.shape, np.float32)
    returns = np.zeros((count, episodes))
    for episode in range(episodes):
        plan = policy(visits, sums, rng)
        place = np.zeros(count, np.int64)
        for step in range(horizon):
            action = plan[jobs, step, place]
            reward = rewards[jobs, place, action] + deviation * rng.standard_normal(count)
            after = (bounds[jobs, place, action] <= rng.random(count)[:, None]).sum(axis=1)
            visits[jobs, place, action, after] += 1.0
            sums[jobs, place, action] += reward
            returns[:, episode] += reward
            place = after
    return returns


def random_plan(visits: np.ndarray, sums: np.ndarray, rng: Rng, *, horizon: int = 10) -> np.ndarray:
    """Every action alike, in every state and step."""
    count, states, actions = sums.shape
    return rng.integers(actions, size=(count, horizon, states))


def opsrl(
    visits: np.ndarray,
    sums: np.ndarray,
    rng: Rng,
    *,
    samples: int = OPSRL_SAMPLES,
    spread: float = 1.0,
    horizon: int = 10,
) -> np.ndarray:
    """Optimistic posterior sampling: argmax_a max_k Q_k,h(s, a), the upper envelope of K sampled and planned MDPs.

    Every episode K MDPs are drawn from the posterior: P_k(.|s, a) from a Dirichlet distribution with the prior
    Dirichlet(1, ..., 1), the mean rewards R_k(s, a) from a normal one with the prior N(1, 1) and observations of unit
    variance. Each is planned on its own by backward induction,

        Q_k,h(s, a) = R_k(s, a) + sum_s' P_k(s'|s, a) max_a' Q_k,h+1(s', a'),

    and the elementwise maximum is taken of the K plans' action values (Osband and Van Roy, 2017, Why is posterior
    sampling better than optimism for reinforcement learning?), not of the K models within one plan as Tiapkin et al.
    (2022) have it. spread: posterior deviations are multiplied by it, Dirichlet parameters divided by its square; 1 is
    the posterior.
    """
    count, states, actions = sums.shape
    weights = ((1.0 + visits) / np.float32(spread**2))[:, None]
    drawn = rng.standard_gamma(np.broadcast_to(weights, (count, samples, *visits.shape[1:])), dtype=np.float32)
    drawn /= np.maximum(drawn.sum(axis=-1, keepdims=True), 1e-30)
    precision = 1.0 + visits.sum(axis=-1)
    noise = np.float32(spread) * rng.standard_normal((count, samples, states, actions), dtype=np.float32)
    means = ((1.0 + sums) / precision)[:, None] + noise / np.sqrt(precision)[:, None]
    return plan(drawn, means, horizon)


def psrl(visits: np.ndarray, sums: np.ndarray, rng: Rng, *, horizon: int = 10) -> np.ndarray:
    """Posterior sampling (Strens, 2000; Osband et al., 2013): `opsrl` with the plan of one sample."""
    return opsrl(visits, sums, rng, samples=1, horizon=horizon)


def known(transitions: np.ndarray, rewards: np.ndarray, *, horizon: int = 10) -> MdpPolicy:
    """The optimal policy, the MDPs known: backward induction (Puterman, 1994, section 4.5)."""
    best = plan(transitions[:, None], rewards[:, None], horizon)
    return lambda visits, sums, rng: best


def plan(transitions: np.ndarray, rewards: np.ndarray, horizon: int) -> np.ndarray:
    """Actions int[J, H, S] of the upper envelope of K plans, see `opsrl`.

    transitions float32[J, K, S, A, S], rewards float32[J, K, S, A].
    """
    count, samples, states, actions = rewards.shape
    rows = transitions.reshape(count, samples, states * actions, states)
    values = np.zeros((count, samples, states), np.float32)
    chosen = np.zeros((count, horizon, states), np.int64)
    for step in reversed(range(horizon)):
        worth = rewards + (rows @ values[..., None]).reshape(rewards.shape)
        chosen[:, step] = worth.max(axis=1).argmax(axis=2)
        values = worth.max(axis=3)
    return chosen


BANDITS: dict[str, Callable[[int], BanditPolicy]] = {
    "random": lambda pulls: random_arm,
    "ucb1": lambda pulls: ucb1,
    "ucb1, c = 1": lambda pulls: partial(ucb1, bonus=1.0),
    "thompson": lambda pulls: thompson,
    "gittins": gittins,
}
MDPS: dict[str, MdpPolicy] = {
    "random": random_plan,
    "psrl": psrl,
    "opsrl": opsrl,
    "opsrl, tuned": partial(opsrl, **_TUNED),
}
