"""School: that it teaches, that it goes on exactly, and what it refuses."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fifteen
from fifteen import checkpoint, schooling
from fifteen.config import SchoolConfig
from fifteen.errors import CheckpointError, JobError, RunError
from fifteen.jobs import bandits
from fifteen.model import adapted
from fifteen.school_report import read_history

SMALL = SchoolConfig(lifetimes=16, rollout=16, minibatches=2)


def weights(learner):
    return np.asarray(learner.state.weights)


def test_two_n_rounds_are_n_saved_loaded_and_n(tmp_path, caplog):
    whole, parts = fifteen.new("debug"), fifteen.new("debug")
    steps = 6 * 16 * 16
    fifteen.school(whole, ["bandit/bernoulli"], steps, config=SMALL)
    rounds = []
    stopped = fifteen.school(
        parts,
        ["bandit/bernoulli"],
        steps,
        config=SMALL,
        run=tmp_path,
        callback=lambda progress: rounds.append(progress) or len(rounds) == 3,
    )
    assert stopped.steps == steps // 2
    arrays, manifest = checkpoint.read(tmp_path / "school")
    manifest["settings"]["school"]["strictness"] = 0.7  # of a version that had it
    checkpoint.write(tmp_path / "school", arrays, manifest)
    again = fifteen.new("debug")
    ended = fifteen.school(again, ["bandit/bernoulli"], steps, config=SMALL, run=tmp_path)
    assert "strictness = 0.7" in caplog.text and "SchoolConfig" in caplog.text
    assert ended.steps == steps
    assert (weights(again) == weights(whole)).all()
    assert (weights(again) != weights(parts)).any()
    assert ended.metrics["teacher_loss"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "bandit/bernoulli" in page and "http" not in page.replace("http-equiv", "")
    # Where the machine is slow there are saves between these two.
    assert {steps // 2, steps} <= {line["steps"] for line in read_history(tmp_path)}
    told = again.provenance["schooled"][-1]
    assert told["steps_done"] == steps and told["seconds"] >= 0 and {"commit", "device", "families"} <= set(told)
    told = fifteen.school(again, ["bandit/bernoulli"], steps, config=SMALL, run=tmp_path)
    assert told.steps == steps and (weights(again) == weights(whole)).all()  # though it has an adapter since
    with pytest.raises(CheckpointError, match="seed differ"):
        fifteen.school(again, ["bandit/bernoulli"], steps, seed=1, config=SMALL, run=tmp_path)


def test_several_families_are_one_school():
    learner = fifteen.new("debug")
    mind, before = learner.config, weights(learner)
    config = dataclasses.replace(SMALL, lifetimes=32, projected=0.5)
    progress = fifteen.school(learner, ["bandit/gaussian", "mdp", "recall/t-maze"], 8 * 16 * 30, config=config)
    assert learner.config == dataclasses.replace(mind, adapter=2 * mind.width)
    assert (adapted(learner.state.weights, learner.config, 0) != before).any()
    assert np.isfinite(list(progress.metrics.values())).all()
    log = fifteen.work(learner, "mdp/tabular-v0", steps=50, learn="context")
    assert len(log.returns) > 2


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"families": ["no/such"]}, JobError, "no family 'no/such'"),
        (
            {"families": ["bandit"], "config": SchoolConfig(lifetimes=3)},
            RunError,
            "too few for 4 families with 13 shares",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, error, match):
    with pytest.raises(error, match=match):
        fifteen.school(fifteen.new("debug"), steps=1000, **settings)


def test_a_family_that_gives_nan_is_named_and_the_last_save_is_sound(tmp_path, monkeypatch):
    sound = bandits.Bernoulli.step
    steps, families = 8 * 16 * 16, ["bandit/gaussian", "bandit/bernoulli"]
    fifteen.school(
        fifteen.new("debug"), families, steps, config=SMALL, run=tmp_path, callback=lambda p: p.steps >= steps // 2
    )
    saved = checkpoint.read(tmp_path / "school")[0]

    def spoilt(self, state, action, key):
        state, observation, reward, terminated = sound(self, state, action, key)
        return state, observation, jnp.where(action == 1, jnp.nan, reward), terminated

    monkeypatch.setattr(bandits.Bernoulli, "step", spoilt)
    learner = fifteen.new("debug")
    before = weights(learner)
    with pytest.raises(RunError, match=r"steps bandit/bernoulli \(\d+ lifetimes\) gave .* not finite"):
        fifteen.school(learner, families, steps, config=SMALL, run=tmp_path)
    assert (weights(learner) == before).all()
    now = checkpoint.read(tmp_path / "school")[0]
    assert all(np.array_equal(now[name], saved[name], equal_nan=True) for name in saved)


def test_a_folder_in_use_is_refused(tmp_path):
    with checkpoint.FolderLock(tmp_path), pytest.raises(RunError, match="in use"):
        fifteen.school(fifteen.new("debug"), ["bandit/bernoulli"], 1000, config=SMALL, run=tmp_path)


def test_too_little_memory_names_the_setting(monkeypatch):
    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(schooling, "teach_round", exhausted)
    with pytest.raises(RunError, match="16 lifetimes of 16 ticks: lower `lifetimes`"):
        fifteen.school(fifteen.new("debug"), ["bandit/bernoulli"], 1000, config=SMALL)


def test_two_devices_learn_what_one_does():
    """Up to the order of sums: lifetimes are divided, weights are not."""
    program = (
        "import jax, fifteen, numpy as np\n"
        "from fifteen.config import SchoolConfig\n"
        "learner = fifteen.new('debug')\n"
        "p = fifteen.school(learner, ['bandit/bernoulli'], 2 * 16 * 16,"
        " config=SchoolConfig(lifetimes=16, rollout=16, minibatches=2))\n"
        "print(jax.device_count(), repr(float(np.asarray(learner.state.weights).sum())), p.metrics['entropy'])\n"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=flags, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, total, entropy = done.stdout.split()
    assert count == "2"
    learner = fifteen.new("debug")
    progress = fifteen.school(learner, ["bandit/bernoulli"], 2 * 16 * 16, config=SMALL)
    assert jax.device_count() == 1
    np.testing.assert_allclose(float(total), weights(learner).sum(), rtol=1e-3)
    np.testing.assert_allclose(float(entropy), progress.metrics["entropy"], rtol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_bandits_are_learned_from_nothing(seed):
    """0 is chance, 1 the best arm known from the start, about 0.75 Thompson sampling; bench/bandits_from_nothing.py."""
    learner = fifteen.new("small", seed=seed)
    progress = fifteen.school(learner, ["bandit/bernoulli"], 400_000, seed=seed, config=SchoolConfig(lifetimes=128))
    assert progress.steps < 402_000
    first, *_, last = progress.scores["bandit/bernoulli"]
    assert last > 0.3
    assert last > first  # a lifetime's memory is worth something
    assert learner.work_config == learner.work_config.schooled()
