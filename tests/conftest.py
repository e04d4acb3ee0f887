"""Strict number rules for every test: no silent change of dtype, no silent broadcast of rank."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
