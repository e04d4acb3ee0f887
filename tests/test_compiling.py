"""Compiled functions on the disk: found again by the next process, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fifteen.compiling import cache_compilations

ROOT = Path(__file__).parents[1]
DECIDE = """
import gymnasium, jax, numpy as np
import fifteen
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assert jax.config.values["jax_compilation_cache_dir"] is None  # importing changes nothing
print(fifteen.cache_compilations())
learner = fifteen.new(size="debug", seed=0)
learner.start(gymnasium.spaces.Box(-1.0, 1.0, (3,)), gymnasium.spaces.Discrete(4), seed=0)
actions = []
for step in range(20):
    actions.append(int(learner.act(np.full(3, step / 20, np.float32))))
    learner.observe(np.zeros(3, np.float32), 1.0, False, False)
print(hits.count("/jax/compilation_cache/cache_hits"))
print(actions, learner.expected)
"""


@pytest.fixture
def settings():
    """JAX's settings are put back: other tests share a cache of their own."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)  # a command that another test called may have told it
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def decide(cache):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    result = subprocess.run(
        [sys.executable, "-c", DECIDE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_the_next_process_finds_what_was_compiled(tmp_path):
    folder, hits, decisions = decide(tmp_path)
    assert Path(folder).parent == tmp_path / "fifteen" / "jax"
    written = sorted(Path(folder).iterdir())
    assert hits == "0" and written
    assert decide(tmp_path) == [folder, str(len(written)), decisions]
    assert sorted(Path(folder).iterdir()) == written


def test_a_folder_that_cannot_be_made_changes_nothing(tmp_path, settings, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = dict(jax.config.values)
    (tmp_path / "file").write_text("in the way")
    assert cache_compilations(tmp_path / "file") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache_compilations() is None
    assert dict(jax.config.values) == before


def test_what_jax_was_told_stands(tmp_path, settings):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert cache_compilations() == tmp_path / "mine"
    assert cache_compilations(tmp_path / "other") == Path(jax.config.values["jax_compilation_cache_dir"])
    assert (tmp_path / "other") in Path(jax.config.values["jax_compilation_cache_dir"]).parents
