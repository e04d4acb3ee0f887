"""A night over folders: who takes part is said, what is broken stays out, and earlier days are rehearsed."""

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

import fifteen
from fifteen import checkpoint, judging, night_command, nights, remembering, trying
from fifteen.cli import main
from fifteen.config import SleepConfig
from fifteen.days import live
from fifteen.errors import CheckpointError, FifteenError, JobError, NightError, RunError
from fifteen.evaluating import LIFETIMES, ROWS, Evaluation, practise
from fifteen.experience import latest_memory
from fifteen.gains import fell, gained, mean, share_kept
from fifteen.judging import Attempts, Case, cases, judge
from fifteen.night_report import append_history, name, read_history, shown, write_night_report
from fifteen.nights import night
from fifteen.sleeping import SleepProgress
from fifteen.store import Added, Store
from fifteen.trying import Tried, opening

JOBS = ("probe/policy-v0", "probe/action-v0")
NIGHT = SleepConfig(steps=100)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    found = []
    for job in JOBS:
        found.append(tmp_path_factory.mktemp("day") / "run")
        fifteen.work(fifteen.new("debug", seed=0), job, steps=1_000, seed=1, run=found[-1])
    return found


def steady():
    return fifteen.new("debug", seed=0, work=dataclasses.replace(fifteen.new("debug").work_config, steady=True))


@pytest.fixture
def brief(monkeypatch):
    """First days of a practice are short."""

    def practised(learner, job, **how):
        return practise(learner, job, **how | {"rows": 128})

    monkeypatch.setattr(trying, "practise", practised)


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
    slept = second.learner.provenance["slept"]
    assert [one["jobs"] for one in slept] == [[JOBS[0]], [JOBS[1], JOBS[0]]]
    assert [one["seed"] for one in slept] == [1, 2]  # what is drawn is not the same every night


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


def test_who_lived_too_little_is_left_out_by_name(runs, tmp_path):
    brief = tmp_path / "brief"
    fifteen.work(fifteen.new("debug", seed=0), "probe/value-v0", steps=60, seed=1, run=brief)
    with Store(tmp_path / "store") as store:
        told = night([runs[0], brief], store, config=SleepConfig(steps=1))
        assert told.took_part == (str(runs[0]),)
        ((name, why),) = told.left_out
        assert name == str(brief) and "fewer than 128" in why
        with pytest.raises(NightError, match="nothing was lived of 'probe/value-v0'"):
            night([brief], store)


def test_what_the_store_holds_and_is_broken_is_set_aside_by_name(runs, tmp_path):
    with Store(tmp_path / "store") as store:
        for run in runs:
            store.add_run(run)
        today, other = (store.segments(job)[1] for job in JOBS)
        for segment in (today, other):
            path = tmp_path / "store" / "segments" / segment.file
            path.write_bytes(path.read_bytes()[:-9])
        told = night(runs[:1], store, config=SleepConfig(steps=1))
        assert (told.jobs, told.older, told.took_part) == (JOBS[:1], JOBS[1:], (str(runs[0]),))
        assert {name for name, _ in told.left_out} == {str(tmp_path / "store")}
        assert all(segment.file in why for segment, (_, why) in zip((today, other), told.left_out, strict=True))
        assert (tmp_path / "store" / "unclaimed" / other.file).is_file() and not store.verify()


def test_an_instance_of_whose_job_nothing_can_be_read_is_left_out_by_name(runs, tmp_path):
    with Store(tmp_path / "store") as store:
        for run in runs:
            store.add_run(run)
        for segment in store.segments(JOBS[0]):
            (tmp_path / "store" / "segments" / segment.file).write_bytes(b"")
        told = night(runs, store, config=SleepConfig(steps=1))
        assert (told.jobs, told.took_part) == (JOBS[1:], (str(runs[1]),))
        assert (str(runs[0]), f"nothing that the store holds of {JOBS[0]!r} can be read") in told.left_out
        with pytest.raises(NightError, match=f"{re.escape(str(runs[0]))}: nothing"):
            night(runs[:1], store, config=SleepConfig(steps=1))


