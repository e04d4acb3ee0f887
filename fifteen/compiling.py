"""How JAX compiles and runs: compiled functions kept on the disk, and decisions computed where they are asked for."""

import hashlib
import os
import platform
import tempfile
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

WORTH_KEEPING_S = 0.3  # what compiles faster than this is not worth a file


def cache_compilations(folder: str | Path | None = None) -> Path | None:
    """Keep what JAX compiles in a folder, here and in every later process that calls this; give the folder.

    Call it once, before the first learner. The command does. folder: by default the one that JAX was told
    (JAX_COMPILATION_CACHE_DIR), or else fifteen/jax in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). Entries
    are machine code, so every kind of processor gets a folder of its own within it; do not share it with people who
    may not run programs as you. It may be deleted at any time. A folder that cannot be written changes nothing: None
    is returned, and every process compiles for itself.
    """
    told = jax.config.values["jax_compilation_cache_dir"]
    if folder is None and told:
        return Path(told)
    chosen = (_user_cache() / "fifteen" / "jax" if folder is None else Path(folder)) / _processor()
    try:
        chosen.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen):
            pass
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_S)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    compilation_cache.reset_cache()  # JAX looks at the settings once, at the first compilation
    return chosen


def compute_where_asked() -> None:
    """Let JAX compute on the CPU in the thread that asks, if it has computed nothing yet in this process.

    A decision takes a fraction of a millisecond: handing it to another thread and waiting to be woken up again takes
    as long, and longer on a busy machine. Learning has a thread of its own in any case. A wish that was expressed by
    JAX_CPU_ENABLE_ASYNC_DISPATCH stands. Results are the same either way.
    """
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _processor() -> str:
    """A name for what machine code may use here: JAX's own key for CPUs leaves out their instruction sets."""
    told = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []  # not Linux
    told += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
    return f"{platform.machine() or 'unknown'}-{digest[:12]}"
