"""What can be asked of the command `fifteen`: every subcommand's arguments, whose docstrings are its --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fifteen.assignments import Transport
from fifteen.config import Learn, SchoolConfig, Size, SleepConfig

_Positional = tyro.conf.Positional


def _shown(metavar: str, hint: str) -> Any:
    """How an option looks in --help: the name of its value, and what holds without it."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


@dataclass(frozen=True)
class School:
    """Broad training on very many procedurally generated jobs, so that the learner picks up new ones quickly."""

    families: Annotated[tuple[str, ...], _Positional, _shown("[FAMILY ...]", "(default: all)")] = ()
    """Families such as bandit/bernoulli, or whole groups such as bandit (see `fifteen jobs`)."""
    steps: float = 5e7
    """Environment steps of all lifetimes together."""
    lifetimes: int = SchoolConfig.lifetimes
    """Lifetimes at once."""
    seed: int = 0
    """Seed of the jobs, and of a fresh learner."""
    learner: Annotated[Path | None, _shown("PATH", "(default: a fresh one)")] = None
    """A saved learner to go on with, or "shipped": the schooled one that ships."""
    size: Annotated[Size | None, _shown("{debug,small,base,large}", "(default: small)")] = None
    """Size of a fresh learner."""
    run: Annotated[Path | None, _shown("DIR", "(default: runs/school-TIME)")] = None
    """Folder of the run. Where it holds an unfinished school, that one goes on."""


@dataclass(frozen=True)
class Work:
    """Put a learner to work: it learns the job while doing it. Several jobs follow one another."""

    jobs: Annotated[tuple[str, ...], _Positional, _shown("[JOB ...]", "")] = ()
    """Gymnasium ids, Fifteen ids (see `fifteen jobs`), or module:factory."""
    steps: Annotated[int | None, _shown("N", "(default: 20000)")] = None
    """Environment steps on each job."""
    episodes: Annotated[int | None, _shown("N", "")] = None
    """Finished attempts on each job, instead of --steps."""
    seed: int = 0
    """Seed of the job, and of a fresh learner."""
    learner: Annotated[Path | None, _shown("PATH", "(default: a fresh one)")] = None
    """A saved learner or the folder of a run to go on with, or "shipped": the schooled one that ships."""
    run: Annotated[Path | None, _shown("DIR", "(default: runs/JOB-TIME)")] = None
    """Folder of the run: settings, metrics, experience, learner, report."""
    learn: Learn = "both"
    """context: memory only; weights: memory is wiped after every attempt; or both."""
    num_envs: int = 1
    """Copies of the job that one learner does at the same time."""
    size: Annotated[Size | None, _shown("{debug,small,base,large}", "(default: small)")] = None
    """Size of a fresh learner."""
    kwargs: Annotated[str, _shown("JSON", "")] = "{}"
    """Arguments of the job, an object such as '{"size": 5}'."""
    tensorboard: bool = False
    """Also write TensorBoard files into the folder of the run."""
    resume: Annotated[Path | None, _shown("DIR", "")] = None
    """Go on with the run in this folder, where it was last saved."""
    fleet: Annotated[Path | None, _shown("FILE", "")] = None
    """Several instances at the same time, those in this file of TOML: see docs/fleet.md."""
    instances: Annotated[int | None, _shown("N", "")] = None
    """Several instances at the same time, one on each job; where there are more than jobs, in turn."""
    deadline: Annotated[float | None, _shown("SECONDS", "(default: none)")] = None
    """For several instances: who is not done by then is left out by name."""
    transport: Annotated[Transport | None, _shown("{processes,ray,vectorised}", "(default: processes)")] = None
    """For several instances: a process for each, a task of Ray for each, or all in this process (JAX-native jobs)."""
    address: Annotated[str | None, _shown("ADDRESS", "(default: processes on this machine)")] = None
    """For several instances: of a cluster of Ray, or "local" for Ray on this machine."""


