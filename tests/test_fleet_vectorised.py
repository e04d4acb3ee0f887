"""Several instances in one process: each acts, learns and is saved as an instance of `fifteen.work` is."""

import dataclasses
import json
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from small import WORK
from test_fleet import Clock

import fifteen
from fifteen import crew, fleet, fleet_member, fleet_vectorised
from fifteen.checkpoint import read
from fifteen.errors import RunError
from fifteen.experience import Experience, Field
from fifteen.fleet import Assignment, FleetConfig, deploy, go_on
from fifteen.fleet_member import TOGETHER
from fifteen.store import Store

HERE = FleetConfig(transport="vectorised", workers=1)
STEPS = 120
# A Discrete action and Box observations, a Box action in order, a Discrete observation; two of one kind.
JOBS = ("linear/random-v0", "control/cart-pole-v0", "mdp/tabular-v0", "control/cart-pole-v0")


def born():
    """Its actions are drawn independently: with noise that is correlated in time they depend on the number of bins."""
    return fifteen.new("debug", seed=0, work=WORK.on_policy())


def assignments(steps=STEPS):
    return [Assignment(job, steps, seed=seed) for seed, job in enumerate(JOBS)]


def rows(run):
    """All rows of a run with the memories that strides began with, and the weights in which it ended."""
    arrays, manifest = read(run / "learner")
    index = manifest["experience"]
    fields = {name: Field(tuple(one["shape"]), one["dtype"]) for name, one in index["fields"].items()}
    sizes = {name: index[name] for name in ("streams", "capacity", "stride", "memory_size")}
    experience = Experience.load(run / "experience", index, fields, **sizes)
    count = int(experience.count[0])
    memory = experience.memory[0, : -(-count // experience.stride)]
    return experience.tail(0, count) | {"memory": memory}, arrays["weights"]


def assert_told_as(run, log):
    """The attempts of a run are those of a log of work, but for rounding."""
    columns = (log.returns, log.lengths, log.steps, log.expected, log.discounted, log.surprise)
    told = read(run / "learner")[0]["log/finished"]
    np.testing.assert_allclose(told, np.stack(columns, 1), rtol=1e-2, atol=1e-3)


def stop_at_block(number, monkeypatch):
    """A round is told to stop when so many blocks have begun."""
    blocks = []

    def counted(self, *arguments, act=crew.Crew.act):
        blocks.append(None)
        if len(blocks) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, *arguments)

    monkeypatch.setattr(crew.Crew, "act", counted)


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectorised")
    return deploy(born(), assignments(), folder, config=HERE)


def test_every_instance_works_as_at_work(worked, tmp_path):
    assert [(one.ended, one.steps, one.reason) for one in worked.records] == [("finished", STEPS, "")] * 4
    parent = fifteen.load(worked.folder / "parent")
    log = fifteen.work(parent, JOBS[0], steps=STEPS, seed=0, run=tmp_path / "alone")
    alone, weights = rows(tmp_path / "alone")
    together, same = rows(worked.took_part[0])
    assert {name: array.shape for name, array in alone.items()} == {n: array.shape for n, array in together.items()}
    for name, array in alone.items():
        np.testing.assert_allclose(together[name], array, rtol=1e-3, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(same, weights, atol=1e-4)
    assert_told_as(worked.took_part[0], log)
    learner = fifteen.load(worked.took_part[0])
    assert int(learner.state.updates) == int(parent.state.updates) > 20
    assert (np.asarray(learner.state.anchor) == np.asarray(born().state.weights)).all()
    assert learner.provenance["worked"] == parent.provenance["worked"]
    told = [json.loads(line) for line in (worked.took_part[0] / "metrics.jsonl").read_text().splitlines()]
    assert [one["length"] for one in told if one["kind"] == "attempt"] == log.lengths.tolist()
    assert told[-1]["reason"] == "steps" and told[-1]["updates"] == int(parent.state.updates)


def test_what_was_expected_is_told_as_at_work(worked, tmp_path):
    log = fifteen.work(born(), JOBS[1], steps=STEPS, seed=1, run=tmp_path / "alone")
    assert len(log.returns) > 2 and np.abs(log.expected).max() > 0.01
    assert_told_as(worked.took_part[1], log)


def test_in_context_every_instance_works_as_at_work_and_goes_on_exactly(tmp_path, monkeypatch):
    """There the device is a block ahead of the host."""
    day = [dataclasses.replace(one, learn="context") for one in assignments(300)]
    whole = deploy(born(), day, tmp_path / "whole", config=HERE)
    for number, run in enumerate(whole.took_part):
        log = fifteen.work(born(), JOBS[number], steps=300, seed=number, learn="context", run=tmp_path / f"{number}")
        alone, together = (rows(folder)[0] for folder in (tmp_path / f"{number}", run))
        for name, array in alone.items():
            np.testing.assert_allclose(together[name], array, rtol=1e-3, atol=1e-3, err_msg=name)
        arrays, manifest = read(run / "learner")
        assert_told_as(run, log)
        assert len(arrays["log/finished"]) + 300 == manifest["experience"]["count"][0]
    stop_at_block(4, monkeypatch)
    assert deploy(born(), day, tmp_path / "broken", config=HERE).interrupted
    stood = [read(folder)[1][TOGETHER]["recorder"]["step"] for folder in (tmp_path / "broken").glob("*/learner")]
    assert len(stood) == 4 and all(0 < steps < 300 for steps in stood)

    def roomier(*arguments, shape=fleet_member.experience_shape):  # as another version might have it
        fields, sizes = shape(*arguments)
        return fields, sizes | {"capacity": 2 * sizes["capacity"]}

    monkeypatch.setattr(fleet_member, "experience_shape", roomier)
    second = go_on(tmp_path / "broken")
    for run, other in zip(second.took_part, whole.took_part, strict=True):
        assert all((rows(run)[0][name] == rows(other)[0][name]).all() for name in ("frame", "decision", "memory"))
        (one, _), (two, _) = (read(folder / "learner") for folder in (run, other))
        assert (one["log/finished"] == two["log/finished"]).all()


def test_a_small_replay_loses_nothing_that_was_lived(tmp_path):
    parent = fifteen.new("debug", seed=0, work=dataclasses.replace(WORK.on_policy(), replay=24))
    (run,) = deploy(parent, [Assignment(JOBS[0], 300, learn="context")], tmp_path / "a", config=HERE).took_part
    index = read(run / "learner")[1]["experience"]
    assert index["capacity"] == 64 and index["count"][0] > 300
    with Store(tmp_path / "store") as store:
        assert store.add_run(run).rows == index["count"][0]


def test_every_instance_has_weights_and_a_job_of_its_own(worked):
    weights = [np.asarray(fifteen.load(run).state.weights) for run in worked.took_part]
    assert len({one.tobytes() for one in weights}) == 4
    lived = [rows(run)[0]["frame"] for run in worked.took_part]
    assert not (lived[1][:10] == lived[3][:10]).all()


def test_the_night_takes_them(worked, tmp_path):
    with Store(tmp_path) as store:
        for run in worked.took_part:
            store.add_run(run)
        held = {record.id: record for record in store.jobs()}
        assert set(held) == set(JOBS)
        assert all(store.available(id, 8) for id in held)


def test_interrupted_it_goes_on_exactly_and_compiles_nothing_again(worked, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet_vectorised, "SAVE_EVERY_S", 0.0)
    compiled = crew.Crew.act._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    stop_at_block(17, monkeypatch)
    first = deploy(born(), assignments(), tmp_path, config=HERE)
    assert first.interrupted and not first.records
    told = []
    second = go_on(tmp_path, callback=told.append)
    assert [event.what for event in told] == ["begun"] * 4 + ["finished"] * 4
    for run, whole in zip(second.took_part, worked.took_part, strict=True):
        (mine, weights), (other, same) = rows(run), rows(whole)
        assert (weights == same).all()
        assert all((mine[name] == other[name]).all() for name in mine)
        (one, _), (two, _) = (read(folder / "learner") for folder in (run, whole))
        assert (one["log/finished"] == two["log/finished"]).all()
    monkeypatch.undo()
    assert crew.Crew.act._cache_size() == compiled  # pyright: ignore[reportAttributeAccessIssue]


def test_it_goes_on_exactly_where_some_have_ended_before(tmp_path, monkeypatch):
    day = [Assignment(JOBS[2], 200 if seed == 0 else 40, seed=seed) for seed in range(4)]
    whole = deploy(born(), [*day, Assignment("nonsense/nowhere-v0", 9)], tmp_path / "whole", config=HERE)
    crews = []

    def counted(self, *arguments, act=crew.Crew.act):
        crews.append(len(self.desks))
        return act(self, *arguments)

    def stop(event):
        if event.what == "finished" and event.instance.startswith("4"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(crew.Crew, "act", counted)
    again = [*day, Assignment("nonsense/nowhere-v0", 9)]
    assert deploy(born(), again, tmp_path / "broken", config=HERE, callback=stop).interrupted
    plan = json.loads((tmp_path / "broken" / "fleet.json").read_text())
    plan["instances"][1]["ended"] = None  # killed before the plan said so
    (tmp_path / "broken" / "fleet.json").write_text(json.dumps(plan))
    told = []
    second = go_on(tmp_path / "broken", callback=told.append)
    assert [(event.instance[0], event.what) for event in told] == [
        *(("1", "begun"), ("2", "begun")),
        *(("2", "finished"), ("1", "finished")),
    ]
    assert [(one.ended, one.steps) for one in second.records] == [(one.ended, one.steps) for one in whole.records]
    assert set(crews) == {4}  # of another number the products would round otherwise
    for run, other in zip(second.took_part, whole.took_part, strict=True):
        assert (rows(run)[1] == rows(other)[1]).all()
        worked = [fifteen.load(one).provenance["worked"] for one in (run, other)]
        assert worked[0] == worked[1] and len(worked[0]) == 1


def test_one_that_is_not_finite_harms_no_other(worked, tmp_path, monkeypatch):
    def spoiled(self, *lesson, run=fleet_vectorised._Shift._run):
        state, losses = run(self, *lesson)
        ordered = bool(lesson[-1])  # the first job alone has actions in order
        return (state._replace(weights=state.weights * jnp.nan) if ordered else state), losses

    monkeypatch.setattr(fleet_vectorised._Shift, "_run", spoiled)
    ended = deploy(born(), [*assignments(), Assignment("nonsense/nowhere-v0", 9)], tmp_path, config=HERE)
    assert [one.ended for one in ended.records] == ["failed", *["finished"] * 3, "failed"]
    assert "weights are not finite" in ended.left_out[0].reason and "there is no job" in ended.left_out[1].reason
    for run, whole in zip(ended.took_part, worked.took_part[1:], strict=True):
        assert (rows(run)[1] == rows(whole)[1]).all()
    kept = fifteen.load(tmp_path / ended.left_out[0].instance)
    assert (np.asarray(kept.state.weights) == np.asarray(born().state.weights)).all()


def test_a_disk_that_takes_no_more_of_one_harms_no_other(worked, tmp_path, monkeypatch):
    def full(self, tell=fleet_vectorised.Member.tell):
        if self.task.number == 2:
            raise RunError("cannot write metrics.jsonl: No space left on device")
        tell(self)

    monkeypatch.setattr(fleet_vectorised.Member, "tell", full)
    ended = deploy(born(), assignments(), tmp_path, config=HERE)
    assert [one.ended for one in ended.records] == ["finished", "finished", "failed", "finished"]
    assert "No space left" in ended.left_out[0].reason
    for run, number in zip(ended.took_part, (0, 1, 3), strict=True):
        assert (rows(run)[1] == rows(worked.took_part[number])[1]).all()


def test_who_is_not_done_at_the_deadline_is_saved_and_late(worked, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fleet, "time", clock)

    def tell(event):
        clock.forward = 10_000.0 * (event.what == "finished")

    longer = [Assignment(JOBS[0], STEPS, seed=0), *assignments(10_000)[1:]]
    config = dataclasses.replace(HERE, deadline_s=5_000.0)
    ended = deploy(born(), longer, tmp_path, config=config, callback=tell)
    assert [one.ended for one in ended.records] == ["finished", *["late"] * 3] and not ended.interrupted
    assert all(len(rows(tmp_path / one.instance)[0]["frame"]) >= STEPS for one in ended.left_out)


def test_what_needs_a_process_is_refused_by_name(tmp_path):
    others = [Assignment("CartPole-v1", 10), Assignment("mdp/tabular-v0", 10, num_envs=2), *assignments()]
    with pytest.raises(RunError, match=r"1-CartPole-v1: it is not native to JAX; 2-mdp-tabular-v0: num_envs is 2"):
        deploy(born(), others, tmp_path / "a", config=HERE)
