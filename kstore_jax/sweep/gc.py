"""Finds and removes the stages of a cache that no kept sweep needs."""

import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence

import filelock

from kstore_jax.errors import UserError
from kstore_jax.pipeline.stages import Cache
from kstore_jax.sweep.plan import PLAN, Plan

_REMOVED = ".removed"  # suffix of a stage folder whose files are being deleted
_STAGE_FOLDER = re.compile(r"[a-z_]+-[0-9a-f]{12}" + f"({re.escape(_REMOVED)})?")


def unneeded_stages(
    root: pathlib.Path, keep: Sequence[pathlib.Path]
) -> list[tuple[pathlib.Path, int]]:
    """Returns the stage folders in `root` that no workdir in `keep` needs, and their bytes.

    Leftovers of an interrupted removal are among them. Also kept: the stages of the workdir around
    the cache, and a stage that a process computes, with its dependencies.

    Raises:
      UserError: there is no such cache, or a folder in `keep` has no plan or one of another cache.
      DamagedFileError: a file in a workdir or the cache is not as it was written.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected the stages of a sweep")
    cache = Cache(root)
    plans = {workdir: Plan.read(workdir) for workdir in keep}
    for workdir, plan in plans.items():
        if plan.cache.root.resolve() != root.resolve():
            raise UserError(f"--keep: the stages of {workdir} are in {plan.cache.root}, not {root}")
    homes = {root.absolute().parent, root.resolve().parent}
    plans |= {home: Plan.read(home) for home in homes if (home / PLAN).exists()}
    needed = {folder for plan in plans.values() for folder in plan.stages}
    folders = [path.name for path in sorted(root.iterdir()) if _STAGE_FOLDER.fullmatch(path.name)]
    parents = {folder: spec.parents for folder, spec in cache.specs().items()}
    todo = [folder for folder in folders if cache.is_locked(folder)]
    while todo:
        needed.add(folder := todo.pop())
        todo += [parent for parent in parents.get(folder, ()) if parent not in needed]
    return [(root / folder, _size(root / folder)) for folder in folders if folder not in needed]


def remove_stages(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Removes stage folders and returns the removed ones; a stage that a process has begun to
    compute meanwhile is kept.

    A folder is renamed before its files are deleted: after a kill in between, the stage is computed
    again, and the next removal deletes the rest. The lock file is deleted last; a process that
    opened it before notices and opens a new one, as filelock does.
    """
    removed = []
    for folder in folders:
        try:
            lock = Cache(folder.parent).lock(folder.stem)
            with lock.acquire(timeout=0):
                renamed = folder.with_suffix(_REMOVED)
                if renamed.exists():
                    shutil.rmtree(renamed)
                if folder.exists():
                    shutil.rmtree(folder.rename(renamed))
                os.unlink(lock.lock_file)
        except filelock.Timeout:
            continue
        removed.append(folder)
    return removed


def _size(folder: pathlib.Path) -> int:
    """Bytes of the files in a folder and below."""
    files = (os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(path).st_size for path in files)
