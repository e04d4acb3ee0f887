"""What computed a result: versions, device, commit. For the record of runs and of measurements."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax

_PACKAGES = ("fifteen", "jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def device() -> str:
    """What JAX computes on, such as "NVIDIA H200 (gpu)" or "AMD EPYC 9654 (cpu, 2 cores)". Never a host's name."""
    backend = jax.default_backend()
    if backend != "cpu":
        return f"{jax.devices()[0].device_kind} ({backend})"
    return f"{processor()} (cpu, {os.cpu_count()} cores)"


def processor() -> str:
    """The model of the CPU, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # not Linux
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or "unknown"


def commit() -> str | None:
    """The commit of the source tree this package runs from, with a mark if it was changed; None if it is installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()
