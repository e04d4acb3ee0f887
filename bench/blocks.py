"""Two programs that are timed in turn: each in a process of its own, which runs a block when asked and waits otherwise.

Standard library only: a peer's Python may have nothing of ours.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


class Blocks:
    """The program's end: call it between two rounds of work.

    Says `told` at the first call, when whatever compiles or fills up is over. From then on every line of standard
    input asks for a number of seconds: whole rounds are run until they have passed, and steps and seconds are answered.
    """

    def __init__(self, told: Mapping[str, Any]):
        """told: JSON-able, what this program is."""
        self._told: Mapping[str, Any] | None = told
        self._asked = self._began = 0.0  # seconds; monotonic seconds
        self._steps = 0

    def __call__(self, steps: int) -> bool:
        """steps: so far. Waits where nothing is asked for; True when nothing will be asked any more."""
        spent = time.monotonic() - self._began
        if self._told is not None:
            self._answer(self._told)
            self._told = None
        elif spent < self._asked:
            return False
        else:
            self._answer({"steps": steps - self._steps, "seconds": spent})
        line = sys.stdin.readline()
        if not line:
            return True
        self._asked, self._steps = float(line), steps
        self._began = time.monotonic()
        return False

    def _answer(self, what: Mapping[str, Any]) -> None:
        print(json.dumps(what), flush=True)


class Program:
    """The other end: starts a program and asks it for blocks."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        """Returns when the program is ready. environment: variables to add."""
        self._command = command
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.told: dict[str, Any] = self._answer()

    def run(self, seconds: float) -> float:
        """Steps per second in a block of at least so many seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        block = self._answer()
        return block["steps"] / block["seconds"]

    def close(self) -> int:
        """End the program; gives its exit status."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._command[:2])} ended with {self.close()} before it answered: see above")
        return json.loads(line)
