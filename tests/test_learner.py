"""The learner's shell: by hand, to and from the disk, and what is refused."""

import dataclasses
import json
import weakref
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from small import WORK, Walk

import fifteen
from fifteen import checkpoint, experience
from fifteen.config import SIZES, WorkConfig
from fifteen.errors import CheckpointError, RunError, SpaceError
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.family import draw_job
from fifteen.jobs.protocol import attempt_seed
from fifteen.learner import SHIPPED


def new(seed=0):
    return fifteen.new("debug", seed=seed, work=WORK)


def assert_same(one, other):
    assert one.config == other.config
    assert one.work_config == other.work_config
    named, others = one.arrays(), other.arrays()
    assert named.keys() == others.keys()
    for name, array in named.items():
        assert array.dtype == others[name].dtype
        np.testing.assert_array_equal(array, others[name], err_msg=name)


# By hand ------------------------------------------------------------------------------------------


def by_hand(learner, env, episodes, learn, seed):
    """What `work` does, one decision at a time: (returns, expected at each beginning, mean surprise)."""
    learner.start(env.observation_space, env.action_space, seed=seed, learn=learn)
    told = []
    for attempt in range(episodes):
        observation, _ = env.reset(seed=attempt_seed(seed, 0, attempt))
        total, over, expected = 0.0, False, None
        while not over:
            action = learner.act(observation)
            expected = learner.expected if expected is None else expected
            observation, reward, terminated, truncated, _ = env.step(action)
            learner.observe(observation, reward, terminated, truncated)
            total, over = total + float(reward), terminated or truncated
        told.append((total, expected))
    return np.array(told).T


@pytest.mark.parametrize("learn", ["context", "both"])
def test_by_hand_is_the_same_as_work(learn):
    env = gym.make("CartPole-v1")
    alone, driven = new(), new()
    log = fifteen.work(alone, "CartPole-v1", episodes=6, seed=3, learn=learn)
    returns, expected = by_hand(driven, env, 6, learn, seed=3)
    driven.stop()
    np.testing.assert_array_equal(returns, log.returns)
    np.testing.assert_allclose(expected, log.expected, rtol=1e-6)
    assert_same(alone, driven)
    assert (driven.state.updates > 0) == (learn == "both")


def test_a_lifetime_may_be_saved_in_its_middle_and_goes_on(tmp_path):
    one, other = new(), new()
    by_hand(one, Walk(), 12, "both", seed=1)
    by_hand(other, Walk(), 12, "both", seed=1)
    other.save(tmp_path / "middle")
    assert fifteen.load(tmp_path / "middle").state.updates > 0
    for learner in (one, other):
        for step in range(20):
            learner.act(np.full(3, step / 20, np.float32))
            learner.observe(np.full(3, step / 20, np.float32), 1.0, False, False)
        learner.stop()
    assert_same(one, other)
    one.stop()  # twice is harmless


def test_the_ways_to_use_it_in_the_wrong_order_are_refused():
    learner, observation = new(), np.zeros(3, np.float32)
    assert np.isnan(learner.expected)
    assert np.isnan(learner.surprise)
    assert learner.faults == {}
    with pytest.raises(RunError, match="before start"):
        learner.act(observation)
    with pytest.raises(RunError, match="before act"):
        learner.observe(observation, 0.0, False, False)
    with pytest.raises(RunError, match="learn is 'everything', expected 'context'"):
        learner.start(Walk.observation_space, Walk.action_space, learn="everything")  # pyright: ignore
    learner.start(Walk.observation_space, Walk.action_space)
    with pytest.raises(RunError, match="before act"):
        learner.observe(observation, 0.0, False, False)
    learner.act(observation)
    with pytest.raises(RunError, match="twice"):
        learner.act(observation)
    learner.observe(observation, 1.0, False, False)
    with pytest.raises(RunError, match="before act"):
        learner.observe(observation, 1.0, False, False)
    learner.act(observation)
    learner.observe(observation, 1.0, True, False)
    with pytest.raises(RunError, match="before act"):
        learner.observe(observation, 1.0, True, False)
    assert np.isfinite(learner.expected)
    assert np.isfinite(learner.surprise)
    learner.stop()
    with pytest.raises(RunError, match="before start"):
        learner.act(observation)


def test_bad_input_by_hand_is_counted_or_refused_and_the_lifetime_goes_on():
    learner = new()
    learner.start(Walk.observation_space, Walk.action_space)
    with pytest.raises(SpaceError, match="4"):
        learner.act(np.zeros(4, np.float32))
    for reward in (np.nan, np.inf, 1e39, "much"):
        assert learner.act(np.array([np.nan, 0.0, 1.0], np.float32)) in Walk.action_space
        learner.observe(np.zeros(3, np.float32), reward, False, False)  # pyright: ignore
    assert learner.faults["reward non-finite"] == 3
    assert learner.faults["reward not a number"] == 1
    assert learner.faults["observation non-finite"] == 4
    assert np.isfinite(learner.expected)
    learner.stop()
    assert all(np.isfinite(array).all() for array in learner.arrays().values())


