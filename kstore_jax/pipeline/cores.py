"""The CPU cores this process may use."""

import contextlib
import math
import os
import pathlib
import random


def usable_cores() -> list[int]:
    """Returns the numbers of the cores this process may run on: its affinity mask, or every core
    where the system has no such mask.

    Where the CPU limit of its cgroup is lower, returns that many of them (rounded down, at least
    one), chosen at random: other containers of the machine choose among the same cores.
    """
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    cores = sorted(affinity) or list(range(os.cpu_count() or 1))
    count = max(1, int(min(cgroup_cpu_limit(), len(cores))))
    return sorted(random.sample(cores, count))


def cgroup_cpu_limit(
    proc: pathlib.Path = pathlib.Path("/proc"), root: pathlib.Path = pathlib.Path("/sys/fs/cgroup")
) -> float:
    """Returns the CPU limit of this process's cgroups (version 2), in cores: 1.5 in a container
    started with `--cpus=1.5`, infinite without a limit."""
    limits = [math.inf]
    for text in cgroup_settings("cpu.max", proc, root):
        quota, period = text.split()
        limits.append(float(quota.replace("max", "inf")) / float(period))
    return min(limits)


def cgroup_settings(
    name: str,
    proc: pathlib.Path = pathlib.Path("/proc"),
    root: pathlib.Path = pathlib.Path("/sys/fs/cgroup"),
) -> list[str]:
    """Returns what the file `name` says in each of this process's cgroups (version 2) that has it,
    its own first."""
    texts = []
    with contextlib.suppress(OSError):
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
        for cgroup in (root / line[4:] for line in lines if line.startswith("0::/")):
            for group in (cgroup, *cgroup.parents):
                with contextlib.suppress(FileNotFoundError):
                    texts.append((group / name).read_text(encoding="utf-8").strip())
    return texts
