"""Every example runs from start to end, with a small budget and in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
COMMAND = "import sys; from fifteen.cli import main; sys.exit(main())"


def run(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("name", "budget", "says"),
    [
        ("00_hello.py", 300, "mean return of the last 20: "),
        ("01_live_system.py", 60, "saved, loaded, and deciding: "),
        ("02_own_job.py", 192, "2 nights, return of the first -"),
        ("03_three_jobs.py", 150, "took part: 1-CartPole-v1"),
        ("04_three_jobs_on_ray.py", 150, "took part: 1-CartPole-v1"),
    ],
)
def test_example(name, budget, says, tmp_path):
    result = run([EXAMPLES / name, budget], tmp_path)
    assert result.returncode == 0, result.stderr
    assert says in result.stdout


def test_every_example_is_tested():
    scripts = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
    assert scripts == [mark[0] for mark in test_example.pytestmark[0].args[1]]


def test_the_page_shows_the_example_that_is_run():
    page = (ROOT / "docs" / "bring-your-own-job.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown[0] == (EXAMPLES / "thermostat.py").read_text(encoding="utf-8")


def test_own_job_on_the_command_line(tmp_path):
    (tmp_path / "thermostat.py").write_bytes((EXAMPLES / "thermostat.py").read_bytes())
    folder = tmp_path / "r"
    result = run(
        ["-c", COMMAND, "work", "thermostat:make", "--kwargs", '{"target": 21}']
        + ["--steps", 192, "--size", "debug", "--run", folder],
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "2 attempts" in result.stdout
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    attempts = [entry for line in lines if (entry := json.loads(line))["kind"] == "attempt"]
    assert [entry["length"] for entry in attempts] == [96, 96]
    assert not any(entry["terminated"] for entry in attempts)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>thermostat:make</h1>" in page
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))

    result = run(["-c", COMMAND, "info", folder], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "verified" in result.stdout
    again = ["-c", COMMAND, "evaluate", "thermostat:make", "--episodes", 1, "--learner", folder]
    result = run(again, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "thermostat:make: mean return -" in result.stdout
