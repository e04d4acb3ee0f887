"""The rivals of the yardsticks: indices against exact enumeration, means against what was published."""

import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.jobs.bandits import BernoulliFamily
from fifteen.jobs.mdps import TabularMdpFamily
from fifteen.jobs.mdps import plan as teacher_plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import rivals  # noqa: E402

PULLS = 100
SHORT = 6


def draw(family, template, count):
    templates = jnp.full(count, family.templates.index(template), jnp.int32)
    jobs = jax.jit(jax.vmap(family.sample))(templates, jax.random.split(jax.random.key(0), count))
    return jax.tree.map(np.asarray, jobs)


@pytest.fixture(scope="module")
def chances():
    return draw(BernoulliFamily(), "uniform", 8000).chances


@pytest.fixture(scope="module")
def processes():
    return draw(TabularMdpFamily(), "dense", 300)


@pytest.fixture(scope="module")
def totals(chances):
    return {
        name: rivals.play_bandits(make(PULLS), chances, PULLS, np.random.default_rng(0))
        for name, make in rivals.BANDITS.items()
    }


def test_bandit_means_are_those_published(totals):
    """Duan et al. (2016), table 1, of 1000 bandits: three deviations of their mean and of ours."""
    published = {"random": 49.9, "thompson": 74.7, "gittins": 78.3}
    for name, mean in published.items():
        deviation = totals[name].std()
        error = deviation * (1 / 1000 + 1 / len(totals[name])) ** 0.5
        assert abs(totals[name].mean() - mean) < 3 * error, name


def test_gittins_beats_the_others_on_the_same_bandits(totals):
    for name in set(totals) - {"gittins"}:
        gain = totals["gittins"] - totals[name]
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5, name


def test_index_grows_with_successes_and_with_the_time_that_remains():
    table = rivals.gittins_table(PULLS)
    for layer in table:
        for n, row in enumerate(layer):
            assert (np.diff(row[: n + 1]) > 0).all()
    for now, later in zip(table, table[1:], strict=False):
        seen = np.tri(len(now), dtype=bool)
        assert (now >= later[:-1, :-1] - 5e-3)[seen].all()  # as exact as the levels are


def test_last_index_is_the_mean():
    last = rivals.gittins_table(PULLS)[-1]
    for n, row in enumerate(last):
        np.testing.assert_allclose(row[: n + 1], (np.arange(n + 1) + 1) / (n + 2), atol=1e-5)


@cache
def stopping_values(wins, losses, pulls):
    """(expected reward, expected pulls) of every rule of when to stop that pulls once at least."""
    chance = Fraction(wins + 1, wins + losses + 2)
    if pulls == 1:
        return frozenset({(chance, Fraction(1))})
    stop = {(Fraction(0), Fraction(0))}
    return frozenset(
        (chance + chance * won[0] + (1 - chance) * lost[0], 1 + chance * won[1] + (1 - chance) * lost[1])
        for won in stop | stopping_values(wins + 1, losses, pulls - 1)
        for lost in stop | stopping_values(wins, losses + 1, pulls - 1)
    )


def test_indices_are_the_best_rates_of_all_stopping_rules():
    """nu = max over stopping times of E[reward] / E[pulls] (Gittins, 1979), by enumeration."""
    pulls = 4
    table = rivals.gittins_table(pulls, 1025)
    for t, layer in enumerate(table):
        for n in range(t + 1):
            for wins in range(n + 1):
                best = max(reward / time for reward, time in stopping_values(wins, n - wins, pulls - t))
                assert layer[n, wins] == pytest.approx(float(best), abs=1e-4)
    assert max(reward / time for reward, time in stopping_values(0, 0, 2)) == Fraction(5, 9)


@cache
def best_of_two(wins, losses, other_wins, other_losses, pulls):
    """Exact value of the Bayes-optimal policy on two unknown arms."""
    return max(after(wins, losses, other_wins, other_losses, pulls, best_of_two, arm) for arm in (0, 1)) if pulls else 0


def after(wins, losses, other_wins, other_losses, pulls, value, arm):
    """Exact value of pulling one arm and going on with the values given."""
    if arm:
        wins, losses, other_wins, other_losses = other_wins, other_losses, wins, losses
    chance = Fraction(wins + 1, wins + losses + 2)
    rest = other_wins, other_losses, pulls - 1
    return chance * (1 + value(wins + 1, losses, *rest)) + (1 - chance) * value(wins, losses + 1, *rest)


def test_index_policy_is_nearly_optimal_with_two_arms():
    choose = rivals.gittins(SHORT)

    @cache
    def value(wins, losses, other_wins, other_losses, pulls):
        if not pulls:
            return 0
        seen = np.array([[wins, other_wins]]), np.array([[losses, other_losses]])
        arm = int(choose(*seen, SHORT - pulls, np.random.default_rng(0))[0])
        return after(wins, losses, other_wins, other_losses, pulls, value, arm)

    optimal, achieved = best_of_two(0, 0, 0, 0, SHORT), value(0, 0, 0, 0, SHORT)
    assert 0.995 * optimal < achieved <= optimal


def test_levels_that_do_not_fill_chunks_are_refused():
    with pytest.raises(ValueError, match="levels is 100"):
        rivals.gittins_table(3, 100)


def test_plans_with_the_process_known_are_the_teachers(processes):
    chosen = rivals.plan(processes.transitions[:, None], processes.rewards[:, None], 10)
    for n in range(5):
        taught = np.asarray(teacher_plan(processes.transitions[n], processes.rewards[n]))
        assert (np.take_along_axis(taught, chosen[n][:, :, None], axis=2) > 0).all()


def test_mdp_rivals_order_as_published(processes):
    """Duan et al. (2016), table 2: random 100.1, PSRL 138.1, OPSRL 144.1."""
    truth = processes.transitions, processes.rewards
    policies = rivals.MDPS | {"known": rivals.known(*truth)}
    returns = {
        name: rivals.play_mdps(policy, *truth, processes.deviation, 10, np.random.default_rng(0))
        for name, policy in policies.items()
    }
    means = {name: found.sum(axis=1).mean() for name, found in returns.items()}
    assert all(np.isfinite(found).all() for found in returns.values())
    assert means["random"] == pytest.approx(100, abs=8)
    assert means["psrl"] > means["random"] + 25
    assert means["opsrl"] > means["random"] + 25
    assert means["opsrl, tuned"] > means["opsrl"]
    assert max(mean for name, mean in means.items() if name != "known") < means["known"]
    # What was learned in nine episodes is worth something in the tenth.
    assert returns["psrl"][:, -1].mean() > returns["psrl"][:, 0].mean() + 3
