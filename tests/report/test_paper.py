"""The paper's numbers, and which groups have them beside their own."""

import re

import pytest

from kstore_jax.pipeline.experiment import parse
from kstore_jax.report import groups, paper
from kstore_jax.world.biographies import FIG3_VARIANTS
from tests.report.runs import (
    SINGLE,
    a_config,
    a_row,
    a_run,
    published,
    published_beside,
    text_of,
    write_page,
)
from tests.world.bundled import ATTRIBUTES


def test_the_paper_s_numbers_cover_its_16_datasets():
    for dataset in FIG3_VARIANTS:
        numbers = published(dataset)
        for a, name in enumerate(ATTRIBUTES):
            printed = [cell is not None for cell in numbers.p_first[name]]
            assert printed == [("permute" in dataset) or p <= a for p in range(6)]
        flat = [*numbers.qa.values(), *numbers.q_first.values(), *numbers.q_whole.values()]
        assert all(0 <= share <= 1 for share in flat)
        mean = sum(numbers.qa[name] for name in ATTRIBUTES) / 6
        assert numbers.qa["mean"] == pytest.approx(mean, abs=0.015)
    assert paper.published("multi3") is None
    assert published("single").qa_train_first == pytest.approx(0.238)
    assert published("multi2").qa_train_first is None
    assert published("single").qa["birth_date"] == pytest.approx(0.335)
    assert published("multi5").p_first["company_city"][4] == pytest.approx(0.562)
    assert paper.baseline().q_first["university"] == pytest.approx(0.37)


def test_printed_means_agree_with_the_printed_columns():
    count = 0
    for setting, rows in paper._PRINTED["datasets"].items():
        for dataset in rows:
            numbers = published(dataset, setting)
            if set(ATTRIBUTES) <= numbers.qa.keys():
                count += 1
                mean = sum(numbers.qa[name] for name in ATTRIBUTES) / 6
                assert numbers.qa["mean"] == pytest.approx(mean, abs=0.015)
            for which, cells in enumerate(numbers.p_first.values()):
                assert len(cells) == 6
                assert cells[which] is not None
    assert count == 16 + 9
    rewritten = paper.setting(rewritten=True, celebrities="multi5")
    assert published("single", rewritten).qa["mean"] == pytest.approx(0.763)
    unprinted = paper.setting(rewritten=True, celebrities="multi2")
    assert paper.published("single", unprinted) is None
    mixed = published("single", paper.setting(qa_share=0.8)).qa
    assert mixed["mean"] == pytest.approx(0.866)
    assert "company" not in mixed
    assert published("single", paper.setting(qa_share=0.3)).qa == {"mean": 0.705}
    assert paper.published("single", paper.setting(qa_share=0.5)) is None
    assert paper.published("single", paper.setting(real_text=True, qa_share=0.8)) is None
    assert paper.by_qa_share("multi3", "bioR")[0.9] == pytest.approx(0.915)
    assert paper.by_qa_share("multi3") == {}


def test_the_paper_s_numbers_stand_beside_celebrities(tmp_path):
    beside = {"celebrities": 500, "celebrity_variant": "multi5+permute", "celebrity_share": 0.7}
    row = {**a_row("single+permute1"), "mixed": beside}
    page = text_of(write_page(a_run(tmp_path, [row], None)))
    assert re.search(r"the paper\s+–\s+–\s+–\s+86.8\s+98.3\s+96.8", page)
    assert "Ours against the paper" not in page
    (group,) = groups.groups([row], None)
    assert published_beside(group).q_whole["university"] == pytest.approx(0.584)


def test_a_dataset_outside_the_paper_stands_alone(tmp_path):
    page = write_page(a_run(tmp_path, [a_row("multi3+permute")]))
    assert "p-probing-paper" not in page
    assert "Diamond" not in page


def test_a_llama_has_no_numbers_of_the_paper_s_gpt2_beside_it():
    config = a_config(SINGLE)
    (gpt2,) = groups.groups([SINGLE], [parse(config)])
    assert len(published_beside(gpt2).qa) == 7
    config["model"]["activation"] = "swiglu"
    assert groups.groups([SINGLE], [parse(config)])[0].published is None


def test_a_bidirectional_model_has_no_numbers_of_the_paper_beside_it(tmp_path):
    page = text_of(write_page(a_run(tmp_path, [{**SINGLE, "direction": "bidirectional"}])))
    assert "the paper's answers" not in page


def test_a_model_finetuned_after_mixed_training_is_unlike_the_paper_s():
    row = {**SINGLE, "mixed": {"qa_share": 0.8}}
    config = a_config(row)
    config["data"]["qa_share"] = 0.8
    assert groups.groups([row], [parse(config)])[0].published is None
    config["finetune"]["steps"] = 0
    (mixed,) = groups.groups([row], [parse(config)])
    assert published_beside(mixed).qa["mean"] == pytest.approx(0.866)
