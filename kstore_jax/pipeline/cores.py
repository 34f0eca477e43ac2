"""The CPU cores this process may use."""

import contextlib
import math
import os
import pathlib
import random


def usable_cores() -> list[int]:
    """Returns the cores this process is bound to (all where the system binds none), but no more
    than its cgroup grants it time of.

    Where the cgroup grants fewer, they are chosen at random: other containers of the machine choose
    among the same cores.
    """
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = sorted(bound) or list(range(os.cpu_count() or 1))
    granted = max(1, int(min(cgroup_cpu_limit(), len(cores))))
    return sorted(random.sample(cores, granted))


def cgroup_cpu_limit(
    proc: pathlib.Path = pathlib.Path("/proc"), root: pathlib.Path = pathlib.Path("/sys/fs/cgroup")
) -> float:
    """Returns the CPU limit of this process's cgroups (version 2), in cores: 1.5 in a container
    started with `--cpus=1.5`, infinite without a limit."""
    least = math.inf
    with contextlib.suppress(OSError):
        lines = (proc / "self/cgroup").read_text().splitlines()
        for own in (root / line[4:] for line in lines if line.startswith("0::/")):
            for group in (own, *own.parents):
                with contextlib.suppress(FileNotFoundError):
                    quota, period = (group / "cpu.max").read_text().split()
                    least = min(least, float(quota.replace("max", "inf")) / float(period))
    return least
