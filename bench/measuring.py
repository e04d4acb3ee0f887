"""What the measurements share: medians with intervals, and results with command, commit, device and versions."""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fifteen.checkpoint import atomic_write
from fifteen.provenance import commit, device, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def median_interval(values: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """The median and an interval that holds the true median with probability >= level, whatever the distribution.

    The interval lies between two order statistics; with fewer than six values it is their whole range.
    """
    ordered, n = sorted(values), len(values)
    cut = tail = 0  # how many values may be left out on either side
    while cut < (n - 1) // 2:
        tail += math.comb(n, cut)
        if 2.0 * tail / 2.0**n > 1.0 - level:
            break
        cut += 1
    cut = max(cut - 1, 0)
    return {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut], "n": n}


def provenance(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Any]:
    """How to repeat a measurement: nothing in it names a machine or a folder."""
    words = ["python", Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()]
    for name, value in vars(arguments).items():
        if value != parser.get_default(name) and not isinstance(value, Path | bool):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return {
        "command": " ".join(words),
        "commit": commit(),
        "device": device(),
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write_result(name: str, record: dict[str, Any]) -> Path:
    """Write bench/results/NAME.json in one step."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, (json.dumps(record, indent=1) + "\n").encode())
    return path
