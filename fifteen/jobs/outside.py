"""What the adapters to other libraries' environments share. The libraries come with the extra "jaxenvs"."""

import difflib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from fifteen.errors import JobError

INSTALL = "pip install 'fifteen[jaxenvs]'"
SCORED_ATTEMPTS = 4  # so that a third and a later attempt are scored though every one runs to its limit
LEAST_LIFETIME = 1000  # steps


def library(name: str, job_id: str) -> Any:
    """A library's module, imported when the first of its jobs is asked for. Raises JobError where that fails."""
    try:
        with usual_numbers():
            return importlib.import_module(name)
    except ImportError as error:
        raise JobError(f"{job_id} needs {name}, which cannot be imported ({error}): {INSTALL}") from error


def check_known(name: str, known: Sequence[str], job_id: str) -> None:
    """Raises JobError, with the closest names, unless a library has an environment of this name."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise JobError(f"there is no job {job_id!r}: the library has {', '.join(close or known)}")


def lifetime_of(step_limit: int) -> int:
    """Environment steps of a schooled lifetime. Nobody has measured how many it takes to learn such a job."""
    return max(LEAST_LIFETIME, SCORED_ATTEMPTS * step_limit)


@contextmanager
def usual_numbers() -> Iterator[None]:
    """For calls into a library that relies on JAX's usual promotion of dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def arrays(tree: Any) -> Any:
    """A library's state with its Python numbers as arrays."""
    return jax.tree.map(jnp.asarray, tree)
