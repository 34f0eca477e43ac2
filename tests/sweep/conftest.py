"""Fixtures of the tests of sweeps."""

import pathlib
import shutil

import pytest

from kstore_jax.cli import main as cli


@pytest.fixture
def copied(finished, tmp_path) -> pathlib.Path:
    """A copy of the finished workdir."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def kstore(config_file, capsys):
    """`(command, *arguments) -> its output`; the command has to succeed."""

    def run(command: str, *argv: str) -> str:
        config = [f"--config={config_file}"] if command == "sweep" else []
        assert cli.main([command, *config, *map(str, argv)]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    return run