def test_a_night_that_goes_on_leaves_out_whom_it_left_out(runs, tmp_path):
    short, folder, moved = SleepConfig(steps=4), tmp_path / "night", tmp_path / "moved"
    with Store(tmp_path / "store") as store:
        for run in runs:
            store.add_run(run)
        for segment in store.segments(JOBS[0]):
            (tmp_path / "store" / "segments" / segment.file).write_bytes(b"")
        began = night(runs, store, config=short, run=folder, callback=lambda told: told.step == 2)
        assert began.interrupted and str(runs[0]) in dict(began.left_out)
        store.add_run(runs[0])  # what was missing is there again: the night is the same all the same
        for number, run in enumerate(runs):  # and so it is where the folders have moved
            shutil.copytree(run, moved / str(number))
        done = night([moved / "0", moved / "1"], store, config=short, run=folder)
        assert (done.jobs, done.took_part, done.interrupted) == (JOBS[1:], (str(moved / "1"),), False)
        assert [why for _, why in done.left_out] == [why for _, why in began.left_out]
        assert str(moved / "0") in dict(done.left_out)
        alone = night(runs[1:], store, config=short, run=folder)  # nor need it be given again
        assert alone.took_part == (str(runs[1]),) and alone.left_out == began.left_out
        (folder / "left_out.json").write_text("{")
        with pytest.raises(CheckpointError, match="left_out.json cannot be read"):
            night(runs, store, config=short, run=folder)


def test_a_job_that_no_longer_exists(tmp_path):
    """Of one that the store knows, what was lived teaches; a run of one that it does not know is left out."""
    gym.register("Passing-v0", entry_point="small:Walk")
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, run in enumerate(runs):
        fifteen.work(fifteen.new("debug", seed=0), "Passing-v0", steps=300, seed=seed, run=run)
    with Store(tmp_path / "known") as known, Store(tmp_path / "new") as new:
        known.add_run(runs[0])
        del gym.registry["Passing-v0"]
        slept = night(runs[1:], known, config=SleepConfig(steps=1))
        (told,) = judge(tmp_path, slept, cases(slept, known), Attempts(tmp_path, 2, 0))
        assert slept.took_part == (str(runs[1]),) and "there is no job 'Passing-v0'" in told.missing
        with pytest.raises(NightError, match=r"'Passing-v0' cannot be opened: there is no job"):
            night(runs, new)


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


def test_a_night_goes_on_with_the_lessons_that_it_began_with(runs, tmp_path):
    short, folder = SleepConfig(steps=6), tmp_path / "night"
    with Store(tmp_path / "whole") as store:
        whole = night(runs, store, config=short)
    with Store(tmp_path / "store") as store:
        half = night(runs, store, config=short, run=folder, callback=lambda progress: progress.step == 2)
        assert half.interrupted and not whole.interrupted
        # Others lived on meanwhile: it is the same night all the same.
        fifteen.work(fifteen.new("debug", seed=0), JOBS[0], steps=300, seed=5, run=tmp_path / "later")
        store.add_run(tmp_path / "later")
        with pytest.raises(CheckpointError, match=r"begun otherwise \(instances differ"):
            night([tmp_path / "later"], store, config=short, run=folder)
        told = []
        done = night(runs, store, config=short, run=folder, callback=lambda progress: told.append(progress.step))
    assert told == [3, 4, 5, 6] and (done.jobs, done.older) == (whole.jobs, whole.older)
    assert (np.array(done.learner.state.weights) == np.array(whole.learner.state.weights)).all()


def test_where_an_instance_is_no_better_the_parent_teaches(runs, tmp_path, monkeypatch):
    parent, tried = fifteen.new("debug", seed=0), []

    def perfect(learner, job, *, attempts, seed, rows, kwargs, step_limit):
        tried.append(job)
        assert (np.array(learner.state.weights) == np.array(parent.state.weights)).all() and attempts == 10
        if job == JOBS[1]:
            raise JobError("a live system")  # it cannot be told, so that its instance teaches
        made = Evaluation(np.ones(10), np.ones(10, np.int64), np.zeros(10, np.int64))
        return dataclasses.replace(practise(learner, job, attempts=1, seed=seed), attempts=made)

    monkeypatch.setattr(trying, "practise", perfect)
    monkeypatch.setattr(trying, "evaluate", refuse)
    with Store(tmp_path / "store") as store:
        told = night(runs, store, config=NIGHT, attempts=10)
    assert tuple(tried) == told.jobs == JOBS and told.untaught == (JOBS[0],) and told.older == ()
    assert fifteen.evaluate(told.learner, JOBS[1], episodes=40).mean > 0.9
    before, after = (fifteen.evaluate(one, JOBS[0], episodes=40).mean for one in (parent, told.learner))
    assert abs(before - after) < 0.3 and after < 0.7
    # A day on which nobody learned anything leaves the parent as it is.
    with Store(tmp_path / "store") as store:
        same = night(runs[:1], store, config=NIGHT, attempts=10)
    assert same.untaught == (JOBS[0],) and same.older == (JOBS[1],) and not same.interrupted
    assert (np.array(same.learner.state.weights) == np.array(parent.state.weights)).all()


