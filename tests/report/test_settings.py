"""The settings of a run on the page."""

import dataclasses
import json
import re

from kstore_jax.config.fields import identity
from kstore_jax.pipeline.experiment import Experiment
from tests.report.runs import CONTRAST, PROVENANCE, SINGLE, a_row, a_run, text_of, write_page


def differences(folder, **fields):
    """The differences from the paper, on the page of a run with these fields."""
    page = write_page(a_run(folder, [a_row(world__people=100_000, **fields)]))
    return text_of(page).partition("Differences from the paper")[2]


LIKE = {f"model__{name}": x for name, x in identity(Experiment())["model"].items()}


def test_differences_from_the_paper_are_listed(tmp_path):
    text = differences(tmp_path, **LIKE)
    assert "P-probing and Q-probing: a linear head" in text
    assert "Pretraining had no dropout" in text
    assert "no dropout while" not in text
    assert "beam of 4" in text
    for other_note in ("Compare shapes", "only the tokens", "output rows", "at most", "templates"):
        assert other_note not in text


def test_each_probe_s_differences_from_the_paper_are_listed(tmp_path):
    text = differences(
        tmp_path,
        readouts__p_probe__embedding_update="shared",
        readouts__p_probe__biographies_per_person=1,
        readouts__q_probe__head="unembedding",
        data__vocabulary="compact",
    )
    assert "P-probing: a linear head" in text
    assert "Q-probing: first tokens are read through the model's own output rows" in text
    assert "P-probing: the embedding is updated for the tokens of the templates" in text
    assert "at most 1 of the biographies" in text
    assert "Compare shapes" in text
    assert "only the tokens that these texts use" in text


def test_what_a_probe_is_stands_beside_its_numbers(tmp_path):
    fields = {"head": "unembedding", "embedding_rank": 8}
    row = a_row(**{f"readouts__q_probe__{name}": value for name, value in fields.items()})
    text = text_of(write_page(a_run(tmp_path, [row])))
    beside = text.partition("readable from the name alone?")[2].rpartition("Differences")[0]
    assert "through the model's own output rows" in beside
    assert "trains a linear head on 50,000 people" in beside
    assert "has rank 8; in the paper 16 (bioS)" in beside


def test_the_code_is_the_code_that_computed_the_stages(tmp_path):
    codes = ["b5ec04e05fc84dfd-dirty", "0a1b2c3"], ["0a1b2c3", "kstore_jax 0.1.0"]
    rows = [dataclasses.replace(row, code=code) for row, code in zip(CONTRAST, codes, strict=True)]
    text = text_of(write_page(a_run(tmp_path / "new", rows)))
    assert "git 0a1b2c3, git b5ec04e05f with uncommitted changes, kstore_jax 0.1.0" in text
    assert "0123abc" not in text
    unknown = write_page(a_run(tmp_path / "unknown", [dataclasses.replace(SINGLE, code=[])]))
    assert re.search(r"code\s+not known", text_of(unknown))


def test_every_machine_that_computed_a_stage_is_listed(tmp_path):
    def text(*machines):
        run = a_run(tmp_path)
        provenances = [{**PROVENANCE, "platform": machine} for machine in machines]
        content = json.loads((run / "results.json").read_text())
        content["provenance"] = provenances
        (run / "results.json").write_text(json.dumps(content))
        return text_of(write_page(run))

    assert re.search(r"machine\s+north, Python 3\.11\.7 / south, Python", text("north", "south"))
    assert re.search(r"machine\s+north, Python 3\.11\.7\s+versions", text("north"))


def test_goodput_peak_and_flags_are_listed(tmp_path):
    assert "TFLOP" not in text_of(write_page(a_run(tmp_path / "plain")))
    rows = [dataclasses.replace(row, goodput=0.871) for row in CONTRAST]
    run = a_run(tmp_path / "run", rows)
    content = json.loads((run / "results.json").read_text())
    peak = {"flops": 989e12, "source": "data sheet of an accelerator"}
    content["provenance"][0] |= {"peak": peak, "flags": {"XLA_FLAGS": "--xla_some=1"}}
    content["provenance"][0]["versions"]["scipy"] = "1.99"
    (run / "results.json").write_text(json.dumps(content))
    text = text_of(write_page(run))
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


FIELDS = {
    "world__celebrities": 1000,
    "data__qa_share": 0.8,
    "data__text": "hf:books",
    "data__text_share": 0.1,
}


def test_mixed_follows_from_the_configuration():
    assert SINGLE.mixed == {}
    assert a_row(**FIELDS).mixed == MIXED


def test_sources_mixed_in_are_listed_and_have_no_numbers_of_the_paper(tmp_path):
    page = write_page(a_run(tmp_path, [SINGLE, a_row(**FIELDS)]))
    text = (
        "nothing / 1,000 celebrities in multi5+permute, shuffled in; "
        "questions with answers, 80.0 % of the windows; text of hf:books, 10.0 % of the windows"
    )
    assert text in text_of(page)
    assert "single (celebrities=1000, " in text_of(page)
    assert page.count(": the paper, before the 1st attribute") == 1
    row = a_row(**FIELDS, data__celebrity_share=0.25)
    in_windows = text_of(write_page(a_run(tmp_path / "in_windows", [row])))
    assert "25.0 % of the windows of biographies" in in_windows


def test_without_sources_mixed_in_the_term_is_left_out(page):
    assert "mixed in" not in text_of(page)


def test_every_setting_is_listed(page):
    text = text_of(page).partition("Every setting")[2]
    assert re.search(r"data\.variant\s+single / multi5\+permute", text)
    assert re.search(r"pretrain\.steps\s+80000", text)
