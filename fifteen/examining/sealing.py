"""Sealed suites: a log of who opened one, in which nothing can be changed or left out unnoticed.

Every entry holds the hash of the entry before, so that the hash of the last one, the head, stands for all of them.
Publish the head with a result: whoever has it can check the log with `openings`. Nothing here hides a suite from
somebody who reads its file without asking; the log counts the exams that were held with this library.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fifteen.errors import RunError
from fifteen.examining.suites import Suite, write_suite
from fifteen.provenance import commit


@dataclass(frozen=True)
class Entry:
    """One line of the log: that a suite was sealed (the first one), or opened."""

    number: int  # 0: sealed; n: the n-th opening
    suite: str
    suite_hash: str
    by: str  # whose exam
    commit: str | None
    time: str  # UTC, ISO 8601
    previous: str  # hash of the entry before, "" of the first

    @property
    def hash(self) -> str:
        """SHA-256 of everything else."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def seal(suite: Suite, path: Path) -> Suite:
    """Write a sealed suite into the JSON file `path`, and beside it the log of its openings, which are none yet.

    Raises RunError where there is a log already.
    """
    log = path.with_suffix(".openings.jsonl")
    if log.exists():
        raise RunError(
            f"{log} exists: that suite is sealed already, and its openings are not forgotten. Take a new name"
        )
    sealed = dataclasses.replace(suite, log=log)
    write_suite(sealed, path)
    log.write_text(_line(_entry(suite, 0, "", "sealed")), encoding="utf-8")
    return sealed


def record_opening(suite: Suite, by: str) -> tuple[int, str]:
    """Add an opening to a sealed suite's log: how many there are now, and the head. Raises as `openings` does."""
    assert suite.log is not None
    openings(suite.log)  # says it where the log is missing: nothing is made anew
    with suite.log.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        entries = openings(suite.log)
        if entries[-1].suite_hash != suite.digest:
            raise RunError(f"{suite.log} is the log of another suite ({entries[-1].suite}): its hash differs")
        entry = _entry(suite, len(entries), entries[-1].hash, by)
        file.seek(0, os.SEEK_END)
        file.write(_line(entry))
        file.flush()
        os.fsync(file.fileno())
    return entry.number, entry.hash


def openings(log: Path, head: str | None = None) -> tuple[Entry, ...]:
    """All entries of a log, checked; the first is the sealing.

    head: as it was published; the log may have grown since. Raises RunError where the log is missing, an entry was
    changed, taken out or put in, or the entry whose hash is `head` is not there (the end was cut off).
    """
    if not log.is_file():
        raise RunError(f"the suite is sealed, but its log {log} is missing: put it back")
    entries: list[Entry] = []
    hashes: list[str] = []
    for number, line in enumerate(log.read_text(encoding="utf-8").splitlines()):
        try:
            told: dict[str, Any] = json.loads(line)
            written = told.pop("hash")
            entry = Entry(**told)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{log}, line {number + 1}, is no entry of a log of openings: {line[:80]!r}") from error
        if (entry.number, entry.previous, entry.hash) != (number, hashes[-1] if hashes else "", written):
            raise RunError(
                f"{log}, line {number + 1}: the chain of hashes breaks here, an entry was changed or is gone"
            )
        entries.append(entry)
        hashes.append(written)
    if not entries or (head is not None and head not in hashes):
        raise RunError(f"{log} has no entry with the published head {head}: its end was cut off, or it is another log")
    return tuple(entries)


def _entry(suite: Suite, number: int, previous: str, by: str) -> Entry:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Entry(number, suite.name, suite.digest, by, commit(), moment, previous)


def _line(entry: Entry) -> str:
    return json.dumps({**dataclasses.asdict(entry), "hash": entry.hash}) + "\n"