def test_a_steady_instance_says_what_it_would_do_where_its_parent_practised(tmp_path, brief):
    run, short, folder = tmp_path / "run", SleepConfig(steps=6), tmp_path / "night"
    fifteen.work(steady(), JOBS[0], steps=1_000, seed=1, run=run)
    with Store(tmp_path / "store") as store:
        alone, whole = (night([run], store, config=short, attempts=n).learner for n in (0, 4))
        assert [one.provenance["slept"][0]["practised"] for one in (alone, whole)] == [[], [JOBS[0]]]
        assert whole.provenance["slept"][0]["jobs"] == [JOBS[0]]
        assert not (np.array(alone.state.weights) == np.array(whole.state.weights)).all()
        # It goes on with the practice that it began with, and with what the sleeper did meanwhile.
        for step in (1, 2, 4, 5):
            night([run], store, config=short, run=folder, attempts=4, callback=lambda told, at=step: told.step == at)
        done = night([run], store, config=short, run=folder, attempts=4).learner
        assert (np.array(done.state.weights) == np.array(whole.state.weights)).all()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nights, "practices", lambda *_: {})
            once = night([run], store, config=short, attempts=4).learner
        assert not (np.array(once.state.weights) == np.array(whole.state.weights)).all()
        slept = night([run], store, config=NIGHT, attempts=4).learner
    assert fifteen.evaluate(slept, JOBS[0], episodes=40).mean > 0.9


def test_older_jobs_are_practised_and_what_was_practised_is_rehearsed_with_them(tmp_path, monkeypatch):
    config, learner, asked = SleepConfig(steps=4), steady(), []

    def noted(learner, job, *, attempts, **how):
        asked.append((job, attempts))
        return practise(learner, job, attempts=attempts, **how | {"rows": 128})

    monkeypatch.setattr(trying, "practise", noted)
    with Store(tmp_path / "store") as store:
        for number, job in enumerate(JOBS):
            run = tmp_path / str(number)
            fifteen.work(learner, job, steps=600, seed=1, run=run)
            learner = night([run], store, config=config, attempts=4).learner
            assert store.kept.practice(job) is not None
        # By the parent, then by the sleeper, who tries the older job, too.
        assert asked == [(JOBS[0], 4), *[(JOBS[0], 0)] * 3, (JOBS[1], 4), *[(JOBS[1], 0), (JOBS[0], 0)] * 3]
        assert [set(one["practised"]) for one in learner.provenance["slept"]] == [{JOBS[0]}, set(JOBS)]
        monkeypatch.setattr(nights, "practices", lambda *_: {})
        kept = night([run], store, config=config, attempts=4).learner
        monkeypatch.setattr(store.kept, "practice", lambda job: None)
        without = night([run], store, config=config, attempts=4).learner
    assert [set(one.provenance["slept"][-1]["practised"]) for one in (kept, without)] == [set(JOBS), {JOBS[1]}]
    assert not (np.array(without.state.weights) == np.array(kept.state.weights)).all()


def test_a_night_of_several_instances_and_an_older_job_goes_on_with_every_practice(tmp_path, monkeypatch, brief):
    config, older, today = SleepConfig(steps=8), tmp_path / "older", [tmp_path / "a", tmp_path / "b"]
    fifteen.work(steady(), JOBS[0], steps=600, seed=1, run=older)
    monkeypatch.setattr(trying, "gained", lambda at_work, parent: True)
    with Store(tmp_path / "store") as store:
        parent = night([older], store, config=config, attempts=4).learner
        parent.save(tmp_path / "parent")
        for seed, place in enumerate(today):  # two on one job
            fifteen.work(fifteen.load(tmp_path / "parent"), JOBS[1], steps=600, seed=seed, run=place)
        shutil.copytree(tmp_path / "store", tmp_path / "twin", ignore=shutil.ignore_patterns(".lock"))
        whole = night(today, store, config=config, attempts=4).learner

    def ends_in_its_practice(*_):
        raise KeyboardInterrupt

    def going_on(**how):
        return night(today, store, config=config, run=tmp_path / "night", attempts=4, **how)

    with Store(tmp_path / "twin") as store:
        assert going_on(callback=lambda told: told.step == 1).interrupted
        with monkeypatch.context() as patch:
            patch.setattr(nights, "practices", ends_in_its_practice)
            assert going_on().interrupted
        assert going_on(callback=lambda told: told.practising).interrupted
        for step in (3, 5, 7):
            assert going_on(callback=lambda told, at=step: told.step == at).interrupted
        assert len(list((tmp_path / "night" / "lessons").iterdir())) == 2 + 1 + 2 + 1 + 3 * 3
        with pytest.raises(CheckpointError, match=r"practising differ"):
            night(today, store, config=config, run=tmp_path / "night")
        done = going_on().learner
    assert (np.array(done.state.weights) == np.array(whole.state.weights)).all()


