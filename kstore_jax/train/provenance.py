"""Provenance of a run: versions, flags, devices and the state of the code."""

import contextlib
import functools
import os
import pathlib
import platform
import re
import subprocess
from importlib import metadata

import jax

from kstore_jax.train import flops

_FLAGS = ("JAX_", "XLA_", "LIBTPU_")


def provenance() -> dict:
    """Versions, flags, devices and the state of the code.

    `peak` is the reference of MFU: FLOP/s of one device and the source, None for a device without a
    data sheet. `flags` are the environment variables of JAX and XLA. `git` is the commit of the
    package's own files, None where git does not track them.
    """
    peak = flops.data_sheet_peak(jax.devices()[0])
    ours = _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is not None
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "peak": dict(zip(("flops", "source"), peak, strict=True)) if peak else None,
        "flags": {name: x for name, x in sorted(os.environ.items()) if name.startswith(_FLAGS)},
        "git": _git("rev-parse", "HEAD") if ours else None,
        "git_dirty": ours and bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of this package and of all installed packages it requires, directly or not."""
    versions, names = {}, ["kstore_jax"]
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            package = metadata.distribution(name)
            versions[package.name] = package.version
            required = re.findall(r"^[\w.-]+", "\n".join(package.requires or ()), re.MULTILINE)
            names += dict.fromkeys(other for other in required if other not in names)
    return dict(sorted(versions.items()))


def code_version(provenance: dict) -> str:
    """The git commit in a `provenance`, or the version of the package where there is none."""
    if provenance.get("git") is None:
        return f"kstore_jax {provenance['versions'].get('kstore_jax', '')}".strip()
    return provenance["git"] + "-dirty" * bool(provenance.get("git_dirty"))


def _git(*arguments: str) -> str | None:
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
