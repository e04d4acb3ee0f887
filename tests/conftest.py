"""Strict number rules for every test: no silent change of dtype, no silent broadcast of rank."""

import os

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