def test_a_night_of_before_sleepers_practised_goes_on_without(tmp_path, monkeypatch, brief):
    run, folder, config = tmp_path / "run", tmp_path / "night", SleepConfig(steps=8)
    fifteen.work(steady(), JOBS[0], steps=600, seed=1, run=run)
    monkeypatch.setattr(trying, "gained", lambda at_work, parent: True)
    with Store(tmp_path / "store") as store:
        with monkeypatch.context() as patch:
            patch.setattr(nights, "practices", lambda *_: {})
            whole = night([run], store, config=config, attempts=4).learner
        night([run], store, config=config, run=folder, attempts=4, callback=lambda told: told.step == 1)
        arrays, manifest = checkpoint.read(folder)
        del manifest["practices"], manifest["about"]["practising"], manifest["about"]["sleep"]["practices"]
        checkpoint.write(folder, arrays, manifest | {"jobs": [JOBS[0], JOBS[0]]})  # it named practice among its jobs
        done = night([run], store, config=config, run=folder, attempts=4)
    assert done.jobs == (JOBS[0],) and not done.interrupted
    assert (np.array(done.learner.state.weights) == np.array(whole.state.weights)).all()


def test_that_a_learner_practises_is_no_line_of_a_nights_history(tmp_path):
    append_history(tmp_path, SleepProgress(3, 8, {"a": 0.5}))
    append_history(
        tmp_path, SleepProgress(3, 8, {}, practising=True)
    )  # a night that went on there knows no distance yet
    assert read_history(tmp_path) == [{"step": 3, "losses": {"a": 0.5}}]


def test_a_job_is_named_as_short_as_tells_it_from_the_others():
    def of(id, run=None):
        return {"job": id, "run": run}

    jobs = [of('a {"seed": 0}'), of('b {"seed": 0}'), of('b {"seed": 1}'), of('c {"seed": 0}', "day/1-c")]
    assert [name(job, jobs) for job in jobs] == ["a", 'b {"seed": 0}', 'b {"seed": 1}', "c"]
    twice = [of('c {"seed": 0}', "day/1-c"), of('c {"seed": 0}', "day/2-c")]
    assert [name(job, twice) for job in twice] == ['c {"seed": 0} (1-c)', 'c {"seed": 0} (2-c)']


def test_a_job_that_can_be_had_once_only_is_tried_without_practice(runs, tmp_path, monkeypatch):
    asked = []

    def refused(learner, job, **how):
        raise JobError("one licence only")

    def poor(learner, job, *, episodes, seed, kwargs, step_limit):
        asked.append(job)
        return Evaluation(np.zeros(episodes), np.ones(episodes, np.int64), np.zeros(episodes, np.int64))

    monkeypatch.setattr(trying, "practise", refused)
    monkeypatch.setattr(trying, "evaluate", poor)
    with Store(tmp_path / "store") as store:
        told = night([*runs, runs[0]], store, config=SleepConfig(steps=1), attempts=10)
    assert asked == list(JOBS)  # each once
    assert told.untaught == () and told.learner.provenance["slept"][0]["practised"] == []


def test_a_night_that_is_stopped_before_its_practice_is_over_makes_no_learner(runs, tmp_path):
    stopped = threading.Event()
    stopped.set()
    with Store(tmp_path / "store") as store, pytest.raises(KeyboardInterrupt):
        night(runs, store, config=SleepConfig(steps=1), attempts=10, stopped=stopped)


def test_who_taught_a_job_when_it_was_lived_teaches_it_in_later_nights(tmp_path, monkeypatch, brief):
    parent, config, better, taught = steady(), SleepConfig(steps=4), {JOBS[0]}, []
    real = nights.sleep

    def noted(instances, *, older, **how):
        taught.append({lived.job: lived for lived in older})
        return real(instances, older=older, **how)

    monkeypatch.setattr(nights, "sleep", noted)
    monkeypatch.setattr(trying, "gained", lambda at_work, parent: days[-1] in better)
    instances, parents, days = [], [], []
    with Store(tmp_path / "store") as store:
        for number, job in enumerate((*JOBS, JOBS[0])):
            run = tmp_path / str(number)
            days.append(job)
            parents.append(np.array(parent.state.weights))
            parent.save(tmp_path / f"parent-{number}")
            instances.append(fifteen.load(tmp_path / f"parent-{number}"))
            fifteen.work(instances[-1], job, steps=600, seed=number, run=run)
            if number == 2:
                better.clear()  # who comes back and gains nothing does not take the place of who did
            parent = night([run], store, parent=parent, config=config, attempts=4).learner
        last = remembering.last_memory(tmp_path / "0")
    assert [set(older) for older in taught] == [set(), set(JOBS), set(JOBS)]
    for older in taught[1:]:
        first, second = (older[job].teacher for job in JOBS)
        np.testing.assert_array_equal(first.weights, instances[0].state.weights)
        np.testing.assert_array_equal(first.memory, last)
        np.testing.assert_array_equal(older[JOBS[0]].practice.memory, np.repeat(last[None], LIFETIMES, axis=0))
        np.testing.assert_array_equal(second.weights, parents[1])  # nothing was gained: the parent of that day
        assert second.first_day and not second.memory.any() and not first.first_day
    assert not (parents[1] == parents[0]).all()


