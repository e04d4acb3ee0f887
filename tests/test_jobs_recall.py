"""Recall: every reward is worked out once more in numpy, from what was observed before it."""

from collections import deque
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fifteen.jobs import NativeStream
from fifteen.jobs.recall import AHEAD, BACK, FAMILIES, FARTHEST, LEFT, RIGHT

MAZES, CHAINS, REPEATS = FAMILIES
PER_TEMPLATE = 14
STEPS = 120


@cache
def sampler(family):
    return jax.jit(jax.vmap(family.sample))


def drawn(family, seed=0):
    """Jobs of every template, in the order of the templates."""
    templates = jnp.repeat(jnp.arange(len(family.templates), dtype=jnp.int32), PER_TEMPLATE)
    return sampler(family)(templates, jax.random.split(jax.random.key(seed), len(templates)))


@cache
def played(family):
    """[2, jobs, STEPS] under the teacher, and at random: (begins, state, seen, action, reward, terminated)."""

    def play(job, taught, key):
        def step(carry, key):
            state, seen, moment = carry
            choose, move, again = jax.random.split(key, 3)
            likely = jnp.where(taught, family.teach(job, state), 0.25)
            action = jnp.sum(jnp.cumsum(likely)[:-1] <= jax.random.uniform(choose), dtype=jnp.int32)
            after, seen_after, reward, terminated = job.step(state, action, move)
            end = terminated | (moment + 1 == job.step_limit)
            after = jax.tree.map(lambda a, b: jnp.where(end, a, b), job.reset(again), (after, seen_after))
            row = (moment == 0, state, seen, action, reward, terminated)
            return (*after, jnp.where(end, 0, moment + 1)), row

        begun = job.reset(key)
        return jax.lax.scan(step, (*begun, jnp.zeros((), jnp.int32)), jax.random.split(key, STEPS))[1]

    jobs = drawn(family)
    both = jax.jit(jax.vmap(jax.vmap(play, (0, None, 0)), (None, 0, 0)))
    keys = jax.random.split(jax.random.key(1), (2, len(family.templates) * PER_TEMPLATE))
    return jax.tree.map(np.asarray, both(jobs, jnp.array([True, False]), keys))


