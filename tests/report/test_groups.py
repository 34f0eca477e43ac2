"""Rows are grouped over seeds, and groups have names of their own."""

import dataclasses

import pytest

from kstore_jax.report import groups
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS
from tests.report.runs import SINGLE, a_row, with_seed


def test_rows_that_differ_in_a_setting_are_two_groups():
    alike = groups.groups([SINGLE, with_seed(SINGLE, 1)])
    assert [len(group.rows) for group in alike] == [2]
    apart = groups.groups([a_row(pretrain__steps=steps) for steps in (1010, 1020)])
    labels = [group.label for group in apart]
    assert labels == ["single (pretrain.steps=1010)", "single (pretrain.steps=1020)"]


def test_a_label_has_the_name_of_the_rows_and_settings_where_the_name_is_not_enough():
    def labels(*names_steps_seeds):
        rows = [
            dataclasses.replace(a_row(seed=seed, pretrain__steps=steps), name=name)
            for name, steps, seed in names_steps_seeds
        ]
        return [group.label for group in groups.groups(rows)]

    two = ("short", 1010, 0), ("long", 1020, 0)
    assert labels(*two, ("short", 1010, 1)) == ["single (short)", "single (long)"]
    assert labels(("a", 1010, 0), ("a", 1020, 0)) == [
        "single (a, pretrain.steps=1010)",
        "single (a, pretrain.steps=1020)",
    ]
    assert labels(("a", 1010, 0), ("b", 1010, 1)) == ["single"]  # one group of two seeds
    assert labels(("alone", 1010, 0)) == ["single (alone)"]


def test_a_long_setting_is_cut_short_in_a_label():
    grid = [[["learning_rate", rate], ["weight_decay", 0.1]] for rate in (1e-3, 3e-4, 1e-4)]
    labels = [group.label for group in groups.groups([SINGLE, a_row(finetune__grid=grid)])]
    assert len(set(labels)) == 2
    assert max(map(len, labels)) < 100


DATASETS = (*FIG3_VARIANTS, *OTHER_VARIANTS, "multi3")


def wording(dataset):
    """The biographies of a dataset in words."""
    (group,) = groups.groups([a_row(dataset)])
    return group.wording


@pytest.mark.parametrize("dataset", [*DATASETS, "a dataset of tomorrow"])
def test_every_dataset_has_a_wording(dataset):
    assert ("full name" in wording(dataset)) == ("fullname" in dataset)


def test_no_two_datasets_have_the_same_wording():
    assert len({wording(dataset) for dataset in DATASETS}) == len(DATASETS)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ("single+permute2", "one text about each person in two sentence orders"),
        ("multi5+permute", "five shuffled wordings of the text about each person"),
        (
            "couple2",
            "two wordings of the text about each person with its sentences shuffled in pairs",
        ),
        ("fresh", "in every pass a new shuffled wording of the text about each person"),
        (
            "fresh+fullname",
            "in every pass a new shuffled wording of the text about each person "
            "with the full name in every sentence",
        ),
        (
            "multi5+reverse1",
            "five wordings of the text about each person with the name only after one sentence",
        ),
        (
            "multi5+reverse2",
            "five wordings of the text about each person with the name only after two sentences",
        ),
        (
            "multi5+permute+reverse6",
            "five shuffled wordings of the text about each person with the name only at the end",
        ),
    ],
)
def test_the_wording_names_what_pretraining_read(dataset, text):
    assert wording(dataset) == text