def test_of_several_that_teach_one_job_the_best_by_day_is_kept(tmp_path, monkeypatch):
    places, parent = [tmp_path / "a", tmp_path / "b"], steady()
    for place in places:
        learner = steady()
        fifteen.work(learner, JOBS[0], steps=300, seed=int(place.name == "b"), run=place)
    lines = (places[1] / "metrics.jsonl").read_text().splitlines()
    attempts = [{**line, "return": 100.0} if line["kind"] == "attempt" else line for line in map(json.loads, lines)]
    (places[1] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in attempts))
    for order in (places, places[::-1]):
        with Store(tmp_path / order[0].name) as store:
            night(order, store, config=SleepConfig(steps=1))
            teacher = store.kept.teacher(JOBS[0], remembering.kin_of(parent))
        assert teacher is not None
        np.testing.assert_array_equal(teacher.weights, fifteen.load(places[1]).state.weights)


def test_who_was_killed_at_work_is_read_as_it_worked(tmp_path, monkeypatch):
    run = tmp_path / "run"
    fifteen.work(fifteen.new("debug", seed=0), JOBS[0], steps=300, seed=1, learn="weights", run=run)

    def killed(place):  # only a run that has ended says what it was
        learner = fifteen.load(place)
        learner.provenance.pop("worked", None)
        return learner

    def asleep(instances, **_):
        raise RunError(str([lived.wipe for one in instances for lived in one.lived.values()]))

    monkeypatch.setattr(nights, "load", killed)
    assert night([run], None).jobs == (JOBS[0],)
    monkeypatch.setattr(nights, "sleep", asleep)
    with Store(tmp_path / "store") as store, pytest.raises(RunError, match=r"\[True\]"):
        night([run], store)


def test_a_job_that_nobody_taught_is_named_though_nothing_of_it_can_be_read(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(nights, "tried", lambda *_: {str(run): Tried(run != runs[0], [], None) for run in runs})
    with Store(tmp_path / "store") as store:
        for run in runs:
            store.add_run(run)
        for segment in store.segments(JOBS[0]):
            (tmp_path / "store" / "segments" / segment.file).write_bytes(b"")
        assert night(runs, store, config=SleepConfig(steps=1), attempts=2).untaught == (JOBS[0],)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: night([], None, seed=-5), "seed must be an integer from 0"),
        (lambda: fifteen.sleep([], seed=-5), "seed must be an integer from 0"),
        (lambda: night([], None, attempts=-1), "attempts must be an integer >= 0, got -1"),
        (lambda: live(fifteen.new("debug"), [], "nowhere", seed=-5), "seed must be an integer from 0"),
        (lambda: live(fifteen.new("debug"), [], "nowhere", episodes=-1), "episodes must be an integer >= 0, got -1"),
        (lambda: SleepConfig(steady_learning_rate=0.0), "steady_learning_rate of a night must be above 0"),
    ],
)
def test_what_is_no_setting_is_refused_before_anything_is_done(wrong, says):
    with pytest.raises(FifteenError, match=says):
        wrong()


def test_the_parents_practice_is_told_and_can_be_stopped(runs, tmp_path):
    told = []

    def stop(progress):
        told.append(progress)
        return len(told) == 2

    with Store(tmp_path / "store") as store, pytest.raises(KeyboardInterrupt):
        night(runs, store, config=SleepConfig(steps=1), attempts=2, callback=stop)
    assert told == [SleepProgress(0, 1, {}, trying=job) for job in JOBS]
    assert night_command.sleep_line(told[0]) == f"before the night the parent tries {JOBS[0]}"


