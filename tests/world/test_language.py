"""Templates and questions: the sentences they make, and errors in them."""

import re
import shutil

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.language import (
    NAME,
    PERSON,
    PRONOUN,
    assemble_texts,
    load_language,
    pieces_to_text,
)
from kstore_jax.world.people import draw_people, full_names
from kstore_jax.world.questions import write_questions
from kstore_jax.world.schema import BUNDLED_WORLD
from tests.world.bundled import ATTRIBUTES
from tests.world.test_bundled import questions, templates

PRONOUN_CASES = {  # subject, possessive, object
    "she": ("she", "her", "her"),
    "he": ("he", "his", "him"),
    "they": ("they", "their", "them"),
}


@pytest.fixture(scope="module")
def trio(language):
    """One person of each pronoun, in the order of the schema, and their full names."""
    people = draw_people(language.pools, 0, np.arange(50))
    people = people.take(np.array([np.flatnonzero(people.pronouns == p)[0] for p in range(3)]))
    return people, full_names(language.pools, people)


def sentences_of(language, people, attribute: int, template: int, reference: int) -> list[str]:
    """The sentence of a template about each of these people."""
    forms = language.forms[attribute, template, reference, people.pronouns][:, None]
    attributes = np.full((len(people), 1), attribute)
    texts = assemble_texts(language, people, forms, attributes, (reference,))
    return [pieces_to_text(language, pieces) for pieces in texts.pieces]


def by_replacement(template: str, name: str, pronoun: str, value: str, reference: int) -> str:
    """The sentence of a template, by replacement of its placeholders as its README describes."""
    subject, possessive, objective = PRONOUN_CASES[pronoun]
    if reference != PRONOUN:
        name = name if reference == NAME else "the person"
        subject, owner, target = name, f"{name}'s", name
    else:
        owner, target = possessive, objective
    plural = pronoun == "they" and reference == PRONOUN and "{name}" in template
    opens = template.startswith("{name")
    sentence = re.sub(r"\{(\w+)\|(\w+)\}", r"\2" if plural else r"\1", template)
    sentence = sentence.replace("{their}", possessive).replace("{them}", objective)
    sentence = sentence.replace("{name}", subject).replace("{name's}", owner)
    sentence = sentence.replace("{name:them}", target)
    sentence = sentence[0].upper() + sentence[1:] if opens else sentence
    return sentence.replace("{value}", value)


@pytest.mark.parametrize("reference", [NAME, PRONOUN, PERSON], ids=["name", "pronoun", "person"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_template_follows_the_rules(language, trio, attribute, reference):
    people, names = trio
    a = ATTRIBUTES.index(attribute)
    values = [language.pools.values[attribute][v] for v in people.values[:, a]]
    for t, line in enumerate(templates(attribute)):
        for p, sentence in enumerate(sentences_of(language, people, a, t, reference)):
            expected = by_replacement(
                line, names[p], language.schema.pronouns[p], values[p], reference
            )
            assert sentence == f" {expected}"
            assert not set("{}|") & set(sentence)


def test_verbs_and_possessives_agree(language, trio, tmp_path):
    shutil.copytree(BUNDLED_WORLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "templates" / "birth_city.txt").write_text(
        "{name} {names|name} {value} as {their} home.\n"
        "{name's} first home {was|were} in {value}.\n"
        "Life gave {name:them} in {value} {their} first friends.\n"
    )
    language = load_language(str(tmp_path))
    people, names = trio
    value = [language.pools.values["birth_city"][v] for v in people.values[:, 1]]
    rows = [
        sentences_of(language, people, 1, template, reference)
        for reference in (NAME, PRONOUN)
        for template in range(3)
    ]
    she, he, they = zip(*rows, strict=True)
    assert list(she) == [
        f" {names[0]} names {value[0]} as her home.",
        f" {names[0]}'s first home was in {value[0]}.",
        f" Life gave {names[0]} in {value[0]} her first friends.",
        f" She names {value[0]} as her home.",
        f" Her first home was in {value[0]}.",
        f" Life gave her in {value[0]} her first friends.",
    ]
    assert he[5] == f" Life gave him in {value[1]} his first friends."
    assert list(they) == [
        f" {names[2]} names {value[2]} as their home.",
        f" {names[2]}'s first home was in {value[2]}.",
        f" Life gave {names[2]} in {value[2]} their first friends.",
        f" They name {value[2]} as their home.",
        f" Their first home was in {value[2]}.",
        f" Life gave them in {value[2]} their first friends.",
    ]


@pytest.mark.parametrize("wording", range(5))
def test_questions_carry_the_name_and_end_in_the_answer(language, trio, wording):
    people, names = trio
    for a, attribute in enumerate(ATTRIBUTES):
        written = write_questions(language, people, np.full(3, a), wording)
        for p in range(3):
            value = language.pools.values[attribute][people.values[p, a]]
            question = questions(attribute)[wording].replace("{name}", names[p])
            text = pieces_to_text(language, written.texts.pieces[p])
            assert text.strip() == f"{question} Answer: {value}"


def test_the_trained_wording_is_the_first(language, trio):
    people, names = trio
    written = write_questions(language, people, np.zeros(3, int))
    trained = questions("birth_date")[0].replace("{name}", names[0])
    assert pieces_to_text(language, written.texts.pieces[0]).startswith(trained)


def error_of(tmp_path, file: str, line: str) -> str:
    """The message for templates with one more line in a file."""
    shutil.copytree(BUNDLED_WORLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(f"{(tmp_path / file).read_text()}{line}\n")
    with pytest.raises(UserError) as error:
        load_language(str(tmp_path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "{name} was born.",
        "In {value} {name} was born.",
        "{name} left {value} for {value}.",
        "They were born in {value}.",
        "{name} showed {name:them} {value}.",
        "{name} was born in {value} with {thier} mother.",
        "{name} {was|is|were} born in {value}.",
        "{name} was born in} {value}.",
        "{name} was {born in {value}.",
        "{name} was born in({value}).",
        "Saint-{name} was born in {value}.",
        "{name} was born in {value}!",
        "{name} was born in {value}",
        "{name}ette was born in {value}.",
        "{name} was  born in {value}.",
        " {name} was born in {value}.",
    ],
)
def test_an_error_in_a_template_names_the_file_and_line(tmp_path, line):
    message = error_of(tmp_path, "templates/birth_city.txt", line)
    assert message.startswith(f"{tmp_path / 'templates' / 'birth_city.txt'}:51: ")


@pytest.mark.parametrize(
    "line",
    [
        "Where was the birth?",
        "Where was {name} when {name} was born?",
        "Where was {name} born",
        "Where was {name} in {value}?",
        "Where was {name} {was|were} born?",
        "Where was {name} born}?",
        "Where was Saint-{name} born?",
        "Where was {name}ette born?",
    ],
)
def test_an_error_in_a_question_names_the_file_and_line(tmp_path, line):
    message = error_of(tmp_path, "questions/birth_city.txt", line)
    assert message.startswith(f"{tmp_path / 'questions' / 'birth_city.txt'}:6: ")


def test_a_missing_template_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"^world\.folder: .*nowhere is not a folder"):
        load_language(str(tmp_path / "nowhere"))
    shutil.copytree(BUNDLED_WORLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "templates" / "major.txt").unlink()
    with pytest.raises(UserError, match=r"major\.txt: no such file"):
        load_language(str(tmp_path))
