"""Fixtures of the tests of training."""

import pytest

from kstore_jax.train.fit import fit
from tests.train.training import TRAINING, task


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(task(), TRAINING, folder)
    return folder