def test_practice_is_read_with_the_memory_of_the_run_itself(tmp_path):
    work = dataclasses.replace(fifteen.new("debug").work_config, steady=True)
    places = [tmp_path / "a", tmp_path / "b"]
    for seed, place in enumerate(places):
        fifteen.work(fifteen.new("debug", seed=0, work=work), JOBS[0], steps=300, seed=seed, run=place)
    given = []

    def asleep(instances, **_):
        given.extend(instances)
        raise RunError("asleep")

    with pytest.MonkeyPatch.context() as patch, Store(tmp_path / "store") as store:
        patch.setattr(nights, "sleep", asleep)
        patch.setattr(trying, "gained", lambda at_work, parent: True)
        with pytest.raises(RunError, match="asleep"):
            night(places, store, attempts=4)
    for place, instance in zip(places, given, strict=True):
        (lived,) = instance.lived.values()
        _, manifest = checkpoint.read(place / "learner")
        last = latest_memory(place / "experience", manifest["experience"])
        assert lived.practice is not None and lived.practice.frames.shape[:2] == (LIFETIMES, ROWS)
        np.testing.assert_array_equal(lived.practice.memory, np.repeat(last[None], LIFETIMES, axis=0))
    assert (given[0].lived[JOBS[0]].practice.memory != given[1].lived[JOBS[0]].practice.memory).any()


