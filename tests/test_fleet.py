"""A fleet: who took part, was restarted, hung, was late or failed is told, and whatever is killed, it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import fifteen
from fifteen import fleet, fleet_transports
from fifteen.cli import main
from fifteen.errors import CheckpointError, RunError
from fifteen.fleet import Assignment, FleetConfig, deploy, go_on

ROOT = Path(__file__).parents[1]
PROBE = "probe/policy-v0"


class Fragile(gym.Env):
    """At its step `at` it kills its own process, once: `mark` is the file that says so. Without a mark it hangs."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, at, mark=None):
        self._at, self._mark, self._steps = at, mark, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        if self._steps == self._at:
            if self._mark is None:
                time.sleep(10_000)
            elif not Path(self._mark).exists():
                Path(self._mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(1, np.float32), float(action), self._steps % 10 == 0, False, {}


def fragile(**kwargs):
    return Assignment("test_fleet:Fragile", 120, kwargs=kwargs)


class Clock:
    """The fleet's clock, which can be put forward."""

    def __init__(self):
        self.forward = 0.0

    def monotonic(self):
        return time.monotonic() + self.forward

    def sleep(self, seconds):
        time.sleep(seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fleet, "time", clock)
    return clock


def born(seed=0):
    return fifteen.new("debug", seed=seed)


def weights(folder):
    return np.asarray(fifteen.load(folder).state.weights)


def said(told):
    return [(event.instance, event.what) for event in told]


def test_a_round_says_exactly_who_took_part(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(fleet, "GRACE_S", 0.1)
    assignments = [
        Assignment(PROBE, 160),
        fragile(at=60, mark=str(tmp_path / "killed")),
        Assignment("nonsense/nowhere-v0", 100),
        fragile(at=20),
    ]
    told = []

    def tell(event):
        told.append(event)
        ended = [one for one in told if one.what in ("finished", "failed")]
        clock.forward = 10_000.0 * (len(ended) == 3)

    config = FleetConfig(workers=4, deadline_s=5_000.0, patience_s=50_000.0)
    worked = deploy(born(), assignments, tmp_path / "fleet", config=config, callback=tell)
    names = "1-probe-policy-v0", "2-test-fleet-Fragile", "3-nonsense-nowhere-v0", "4-test-fleet-Fragile"
    assert [one.instance for one in worked.records] == list(names)
    assert [one.ended for one in worked.records] == ["finished", "finished", "failed", "late"]
    assert [one.restarts for one in worked.records] == [0, 1, 0, 0]
    assert worked.took_part == (tmp_path / "fleet" / names[0], tmp_path / "fleet" / names[1])
    assert [one.instance for one in worked.left_out] == list(names[2:]) and not worked.interrupted
    assert "there is no job 'nonsense/nowhere-v0'" in worked.left_out[0].reason
    assert "5000 s of the round" in worked.left_out[1].reason
    assert worked.records[0].steps == 160 and worked.records[1].steps == 120
    assert (names[1], "restarted") in said(told) and next(e.why for e in told if e.what == "restarted").endswith(
        "SIGKILL"
    )
    # What took part learned from one parent.
    anchors = [np.asarray(fifteen.load(run).state.anchor) for run in worked.took_part]
    assert all((anchor == weights(tmp_path / "fleet" / "parent")).all() for anchor in anchors)
    # A round that has ended is told again, and nobody works.
    assert deploy(born(), assignments, tmp_path / "fleet", config=config, callback=pytest.fail) == worked
    with pytest.raises(RunError, match="other assignments"):
        deploy(born(), assignments[:1], tmp_path / "fleet")
    with pytest.raises(RunError, match="another parent"):
        deploy(born(1), assignments, tmp_path / "fleet")


def test_an_instance_without_a_beat_hangs(tmp_path, clock):
    def tell(event):
        told.append(event)
        clock.forward += 10_000.0

    told = []
    config = FleetConfig(patience_s=5_000.0, restarts=1)
    (record,) = deploy(born(), [fragile(at=20)], tmp_path, config=config, callback=tell).records
    assert (record.ended, record.restarts) == ("hung", 1) and "no beat for 5000 s" in record.reason
    assert said(told) == [(record.instance, what) for what in ("begun", "restarted", "hung")]


def test_a_fleet_goes_on_after_its_process_was_killed(tmp_path):
    """And comes to the same as one that was not."""
    code = (
        "import fifteen, sys; from fifteen.fleet import Assignment, deploy\n"
        f"deploy(fifteen.new('debug', seed=0), [Assignment({PROBE!r}, 500)], sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "killed"], env=environment)
    run = tmp_path / "killed" / "1-probe-policy-v0"
    beat = tmp_path / "killed" / "watch" / run.name / "beat"
    while not beat.is_file():
        assert process.poll() is None
        time.sleep(0.05)
    instance = int((run / ".lock").read_text().split()[1])
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{instance}").exists() and "Z" not in Path(f"/proc/{instance}/stat").read_text().split()[2]:
        assert time.monotonic() < until, "an instance outlives its fleet"
        time.sleep(0.05)
    assert json.loads((tmp_path / "killed" / "fleet.json").read_text())["instances"][0]["ended"] is None
    first = go_on(tmp_path / "killed")
    assert [(one.ended, one.steps) for one in first.records] == [("finished", 500)]
    second = deploy(born(), [Assignment(PROBE, 500)], tmp_path / "whole")
    assert (weights(run) == weights(*second.took_part)).all()
    assert not (weights(run) == weights(tmp_path / "killed" / "parent")).all()


class Here:
    """A transport that does everything at once in this process."""

    queues = False

    def __init__(self, workers):
        self.slots = workers or 1

    def begin(self, told, slot):
        fleet_transports.instance({**told, "core": None, "jax": {}, "path": []})

    def gone(self, handle):
        return "its task returned"

    def stop(self, handle): ...
    def kill(self, handle): ...
    def close(self): ...


class Lingering(Here):
    """Its processes have said how they ended, and do not end."""

    def gone(self, handle):
        return None


class Queue(Here):
    """Nobody's turn comes."""

    queues = True

    def begin(self, told, slot): ...

    def gone(self, handle):
        return None


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(fleet, "Processes", Here)


def test_who_has_finished_and_lingers_has_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "Processes", Lingering)
    (record,) = deploy(born(), [Assignment(PROBE, 16)], tmp_path, config=FleetConfig(patience_s=0.2)).records
    assert (record.ended, record.restarts, record.steps) == ("finished", 0, 16)


def test_who_waits_for_a_turn_does_not_hang(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(fleet, "Processes", Queue)
    monkeypatch.setattr(fleet, "GRACE_S", 0.0)

    def tell(event):
        clock.forward += 10_000.0

    config = FleetConfig(patience_s=1.0, deadline_s=5_000.0)
    (record,) = deploy(born(), [Assignment(PROBE, 16)], tmp_path, config=config, callback=tell).records
    assert (record.ended, record.restarts) == ("late", 0)


def test_a_disk_that_is_full_for_a_while_ends_nobodys_work(tmp_path, here, monkeypatch):
    """Nor does it keep from being told what can be told."""
    write, full = fleet.atomic_write, []

    def fill(path, data):
        full.append(path.name)
        if len(full) < 4:
            raise CheckpointError("no room")
        write(path, data)

    monkeypatch.setattr(fleet, "atomic_write", fill)
    assignments = [Assignment(PROBE, 16), Assignment("no/such-v0", 9), Assignment(PROBE, 16, seed=1)]
    (tmp_path / "watch" / "2-no-such-v0" / "log.txt").mkdir(parents=True)  # cannot be written
    (tmp_path / "watch" / "3-probe-policy-v0").write_text("no folder can be made here")
    worked = deploy(born(), assignments, tmp_path)
    assert [one.ended for one in worked.records] == ["finished", "failed", "failed"] and len(full) > 4
    assert "there is no job" in worked.left_out[0].reason and "FileExistsError" in worked.left_out[1].reason
    assert [one["ended"] for one in json.loads((tmp_path / "fleet.json").read_text())["instances"]] == [
        one.ended for one in worked.records
    ]


def test_an_interrupted_round_goes_on(tmp_path, here):
    assignments = [Assignment(PROBE, 160, seed=seed) for seed in range(2)]

    def interrupt(event):
        if event.what == "finished":
            os.kill(os.getpid(), signal.SIGTERM)

    worked = deploy(born(), assignments, tmp_path, callback=interrupt)
    assert worked.interrupted and len(worked.records) == 1
    told = []
    worked = go_on(tmp_path, callback=told.append)
    assert said(told) == [("2-probe-policy-v0", "begun"), ("2-probe-policy-v0", "finished")]
    assert not worked.interrupted and len(worked.took_part) == 2


def test_an_instance_begins_at_the_weights_that_its_parent_has_now(tmp_path, here):
    parent = born()
    fifteen.work(parent, PROBE, steps=400)
    before = np.array(parent.state.weights)
    assert not (before == np.asarray(parent.state.anchor)).all()
    (run,) = deploy(parent, [Assignment(PROBE, 16)], tmp_path).took_part
    assert (np.asarray(fifteen.load(run).state.anchor) == before).all()
    assert (np.asarray(parent.state.weights) == before).all()


def test_the_command(tmp_path, here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    path, folder = tmp_path / "fleet.toml", tmp_path / "fleet"
    path.write_text(f'[fleet]\nrestarts = 0\n[[instance]]\njob = "{PROBE}"\n[[instance]]\njob = "x/y-v0"\nsteps = 9\n')
    order = ["work", "--steps", "160", "--size", "debug", "--fleet", str(path), "--run", str(folder)]
    assert main(order) == 0
    output = capsys.readouterr().out
    assert "1 took part, 1 left out" in output and "2-x-y-v0: failed: JobError: there is no job" in output
    plan = json.loads((folder / "fleet.json").read_text())
    assert [(one["steps"], one["seed"]) for one in plan["assignments"]] == [(160, 0), (9, 1)]
    assert plan["config"]["restarts"] == 0
    plan["instances"][1]["reason"] = "JobError: no data in any of [/data/a], pip install 'fifteen[ray]'"
    (folder / "fleet.json").write_text(json.dumps(plan))
    assert main(["work", "--resume", str(folder)]) == 0
    output = capsys.readouterr().out  # what others say is no markup
    assert "no data in any of [/data/a], pip install 'fifteen[ray]'" in output
    assert "1 took part" in output and (folder / "index.html").is_file()
    several = ["work", PROBE, "--instances", "2", "--steps", "16", "--size", "debug", "--run", str(tmp_path / "two")]
    assert main(several) == 0
    assert "2 took part, 0 left out" in capsys.readouterr().out
    assert main([*several, "--fleet", str(path)]) == 2
    path.write_text('[[instance]]\njob = "a"\nsteps = 9\nwheels = 4\n')
    assert main(order) == 2
    assert "an instance holds wheels, expected job, steps" in capsys.readouterr().err


def test_a_night_of_a_fleets_folder_is_one_of_those_that_finished(tmp_path, here, capsys):
    folder, out = tmp_path / "fleet", tmp_path / "slept"
    day = [Assignment(PROBE, 300), Assignment("x/y-v0", 9)]
    with pytest.raises(RunError, match="holds no fleet"):
        fleet.ended(tmp_path)
    deploy(born(), day, folder)
    order = ["sleep", str(folder), "--store", str(tmp_path / "store"), "--episodes", "0", "--steps", "2"]
    assert main([*order, "--out", str(out)]) == 0
    assert "left out" in capsys.readouterr().out
    told = json.loads((out / "night.json").read_text())
    assert told["took_part"] == [str(folder / "1-probe-policy-v0")]
    ((name, why),) = told["left_out"]
    assert name == str(folder / "2-x-y-v0") and why.startswith("failed: JobError")
    plan = json.loads((folder / "fleet.json").read_text())
    plan["instances"][0]["ended"] = "late"
    (folder / "fleet.json").write_text(json.dumps(plan))
    assert main([*order, "--out", str(tmp_path / "nobody")]) == 2
    assert "no instance finished its day" in capsys.readouterr().err
    plan["instances"][0]["ended"] = None
    (folder / "fleet.json").write_text(json.dumps(plan))
    assert main([*order, "--out", str(tmp_path / "open")]) == 2
    assert "1-probe-policy-v0 are still to work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Assignment("", 10), "an id or 'module:factory'"),
        (lambda: Assignment(PROBE, 0), "steps of the assignment .* >= 1, got 0"),
        (lambda: Assignment(PROBE, 10, seed=-1), "seed of the assignment"),
        (lambda: Assignment(PROBE, 10, learn="never"), "'never'"),
        (lambda: Assignment(PROBE, 10, kwargs={"f": len}), "not JSON"),
        (lambda: FleetConfig(transport="pigeon"), "'pigeon'"),
        (lambda: FleetConfig(address="here"), "add transport='ray'"),
        (lambda: FleetConfig(patience_s=0), "patience_s"),
        (lambda: FleetConfig(workers=1.5), "workers .* got 1.5"),
    ],
)
def test_wrong_arguments_are_named(wrong, says):
    with pytest.raises(RunError, match=says):
        wrong()


def test_what_cannot_begin_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="at least one assignment"):
        deploy(born(), [], tmp_path)
    with pytest.raises(RunError, match="another seed"):
        deploy(born(), [Assignment(PROBE, 10)] * 2, tmp_path)
    with pytest.raises(RunError, match="holds no fleet.json that can be read"):
        go_on(tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'fifteen\[ray\]'"):
        deploy(born(), [Assignment(PROBE, 10)], tmp_path / "f", config=FleetConfig(transport="ray"))
    (tmp_path / "config.json").touch()
    with pytest.raises(RunError, match="another folder"):
        deploy(born(), [Assignment(PROBE, 10)], tmp_path)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(fleet, "GRACE_S", 2.0)
    assignments = [Assignment(PROBE, 160, seed=seed) for seed in range(2)]
    assignments += [fragile(at=60, mark=str(tmp_path / "killed")), Assignment("nonsense/nowhere-v0", 100)]
    assignments += [Assignment(PROBE, 10**9, seed=2)]
    told = []

    def tell(event):
        told.append(event)
        clock.forward = 10_000.0 * (len([one for one in told if one.what in ("finished", "failed")]) == 4)

    config = FleetConfig(transport="ray", address="local", workers=2, deadline_s=5_000.0, patience_s=50_000.0)
    worked = deploy(born(), assignments, tmp_path / "fleet", config=config, callback=tell)
    assert [one.ended for one in worked.records] == ["finished"] * 3 + ["failed", "late"]
    assert [one.restarts for one in worked.records] == [0, 0, 1, 0, 0]
    assert not (weights(worked.took_part[0]) == weights(worked.took_part[1])).all()
