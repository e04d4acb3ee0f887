"""The command: arguments, exit statuses, what is said, and runs over several jobs. The learner is a fake."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import fifteen
from fifteen import cli
from fifteen.errors import JobError
from fifteen.learner import SHIPPED
from fifteen.log import SchoolProgress, WorkLog


class Fakes:
    """Stands in for the public functions; a learner is the list of what it has worked on."""

    def __init__(self, monkeypatch):
        self.calls = []
        self.cached = False
        self.reasons = []  # how the next runs end; "steps" when there is none
        for name in ("cache_compilations", "new", "load", "work", "resume", "evaluate"):
            monkeypatch.setattr(fifteen, name, getattr(self, name), raising=False)
        monkeypatch.setattr(cli, "open_job", self.open_job)

    def open_job(self, job, *, kwargs):
        if job == "Nonsense-v0":
            raise JobError("there is no job 'Nonsense-v0'")
        return SimpleNamespace(close=lambda: None)

    def cache_compilations(self):
        self.cached = True

    def new(self, *, size, seed):
        self.calls.append(("new", size, seed))
        return ["new"]

    def load(self, path):
        self.calls.append(("load", str(path)))
        return [f"loaded {Path(path).name}"]

    def work(self, learner, job, *, run, **settings):
        if job == "Nonsense-v0":
            raise JobError("there is no job 'Nonsense-v0'")
        self.calls.append(("work", learner[0], job, str(run), settings))
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"job": job}), encoding="utf-8")
        return self.finish(run, job)

    def resume(self, run, *, sinks):
        self.calls.append(("resume", str(run)))
        return self.finish(run, json.loads((run / "config.json").read_text())["job"])

    def finish(self, run, job):
        (run / "metrics.jsonl").write_text(json.dumps({"kind": "run", "job": job}) + "\n")
        n = np.arange(40)
        return WorkLog(
            returns=n.astype(np.float64),
            lengths=n,
            steps=10 * (n + 1),
            expected=n.astype(np.float64),
            discounted=n.astype(np.float64),
            surprise=n.astype(np.float64),
            faults={},
            notes=(),
            reason=self.reasons.pop(0) if self.reasons else "steps",
        )

    def evaluate(self, learner, job, **settings):
        self.calls.append(("evaluate", learner[0], job, settings))
        return SimpleNamespace(mean=10.5, std=1.25, returns=np.arange(3.0), lengths=np.array([2, 4, 6]))

    def settings(self):
        return [call[-1] for call in self.calls if call[0] == "work"]


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Fakes(monkeypatch)


def test_work_on_one_job(fakes, tmp_path, capsys):
    status = cli.main(
        ["work", "CartPole-v1", "--steps", "500", "--seed", "3", "--run", "r", "--num-envs", "2"]
        + ["--learn", "context", "--kwargs", '{"a": 1}', "--size", "debug"]
    )
    assert status == 0
    assert fakes.cached
    assert fakes.calls[0] == ("new", "debug", 3)
    kind, learner, job, run, settings = fakes.calls[1]
    assert (kind, learner, job, run) == ("work", "new", "CartPole-v1", "r")
    (sink,) = settings.pop("sinks")
    assert type(sink).__name__ == "TerminalSink"
    assert settings == {
        "steps": 500,
        "episodes": None,
        "seed": 3,
        "learn": "context",
        "num_envs": 2,
        "kwargs": {"a": 1},
    }
    said = capsys.readouterr().out
    assert "mean return 9.5 at first, 29.5 at last" in said
    assert str(tmp_path / "r" / "report.html").endswith("r/report.html") and "report.html" in said
    assert (tmp_path / "r" / "report.html").is_file()


def test_defaults(fakes, tmp_path):
    assert cli.main(["work", "bandit/5-v0"]) == 0
    assert fakes.calls[0] == ("new", "small", 0)
    _, _, _, run, settings = fakes.calls[1]
    assert run.startswith("runs/bandit-5-v0-2")
    assert settings["steps"] == 20_000 and settings["episodes"] is None
    assert settings["learn"] == "both"
    assert cli.main(["work", "CartPole-v1", "--episodes", "7"]) == 0
    assert fakes.settings()[1]["steps"] is None and fakes.settings()[1]["episodes"] == 7


def test_work_goes_on_with_a_saved_learner(fakes):
    assert cli.main(["work", "CartPole-v1", "--learner", "old", "--run", "r"]) == 0
    assert fakes.calls[0] == ("load", "old")
    assert fakes.calls[1][1] == "loaded old"


def test_tensorboard(fakes, tmp_path):
    assert cli.main(["work", "CartPole-v1", "--run", "r", "--tensorboard"]) == 0
    assert len(fakes.settings()[0]["sinks"]) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["work"], "no job given"),
        (["work", "A-v0", "--steps", "1", "--episodes", "1"], "--steps and --episodes"),
        (["work", "A-v0", "--learner", "x", "--size", "base"], "drop --size"),
        (["work", "A-v0", "--kwargs", "{a: 1}"], "--kwargs '{a: 1}' is not JSON"),
        (["work", "A-v0", "--kwargs", "[1]"], "--kwargs '[1]' is not a JSON object"),
        (["work", "Nonsense-v0", "--run", "r"], "there is no job 'Nonsense-v0'"),
        (["work", "A-v0", "Nonsense-v0", "--run", "r"], "there is no job 'Nonsense-v0'"),
        (["work", "A-v0", "B-v0", "--run", "/dev/null/r"], "/dev/null/r"),
        (["work", "A-v0", "--deadline", "5"], "--deadline is one of a fleet"),
        (["work", "A-v0", "--transport", "ray"], "--transport is one of a fleet"),
        (["work", "--resume", "nowhere"], "there is no folder nowhere"),
        (["work", "--resume", "r", "--steps", "5"], "drop --steps"),
        (["work", "--resume", "r", "--num-envs", "5"], "drop --num-envs"),
        (["work", "A-v0", "--resume", "r"], "drop JOB"),
        (["info", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_status_2(fakes, capsys, arguments, text):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("fifteen: ") and text in line
    assert not [call for call in fakes.calls if call[0] == "work"]


def test_wrong_arguments_have_status_2_too(fakes, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["work", "CartPole-v1", "--learn", "magic"])
    assert error.value.code == 2


def test_an_interrupted_run_says_how_to_go_on(fakes, capsys):
    fakes.reasons = ["interrupted"]
    assert cli.main(["work", "CartPole-v1", "--run", "r"]) == 130
    assert "To go on: fifteen work --resume r\n" in capsys.readouterr().out
    assert cli.main(["work", "--resume", "r"]) == 0
    assert fakes.calls[-1] == ("resume", "r")


def test_ctrl_c_outside_a_run(fakes, capsys, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fifteen, "new", interrupted, raising=False)
    assert cli.main(["work", "CartPole-v1"]) == 130
    assert capsys.readouterr().err == "fifteen: interrupted\n"


def test_several_jobs_are_done_by_one_learner(fakes, tmp_path, capsys):
    assert cli.main(["work", "A-v0", "b/B-v1", "--run", "r", "--steps", "5"]) == 0
    assert [call[:4] for call in fakes.calls] == [
        ("new", "small", 0),
        ("work", "new", "A-v0", "r/1-A-v0"),
        ("load", "r/1-A-v0"),
        ("work", "loaded 1-A-v0", "b/B-v1", "r/2-b-B-v1"),
    ]
    index = (tmp_path / "r" / "index.html").read_text()
    assert 'href="1-A-v0/report.html"' in index and 'href="2-b-B-v1/report.html"' in index
    assert "all reports: r/index.html" in capsys.readouterr().out
    assert cli.main(["work", "A-v0", "B-v0", "--run", "r"]) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize("died", ["interrupted in the first", "before the second began"])
def test_several_jobs_go_on_where_they_were(fakes, tmp_path, died):
    fakes.reasons = ["interrupted"] if died == "interrupted in the first" else []
    status = cli.main(["work", "A-v0", "B-v0", "--run", "r", "--seed", "4", "--learn", "weights"])
    if died == "interrupted in the first":
        assert status == 130
        expected = [("resume", "r/1-A-v0"), ("load", "r/1-A-v0"), ("work", "loaded 1-A-v0")]
    else:
        shutil.rmtree(tmp_path / "r" / "2-B-v0")  # as if killed between the two
        plan = json.loads((tmp_path / "r" / "plan.json").read_text())
        (tmp_path / "r" / "plan.json").write_text(json.dumps({**plan, "finished": 1}))
        expected = [("load", "r/1-A-v0"), ("work", "loaded 1-A-v0")]
    fakes.calls.clear()
    assert cli.main(["work", "--resume", "r"]) == 0
    assert [call[:2] for call in fakes.calls] == expected
    assert fakes.settings()[0]["seed"] == 4 and fakes.settings()[0]["learn"] == "weights"
    fakes.calls.clear()
    assert cli.main(["work", "--resume", "r"]) == 0  # all is done: nothing is done again
    assert fakes.calls == []


def test_evaluate(fakes, capsys):
    assert cli.main(["evaluate", "A-v0", "--learner", "old", "--episodes", "3", "--lifetimes", "2"]) == 0
    assert fakes.calls[1] == (
        "evaluate",
        "loaded old",
        "A-v0",
        {"episodes": 3, "lifetimes": 2, "seed": 1, "num_envs": 1, "kwargs": {}},
    )
    said = capsys.readouterr().out
    assert said == ("A-v0: mean return 10.5, standard deviation 1.25, mean length 4, 3 attempts\n")


def test_a_few_attempts_have_one_mean(fakes, capsys):
    console = Console(width=100)
    for n, said in ((1, "1 attempt, mean return 2.5"), (2, "2 attempts, mean return 3"), (0, "")):
        returns = np.array([2.5, 3.5])[:n]
        whole = np.zeros(n, np.int64)
        log = WorkLog(returns, whole, whole, returns, returns, returns, {}, (), "steps")
        (run := Path(f"r{n}")).mkdir()
        (run / "config.json").write_text("{}", encoding="utf-8")
        fakes.finish(run, "A-v0")
        cli._say_end(log, run, run, console)
        assert capsys.readouterr().out.splitlines()[:-2] == ([said] if said else [])


@pytest.mark.parametrize(("steps", "status"), [(1000, 0), (600, 130)])
def test_school_saves_and_says_how_to_go_on(monkeypatch, tmp_path, capsys, steps, status):
    def school(learner, families, *, callback, run, **settings):
        assert (families, run) == (("bandit", "mdp"), tmp_path / "s")
        assert settings["steps"] == 1000 and settings["config"].lifetimes == 64
        progress = SchoolProgress(steps, 1000, 2.0, 500.0, {"bandit/bernoulli": (0.1, 0.2, 0.35)}, {"entropy": 1.0})
        callback(progress)
        return progress

    monkeypatch.setattr(fifteen, "school", school)
    monkeypatch.setattr(fifteen, "cache_compilations", lambda: None)
    command = ["school", "bandit", "mdp", "--steps", "1e3", "--lifetimes", "64", "--size", "debug"]
    assert cli.main([*command, "--run", str(tmp_path / "s")]) == status
    said = capsys.readouterr().out
    assert ("To go on" in said) == (status == 130)
    assert fifteen.load(tmp_path / "s").config.width == 32
    if status == 0:
        assert "bandit/bernoulli 0.35" in said


def test_shipped_is_the_learner_that_ships(fakes):
    assert cli.main(["evaluate", "A-v0", "--learner", "shipped"]) == 0
    assert cli.main(["work", "A-v0", "--learner", "shipped", "--run", "r"]) == 0
    assert [call[1] for call in fakes.calls if call[0] == "load"] == [str(SHIPPED)] * 2


def test_jobs_lists_what_is_registered(fakes, capsys):
    assert cli.main(["jobs"]) == 0
    said = capsys.readouterr().out
    assert "probe/policy-v0" in said and "cartpole-hidden-velocity-v0" in said
    assert "module:factory" in said


def test_demo_has_a_folder_of_its_own(fakes, monkeypatch):
    shown = []
    monkeypatch.setattr(cli, "run_demo", lambda folder, _: shown.append(str(folder)) or 130)
    assert [cli.main(["demo"]), cli.main(["demo", "--run", "d"])] == [130, 130]
    assert shown[0].startswith("runs/demo-2") and shown[1] == "d" and fakes.calls == []
