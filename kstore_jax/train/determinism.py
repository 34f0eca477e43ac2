"""The same bits after a restart on a GPU, where XLA chooses kernels by their time.

XLA's page on determinism names two sources of difference. Kernels are chosen anew in every
compilation, unless the choices of an earlier one are kept. And some operations (scatters, products,
attention) have faster implementations that add in any order.
"""

import mmap
import os
import pathlib
import re
import sys
from importlib import metadata

import jaxlib
from jax._src import xla_bridge  # no public function says whether JAX has started

_EXCLUDE = "xla_gpu_exclude_nondeterministic_ops"
_CHOICES = "xla_gpu_per_fusion_autotune_cache_dir"


def set_flags(stages: pathlib.Path) -> pathlib.Path:
    """Adds XLA's flags to the environment of this process and of those it starts; to be called
    before JAX starts. They concern GPUs alone. A flag that `XLA_FLAGS` has already stays, and one
    that this jaxlib does not know is left out, since XLA would abort.

    Args:
      stages: the folder of the stages, where the choices of kernels are kept.

    Returns: the folder of the choices, which has to exist before anything is compiled. Each version
      of jaxlib has its own.
    """
    folder = stages.absolute() / ".autotune" / metadata.version("jaxlib")
    flags = os.environ.get("XLA_FLAGS", "")
    present = set(re.findall(r"--(\w+)", flags))
    wanted = {_EXCLUDE: "true", _CHOICES: str(folder)}
    added = [
        f"--{name}={value}"
        for name, value in wanted.items()
        if name not in present and is_known(name)
    ]
    if added and xla_bridge.backends_are_initialized():
        note = "JAX has started already, so its flags do nothing in this process"
        print(f"note: mesh.deterministic: {note}", file=sys.stderr)
    os.environ["XLA_FLAGS"] = " ".join([flags, *added]).strip()
    return folder


def is_known(flag: str) -> bool:
    """Whether every library here that reads `XLA_FLAGS` knows a flag: that of jaxlib, and those of
    its plug-ins for GPUs."""
    packages = pathlib.Path(jaxlib.__file__).parents[1]
    libraries = [*packages.glob("jaxlib/*jax_common*"), *packages.glob("jax_plugins/*/*plugin*.so")]
    return bool(libraries) and all(_contains(path, flag.encode()) for path in libraries)


def _contains(path: pathlib.Path, text: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0
