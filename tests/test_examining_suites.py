"""Suites: data with a hash; and the log of a sealed one."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from fifteen.errors import RunError
from fifteen.examining.lifetimes import drawn_job
from fifteen.examining.planning import TWIN, twins_of
from fifteen.examining.sealing import openings, record_opening, seal
from fifteen.examining.suites import SuiteJob, make_suite, read_suite, write_suite
from fifteen.jobs.families import FAMILIES
from fifteen.jobs.family import draw_job, read_split
from fifteen.jobs.references import references

# A frozen suite never changes under its version: whoever changes one gives it the next version and its hash here.
SHIPPED = {
    ("default", 1): "3b562bb32cf25eb3f237566ce8db81f9eefbf59b35ab79050a26fffbce6a0deb",
    ("gymnasium", 1): "008ba3ba447e112473fe6267739752909e3ad7805f46b69028fd2d622289ee95",
}
TOML = """
name = "mine"
version = 3
access = "the two of us"
runs = 2

[[jobs]]
family = "bandit/bernoulli"
template = "spaced"
seed = 7
split = "held-out"

[[jobs]]
job = "CartPole-v1"
random = 22.0
reference = 500.0
threshold = 0.95
steps = 2000
kwargs = {sutton_barto_reward = true}
"""


def mine():
    held_out = {"family": "bandit/bernoulli", "template": "spaced", "seed": 7, "split": "held-out"}
    cart = SuiteJob(
        id="CartPole-v1",
        job="CartPole-v1",
        split="outside",
        family="CartPole",
        attempts=None,
        steps=2000,
        kwargs={"sutton_barto_reward": True},
        random=22.0,
        reference=500.0,
        threshold=0.95,
    )
    return make_suite("mine", [held_out, cart], version=3, access="the two of us", runs=2)


def test_a_suite_is_made_with_one_function():
    drawn, cart = mine().jobs
    assert (drawn.id, drawn.job, drawn.drawn) == ("bandit/bernoulli/spaced/7", "bandit/bernoulli-v0", True)
    assert drawn.arguments == {"seed": 7, "template": "spaced"}
    assert (drawn.random, drawn.reference) == tuple(references()["bandit/bernoulli"]["spaced"])
    assert drawn.score(drawn.reference) == 1.0 and drawn.score(drawn.random) == 0.0
    assert cart.score(261.0) == 0.5 and not cart.drawn
    (plain,) = make_suite("one", ["MountainCar-v0"]).jobs
    assert (plain.family, plain.split, plain.attempts, plain.score(3.0)) == ("MountainCar", "outside", 10, None)


def test_a_file_of_toml_is_the_same_suite(tmp_path):
    (tmp_path / "mine.toml").write_text(TOML)
    assert read_suite(tmp_path / "mine.toml") == mine()
    assert read_suite(tmp_path / "mine.toml").digest == mine().digest


def test_a_frozen_suite_comes_back_and_does_not_change_unnoticed(tmp_path):
    path = write_suite(mine(), tmp_path / "mine.json")
    assert read_suite(path) == mine()
    text = path.read_text()
    told = json.loads(text)
    path.write_text(json.dumps(told))  # laid out in another way: the same contents
    assert read_suite(str(path)).digest == mine().digest
    for old, new in (
        ('"seed": 7', '"seed": 8'),
        ("500.0", "400.0"),
        ("the two of us", "me"),
        ('"runs": 2', '"runs": 1'),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(RunError, match="was changed after it was frozen"):
            read_suite(path)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"family": "bandit/bernoulli", "template": "spaced", "split": "test"}, "split is 'test'"),
        ({"job": "CartPole-v1", "random": 1.0}, "expected two different returns"),
        ({"job": "CartPole-v1", "random": 1.0, "reference": 1.0}, "expected two different returns"),
        ({"job": "CartPole-v1", "attempts": 0}, "a budget of 0 attempts"),
        ({"job": "CartPole-v1", "attempts": None}, "a budget of None attempts"),
        ({"job": "CartPole-v1", "threshold": 0.9}, "has no references"),
        ({"job": "CartPole-v1", "seed": -1}, "the seed is -1"),
        ({"job": "CartPole-v1", "tries": 3}, "there are id, job"),
        ({"seed": 3}, "expected job, or family, template and seed"),
    ],
)
def test_a_job_that_contradicts_itself_is_named(job, message):
    with pytest.raises(RunError, match=message):
        make_suite("mine", [job])


def test_a_suite_that_contradicts_itself_is_named(tmp_path):
    with pytest.raises(RunError, match="several jobs 'CartPole-v1'"):
        make_suite("mine", ["CartPole-v1", "CartPole-v1"])
    with pytest.raises(RunError, match="has no jobs"):
        make_suite("mine", [])
    with pytest.raises(RunError, match="runs 0"):
        make_suite("mine", ["CartPole-v1"], runs=0)
    with pytest.raises(RunError, match="there is no suite 'none': choose one of default, gymnasium"):
        read_suite("none")
    for text in (
        "jobs = 3",
        "name = ",
        '[[jobs]]\njob = "CartPole-v1"\n[[jobs.x]]',
        'nmae = "a"\njobs = ["CartPole-v1"]',
    ):
        (tmp_path / "wrong.toml").write_text(text)
        with pytest.raises(RunError):
            read_suite(tmp_path / "wrong.toml")


@pytest.mark.parametrize(("name", "version"), SHIPPED)
def test_a_suite_that_ships_is_as_it_was_frozen(name, version):
    suite = read_suite(name)
    assert (suite.version, suite.digest) == (version, SHIPPED[name, version])
    assert all(job.random is not None and job.threshold is not None for job in suite.jobs)


def test_the_default_suite_has_jobs_of_all_families_and_keeps_to_the_split():
    suite, split = read_suite("default"), read_split()
    assert len(suite.jobs) >= 200
    for family in FAMILIES:
        own = [job for job in suite.jobs if job.family == family]
        assert {job.split for job in own} == {"train", "iid", "held-out"}
        for job in own:
            assert job.template in (split.held_out if job.split == "held-out" else split.train)[family]
    seeds = {job.seed for job in suite.jobs if job.split in ("iid", "held-out")}
    assert min(seeds) > 1000 and len(seeds) == sum(job.split in ("iid", "held-out") for job in suite.jobs)
    assert sum(job.split == "outside" for job in suite.jobs) >= 5


def test_a_job_is_drawn_as_work_would_draw_it():
    for job in (
        SuiteJob("a", "", "iid", "bandit/bernoulli", "spaced", 5),
        SuiteJob("b", "", "iid", "mdp/tabular", "lock", 3),
    ):
        ours, theirs = drawn_job(job), draw_job(FAMILIES[job.family], job.seed, job.template)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_twins_are_alike_in_all_but_what_was_drawn():
    twins = twins_of(mine(), seed=1)
    assert twins is not None and twins.digest != mine().digest
    (twin,), drawn = twins.jobs, mine().jobs[0]
    assert twin == replace(drawn, id=drawn.id + TWIN, seed=twin.seed) and twin.seed != drawn.seed
    others = twins_of(mine(), seed=2)
    assert others is not None and others.jobs[0].seed != twin.seed
    assert twins_of(make_suite("one", ["CartPole-v1"]), seed=1) is None


def test_lifetimes_have_seeds_of_their_own():
    job = mine().jobs[0]
    seeds = {job.lifetime_seed(run) for run in range(100)}
    assert len(seeds) == 100 and job.lifetime_seed(3) == job.lifetime_seed(3) and max(seeds) < 2**31


# Sealed -------------------------------------------------------------------------------------------


def test_openings_of_a_sealed_suite_are_counted(tmp_path):
    path = tmp_path / "mine.json"
    seal(mine(), path)
    suite = read_suite(path)
    assert suite == mine() and suite.log is not None
    assert len(openings(suite.log)) == 1
    assert record_opening(suite, "ours")[0] == 1
    number, head = record_opening(suite, "theirs")
    assert number == 2
    entries = openings(suite.log, head)
    assert [entry.by for entry in entries] == ["sealed", "ours", "theirs"] and entries[-1].hash == head
    record_opening(suite, "ours again")
    assert len(openings(suite.log, head)) == 4  # the log has grown since the head was published
    with pytest.raises(RunError, match="is sealed already"):
        seal(mine(), path)


def test_a_log_that_was_tampered_with_is_found_out(tmp_path):
    seal(mine(), tmp_path / "mine.json")
    suite = read_suite(tmp_path / "mine.json")
    log = suite.log
    assert log is not None
    head = [record_opening(suite, name)[1] for name in "abc"][-1]
    lines = log.read_text().splitlines(keepends=True)
    changed = [lines[0], lines[1].replace('"by": "a"', '"by": "z"'), *lines[2:]]
    for wrong in (changed, [lines[0], *lines[2:]], [*lines[:2], lines[1], *lines[2:]], lines[::-1], [*lines, "{}\n"]):
        log.write_text("".join(wrong))
        with pytest.raises(RunError, match="line"):
            openings(log)
        with pytest.raises(RunError, match="line"):
            record_opening(suite, "d")
    log.write_text("".join(lines[:-1]))
    assert len(openings(log)) == 3  # without the published head nobody could tell
    with pytest.raises(RunError, match="its end was cut off"):
        openings(log, head)
    log.unlink()
    with pytest.raises(RunError, match="is missing"):
        record_opening(suite, "d")


def test_a_log_belongs_to_its_suite(tmp_path):
    seal(mine(), tmp_path / "mine.json")
    other = replace(mine(), version=4, log=tmp_path / "mine.openings.jsonl")
    with pytest.raises(RunError, match="another suite"):
        record_opening(other, "ours")
