"""Bandits: their priors, the means of their rewards, and the teacher who knows them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.jobs import NativeStream
from fifteen.jobs.bandits import FAMILIES, BernoulliFamily, ContextualFamily, DriftingFamily, GaussianFamily

PER_TEMPLATE = 20
STEPS = 100
KEY = jax.random.key(0)


@cache
def sampler(family):
    return jax.jit(jax.vmap(family.sample))


def drawn(family, key=KEY):
    """Jobs of every template, in the order of the templates."""
    templates = jnp.repeat(jnp.arange(len(family.templates), dtype=jnp.int32), PER_TEMPLATE)
    return sampler(family)(templates, jax.random.split(key, len(templates)))


def of(family, jobs, template):
    """The jobs of one template, out of `drawn`, as numpy arrays."""
    start = family.templates.index(template) * PER_TEMPLATE
    return jax.tree.map(lambda leaf: np.asarray(leaf[start : start + PER_TEMPLATE], np.float64), jobs)


@cache
def played(family):
    """States, actions, observations, rewards and terminated [2, jobs, STEPS]: under the teacher, and at random."""

    def play(job, taught, key):
        def step(state, key):
            choose, move = jax.random.split(key)
            likely = jnp.where(taught, family.teach(job, state), 1.0 / job.arms)
            action = jnp.sum(jnp.cumsum(likely)[:-1] <= jax.random.uniform(choose))
            after, observation, reward, terminated = job.step(state, action, move)
            return after, (state, action, observation, reward, terminated)

        return jax.lax.scan(step, job.reset(key)[0], jax.random.split(key, STEPS))[1]

    jobs = drawn(family)
    keys = jax.random.split(jax.random.key(1), (2, len(family.templates) * PER_TEMPLATE))
    both = jax.jit(jax.vmap(jax.vmap(play, (0, None, 0)), (None, 0, 0)))
    return jax.tree.map(np.asarray, both(jobs, jnp.array([True, False]), keys))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_teacher_beats_chance_in_every_template(family):
    jobs = drawn(family)
    _, _, seen, rewards, terminated = played(family)
    assert np.isfinite(rewards).all() and rewards.dtype == np.float32 and not terminated.any()
    assert jobs.observation_space.contains(seen[0, 0, 0])
    assert seen.min() >= -1.0 and seen.max() <= 1.0
    taught, at_random = rewards.sum(-1).reshape(2, len(family.templates), PER_TEMPLATE)
    error = np.std(taught - at_random, axis=1) / np.sqrt(PER_TEMPLATE)
    assert (taught.mean(1) - at_random.mean(1) > 3 * error).all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_jobs_differ_and_are_streams(family):
    one, other = drawn(family), drawn(family, jax.random.key(7))
    changed = [
        (np.asarray(a) != np.asarray(b)).reshape(len(a), -1).any(1)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    assert np.any(changed, axis=0).all()
    job = jax.tree.map(lambda leaf: leaf[0], one)
    stream = NativeStream(job, num_envs=2, job_id=f"{family.name}-v0")
    stream.reset(0)
    tick = stream.step([np.int64(0), np.int64(job.arms - 1)])
    assert all(stream.observation_space.contains(seen) for seen in tick.observations)
    assert stream.step_limit == family.pulls and not stream.notes


def test_bernoulli_priors():
    family = BernoulliFamily()
    jobs = drawn(family)
    chances = {name: of(family, jobs, name).chances for name in family.templates}
    assert all(table.min() >= 0.0 and table.max() <= 1.0 for table in chances.values())
    ordered = {name: np.sort(table, axis=1) for name, table in chances.items()}
    others = ordered["one-good-arm"][:, :-1]
    np.testing.assert_array_equal(others, np.repeat(others[:, :1], 4, axis=1))
    assert (ordered["one-good-arm"][:, -1] - others[:, 0] >= 0.199).all()
    assert (np.diff(ordered["clustered"], axis=1).max(1) > 0.04).all()
    np.testing.assert_allclose(np.diff(ordered["spaced"], n=2, axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(chances["linked"][:, :-1] + chances["linked"][:, 1:], 1.0, atol=1e-6)
    assert abs(chances["beta-low"].mean() - 0.2) < 0.06 and abs(chances["beta-high"].mean() - 0.8) < 0.06


def test_the_yardstick_is_the_specification_of_rl2():
    # The mean of the largest of k uniform numbers is k / (k + 1).
    for arms, pulls in ((5, 100), (10, 500)):
        family = BernoulliFamily(arms=arms, pulls=pulls)
        jobs = sampler(family)(jnp.zeros(2000, jnp.int32), jax.random.split(KEY, 2000))
        chances = np.asarray(jobs.chances)
        assert chances.shape == (2000, arms) and jobs.step_limit == pulls
        assert abs(chances.mean() - 0.5) < 0.01
        assert abs(chances.max(1).mean() - arms / (arms + 1)) < 0.01
        assert np.histogram(chances, 10, (0, 1))[0].min() > 0.09 * chances.size
        assert jobs.action_space.n == arms


@pytest.mark.parametrize("family", [BernoulliFamily(), GaussianFamily()], ids=lambda family: family.name)
def test_rewards_have_the_mean_of_the_arm(family):
    job = jax.tree.map(lambda leaf: leaf[0], drawn(family))
    state, _ = job.reset(KEY)
    actions = jnp.repeat(jnp.arange(5), 4000)
    _, _, rewards, _ = jax.jit(jax.vmap(job.step, (None, 0, 0)))(state, actions, jax.random.split(KEY, 20_000))
    rewards = np.asarray(rewards).reshape(5, 4000)
    np.testing.assert_allclose(rewards.mean(1), state.means, atol=0.08)
    if family.name == "bandit/bernoulli":
        assert set(np.unique(rewards)) == {0.0, 1.0}
    else:
        np.testing.assert_allclose(rewards.std(1), job.deviations, rtol=0.06)
    best = np.asarray(state.means) == np.max(state.means)
    np.testing.assert_array_equal(family.teach(job, state), best)


def test_equally_good_arms_are_taught_alike():
    family = BernoulliFamily()
    linked = family.templates.index("linked") * PER_TEMPLATE
    job = jax.tree.map(lambda leaf: leaf[linked], drawn(family))
    probabilities = np.asarray(family.teach(job, job.reset(KEY)[0]))
    even = np.asarray(job.chances)[0] > 0.5
    np.testing.assert_allclose(probabilities, np.array([1, 0, 1, 0, 1]) / 3 if even else np.array([0, 1, 0, 1, 0]) / 2)


def test_chances_follow_from_the_context():
    family = ContextualFamily()
    jobs = drawn(family)
    states, _, seen, _, _ = jax.tree.map(lambda leaf: leaf[0], played(family))
    # The observation of a step is the context of the next state.
    contexts, chances = seen[:, :-1].astype(np.float64), states.means[:, 1:]
    rows = {name: slice(i * PER_TEMPLATE, (i + 1) * PER_TEMPLATE) for i, name in enumerate(family.templates)}

    def expected(name, biases):
        job = of(family, jobs, name)
        scores = np.einsum("jtd,jdk->jtk", contexts[rows[name]], job.weights) + biases
        return 1.0 / (1.0 + np.exp(-scores))

    for name in ("linear", "one-feature", "irrelevant"):
        biases = of(family, jobs, name).biases[:, :1]
        np.testing.assert_allclose(chances[rows[name]], expected(name, biases), atol=1e-5)
    one_hot = of(family, jobs, "one-hot")
    which = contexts[rows["one-hot"]].argmax(-1)
    assert set(np.unique(which)) == {0, 1, 2, 3}
    biases = np.take_along_axis(one_hot.biases, which[..., None], axis=1)
    np.testing.assert_allclose(chances[rows["one-hot"]], expected("one-hot", biases), atol=1e-5)

    parity = of(family, jobs, "parity")
    for job in range(PER_TEMPLATE):
        corner = np.flatnonzero(parity.spread[job] == 0.0)
        same = contexts[rows["parity"]][job][:, corner].prod(1) > 0
        np.testing.assert_allclose(chances[rows["parity"]][job][same].std(0), 0.0, atol=1e-6)
        np.testing.assert_allclose(chances[rows["parity"]][job][~same].std(0), 0.0, atol=1e-6)


def test_how_means_drift():
    family = DriftingFamily()
    jobs = drawn(family)
    states, actions, _, rewards, _ = jax.tree.map(lambda leaf: leaf[1], played(family))
    means = {name: states.means[i * PER_TEMPLATE : (i + 1) * PER_TEMPLATE] for i, name in enumerate(family.templates)}
    moments = np.arange(STEPS)

    job = of(family, jobs, "periodic")
    angle = job.frequency[:, None, None] * moments[None, :, None] + job.phases[:, None]
    expected = job.start[:, None] + job.amplitude[:, None, None] * np.sin(angle)
    np.testing.assert_allclose(means["periodic"], expected, atol=1e-4)

    job = of(family, jobs, "rotating")
    for number in range(PER_TEMPLATE):
        expected = [np.roll(job.start[number], int(moment // job.period[number])) for moment in moments]
        np.testing.assert_allclose(means["rotating"][number], expected, rtol=1e-6)

    job, pulls = of(family, jobs, "rotting"), np.eye(5)[actions[-PER_TEMPLATE:]]
    before = np.cumsum(pulls, axis=1) - pulls
    expected = job.start[:, None] - job.rot[:, None, None] * before
    np.testing.assert_allclose(means["rotting"], expected, atol=1e-4)

    job, moves = of(family, jobs, "random-walk"), np.diff(means["random-walk"], axis=1)
    np.testing.assert_allclose(moves.std((1, 2)), job.walk, rtol=0.15)
    job, moved = of(family, jobs, "switching"), np.diff(means["switching"], axis=1).any(2)
    assert abs(moved.mean() / job.hazard.mean() - 1.0) < 0.3

    taken = np.take_along_axis(states.means, actions[..., None], axis=2)[..., 0]
    noise = (rewards - taken) / np.asarray(jobs.deviation)[:, None]
    assert abs(noise.mean()) < 0.04 and abs(noise.std() - 1.0) < 0.03
