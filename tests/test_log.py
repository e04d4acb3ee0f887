"""Sinks: what they write, when, and that a resumed file goes on where it was saved."""

import dataclasses
import errno
import io
import json
import math
import os
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fifteen.errors import FifteenError, RunError
from fifteen.log import Attempt, JsonlSink, Progress, TensorBoardSink, duration, number
from fifteen.terminal import Curve, TerminalSink, live_view, plain_line

ATTEMPT = Attempt(
    stream=0,
    number=3,
    step=40,
    ret=12.5,
    length=10,
    terminated=True,
    expected=8.0,
    discounted=9.5,
    surprise=0.25,
)
PROGRESS = Progress(
    job="CartPole-v1",
    step=12_340,
    steps_total=20_000,
    attempt=141,
    last_return=312.0,
    recent=241.34,
    expected=86.2134,
    surprise=0.0421,
    steps_per_s=812.3,
    seconds_left=74.2,
    updates=12_100,
    reward_scale=17.3,
    losses={"policy": 1.5},
    finished=(ATTEMPT,),
)


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def at(step, **changes):
    return dataclasses.replace(PROGRESS, step=step, **{"finished": (), **changes})


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_writes_every_attempt_and_progress_now_and_then(tmp_path):
    clock = Clock()
    sink = JsonlSink(tmp_path / "m.jsonl", {"job": "CartPole-v1"}, every_s=5.0, clock=clock)
    for step in range(1, 101):  # ten seconds in steps of 0.1 s
        clock.now += 0.1
        sink.write(at(step, finished=(dataclasses.replace(ATTEMPT, step=step),)))
    sink.close()
    entries = lines(tmp_path / "m.jsonl")
    assert entries[0] == {"kind": "run", "job": "CartPole-v1"}
    attempts = [entry for entry in entries if entry["kind"] == "attempt"]
    assert [entry["step"] for entry in attempts] == list(range(1, 101))
    assert attempts[9] == {
        "kind": "attempt",
        "job": "CartPole-v1",
        "time_s": 1.0,
        "stream": 0,
        "number": 3,
        "step": 10,
        "length": 10,
        "terminated": True,
        "expected": 8.0,
        "discounted": 9.5,
        "surprise": 0.25,
        "return": 12.5,
    }
    steps = [entry["step"] for entry in entries if entry["kind"] == "progress"]
    assert steps[0] == 1 and steps[-1] == 100 and len(steps) <= 4


def test_jsonl_says_faults_notes_and_the_reason(tmp_path):
    sink = JsonlSink(tmp_path / "m.jsonl")
    sink.write(at(1, faults={"reward non-finite": 2}, notes=("careful",), reason="steps"))
    sink.close()
    (_, entry) = lines(tmp_path / "m.jsonl")
    assert entry["faults"] == {"reward non-finite": 2}
    assert entry["notes"] == ["careful"]
    assert entry["reason"] == "steps"


def test_jsonl_has_no_nan(tmp_path):
    sink = JsonlSink(tmp_path / "m.jsonl", {"x": np.float32(0.5)})
    sink.write(at(1, expected=math.nan, losses={"policy": math.inf}))
    sink.close()
    run, entry = lines(tmp_path / "m.jsonl")
    assert run["x"] == 0.5
    assert entry["expected"] is None and entry["losses"] == {"policy": None}


def test_jsonl_goes_on_where_it_was_saved(tmp_path):
    path, clock = tmp_path / "m.jsonl", Clock()
    sink = JsonlSink(path, {"job": "j"}, clock=clock)
    clock.now += 30
    sink.write(PROGRESS)
    position = sink.position()
    assert position == path.stat().st_size  # on the disk, not in a buffer
    saved = path.read_bytes()
    clock.now += 30
    sink.write(at(15_000, finished=(ATTEMPT,)))
    sink.close()
    assert path.stat().st_size > position

    later = Clock()
    again = JsonlSink(path, {"job": "j"}, truncate_at=position, clock=later)
    assert path.read_bytes() == saved
    later.now += 1
    again.write(at(12_400))
    again.close()
    assert path.read_bytes().startswith(saved)
    entries = lines(path)
    assert [entry["kind"] for entry in entries] == ["run", "attempt", "progress", "progress"]
    assert entries[-1]["time_s"] == 31.0  # the seconds before the save count too


def test_jsonl_finds_the_time_in_a_long_file(tmp_path):
    path, clock = tmp_path / "m.jsonl", Clock()
    sink = JsonlSink(path, clock=clock)
    clock.now += 7
    sink.write(at(1, finished=(ATTEMPT,) * 1_000))
    position = sink.position()
    sink.close()
    assert position > 100_000
    again = JsonlSink(path, truncate_at=position, clock=Clock())
    again.write(at(2))
    again.close()
    assert lines(path)[-1]["time_s"] == 7.0


def test_jsonl_refuses_a_file_that_lost_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"kind": "run"}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"has 16 bytes, but 99 had been written"):
        JsonlSink(path, truncate_at=99)


