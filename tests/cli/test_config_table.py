"""`kstore config` documents every field that a command line can set."""

import pathlib
import re

import pytest

from kstore_jax.cli.config_table import config_markdown
from kstore_jax.cli.main import main
from kstore_jax.config.fields import flatten
from kstore_jax.pipeline.experiment import default


def table(capsys, *names: str) -> str:
    assert main(["config", *names]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def documented(text: str) -> dict[str, tuple[str, str]]:
    """The default with the allowed values, and the documentation, of each field of a table."""
    entry = re.compile(r"^  (\S+) +(\S.*)\n((?: {6}.+\n)+)", re.MULTILINE)
    return {m[1]: (m[2], " ".join(m[3].split())) for m in entry.finditer(text)}


def test_every_field_is_documented(capsys):
    fields = documented(table(capsys))
    assert set(fields) == set(flatten(default().to_dict()))
    assert all(doc.endswith(".") for _, doc in fields.values())


@pytest.mark.parametrize(
    ("name", "default_and_values"),
    [
        ("seed", "0 int from 0 to 4294967295"),
        ("name", "'' text; no result depends on it"),
        ("sweep", "() rows"),
        ("plugins", "() names; no result depends on it"),
        ("until", "'' '' | pretrain | finetune; no result depends on it"),
        ("data.vocabulary", "'full' full | compact"),
        ("model.style", "'gpt2-rotary' gpt2-rotary | gpt2 | llama | mistral"),
        ("model.bias", "True True | False"),
        ("model.dropout", "0.0 float from 0.0 to 0.99"),
        ("finetune.grid", "() rows"),
        ("readouts.p_probe.schedule", "'linear' cosine | linear"),
        ("pretrain.muon.momentum", "0.95 float from 0.0 to 1.0"),
        ("readouts.p_probe.steps", "30000 int, at least 1"),
        ("mesh.fsdp", "1 int, at least 1"),
    ],
)
def test_a_field_has_its_default_and_its_values(capsys, name, default_and_values):
    ((shown, (values, _)),) = documented(table(capsys, name)).items()
    assert shown == name
    assert " ".join(values.split()) == default_and_values


def test_a_section_has_its_fields_alone(capsys):
    text = table(capsys, "readouts.qa")
    assert text.startswith("readouts.qa: Answers to the questions about everyone.\n")
    assert list(documented(text)) == [
        "readouts.qa.enabled",
        "readouts.qa.tasks",
        "readouts.qa.beam_size",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pretrian"], "config: pretrian: no such field; did you mean 'pretrain'?"),
        (["pretrain.stepz"], "config: pretrain.stepz: no such field; did you mean 'steps'?"),
        (["pretrain.steps.more"], "config: pretrain.steps.more: no such field"),
        (["seed", "name"], "config: expected one section or field, got seed name"),
        (["--json"], "--json: no such flag"),
    ],
)
def test_an_unknown_field_is_refused(capsys, names, message):
    assert main(["config", *names]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"kstore: {message}")
    assert captured.err.count("\n") == 1


def test_the_page_of_all_fields_is_up_to_date():
    page = pathlib.Path(__file__).parents[2] / "docs" / "config.md"
    assert page.read_text() == config_markdown() + "\n", (
        "run `python -m kstore_jax.cli.config_table > docs/config.md`"
    )


def test_the_page_has_every_field_once():
    fields = re.findall(r"^\| `([^`]+)` \|", config_markdown(), re.MULTILINE)
    assert len(fields) == len(set(fields))
    assert set(fields) == set(flatten(default().to_dict()))
