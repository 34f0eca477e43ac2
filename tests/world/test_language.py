"""Templates and questions become the sentences they describe; bad ones are refused."""

import re
import shutil

import numpy as np
import pytest

from kstore_jax.errors import UserError
from kstore_jax.world.language import BUNDLED_TEMPLATES, fill, load_language, text
from kstore_jax.world.people import ATTRIBUTES, PRONOUNS, people
from kstore_jax.world.questions import TRAINED_WORDING, ask
from tests.world.test_bundled import questions, templates

CASES = {  # subject, possessive, object
    "she": ("she", "her", "her"),
    "he": ("he", "his", "him"),
    "they": ("they", "their", "them"),
}


@pytest.fixture(scope="module")
def trio(language):
    """One person of each pronoun, in the order of PRONOUNS, and their full names."""
    who = people(language.pools, 0, np.arange(50))
    who = who.rows(np.array([np.flatnonzero(who.pronouns == p)[0] for p in range(3)]))
    columns = (language.pools.first_names, language.pools.middle_names, language.pools.last_names)
    names = [" ".join(c[i] for c, i in zip(columns, row, strict=True)) for row in who.names]
    return who, names


def plainly_written(template: str, name: str, pronoun: str, value: str, named: bool) -> str:
    """The sentence of a template by string replacement, straight from the rules of the README."""
    subject, possessive, objective = CASES[pronoun]
    plural = pronoun == "they" and not named and "{name}" in template
    opens = template.startswith("{name")
    sentence = re.sub(r"\{(\w+)\|(\w+)\}", r"\2" if plural else r"\1", template)
    sentence = sentence.replace("{their}", possessive).replace("{them}", objective)
    sentence = sentence.replace("{name}", name if named else subject)
    sentence = sentence.replace("{name's}", f"{name}'s" if named else possessive)
    sentence = sentence.replace("{name:them}", name if named else objective)
    sentence = sentence[0].upper() + sentence[1:] if opens else sentence
    return sentence.replace("{value}", value)


@pytest.mark.parametrize("named", [True, False], ids=["name", "pronoun"])
@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_template_reads_as_its_rules_say(language, trio, attribute, named):
    who, names = trio
    a = ATTRIBUTES.index(attribute)
    lines = templates(attribute)
    forms = language.forms[a, :, int(named)].transpose(1, 0, 2)  # pronoun, template, slot
    pieces = fill(language, forms, who, np.full((3, len(lines)), a))
    for p, pronoun in enumerate(PRONOUNS):
        value = language.pools.values[attribute][who.values[p, a]]
        for t, line in enumerate(lines):
            sentence = text(language, pieces[p, t])
            assert sentence == " " + plainly_written(line, names[p], pronoun, value, named)
            assert not set("{}|") & set(sentence)


def test_verbs_and_possessives_agree(language, trio, tmp_path):
    shutil.copytree(BUNDLED_TEMPLATES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "birth_city.txt").write_text(
        "{name} {names|name} {value} as {their} home.\n"
        "{name's} first home {was|were} in {value}.\n"
        "Life gave {name:them} in {value} {their} first friends.\n"
    )
    language = load_language(templates_folder=str(tmp_path))
    who, names = trio
    value = [language.pools.values["birth_city"][v] for v in who.values[:, 1]]
    forms = language.forms[1, :3, ::-1].transpose(2, 1, 0, 3).reshape(3, 6, -1)  # names first
    she, he, they = fill(language, forms, who, np.full((3, 6), 1))
    assert [text(language, row) for row in she] == [
        f" {names[0]} names {value[0]} as her home.",
        f" {names[0]}'s first home was in {value[0]}.",
        f" Life gave {names[0]} in {value[0]} her first friends.",
        f" She names {value[0]} as her home.",
        f" Her first home was in {value[0]}.",
        f" Life gave her in {value[0]} her first friends.",
    ]
    assert text(language, he[5]) == f" Life gave him in {value[1]} his first friends."
    assert [text(language, row) for row in they] == [
        f" {names[2]} names {value[2]} as their home.",
        f" {names[2]}'s first home was in {value[2]}.",
        f" Life gave {names[2]} in {value[2]} their first friends.",
        f" They name {value[2]} as their home.",
        f" Their first home was in {value[2]}.",
        f" Life gave them in {value[2]} their first friends.",
    ]


@pytest.mark.parametrize("wording", range(5))
def test_questions_read_as_written_and_end_in_the_answer(language, trio, wording):
    who, names = trio
    for a, attribute in enumerate(ATTRIBUTES):
        asked = ask(language, who, np.full(3, a), wording)
        for p in range(3):
            value = language.pools.values[attribute][who.values[p, a]]
            question = questions(attribute)[wording].replace("{name}", names[p])
            assert text(language, asked.pieces[p]).strip() == f"{question} Answer: {value}"


def test_the_trained_wording_is_the_first(language, trio):
    who, _ = trio
    asked = ask(language, who, np.zeros(3, int))
    first = ask(language, who, np.zeros(3, int), TRAINED_WORDING)
    assert TRAINED_WORDING == 0
    assert np.array_equal(asked.pieces, first.pieces)


def refusal(tmp_path, file: str, line: str) -> str:
    shutil.copytree(BUNDLED_TEMPLATES, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(f"{(tmp_path / file).read_text()}{line}\n")
    with pytest.raises(UserError) as refused:
        load_language(templates_folder=str(tmp_path))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "{name} was born.",
        "In {value} {name} was born.",
        "{name} left {value} for {value}.",
        "They were born in {value}.",
        "{name} told {name:them} of {value}.",
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
def test_a_bad_template_is_refused_with_its_file_and_line(tmp_path, line):
    said = refusal(tmp_path, "birth_city.txt", line)
    assert said.startswith(f"{tmp_path / 'birth_city.txt'}:51: ")


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
def test_a_bad_question_is_refused_with_its_file_and_line(tmp_path, line):
    said = refusal(tmp_path, "questions/birth_city.txt", line)
    assert said.startswith(f"{tmp_path / 'questions' / 'birth_city.txt'}:6: ")


def test_a_missing_template_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"^world\.templates: .*nowhere is not a folder"):
        load_language(templates_folder=str(tmp_path / "nowhere"))
    shutil.copytree(BUNDLED_TEMPLATES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "major.txt").unlink()
    with pytest.raises(UserError, match=r"major\.txt: no such file"):
        load_language(templates_folder=str(tmp_path))
