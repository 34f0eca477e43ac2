"""Rows are grouped over seeds, and groups have names of their own."""

import copy
import dataclasses

import pytest

from kstore_jax.pipeline.experiment import parse
from kstore_jax.report import groups
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS
from tests.report.runs import SINGLE, a_config, a_row, parsed


def test_rows_that_differ_otherwise_are_not_one_group():
    rows = [SINGLE, copy.deepcopy(SINGLE)]
    one = groups.groups(rows, parsed(*rows))
    assert [len(group.rows) for group in one] == [2]
    two = groups.groups(rows, [*parsed(SINGLE, steps=1010), *parsed(SINGLE, steps=1020)])
    labels = [group.label for group in two]
    assert labels == ["single (pretrain.steps=1010)", "single (pretrain.steps=1020)"]


def test_a_group_is_called_by_the_name_of_its_rows_and_by_settings_where_that_is_not_enough():
    def labels(*named):
        rows = [{**a_row(), "name": name, "seed": seed} for name, _, seed in named]
        configs = [
            dataclasses.replace(parse(a_config(row, steps=steps)), name=name)
            for row, (name, steps, _) in zip(rows, named, strict=True)
        ]
        return [group.label for group in groups.groups(rows, configs)]

    two = ("short", 1010, 0), ("long", 1020, 0)
    assert labels(*two, ("short", 1010, 1)) == ["single (short)", "single (long)"]
    assert labels(("a", 1010, 0), ("a", 1020, 0)) == [
        "single (a, pretrain.steps=1010)",
        "single (a, pretrain.steps=1020)",
    ]
    assert labels(("a", 1010, 0), ("b", 1010, 1)) == ["single"]  # one group of two seeds
    assert labels(("alone", 1010, 0)) == ["single (alone)"]


def test_a_setting_of_many_words_is_cut_short_in_what_a_group_is_called():
    grid = [[["learning_rate", rate], ["weight_decay", 0.1]] for rate in (1e-3, 3e-4, 1e-4)]
    configs = [*parsed(SINGLE), parse({**a_config(SINGLE), "finetune": {"grid": grid}})]
    labels = [group.label for group in groups.groups([SINGLE, copy.deepcopy(SINGLE)], configs)]
    assert len(set(labels)) == 2
    assert max(map(len, labels)) < 100


KNOWN = (*FIG3_VARIANTS, *OTHER_VARIANTS, "multi3")


def wording(dataset):
    (group,) = groups.groups([a_row(dataset)], None)
    return group.wording


@pytest.mark.parametrize("dataset", [*KNOWN, "a dataset of tomorrow"])
def test_every_dataset_is_shown_in_words(dataset):
    assert ("full name" in wording(dataset)) == ("fullname" in dataset)
    assert wording(dataset) in finding_of(a_row(dataset))


def test_no_two_datasets_are_shown_in_the_same_words():
    assert len({wording(dataset) for dataset in KNOWN}) == len(KNOWN)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ("single+permute2", "one text about each person in two sentence orders"),
        ("multi5+permute", "five shuffled wordings of the text about each person"),
        (
            "couple2",
            "two wordings of the text about each person with its sentences shuffled as three pairs",
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
def test_what_is_read_is_shown_as_it_is(dataset, text):
    assert wording(dataset) == text
