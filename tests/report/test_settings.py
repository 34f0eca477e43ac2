"""The settings of a run on the page."""

import json
import re

from kstore_jax.config.fields import as_dict
from kstore_jax.pipeline import results
from kstore_jax.pipeline.experiment import Experiment, parse
from tests.report.runs import (
    CONTRAST,
    PROVENANCE,
    SINGLE,
    a_config,
    a_run,
    text_of,
    without,
    written,
)


def mind(folder, **changed):
    """What the page of a run with changed parts of the configuration says to keep in mind."""
    config = {**a_config(SINGLE), **changed}
    page = written(a_run(folder, [{**SINGLE, "people": 100_000}], [config], metrics=False))
    return text_of(page).partition("What to keep in mind")[2]


def test_what_is_unlike_the_paper_is_shown(tmp_path):
    like = as_dict(Experiment())
    text = mind(tmp_path, model=like["model"])
    assert "P-probing and Q-probing: a linear head" in text
    assert "Pretraining had no dropout" in text
    assert "drops nothing" not in text
    assert "beam of 4" in text
    for untrue in ("Compare shapes", "only the tokens", "output rows", "at most", "templates"):
        assert untrue not in text


def test_settings_unlike_the_paper_s_are_shown_of_each_probe(tmp_path):
    like = as_dict(Experiment())
    p_probe = {**like["p_probe"], "embedding_update": "shared", "biographies_per_person": 1}
    q_probe = {**like["q_probe"], "head": "unembedding"}
    data = {"variant": "single", "vocabulary": "compact"}
    text = mind(tmp_path, p_probe=p_probe, q_probe=q_probe, data=data)
    assert "P-probing: a linear head" in text
    assert "Q-probing: first tokens are read through the model's own output rows" in text
    assert "P-probing: the embedding is updated for the tokens of the templates" in text
    assert "at most 1 of the biographies" in text
    assert "Compare shapes" in text
    assert "only the tokens that these texts use" in text


def test_the_code_is_that_of_the_stages_and_not_of_who_asked_last(tmp_path):
    codes = ["b5ec04e05fc84dfd-dirty", "0a1b2c3"], ["0a1b2c3", "kstore_jax 0.1.0"]
    rows = [{**row, "code": code} for row, code in zip(CONTRAST, codes, strict=True)]
    text = text_of(written(a_run(tmp_path / "new", rows)))
    assert "git 0a1b2c3, git b5ec04e05f with uncommitted changes, kstore_jax 0.1.0" in text
    assert "0123abc" not in text
    older = written(a_run(tmp_path / "older", [without("code")]))
    assert re.search(r"code\s+not known", text_of(older))


def test_all_that_the_stages_were_made_with_is_shown(tmp_path):
    def text(*machines):
        run = a_run(tmp_path)
        made = [{**PROVENANCE, "platform": machine} for machine in machines]
        results = json.loads((run / "results.json").read_text())
        results["provenance"] = made if len(made) > 1 else made[0]  # an older one text of one
        (run / "results.json").write_text(json.dumps(results))
        return text_of(written(run))

    assert re.search(r"machine\s+north, Python 3\.11\.7 / south, Python", text("north", "south"))
    assert re.search(r"machine\s+north, Python 3\.11\.7\s+versions", text("north"))


def test_goodput_peak_and_flags_are_shown_where_they_are_known(tmp_path):
    older = text_of(written(a_run(tmp_path / "older")))
    assert "87.1" not in older
    assert "TFLOP" not in older
    run = a_run(tmp_path / "run", [{**row, "goodput": 0.871} for row in CONTRAST])
    results = json.loads((run / "results.json").read_text())
    peak = {"flops": 989e12, "source": "data sheet of an accelerator"}
    results["provenance"][0] |= {"peak": peak, "flags": {"XLA_FLAGS": "--xla_some=1"}}
    results["provenance"][0]["versions"]["scipy"] = "1.99"
    (run / "results.json").write_text(json.dumps(results))
    text = text_of(written(run))
    assert text.count("87.1") == len(CONTRAST)
    assert "989.0 TFLOP/s (data sheet of an accelerator)" in text
    assert "XLA_FLAGS --xla_some=1" in text
    assert "jax 0.10.2" in text
    assert "scipy" not in text


MIXED = {
    "celebrities": 1000,
    "celebrity_variant": "multi5+permute",
    "celebrity_share": 0.0,
    "qa_share": 0.8,
    "text": "hf:books",
    "text_share": 0.1,
}


def test_what_is_mixed_in_is_shown_as_the_configuration_has_it():
    config = a_config(SINGLE)
    assert results.mixed(parse(config)) == {}
    config["world"]["celebrities"] = 1000
    config["data"].update(text="hf:books", text_share=0.1, qa_share=0.8)
    assert results.mixed(parse(config)) == MIXED


def test_what_was_mixed_in_is_listed_and_is_not_the_papers(tmp_path):
    rows = [{**SINGLE, "mixed": {}}, {**SINGLE, "mixed": MIXED}]
    page = written(a_run(tmp_path, rows, None))
    text = (
        "nothing / 1,000 celebrities in multi5+permute, shuffled in; "
        "questions with answers, 80.0 % of the windows; text of hf:books, 10.0 % of the windows"
    )
    assert text in text_of(page)
    assert "single (celebrities=1000, " in text_of(page)
    assert page.count("the paper, just before") == 1
    row = {**SINGLE, "mixed": {**MIXED, "celebrity_share": 0.25}}
    often = text_of(written(a_run(tmp_path / "often", [row], None)))
    assert "25.0 % of the windows of biographies" in often


def test_where_nothing_is_mixed_in_nothing_is_said_of_it(tmp_path, page):
    assert "mixed in" not in text_of(page)
    assert "mixed in" not in text_of(written(a_run(tmp_path, [without("mixed")])))


def test_every_setting_is_shown(page):
    text = text_of(page).partition("Every setting")[2]
    assert re.search(r"data\.variant\s+single / multi5\+permute", text)
    assert re.search(r"pretrain\.steps\s+80000", text)
