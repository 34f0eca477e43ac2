"""The paper's numbers, and the groups that they stand beside."""

import re

import pytest

from kstore_jax.pipeline.experiment import parse
from kstore_jax.report import groups, paper
from kstore_jax.world.biographies import FIG3_VARIANTS
from kstore_jax.world.people import ATTRIBUTES
from tests.report.runs import SINGLE, a_config, a_row, a_run, text_of, written


def test_the_papers_numbers_are_of_all_its_datasets():
    for dataset in FIG3_VARIANTS:
        found = paper.published(dataset)
        for a, name in enumerate(ATTRIBUTES):
            asked = [cell is not None for cell in found.p_first[name]]
            assert asked == [("permute" in dataset) or p <= a for p in range(6)]
        flat = [*found.qa.values(), *found.q_first.values(), *found.q_whole.values()]
        assert all(0 <= share <= 1 for share in flat)
        mean = sum(found.qa[name] for name in ATTRIBUTES) / 6
        assert found.qa["mean"] == pytest.approx(mean, abs=0.015)
    assert paper.published("multi3") is None
    assert paper.published("single").qa_train_first == pytest.approx(0.238)
    assert paper.published("multi2").qa_train_first is None
    assert paper.published("single").qa["birth_date"] == pytest.approx(0.335)
    assert paper.published("multi5").p_first["company_city"][4] == pytest.approx(0.562)
    assert paper.baseline().q_first["university"] == pytest.approx(0.37)


def test_the_papers_numbers_of_other_settings_agree_with_their_means():
    count = 0
    for setting, rows in paper._PRINTED["datasets"].items():
        for dataset in rows:
            found = paper.published(dataset, setting)
            if set(ATTRIBUTES) <= found.qa.keys():
                count += 1
                mean = sum(found.qa[name] for name in ATTRIBUTES) / 6
                assert found.qa["mean"] == pytest.approx(mean, abs=0.015)
            for which, cells in enumerate(found.p_first.values()):
                assert len(cells) == 6
                assert cells[which] is not None
    assert count == 16 + 9
    other = {"rewritten": True, "celebrities": "multi5"}
    assert paper.published("single", paper.setting(**other)).qa["mean"] == pytest.approx(0.763)
    assert paper.published("single", paper.setting(**other | {"celebrities": "multi2"})) is None
    mixed = paper.published("single", paper.setting(qa_share=0.8)).qa
    assert mixed["mean"] == pytest.approx(0.866)
    assert "company" not in mixed
    assert paper.published("single", paper.setting(qa_share=0.3)).qa == {"mean": 0.705}
    assert paper.published("single", paper.setting(qa_share=0.5)) is None
    assert paper.published("single", paper.setting(real_text=True, qa_share=0.8)) is None
    assert paper.by_qa_share("multi3", "bioR")[0.9] == pytest.approx(0.915)
    assert paper.by_qa_share("multi3") == {}


def test_the_paper_s_numbers_stand_beside_celebrities(tmp_path):
    beside = {"celebrities": 500, "celebrity_variant": "multi5+permute", "celebrity_share": 0.7}
    row = {**a_row("single+permute1"), "mixed": beside}
    page = text_of(written(a_run(tmp_path, [row], None)))
    assert re.search(r"the paper\s+–\s+–\s+–\s+86.8\s+98.3\s+96.8", page)
    assert "Ours against the paper" not in page
    (group,) = groups.groups([row], None)
    assert group.published.q_whole["university"] == pytest.approx(0.584)


def test_a_dataset_that_the_paper_has_not(tmp_path):
    page = written(a_run(tmp_path, [a_row("multi3+permute")]))
    assert "p-probing-paper" not in page
    assert "Diamond" not in page


def test_a_llama_has_no_figures_of_the_paper_s_gpt2_beside_it(tmp_path):
    config = a_config(SINGLE)
    assert len(groups.groups([SINGLE], [parse(config)])[0].published.qa) == 7
    config["model"]["activation"] = "swiglu"
    assert groups.groups([SINGLE], [parse(config)])[0].published is None


def test_a_bidirectional_model_has_no_figures_of_the_paper_beside_it(tmp_path):
    page = text_of(written(a_run(tmp_path, [{**SINGLE, "direction": "bidirectional"}])))
    assert "the paper's answers" not in page


def test_a_model_that_was_finetuned_after_mixed_training_is_not_the_paper_s():
    row = {**SINGLE, "mixed": {"qa_share": 0.8}}
    config = a_config(row)
    config["data"]["qa_share"] = 0.8
    assert groups.groups([row], [parse(config)])[0].published is None
    config["finetune"]["steps"] = 0
    assert groups.groups([row], [parse(config)])[0].published.qa["mean"] == pytest.approx(0.866)
