"""Logs of other agents become rows, and rows become Parquet and Minari: exactly, or refused by name."""

import json
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from test_store import JOB, MIND, lived

from fifteen.errors import RunError, StoreError
from fifteen.frames import Layout
from fifteen.spaces import Hands, Senses
from fifteen.store import Store
from fifteen.store_formats import export_minari, export_parquet, import_minari
from fifteen.store_intake import _choices

SEEN, DONE = spaces.Box(-2.0, 2.0, (3,), np.float32), spaces.Discrete(40, start=5)


@pytest.fixture
def stored(tmp_path):
    with Store(tmp_path / "store") as opened:
        yield opened


def log(lengths=(4, 1, 20), seed=0):
    """Attempts that end by termination and truncation in turn; the last one does not end."""
    generator, n = np.random.default_rng(seed), sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(n, bool), np.zeros(n, bool)
    terminated[ends[:-1:2]], truncated[ends[1:-1:2]] = True, True
    return {
        "observations": generator.uniform(-1, 1, (n + len(lengths), 3)).astype(np.float32),
        "actions": generator.integers(5, 45, n),
        "rewards": generator.normal(size=n),
        "terminated": terminated,
        "truncated": truncated,
    }


def add(stored, changes=None, job="Log-v0", **more):
    given = {"source": "expert", "observation_space": SEEN, "action_space": DONE, "mind": MIND} | more
    return stored.add_arrays(job, **(log() | (changes or {})), **given)


def test_a_log_becomes_the_rows_that_a_learner_would_have_written(stored):
    told = log()
    added = add(stored)
    assert (added.job, added.rows, added.known) == ("Log-v0 from expert", 28, 0) and not added.faults
    (record,) = stored.jobs()
    assert record.foreign and record.source == "expert" and record.job == "Log-v0" and record.learn == ()
    (segment,) = stored.segments(record.id)
    arrays, layout, hands = stored.read(segment), record.layout, Hands(DONE, MIND.max_bins)
    rows = [layout.percept(frame, None) for frame in arrays["rows/frame"]]
    decisions = [layout.decision(row) for row in arrays["rows/decision"]]
    assert not arrays["memory"].any() and arrays["memory"].shape == (4, MIND.memory_size)
    step, at = 0, 0
    for attempt, length in enumerate((4, 1, 20)):
        for n in range(length + 1):
            row = rows[at]
            assert (row.vector[:3] == told["observations"][at]).all() and not row.vector[3:].any()
            assert bool(row.first) == (n == 0) and int(row.step) == n
            assert (bool(row.after_termination), bool(row.after_truncation)) == (
                n == 0 and attempt == 1,
                n == 0 and attempt == 2,
            )
            last = n == length
            assert (bool(row.terminated), bool(row.truncated)) == (last and attempt == 0, last and attempt == 1)
            assert float(row.reward) == (0.0 if n == 0 else np.float32(told["rewards"][step - 1]))
            if n:
                assert hands.decode(np.asarray(row.previous)) == told["actions"][step - 1]
            else:
                assert (np.asarray(row.previous) == -1).all()
            if not last:
                choice = np.asarray(decisions[at].choice)
                assert hands.decode(choice) == told["actions"][step]
                assert np.asarray(decisions[at].mask)[np.arange(2), choice].all()
                step += 1
            at += 1
    # 40 values in two digits of 16: behind the most significant digit 2 only 8 are open.
    digit = np.array([np.asarray(d.choice)[0] for d in decisions])
    assert {int(np.asarray(d.mask)[1].sum()) for d, two in zip(decisions, digit == 2, strict=True) if two} == {8}
    statistics = stored.statistics(record.id)
    assert np.allclose(statistics.mean[:3], told["observations"].mean(axis=0), atol=1e-6)
    assert np.allclose(statistics.variance[:3], told["observations"].var(axis=0), atol=1e-6)
    assert float(statistics.count) == 28 and float(decisions[0].scale) > 0
    rows, memory = stored.sample(np.random.default_rng(0), record.id, 8, 9)
    assert rows["frame"].shape == (8, 9, layout.percept_size) and not memory.any()


