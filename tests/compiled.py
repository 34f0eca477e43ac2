"""Sets up JAX's compilation cache, so that a program is compiled once for this process and all it
starts. Import this before anything is compiled."""

import atexit
import os
import shutil
import tempfile

import jax

FOLDER = tempfile.mkdtemp(prefix="kstore-tests-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
for name, value in {
    "jax_compilation_cache_dir": FOLDER,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}.items():
    os.environ[name.upper()] = str(value)
    jax.config.update(name, value)

PROGRAMS: list[str] = []


def _listen(event: str, seconds: float, **labels: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        PROGRAMS.append(str(labels["fun_name"]))


jax.monitoring.register_event_duration_secs_listener(_listen)
