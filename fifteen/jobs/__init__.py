"""What a learner can be put to work on."""

from fifteen.jobs.gymnasium_stream import GymnasiumStream
from fifteen.jobs.native import Job, NativeStream
from fifteen.jobs.protocol import DEFAULT_STEP_LIMIT, Stream, Tick, attempt_seed
from fifteen.jobs.registry import JobSpec, jobs, open_job, register_job
from fifteen.jobs.vector_stream import VectorStream

__all__ = [
    "DEFAULT_STEP_LIMIT",
    "GymnasiumStream",
    "Job",
    "JobSpec",
    "NativeStream",
    "Stream",
    "Tick",
    "VectorStream",
    "attempt_seed",
    "jobs",
    "open_job",
    "register_job",
]