def test_a_log_stays_apart_from_what_was_lived_and_is_taken_once(stored, tmp_path):
    stored.add_run(lived(tmp_path / "run", [[20]]))
    given = {"observation_space": spaces.Box(-1.0, 1.0, (1,), np.float32), "action_space": spaces.Discrete(2)}
    told = {"observations": np.zeros((3, 1), np.float32), "actions": [0, 1], "rewards": [0, 1.5]}
    told |= {"terminated": [False, True], "truncated": [False, True]}
    for known in (0, 1):
        added = stored.add_arrays(JOB, **told, source="other", **given)  # the store knows the mind
        assert (added.rows, added.known) == (3 * (1 - known), known)
    own, foreign = stored.jobs()
    assert (own.foreign, own.rows, foreign.foreign, foreign.rows) == (False, 20, True, 3)
    assert foreign.job == own.job == JOB and foreign.layout == own.layout
    last = foreign.layout.percept(stored.read(stored.segments(foreign.id)[0])["rows/frame"][2], None)
    assert bool(last.terminated) and not bool(last.truncated)  # termination wins


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.full((28, 3), np.nan, np.float32)}, "observation 0 is not finite"),
        ({"rewards": np.where(np.arange(25) == 7, np.inf, 0.0)}, "reward of step 7, from 0, is inf"),
        ({"rewards": np.where(np.arange(25) == 7, 1e39, 0.0)}, r"reward of step 7, from 0, is 1e\+39"),
        ({"actions": np.where(np.arange(25) == 9, 45, 5)}, r"action of step 9, from 0, is \[45\], outside Discrete"),
        ({"actions": np.where(np.arange(25) == 9, 5.5, 5)}, r"action of step 9, .* \[5.5\], outside Discrete"),
        ({"actions": np.where(np.arange(25) == 9, np.nan, 5)}, r"action of step 9, .* \[nan\], not finite"),
        ({"observations": np.zeros((25, 3), np.float32)}, "observations are 25, expected 28.*last one of each"),
        ({"truncated": np.zeros(24, bool)}, r"truncated \(24,\)"),
        ({"rewards": [], "actions": [], "terminated": [], "truncated": []}, "at least one step"),
    ],
)
def test_a_log_that_is_not_sound_is_refused_by_name(stored, changes, message):
    with pytest.raises(StoreError, match=f"Log-v0 from expert.*{message}"):
        add(stored, changes)
    assert not stored.jobs() and not list((stored.folder / "segments").iterdir())


def test_what_a_log_needs_is_said(stored):
    with pytest.raises(StoreError, match="give mind="):
        add(stored, mind=None)
    boundless = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    with pytest.raises(StoreError, match="has no bounds"):
        add(stored, {"actions": np.zeros((25, 1))}, action_space=boundless)
    add(stored)
    with pytest.raises(StoreError, match="different jobs"):
        add(stored, {"actions": np.zeros(25, int)}, action_space=spaces.Discrete(3))
    added = add(stored, {"observations": np.full((28, 3), 9.0)}, source="wild")  # repaired as at work, and counted
    assert added.faults == {"observation outside": 28, "observation dtype": 28}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(7, start=-2),
        spaces.Discrete(300),
        spaces.MultiDiscrete([[3, 40], [2, 5]], start=[[1, -4], [0, 0]]),
        spaces.MultiBinary((2, 3)),
        spaces.Box(-1.0, 3.0, (2, 2), np.float32),
        spaces.Box(-2, 200, (2,), np.int16),
        spaces.Dict({"b": spaces.Discrete(20), "a": spaces.Tuple((spaces.Box(0.0, 1.0, (2,)), spaces.MultiBinary(2)))}),
    ],
    ids=str,
)
def test_every_action_that_hands_can_take_is_found_again(space):
    hands = Hands(space, MIND.max_bins)
    shape, generator = hands.shape, np.random.default_rng(0)
    layout = Layout(MIND.slots, shape.factors, shape.bins, shape.digits, shape.group, shape.ordered)
    wanted, actions = [], []
    while len(actions) < 30:
        choice = generator.integers(shape.bins, size=shape.factors)
        try:
            actions.append(hands.decode(choice))
        except Exception:
            continue  # stands for no action
        wanted.append(choice)
    assert (_choices(space, actions, layout, MIND, "here") == np.array(wanted)).all()
    box = spaces.Box(0.0, 1.0, (1,), np.float32)
    near = Layout(MIND.slots, 1, 11, (0,), (-1,), (11,))
    assert _choices(box, [np.array([0.44]), np.array([7.0])], near, MIND, "here").tolist() == [[4], [10]]


def test_composite_observations_and_images_come_in_stacked(stored):
    space = spaces.Dict({"eye": spaces.Box(0, 255, (32, 32, 3), np.uint8), "pose": spaces.Tuple((SEEN, DONE))})
    n, generator = 6, np.random.default_rng(0)
    eye = generator.integers(0, 256, (n + 1, 32, 32, 3)).astype(np.uint8)
    pose = (generator.uniform(-1, 1, (n + 1, 3)).astype(np.float32), generator.integers(5, 45, n + 1))
    changes = {name: value[:n] for name, value in log((n,)).items()} | {"observations": {"eye": eye, "pose": pose}}
    added = add(stored, changes, observation_space=space)
    rows, senses = stored.read(stored.segments(added.job)[0]), Senses(space, MIND.slots)
    for i in range(n + 1):
        wanted = senses.encode({"eye": eye[i], "pose": (pose[0][i], pose[1][i])})
        assert (rows["rows/frame"][i, : MIND.slots] == wanted.vector).all()
        assert (rows["rows/image"][i] == wanted.image).all()


