"""Variants of biographies: counts, templates, orders and names."""

import itertools
import re

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS, Variant, write_biographies
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people, full_names
from tests.chi_square import assert_uniform
from tests.world.bundled import ATTRIBUTES

IDS = np.arange(1000)


def sentences_of(language, written) -> list[list[str]]:
    """The sentences of each biography; one ends after the piece behind its value."""
    slots = [0, *(written.texts.value_slots + 2)]
    sentences = []
    for pieces in written.texts.pieces:
        cuts = [*itertools.pairwise(slots), (slots[-1], len(pieces))]
        sentences.append([pieces_to_text(language, pieces[i:j]) for i, j in cuts if j > i])
    return sentences


@pytest.mark.parametrize("variant", FIG3_VARIANTS)
def test_the_name_of_a_variant_is_parsed(variant):
    number = re.search(r"\d+", variant)
    assert Variant.parse(variant) == Variant(
        biographies_per_person=int(number[0]) if number else 1,
        reworded=variant.startswith("multi"),
        order="permuted" if "permute" in variant else "fixed",
        fullname=variant.endswith("+fullname"),
    )


def test_variants_of_the_other_papers():
    parsed = {variant: Variant.parse(variant) for variant in OTHER_VARIANTS}
    assert parsed == {
        "couple1": Variant(1, reworded=True, order="couples"),
        "couple2": Variant(2, reworded=True, order="couples"),
        "couple5": Variant(5, reworded=True, order="couples"),
        "fresh": Variant(1, reworded=True, order="permuted", fresh=True),
        "fresh+fullname": Variant(1, True, "permuted", fullname=True, fresh=True),
        "multi5+reverse1": Variant(5, reworded=True, name_at=1),
        "multi5+reverse2": Variant(5, reworded=True, name_at=2),
        "multi5+reverse6": Variant(5, reworded=True, name_at=6),
        "multi5+permute+reverse6": Variant(5, True, "permuted", name_at=6),
    }


@pytest.mark.parametrize(
    "variant",
    [
        "", "singel", "multi", "multi0", "multi-1", "multi05", "permute2", "single+multi5",
        "multi5+permute2", "single+permute", "single+permute0", "single+fullname+permute2",
        "single+fullname+fullname", "single ", "Single", "single+", "multi5+fullname+permute",
        "permute2+permute5", "single+permute2+permute5", "couple", "couple0", "couple2+permute",
        "fresh5", "fresh+permute", "single+reverse1", "multi5+reverse0",
        "multi5+fullname+reverse1", "multi0+permute",
    ],
)  # fmt: skip
def test_an_unknown_variant_is_refused(variant):
    with pytest.raises(UserError, match=r"^data\.variant: ") as error:
        Variant.parse(variant)
    assert error.value.status == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", FIG3_VARIANTS)
def test_order_is_fixed_or_permuted(biographies, variant):
    order = biographies(variant, IDS).order
    parsed = Variant.parse(variant)
    assert len(order) == len(IDS) * parsed.biographies_per_person
    assert (np.sort(order, axis=1) == np.arange(6)).all()
    moved = (order != np.arange(6)).any(axis=1).mean()
    assert moved > 0.99 if parsed.order == "permuted" else moved == 0


@pytest.mark.parametrize("variant", FIG3_VARIANTS)
def test_single_draws_templates_once_and_multi_for_each_biography(biographies, variant):
    parsed = Variant.parse(variant)
    templates = biographies(variant, IDS).templates.reshape(len(IDS), -1, 6)
    if parsed.reworded:
        agree = (templates[:, 0] == templates[:, 1]).mean()
        assert abs(agree - 1 / 50) < 5 * (0.02 * 0.98 / (6 * len(IDS))) ** 0.5
    else:
        once = biographies("single", IDS).templates
        assert (templates == once[:, None]).all()


@pytest.mark.parametrize("variant", ["single", "multi5+permute", "couple2", "fresh"])
def test_templates_are_uniform(biographies, variant):
    for of_attribute in biographies(variant, np.arange(5000)).templates.T:
        assert_uniform(np.bincount(of_attribute, minlength=50))


