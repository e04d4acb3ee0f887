"""Queues, maintenance and diagnosis: dynamics and plans against numpy, and what the teacher is worth."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_jobs_operations import check_distinct, check_observations, check_stream, check_teacher, one, playing

from fifteen.jobs import diagnosis, service
from fifteen.jobs.diagnosis import RESULTS, TESTS
from fifteen.jobs.service import DISCOUNT, QUEUES, WEARS, klimov_index

FAMILIES = (*service.FAMILIES, *diagnosis.FAMILIES)

PLAYED = {}


def played(which):
    if which not in PLAYED:
        PLAYED[which] = playing(FAMILIES[which])
    return PLAYED[which]


@pytest.mark.parametrize("which", range(3), ids=[family.name for family in FAMILIES])
def test_jobs_and_teacher(which):
    family, jobs, *_ = played(which)
    check_observations(played(which))
    check_teacher(played(which))
    check_distinct(jobs)
    check_stream(family, one(jobs, 0))


def test_klimov_index_is_the_best_over_stopping_sets():
    generator = np.random.default_rng(0)
    compiled = jax.jit(klimov_index)
    for _ in range(5):
        holding, service = generator.uniform(0.1, 2, QUEUES), generator.uniform(0.3, 0.9, QUEUES)
        feedback = generator.uniform(0, 0.8, QUEUES)
        onward = (np.arange(QUEUES) + generator.integers(1, QUEUES, QUEUES)) % QUEUES
        index = compiled(*(jnp.float32(value) for value in (holding, service, feedback)), jnp.int32(onward))
        routes = np.zeros((QUEUES, QUEUES))
        routes[np.arange(QUEUES), onward] = feedback
        for begin in range(QUEUES):
            best = 0.0
            for size in range(1, QUEUES + 1):
                for goes in itertools.combinations(range(QUEUES), size):
                    inside = np.eye(QUEUES)[list(goes)].sum(0)
                    matrix = np.eye(QUEUES) - routes * inside[None]
                    cost = np.linalg.solve(matrix, routes @ (holding * (1 - inside)))
                    time = np.linalg.solve(matrix, 1 / service)
                    best = max(best, (holding[begin] - cost[begin]) / time[begin])
            np.testing.assert_allclose(index[begin], best, rtol=1e-4)
        plain = compiled(jnp.float32(holding), jnp.float32(service), jnp.zeros(QUEUES), jnp.int32(onward))
        np.testing.assert_allclose(plain, holding * service, rtol=1e-5)  # the c mu rule


def test_queues_move_as_in_numpy():
    _, jobs, *_ = played(0)
    step = jax.jit(lambda job, state, action, key: job.step(state, action, key))
    for which in range(5, len(jobs.delay), 40):
        job = one(jobs, which)
        know = jax.device_get(job)
        state, _ = job.reset(jax.random.key(which))
        lengths, busy, server, setup = np.zeros(QUEUES, int), np.array(state.busy), 0, 0
        for moment in range(60):
            key = jax.random.key(moment)
            come, change, leave, (route, serve) = np.split(np.array(jax.random.uniform(key, (14,))), [4, 8, 12])
            action = moment // 5 % QUEUES
            if action != server:
                server, setup = action, int(know.delay)
            cost = 0.0
            if setup == 0 and lengths[server] and serve < know.service[server]:
                lengths[server] -= 1
                if route < know.feedback[server]:
                    lengths[know.onward[server]] += 1
            setup = max(setup - 1, 0)
            for line in range(QUEUES):
                if leave[line] < know.impatience[line] * lengths[line]:
                    lengths[line] -= 1
                    cost += know.loss[line]
                if busy[line] and come[line] < know.arrival[line]:
                    lengths[line] = min(lengths[line] + know.batch, 20)
                busy[line] = change[line] >= know.calm[line] if busy[line] else change[line] < know.stir[line]
            state, observation, reward, _ = step(job, state, jnp.int32(action), key)
            np.testing.assert_array_equal(observation, [*lengths, setup])
            np.testing.assert_allclose(reward, -(cost + lengths @ know.holding), rtol=1e-4, atol=1e-6)


def test_maintenance_is_optimal():
    _, jobs, *_ = played(1)
    for which in range(3, len(jobs.mended), 29):
        job = jax.device_get(one(jobs, which))
        chain = np.diff(job.cumulative.astype(np.float64), axis=1, prepend=0.0)
        np.testing.assert_allclose(chain.sum(1), 1.0, rtol=1e-5)
        assert (chain > -1e-6).all()
        repaired = np.eye(WEARS)[[*(max(wear - job.mended, 0) for wear in range(WEARS - 1)), WEARS - 1]]
        replaced = np.eye(WEARS)[[0] * WEARS]
        moves = np.stack([chain, chain, repaired, replaced])
        value = np.zeros(WEARS)
        for _ in range(1500):
            gains = job.rewards + DISCOUNT * moves @ value
            value = gains.max(0)
        chosen = (job.policy * gains.T).sum(1)
        np.testing.assert_allclose(chosen, value, atol=2e-3)
        assert job.policy[WEARS - 1].argmax() == 3


def test_a_machine_wears_and_is_mended():
    _, jobs, *_ = played(1)
    job = one(jobs, -1)  # whose wear is shown
    state, observation = job.reset(jax.random.key(0))
    np.testing.assert_array_equal(observation, [0, 0, 0])
    for wear, action, after in [(6, 2, max(6 - int(job.mended), 0)), (9, 2, 9), (9, 3, 0), (9, 0, 9)]:
        state, observation, reward, _ = job.step(
            state._replace(wear=jnp.int32(wear)), jnp.int32(action), jax.random.key(1)
        )
        assert int(state.wear) == after
        np.testing.assert_allclose(observation, [after / 9, 0, after == 9], rtol=1e-6)
        assert reward == job.rewards[action, wear]
    blind = one(jobs, 4 * len(jobs.mended) // 6)
    state = state._replace(wear=jnp.int32(5))
    assert blind.step(state, jnp.int32(0), jax.random.key(2))[1][0] == 0
    state, observation, *_ = blind.step(state, jnp.int32(1), jax.random.key(2))
    np.testing.assert_allclose(observation[:2], [int(state.wear) / 9, 1], rtol=1e-6)


def test_tests_tell_and_treatments_end():
    _, jobs, *_ = played(2)
    job = one(jobs, 0)
    know = jax.device_get(job)
    np.testing.assert_allclose(jobs.results[..., -1], 1.0, rtol=1e-5)
    np.testing.assert_allclose(jobs.prior[:, -1], 1.0, rtol=1e-5)
    state, observation = job.reset(jax.random.key(0))
    condition = int(np.searchsorted(know.prior, float(jax.random.uniform(jax.random.key(0))), side="right"))
    assert (int(state.condition), int(observation)) == (condition, 0)
    for action in range(10):
        key = jax.random.key(action)
        draw = float(jax.random.uniform(key))
        _, observation, reward, terminated = job.step(state, jnp.int32(action), key)
        if action < TESTS:
            result = int(np.searchsorted(know.results[action, condition], draw, side="right"))
            expected, gain = 1 + action * RESULTS + result, 0.0
        else:
            cured = draw < know.cures[action - TESTS, condition]
            expected, gain = 1 + TESTS * RESULTS, know.benefit if cured else -know.harm
        assert (int(observation), bool(terminated)) == (expected, action >= TESTS)
        np.testing.assert_allclose(reward, gain - know.costs[action], rtol=1e-5)


def test_the_right_treatment_is_the_best_on_average():
    _, jobs, *_ = played(2)
    know = jax.device_get(jobs)
    value = know.cures * know.benefit[:, None, None] - (1 - know.cures) * know.harm[:, None, None]
    value = value - know.costs[:, TESTS:, None]
    np.testing.assert_array_equal(know.policy[:, :, TESTS:].argmax(2), value.argmax(1))
    assert not know.policy[:, :, :TESTS].any()
