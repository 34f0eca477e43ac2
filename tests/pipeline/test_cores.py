"""The CPU cores a process may use: its affinity mask, within the limits of its cgroups."""

import math
import os

import pytest

from kstore_jax.pipeline import cores
from kstore_jax.pipeline.cores import cgroup_cpu_limit, usable_cores


@pytest.mark.parametrize(
    ("own", "limits", "limit"),
    [
        ("0::/", {"": "150000 100000"}, 1.5),  # in a container, whose cgroup is the root
        ("0::/jobs/7", {"": None, "jobs": "400000 100000", "jobs/7": "max 100000"}, 4.0),
        ("3:cpuset:/\n0::/jobs/7", {"jobs": "800000 100000", "jobs/7": "50000 100000"}, 0.5),
        ("0::/jobs/7", {"jobs/8": "50000 100000"}, math.inf),
        ("1:cpu:/", {"": "150000 100000"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_as_many_cores_are_used_as_the_cgroups_allow(tmp_path, monkeypatch, own, limits, limit):
    root = tmp_path / "cgroup"
    (tmp_path / "self").mkdir()
    if own is not None:
        (tmp_path / "self" / "cgroup").write_text(f"{own}\n")
    for group, quota in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        if quota:
            (root / group / "cpu.max").write_text(f"{quota}\n")
    assert cgroup_cpu_limit(tmp_path, root) == limit
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 4, 7, 8, 9}, raising=False)
    monkeypatch.setattr(cores, "cgroup_cpu_limit", lambda: limit)
    usable = usable_cores()
    assert len(usable) == {1.5: 1, 0.5: 1, 4.0: 4}.get(limit, 5)
    assert usable == sorted({*usable} & {2, 4, 7, 8, 9})
