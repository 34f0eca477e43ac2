"""One run of two datasets, and its page."""

import pytest

from kstore_jax.report import page as report
from tests.report.runs import a_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = a_run(tmp_path_factory.mktemp("contrast"))
    report.write([folder], folder)
    return folder


@pytest.fixture(scope="session")
def page(run):
    return (run / "report.html").read_text()