def test_a_refused_first_observation_does_not_use_up_the_beginning_of_the_attempt():
    one, other = new(), new()
    for learner in (one, other):
        learner.start(Walk.observation_space, Walk.action_space, learn="both")
    with pytest.raises(SpaceError):
        other.act(np.zeros(4, np.float32))
    for learner in (one, other):
        learner.act(np.ones(3, np.float32))
        learner.stop()
    assert_same(one, other)


def test_the_action_mask_is_honoured_by_hand():
    learner = new()
    learner.start(Walk.observation_space, Walk.action_space)
    for step in range(40):
        wanted = step % 3 % 2
        action = learner.act(np.zeros(3, np.float32), action_mask=np.eye(2, dtype=np.int8)[wanted])
        assert action == wanted
        learner.observe(np.zeros(3, np.float32), 0.0, False, False)
    learner.stop()


def test_work_and_evaluate_in_the_middle_of_a_lifetime_know_what_it_learned():
    learner = new()
    by_hand(learner, Walk(), 12, "both", seed=1)
    before = int(learner.state.updates)
    fifteen.evaluate(learner, Walk, episodes=1)
    learned = int(learner.state.updates)
    assert learned > before
    fifteen.work(learner, Walk, steps=60)
    worked = int(learner.state.updates)
    assert worked > learned
    learner.stop()
    assert int(learner.state.updates) == worked
    with pytest.raises(RunError, match="before start"):
        learner.act(np.zeros(3, np.float32))


@pytest.mark.parametrize("space", [spaces.Graph(spaces.Box(0, 1), None), spaces.Sequence(spaces.Discrete(3))])
def test_spaces_that_are_not_supported_are_refused_at_the_start(space):
    learner = new()
    with pytest.raises(SpaceError, match=type(space).__name__):
        learner.start(space, Walk.action_space)
    with pytest.raises(SpaceError, match=type(space).__name__):
        learner.start(Walk.observation_space, space)


# New ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_size_dial(size):
    learner = fifteen.new(size)
    assert learner.config == SIZES[size]
    assert learner.state.weights.dtype == np.float32


def test_sizes_are_in_order_and_unknown_ones_are_refused():
    parameters = [fifteen.new(size).state.weights.size for size in ("debug", "small", "base", "large")]
    assert parameters == sorted(set(parameters))
    with pytest.raises(RunError, match="'huge' is unknown: choose one of debug, small, base, large"):
        fifteen.new("huge")  # pyright: ignore[reportArgumentType]


def test_the_seed_of_a_new_learner_decides_its_weights():
    assert_same(new(0), new(0))
    assert (np.asarray(new(0).state.weights) != np.asarray(new(1).state.weights)).any()


def test_a_mind_of_ones_own_shape():
    own = dataclasses.replace(SIZES["debug"], width=24, layers=2)
    assert fifteen.new(own).config == own


# To and from the disk -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worked():
    learner = new()
    fifteen.work(learner, Walk, steps=80, seed=5)
    return learner


def test_a_learner_comes_back_as_it_was_saved(worked, tmp_path):
    path = worked.save(tmp_path / "a" / "learner")
    again = fifteen.load(path)
    assert_same(worked, again)
    assert jax.tree.structure(worked.state) == jax.tree.structure(again.state)
    assert again.provenance == worked.provenance
    assert again.provenance["worked"][0]["steps"] == 80
    for learner in (worked, again):
        assert int(learner.state.updates) > 0
    fifteen.work(again, Walk, steps=40, seed=6)
    other = fifteen.load(str(path))
    fifteen.work(other, Walk, steps=40, seed=6)
    assert_same(again, other)


def test_without_a_path_it_is_the_schooled_learner_that_ships():
    learner = fifteen.load()
    assert learner.provenance["schooled"][-1]["steps_done"] > 1_000_000
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 10e6
    gains = []
    for seed in range(5):
        bandit: Any = draw_job(FAMILIES["bandit/bernoulli"], seed, "uniform")
        chances = bandit.chances
        kwargs = {"seed": seed, "template": "uniform"}
        pulls = fifteen.evaluate(learner, "bandit/bernoulli-v0", episodes=1, kwargs=kwargs).returns[0]
        gains.append((pulls - 100.0 * chances.mean()) / (100.0 * (chances.max() - chances.mean())))
    assert np.mean(gains) > 0.4  # 0 is chance, 1 the best arm from the first pull on


