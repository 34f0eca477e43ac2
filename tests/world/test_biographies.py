"""Each variant: how many entries, in which words, in which order, with which names."""

import re

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.biographies import VARIANT_EXAMPLES, Variant, write
from kstore_jax.world.language import text
from kstore_jax.world.people import ATTRIBUTES, people
from tests.chi_square import assert_uniform

IDS = np.arange(1000)


def templates_of(language, entries) -> np.ndarray:
    """(B, 6): which template states each attribute, read back from the words of the sentences."""

    def words(codes):
        return np.where((codes > 0) & (codes < language.names[0]), codes, 0)

    pronouns = people(language.pools, 0, entries.people).pronouns[:, None]
    named = (entries.name_slots >= 0).astype(int)
    forms = language.forms.transpose(0, 2, 3, 1, 4)[entries.order, named, pronouns]
    matches = (words(forms) == words(entries.pieces)[:, :, None]).all(axis=3)
    assert (matches.sum(axis=2) == 1).all()
    template = np.argmax(matches, axis=2)
    return np.take_along_axis(template, np.argsort(entries.order, axis=1), axis=1)


@pytest.mark.parametrize("variant", VARIANT_EXAMPLES)
def test_a_variant_is_what_its_name_says(variant):
    number = re.search(r"\d+", variant)
    assert Variant.parse(variant) == Variant(
        entries=int(number[0]) if number else 1,
        reworded=variant.startswith("multi"),
        permuted="permute" in variant,
        fullname=variant.endswith("+fullname"),
    )


@pytest.mark.parametrize(
    "variant",
    [
        "", "singel", "multi", "multi0", "multi-1", "multi05", "permute2", "single+multi5",
        "multi5+permute2", "single+permute", "single+permute0", "single+fullname+permute2",
        "single+fullname+fullname", "single ", "Single", "single+", "multi5+fullname+permute",
    ],
)  # fmt: skip
def test_a_contradictory_variant_is_refused(variant):
    with pytest.raises(UserError, match=r"^data\.variant: ") as refused:
        Variant.parse(variant)
    assert refused.value.status == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("variant", VARIANT_EXAMPLES)
def test_order_is_fixed_or_permuted(biographies, variant):
    entries = biographies(variant, IDS)
    parsed = Variant.parse(variant)
    assert len(entries.order) == len(IDS) * parsed.entries
    assert (np.sort(entries.order, axis=1) == np.arange(6)).all()
    moved = (entries.order != np.arange(6)).any(axis=1).mean()
    assert moved > 0.99 if parsed.permuted else moved == 0


@pytest.mark.parametrize("variant", VARIANT_EXAMPLES)
def test_wording_is_kept_in_single_and_redrawn_in_multi(language, biographies, variant):
    parsed = Variant.parse(variant)
    templates = templates_of(language, biographies(variant, IDS)).reshape(len(IDS), -1, 6)
    if parsed.reworded:
        agree = (templates[:, 0] == templates[:, 1]).mean()
        assert abs(agree - 1 / 50) < 5 * (0.02 * 0.98 / (6 * len(IDS))) ** 0.5
    else:
        once = templates_of(language, biographies("single", IDS))
        assert (templates == once[:, None]).all()


@pytest.mark.parametrize("variant", ["single", "multi5+permute"])
def test_templates_are_uniform(language, biographies, variant):
    for of_attribute in templates_of(language, biographies(variant, np.arange(5000))).T:
        assert_uniform(np.bincount(of_attribute, minlength=50))


def test_orders_are_uniform_and_redrawn_for_every_entry(biographies):
    order = biographies("multi5+permute", np.arange(3000)).order
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 720
    assert_uniform(counts)
    pairs = order.reshape(3000, 5, 6)
    assert (pairs[:, 0] == pairs[:, 1]).all(axis=1).mean() < 0.01


@pytest.mark.parametrize("variant", VARIANT_EXAMPLES)
def test_the_first_sentence_carries_the_full_name_the_others_only_with_fullname(
    language, biographies, variant
):
    entries = biographies(variant, IDS[:50])
    who = people(language.pools, 0, entries.people)
    columns = (language.pools.first_names, language.pools.middle_names, language.pools.last_names)
    for b, pieces in enumerate(entries.pieces):
        name = " ".join(c[i] for c, i in zip(columns, who.names[b], strict=True))
        carries = [f" {name}" in text(language, sentence) for sentence in pieces]
        assert carries == [True] + 5 * [Variant.parse(variant).fullname]


def test_every_sentence_states_its_value(language, biographies):
    entries = biographies("multi5+permute", IDS[:100])
    who = people(language.pools, 0, entries.people)
    for b, order in enumerate(entries.order):
        for pieces, a in zip(entries.pieces[b], order, strict=True):
            value = language.pools.values[ATTRIBUTES[a]][who.values[b, a]]
            assert f" {value}" in text(language, pieces)


@pytest.mark.parametrize("variant", ["single", "single+permute5", "multi5+permute+fullname"])
def test_an_entry_does_not_depend_on_what_else_is_written(language, biographies, variant):
    parsed = Variant.parse(variant)
    whole = biographies(variant, IDS, seed=9)
    which = np.random.default_rng(0).permutation(len(whole.people))[:50]
    who = people(language.pools, 9, whole.people[which])
    some = write(language, 9, parsed, who, whole.entries[which])
    for column in ("people", "entries", "order", "pieces", "value_slots", "name_slots"):
        assert np.array_equal(getattr(some, column), getattr(whole, column)[which])
