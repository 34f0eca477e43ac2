"""Worlds of any number of attributes, parts of a name and pronouns, from pools or a table."""

import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kstore_jax.corpus.encode import (
    compact_vocabulary,
    encode_biographies,
    encode_questions,
    token_table,
)
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.language import Language, load_language, pieces_to_text
from kstore_jax.world.people import draw_people, full_names, value_texts
from kstore_jax.world.pools import load_pools
from kstore_jax.world.questions import write_questions
from tests.world.worlds import drawn, films, write_world

VARIANTS = (
    "single", "single+permute2+fullname", "multi2+fullname", "multi3+permute", "couple2", "fresh",
    "multi2+permute+reverse1", "multi2+reverse2",
)  # fmt: skip


@pytest.fixture(scope="module")
def film_language(tmp_path_factory) -> Language:
    return load_language(str(films(tmp_path_factory.mktemp("films"))))


def spans_as_text(rows, spans: np.ndarray) -> list[list[str]]:
    """The text of spans (B, S, 2), without the space in front."""
    starts = rows.offsets[:-1]
    return [
        [gpt2().decode(rows.tokens[first + start : first + end])[1:] for start, end in of_row]
        for first, of_row in zip(starts, spans, strict=True)
    ]


def check_texts(language: Language, seed: int, name: str, people) -> None:
    """Tokens of biographies and questions are GPT-2's, and spans are the values and names."""
    schema, table = language.schema, token_table(language, gpt2())
    names, values = full_names(language.pools, people), value_texts(language.pools, people)
    variant = Variant.parse(name)
    written = write_biographies(language, seed, variant, people, np.arange(len(people)))
    rows = encode_biographies(table, written)
    texts = [pieces_to_text(language, pieces) for pieces in written.texts.pieces]
    assert rows.tokens.tolist() == [token for text in texts for token in gpt2().encode([text])[0]]
    assert spans_as_text(rows, rows.value_spans) == list(map(list, values))
    count = len(schema.attributes) - variant.name_at
    repeated = variant.fullname or not schema.pronouns
    named = max(1, count) if repeated else 1
    assert spans_as_text(rows, rows.name_spans) == [[name] * named for name in names]
    assert (np.sort(written.order) == np.arange(len(schema.attributes))).all()
    if variant.order == "couples":
        for first, second in schema.pairs:
            positions = [
                np.argwhere(written.order == schema.names.index(a)) for a in (first, second)
            ]
            assert (positions[1][:, 1] == positions[0][:, 1] + 1).all()
    vocabulary = compact_vocabulary(table, people, bool(variant.name_at))
    vocabulary.encode(rows.tokens)
    for a in range(len(schema.attributes)):
        asked = write_questions(language, people, np.full(len(people), a))
        rows = encode_questions(table, asked)
        assert spans_as_text(rows, rows.value_spans) == [[row[a]] for row in values]
        assert spans_as_text(rows, rows.name_spans) == [[name] for name in names]
        vocabulary.encode(rows.tokens)


