"""A night over folders: who takes part is said, what is broken stays out, and earlier days are rehearsed."""

import errno
import os
import shutil

import numpy as np
import pytest

import fifteen
from fifteen.cli import main
from fifteen.config import SleepConfig
from fifteen.errors import CheckpointError, RunError
from fifteen.nights import night
from fifteen.store import Store

JOBS = ("probe/policy-v0", "probe/action-v0")
NIGHT = SleepConfig(steps=100)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = []
    for job in JOBS:
        found.append(tmp_path_factory.mktemp("day") / "run")
        fifteen.work(fifteen.new("debug", seed=0), job, steps=1_000, seed=1, run=found[-1])
    return found


def test_one_day_after_another(runs, tmp_path):
    with Store(tmp_path / "store") as store:
        first = night(runs[:1], store, config=NIGHT)
        assert (first.took_part, first.left_out, first.older) == ((str(runs[0]),), (), ())
        child = first.learner
        fifteen.work(child, JOBS[1], steps=1_000, seed=2, run=tmp_path / "second")
        second = night([tmp_path / "second"], store, config=NIGHT)
    assert (second.jobs, second.older) == ((JOBS[1],), (JOBS[0],))
    for job in JOBS:
        assert fifteen.evaluate(second.learner, job, episodes=40).mean > 0.9
    assert [one["jobs"] for one in second.learner.provenance["slept"]] == [[JOBS[0]], [JOBS[1], JOBS[0]]]


def test_a_broken_run_and_a_stranger_are_left_out_by_name(runs, tmp_path):
    broken, stranger = tmp_path / "broken", tmp_path / "stranger"
    shutil.copytree(runs[1], broken)
    (segment,) = (broken / "experience").glob("segment-*.safetensors")
    segment.write_bytes(segment.read_bytes()[:-100])
    fifteen.work(fifteen.new("debug", seed=9), JOBS[1], steps=200, seed=1, run=stranger)
    with Store(tmp_path / "store") as store:
        told = night([runs[0], broken, stranger, tmp_path / "nowhere"], store, config=SleepConfig(steps=5))
        assert told.took_part == (str(runs[0]),)
        reasons = dict(told.left_out)
        assert reasons.keys() == {str(broken), str(stranger), str(tmp_path / "nowhere")}
        assert "another parent" in reasons[str(stranger)] and segment.name in reasons[str(broken)]
        with pytest.raises(RunError, match=r"nothing to sleep on: .*broken"):
            night([broken], store)
        with pytest.raises(RunError, match="no run was given"):
            night([], store)


def test_a_full_disk_ends_the_night_and_is_no_fault_of_the_run(runs, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Store(tmp_path / "store") as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CheckpointError, match="No space left on device"):
                night(runs, store, config=SleepConfig(steps=5))
        assert store.jobs() == []
        assert night(runs[:1], store, config=SleepConfig(steps=5)).took_part == (str(runs[0]),)


def test_the_command_compares_day_and_night(runs, tmp_path, capsys):
    out = tmp_path / "slept"
    arguments = ["sleep", *map(str, runs), "--store", str(tmp_path / "store"), "--out", str(out), "--steps", "100"]
    assert main([*arguments, "--episodes", "10"]) == 0
    told = capsys.readouterr().out
    assert all(job in told for job in JOBS) and "after the night" in told
    assert np.isfinite(fifteen.evaluate(fifteen.load(out), JOBS[0], episodes=5).mean)
    assert main(["sleep"]) == 2 and "no run given" in capsys.readouterr().err