def manifest_of(path):
    return path / "manifest.json"


def rewrite(path, change):
    """Save the checkpoint again, soundly, with a changed manifest or changed arrays."""
    arrays, manifest = checkpoint.read(path)
    change(arrays, manifest)
    checkpoint.write(path, arrays, manifest)


def truncate(path):
    state = next(path.glob("state-*.safetensors"))
    state.write_bytes(state.read_bytes()[:-100])


def corrupt(path):
    state = next(path.glob("state-*.safetensors"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)


def newer(path):
    manifest = json.loads(manifest_of(path).read_text())
    manifest_of(path).write_text(json.dumps(manifest | {"format": 99}))


def foreign(path):
    manifest_of(path).write_text(json.dumps({"model": "policy"}))


FAULTS = {
    "is truncated": truncate,
    "is corrupted": corrupt,
    "upgrade fifteen": newer,
    "not a Fifteen checkpoint": foreign,
    "holds no manifest": lambda path: manifest_of(path).unlink(),
    "is missing": lambda path: next(path.glob("state-*.safetensors")).unlink(),
    "not one of a learner": lambda path: rewrite(path, lambda arrays, manifest: manifest.pop("mind")),
    "not one of a learner of this version": lambda path: rewrite(path, lambda arrays, _: arrays.pop("target")),
    "its configuration needs": lambda path: rewrite(
        path, lambda arrays, _: arrays.update(weights=arrays["weights"][:-1])
    ),
    # Without what the mind was told, the same weights would compute something else.
    r"not one of a learner.*unheard_of": lambda path: rewrite(
        path, lambda _, manifest: manifest["mind"].update(unheard_of=1)
    ),
}


@pytest.mark.parametrize("says", FAULTS)
def test_a_checkpoint_that_is_not_right_is_refused_and_said(worked, tmp_path, says):
    worked.save(tmp_path / "learner")
    FAULTS[says](tmp_path / "learner")
    with pytest.raises(CheckpointError, match=says):
        fifteen.load(tmp_path / "learner")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        fifteen.load(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"PK")
    with pytest.raises(CheckpointError):
        fifteen.load(tmp_path / "file")


def test_an_older_learner_without_a_newer_setting_can_be_loaded(worked, tmp_path):
    """What a later version adds to its settings has a default."""
    worked.save(tmp_path / "learner")
    rewrite(tmp_path / "learner", lambda _, manifest: manifest["work"].pop("replay"))
    assert fifteen.load(tmp_path / "learner").work_config == dataclasses.replace(WORK, replay=WorkConfig().replay)


def test_a_setting_of_work_that_is_no_more_is_ignored_and_said_once(worked, tmp_path, caplog):
    folder = worked.save(tmp_path / "learner")
    rewrite(folder, lambda _, manifest: manifest["work"].update(temper=0.5, moods=[1, 2]))
    for _ in range(2):
        assert_same(fifteen.load(folder), worked)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "fifteen"
    for part in (str(folder), "temper = 0.5, moods = [1, 2]", "WorkConfig", "ignored"):
        assert part in record.getMessage()


def test_a_run_with_such_a_setting_goes_on_without_it(tmp_path, caplog):
    whole, old = tmp_path / "whole", tmp_path / "old"
    for run in (whole, old):
        fifteen.work(new(), "small:Walk", steps=80, seed=5, run=run)
    rewrite(old / "learner", lambda _, manifest: manifest["work"].update(temper=0.5))
    for run in (whole, old):
        fifteen.resume(run, steps=120)
    assert "temper = 0.5" in caplog.text
    assert_same(fifteen.load(old), fifteen.load(whole))
    assert "temper" not in checkpoint.read(old / "learner")[1]["work"]  # said no more


def test_a_resumed_run_has_room_for_its_replay_once(tmp_path, monkeypatch):
    fifteen.work(new(), "small:Walk", steps=80, seed=5, run=tmp_path / "run")
    rings, most = [], 0

    def touched(shape, dtype):
        nonlocal most
        ring = np.zeros(shape, dtype)
        rings.append(weakref.ref(ring))
        most = max(most, sum(alive.nbytes for one in rings if (alive := one()) is not None))
        return ring

    monkeypatch.setattr(experience, "_touched", touched)
    fifteen.work(new(), "small:Walk", steps=8, seed=5, run=tmp_path / "fresh")
    one, most = most, 0
    rings.clear()
    fifteen.resume(tmp_path / "run", steps=120)
    assert len(rings) > 1 and most == one


def test_saving_where_nothing_can_be_saved_says_so(worked, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot write .*file"):
        worked.save(tmp_path / "file" / "learner")
