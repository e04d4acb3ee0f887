"""What the claims share: verdicts, and runs that are kept, so that an experiment goes on where it stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from measuring import RESULTS
from peers import write_json

from fifteen.examining.stats import Interval, bootstrap_interval

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
CLAIMS = RESULTS / "claims"
LEAST_SEEDS = 6  # for an interval of 95 %: fewer could not decide anything


class Verdict(NamedTuple):
    """What the data say of one claim."""

    claim: str
    word: str  # HOLDS, FAILS or UNDECIDED
    interval: tuple[float, float, float, float] | None  # estimate, low, high, level
    why: str

    @property
    def told(self) -> str:
        """The figures for a person."""
        if self.interval is None:
            return self.why
        estimate, low, high, level = self.interval
        figures = f"{estimate:.3g} [{low:.3g}, {high:.3g}]".replace("-", "−")
        return f"{figures} ({100 * level:.4g} %): {self.why}"


def judged(claim: str, found: Interval, *, above: float, why: str, sign: float = 1.0) -> Verdict:
    """The claim is that sign * value > sign * above: it holds where the whole interval says so.

    It does not hold where the whole interval says the opposite, and is undecided otherwise. why: what the value is.
    """
    low, high = sorted((sign * (found.low - above), sign * (found.high - above)))
    word = HOLDS if low > 0.0 else FAILS if high < 0.0 else UNDECIDED
    return Verdict(claim, word, (found.estimate, found.low, found.high, found.level), why)


def mean_over_seeds(values: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
    """Mean of float64[seeds] with its bootstrap interval."""
    return bootstrap_interval(
        np.asarray(values, np.float64)[None], lambda x: float(x.mean()), families=None, seed=0, level=level
    )


@final
class Runs:
    """Outcomes by condition and seed, in one JSON with where and how they were run, written after every addition."""

    def __init__(self, path: Path, settings: dict[str, Any], told: dict[str, Any]):
        """settings: what every run has in common; told: of `measuring.provenance`.

        Raises SystemExit where the file that is there was begun with other settings.
        """
        self.path, self._told = path, told
        self._record: dict[str, Any] = {"settings": _plain(settings), "sessions": [], "runs": {}}
        if self.path.exists():
            self._record = json.loads(self.path.read_text())
            if self._record["settings"] != _plain(settings):
                theirs = self._record["settings"]
                differs = [key for key in {**theirs, **settings} if theirs.get(key) != _plain(settings).get(key)]
                raise SystemExit(
                    f"{self.path.name} was begun with other settings ({', '.join(sorted(differs))}): "
                    "delete it to begin anew, or go back to those"
                )

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return self._record["sessions"]

    def conditions(self) -> list[str]:
        return list(self._record["runs"])

    def of(self, condition: str) -> dict[int, Any]:
        """Outcomes by seed, in order of seeds."""
        batches = self._record["runs"].get(condition, [])
        return dict(sorted((int(seed), outcome) for batch in batches for seed, outcome in batch["outcomes"].items()))

    def missing(self, condition: str, seeds: Sequence[int]) -> list[int]:
        have = self.of(condition)
        return [seed for seed in seeds if seed not in have]

    def add(self, condition: str, outcomes: Mapping[int, Any], **how: Any) -> None:
        """outcomes: by seed, JSON-able, numbers that are not finite become null; how: what these runs had in common."""
        if self._told not in self.sessions:
            self.sessions.append(self._told)
        batch = {"session": self.sessions.index(self._told), **how, "outcomes": outcomes}
        self._record["runs"].setdefault(condition, []).append(_plain(batch))
        self._write()

    def conclude(self, results: dict[str, Any]) -> None:
        """Keep what the runs say."""
        self._record["results"] = _plain(results)
        self._write()

    def _write(self) -> None:
        ordered = {key: self._record[key] for key in ("settings", "results", "sessions", "runs") if key in self._record}
        write_json(self.path, ordered)


def each_seed(
    runs: Runs, condition: str, seeds: Sequence[int], run: Callable[[int], Any], tell: Callable[[str], None] = print
) -> None:
    """Run the seeds of a condition that are missing, one by one."""
    for seed in runs.missing(condition, seeds):
        outcome = run(seed)
        runs.add(condition, {seed: outcome})
        tell(f"{condition}, seed {seed}: {outcome}")


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return float(f"{value:.6g}")
    return value