@settings(max_examples=25)
@given(
    attributes=st.integers(1, 20),
    parts=st.integers(1, 4),
    pronouns=st.lists(st.sampled_from(["she", "he", "they", "it"]), unique=True),
    variant=st.sampled_from(VARIANTS),
    seed=st.integers(0, 2**40),
)
def test_spans_of_any_world_are_its_values_and_names(attributes, parts, pronouns, variant, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = drawn(pathlib.Path(folder), attributes, parts, tuple(pronouns))
        language = load_language.__wrapped__(str(path))
    load = language.pools
    people = draw_people(load, seed, np.arange(3**parts))
    assert len(set(full_names(load, people))) == 3**parts
    for a, attribute in enumerate(language.schema.attributes):
        if attribute.function_of:
            of = language.schema.names.index(attribute.function_of)
            assert len(np.unique(people.values[:, [of, a]], axis=0)) == len(
                np.unique(people.values[:, of])
            )
    parsed = Variant.parse(variant)
    if parsed.name_at > attributes or (parsed.order == "couples" and attributes == 1):
        with pytest.raises(UserError, match=r"^data\.variant: (expected reverse1 to|couples need)"):
            check_texts(language, seed, variant, people)
    else:
        check_texts(language, seed, variant, people)


@given(variant=st.sampled_from(VARIANTS), seed=st.integers(0, 2**40))
def test_films_of_a_table(film_language, variant, seed):
    check_texts(film_language, seed, variant, draw_people(film_language.pools, seed, np.arange(6)))


def test_person_i_of_a_table_is_row_i(film_language):
    pools = film_language.pools
    people = draw_people(pools, 5, np.array([3, 0]))
    assert full_names(pools, people) == ["M", "The Big Sleep"]
    assert value_texts(pools, people) == [
        ("Fritz Lang", "1931", "Germany"),
        ("Howard Hawks", "1946", "USA"),
    ]
    assert pools.values["country"] == ("USA", "Spain", "France", "Germany")
    with pytest.raises(UserError, match=r"^world\.people: 7 people, but films\.csv has 6 rows"):
        draw_people(pools, 5, np.arange(7))


def test_names_in_two_columns_of_a_table(tmp_path):
    toml = 'table = "people.csv"\nname = ["given", "family"]\nattributes.town = {}\n'
    rows = "town,given,family\nRome,Ann Mary,Poe\nOslo,Bob,Poe\nRome,Bob,Van Loo\n"
    pools = load_pools(str(write_world(tmp_path, toml, {"people.csv": rows})))
    people = draw_people(pools, 0, np.arange(3))
    assert people.names.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert full_names(pools, people) == ["Ann Mary Poe", "Bob Poe", "Bob Van Loo"]
    check_texts(load_language(str(tmp_path)), 0, "multi2+permute+fullname", people)


def test_sentences_about_a_film(film_language):
    film = draw_people(film_language.pools, 0, np.array([1]))
    texts = set()
    for variant in ("multi9", "multi9+reverse3"):
        for entry in range(9):
            written = write_biographies(
                film_language, 0, Variant.parse(variant), film, np.array([entry])
            )
            texts.add(pieces_to_text(film_language, written.texts.pieces[0]))
    assert (
        " Yes, Minister of Fish was directed by Ana Ruiz. Cinemas first showed it in 1999 with its "
        "trailer. It comes from Spain."
    ) in texts
    assert (
        " The film's director was Ana Ruiz. Cinemas first showed the film in 1999 with its trailer."
        " They made the film in Spain. The film's name is Yes, Minister of Fish."
    ) in texts
    asked = write_questions(film_language, film, np.array([1]))
    assert pieces_to_text(film_language, asked.texts.pieces[0]) == (
        "What is the year of release of Yes, Minister of Fish? Answer: 1999"
    )


def test_a_variant_that_a_world_lacks_is_refused(language, tmp_path):
    with pytest.raises(UserError, match=r"^data\.variant: expected reverse1 to reverse6 where "):
        Variant.parse("multi5+reverse7").check(language.schema)
    one = load_language(str(drawn(tmp_path, 1, 2))).schema
    with pytest.raises(UserError, match=r"^x: couples need pairs .*/world\.toml has no pairs$"):
        Variant.parse("couple5").check(one, "x")


def test_a_world_without_pronouns_and_templates_repeats_the_name(tmp_path):
    language = load_language(str(drawn(tmp_path, 2, 2)))
    person = draw_people(language.pools, 0, np.array([0]))
    ((name,), ((first, second),)) = (f(language.pools, person) for f in (full_names, value_texts))
    written = write_biographies(language, 0, Variant.parse("single"), person, np.array([0]))
    sentences = [
        {
            f" {name}'s fact {a} is {value}.",
            f" {name} has the fact {a} {value}.",
            f" The fact {a} given for {name} is {value}.",
            f" The records list {name} with the fact {a} {value}.",
            f" {name}'s entry under fact {a} reads {value}.",
        }
        for a, value in enumerate((first, second))
    ]
    text = pieces_to_text(language, written.texts.pieces[0])
    assert text in {a + b for a in sentences[0] for b in sentences[1]}
    assert language.template_counts.tolist() == [5, 5]
