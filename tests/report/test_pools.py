"""The pools of a world, beside the paper's."""

import json

import numpy as np
import pytest

from kstore_jax.cli.main import main
from kstore_jax.pipeline.experiment import default, parse_rows
from kstore_jax.report.pools import pools, pools_text
from tests.world.bundled import ATTRIBUTES
from tests.world.worlds import drawn

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def test_the_shares_of_the_pools_stand_beside_the_papers():
    first, *lines = pools_text(pools(parse_rows(default())[0])).splitlines()
    assert first.split()[0] == "attribute"
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == list(ATTRIBUTES)
    assert rows["university"][0] == "300"
    assert rows["university"][-1] == "37.0%"
    assert rows["company_city"][2] == "13.7%"
    shares = np.array([[float(x.rstrip("%")) for x in row[1:]] for row in rows.values()])
    assert (shares[:, 0] <= shares[:, 2]).all()


def test_the_pools_are_also_shown_as_json(capsys):
    assert main(["show", "--pools", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == list(ATTRIBUTES)
    assert printed["university"]["values"] == 300
    assert 0 < printed["university"]["commonest"] <= printed["university"]["first_word"] < 1
    assert printed["company_city"]["paper_commonest"] == pytest.approx(0.137)


def test_the_pools_of_another_world(tmp_path):
    config = default()
    config.world.update(people=6, folder=str(drawn(tmp_path / "drawn", 7, 2)))
    lines = pools_text(pools(parse_rows(config)[0])).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["fact_0", "2", "50.0%", "100.0%"],
        ["fact_1", "3", "33.3%", "100.0%"],
    ]
