"""A learner at work: what it records, that it is deterministic, and that it compiles once."""

import functools
import time
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from gymnasium import spaces
from small import WORK, Masked, Walk

import fifteen
from fifteen.jobs import open_job
from fifteen.jobs.protocol import Tick
from fifteen.worker import Worker, compiled


def new():
    return fifteen.new("debug", seed=0, work=WORK)


@contextmanager
def counted_compilations():
    """A list that grows by one name with every compilation, by the cache or not, of whatever thread."""
    compilations = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(about.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def driven(job, ticks, *, learn="context", seed=0, num_envs=1, observe=None):
    """A worker after `ticks` ticks of a job."""
    stream = open_job(job, num_envs=num_envs)
    spaces = stream.observation_space, stream.action_space
    worker = new().new_worker(*spaces, seed=seed, learn=learn, streams=num_envs, record=True)
    tick = stream.reset(seed)
    for _ in range(ticks):
        if observe is not None:
            observe(worker, tick)
        moment = worker.decide(tick)
        tick = stream.step(moment.actions)
        worker.improve()
    worker.close()
    stream.close()
    return worker


def recorded(worker, stream=0):
    """Rows of a stream in order: percepts (a NamedTuple of arrays) and decisions (likewise)."""
    rows = worker.experience.tail(stream, int(worker.experience.count[stream]))
    percepts = jax.vmap(lambda frame: worker.layout.percept(frame, None))(rows["frame"])
    decisions = jax.vmap(worker.layout.decision)(rows["decision"])
    return jax.tree.map(np.asarray, (percepts, decisions))


# Compiling ----------------------------------------------------------------------------------------


def test_nothing_is_compiled_after_the_first_update_of_a_shape():
    learner = new()
    compiled.cache_clear()  # another test of this process may have had this shape
    with counted_compilations() as compilations:
        fifteen.work(learner, Walk, steps=100)
        assert learner.state.updates > 0
        before = len(compilations)
        assert before > 0, "the listener hears nothing: this test would pass whatever happens"
        fifteen.work(learner, Walk, steps=100, seed=1)
        fifteen.work(new(), functools.partial(Walk, length=3, terminates=False), steps=100, seed=2)
        fifteen.work(learner, "CartPole-v1", steps=100)
        fifteen.work(learner, Masked, steps=100)
        assert compilations[before:] == []


def test_every_shape_has_one_compiled_function_of_each_kind():
    worker = driven(Walk, 80, learn="both")
    driven("CartPole-v1", 80, learn="both", seed=3)
    functions = compiled(worker.config, WORK, worker.layout, False, 1, 1)
    assert functions is worker._functions
    for function in (functions.begin, functions.act, functions.update, functions.publish):
        assert function._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


# Determinism --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_learner_however_long_an_update_takes(monkeypatch):
    one, other = driven(Walk, 150, learn="both"), driven(Walk, 150, learn="both", seed=1)
    update = Worker._run

    def slow(self, *arguments):
        time.sleep(0.02)
        return update(self, *arguments)

    monkeypatch.setattr(Worker, "_run", slow)
    again = driven(Walk, 150, learn="both")
    assert again.updates == one.updates > 0
    leaves = [jax.tree.leaves((w.state, w.instance, w.acting, w.arrays())) for w in (one, again, other)]
    for a, b in zip(leaves[0], leaves[1], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(recorded(one)), jax.tree.leaves(recorded(again)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(leaves[0], leaves[2], strict=True))


def test_in_context_the_weights_stay_as_they_are_and_the_memory_does_not():
    learner = new()
    worker = driven(Walk, 60)
    np.testing.assert_array_equal(worker.state.weights, learner.state.weights)
    assert worker.updates == 0
    assert np.asarray(worker.instance.memory).any()


# What is recorded ---------------------------------------------------------------------------------


@pytest.mark.parametrize("terminates", [True, False])
def test_rows_say_what_happened(terminates):
    worker = driven(functools.partial(Walk, terminates=terminates), 40)
    percepts, decisions = recorded(worker)
    assert len(percepts.step) == 40
    place = np.arange(40) % 8  # 7 steps and the last observation
    np.testing.assert_array_equal(percepts.step, place)
    np.testing.assert_array_equal(percepts.first, place == 0)
    np.testing.assert_array_equal(percepts.terminated, (place == 7) & terminates)
    np.testing.assert_array_equal(percepts.truncated, (place == 7) & (not terminates))
    later = (place == 0) & (np.arange(40) > 0)
    np.testing.assert_array_equal(percepts.after_termination, later & terminates)
    np.testing.assert_array_equal(percepts.after_truncation, later & (not terminates))
    took = decisions.choice[:-1]
    np.testing.assert_array_equal(percepts.previous[1:], np.where(place[1:, None] == 0, -1, took))
    np.testing.assert_array_equal(percepts.reward[1:], np.where(place[1:] == 0, 0, took[:, 0]))


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_memory_that_is_kept_is_the_one_before_the_row(num_envs):
    before = []
    worker = driven(Walk, 50, num_envs=num_envs, observe=lambda w, _: before.append(np.array(w.instance.memory)))
    assert worker.experience is not None
    kept = np.array(before)[:: WORK.sequence]  # [strides, E, memory]
    np.testing.assert_array_equal(worker.experience.memory[:, : len(kept)].swapaxes(0, 1), kept)
    assert kept[1:].any(axis=2).all()


def test_streams_are_recorded_side_by_side_and_draw_for_themselves():
    worker = driven(Walk, 60, num_envs=3)
    rows = [recorded(worker, stream) for stream in range(3)]
    np.testing.assert_array_equal([len(percepts.step) for percepts, _ in rows], 60)
    for here in range(3):
        for there in range(here):
            assert (rows[here][0].vector != rows[there][0].vector).any()
            assert (rows[here][1].choice != rows[there][1].choice).any()


def test_a_stream_that_delivers_nothing_gets_no_row():
    space = Walk.observation_space, Walk.action_space
    worker = new().new_worker(*space, seed=0, learn="context", streams=3, record=True)
    random = np.random.default_rng(0)
    none = np.zeros(3, np.bool_)
    active = random.random((40, 3)) < 0.6
    for on in active:
        observations = tuple(random.uniform(-1, 1, (3, 3)).astype(np.float32))
        moment = worker.decide(Tick(observations, np.zeros(3), none, none, none, on, (None,) * 3))
        assert [action is not None for action in moment.actions] == on.tolist()
    worker.close()
    assert worker.experience is not None
    np.testing.assert_array_equal(worker.experience.count, active.sum(0))
    for stream in range(3):
        percepts, _ = recorded(worker, stream)
        np.testing.assert_array_equal(percepts.step, np.arange(active[:, stream].sum()))


# Actions ------------------------------------------------------------------------------------------


def test_action_masks_are_honoured_at_work():
    Masked.violations = 0
    learner = new()
    log = fifteen.work(learner, Masked, steps=300)
    assert learner.state.updates > 0
    assert len(log.returns) == 42
    assert Masked.violations == 0
    worker = driven(Masked, 50)
    _, decisions = recorded(worker)
    assert set(decisions.mask[:, 0].sum(axis=1)) == {1, 2}


def test_too_large_a_replay_is_cut_and_said():
    learner = fifteen.new("debug", work=WORK.__class__(replay=10**9, sequence=8))
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    worker = learner.new_worker(image, Walk.action_space, seed=0, learn="context")
    _, sizes = worker.experience_shape()
    worker.close()
    assert sizes["capacity"] * (32 * 32 * 3) < 2_000_000_000
    assert sizes["capacity"] % sizes["stride"] == 0


def test_dimensions_beyond_the_slots_are_said():
    wide = spaces.Box(-1.0, 1.0, (100,), np.float32)
    worker = new().new_worker(wide, Walk.action_space, seed=0, learn="context")
    worker.close()
    assert any("beyond the 32 slots" in note for note in worker.notes)
