"""Days: a night after every round, jobs that come back, and the same learner whether it was interrupted or not."""

import json
import os
import signal

import numpy as np
import pytest
from test_fleet import Here

import fifteen
from fifteen import days as days_module
from fifteen import fleet, fleet_transports
from fifteen.cli import main
from fifteen.config import SleepConfig
from fifteen.days import live
from fifteen.errors import FifteenError, NoRoomError, RunError
from fifteen.fleet import Assignment, Event, FleetConfig
from fifteen.nights import Night
from fifteen.sleeping import SleepProgress
from fifteen.store import Store

POLICY, ACTION = "probe/policy-v0", "probe/action-v0"
ONE_AT_A_TIME = FleetConfig(workers=1)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Instances in this process: see test_fleet.py for real ones."""
    monkeypatch.setattr(fleet, "Processes", Here)


def quick_night(runs, store, *, parent, seed, config, run, stopped, attempts, callback):
    """In place of a night, which takes long to compile: depends on all that a night depends on, and goes on."""
    taken, left_out, change = {}, [], 0.0
    for run in runs:
        try:
            taken[str(run)] = store.add_run(run).job
        except FifteenError as error:
            left_out.append((str(run), str(error)))
            continue
        change = change + fifteen.load(run).state.weights - parent.state.weights
    at = run / "step"
    for step in range(int(at.read_text()) + 1 if at.is_file() else 1, 4):
        callback(SleepProgress(step, 3, {}))
        run.mkdir(exist_ok=True)
        at.write_text(str(step))
        if stopped.is_set() and step < 3:
            return Night(parent, (), (), (), (), (), (), interrupted=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    for job in store.jobs():
        rows, _ = store.sample(generator, job.id, 2, 128)
        change = change * (1.0 + 0.1 * float(rows["frame"].mean()))
    weights = parent.state.weights + change / max(1, len(taken))
    older = tuple(job.id for job in store.jobs() if job.id not in taken.values())
    told = {"jobs": [*taken.values()], "older": [*older], "instances": len(taken), "steps": 3, "steps_done": 3}
    provenance = {"slept": [told | {"seconds": 0.1, "device": "", "commit": "", "seed": seed}]}
    state = parent.state._replace(weights=weights)
    learner = fifteen.Learner(parent.config, state, parent.statistics, provenance=provenance)
    return Night(learner, tuple(taken), tuple(left_out), tuple(taken.values()), older, (), ())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(days_module, "night", quick_night)


def born(seed=0):
    return fifteen.new("debug", seed=seed)


def weights(learner):
    return np.array(learner.state.weights)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_was_learned_on_a_day_stays_after_the_next(tmp_path, monkeypatch):
    parent = born()
    before = weights(parent)
    days = [[Assignment(POLICY, 1_000)], [Assignment(ACTION, 1_000, seed=1), Assignment("no/such-v0", 9)]]
    told = []

    def tell(*event):
        told.append(event)
        if isinstance(event[1], SleepProgress) and event[1].step == 40 and event[0] == 1:
            terminate()

    life = live(parent, days, tmp_path, sleep=SleepConfig(steps=100), callback=tell)
    assert life.interrupted and life.days == () and (tmp_path / "day-001" / "night" / "lessons").is_dir()
    number = len(told)
    life = live(parent, days, tmp_path, sleep=SleepConfig(steps=100), callback=tell)
    assert told[number][1].step == 41 and not life.interrupted  # the night went on
    assert life.learner.provenance["slept"][0]["steps_done"] == 100
    assert (weights(parent) == before).all()
    assert [day.jobs for day in life.days] == [(POLICY,), (ACTION,)]
    assert [day.older for day in life.days] == [(), (POLICY,)]
    assert [day.took_part for day in life.days] == [("1-probe-policy-v0",), ("1-probe-action-v0",)]
    ((name, why),) = life.days[1].left_out
    assert name == "2-no-such-v0" and why.startswith("failed: JobError: there is no job")
    for job in (POLICY, ACTION):
        assert fifteen.evaluate(life.learner, job, episodes=40).mean > 0.9
    assert {day for day, _ in told} == {1, 2}
    # The folder is the learner, and a third day goes on from there; the first job comes back.
    assert (weights(fifteen.load(tmp_path)) == weights(life.learner)).all()
    third = [*days, [Assignment(POLICY, 200, seed=2)]]
    monkeypatch.setattr(days_module, "night", quick_night)
    longer = live(parent, third, tmp_path, sleep=SleepConfig(steps=100))
    assert longer.days[:2] == life.days
    assert (longer.days[2].jobs, longer.days[2].older) == ((POLICY,), (ACTION,))
    with pytest.raises(RunError, match="first 3 days were others"):
        live(parent, third[1:], tmp_path, sleep=SleepConfig(steps=100))
    with pytest.raises(RunError, match="holds a life with"):
        live(parent, third, tmp_path, seed=5, sleep=SleepConfig(steps=100))


def test_interrupted_or_not_the_learner_is_the_same(tmp_path, quick, caplog):
    days = [
        [Assignment(POLICY, 300), Assignment(ACTION, 300)],
        [Assignment(ACTION, 200, seed=1), Assignment(POLICY, 200, seed=1)],
    ]
    sleep = SleepConfig(steps=10)
    whole = live(born(), days, tmp_path / "whole", fleet=ONE_AT_A_TIME, sleep=sleep)
    folder = tmp_path / "broken"

    def go_on(when):
        told = []

        def tell(day, event):
            told.append((day, event.what if isinstance(event, Event) else event.step))
            if told[-1] == when:
                terminate()

        return live(born(), days, folder, fleet=ONE_AT_A_TIME, sleep=sleep, callback=tell), told

    life, _ = go_on((1, "finished"))  # within the day
    assert life.interrupted and life.days == () and (weights(life.learner) == weights(born())).all()
    life, told = go_on((1, 2))  # within the night
    assert told == [(1, "begun"), (1, "finished"), (1, 1), (1, 2)]
    assert life.interrupted and life.days == ()
    life, told = go_on((1, 3))  # at its end
    assert told == [(1, 3)] and life.interrupted and len(life.days) == 1
    life, told = go_on((2, "finished"))  # within the second day
    assert told == [(2, "begun"), (2, "finished")] and life.interrupted and len(life.days) == 1
    # Killed after the second night was saved, before the plan said so.
    life, _ = go_on(None)
    plan = json.loads((folder / "life.json").read_text())
    plan["nights"].pop()
    plan["settings"]["sleep"]["dreams"] = 3  # of a version that had it
    for later in ("schoolwork", "orthogonal_rate", "practices"):
        del plan["settings"]["sleep"][later]  # and had not these
    (folder / "life.json").write_text(json.dumps(plan))
    life, told = go_on(None)
    assert not life.interrupted and life.days == whole.days
    assert "dreams = 3" in caplog.text and "SleepConfig" in caplog.text
    assert [event for event in told if isinstance(event[1], str)] == []
    assert (weights(life.learner) == weights(whole.learner)).all()
    assert not (weights(life.learner) == weights(born())).all()


def test_of_two_instances_of_one_job_one_may_have_gained_nothing(tmp_path, monkeypatch):
    """The other one teaches; and a life whose night was interrupted comes to the same as one that was not."""
    days = [[Assignment(POLICY, 1_000), Assignment(POLICY, 300, seed=1, learn="context")]]
    settings = {"fleet": ONE_AT_A_TIME, "sleep": SleepConfig(steps=6), "episodes": 10}

    def stop(day, event):
        if isinstance(event, SleepProgress) and event.step == 3:
            terminate()

    whole = live(born(), days, tmp_path / "whole", **settings)
    assert whole.days[0].took_part == ("1-probe-policy-v0", "2-probe-policy-v0") and whole.days[0].no_night == ""
    assert not (weights(whole.learner) == weights(born())).all()
    assert live(born(), days, tmp_path / "life", **settings, callback=stop).interrupted
    again = live(born(), days, tmp_path / "life", **settings)
    assert again.days == whole.days and (weights(again.learner) == weights(whole.learner)).all()


def test_a_store_without_room_is_no_fault_of_the_runs_and_the_day_is_kept(tmp_path):
    days = [[Assignment(POLICY, 200), Assignment(ACTION, 200)]]
    settings = {"sleep": SleepConfig(steps=1)}
    with Store(tmp_path / "store", budget=50_000):
        pass
    with pytest.raises(NoRoomError, match="larger budget"):
        live(born(), days, tmp_path, **settings)
    with Store(tmp_path / "store", budget=10_000_000):
        pass
    (day,) = live(born(), days, tmp_path, **settings).days
    assert len(day.took_part) == 2
    assert json.loads((tmp_path / "day-001" / "night.json").read_text())["left_out"] == []


def test_a_day_that_nobody_finished_has_no_night(tmp_path):
    life = live(born(), [[Assignment("no/such-v0", 9)]], tmp_path)
    assert life.days[0].no_night == "no instance finished" and life.days[0].took_part == ()
    assert (weights(life.learner) == weights(born())).all()


def test_a_day_that_leaves_nothing_to_sleep_on_has_no_night(tmp_path):
    life = live(born(), [[Assignment(POLICY, 16)]], tmp_path)
    assert "nothing was lived" in life.days[0].no_night
    assert (weights(life.learner) == weights(born())).all()


def test_an_instance_whose_experience_is_broken_is_left_out_of_the_night(tmp_path, monkeypatch, quick):
    def spoil(told):
        instance(told)
        if told["run"].endswith("1-probe-policy-v0"):
            run = fleet.Path(told["run"])
            (segment,) = (run / "experience").glob("segment-*.safetensors")
            segment.write_bytes(segment.read_bytes()[:-9])

    instance = fleet_transports.instance
    monkeypatch.setattr(fleet_transports, "instance", spoil)
    days = [[Assignment(POLICY, 200), Assignment(ACTION, 200)]]
    (day,) = live(born(), days, tmp_path, sleep=SleepConfig(steps=2)).days
    assert day.jobs == (ACTION,)
    ((name, why),) = day.left_out
    assert name == "1-probe-policy-v0" and why.startswith("by the night: ")


def test_a_night_that_cannot_be_held_now_is_an_error_and_the_day_is_kept(tmp_path, monkeypatch, quick):
    def refused(*_, **__):
        raise RunError("in use")

    days = [[Assignment(POLICY, 200)]]
    with monkeypatch.context() as patch:
        patch.setattr(days_module, "night", refused)
        with pytest.raises(RunError, match="in use"):
            live(born(), days, tmp_path)
    told = []
    life = live(born(), days, tmp_path, callback=lambda day, event: told.append(event))
    assert life.days[0].jobs == (POLICY,) and not [event for event in told if isinstance(event, Event)]


def test_what_an_instance_lived_that_was_left_out_stays_in_the_store(tmp_path, monkeypatch, quick):
    def fail(told):
        instance(told)
        if told["run"].endswith("1-probe-policy-v0"):
            (fleet.Path(told["watch"]) / "ended.json").write_text('{"failed": "at last"}')

    instance = fleet_transports.instance
    monkeypatch.setattr(fleet_transports, "instance", fail)
    (day,) = live(born(), [[Assignment(POLICY, 200), Assignment(ACTION, 200)]], tmp_path).days
    assert (day.jobs, day.older) == ((ACTION,), (POLICY,))
    assert day.left_out == (("1-probe-policy-v0", "failed: at last"),)


def test_a_life_and_a_run_leave_each_other_alone(tmp_path):
    fifteen.work(born(), POLICY, steps=16, run=tmp_path / "run")
    before = weights(fifteen.load(tmp_path / "run"))
    with pytest.raises(RunError, match="holds a run of `fifteen work`"):
        live(born(3), [[Assignment("no/such-v0", 9)]], tmp_path / "run")
    assert (weights(fifteen.load(tmp_path / "run")) == before).all()
    live(born(), [[Assignment("no/such-v0", 9)]], tmp_path / "life")
    with pytest.raises(RunError, match="holds a life"):
        fifteen.work(born(3), POLICY, steps=16, run=tmp_path / "life")
    assert (weights(fifteen.load(tmp_path / "life")) == weights(born())).all()


def test_a_life_that_was_killed_as_it_began_begins_anew(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    days = [[Assignment("no/such-v0", 9)]]
    with monkeypatch.context() as patch:
        patch.setattr(fifteen.Learner, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            live(born(), days, tmp_path)
    assert (weights(live(born(), days, tmp_path).learner) == weights(born())).all()


def test_the_command(tmp_path, capsys, monkeypatch, quick):
    monkeypatch.setenv("COLUMNS", "300")
    path, folder = tmp_path / "days.toml", tmp_path / "life"
    day = f'[[day]]\n[[day.instance]]\njob = "{POLICY}"\nsteps = 200\n'
    path.write_text(f"[sleep]\nsteps = 2\n{day}{day}")
    order = ["live", str(path), "--size", "debug", "--run", str(folder), "--episodes", "3"]
    assert main(order) == 0
    output = capsys.readouterr().out
    assert "day 2: 1-probe-policy-v0 took part" in output and f"learner: {folder}" in output
    for day in ("day-001", "day-002"):
        assert f"{folder / day / 'night.html'}" in output and (folder / day / "night.html").is_file()
        (row,) = json.loads((folder / day / "night.json").read_text())["jobs"]
        assert row["job"] == POLICY and all(row[who]["attempts"] == 3 for who in ("before", "day", "night"))
    plan = json.loads((folder / "life.json").read_text())
    assert [one["seed"] for day in plan["days"] for one in day] == [0, 1]
    assert plan["settings"]["sleep"]["steps"] == 2
    assert main(order) == 0
    path.write_text("[[day]]\n")
    assert main(order) == 2
    assert "no instance where one is expected" in capsys.readouterr().err
    assert main(["live", str(tmp_path / "nowhere.toml"), "--size", "debug"]) == 2
    assert "cannot read" in capsys.readouterr().err
