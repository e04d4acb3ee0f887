"""The exam: every learner on every job, planted faults found, and nothing ever turned into a pass."""

import itertools
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from simulated_exam import coarse_interval
from small import Walk

import fifteen
import fifteen.examining.sheets
from fifteen import cli
from fifteen.errors import RunError
from fifteen.examining import exam as exam_room
from fifteen.examining.batches import live_batch
from fifteen.examining.entrants import LearnerPlayer, PolicyPlayer, admit, fits
from fifteen.examining.findings import overlap, twins
from fifteen.examining.leaks import leaks
from fifteen.examining.lifetimes import Attempt, Seat, drawn_job, live, recorded
from fifteen.examining.page import write_exam_page
from fifteen.examining.planning import TWIN, plan
from fifteen.examining.records import RECORDS, LearnerNote, Value, read_header, read_records
from fifteen.examining.replays import read_replays
from fifteen.examining.sealing import seal
from fifteen.examining.sheets import sheets
from fifteen.examining.sitting import Hall, Task
from fifteen.examining.suites import SuiteJob, make_suite

HERE = "test_examining_exam"
WALK = {"job": "small:Walk", "random": 3.5, "reference": 7.0, "attempts": 3}


class Dying(Walk):
    """Takes its process with it."""

    def step(self, action):
        os._exit(3)


class NotFinite(Walk):
    """Pays with no number in its second attempt and later."""

    attempts = 0

    def reset(self, *, seed=None, options=None):
        self.attempts += 1
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self.attempts > 1 and self._steps == 2 else reward, *rest


class Raising(Walk):
    """Never works."""

    def step(self, action):
        raise RuntimeError("the wheel came off")


class Endless(Walk):
    def step(self, action):
        return self._observed(), 0.0, False, False, {}


class Graph(Walk):
    """Seen by nobody."""

    observation_space = spaces.Graph(spaces.Box(-1, 1, (2,)), None)


class Telling(Walk):
    """One of four actions is right at every step; `told` says where it can be read."""

    action_space = spaces.Discrete(4)

    def __init__(self, told="info"):
        super().__init__()
        self._told = told
        self._seed = None

    def _info(self):
        self._right = int(self.np_random.integers(4))
        hint = self._right if self._told == "info" else int(self.np_random.integers(4))
        info = {"hint": hint, "prob": 1.0, "action_mask": np.ones(4, np.int8)}
        return (
            info
            | ({"origin": {"n": self._seed}} if self._told == "seed" else {})
            | ({"best_action": 9} if self._told == "name" else {})
        )

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        self._seed = seed
        return observation, self._info()

    def step(self, action):
        observation, _, terminated, truncated, _ = super().step(action)
        reward = float(action == self._right)
        return observation, reward, terminated, truncated, self._info()


def always_one(observation):
    return 1


