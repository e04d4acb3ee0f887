"""Strict number rules for every test: no silent change of dtype, no silent broadcast of rank."""

import jax
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# How long an example takes depends on what else the machine does: time decides no test.
settings.register_profile("fifteen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fifteen")
