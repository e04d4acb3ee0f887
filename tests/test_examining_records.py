"""Records of an exam: what is written is read, whatever happened to the last line."""

import dataclasses
import json

import pytest

from fifteen.errors import RunError
from fifteen.examining.records import (
    RECORDS,
    AttemptRecord,
    ExamHeader,
    Finding,
    LearnerNote,
    Value,
    append_records,
    counted_scores,
    finished_lifetimes,
    read_header,
    read_records,
    write_header,
)


def record(job="walk", run=0, attempt=0, attempts=2, status="ok", score=0.5, **fields):
    told = dict(
        learner="ours",
        job=job,
        family="walk",
        template="",
        split="outside",
        run=run,
        attempt=attempt,
        attempts=attempts,
        status=status,
        problem="" if status == "ok" else "the wheel came off",
        return_=None if status != "ok" else 7.0,
        score=score if status == "ok" else None,
        length=7,
        terminated=True,
        steps_before=7 * attempt,
        seconds=0.25,
        values=(Value(0, 6.5, 6.75), Value(3, 3.5, 4.0)),
        suite="mine",
        suite_version=1,
        suite_hash="ab" * 32,
    )
    return AttemptRecord(**(told | fields))


def header(**fields):
    told = dict(
        suite="mine",
        suite_version=2,
        suite_hash="ab" * 32,
        openings=3,
        access="nobody",
        learners=(LearnerNote("ours", "fifteen", "shipped", {"worked": [{"job": "CartPole-v1"}]}, "cd" * 32),),
        arguments={"seconds": 3.0},
        commit="0123456789ab",
        dirty=True,
        versions={"jax": "0.10.2"},
        device="AMD EPYC (cpu, 2 cores)",
        started="2026-11-21T00:00:00Z",
        runs=5,
        attempts={"walk": 10, "run": None},
        thresholds={"walk": 0.9},
        findings=(Finding("leak", "", "walk", "info gives it away"),),
        seconds=12.5,
        seal="ef" * 32,
    )
    return ExamHeader(**(told | fields))


def test_records_come_back_as_they_were(tmp_path):
    assert read_records(tmp_path) == ()
    first, second = [record(attempt=n) for n in range(2)], [record(run=1, status="crashed")]
    append_records(tmp_path, first)
    append_records(tmp_path, second)
    assert read_records(tmp_path) == (*first, *second)
    append_records(tmp_path, first, "others.jsonl")
    assert read_records(tmp_path, "others.jsonl") == tuple(first)


def test_a_half_written_last_line_is_dropped_and_spoils_nothing(tmp_path):
    append_records(tmp_path, [record(attempt=0), record(attempt=1)])
    whole = (tmp_path / RECORDS).read_bytes()
    for cut in (1, 40, len(whole) // 2 - 1):
        (tmp_path / RECORDS).write_bytes(whole[:-cut])
        assert read_records(tmp_path) == (record(attempt=0),)
    assert finished_lifetimes(read_records(tmp_path)) == set()  # one of two: it is lived again
    append_records(tmp_path, [record(attempt=0), record(attempt=1)])
    assert read_records(tmp_path) == (record(attempt=0), record(attempt=1))
    assert finished_lifetimes(read_records(tmp_path)) == {("ours", "walk", 0)}


def test_a_line_that_is_no_record_is_named(tmp_path):
    append_records(tmp_path, [record(attempt=0), record(attempt=1)])
    lines = (tmp_path / RECORDS).read_text().splitlines()
    for wrong in ("{}", lines[0].replace('"ok"', '"passed"'), lines[0][:-9]):
        (tmp_path / RECORDS).write_text("\n".join([wrong, lines[1]]) + "\n")
        with pytest.raises(RunError, match="line 1 of .* is no record"):
            read_records(tmp_path)


def test_of_a_lifetime_recorded_twice_the_later_one_counts(tmp_path):
    append_records(tmp_path, [record(score=0.1, attempts=1)])
    append_records(tmp_path, [record(score=0.9, attempts=1)])
    assert [r.score for r in read_records(tmp_path)] == [0.9]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    nan = float("nan")
    append_records(
        tmp_path,
        [record(return_=nan, score=nan, status="not finite", values=(Value(0, nan, 1.0), Value(1, 1.0, 2.0)))],
    )
    json.loads((tmp_path / RECORDS).read_text(), parse_constant=lambda name: pytest.fail(name))
    (read,) = read_records(tmp_path)
    assert (read.return_, read.score, read.values, read.failed) == (None, None, (Value(1, 1.0, 2.0),), True)


def test_a_disk_that_takes_nothing_is_named(tmp_path):
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(RunError, match="cannot write .*records.jsonl"):
        append_records(tmp_path, [record()])


def test_the_header_comes_back_as_it_was(tmp_path):
    write_header(tmp_path, header())
    assert read_header(tmp_path) == header()
    write_header(tmp_path, header(openings=None, seconds=None, findings=(), commit=None))
    assert read_header(tmp_path).seconds is None


def test_a_folder_without_a_header_is_no_exam(tmp_path):
    with pytest.raises(RunError, match="is not the folder of an exam"):
        read_header(tmp_path)
    told = dataclasses.asdict(header())
    del told["runs"]
    (tmp_path / "exam.json").write_text(json.dumps(told))
    with pytest.raises(RunError, match="no header of an exam of this version"):
        read_header(tmp_path)


def test_a_failure_counts_as_chance_or_as_the_worst_of_the_job():
    records = [
        record(score=0.8),
        record(status="crashed"),
        record(job="run", score=-1.5),
        record(job="run", status="timed out"),
        record(job="run", status="missing", learner="theirs"),
        record(job="fly", status="not applicable"),
        record(job="raw", score=None),
    ]
    assert counted_scores(records) == [0.8, 0.0, -1.5, -1.5, 0.0, None, None]


def test_only_whole_lifetimes_are_finished():
    records = [record(attempt=0), record(attempt=1), record(run=1), record(job="run", attempts=1, status="crashed")]
    assert finished_lifetimes(records) == {("ours", "walk", 0), ("ours", "run", 0)}