# Other formats


def test_without_the_extra_the_error_names_it(stored, monkeypatch):
    for module, extra, call in (
        ("pyarrow", "parquet", lambda: export_parquet(stored, "x.parquet")),
        ("minari", "minari", lambda: export_minari(stored, JOB, "a/b-v0")),
        ("minari", "minari", lambda: import_minari(stored, "a/b-v0")),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(RunError, match=rf"{module} cannot be imported.*fifteen\[{extra}\]"):
            call()


def test_parquet_holds_every_row(stored, tmp_path):
    from pyarrow import parquet

    stored.add_run(lived(tmp_path / "run", [[600, 20]], run=3))
    add(stored)
    path = tmp_path / "rows.parquet"
    assert export_parquet(stored, path) == 648
    table = parquet.read_table(path).to_pydict()
    assert table["job"].count(JOB) == 620 and table["source"].count("expert") == 28
    assert sorted(zip(table["stream"][28:], table["row"][28:], strict=True)) == sorted(
        [(0, n) for n in range(600)] + [(1, n) for n in range(20)]
    )
    for vector, stream, row in zip(table["vector"][28:], table["stream"][28:], table["row"][28:], strict=True):
        assert vector[:3] == [3.0, stream, row]
    told = log()
    assert table["reward"][1:5] == [np.float32(r) for r in told["rewards"][:4]]
    assert table["first"][:6] == [True] + 4 * [False] + [True] and table["terminated"][4]
    assert table["image"] == [None] * 648 and len(table["mask"][0]) == 32
    assert [p.name for p in tmp_path.glob(".rows*")] == []
    with pytest.raises(StoreError, match="cannot write"):
        export_parquet(stored, tmp_path / "nowhere" / "rows.parquet")


@pytest.mark.filterwarnings("ignore::UserWarning:minari.*")  # it misses an author
def test_minari_goes_out_and_comes_back(stored, tmp_path, monkeypatch):
    import minari
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    add(stored)
    with pytest.raises(StoreError, match="has no job 'none'"):
        export_minari(stored, "none", "fifteen/none-v0")
    data = export_minari(stored, "Log-v0 from expert", "fifteen/log-v0")
    assert data.total_episodes == 2  # the third attempt has no end
    told = log()
    for episode, at in zip(data.iterate_episodes(), (0, 5), strict=True):
        n = len(episode.rewards)
        assert (episode.observations["vector"][:, :3] == told["observations"][at : at + n + 1]).all()
        assert (episode.rewards == told["rewards"][at and 4 :][:n].astype(np.float32)).all()
    with pytest.raises(StoreError, match="does not say its environment"):
        import_minari(stored, data)
    added = import_minari(stored, "fifteen/log-v0", job="Again-v0")
    assert added.rows == 7 and stored.jobs()[0].id == "Again-v0 from fifteen/log-v0"

    env, episodes = gym.make("CartPole-v1", sutton_barto_reward=True), []
    for seed in range(3):
        seen, steps = [env.reset(seed=seed)[0]], []
        while not steps or not (steps[-1][1] or steps[-1][2]):
            observation, *step, _ = env.step(seed % 2)
            seen.append(observation)
            steps.append(step)
        rewards, terminations, truncations = map(list, zip(*steps, strict=True))
        acted = np.full(len(steps), seed % 2)
        episodes.append(EpisodeBuffer(seed, seed, None, np.array(seen), acted, rewards, terminations, truncations))
    wanted = sum(len(episode) for episode in episodes)
    data = minari.create_dataset_from_buffers("cartpole/pushed-v0", episodes, env=env, data_format="arrow")
    env.close()
    added = import_minari(stored, data)
    job = 'CartPole-v1 {"sutton_barto_reward": true} from cartpole/pushed-v0'
    assert (added.job, added.rows, dict(added.faults)) == (job, wanted + 3, {})
    episode, record = next(iter(data.iterate_episodes())), stored.jobs()[1]
    rows = stored.read(stored.segments(record.id)[0])["rows/frame"]
    assert (rows[: len(episode) + 1, :4] == episode.observations).all() and rows[len(episode), record.layout.slots + 2]
    assert json.loads(json.dumps(record.kwargs)) == {"sutton_barto_reward": True}
    nothing = SimpleNamespace(id="nothing-v0", env_spec=env.spec, iterate_episodes=lambda: iter(()))
    with pytest.raises(StoreError, match="the dataset nothing-v0 has no step"):
        import_minari(stored, nothing)
