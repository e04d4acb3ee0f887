"""Suites: what an exam asks, as data. A suite is a list of jobs with budgets, seeds and references, and a hash.

The hash (SHA-256 of the contents, however the file is laid out) says which questions were asked. Which code drew them
and let them be answered, the commit and the versions in an exam's header say.
"""

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fifteen.checkpoint import atomic_write
from fifteen.errors import RunError
from fifteen.examining.records import Split
from fifteen.jobs.references import references

SHIPPED_SUITES = Path(__file__).with_name("suites")
RUNS = 5
"""Lifetimes on each job, where a suite does not say."""
ATTEMPTS = 10
"""Attempts of a lifetime, where a suite has no budget for a job."""


@dataclass(frozen=True)
class SuiteJob:
    """One job of a suite: a drawn job of a family (family, template and seed), or any other job by its id."""

    id: str  # unique in the suite
    job: str  # what `fifteen.work` takes; of a family's job the family's name with "-v0"
    split: Split
    family: str  # jobs of one family are alike: intervals are over families. Of other jobs the environment's name
    template: str = ""
    seed: int = 0  # draws a family's job; of every job the lifetimes' seeds are made from it
    attempts: int | None = ATTEMPTS  # a lifetime ends after so many attempts,
    steps: int | None = None  # or environment steps, whichever comes first; at least one of the two is given
    step_limit: int | None = None  # steps after which an attempt is truncated, beside the job's own limit
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of the environment
    random: float | None = None  # mean return of an attempt of a uniformly random policy,
    reference: float | None = None  # and of the reference: scores 0 and 1. Neither: the job is not scored
    threshold: float | None = None  # the score from which an attempt counts as solved
    source: str = ""  # where the two come from

    @property
    def drawn(self) -> bool:
        """Whether it is drawn from a family, so that there are others like it."""
        return bool(self.template)

    @property
    def arguments(self) -> dict[str, Any]:
        """The kwargs with which it is opened."""
        own = {"seed": self.seed, "template": self.template} if self.drawn else {}
        return {**self.kwargs, **own}

    def score(self, return_: float) -> float | None:
        """0: a uniformly random policy, 1: the reference. None where the suite has neither."""
        if self.random is None or self.reference is None:
            return None
        return (return_ - self.random) / (self.reference - self.random)

    def lifetime_seed(self, run: int) -> int:
        """The 31-bit seed of lifetime `run` on this job."""
        return int(np.random.SeedSequence((self.seed, run)).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class Suite:
    """A versioned list of jobs. Whoever changes it gives it a new version; the hash changes by itself."""

    name: str
    version: int
    access: str  # who had access to it, and what was tuned to it
    jobs: tuple[SuiteJob, ...]
    runs: int = RUNS
    log: Path | None = field(default=None, compare=False)  # of a sealed suite: the log of its openings

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the contents."""
        return hashlib.sha256(json.dumps(_contents(self), sort_keys=True).encode()).hexdigest()


def make_suite(
    name: str,
    jobs: Sequence[SuiteJob | Mapping[str, Any] | str],
    *,
    version: int = 1,
    access: str = "not said",
    runs: int = RUNS,
) -> Suite:
    """A suite of one's own.

    Each job is a `SuiteJob`, its fields as a mapping, or the id of an environment. A mapping with `family`, `template`
    and `seed` names a drawn job and needs no id; its references are those of `jobs/references.json` where it gives
    none; its split says whether anybody may have trained on it. Any other mapping needs `job`. Raises RunError for
    jobs that contradict themselves or each other. Whether a job can be opened, the exam says.
    """
    suite = Suite(str(name), version, access, tuple(_job(job) for job in jobs), runs)
    repeated = [id for id, count in Counter(job.id for job in suite.jobs).items() if count > 1]
    if repeated:
        raise RunError(f"suite {name}: there are several jobs {repeated[0]!r}, expected every id once: give them ids")
    if not suite.jobs:
        raise RunError(f"suite {name} has no jobs")
    if not _counts(version) or not _counts(runs):
        raise RunError(f"suite {name}: version {version!r} and runs {runs!r}, expected two whole numbers from 1 on")
    return suite


def read_suite(suite: Suite | str | Path) -> Suite:
    """A suite that ships, by name, or one in a file of JSON or TOML.

    Raises RunError where there is none, where it is malformed, and where it has a `sha256` that it does not match.
    """
    if isinstance(suite, Suite):
        return suite
    path = SHIPPED_SUITES / f"{suite}.json"
    if Path(suite).suffix in (".json", ".toml"):
        path = Path(suite)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED_SUITES.glob("*.json")))
        raise RunError(
            f"there is no suite {str(suite)!r}: choose one of {known}, or a file that ends in .toml or .json"
        )
    try:
        text = path.read_text(encoding="utf-8")
        told = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        frozen, sealed, jobs = told.pop("sha256", None), told.pop("sealed", None), told.pop("jobs")
        read = make_suite(told.pop("name", path.stem), jobs, **told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is no suite ({type(error).__name__}: {error}): see docs/exam.md") from error
    if frozen is not None and read.digest != frozen:
        raise RunError(
            f"{path} was changed after it was frozen: it says sha256 {frozen}, its contents have {read.digest}. Put "
            "the original back, or give it another version and freeze it again with write_suite"
        )
    return read if sealed is None else dataclasses.replace(read, log=path.parent / sealed)


def write_suite(suite: Suite, path: Path) -> Path:
    """Freeze a suite into a JSON file with its hash, one job a line."""
    if path.suffix != ".json":
        raise RunError(f"a suite is frozen into a .json file, not {path}")
    contents = _contents(suite)
    jobs = contents.pop("jobs")
    contents["sha256"] = suite.digest
    if suite.log is not None:
        contents["sealed"] = suite.log.name
    lines = ",\n  ".join(json.dumps(job) for job in jobs)
    head = json.dumps(contents, indent=1).removesuffix("\n}")
    atomic_write(path, f'{head},\n "jobs": [\n  {lines}\n ]\n}}\n'.encode())
    return path


def _contents(suite: Suite) -> dict[str, Any]:
    """What is hashed and kept. Fields that are empty are left out, so that new ones change no hash."""
    told = {"name": suite.name, "version": suite.version, "access": suite.access, "runs": suite.runs}
    jobs = [{name: value for name, value in vars(job).items() if value not in (None, "", {})} for job in suite.jobs]
    return {**told, "jobs": jobs}


def _job(given: SuiteJob | Mapping[str, Any] | str) -> SuiteJob:
    """A checked job, with what was left out filled in."""
    if isinstance(given, SuiteJob):
        return _checked(given)
    told: dict[str, Any] = {"job": given} if isinstance(given, str) else dict(given)
    template, seed = told.get("template", ""), told.get("seed", 0)
    if template and "job" not in told:
        told["job"] = f"{told.get('family', '')}-v0"
    if "job" not in told:
        raise RunError(f"a job of a suite has the fields {told}, expected job, or family, template and seed")
    told.setdefault("family", told["job"].rpartition("-v")[0] or told["job"])
    told.setdefault("id", f"{told['family']}/{template}/{seed}" if template else told["job"])
    told.setdefault("split", "iid" if template else "outside")
    if "steps" in told:
        told.setdefault("attempts", None)
    known = references().get(told["family"], {}).get(template)
    if known is not None and not {"random", "reference"} & set(told):
        told["random"], told["reference"] = known
    try:
        return _checked(SuiteJob(**told))
    except TypeError as error:
        names = ", ".join(f.name for f in dataclasses.fields(SuiteJob))
        raise RunError(f"a job of a suite has the fields {told}: {error}; there are {names}") from error


def _checked(job: SuiteJob) -> SuiteJob:
    if job.split not in get_args(Split):
        raise RunError(f"{job.id}: the split is {job.split!r}, expected one of {', '.join(get_args(Split))}")
    budget = [limit for limit in (job.attempts, job.steps) if limit is not None]
    if not budget or not all(map(_counts, budget)):
        raise RunError(
            f"{job.id}: a budget of {job.attempts!r} attempts and {job.steps!r} steps, expected at least one of "
            "the two, and whole numbers from 1 on"
        )
    if (job.random is None) != (job.reference is None) or (job.random is not None and job.random == job.reference):
        raise RunError(
            f"{job.id}: random is {job.random} and reference {job.reference}, expected two different returns, or "
            "neither"
        )
    if job.threshold is not None and job.random is None:
        raise RunError(f"{job.id}: the threshold {job.threshold} is a score, and the job has no references")
    if not isinstance(job.seed, int) or isinstance(job.seed, bool) or not 0 <= job.seed < 2**32:
        raise RunError(f"{job.id}: the seed is {job.seed!r}, expected a whole number from 0 to 2**32 - 1")
    return job


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
