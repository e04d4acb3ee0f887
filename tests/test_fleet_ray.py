"""Ray under fire, in short: instances killed at random, and every round ends with nothing lost that was saved."""

import sys
from pathlib import Path

import numpy as np
import pytest
from small import Drift
from test_days import quick_night

import fifteen
from fifteen import days, working
from fifteen.fleet import Assignment

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import ray_faults  # noqa: E402


def hurried():
    """A job whose process saves what it learned at every moment."""
    working.SAVE_EVERY_S = 0.3
    return Drift()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_killed_instances_lose_nothing_that_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(days, "night", quick_night)  # the real one takes long to compile
    monkeypatch.setattr(working, "SAVE_EVERY_S", working.SAVE_EVERY_S)  # put back at the end: `hurried` sets it
    parent, folder, killed = fifteen.new("debug", seed=0), tmp_path / "life", set()

    def choose(at_work):
        """Each once, as soon as it has something to lose."""
        for run in at_work:
            saved = ray_faults.manifest(run)
            if run not in killed and saved and saved["run"]["recorder"]["step"] > 200:
                killed.add(run)
                return run
        return None

    day = [Assignment("test_fleet_ray:hurried", 1_200, seed=seed) for seed in range(2)]
    record = ray_faults.measure(parent, lambda n: day, folder, choose, seconds=0.0, every=0.1, until=np.inf)
    assert record["reached"], record
    assert record["ended"] == {"finished": 2} and record["restarts"] == 2
    assert all(kill["went_on_at"] >= kill["saved"] > 200 and kill["segments"] for kill in record["kills"])
    # To the last bit what an instance comes to that nobody killed.
    run = folder / record["kills"][0]["run"]
    whole = fifteen.load(run.parent / "parent")
    fifteen.work(whole, "test_fleet_ray:hurried", steps=1_200, seed=int(run.name[0]) - 1)
    assert (np.asarray(fifteen.load(run).state.weights) == np.asarray(whole.state.weights)).all()


def test_what_was_saved_and_is_gone_is_named(tmp_path):
    run = tmp_path / "day-001" / "1-small-Drift"
    fifteen.work(fifteen.new("debug"), "small:Drift", steps=300, run=run)
    (segment,) = ray_faults.manifest(run)["experience"]["segments"]
    kill = ray_faults.Kill(1.0, "day-001/1-small-Drift", 200, 208, [segment])
    assert ray_faults.lost(tmp_path, kill) == []
    assert "went on at 8" in ray_faults.lost(tmp_path, ray_faults.Kill(1.0, kill.run, 200, 8))[0]
    other = {**segment, "file": "segment-0-0.safetensors"}
    assert "has forgotten" in ray_faults.lost(tmp_path, ray_faults.Kill(1.0, kill.run, 200, 208, [other]))[0]
    path = run / "experience" / segment["file"]
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in ray_faults.lost(tmp_path, kill)[0]
    assert ray_faults.process_at(run) is None