class Saved:
    """As a policy of Stable-Baselines3 is."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    @classmethod
    def load(cls, path, device):
        return cls()

    def predict(self, observation, deterministic):
        assert deterministic
        return np.array(1), None


@pytest.fixture(autouse=True)
def page(monkeypatch):
    """The page has tests of its own."""
    monkeypatch.setattr(exam_room, "write_exam_page", lambda folder: folder / "exam.html")


@pytest.fixture(scope="module")
def learner():
    return fifteen.new("debug", seed=0)


def walk(**fields):
    (job,) = make_suite("one", [WALK | fields]).jobs
    return job


def lived(player, job, run=0, seconds=60.0):
    return live(player, Seat(make_suite("one", [job]), job, run), "ours", seconds)


# One lifetime -------------------------------------------------------------------------------------


def test_a_learner_of_ours_lives_as_it_would_at_work(learner):
    job = walk(attempts=5)
    records, shown = lived(LearnerPlayer(learner), job, run=1)
    log = fifteen.work(
        fifteen.new("debug", seed=0), "small:Walk", episodes=5, seed=job.lifetime_seed(1), learn="context"
    )
    assert [r.return_ for r in records] == log.returns.tolist()
    assert [r.length for r in records] == log.lengths.tolist()
    np.testing.assert_allclose([r.values[0].expected for r in records], log.expected, rtol=1e-5)
    np.testing.assert_allclose([r.values[0].obtained for r in records], log.discounted, rtol=1e-5)
    assert [r.steps_before for r in records] == [0, 7, 14, 21, 28] and shown is None
    assert all(r.status == "ok" and r.terminated and r.attempts == 5 for r in records)


def test_a_policy_lives_and_its_last_attempt_is_shown():
    records, shown = lived(PolicyPlayer(always_one), walk())
    assert [(r.return_, r.score, r.attempt, r.values) for r in records] == [(7.0, 1.0, n, ()) for n in range(3)]
    assert shown is not None
    assert (shown.attempt, shown.observations.shape, shown.rewards.tolist()) == (2, (7, 3), [1.0] * 7)
    again, _ = lived(PolicyPlayer(always_one), walk())
    assert [replace(r, seconds=0.0) for r in again] == [replace(r, seconds=0.0) for r in records]


def test_a_budget_of_steps_counts_whole_attempts():
    records, _ = lived(PolicyPlayer(always_one), walk(steps=20, attempts=None))
    assert [r.steps_before for r in records] == [0, 7]
    (record,), _ = lived(PolicyPlayer(always_one), walk(steps=5, attempts=None))
    assert (record.status, record.problem) == ("timed out", "no attempt ended within 5 steps")


@pytest.mark.parametrize(
    ("job", "status", "problem"),
    [
        (walk(job="Nonsense-v0"), "missing", "there is no job 'Nonsense-v0'"),
        (walk(job=f"{HERE}:Nothing"), "missing", "no callable"),
        (walk(family="bandit/bernoulli", template="none", job="bandit/bernoulli-v0"), "missing", "no template"),
        (walk(job=f"{HERE}:Raising"), "crashed", "the wheel came off"),
        (walk(job=f"{HERE}:Graph"), "refused", "Graph"),
    ],
)
def test_what_fails_fails_in_all_its_attempts(learner, job, status, problem):
    records, shown = lived(LearnerPlayer(learner), job)
    assert [r.status for r in records] == [status] * 3 and shown is None
    assert all(problem in r.problem and r.failed and r.score is None for r in records)


def test_a_number_that_is_not_finite_is_no_score():
    records, _ = lived(PolicyPlayer(always_one), walk(job=f"{HERE}:NotFinite"))
    assert [r.status for r in records] == ["ok", "not finite", "not finite"]
    assert [r.score for r in records] == [1.0, None, None] and "reward non-finite" in records[1].problem
    overflowing = recorded(Seat(make_suite("one", [walk()]), walk(), 0), "ours", [Attempt("ok", rewards=[np.inf])])
    assert (overflowing[0][0].status, overflowing[0][0].return_) == ("not finite", None)


def test_a_lifetime_that_takes_too_long_is_ended():
    records, _ = lived(PolicyPlayer(always_one), walk(job=f"{HERE}:Endless"), seconds=0.05)
    assert [r.status for r in records] == ["timed out"] * 3


def test_a_policy_that_raises_or_gives_nonsense_has_crashed():
    for policy, problem in (
        (lambda observation: 2, "expected one of Discrete(2)"),
        (lambda observation: [][0], "IndexError"),
    ):
        records, _ = lived(PolicyPlayer(policy), walk())
        assert [r.status for r in records] == ["crashed"] * 3 and problem in records[0].problem


def test_a_policy_made_for_other_spaces_is_not_asked():
    made_for = PolicyPlayer(always_one, spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
    (record,), _ = lived(made_for, walk())
    assert (record.status, record.score, record.failed) == ("not applicable", None, False)
    fine = PolicyPlayer(always_one, spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2))  # bounds say nothing
    assert lived(fine, walk())[0][0].status == "ok"
    assert not fits(spaces.Discrete(3), spaces.Discrete(2)) and fits(spaces.Discrete(2), spaces.Discrete(2))


def test_what_was_expected_meets_what_came():
    attempt = Attempt("ok", rewards=[0.0, 0.0, 0.0, 1.0], values=[0.5, 0.6, 0.7, 0.8])
    (record,), _ = recorded(Seat(make_suite("one", [walk(attempts=1)]), walk(attempts=1), 0), "ours", [attempt])
    obtained = [0.99**3, 0.99**2, 0.99, 1.0]
    assert record.values == tuple(Value(n, 0.5 + n / 10, float(f"{obtained[n]:.6g}")) for n in range(4))


# Many at once -------------------------------------------------------------------------------------


def test_a_batch_has_what_was_asked_of_every_seat_and_comes_out_the_same_again(learner):
    jobs = [
        {"family": "bandit/bernoulli", "template": "uniform", "seed": 3, "attempts": 2},
        {"family": "mdp/tabular", "template": "dense", "seed": 0, "attempts": 3},
        {"family": "mdp/tabular", "template": "dense", "seed": 1, "attempts": 1},
    ]
    suite = make_suite("three", jobs, runs=2)
    seats = [Seat(suite, job, run) for job in suite.jobs for run in range(2)]
    results = live_batch(learner, seats, "ours", seed=5)
    for (job, run), (records, shown) in zip([s[1:] for s in seats], results, strict=True):
        assert [(r.job, r.run, r.attempt) for r in records] == [(job.id, run, n) for n in range(job.attempts)]
        assert {r.length for r in records} == {100 if job.family == "bandit/bernoulli" else 10}
        assert all(r.status == "ok" and len(r.values) == 4 for r in records)
        assert all(r.score == job.score(r.return_) for r in records) and (shown is None) == (run > 0)
    bandit, tabular = results[0][1], results[2][1]
    assert bandit is not None and tabular is not None
    assert bandit.observations.shape == (100, 1) and tabular.actions.shape == (10, 1)
    assert bandit.rewards.sum() == results[0][0][-1].return_ and set(bandit.rewards) <= {0.0, 1.0}
    again = live_batch(learner, seats, "ours", seed=5)
    assert [[r.return_ for r in one] for one, _ in again] == [[r.return_ for r in one] for one, _ in results]
    other = live_batch(learner, seats, "ours", seed=6)
    assert [[r.return_ for r in one] for one, _ in other] != [[r.return_ for r in one] for one, _ in results]


def test_a_batch_that_fails_is_halved_until_one_job_is_left():
    suite = make_suite("four", [walk(id=name) for name in "abcd"])
    hall = Hall([suite], admit(always_one), 1.0)
    task = Task("batch", tuple((name, run) for name in "abcd" for run in (0, 1)), 0, 7)
    ended, halves = hall.failed(task, task.seats, "crashed", "SIGSEGV")
    assert not ended.lived and [{job for job, _ in half.seats} for half in halves] == [{"a", "b"}, {"c", "d"}]
    alone = Task("batch", (("c", 0), ("c", 1)), 0, 7)
    ended, again = hall.failed(alone, alone.seats, "crashed", "SIGSEGV")
    assert again == [] and {r.status for records, _ in ended.lived for r in records} == {"crashed"}
    several = Task("lifetimes", (("a", 0), ("b", 0), ("c", 0)), 0)
    ended, (left,) = hall.failed(several, (("b", 0),), "timed out", "no answer in time")
    assert [records[0].job for records, _ in ended.lived] == ["b"] and [job for job, _ in left.seats] == ["a", "c"]


def test_a_plan_leaves_out_what_is_done_and_keeps_batches_whole(learner):
    drawn = [{"family": "mdp/tabular", "template": "dense", "seed": n} for n in range(2)]
    suite = make_suite("three", [*drawn, walk()])
    entrants = admit([learner, always_one])
    tasks = plan([suite], entrants, 2, set())
    assert [(t.kind, t.entrant, len(t.seats)) for t in tasks] == [
        ("batch", 0, 4),
        ("lifetimes", 0, 2),
        ("lifetimes", 1, 4),
        ("lifetimes", 1, 2),
        ("audit", 0, 1),
    ]
    done = {("learner", suite.jobs[0].id, 0), ("learner", "small:Walk", 1), ("always_one", "small:Walk", 0)}
    some = plan([suite], entrants, 2, done)
    assert [len(t.seats) for t in some] == [4, 1, 4, 1, 1] and some[0] == tasks[0]


# The exam -----------------------------------------------------------------------------------------


def test_an_exam_writes_records_and_finds_planted_faults(tmp_path, learner):
    jobs = [WALK, walk(id="nan", job=f"{HERE}:NotFinite"), walk(id="gone", job="Nonsense-v0")]
    suite = make_suite("mine", jobs, access="us", runs=2)
    learner.provenance["worked"] = [{"job": "small:Walk", "steps": 1000}]
    report = fifteen.exam({"ours": learner, "one": lambda observation: 1}, suite, run=tmp_path, workers=0)
    learner.provenance["worked"] = []
    assert report.records == read_records(tmp_path) and report.header == read_header(tmp_path)
    assert len(report.records) == 2 * 2 * 9
    assert (report.page, report.header.suite_hash) == (tmp_path / "exam.html", suite.digest)
    found = {(f.kind, f.learner, f.job) for f in report.header.findings}
    assert found >= {("overlap", "ours", "small:Walk")}
    assert found >= {
        (kind, name, job) for name in ("ours", "one") for kind, job in (("not finite", "nan"), ("missing", "gone"))
    }
    assert all((r.status == "ok") == (r.score is not None) for r in report.records)
    assert {(r.learner, r.job, r.run) for r in read_replays(tmp_path, lambda learner, job: True)} == {
        (name, job, 0) for name in ("ours", "one") for job in ("small:Walk", "nan")
    }
    assert [(n.name, n.kind) for n in report.header.learners] == [("ours", "fifteen"), ("one", "callable")]


def test_an_exam_goes_on_where_it_stopped(tmp_path):
    suite = make_suite("mine", [WALK, walk(id="again")], runs=2)
    whole = fifteen.exam(always_one, suite, run=tmp_path, workers=0)
    text = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(text[: len(text) // 2])
    asked = []
    resumed = fifteen.exam(always_one, suite, run=tmp_path, workers=0, callback=lambda *told: asked.append(told))
    assert [replace(r, seconds=0.0) for r in resumed.records] == [replace(r, seconds=0.0) for r in whole.records]
    assert asked[-1] == (3, 3)  # of four lifetimes
    assert resumed.header.arguments == whole.header.arguments
    for other in (dict(runs=1), dict(suite=make_suite("mine", [WALK])), dict(learners=lambda observation: 0)):
        given = dict(learners=always_one, suite=suite, runs=2) | other
        with pytest.raises(RunError, match="holds an exam that differs in"):
            fifteen.exam(given.pop("learners"), given.pop("suite"), run=tmp_path, workers=0, **given)


def test_every_planted_fault_is_told_on_the_page_and_none_is_a_pass(tmp_path, monkeypatch):
    """A worker that dies, a job that is missing, NaN, a leak, and a policy that was tuned to the very jobs."""
    monkeypatch.setattr(fifteen.examining.sheets, "bootstrap_interval", coarse_interval)
    monkeypatch.setattr(exam_room, "secrets", SimpleNamespace(randbits=lambda bits: 1))  # the same twins every time
    drawn = {"family": "bandit/bernoulli", "template": "uniform", "attempts": 1}
    uniform = (SuiteJob(str(seed), "", "iid", "bandit/bernoulli", "uniform", seed) for seed in itertools.count())
    best = (job.seed for job in uniform if np.argmax(drawn_job(job).chances) == 1)  # pyright: ignore[reportAttributeAccessIssue]
    tuned_to = itertools.islice(best, 12)
    jobs = [
        *(drawn | {"seed": seed} for seed in tuned_to),
        WALK | {"attempts": 1},
        walk(id="dies", job=f"{HERE}:Dying"),
        walk(id="after", attempts=1),
        walk(id="gone", job="Nonsense-v0"),
        walk(id="nan", job=f"{HERE}:NotFinite"),
        walk(id="leaks", job=f"{HERE}:Telling", attempts=1),
    ]
    report = fifteen.exam(f"{HERE}:policy", make_suite("mine", jobs, runs=1), run=tmp_path, workers=1)
    status = {record.job: record.status for record in report.records if record.family != "bandit/bernoulli"}
    assert status == {
        "small:Walk": "ok",
        "dies": "crashed",
        "after": "ok",
        "gone": "missing",
        "nan": "not finite",
        "leaks": "ok",
    }
    assert [r.problem for r in report.records if r.job == "dies"] == ["the process died: exit status 3"] * 3
    # Looking for leaks in it ends a process as well.
    assert [f.learner for f in report.header.findings if f.kind == "crashed" and f.job == "dies"] == ["", "policy"]
    assert {(f.kind, f.job) for f in report.header.findings} >= {
        ("twins", ""),
        ("leak", "leaks"),
        ("missing", "gone"),
        ("not finite", "nan"),
    }
    (sheet,) = sheets(report.header, report.records).values()
    scores = {job.name: row.tolist() for job, row in zip(sheet.jobs, sheet.scores, strict=True)}
    assert scores["dies"] == scores["gone"] == [0.0] and scores["nan"] == pytest.approx([1 / 3])  # one good attempt
    told = write_exam_page(tmp_path).read_text(encoding="utf-8")
    for kind in ("Better here than on twins", "The environment leaks", "Crashed", "Missing", "Not finite"):
        assert f"<b>{kind}" in told, kind


def policy():
    return always_one


def test_an_exam_goes_on_only_as_what_it_was(tmp_path, monkeypatch):
    suite = make_suite("mine", [WALK], runs=1)
    fifteen.exam(always_one, suite, run=tmp_path, workers=0)
    with pytest.raises(RunError, match="differs in seconds"):
        fifteen.exam(always_one, suite, run=tmp_path, workers=0, seconds=7.0)
    monkeypatch.setattr(exam_room, "commit", lambda: "another")
    with pytest.raises(RunError, match="differs in commit"):
        fifteen.exam(always_one, suite, run=tmp_path, workers=0)


def test_a_sealed_suite_is_opened_once_by_every_exam(tmp_path):
    suite = seal(make_suite("mine", [WALK], runs=1), tmp_path / "mine.json")
    for run, openings in (("a", 1), ("b", 2), ("b", 2), ("c", 3)):
        header = fifteen.exam(always_one, tmp_path / "mine.json", run=tmp_path / run, workers=0).header
        assert header.openings == openings and len(header.seal) == 64
    assert suite.log is not None and suite.log.read_text().count("\n") == 4


def test_the_command_names_what_was_found_and_the_page(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\nruns = 1\n[[jobs]]\njob = "{HERE}:NotFinite"\nattempts = 2\nrandom = 0.0\nreference = 7.0\n'
    )
    monkeypatch.setattr(fifteen, "cache_compilations", lambda: None)
    words = ["exam", "--suite", str(tmp_path / "mine.toml"), "--run", str(tmp_path / "run"), "--workers", "0"]
    assert cli.main([*words, "--learner", f"{HERE}:policy", "--learner", f"{HERE}:policy"]) == 0
    told = capsys.readouterr().out
    assert "policy (2): attempts: 1 ok, 1 not finite" in told and str(tmp_path / "run" / "exam.html") in told
    assert "found, not finite (policy" in told
    assert cli.main([*words, "--learner", "nothing:there"]) == 2
    monkeypatch.setattr(fifteen, "exam", interrupted)
    assert cli.main(words) == 130
    assert "the same command with --run" in capsys.readouterr().out


def interrupted(*arguments, **settings):
    raise KeyboardInterrupt


# Who sits it --------------------------------------------------------------------------------------


def test_learners_are_had_by_name(tmp_path, learner, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", SimpleNamespace(PPO=Saved))
    (tmp_path / "walk.zip").write_bytes(b"weights")
    learner.save(tmp_path / "mine")
    given = [
        f"sb3:PPO:{tmp_path / 'walk.zip'}",
        str(tmp_path / "mine"),
        always_one,
        f"{HERE}:policy",
        Saved(),
        "shipped",
    ]
    notes = [entrant.note for entrant in admit(given)]
    assert [(n.name, n.kind) for n in notes] == [
        ("walk", "sb3"),
        ("mine", "fifteen"),
        ("always_one", "callable"),
        ("policy", "callable"),
        ("Saved", "sb3"),
        ("shipped", "fifteen"),
    ]
    assert notes[-1].provenance["schooled"] and len(notes[0].digest) == 64
    assert [e.note.name for e in admit([always_one, always_one])] == ["always_one", "always_one (2)"]
    assert [e.spec is None for e in admit([always_one, lambda o: 1, Saved()])] == [False, True, True]


def test_a_saved_policy_is_examined_on_the_jobs_it_was_made_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", SimpleNamespace(PPO=Saved))
    (tmp_path / "walk.zip").write_bytes(b"weights")
    suite = make_suite("mine", [WALK, walk(id="cart", job="CartPole-v1")], runs=1)
    records = fifteen.exam(f"sb3:PPO:{tmp_path / 'walk.zip'}", suite, run=tmp_path / "run", workers=0).records
    assert [(r.job, r.status, r.score) for r in records] == [
        *[("small:Walk", "ok", 1.0)] * 3,
        ("cart", "not applicable", None),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected a fifteen.Learner"),
        ([], "nobody sits the exam"),
        ("sb3:PPO", "expected sb3:ALGO:FILE.zip"),
        ("sb3:PPO:none.zip", "a file that is there"),
        ("nothing:there", "cannot be had"),
        (f"{HERE}:WALK", "expected something to call"),
    ],
)
def test_what_is_no_learner_is_named(given, message):
    with pytest.raises(RunError, match=message):
        admit(given)


# What is found ------------------------------------------------------------------------------------


def note(**provenance):
    return LearnerNote("ours", "fifteen", "shipped", provenance)


def overlapping():
    jobs = [
        {"family": "bandit/bernoulli", "template": "uniform", "seed": 1, "split": "train"},
        {"family": "bandit/bernoulli", "template": "uniform", "seed": 7, "split": "iid"},
        {"family": "bandit/bernoulli", "template": "spaced", "seed": 8, "split": "held-out"},
        "CartPole-v1",
    ]
    return make_suite("mine", jobs)


@pytest.mark.parametrize(
    ("provenance", "told"),
    [
        ({"schooled": [{"families": {"bandit/bernoulli": ["uniform"]}, "seed": 0}]}, []),
        ({"schooled": [{"families": {"bandit/bernoulli": ["uniform", "spaced"]}, "seed": 0}]}, ["held-out templates"]),
        ({"schooled": [{"families": {"gymnax/CartPole-v1": ["1.0"]}, "seed": 0}]}, ["the environment of CartPole-v1"]),
        ({"worked": [{"job": "CartPole-v1", "steps": 9}]}, ["9 steps on CartPole-v1"]),
        ({"worked": [{"job": "CartPole-v1", "kwargs": {"sutton_barto_reward": True}}]}, []),
        ({"worked": [{"job": "Acrobot-v1"}]}, []),
        ({"worked": [{"job": "bandit/bernoulli-v0", "kwargs": {"seed": 7, "template": "uniform"}}]}, ["uniform/7"]),
        (
            {"worked": [{"job": "bandit/bernoulli-v0", "kwargs": {"seed": 1, "template": "uniform"}}]},
            [],
        ),  # for training
        ({"worked": [{"job": "bandit/bernoulli-v0", "kwargs": {"seed": 7}}]}, ["uniform/7"]),
        ({"worked": [{"job": "bandit/bernoulli-v0"}]}, ["does not say with which seed"]),
    ],
)
def test_a_manifest_that_overlaps_the_suite_is_found(provenance, told):
    found = overlap(overlapping(), note(**provenance))
    assert len(found) == len(told)
    for finding, part in zip(found, told, strict=True):
        assert finding.kind == "overlap" and part in finding.text


def scored(scores, twin_scores, split="iid"):
    job = SuiteJob("", "", split, "bandit/bernoulli", "uniform", random=0.0, reference=1.0, attempts=1)
    suite = SimpleNamespace(name="mine", version=1, digest="ab")

    def records(values, suffix):
        return [
            recorded(Seat(suite, replace(job, id=f"{n}{suffix}"), 0), "ours", [Attempt("ok", rewards=[value])])[0][0]
            for n, value in enumerate(values)
        ]

    return records(scores, ""), records(twin_scores, TWIN)


def test_a_learner_that_met_the_jobs_does_better_there_than_on_their_twins():
    generator = np.random.default_rng(0)
    chance = generator.normal(0.5, 0.3, (2, 40))
    (finding,) = twins(*scored(chance[0] + 0.4, chance[1]))
    assert (finding.kind, finding.learner) == ("twins", "ours") and "iid jobs" in finding.text
    assert twins(*scored(chance[0], chance[1])) == []
    assert twins(*scored(chance[0] - 0.4, chance[1])) == []  # worse: no reason for suspicion
    assert twins(*scored([1.0] * 5, [0.0] * 5)) == []  # too few to tell


def test_twins_raise_few_false_alarms():
    generator = np.random.default_rng(1)
    alarms = sum(bool(twins(*scored(*generator.normal(0.5, 0.3, (2, 12))))) for _ in range(200))
    assert alarms <= 12  # 2.5 % of 200 are 5


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ("info", "info['hint'] gives the answer away"),
        ("seed", "info['origin'] shows the seed"),
        ("name", "'best_action'"),
    ],
)
def test_an_environment_that_gives_its_answer_away_is_found(told, text):
    (job,) = make_suite("one", [{"job": f"{HERE}:Telling", "kwargs": {"told": told}}]).jobs
    (finding,) = leaks(job)
    assert (finding.kind, finding.job) == ("leak", f"{HERE}:Telling") and text in finding.text


def test_an_honest_environment_raises_no_alarm():
    (job,) = make_suite("one", [{"job": f"{HERE}:Telling", "kwargs": {"told": "nothing"}}]).jobs
    assert list(leaks(job)) == []
    for name in ("CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "Nonsense-v0", "probe/value-v0"):
        assert list(leaks(make_suite("one", [name]).jobs[0])) == []
