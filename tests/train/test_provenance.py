"""The provenance of a run: the machine, the code and its dependencies."""

import pathlib
import shutil
import subprocess
from importlib import metadata

import pytest

from kstore_jax.train import flops
from kstore_jax.train import provenance as provenance_module
from kstore_jax.train.provenance import code_version, provenance


def test_provenance_lists_every_dependency_the_flags_and_the_peak(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    monkeypatch.setenv("JAX_LOG_COMPILES", "0")
    monkeypatch.setattr(flops, "data_sheet_peak", lambda device: (1e9, "a device"))
    record = provenance()
    for name in ("kstore_jax", "jax", "jaxlib", "grain", "ml_collections", "tensorstore", "scipy"):
        assert record["versions"][name] == metadata.version(name)
    assert record["flags"]["XLA_FLAGS"] == "--xla_dump_to=/nowhere"
    assert record["flags"]["JAX_LOG_COMPILES"] == "0"
    assert "PATH" not in record["flags"]
    assert record["peak"] == {"flops": 1e9, "source": "a device"}
    monkeypatch.setattr(flops, "data_sheet_peak", lambda device: None)
    assert provenance()["peak"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_recorded_only_where_git_tracks_our_files(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", "-C", tmp_path, *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    copied = tmp_path / ".venv" / "provenance.py"
    copied.parent.mkdir()
    shutil.copyfile(pathlib.Path(provenance_module.__file__), copied)
    (tmp_path / "theirs.txt").touch()
    git("init")
    git("add", "theirs.txt")
    git("commit", "-m", "theirs")
    monkeypatch.setattr(provenance_module, "__file__", str(copied))
    record = provenance()
    assert (record["git"], record["git_dirty"]) == (None, False)
    assert code_version(record) == f"kstore_jax {metadata.version('kstore_jax')}"
    git("add", "--force", ".venv")
    assert provenance()["git_dirty"]
    git("commit", "-m", "ours")
    assert code_version(provenance()) == git("rev-parse", "HEAD")
