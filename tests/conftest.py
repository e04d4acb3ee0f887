"""Strict number rules for every test: no silent change of dtype, no silent broadcast of rank."""

import atexit
import os
import tempfile

# What is compiled once serves both workers and every process that a test starts: they inherit this. Given a bound, JAX
# locks what they write at the same time.
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="fifteen-compiled-")
    atexit.register(compiled.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(10**10)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Each worker of pytest-xdist on a core of its own, before JAX counts them: threads that meet across cores at every
# small kernel take twice as long.
if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# How long an example takes depends on what else the machine does: time decides no test.
settings.register_profile("fifteen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fifteen")