def lives(family):
    """(template, job, the job's life) of every job under the teacher and at random, all in numpy."""
    jobs = jax.tree.map(np.asarray, drawn(family))
    for way in (0, 1):
        for number in range(len(family.templates) * PER_TEMPLATE):
            one = jax.tree.map(lambda leaf, n=number: leaf[n], jobs)
            life = jax.tree.map(lambda leaf, w=way, n=number: leaf[w, n], played(family))
            yield family.templates[number // PER_TEMPLATE], one, life


def read(codes, shown):
    """The symbol whose code is closest to what is shown."""
    return int(np.argmin(((codes - shown) ** 2).sum(1)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_teacher_beats_chance_in_every_template(family):
    _, _, seen, _, rewards, _ = played(family)
    assert np.isfinite(rewards).all() and rewards.dtype == np.float32
    assert seen.dtype == np.float32 and seen.min() >= -1.0 and seen.max() <= 1.0
    assert drawn(family).observation_space.contains(seen[0, 0, 0])
    taught, at_random = rewards.sum(-1).reshape(2, len(family.templates), PER_TEMPLATE)
    error = np.std(taught - at_random, axis=1) / np.sqrt(PER_TEMPLATE)
    assert (taught.mean(1) - at_random.mean(1) > 4 * error).all()
    # Knowing the answers, the teacher makes no mistake.
    assert rewards[0].min() == 0.0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_jobs_differ_and_are_streams(family):
    one, other = drawn(family), drawn(family, seed=7)
    assert (np.asarray(one.codes) != np.asarray(other.codes)).any((1, 2)).all()
    stream = NativeStream(jax.tree.map(lambda leaf: leaf[0], one), num_envs=2, job_id=f"{family.name}-v0")
    stream.reset(0)
    tick = stream.step([np.int64(0), np.int64(3)])
    assert all(stream.observation_space.contains(seen) for seen in tick.observations)
    assert not stream.notes and stream.step_limit == one.step_limit


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_symbols_can_be_told_apart(family):
    codes = np.asarray(drawn(family).codes)
    assert (np.abs(codes).max(-1) >= 0.5).all() and np.abs(codes).max() <= 1.0
    apart = np.abs(codes[:, :, None] - codes[:, None]).max(-1) + 9.0 * np.eye(codes.shape[1])
    assert apart.min() >= 0.5


def test_t_mazes():
    found = set()
    for template, job, (begins, states, seen, actions, rewards, terminated) in lives(MAZES):
        place, length, cues = 0, 0, {}
        for now in range(STEPS):
            if begins[now]:
                place, length, cues = 0, states.length[now], {}
                assert job.shortest <= length <= job.longest
            shown, at_start, at_end = seen[now, :4], *seen[now, 4:]
            assert (at_start, at_end) == (place == 0, place == length)
            if template == "noise":
                if place == 0:
                    cues[0] = read(job.codes, shown)
            elif shown.any():
                cues[place] = read(job.codes, shown)
            move = job.moves[actions[now]]
            expected, end = 0.0, False
            if move in (LEFT, RIGHT):
                side = LEFT if sum(cues.values()) < len(cues) / 2 else RIGHT
                end = place == length
                expected = 4.0 if end and move == side else -0.1
                found |= {(template, len(cues), side)} if end else set()
            elif (move == AHEAD and place == length) or (move == BACK and place == 0):
                expected = -0.1
            else:
                place += 1 if move == AHEAD else -1
            assert rewards[now] == np.float32(expected) and terminated[now] == end
    assert found == {(name, 5 if name == "majority" else 1, side) for name in MAZES.templates for side in (LEFT, RIGHT)}


def test_corridors():
    for template, job, (begins, states, *_) in lives(MAZES):
        assert (job.shortest < job.longest) == (template == "varied-length")
        assert 2 <= job.shortest and job.longest <= 12
        if template == "late-cue":
            at = np.argmax(states.signs[begins] != 0, axis=1)
            assert (at < states.length[begins]).all()
    late = [states.signs for template, _, (_, states, *_) in lives(MAZES) if template == "late-cue"]
    assert len(set(np.argmax(np.concatenate(late) != 0, axis=1))) > 3


def test_memory_chains():
    asked_for, delays = set(), {}
    for template, job, (begins, states, seen, actions, rewards, terminated) in lives(CHAINS):
        moment, items, last = 0, [], 0
        for now in range(STEPS):
            if begins[now]:
                moment, items, last = 0, [], job.count + states.delay[now]
                assert job.shortest <= states.delay[now] <= job.longest
                delays.setdefault((template, int(job.longest)), set()).add(int(states.delay[now]))
            shown, asked, left = seen[now, :4], seen[now, 4:7], seen[now, 7]
            if moment < job.count:
                items.append(read(job.codes, shown))
            elif template not in ("noise", "distractors"):
                assert not shown.any()
            assert abs(left - (1.0 - moment / last)) < 1e-6
            end = moment == last
            assert asked.sum() == end == terminated[now]
            expected = 0.0
            if end:
                which = int(np.argmax(asked))
                asked_for.add((template, which))
                expected = 1.0 if actions[now] == job.answers[items[which]] else -1.0
            assert rewards[now] == expected
            moment += 1
    assert {which for template, which in asked_for if template == "size"} == {0, 1, 2}
    assert {which for template, which in asked_for if template != "size"} == {0}
    assert max(len(seen) for (template, _), seen in delays.items() if template == "varied-delay") > 3
    assert len({longest for _, longest in delays}) > 10


def test_repeating_what_was_seen():
    stays = {name: [] for name in REPEATS.templates}
    for template, job, (begins, states, seen, actions, rewards, terminated) in lives(REPEATS):
        assert not terminated.any() and begins[50] and begins.sum() == 3
        recent, due, delay = deque(maxlen=FARTHEST + 1), None, 0
        for now in range(STEPS):
            symbol, marked, told = read(job.codes, seen[now, :4]), seen[now, 4], seen[now, 5]
            if begins[now]:
                recent.clear()
                due, delay = None, int(states.delay[now])
            else:
                stays[template].append(symbol == recent[0])
            recent.appendleft(symbol)
            if template == "marked":
                due = symbol if marked else due
            else:
                assert not marked
                due = recent[delay] if len(recent) > delay else None
            assert told == (delay / FARTHEST if template == "varied-delay" else 0.0)
            expected = 0.0 if due is None else 1.0 if actions[now] == job.answers[due] else -1.0
            assert rewards[now] == expected
    for template, same in stays.items():
        assert np.mean(same) > 0.4 if template == "sticky" else abs(np.mean(same) - 0.25) < 0.04
