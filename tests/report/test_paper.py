"""The paper's numbers, and which groups have them beside their own."""

import dataclasses
import re
from typing import Any

import pytest

from kstore_jax.report import groups, paper
from kstore_jax.world.biographies import FIG3_VARIANTS
from tests.report.runs import (
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
    assert paper.printed("multi3") is None
    assert published("single").lora_train_first["8", "128"] == pytest.approx(0.238)
    assert published("multi2").lora_train_first == {}
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
            for which, cells in enumerate(numbers.p_whole.values()):
                assert len(cells) == 6
                assert cells[which + 1] is not None
                before = numbers.p_first[ATTRIBUTES[which + 1]]
                assert [cell is None for cell in cells] == [cell is None for cell in before]
    assert count == 16 + 9
    rewritten = paper.setting(rewritten=True, celebrities="multi5")
    assert published("single", rewritten).qa["mean"] == pytest.approx(0.763)
    unprinted = paper.setting(rewritten=True, celebrities="multi2")
    assert paper.printed("single", unprinted) is None
    mixed = published("single", paper.setting(qa_share=0.8)).qa
    assert mixed["mean"] == pytest.approx(0.866)
    assert "company" not in mixed
    assert published("single", paper.setting(qa_share=0.3)).qa == {"mean": 0.705}
    assert paper.printed("single", paper.setting(qa_share=0.5)) is None
    assert paper.printed("single", paper.setting(real_text=True, qa_share=0.8)) is None
    assert paper.by_qa_share("multi3", "bioR")[0.9] == pytest.approx(0.915)
    assert paper.by_qa_share("multi3") == {}


CELEBRITIES = {
    "world__celebrities": 500,
    "data__celebrity_variant": "multi5+permute",
    "data__celebrity_share": 0.7,
}


def beside(dataset: str = "single", **fields) -> paper.Published | None:
    """The paper's numbers beside a row with these fields."""
    (group,) = groups.groups([a_row(dataset, **fields)])
    return group.published


def test_the_paper_s_numbers_stand_beside_celebrities(tmp_path):
    row = a_row("single+permute1", **CELEBRITIES)
    page = text_of(write_page(a_run(tmp_path, [row])))
    assert re.search(r"the paper\s+–\s+–\s+–\s+86.8\s+98.3\s+96.8", page)
    assert "Ours against the paper" not in page
    (group,) = groups.groups([row])
    assert published_beside(group).q_whole["university"] == pytest.approx(0.584)


def test_a_dataset_outside_the_paper_stands_alone(tmp_path):
    page = write_page(a_run(tmp_path, [a_row("multi3+permute")]))
    assert "p-probing-paper" not in page
    assert "Diamond" not in page


@pytest.mark.parametrize(
    "model",
    [
        {"activation": "swiglu"},
        {"positions": "learned"},
        {"norm": "rms"},
        {"direction": "bidirectional"},
        {"architecture": "canon"},
    ],
    ids=lambda model: next(iter(model)),
)
def test_another_model_has_no_numbers_of_the_paper_s_gpt2_beside_it(model):
    gpt2 = beside()
    assert gpt2 is not None
    assert len(gpt2.qa) == 7
    assert beside(**{f"model__{name}": value for name, value in model.items()}) is None


def test_a_bidirectional_model_has_no_numbers_of_the_paper_beside_it(tmp_path):
    row = a_row(model__direction="bidirectional")
    assert "the paper's answers" not in text_of(write_page(a_run(tmp_path, [row])))


def test_a_model_finetuned_after_mixed_training_is_unlike_the_paper_s():
    assert beside(data__qa_share=0.8) is None
    mixed = beside(data__qa_share=0.8, finetune__steps=0)
    assert mixed is not None
    assert mixed.qa["mean"] == pytest.approx(0.866)


FULL: dict[str, Any] = {"finetune__method": "full"}


@pytest.mark.parametrize(
    ("dataset", "fields", "mean"),
    [
        ("multi5+permute", {}, 0.966),
        ("multi5+permute", {"finetune__rank": 16}, 0.966),
        ("multi5+permute", FULL, 0.946),
        ("multi5+permute", {"finetune__rank": -1, "finetune__embedding_rank": -1}, 0.946),
        ("single+fullname", {}, 0.489),
        ("single+fullname", {"finetune__embedding_rank": 0}, 0.387),
        ("single+fullname", {"finetune__embedding_rank": 16}, 0.505),
        ("single+fullname", {"finetune__embedding_rank": 64}, 0.489),  # narrower than the paper's
        ("single+fullname", {"finetune__rank": 4}, None),
        ("single+permute1", FULL, None),
        ("multi2+fullname", {"finetune__rank": 4, "finetune__embedding_rank": 0}, None),
    ],
)
def test_a_finetuning_has_the_paper_s_answers_of_its_own_ranks(dataset, fields, mean):
    numbers = beside(dataset, **fields)
    assert numbers is not None
    assert numbers.qa.get("mean") == (None if mean is None else pytest.approx(mean))
    whole = mean in (0.966, 0.489)
    assert len(numbers.qa) == (7 if whole else mean is not None)


def test_the_chosen_row_of_a_grid_decides_which_numbers_belong_to_it():
    def mean(chosen: str) -> float:
        ways = [
            {"method": method, "validation": 0.5, "chosen": method == chosen}
            for method in ("lora", "full")
        ]
        row = dataclasses.replace(a_row("multi5+permute"), finetune_grid=ways)
        (group,) = groups.groups([row])
        return published_beside(group).qa["mean"]

    assert [mean("lora"), mean("full")] == [pytest.approx(0.966), pytest.approx(0.946)]


def test_trained_answers_are_those_of_the_ranks():
    numbers = beside("multi5", finetune__rank=16)
    assert numbers is not None
    assert numbers.qa_train_first == pytest.approx(0.482)
    full = beside("multi5", **FULL)
    assert full is not None
    assert full.qa_train_first == pytest.approx(0.989)


PAPER_WIDTH: dict[str, Any] = {"model__width": 768, "model__heads": 12, "model__layers": 12}


@pytest.mark.parametrize("size", [{}, PAPER_WIDTH], ids=["small", "the paper's size"])
def test_a_probe_has_numbers_of_its_own_rank_beside_it(size):
    def q_first(dataset, **fields):
        probe = {f"readouts__q_probe__{name}": value for name, value in fields.items()}
        numbers = beside(dataset, **size, **probe)
        assert numbers is not None
        assert numbers.qa["mean"] > 0
        return numbers.q_first.get("birth_date"), numbers.q_whole.get("major")

    assert q_first("single") == (pytest.approx(0.634), pytest.approx(0.014))
    assert q_first("single", embedding_rank=64) == (pytest.approx(0.595), None)
    assert q_first("multi5+permute", embedding_rank=64) == (None, pytest.approx(0.948))
    assert q_first("multi2", embedding_rank=64) == (None, None)
    assert q_first("single", embedding_rank=8) == (None, None)
    of_outputs = q_first("single", head="unembedding", embedding_update="shared")
    assert of_outputs[0] == (None if size else pytest.approx(0.634))


def test_a_p_probe_of_another_rank_has_no_numbers_beside_it():
    for rank, printed in ((2, True), (4, False)):
        numbers = beside(readouts__p_probe__embedding_rank=rank)
        assert numbers is not None
        assert (bool(numbers.p_first), bool(numbers.p_whole)) == (printed, printed)


def test_a_model_of_another_size_of_the_paper_has_that_size_s_numbers():
    large: dict[str, Any] = {"model__width": 2048, "model__heads": 32, "model__layers": 12}
    numbers = beside("single", **large, **FULL)
    assert numbers is not None
    assert numbers.qa == {"mean": pytest.approx(0.044)}
    assert beside("multi5", **large) is None
    middle: dict[str, Any] = {**PAPER_WIDTH, "model__width": 1280, "model__heads": 20}
    assert beside("single", **middle) is None