@dataclass(frozen=True)
class Live:
    """Day after day: many instances work, by night one learner sleeps on what they learned."""

    file: Annotated[Path, _Positional]
    """The days, a file of TOML: see docs/fleet.md."""
    run: Annotated[Path | None, _shown("DIR", "(default: runs/life-TIME)")] = None
    """Folder of the life. Where it holds an unfinished one, that one goes on."""
    learner: Annotated[Path | None, _shown("PATH", "(default: a fresh one)")] = None
    """A saved learner to begin with, or "shipped": the schooled one that ships."""
    size: Annotated[Size | None, _shown("{debug,small,base,large}", "(default: small)")] = None
    """Size of a fresh learner."""
    episodes: Annotated[int, _shown("N", "(default: 20; 0: none)")] = 20
    """Attempts at every job of the day's parent, of the instance and of the night's learner: they make a page of each
    night. The parent practises there, too, 6,000 steps or more, which tells who has something to teach, and the one
    learner three times 6,000, on older jobs, too. 0 for live systems."""
    seed: int = 0
    """Seed of a fresh learner, of the nights, and of the first instance whose seed the file does not say."""


@dataclass(frozen=True)
class Sleep:
    """What the instances of a day learned on their jobs becomes one learner; older jobs in the store are rehearsed."""

    runs: Annotated[tuple[Path, ...], _Positional, _shown("RUN ...", "")] = ()
    """Folders of `fifteen work --run`, of instances of one parent; of a fleet: those that finished."""
    store: Annotated[Path, _shown("DIR", "(default: store)")] = Path("store")
    """What all instances of all days lived through; made if missing."""
    weights_only: bool = False
    """Merge the weights alone: neither runs' experience nor the store is read. The runs may be saved learners."""
    parent: Annotated[Path | None, _shown("PATH", "(default: what the first run began as)")] = None
    """The learner that all instances began as, or "shipped"."""
    out: Annotated[Path | None, _shown("DIR", "(default: runs/slept-TIME)")] = None
    """Where the learner, the night and its report are saved. Where it holds an unfinished night, that one goes on."""
    steps: int = SleepConfig.steps
    """Updates of the night."""
    episodes: Annotated[int, _shown("N", "(default: 20; 0: none)")] = 20
    """Attempts at every job of the parent, of the instance and of the one learner, to compare; and the parent practises
    there, 6,000 steps or more, and the one learner three times 6,000, on older jobs, too. 0 for live systems."""
    seed: int = 0
    """Seed of the night and of these attempts."""


@dataclass(frozen=True)
class Evaluate:
    """How well a saved learner does a job: fresh memory, no weight updates."""

    job: Annotated[str, _Positional]
    """A Gymnasium id, a Fifteen id, or module:factory."""
    learner: Path
    """A saved learner or the folder of a run, or "shipped": the schooled one that ships."""
    episodes: int = 20
    """Attempts."""
    lifetimes: int = 1
    """Over so many the attempts are spread, each with a fresh memory."""
    seed: int = 1
    """Seed of the job and of the learner's choices."""
    num_envs: int = 1
    """Copies of the job that are done at the same time."""
    kwargs: Annotated[str, _shown("JSON", "")] = "{}"
    """Arguments of the job, an object such as '{"size": 5}'."""


@dataclass(frozen=True)
class Exam:
    """How far learners can be trusted: an exam on a suite of jobs, with a page of what it came to."""

    learner: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _shown("LEARNER", "(default: shipped)")] = ()
    """Who sits it, once for each: shipped, the folder of a learner or a run, sb3:ALGO:FILE.zip, or module:factory."""
    suite: Annotated[str, _shown("NAME|FILE", "(default: default)")] = "default"
    """A suite that ships (default, gymnasium), or a file of TOML or JSON."""
    run: Annotated[Path | None, _shown("DIR", "(default: runs/exam-TIME)")] = None
    """Folder of the exam. Where it holds an unfinished one, that one goes on."""
    workers: Annotated[int | None, _shown("N", "(default: one for each core)")] = None
    """Processes; 0: all in this one."""
    runs: Annotated[int | None, _shown("N", "(default: as the suite says)")] = None
    """Lifetimes on each job."""


@dataclass(frozen=True)
class Jobs:
    """List the jobs that come with Fifteen."""


@dataclass(frozen=True)
class Info:
    """Check a saved learner or the folder of a run, and say what it is."""

    path: Annotated[Path, _Positional]
    """A saved learner or the folder of a run, or "shipped": the schooled one that ships."""


@dataclass(frozen=True)
class Demo:
    """The schooled learner, four instances of it on four jobs, one night, one learner: the shortest look at Fifteen."""

    run: Annotated[Path | None, _shown("DIR", "(default: runs/demo-TIME)")] = None
    """Folder of the runs and their reports."""
