"""Fifteen: one learner, put to work on any job."""

from fifteen.compiling import cache_compilations
from fifteen.days import Life, live
from fifteen.errors import CheckpointError, FifteenError, JobError, RunError, SpaceError
from fifteen.evaluating import Evaluation, evaluate
from fifteen.examining.exam import ExamReport, exam
from fifteen.fleet import Assignment, FleetConfig, Round, deploy
from fifteen.jobs import jobs, register_job
from fifteen.learner import Learner, load, new
from fifteen.log import Attempt, Progress, SchoolProgress, WorkLog
from fifteen.schooling import school
from fifteen.sleeping import SleepProgress, sleep
from fifteen.working import resume, work

__all__ = [
    "Assignment",
    "Attempt",
    "CheckpointError",
    "Evaluation",
    "ExamReport",
    "FifteenError",
    "FleetConfig",
    "JobError",
    "Learner",
    "Life",
    "Progress",
    "Round",
    "RunError",
    "SchoolProgress",
    "SleepProgress",
    "SpaceError",
    "WorkLog",
    "cache_compilations",
    "deploy",
    "evaluate",
    "exam",
    "jobs",
    "live",
    "load",
    "new",
    "register_job",
    "resume",
    "school",
    "sleep",
    "work",
]
