"""Fixtures of the tests of rewriting."""

import pathlib

import pytest

from kstore_jax.writers.rewriting import RewriteJob
from tests.writers.chat_server import running
from tests.writers.rewrites import BAD, TROUBLED, experiment, rewrite


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> tuple[pathlib.Path, RewriteJob]:
    """The folder and the job after rewriting with a server that misbehaves in every way; not to be
    written to."""
    folder = tmp_path_factory.mktemp("rewriting") / "out"
    with running(**BAD, **TROUBLED) as address:
        return folder, rewrite(folder, address, [experiment()])