def test_closing_twice_is_harmless(tmp_path):
    sink = JsonlSink(tmp_path / "m.jsonl")
    sink.write(PROGRESS)
    sink.close()
    before = (tmp_path / "m.jsonl").read_bytes()
    sink.close()
    assert (tmp_path / "m.jsonl").read_bytes() == before


def plain(clock):
    out = io.StringIO()
    return TerminalSink(Console(file=out, width=80, force_terminal=False), clock=clock), out


def test_plain_lines_at_most_one_every_5_s():
    clock = Clock()
    sink, out = plain(clock)
    for step in range(1, 121):  # twelve seconds in steps of 0.1 s
        sink.write(at(step))
        clock.now += 0.1
    sink.close()
    shown = [int(line.split(": ")[1].split(" of ")[0]) for line in out.getvalue().splitlines()]
    assert shown[0] == 1 and shown[-1] == 120  # the last one is always shown
    assert len(shown) == 4
    assert all(b - a >= 50 for a, b in zip(shown[:2], shown[1:3], strict=True))


def test_a_note_is_printed_once():
    sink, out = plain(Clock())
    sink.write(at(1, notes=("no time limit",)))
    sink.write(at(2, notes=("no time limit", "resume differed")))
    sink.close()
    assert out.getvalue().count("note: no time limit\n") == 1
    assert out.getvalue().count("note: resume differed\n") == 1


def test_plain_line_says_everything():
    line = plain_line(dataclasses.replace(PROGRESS, faults={"reward non-finite": 3}))
    assert line == (
        "CartPole-v1: 12,340 of 20,000 steps, attempts 141, return 312, mean of 20 241.3, "
        "expects 86.21, surprise 0.0421, 812 steps/s, 1:14 left, faults: reward non-finite x3"
    )
    unknown = at(5, steps_total=None, seconds_left=None, last_return=None, recent=None)
    assert plain_line(unknown).startswith("CartPole-v1: 5 steps, attempts 141, return –, mean of")


def test_live_view_shows_the_figures_wide_and_narrow():
    curve = Curve()
    for value in range(30):
        curve.add(float(value))
    for width in (100, 60):
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(live_view(PROGRESS, curve, width))
        text = console.export_text()
        for part in ("CartPole-v1", "12,340 of 20,000", "1:14 left", "141", "312", "241.3"):
            assert part in text
        for part in ("expects", "86.21", "surprise", "0.0421", "812 steps/s", "▁", "█"):
            assert part in text
        assert max(len(line) for line in text.splitlines()) <= width


def test_live_view_on_a_terminal_is_refreshed_four_times_a_second():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, _environ={"TERM": "xterm"})
    sink = TerminalSink(console, clock=clock)
    sizes = []
    for step in range(10):  # one second in steps of 0.1 s
        sink.write(at(step))
        sizes.append(len(out.getvalue()))
        clock.now += 0.1
    drawn = sum(b > a for a, b in zip([0, *sizes[:-1]], sizes, strict=True))
    sink.close()
    assert 3 <= drawn <= 4
    assert "9 of 20,000 steps" in out.getvalue()  # the last state stays on the screen


@given(st.lists(st.floats(-1e6, 1e6), max_size=400))
def test_curve_has_bounded_length(values):
    curve = Curve(cells=10)
    for value in values:
        curve.add(value)
    assert len(str(curve)) < 20
    assert set(str(curve)) <= set(Curve.BLOCKS)
    assert bool(str(curve)) == bool(values)


def test_curve_goes_from_low_to_high():
    curve = Curve(cells=4)
    for value in range(64):
        curve.add(float(value))
    line = str(curve)
    assert line[0] == "▁" and line[-1] == "█" and line == "".join(sorted(line))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-0.123456, "-0.1235"),
        (1234.5, "1,234"),
        (7e-4, "0.0007"),
        (1.5e-6, "1.50e-06"),
        (2.5e8, "2.50e+08"),
        (math.nan, "nan"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_duration():
    assert [duration(s) for s in (0, 65, 3725)] == ["0:00", "1:05", "1:02:05"]


def test_tensorboard_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(FifteenError, match=r"pip install 'fifteen\[tensorboard\]'"):
        TensorBoardSink(tmp_path)


def test_tensorboard_writes_over_environment_steps(tmp_path):
    from tensorboardX.proto import event_pb2

    event_type = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue] (made at import)
    sink = TensorBoardSink(tmp_path)
    sink.write(PROGRESS)
    sink.close()
    (file,) = tmp_path.iterdir()
    data, scalars = file.read_bytes(), {}
    while data:  # length 8 bytes, its checksum 4, the event, its checksum 4
        size = int.from_bytes(data[:8], "little")
        event = event_type.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            scalars[value.tag] = (event.step, value.simple_value)
    assert scalars["attempt/return"] == (40, 12.5)
    assert scalars["losses/policy"] == (12_340, 1.5)


def test_a_full_disk_names_the_file_and_what_to_do(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = JsonlSink(tmp_path / "m.jsonl", {"job": "A-v0"})
    with monkeypatch.context() as patched, pytest.raises(RunError, match=r"cannot write .*m\.jsonl: No space left"):
        patched.setattr(os, "fsync", full)
        sink.position()
    sink.close()
