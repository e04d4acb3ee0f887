"""The demonstration, in small: what it leaves, that its page says it and links it, and that it can be interrupted."""

import json
import re
import shutil
import signal
from types import SimpleNamespace

import pytest
from rich.console import Console

import fifteen
from fifteen import demo
from fifteen.errors import RunError
from fifteen.learner import new

FLEET = """
[[instance]]
job = "probe/policy-v0"
steps = 300

[[instance]]
job = "probe/action-v0"
steps = 300
"""
SMALL = demo.DemoConfig("probe/action-v0", 3, 2, unschooled_steps=300, fleet=FLEET, updates=20, episodes=3)
WORK = fifteen.work


@pytest.fixture(scope="module")
def debug():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fifteen, "load", lambda: new("debug", seed=0))
        patch.setattr(fifteen, "new", lambda size, seed: new("debug", seed=1))
        yield


@pytest.fixture(scope="module")
def shown(debug, tmp_path_factory):
    """The folder, and what was said."""
    folder = tmp_path_factory.mktemp("demo") / "d"
    console = Console(width=200, record=True)
    assert demo.run_demo(folder, console, SMALL) == 0
    return folder, console.export_text()


def part_of(shown, tmp_path, *without):
    """A copy of a demonstration that has not come so far."""
    return shutil.copytree(shown[0], tmp_path / "d", ignore=shutil.ignore_patterns("index.html", *without))


def test_it_says_what_came_of_it(shown):
    folder, said = shown
    assert re.search(r"schooled, in context: -?[\d.]+ in attempt 1, -?[\d.]+ in attempt 3, at step", said)
    assert f"fifteen work --learner shipped --fleet {folder}/day.toml --run {folder}/day" in said
    assert "1-probe-policy-v0 begun" in said and "2 took part, 0 left out" in said
    assert re.search(r"Job +before +after the day +after the night +share kept", said)
    assert said.rstrip().endswith(str(folder / "index.html"))
    assert (folder / "night" / "manifest.json").is_file()


def test_attempts_in_context(shown):
    context = json.loads((shown[0] / "context.json").read_text())
    for which in ("kept", "wiped"):
        assert [len(one) for one in context[which]["returns"]] == [3, 3]
        assert all(one == sorted(one) and one[0] > 0 for one in context[which]["steps"])
    assert context["unschooled"]["steps"][0][-1] <= 300 and context["job"] == SMALL.job


def test_the_page_has_the_chart_the_jobs_and_links_that_lead_somewhere(shown):
    folder = shown[0]
    page = (folder / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert {"day/1-probe-policy-v0/report.html", "night/night.html", "unschooled/report.html"} <= set(links)
    assert all((folder / link).is_file() for link in links)
    assert f"{SMALL.job}, in context" in page and "memory wiped after every attempt" in page
    for job in json.loads((folder / "night" / "night.json").read_text())["jobs"]:
        (line,) = re.findall(rf">{job['job']}</a>.*?</td>(.*?)</tr>", page)
        cells = dict(re.findall(r'data-name="([^"]+)">([^<]*)<', line))
        assert list(cells) == ["before", "after the day", "after the night", "share kept"]
        assert float(cells["after the night"].split(" [")[0].replace("−", "-")) == pytest.approx(
            job["night"]["estimate"], abs=0.5
        )
    assert "interrupted" not in page


def test_who_did_not_take_part_is_named(shown, tmp_path):
    assert "Left out" not in (shown[0] / "index.html").read_text()
    folder = part_of(shown, tmp_path)
    told = json.loads((folder / "night" / "night.json").read_text())
    told["left_out"] = [
        ["d/day/1-probe-policy-v0", "hung: no beat for 300 s"],
        ["d/day/2-probe-action-v0", "its weights are <odd>"],
    ]
    (folder / "night" / "night.json").write_text(json.dumps(told))
    page = demo.write_demo_report(folder, done=True).read_text()
    assert "<li>1-probe-policy-v0: hung: no beat for 300 s</li>" in page
    assert "<li>2-probe-action-v0: its weights are &lt;odd&gt;</li>" in page


def test_what_is_done_is_not_done_again(shown, debug, tmp_path, monkeypatch):
    folder = part_of(shown, tmp_path)
    for name in ("work", "resume", "evaluate"):
        monkeypatch.setattr(fifteen, name, None)
    assert demo.run_demo(folder, Console(quiet=True), SMALL) == 0
    assert (folder / "index.html").is_file()


def test_ctrl_c_at_work(debug, tmp_path, monkeypatch):
    def interrupted(*given, **named):
        return WORK(*given, **named, callback=lambda _: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(fifteen, "work", interrupted)
    console = Console(width=200, record=True)
    assert demo.run_demo(tmp_path, console, SMALL) == 130
    assert f"to go on: fifteen demo --run {tmp_path}\n" in console.export_text()
    page = (tmp_path / "index.html").read_text()
    assert 'href="unschooled/report.html"' in page and "interrupted" in page and "<table>" not in page
    # It goes on, and is interrupted in context.
    monkeypatch.setattr(fifteen, "evaluate", lambda *_, episodes, **__: SimpleNamespace(returns=[1.0] * (episodes - 1)))
    assert demo.run_demo(tmp_path, console, SMALL) == 130
    config = json.loads((tmp_path / "unschooled" / "config.json").read_text())
    assert config["settings"]["steps"] == SMALL.unschooled_steps
    assert not (tmp_path / "context.json").exists()


@pytest.mark.parametrize("part", ["run_fleet", "run_sleep"])
def test_ctrl_c_by_day_and_by_night(shown, debug, tmp_path, monkeypatch, part):
    folder = part_of(shown, tmp_path, "night", *(["day", "day.toml"] if part == "run_fleet" else []))
    monkeypatch.setattr(demo, part, lambda *_: 130)
    assert demo.run_demo(folder, Console(quiet=True), SMALL) == 130
    page = (folder / "index.html").read_text()
    assert f"{SMALL.job}, in context" in page and "interrupted" in page
    assert ("day/1-probe-policy-v0/report.html" in page) == (part == "run_sleep")


def test_a_day_that_nobody_finished(shown, debug, tmp_path, monkeypatch):
    folder = part_of(shown, tmp_path, "night")
    plan = json.loads((folder / "day" / "fleet.json").read_text())
    for one in plan["instances"]:
        one["ended"] = "failed"
    (folder / "day" / "fleet.json").write_text(json.dumps(plan))
    monkeypatch.setattr(demo, "run_fleet", lambda *_: 1)
    with pytest.raises(RunError, match="no instance finished its day"):
        demo.run_demo(folder, Console(quiet=True), SMALL)