def test_orders_are_uniform_and_drawn_for_each_biography(biographies):
    order = biographies("multi5+permute", np.arange(3000)).order
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 720
    assert_uniform(counts)
    pairs = order.reshape(3000, 5, 6)
    assert (pairs[:, 0] == pairs[:, 1]).all(axis=1).mean() < 0.01


@pytest.mark.parametrize("variant", FIG3_VARIANTS)
def test_the_first_sentence_carries_the_full_name_the_others_only_with_fullname(
    language, biographies, variant
):
    written = biographies(variant, IDS[:50])
    names = full_names(language.pools, draw_people(language.pools, 0, written.people))
    for name, sentences in zip(names, sentences_of(language, written), strict=True):
        carries = [f" {name}" in sentence for sentence in sentences]
        assert carries == [True] + 5 * [Variant.parse(variant).fullname]


@pytest.mark.parametrize("name_at", range(1, 7))
@pytest.mark.parametrize("permute", ["", "+permute"])
def test_reverse_says_the_person_before_the_name(language, biographies, name_at, permute):
    written = biographies(f"multi2{permute}+reverse{name_at}", IDS[:50])
    names = full_names(language.pools, draw_people(language.pools, 0, written.people))
    for name, sentences in zip(names, sentences_of(language, written), strict=True):
        assert len(sentences) == (7 if name_at == 6 else 6)
        named = [i for i, sentence in enumerate(sentences) if f" {name}" in sentence]
        assert named == [name_at]
        assert all("he person" in sentence for sentence in sentences[:name_at])
        assert not any("he person" in sentence for sentence in sentences[name_at:6])
        if name_at == 6:
            assert sentences[6] == f" The person's name is {name}."


def test_couples_are_adjacent_and_their_orders_are_uniform(biographies):
    order = biographies("couple5", np.arange(600)).order
    pairs = order.reshape(-1, 3, 2)
    assert (pairs[:, :, 0] % 2 == 0).all()
    assert (pairs[:, :, 1] == pairs[:, :, 0] + 1).all()
    _, counts = np.unique(pairs[:, :, 0], axis=0, return_counts=True)
    assert len(counts) == 6
    assert_uniform(counts)


def test_fresh_text_is_a_multi_variant_with_any_number_of_biographies(language):
    numbers = np.array([0, 1, 4, 10**6])
    people = draw_people(language.pools, 3, np.full(4, 17))
    fresh = write_biographies(language, 3, Variant.parse("fresh"), people, numbers)
    multi = write_biographies(language, 3, Variant.parse("multi5+permute"), people, numbers)
    assert np.array_equal(fresh.texts.pieces, multi.texts.pieces)
    assert len({tuple(pieces) for pieces in fresh.texts.pieces}) == 4


@pytest.mark.parametrize("variant", ["multi5+permute", "couple2", "multi2+permute+reverse6"])
def test_every_sentence_states_its_value(language, biographies, variant):
    written = biographies(variant, IDS[:100])
    people = draw_people(language.pools, 0, written.people)
    for b, sentences in enumerate(sentences_of(language, written)):
        for sentence, a in zip(sentences, written.order[b], strict=False):
            value = language.pools.values[ATTRIBUTES[a]][people.values[b, a]]
            assert f" {value}" in sentence


@pytest.mark.parametrize(
    "variant", ["single", "single+permute5", "multi5+permute+fullname", "couple2"]
)
def test_a_biography_does_not_depend_on_the_others(language, biographies, variant):
    parsed = Variant.parse(variant)
    everyone = biographies(variant, IDS, seed=9)
    rows = np.random.default_rng(0).permutation(len(everyone.people))[:50]
    people = draw_people(language.pools, 9, everyone.people[rows])
    some = write_biographies(language, 9, parsed, people, everyone.entries[rows])
    for column in ("people", "entries", "templates", "order"):
        assert np.array_equal(getattr(some, column), getattr(everyone, column)[rows])
    assert np.array_equal(some.texts.pieces, everyone.texts.pieces[rows])
