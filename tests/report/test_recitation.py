"""`kstore ask DIR` prints both scores of the models of a finished run."""

import dataclasses
import json

from kstore_jax.cli.main import main
from tests.report.runs import SINGLE, a_run


def test_scores_of_a_run_are_its_recall_and_its_answers(finished, capsys):
    assert main(["ask", str(finished), "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    rows = json.loads((finished / "results.json").read_text())["rows"]
    assert [(item["recited"], item["answered"]) for item in items] == [
        (
            row["readouts"]["recall"]["whole"]["mean"],
            row["readouts"]["qa"]["extraction"]["test"]["exact"]["mean"],
        )
        for row in rows
    ]
    assert main(["ask", str(finished)]) == 0
    assert "multi2+permute, seed 0" in capsys.readouterr().out


def test_a_run_without_both_scores_is_one_line(tmp_path, capsys):
    readouts = {"recall": SINGLE.readouts["recall"]}
    a_run(tmp_path, [dataclasses.replace(SINGLE, readouts=readouts)])
    assert main(["ask", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("no row has both readouts, recall and qa\n")
