"""The loop of work: exact resume, stopping, faults of jobs, and what it refuses before it begins."""

import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
import small
from small import WORK, Broken, Drift, Endless, Faulty, Walk

import fifteen
from fifteen import checkpoint, working
from fifteen.errors import CheckpointError, FifteenError, JobError, RunError, SpaceError
from fifteen.experience import Experience, Field
from fifteen.jobs.protocol import Tick

HERE = Path(__file__).parent


def new(seed=0):
    return fifteen.new("debug", seed=seed, work=WORK)


@pytest.fixture(scope="module")
def child():
    """A function that starts a fresh Python with this folder on its path."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path}

    def start(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


# What a run's folder holds ------------------------------------------------------------------------


def ring(folder, manifest):
    index = manifest["experience"]
    fields = {name: Field(tuple(field["shape"]), field["dtype"]) for name, field in index["fields"].items()}
    sizes = {name: index[name] for name in ("streams", "capacity", "stride", "memory_size")}
    return Experience.load(folder / "experience", index, fields, **sizes)


def attempts_in(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "time_s"} for line in lines if line["kind"] == "attempt"]


def assert_same_run(one, other):
    """Bit for bit: learner, lifetime, place in the job, record, replay, and what was written about the attempts."""
    (arrays, manifest), (others, other_manifest) = (checkpoint.read(folder / "learner") for folder in (one, other))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype, name
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    for part in ("worker", "recorder", "faults"):
        assert manifest["run"][part] == other_manifest["run"][part], part
    here, there = ring(one, manifest), ring(other, other_manifest)
    np.testing.assert_array_equal(here.count, there.count)
    np.testing.assert_array_equal(here.memory, there.memory)
    for name, rows in here.rows.items():
        np.testing.assert_array_equal(rows, there.rows[name], err_msg=name)
    assert attempts_in(one) == attempts_in(other)


# Exact resume -------------------------------------------------------------------------------------

RUNS = {
    "CartPole-v1": dict(learn="both"),
    "FrozenLake-v1": dict(learn="weights", num_envs=2),
    "small:Drift": dict(learn="both"),
    "probe/policy-v0": dict(learn="context"),
}
N = 109
RESUME = "import sys, fifteen; [fifteen.resume(run, steps=int(sys.argv[1])) for run in sys.argv[2:]]"


def test_twice_n_is_n_and_save_and_load_in_a_fresh_process_and_n(child, tmp_path):
    halves = []
    for number, (job, settings) in enumerate(RUNS.items()):
        half = tmp_path / f"half-{number}"
        fifteen.work(new(), job, steps=N, seed=4, run=half, **settings)
        arrays, manifest = checkpoint.read(half / "learner")
        if job != "probe/policy-v0":  # its attempts have no middle
            assert arrays["log/open"][:, 2].max() > 0, "the run stopped between attempts: choose another N"
        assert manifest["run"]["worker"]["ticks"] > 0, "the run stopped between blocks: choose another N"
        assert (arrays["updates"] > 0) == (settings["learn"] != "context")
        halves.append(half)
    process = child(RESUME, 2 * N, *halves)
    for half, (job, settings) in zip(halves, RUNS.items(), strict=True):
        fifteen.work(new(), job, steps=2 * N, seed=4, run=half.with_suffix(".whole"), **settings)
    finished(process)
    for half in halves:
        assert_same_run(half, half.with_suffix(".whole"))


@pytest.mark.parametrize("stop", [1, 2, 37])
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not(tmp_path, stop):
    fifteen.work(new(), "small:Walk", steps=stop, run=tmp_path / "parts")
    for total in (stop + 30, 90):
        log = fifteen.resume(tmp_path / "parts", steps=total)
    whole = fifteen.work(new(), "small:Walk", steps=90, run=tmp_path / "whole")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    np.testing.assert_array_equal(log.returns, whole.returns)
    np.testing.assert_array_equal(log.expected, whole.expected)
    assert log.reason == whole.reason == "steps"


def test_an_experienced_learner_is_resumed_exactly_too(tmp_path):
    """Its statistics begin a lifetime with less weight than they had."""
    learner = new()
    fifteen.work(learner, Walk, steps=1500)
    learner.save(tmp_path / "learner")
    for name, stop in (("parts", 5), ("whole", 60)):
        fifteen.work(fifteen.load(tmp_path / "learner"), "small:Walk", steps=stop, run=tmp_path / name)
    fifteen.resume(tmp_path / "parts", steps=60)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_doubted_memory_is_resumed_exactly_and_one_of_before_there_were_doubts_goes_on(tmp_path):
    def schooled():
        return fifteen.new("debug", work=WORK.schooled())

    fifteen.work(schooled(), "small:Walk", steps=80, run=tmp_path / "parts")
    arrays, manifest = checkpoint.read(tmp_path / "parts" / "learner")
    doubts = {name: array for name, array in arrays.items() if "instance/doubt/" in name}
    assert next(doubts[name] for name in doubts if name.endswith("trials")) > 1
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "parts", old)
    checkpoint.write(old / "learner", {n: a for n, a in arrays.items() if n not in doubts}, manifest)
    fifteen.resume(tmp_path / "parts", steps=160)
    fifteen.work(schooled(), "small:Walk", steps=160, run=tmp_path / "whole")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert fifteen.resume(old, steps=160).steps[-1] > 80


def test_nothing_is_written_over_in_the_ring_before_it_is_saved(tmp_path):
    """However rarely it would be saved otherwise."""
    work = dataclasses.replace(WORK, replay=64)
    fifteen.work(fifteen.new("debug", seed=0, work=work), "small:Walk", steps=300, run=tmp_path)
    index = checkpoint.read(tmp_path / "learner")[1]["experience"]
    assert index["capacity"] == 64 and index["count"][0] > 300
    ends = [0, *(segment["last"][0] for segment in index["segments"])]
    assert [segment["first"][0] for segment in index["segments"]] == ends[:-1] and ends[-1] == index["count"][0]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    work = dataclasses.replace(WORK, learning_rate=1e38)
    learner = fifteen.new("debug", seed=0, work=work)
    with pytest.raises(RunError, match=r"not finite after \d+ updates: lower WorkConfig.learning_rate"):
        fifteen.work(learner, "small:Walk", steps=1_000, run=tmp_path)
    for one in (learner, fifteen.load(tmp_path)):
        assert np.isfinite(np.asarray(one.state.weights)).all()


def test_saving_in_between_changes_nothing(tmp_path, monkeypatch):
    fifteen.work(new(), "small:Walk", steps=90, run=tmp_path / "rarely")
    monkeypatch.setattr(working, "SAVE_EVERY_S", 0.0)
    fifteen.work(new(), "small:Walk", steps=90, run=tmp_path / "often")
    assert len(list((tmp_path / "often" / "experience").glob("segment-*"))) > 5
    assert_same_run(tmp_path / "rarely", tmp_path / "often")


KILLED = """
import sys, fifteen, fifteen.working
from small import WORK
fifteen.working.SAVE_EVERY_S = 0.05
fifteen.work(fifteen.new("debug", seed=0, work=WORK), "small:Walk", steps=10**7, run=sys.argv[1])
"""


def saved_step(folder):
    """Step of the last save, or 0. The file may be replaced under our hands, but never half."""
    try:
        return json.loads((folder / "learner" / "manifest.json").read_text())["run"]["recorder"]["step"]
    except FileNotFoundError:
        return 0


def test_a_killed_run_goes_on_from_its_last_save(child, tmp_path):
    folder = tmp_path / "run"
    process = child(KILLED, folder)
    try:
        deadline = time.monotonic() + 240
        while saved_step(folder) < 150:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(RunError, match=f"in use by process {process.pid}"):
            fifteen.resume(folder)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    step = saved_step(folder)
    assert step >= 150
    log = fifteen.resume(folder, steps=step + 50)
    assert log.reason == "steps"
    fifteen.work(new(), "small:Walk", steps=step + 50, run=tmp_path / "whole")
    assert_same_run(folder, tmp_path / "whole")


def test_a_run_killed_before_its_first_save_is_not_stuck(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:  # in the middle of being set up
        patch.setattr(checkpoint, "write", killed)
        with pytest.raises(Killed):
            fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    with monkeypatch.context() as patch:  # at the first step
        patch.setattr(working.Recorder, "record", killed)
        with pytest.raises(Killed):
            fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    fifteen.resume(tmp_path / "run")
    fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_goes_on(tmp_path, signal_number):
    before = signal.getsignal(signal_number)

    def interrupt(progress):
        if progress.step >= 60:
            signal.raise_signal(signal_number)

    learner = new()
    log = fifteen.work(learner, "small:Walk", steps=90, run=tmp_path / "run", callback=interrupt)
    assert log.reason == "interrupted"
    assert signal.getsignal(signal_number) is before
    assert learner.state.updates > 0
    assert fifteen.resume(tmp_path / "run").reason == "steps"
    fifteen.work(new(), "small:Walk", steps=90, run=tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_budget_of_episodes_is_resumed_too(tmp_path):
    def stop(progress):
        return progress.attempt >= 3

    log = fifteen.work(new(), "small:Walk", episodes=8, run=tmp_path / "run", callback=stop)
    assert log.reason == "callback"
    assert 3 <= len(log.returns) < 8
    log = fifteen.resume(tmp_path / "run")
    assert (log.reason, len(log.returns)) == ("episodes", 8)
    again = fifteen.resume(tmp_path / "run")
    assert (again.reason, len(again.returns)) == ("episodes", 8)


def test_a_run_with_an_environment_of_ones_own_is_resumed_with_it(tmp_path):
    fifteen.work(new(), Walk, steps=20, run=tmp_path / "run")
    with pytest.raises(RunError, match="pass it again"):
        fifteen.resume(tmp_path / "run", steps=40)
    log = fifteen.resume(tmp_path / "run", job=Walk, steps=40)
    assert log.steps[-1] == 35
    with pytest.raises(FifteenError):
        fifteen.resume(tmp_path / "run", job="FrozenLake-v1", steps=60)
    assert fifteen.resume(tmp_path / "run", job=Walk, steps=60).steps[-1] == 56


def test_what_cannot_be_resumed_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no config\.json"):
        fifteen.resume(tmp_path)
    fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    new().save(tmp_path / "run" / "learner")
    with pytest.raises(CheckpointError, match="no run to go on with"):
        fifteen.resume(tmp_path / "run")
    fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "other")
    segment = next((tmp_path / "other" / "experience").glob("segment-*"))
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        fifteen.resume(tmp_path / "other")
    assert fifteen.load(tmp_path / "other").state.weights.size  # the learner itself is whole


# Budgets, callbacks, records ----------------------------------------------------------------------


def test_the_log_counts_every_attempt_right():
    log = fifteen.work(new(), "CartPole-v1", steps=200, seed=1)
    np.testing.assert_array_equal(log.returns, log.lengths)
    np.testing.assert_array_equal(log.steps, np.cumsum(log.lengths))
    gamma = WORK.discount
    np.testing.assert_allclose(log.discounted, (1 - gamma**log.returns) / (1 - gamma), rtol=1e-6)
    assert log.reason == "steps"
    assert len(log.expected) == len(log.surprise) == len(log.returns) > 3
    assert np.isfinite(log.expected).all()
    assert (log.surprise > 0).all()
    assert log.faults == {}


def test_the_callback_sees_everything_and_can_stop_the_run():
    seen = []

    def callback(progress):
        seen.append(progress)
        return progress.step >= 50

    log = fifteen.work(new(), Walk, steps=10_000, callback=callback)
    assert log.reason == "callback"
    assert 50 <= seen[-1].step < 60
    assert [progress.step for progress in seen] == sorted({progress.step for progress in seen})
    attempts = [attempt for progress in seen for attempt in progress.finished]
    np.testing.assert_array_equal([attempt.ret for attempt in attempts], log.returns)
    np.testing.assert_array_equal([attempt.number for attempt in attempts], np.arange(len(log.returns)))
    assert all(attempt.terminated for attempt in attempts)
    last = seen[-1]
    assert (last.steps_total, last.attempt, last.last_return) == (10_000, len(log.returns), log.returns[-1])
    assert last.recent == pytest.approx(log.returns[-20:].mean())
    assert last.updates > 0
    assert last.losses.keys() >= {"value_loss", "policy_loss"}
    assert all(np.isfinite(loss) for loss in last.losses.values())


def test_an_error_in_a_callback_passes_and_what_was_learned_is_kept():
    def callback(progress):
        if progress.step >= 80:
            raise ValueError("mine")

    learner = new()
    with pytest.raises(ValueError, match="mine"):
        fifteen.work(learner, Walk, steps=10_000, callback=callback)
    assert learner.state.updates > 0
    assert all(np.isfinite(array).all() for array in learner.arrays().values())


def test_streams_share_the_budget():
    log = fifteen.work(new(), Walk, steps=90, num_envs=3, learn="context")
    assert len(log.returns) == 12
    assert log.steps[-1] <= 93
    streams = []
    fifteen.work(
        new(),
        Walk,
        episodes=6,
        num_envs=3,
        learn="context",
        callback=lambda progress: streams.extend(attempt.stream for attempt in progress.finished),
    )
    assert sorted(streams[:3]) == [0, 1, 2]


def test_a_run_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fifteen.work(new(), Walk, steps=20)
    assert list(tmp_path.iterdir()) == []


def test_a_lifetime_knows_nothing_of_those_beside_it():
    learner = fifteen.load()
    spaces = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32), gym.spaces.Discrete(4)
    no, yes = np.zeros(2, bool), np.ones(2, bool)

    def decided(other):
        """What the first of two lifetimes decides and expects while the second meets percepts times `other`."""
        worker = learner.new_worker(*spaces, seed=5, learn="context", lifetimes=2)
        random, found = np.random.default_rng(0), []
        for t in range(30):
            sensors, reward = random.standard_normal(3).astype(np.float32), random.standard_normal()
            percepts, rewards = (sensors, other * sensors), np.array([reward, other * reward])
            moment = worker.decide(Tick(percepts, rewards, yes if t == 0 else no, no, no, yes, (None, None)))
            found.append((moment.actions[0], moment.value[0], moment.surprise[0]))
        worker.close()
        return found

    assert decided(1.0) == decided(1_000.0)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (dict(), RunError, "one budget"),
        (dict(steps=5, episodes=5), RunError, "one budget"),
        (dict(steps=0), RunError, "positive number"),
        (dict(steps=-3), RunError, "positive number"),
        (dict(steps=2.5), RunError, "positive number"),
        (dict(steps=True), RunError, "positive number"),
        (dict(episodes=0), RunError, "positive number"),
        (dict(steps=5, learn="all"), RunError, "'all', expected 'context'"),
        (dict(steps=5, num_envs=0), JobError, "num_envs"),
        (dict(steps=5, seed=-1), JobError, "seed"),
        (dict(steps=5, seed=0.5), JobError, "seed"),
        (dict(steps=5, step_limit=0), JobError, "step_limit"),
        (dict(steps=5, kwargs={"wheels": 3}), JobError, "wheels"),
        (dict(steps=5, job="CartPole-v77"), JobError, "CartPole-v77"),
        (dict(steps=5, job="KartPole-v1"), JobError, "CartPole-v1"),
        (dict(steps=5, job=Walk(), num_envs=2), JobError, "factory"),
        (dict(steps=5, job=functools.partial(Faulty, "observation space")), SpaceError, "Sequence"),
    ],
)
def test_what_contradicts_itself_is_refused_before_the_run_begins(tmp_path, monkeypatch, arguments, error, says):
    if says == "Sequence":
        monkeypatch.setattr(Faulty, "observation_space", small.spaces.Sequence(small.spaces.Discrete(3)))
    learner = new()
    before = learner.arrays()
    job = arguments.pop("job", Walk)
    with pytest.raises(error, match=says):
        fifteen.work(learner, job, run=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()
    for name, array in learner.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_numbers_of_numpy_are_numbers(tmp_path):
    fifteen.work(new(), Walk, steps=np.int64(20), seed=np.int32(3), run=tmp_path / "run")  # pyright: ignore
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (settings["steps"], settings["seed"]) == (20, 3)


def test_kwargs_that_no_folder_can_keep_are_refused(tmp_path):
    with pytest.raises(RunError, match="kwargs .* cannot be kept"):
        fifteen.work(new(), Walk, steps=5, kwargs={"length": np.int64(5)}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fifteen.work(new(), Walk, steps=5, kwargs={"length": np.int64(5)})


def test_a_folder_in_use_or_with_a_run_is_refused(tmp_path):
    with checkpoint.FolderLock(tmp_path / "run"):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        fifteen.work(new(), "small:Walk", steps=20, run=tmp_path / "run")
    with checkpoint.FolderLock(tmp_path / "run"):
        with pytest.raises(RunError, match="in use"):
            fifteen.resume(tmp_path / "run", steps=40)
    assert fifteen.resume(tmp_path / "run", steps=40).steps[-1] == 35


@pytest.mark.parametrize("held", ["fleet.json", "life.json", "night.json", "school/manifest.json", "manifest.json"])
def test_what_lies_in_a_folder_is_not_written_over(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).touch()
    with pytest.raises(RunError, match=rf"{held} says so\): give another folder"):
        fifteen.work(new(), "small:Walk", steps=20, run=tmp_path)
    assert not (tmp_path / "learner").exists()


def test_in_context_the_callback_is_called_after_every_block_too():
    steps = []
    fifteen.work(new(), "small:Walk", steps=40, learn="context", callback=lambda told: steps.append(told.step))
    assert 8 <= len(steps) <= 12


# Faults of jobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ("step raises", "step raised: RuntimeError: the wheel came off"),
        ("reset raises", "reset raised: RuntimeError: the door is stuck"),
        ("reward", "reward non-finite"),
        ("observation", "observation non-finite"),
        ("outside", "observation outside"),
        ("dtype", "observation dtype"),
        ("shape", "step raised: SpaceError"),
    ],
)
def test_faults_of_a_job_are_counted_and_the_run_goes_on(fault, counted):
    learner = new()
    log = fifteen.work(learner, functools.partial(Faulty, fault), steps=150)
    assert log.reason == "steps"
    assert len(log.returns) > 15
    assert sum(count for name, count in log.faults.items() if name.startswith(counted)) > 5, log.faults
    assert np.isfinite(log.returns).all()
    assert np.isfinite(log.expected).all()
    assert learner.state.updates > 0
    for name, array in learner.arrays().items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_the_rewards_does_not_matter(factor):
    class Scaled(Walk):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, (reward + 0.5) * factor, *rest

    learner = new()
    log = fifteen.work(learner, Scaled, steps=400)
    assert all(np.isfinite(array).all() for array in learner.arrays().values())
    # Not learned, but of the right size: what is expected lies between nothing and the most there is.
    assert (0 < log.expected[-10:] / factor).all()
    assert (log.expected[-10:] / factor < 1.5 * 7 * 1.5).all()


def test_a_job_that_breaks_for_good_ends_the_run_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(working, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(Broken, "taken", -60)
    learner = new()
    with pytest.raises(JobError, match="gone") as raised:
        fifteen.work(learner, Broken, steps=1000, run=tmp_path / "run")
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert learner.state.updates > 0
    saved = fifteen.load(tmp_path / "run")
    assert saved.state.updates > 0
    monkeypatch.setattr(Broken, "taken", -1000)  # somebody mends it
    log = fifteen.resume(tmp_path / "run", job=Broken, steps=200)
    assert log.reason == "steps"
    assert len(log.returns) > 20


def test_an_attempt_that_never_ends_is_cut_and_said():
    log = fifteen.work(new(), Endless, steps=100, step_limit=30)
    np.testing.assert_array_equal(log.lengths, [30, 30, 30])
    log = fifteen.work(new(), Endless, steps=20)
    assert any("10000" in note for note in log.notes)


def test_a_full_disk_ends_the_run_with_the_last_save_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(working, "SAVE_EVERY_S", 0.0)
    write, full = os.replace, [False]

    def replace(*arguments):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    def fill(progress):
        full[0] = progress.step >= 80

    monkeypatch.setattr(os, "replace", replace)
    learner = new()
    with pytest.raises(CheckpointError, match="No space left"):
        fifteen.work(learner, "small:Walk", steps=1000, run=tmp_path / "run", callback=fill)
    assert learner.state.updates > 0
    full[0] = False
    step = saved_step(tmp_path / "run")
    assert 60 < step < 90
    fifteen.resume(tmp_path / "run", steps=120)
    fifteen.work(new(), "small:Walk", steps=120, run=tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_step_of_a_run_is_an_environment_step(tmp_path):
    """Not a tick: the last observation of an attempt is perceived too, but nothing is done at it."""
    taken = []

    class Counted(Walk):
        def step(self, action):
            taken.append(action)
            return super().step(action)

    fifteen.work(new(), Counted, steps=50, run=tmp_path / "run")
    assert saved_step(tmp_path / "run") == len(taken) == 50


def test_leaves_of_a_learner_are_arrays_of_their_own(tmp_path):
    """Two runs of one learner do not share buffers that one of them gives away."""
    learner = new()
    fifteen.work(learner, Walk, steps=60)
    state = jax.tree.map(np.array, learner.state)
    copy = fifteen.evaluate(learner, Drift(), episodes=2)
    assert len(copy.returns) == 2
    fifteen.work(learner, Walk, steps=60)
    assert not np.array_equal(state.weights, learner.state.weights)
