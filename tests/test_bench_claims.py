"""The claims of bench/claims: learners and tasks against what is known of them, and verdicts on planted data."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path[:0] = [str(BENCH), str(BENCH / "claims")]

import bits  # noqa: E402
import bits_learners  # noqa: E402
import claim_runs  # noqa: E402
import claim_school  # noqa: E402
import delay  # noqa: E402
import delay_learners  # noqa: E402
import delay_tasks  # noqa: E402
import reward_hacking  # noqa: E402
import two_students  # noqa: E402
from claim_runs import FAILS, HOLDS, UNDECIDED, Runs  # noqa: E402
from yardsticks import draw  # noqa: E402

import fifteen  # noqa: E402
from fifteen.config import SchoolConfig  # noqa: E402
from fifteen.examining.stats import Interval  # noqa: E402
from fifteen.jobs.families import FAMILIES  # noqa: E402

TOLD = {"command": "python bench/claims/x.py", "commit": "0", "device": "a processor", "started": "now", "versions": {}}
SEEDS = 12

# What is shared ---------------------------------------------------------------------------------------


def test_runs_go_on_where_they_stopped(tmp_path):
    path = tmp_path / "x.json"
    runs = Runs(path, {"budget": 3, "horizons": (1, 2)}, TOLD)
    assert runs.missing("a/1", range(3)) == [0, 1, 2]
    runs.add("a/1", {1: 5.0, 0: float("nan")}, rate=0.1)
    later = Runs(path, {"horizons": [1, 2], "budget": 3}, TOLD | {"commit": "1"})
    assert later.of("a/1") == {0: None, 1: 5.0}
    assert later.missing("a/1", range(3)) == [2]
    later.add("a/1", {2: 7})
    assert list(later.of("a/1")) == [0, 1, 2]
    record = json.loads(path.read_text())
    assert [batch["session"] for batch in record["runs"]["a/1"]] == [0, 1]
    assert [session["commit"] for session in record["sessions"]] == ["0", "1"]


def test_runs_with_other_settings_are_refused(tmp_path):
    Runs(tmp_path / "x.json", {"budget": 3}, TOLD).add("a", {0: 1.0})
    with pytest.raises(SystemExit, match=r"x.json was begun with other settings \(budget\)"):
        Runs(tmp_path / "x.json", {"budget": 4}, TOLD)


@pytest.mark.parametrize(
    ("low", "high", "sign", "word"),
    [(0.1, 0.3, 1, HOLDS), (-0.3, -0.1, 1, FAILS), (-0.1, 0.3, 1, UNDECIDED), (0.1, 0.3, -1, FAILS)],
)
def test_a_verdict_is_what_the_whole_interval_says(low, high, sign, word):
    found = Interval(0.5 * (low + high) + 2.0, low + 2.0, high + 2.0, 0.95)
    verdict = claim_runs.judged("x", found, above=2.0, why="difference", sign=sign)
    assert verdict.word == word
    assert verdict.told.endswith("(95 %): difference")


# A value function short-circuits the wait -------------------------------------------------------------


def test_lambda_returns_are_between_one_step_and_the_outcome():
    random = np.random.default_rng(0)
    rewards, following = random.normal(size=(2, 6)).astype(np.float32)
    following[-1] = 0.0
    outcome = np.cumsum(rewards[::-1])[::-1]
    given = delay_learners.lambda_returns(rewards, following, jnp.float32(1.0))
    np.testing.assert_allclose(given, outcome, rtol=1e-5, atol=1e-6)
    other = delay_learners.lambda_returns(rewards, following + 100.0, jnp.float32(1.0))
    np.testing.assert_array_equal(given, other)
    given = delay_learners.lambda_returns(rewards, following, jnp.float32(0.0))
    np.testing.assert_allclose(given, rewards + following, rtol=1e-6)
    trace, expected = 0.7, np.zeros(7)
    for t in reversed(range(6)):
        expected[t] = rewards[t] + (1 - trace) * following[t] + trace * expected[t + 1]
    np.testing.assert_allclose(
        delay_learners.lambda_returns(rewards, following, jnp.float32(trace)), expected[:-1], rtol=1e-5
    )


def lived(task, choose, episodes=3_000):
    luck = jax.random.uniform(jax.random.key(0), (episodes, task.luck))
    return jax.jit(jax.vmap(lambda row: task.live(choose, row)))(luck)


@pytest.mark.parametrize(("name", "horizon"), [("chain", 5), ("key to door", 4), ("watch repair", 10)])
def test_known_values_are_those_of_the_best_policy(name, horizon):
    """Where it waits, value and next value differ by the reward on average; so does a step of the best policy."""
    task = delay_tasks.TASKS[name](horizon)
    better = jnp.array([0, 1, 1, 0])  # of the watches
    choose = {
        "chain": lambda state, luck: jnp.int32(1),
        "key to door": lambda state, luck: jnp.where((state // 2) % 3 > 0, 0, 2).astype(jnp.int32),
        "watch repair": lambda state, luck: better[state].astype(jnp.int32),
    }[name]
    rows = lived(task, choose)
    values = np.concatenate([task.known[0][rows.states], task.known[1][rows.waits]], axis=1)
    assert values.shape == rows.rewards.shape
    following = np.concatenate([values[:, 1:], np.zeros((len(values), 1))], axis=1)
    surprise = rows.rewards + following - values
    error = surprise.std(axis=0) / len(surprise) ** 0.5
    assert (np.abs(surprise.mean(axis=0)) <= 4.0 * error + 1e-5).all()
    assert np.mean(rows.good) == 1.0


def test_repairing_pays_for_the_brands_that_the_task_says():
    task = delay_tasks.watch_repair(50)
    rows = lived(task, lambda state, luck: jnp.int32(1), episodes=20_000)
    returns, brand = np.asarray(rows.rewards).sum(axis=1) / delay_tasks.UNIT, np.asarray(rows.states)[:, 0]
    means = [returns[brand == n].mean() for n in range(4)]
    np.testing.assert_allclose(means, [-1.5, 3.5, 3.5, -1.5], atol=0.6)
    assert 10.0 < returns[brand == 0].std() < 12.0
    never = lived(task, lambda state, luck: jnp.int32(0), episodes=10)
    assert not np.asarray(never.rewards).any()


@pytest.mark.parametrize("name", ["REINFORCE", "Monte-Carlo control"])
def test_the_outcome_only_is_all_that_these_learners_use(name):
    task, learner = delay_tasks.key_to_door(4), delay_learners.LEARNERS[name]
    settings = delay_learners.Settings(*map(jnp.float32, learner.grid[-1]))
    tables = delay_learners.fresh(task, learner)
    luck = jax.random.uniform(jax.random.key(3), (task.luck,))
    after, _ = delay_learners.live(task, learner, settings, tables, luck)
    other, _ = delay_learners.live(task, learner, settings, tables._replace(wait=tables.wait + 5.0), luck)
    np.testing.assert_array_equal(after.decide, other.decide)
    assert np.abs(np.asarray(after.decide - tables.decide)).max() > 0.0


def test_a_seed_is_the_same_luck_whoever_runs_beside_it():
    task, learner = delay_tasks.chain(3), delay_learners.LEARNERS["value known"]
    settings = [learner.grid[3], learner.grid[4]]
    alone = delay_learners.episodes_to_solve(task, learner, settings[1:], [7], 500)
    beside = delay_learners.episodes_to_solve(task, learner, settings, [5, 7], 500)
    assert alone.shape == (1, 1) and beside.shape == (2, 2)
    assert alone[0, 0] == beside[1, 1]
    assert 100 <= alone[0, 0] < 200  # at once: the window is 100


def planted(exponents, unsolved=()):
    """Episodes of learners of the chain: 100 (h / 4)^b with some noise; those unsolved are NaN."""
    random = np.random.default_rng(0)
    return {
        ("chain", name, h): (
            np.full(SEEDS, np.nan)
            if (name, h) in unsolved
            else 100.0 * (h / 4) ** b * np.exp(0.1 * random.normal(size=SEEDS))
        )
        for name, b in exponents.items()
        for h in delay.HORIZONS["chain"]
    }


@pytest.mark.parametrize(("b", "word"), [(1.0, HOLDS), (2.5, FAILS), (1.75, UNDECIDED)])
def test_growth_is_found_and_judged(b, word):
    table = planted({"actor-critic": b, "REINFORCE": 1.75})
    part = delay.compared(table, "chain", "actor-critic", "REINFORCE")
    assert part.word == word
    assert part.interval[1] < b - 1.75 < part.interval[2]
    grown = delay.growth(table, "chain", "REINFORCE")
    assert grown.low < 1.75 < grown.high


def test_a_learner_that_stops_solving_grows_at_least_to_the_budget():
    table = planted({"Q(lambda)": 1.0, "Monte-Carlo control": 1.0}, [("Q(lambda)", 12), ("Q(lambda)", 16)])
    horizons, logs = delay.fitted(table, "chain", ["Q(lambda)", "Monte-Carlo control"])
    assert horizons == [4, 6, 8, 12]
    np.testing.assert_allclose(np.exp(logs[-1, :, 0]), delay.BUDGET)
    assert delay.compared(table, "chain", "Q(lambda)", "Monte-Carlo control").word == FAILS
    short = {key: value for key, value in table.items() if key[2] < 8}
    assert delay.compared(short, "chain", "Q(lambda)", "Monte-Carlo control").word == UNDECIDED


def test_the_claim_as_a_whole_holds_only_everywhere():
    def words(*given):
        return delay.overall([claim_runs.Verdict("x", word, None, "") for word in given]).word

    assert words(HOLDS, HOLDS) == HOLDS
    assert words(FAILS, UNDECIDED) == FAILS
    assert words(HOLDS, FAILS) == words(HOLDS, UNDECIDED) == words(UNDECIDED) == UNDECIDED


# Bits per sample --------------------------------------------------------------------------------------


def test_what_an_episode_tells_is_within_its_bounds():
    random = np.random.default_rng(0)
    even = bits_learners.told(np.full((20_000, 8), 1 / 8), random)
    assert even["label"] == pytest.approx(3.0)
    assert even["pass_rate"] == pytest.approx(1 / 8, abs=0.01)
    assert even["pass_or_fail"] == pytest.approx(bits_learners.entropy(np.array([1 / 8, 7 / 8])), abs=0.02)
    odds = random.dirichlet(np.full(8, 0.3), 20_000)
    skewed = bits_learners.told(odds, random)
    # The mean of a concave function of the guess's probability is below the function of its mean.
    assert 0.0 < skewed["pass_or_fail"] < skewed["entropy_of_pass_rate"]
    assert skewed["pass_or_fail"] < skewed["label"]
    assert skewed["pass_or_fail"] == pytest.approx(
        (odds * bits_learners.entropy(np.stack([odds, 1.0 - odds], axis=2))).sum(axis=1).mean(), abs=0.02
    )
    sure = bits_learners.told(np.eye(3)[[0, 1]], random)
    assert sure["pass_or_fail"] == sure["label"] == 0.0


def test_memorising_takes_about_n_guesses_or_one_label():
    seeds = np.arange(40)
    guessed = bits_learners.episodes_to_memorise("pass or fail", 16, 30.0, seeds, 1_000)
    assert 16 / 2 < np.mean(guessed) < 16 * 2
    assert (bits_learners.episodes_to_memorise("label", 16, 30.0, seeds, 1_000) == 1).all()
    slow = bits_learners.episodes_to_memorise("label", 16, 0.3, seeds, 1_000)
    assert slow.min() == slow.max() > 5
    assert np.isnan(bits_learners.episodes_to_memorise("label", 16, 0.3, seeds, 3)).all()
    order = bits_learners.episodes_to_memorise("elimination", 16, 0.0, np.arange(4_000), 1_000)
    assert order.min() == 1 and order.max() == 15
    assert order.mean() == pytest.approx((17 / 2) - 1 / 16, abs=0.3)


def test_laws_are_found_again_from_their_beginning():
    spent = np.geomspace(1.0, 100.0, 40)
    early = spent < 30.0
    sigmoid = 0.05 + 0.85 / (1.0 + (20.0 / spent) ** 1.5)
    power = 0.9 - 0.8 / spent**0.4
    found = bits_learners.fit_sigmoid(spent[early], sigmoid[early], 0.05)
    np.testing.assert_allclose(found(spent), sigmoid, atol=0.02)
    found = bits_learners.fit_power_law(spent[early], power[early])
    np.testing.assert_allclose(found(spent), power, atol=0.01)
    curve = {"first": 0.05, "rounds": spent.tolist(), "pass_rate": sigmoid.tolist()}
    by_sigmoid, by_power = bits.errors(curve)
    assert by_sigmoid < 0.02 < by_power
    logistic = 1.0 / (1.0 + 10.0 / spent)
    assert bits.steepness(curve | {"pass_rate": logistic.tolist()}) > 0.99


def test_pass_rates_rise_and_their_curves_end():
    kind = bits_learners.KINDS["equally hard"]
    rates = bits_learners.pass_rates(kind, np.arange(2), 80)
    assert rates.shape == (2, 80)
    np.testing.assert_allclose(rates[:, 0], 1 / 16, rtol=1e-5)
    curve = bits.thinned(rates[0])
    assert curve["rounds"][0] == 1 and 0.9 <= curve["pass_rate"][-1] < 0.95


@pytest.mark.parametrize("claim", [delay, bits])
def test_a_quick_run_judges_and_keeps_nothing(claim, monkeypatch, capsys, tmp_path):
    name = Path(claim.__file__).name
    monkeypatch.setattr(claim, "CLAIMS", tmp_path)
    monkeypatch.setattr(sys, "argv", [claim.__file__, "--quick"])
    pages = []
    write = claim.write_claim_page
    monkeypatch.setattr(claim, "write_claim_page", lambda *given: pages.append(write(*given).read_text()))
    if claim is bits:
        monkeypatch.setattr(claim, "DEVIATIONS", (0.0, 2.0))
        monkeypatch.setattr(claim, "BELIEFS", 200)
        monkeypatch.setattr(claim, "RATES", (10.0,))
    claim.main()
    said = capsys.readouterr().out
    assert any(word in said for word in (HOLDS, FAILS, UNDECIDED))
    assert claim.TITLE in pages[0] and f"bench/claims/{name}" in pages[0] and "<svg" in pages[0]
    assert not any(tmp_path.iterdir())


# Two students, and the researcher's reward hacking ----------------------------------------------------


def scored(specialist, broad, spread=0.05):
    random = np.random.default_rng(0)
    places = ("family", "held out", "outside")
    return {
        student: {place: mean + spread * random.normal(size=10) for place, mean in zip(places, means, strict=True)}
        for student, means in (("specialist", specialist), ("broad", broad))
    }


@pytest.mark.parametrize(
    ("specialist", "broad", "word"),
    [((0.9, 0.5, 0.1), (0.4, 0.6, 0.5), HOLDS), ((0.4, 0.5, 0.1), (0.9, 0.6, 0.5), FAILS)],
)
def test_two_students_are_judged_where_they_were_asked(specialist, broad, word):
    assert two_students.verdicts_of(scored(specialist, broad))[0].word == word
    unclear = scored((0.9, 0.5, 0.3), (0.4, 0.5, 0.3), spread=0.2)
    assert two_students.verdicts_of(unclear)[0].word == UNDECIDED


@pytest.mark.parametrize(("held_out", "word"), [(0.0, HOLDS), (0.4, FAILS), (0.2, UNDECIDED)])
def test_a_gap_is_what_the_evaluation_gains_alone(held_out, word):
    random = np.random.default_rng(1)
    noise = 0.03 * random.normal(size=(2, 2, 10))
    noise -= noise.mean(axis=2, keepdims=True)
    scores = {
        "training": np.ones((2, 10)),
        "evaluation": np.array([0.2, 0.6])[:, None] + noise[0],
        "held out": np.array([0.2, 0.2 + held_out])[:, None] + noise[1],
    }
    whole, rises, less = reward_hacking.verdicts_of(scores)
    assert (whole.word, rises.word, less.word) == (word, HOLDS, word)
    assert whole.interval[0] == pytest.approx(0.4 - held_out)


def filled(path, conditions, outcome):
    runs = Runs(path, {}, TOLD)
    for number, condition in enumerate(conditions):
        runs.add(condition, {seed: outcome(number, seed) for seed in range(7)})
    return runs


def test_the_pages_of_both_are_written(tmp_path):
    names = [str(n) for n in reward_hacking.INSPIRED]
    runs = filled(
        tmp_path / "hacking.json",
        names,
        lambda n, seed: {"training": 0.9, "evaluation": 0.1 * n + 0.01 * seed, "held out": 0.2},
    )
    assert reward_hacking.conclude(runs, reward_hacking.INSPIRED)[0].word == HOLDS
    page = (tmp_path / "hacking.html").read_text()
    assert reward_hacking.TITLE in page.replace("&#x27;", "'") and "gap" in page
    outside = two_students.OUTSIDE[:2]
    runs = filled(
        tmp_path / "students.json",
        two_students.STUDENTS,
        lambda n, seed: {
            "family": 0.9 - 0.5 * n,
            "held out": 0.5,
            **dict.fromkeys(outside, -150.0 + 20 * n + seed),
        },
    )
    for name in outside:
        runs.add(f"chance/{name}", {0: -200.0})
    assert two_students.conclude(runs, outside)[0].word == HOLDS
    assert "specialist" in (tmp_path / "students.html").read_text()
    written = json.loads((tmp_path / "students.json").read_text())["results"]
    assert written["seeds"] == 7


def test_chance_is_that_of_the_environment():
    # 200 steps of -1: nobody climbs the mountain by chance.
    assert two_students.chance("MountainCar-v0", 2) == -200.0


def test_a_pool_school_draws_from_its_pool_and_changes_the_weights():
    family = FAMILIES["bandit/bernoulli"]
    jobs = draw(family, (0,), 3, jax.random.key(0))
    pool = claim_school.Pool(base=family, jobs=jobs, name=family.name, lifetime=family.lifetime)
    drawn = jax.vmap(lambda key: pool.sample(jnp.int32(0), key))(jax.random.split(jax.random.key(1), 50))
    which = (np.asarray(drawn.chances)[:, None] == jobs.chances[None]).all(axis=2)
    assert (which.sum(axis=1) == 1).all() and which.any(axis=0).all()
    learner = fifteen.new(size="debug", seed=0)
    before = np.asarray(learner.state.weights).copy()
    school = claim_school.PoolSchool(learner, family, 1, SchoolConfig(lifetimes=16, rollout=8))
    assert school.rounds == 1
    school.school(learner, jobs, seed=0)
    assert np.abs(np.asarray(learner.state.weights) - before).max() > 0.0
    examiner = claim_school.Examiner(learner, family, 1, 4)
    score = examiner.score(("uniform",), 5)
    assert score == examiner.score(("uniform",), 5) and -1.0 < score < 1.5