def test_the_command_after_a_day_without_updates(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "slept"
    fifteen.work(fifteen.new("debug", seed=0), JOBS[0], steps=300, seed=1, learn="context", run=run)
    order = ["sleep", str(run), "--store", str(tmp_path / "store"), "--out", str(out), "--episodes", "6"]
    for _ in range(2):
        assert main(order) == 0
        assert f"better than the parent's: {JOBS[0]}" in " ".join(capsys.readouterr().out.split())
    told = json.loads((out / "night.json").read_text())
    assert told["night"]["steps"] == told["night"]["steps_done"] == 0 and not told["jobs"][0]["taught"]
    page = (out / "night.html").read_text()
    assert "no instance taught it" in page and "Infinity" not in page


def test_attempts_that_cannot_be_read_are_made_again_and_a_full_disk_is_said(runs, tmp_path, monkeypatch):
    parent, case = fifteen.new("debug", seed=0), Case("", *opening(runs[0]), run=str(runs[0]))
    made = Attempts(tmp_path, 4, 0)(case, parent)
    kept = tmp_path / "attempts.json"
    whole = kept.read_text()
    for broken in (whole[:-20], "[]", '{"episodes": 4, "seed": 0}'):
        kept.write_text(broken)
        assert Attempts(tmp_path, 4, 0)(case, parent) == made and kept.read_text() == whole

    def full(path, data):
        raise CheckpointError("no room") from OSError(errno.ENOSPC, "No space left on device")

    kept.unlink()
    monkeypatch.setattr(judging, "atomic_write", full)
    with pytest.raises(CheckpointError, match="no room"):
        Attempts(tmp_path, 4, 0)(case, parent)


def test_who_has_gained_is_told_by_the_last_attempts_against_what_the_memory_alone_comes_to():
    learned = [0.0] * 30 + [1.0, 0.9] * 5
    assert gained(learned, [0.2, 0.1, 0.3, 0.2, 0.1])
    assert not gained(learned, [1.0, 0.9, 1.0, 0.9, 1.0])  # so does the parent, once it knows the job
    assert not gained([1.0] * 30 + [0.1, 0.0] * 5, [0.5, 0.4] * 5)
    assert gained([0.5], [0.4] * 10) and gained([], [])  # too few to tell


def test_weights_alone_need_no_experience(runs, tmp_path):
    bare = []
    for n, run in enumerate(runs):  # one a run without its experience, one a saved learner
        bare.append(tmp_path / f"bare-{n}")
        shutil.copytree(run, bare[-1], ignore=shutil.ignore_patterns("experience", *(["config.json"] if n else [])))
    stranger = fifteen.new("debug", seed=9).save(tmp_path / "stranger")
    merged = night([*bare, stranger], None)
    assert merged.took_part == tuple(map(str, bare)) and merged.jobs == JOBS and merged.older == ()
    ((left_out, why),) = merged.left_out
    assert left_out == str(stranger) and "another parent" in why and not merged.interrupted
    with pytest.raises(RunError, match=r"nothing to sleep on: .*nowhere"):
        night([tmp_path / "nowhere"], None)


def refuse(*_, **__):
    raise JobError("refused")


def test_the_command_compares_before_day_and_night(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out, gone = tmp_path / "slept", tmp_path / "gone"
    shutil.copytree(runs[1], gone)
    order = ["sleep", str(runs[0]), str(gone), "--store", str(tmp_path / "store"), "--out", str(out), "--steps", "100"]
    order += ["--episodes", "10"]
    append = night_command.append_history

    def terminate(folder, progress):
        append(folder, progress)
        if progress.step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(night_command, "append_history", terminate)
        assert main(order) == 130
    assert "the same command with --out" in capsys.readouterr().out and not (out / "manifest.json").exists()
    # A job that no longer exists is named, and the night goes on.
    config = json.loads((gone / "config.json").read_text())
    config["settings"]["job"] = "probe/gone-v0"
    (gone / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(
        nights.Store, "add_run", lambda self, run: Added(JOBS[Path(run) == gone], 0, 0, 0, 0, 1_000, {})
    )
    assert main(order) == 0
    said = capsys.readouterr().out
    assert all(job in said for job in JOBS) and "after the night" in said and "not attempted: probe/action-v0" in said
    assert "\n31 of 100 updates" in said and "\n100 of 100 updates" in said
    told = json.loads((out / "night.json").read_text())
    first, second = told["jobs"]
    assert first["before"]["estimate"] < 0.6 < 0.9 < first["day"]["estimate"] and first["day"]["attempts"] == 10
    assert 0.7 < first["kept"]["estimate"] < 1.3 and first["kept"]["low"] < first["kept"]["estimate"]
    assert "probe/gone-v0" in second["missing"] and second["kept"] is None
    assert [line["step"] for line in read_history(out)] == list(range(1, 101))
    page = (out / "night.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and all(job in page for job in JOBS)
    assert np.isfinite(fifteen.evaluate(fifteen.load(out), JOBS[0], episodes=5).mean)
    # Again: nothing is done twice. Another night has no place there.
    monkeypatch.setattr(judging, "evaluate", refuse)
    assert main(order) == 0
    assert "100 of 100 updates" not in capsys.readouterr().out
    again = json.loads((out / "night.json").read_text())["jobs"]
    assert again == [first, second | {"missing": "refused"}]
    assert main([*order, "--seed", "7"]) == 2 and "begun otherwise (seed differ" in capsys.readouterr().err
    assert main(["sleep"]) == 2 and "no run given" in capsys.readouterr().err


def test_the_view_shows_every_job_and_the_time_left():
    said, now = io.StringIO(), 0.0
    with night_command.sleep_view(Console(file=said, width=80), clock=lambda: now) as view:
        for step, now in ((1, 0.0), (2, 5.0), (3, 16.0), (4, 17.0)):  # noqa: B007 (the clock reads it)
            view.write(SleepProgress(step, 4, {"a": 0.5, "b": 0.25}, 65.0))
    assert said.getvalue().splitlines() == [
        f"{step} of 4 updates, 1:05 left; distance to the teachers: a 0.5, b 0.25" for step in (1, 3, 4)
    ]
    said = io.StringIO()
    with night_command.sleep_view(Console(file=said, width=80, force_terminal=True)) as view:
        view.write(SleepProgress(1, 4, {"a": 0.5, "b": 0.25}, 65.0))
        view.write(SleepProgress(1, 4, {"a": 0.5, "b": 0.25}, 65.0, practising=True))  # at once, for it takes a while
    texts = "1:05 left", "distance to its teacher", "0.25", "practising"
    assert all(text in said.getvalue() for text in texts)


def test_the_command_for_weights_only(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "merged"
    order = ["sleep", *map(str, runs), "--weights-only", "--episodes", "2", "--out", str(out)]
    monkeypatch.chdir(tmp_path)
    assert main(order) == 0
    assert not (tmp_path / "store").exists() and fifteen.load(out).provenance["slept"][0]["weights_only"]
    assert "by their weights alone" in (out / "night.html").read_text()
    assert main(order) == 0
    with checkpoint.FolderLock(out):
        assert main(order) == 2 and f"{out} is in use by process" in capsys.readouterr().err
    assert main(["sleep", str(runs[0]), "--weights-only", "--out", str(out)]) == 2
    assert "holds another night" in capsys.readouterr().err
    assert main([*order[:-1], str(runs[0])]) == 2
    assert "holds a run of `fifteen work`" in capsys.readouterr().err
    fifteen.new("debug").save(tmp_path / "mine")
    assert main([*order[:-1], str(tmp_path / "mine")]) == 2
    assert "that no night left there" in capsys.readouterr().err


def test_interrupted_before_anything_is_compared_it_goes_on(runs, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "merged"
    order = ["sleep", *map(str, runs), "--weights-only", "--episodes", "2", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(judging, "evaluate", interrupted)
        assert main(order) == 130
    assert (
        "the same command" in capsys.readouterr().out and "merged by their weights" in (out / "night.html").read_text()
    )
    with monkeypatch.context() as patch:  # killed, as it were, before the learner was there
        patch.setattr(fifteen.Learner, "save", interrupted)
        assert main([*order[:-1], str(tmp_path / "killed")]) == 130
    for folder in (out, tmp_path / "killed"):
        assert main([*order[:-1], str(folder)]) == 0
        jobs = json.loads((folder / "night.json").read_text())["jobs"]
        assert [job["night"]["attempts"] for job in jobs] == [2, 2]


def test_older_jobs_have_a_row_of_their_own(runs, tmp_path):
    with Store(tmp_path / "store") as store:
        store.add_run(runs[0])
        slept = night(runs[1:], store, config=SleepConfig(steps=1))
        told = judge(tmp_path, slept, cases(slept, store), Attempts(tmp_path, 2, 0))
    assert [(one.case.name, sorted(one.returns)) for one in told] == [
        (JOBS[1], ["before", "day", "night"]),
        (JOBS[0], ["before", "night"]),
    ]
    assert told[1].kept is None and not told[1].missing
    page = write_night_report(tmp_path).read_text()
    assert "<small>older</small>" in page


def test_a_night_takes_up_no_more_older_jobs_than_it_can_rehearse(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "TAKEN_UP", 1)
    config, third = SleepConfig(steps=1, rehearsed=1), tmp_path / "third"
    fifteen.work(fifteen.new("debug", seed=0), "probe/value-v0", steps=600, seed=3, run=third)
    with Store(tmp_path / "store") as store:
        for run in runs:
            store.add_run(run)
        nights_of = [night([third], store, seed=seed, config=config) for seed in (0, 6)]
        every = night([third], store, config=dataclasses.replace(config, rehearsed=2))
        told = judge(tmp_path, nights_of[0], cases(nights_of[0], store), Attempts(tmp_path, 2, 0))
    assert every.rested == () and set(every.older) == set(JOBS)
    for one in nights_of:
        assert len(one.older) == len(one.rested) == 1 and {*one.older, *one.rested} == set(JOBS)
    assert {one.older for one in nights_of} == {(job,) for job in JOBS}  # drawn anew
    assert len(told) == 2
    page = write_night_report(tmp_path).read_text()
    assert "1 of 2" in page and nights_of[0].rested[0] in page.partition("Older jobs not rehearsed")[2]


def test_as_many_digits_are_shown_as_the_interval_warrants():
    def told(*numbers):
        return shown(dict(zip(("estimate", "low", "high"), numbers, strict=True)))

    assert told(158.2, 125.1, 191.2) == "158 [125, 191]" and told(0.9, 0.6907, 1.109) == "0.90 [0.69, 1.11]"
    assert told(1.0, 1.0, 1.0) == "1 [1, 1]" and told(3.0, None, None) == "3" and shown(None) == ""


def test_the_share_kept_has_an_interval_only_where_there_is_a_gain():
    generator = np.random.default_rng(0)
    before, day, night_ = (generator.normal(mean, 1.0, 20) for mean in (0.0, 10.0, 8.0))
    kept = share_kept(before, day, night_)
    assert kept is not None and kept.low is not None and kept.high is not None
    assert kept.low < 0.8 < kept.high < kept.low + 0.3
    assert share_kept(day, before, night_) is None  # it got worse
    assert share_kept(before, before + 0.1, night_) is None  # cannot be told from nothing
    assert share_kept([0.0] * 5, [1.0] * 5, [0.5] * 5) == (0.5, 0.5, 0.5)
    assert mean([3.0]) == (3.0, None, None)
    ends = np.array(mean([1.0, 2.0, 3.0])[1:], np.float64)
    np.testing.assert_allclose(ends, [2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], rtol=1e-5)


def test_a_job_is_worse_only_where_that_is_certain():
    assert fell([5.0, 6.0, 7.0, 6.0], [1.0, 2.0, 1.5, 1.0]) and not fell([1.0, 2.0, 1.5, 1.0], [5.0, 6.0, 7.0, 6.0])
    assert not fell([5.0, 6.0, 7.0], [5.5, 6.5, 4.0])  # a chance
    assert not fell([5.0], [1.0])  # one attempt tells nothing
    # Student's t with the lesser degrees of freedom, 4: beyond 2.776 the means differ. It is 3.0 here, then 2.7.
    before, after = [6.0, 7.0, 8.0, 9.0, 10.0], [3.0, 4.0, 5.0, 6.0, 7.0]
    assert fell(before, after) and not fell(before, [x + 0.3 for x in after])


def test_the_interval_of_the_share_covers_it_as_often_as_it_says():
    generator, within = np.random.default_rng(1), 0
    for _ in range(400):
        kept = share_kept(*(generator.normal(mean, 2.0, 15) for mean in (0.0, 6.0, 4.5)))
        assert kept is not None and kept.low is not None and kept.high is not None
        within += kept.low <= 0.75 <= kept.high
    assert 0.92 < within / 400 < 0.99
