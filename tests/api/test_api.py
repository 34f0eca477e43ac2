"""What a notebook does with a run: opens it, asks its models, reads their text."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kstore_jax
from kstore_jax.api import recite
from kstore_jax.cli.main import main
from kstore_jax.corpus.encode import full_vocabulary
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.model.forward import forward, init, unembed
from kstore_jax.model.sampling import sample
from kstore_jax.pipeline.stages import NotFinished
from kstore_jax.readouts.qa import generate_answers
from kstore_jax.world.stated import facts_of
from tests.pipeline.runners import finished_runner


@pytest.fixture(scope="module")
def run(finished) -> kstore_jax.Run:
    return kstore_jax.load(finished)


def test_importing_the_package_and_making_people_imports_no_jax():
    code = (
        "import sys, kstore_jax; kstore_jax.World(people=3)[2].text(); print('jax' in sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout == "False\n"


def test_importing_the_package_takes_less_than_half_a_second():
    code = "import time; t = time.perf_counter(); import kstore_jax; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    times = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(3)]
    assert min(map(float, times)) < 0.5


def test_every_public_name_is_there():
    assert all(getattr(kstore_jax, name) for name in kstore_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Wrold'"):
        _ = kstore_jax.Wrold


def test_rows_are_found_by_number_name_and_start_of_a_name(run):
    assert run.names == ["single, seed 0", "multi2+permute, seed 0"]
    for row in (1, "1", "multi2+permute", "multi2+permute, seed 0", "mul"):
        assert run.variant(row) == "multi2+permute"
    with pytest.raises(UserError, match="row: no row has the name 'multi5'; expected one of 0"):
        run.variant("multi5")
    with pytest.raises(UserError, match="row: expected less than 2, got "):
        run.variant(2)


def test_the_world_of_a_run_is_the_one_it_read(run, finished):
    context = finished_runner(finished, 0).context
    vocabulary, rows = context.vocabulary, context.corpus.texts
    written = vocabulary.tokenizer.decode(rows.tokens[: rows.offsets[1]].tolist())
    assert f" {run.world()[0].text('single')}" == written


def test_greedy_text_takes_the_most_likely_token_of_the_forward_each_time(run):
    model = run.model("single", "pretrained")
    prompt = " " + run.world()[3].name
    tokens, vocabulary = model.tokens(prompt), model.vocabulary
    for _ in range(12):
        hidden = forward(model.shape, model.params, jnp.asarray(tokens)[None])
        logits = unembed(model.shape, model.params, hidden)[0, -1, : vocabulary.size]
        tokens = np.append(tokens, np.int32(logits.argmax()))
    end = np.flatnonzero(tokens[1:] == vocabulary.end_of_text)
    expected = tokens[1 : 1 + (end[0] if len(end) else len(tokens))]
    written = model.generate(run.world()[3].name, max_tokens=12)
    assert prompt + written == vocabulary.decode(expected)


def test_drawn_text_follows_the_seed_and_the_distribution(run):
    model = run.model("single", "pretrained")
    assert model.generate("", 8, 1.0, seed=1) == model.generate("", 8, 1.0, seed=1)
    tokens = jnp.asarray(model.tokens(""))[None].repeat(4000, 0)
    lengths = jnp.ones(4000, jnp.int32)
    size, end = model.vocabulary.size, model.vocabulary.end_of_text
    options = end, size, 1, jnp.float32(1.0), jax.random.key(0)
    drawn = sample(model.shape, model.params, tokens, lengths, *options)[:, 0]
    logits = unembed(model.shape, model.params, forward(model.shape, model.params, tokens[:1]))
    expected = np.asarray(jax.nn.softmax(logits[0, 0, :size]))
    seen = np.bincount(np.asarray(drawn), minlength=size) / len(drawn)
    assert np.abs(seen - expected).max() < 5 * np.sqrt(expected.max() / len(drawn))


def test_answers_are_those_of_the_evaluation(run, finished):
    model, context = run.model(1), finished_runner(finished, 1).context
    _, examples = context.questions()
    answers = generate_answers(context, context.finetuned, examples, beam_size=1)
    end, decode = context.vocabulary.end_of_text, context.vocabulary.decode
    for i in (0, 7, 11):
        person, attribute = divmod(i, 6)
        question = run.world()[person].question(context.attributes[attribute])
        asked = examples.tokens[i, 1 : int(examples.positions[i, 0, 0]) + 1]
        assert decode(asked) == f"{question} Answer:"
        expected = answers[i][: np.append(np.flatnonzero(answers[i] == end), 99)[0]]
        assert model.ask(question, max_tokens=answers.shape[1]) == decode(expected).strip()


def test_an_exported_model_writes_the_same(run, finished, tmp_path):
    out = f"--out={tmp_path / 'model'}"
    assert main(["export", str(finished), "--row=1", "--stage=pretrained", out]) == 0
    exported, model = kstore_jax.load_hf(tmp_path / "model"), run.model(1, "pretrained")
    name = run.world(1)[2].name
    assert exported.name == "model"
    assert exported.generate(name, 20) == model.generate(name, 20)
    with pytest.raises(UserError, match="the model has no token ' qu'"):
        exported.ask("Who saw the quarks?")


def test_a_word_that_no_text_has_is_refused(run):
    with pytest.raises(UserError, match="the model has no token ' qu'"):
        run.model().ask("Who saw the quarks?")


def test_a_model_that_is_not_trained_names_its_stage(finished, tmp_path):
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    with pytest.raises(NotFinished, match="stage finetune is not finished; `kstore sweep`"):
        kstore_jax.load(tmp_path).model()
    with pytest.raises(UserError, match="no configuration of a run"):
        kstore_jax.load(tmp_path / "nothing")


def test_a_recitation_marks_wrong_facts_with_the_truth():
    world = kstore_jax.World(people=20, seed=3)
    person = world[4]
    text = person.text("single")
    (start, end), *_ = text.spans["university"]
    wrong = f"{text[:start]}Ohio University{text[end:]}"
    facts = facts_of(world.language, wrong, person.facts)
    assert [fact.attribute for fact in facts if not fact.right] == ["university"]
    assert len(facts) == 6
    marked = recite.format_recitation(recite.Recitation(person, text, wrong, 0, facts))
    assert f"[Ohio University ≠ {person.facts['university']}]" in marked
    assert "5 of 6 facts right" in marked


def test_the_prompt_of_a_recitation_is_no_part_of_it(run):
    world, vocabulary = run.world(), full_vocabulary(gpt2())
    shape = dataclasses.replace(run.model("single").shape, vocabulary=vocabulary.size)
    model = kstore_jax.Model("untrained", shape, init(shape, jax.random.key(0)), vocabulary)
    held_out_first = [person.in_train for person in recite.examples(world, 3)]
    assert held_out_first == [False] * 3 + [True] * 3
    person = world[5]
    for variant, given in (("single", 0), ("multi2+reverse2", 2), ("multi2+reverse6", 6)):
        read = person.text(variant)
        prompt = read[: read.spans["name"][0][1]]
        recited = recite.recite(model, world, person, variant)
        assert len(recited.text) > len(prompt)
        assert (prompt + model.generate(prompt, max_tokens=400)).startswith(recited.text)
        assert all(fact.start >= len(prompt) for fact in recited.facts)
        assert recited.given == given
        score = f"of {6 - given} facts right" if given < 6 else "all facts are in the prompt"
        assert score in recite.format_recitation(recited)


def test_a_run_without_a_finetuned_model_says_so(finished, tmp_path):
    content = json.loads((finished / "config.json").read_text())
    for row in content["rows"]:
        row["readouts"]["qa"]["enabled"] = False
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"^stage: expected pretrained, since .* no model$"):
        kstore_jax.load(tmp_path).model()


def test_generate_and_ask_print_the_text_of_every_row(finished, capsys):
    assert main(["generate", str(finished), "--row=0"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("read:") == printed.count("wrote:") == 6
    assert main(["generate", str(finished), "Anna", "--max-tokens=3", "--stage=finetuned"]) == 0
    assert capsys.readouterr().out.count("\nAnna") == 2
    question = kstore_jax.World(people=20)[2].question("major")
    assert main(["ask", str(finished), question]) == 0
    assert capsys.readouterr().out.startswith("single, seed 0: ")
    assert main(["generate"]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_a_table_is_a_world(tmp_path):
    table = tmp_path / "films.csv"
    table.write_text("Title,Director,Year\nM,Fritz Lang,1931\nJaws,Steven Spielberg,1975\n")
    world = kstore_jax.World(table=table)
    assert [film.name for film in world] == ["M", "Jaws"]
    assert world[1].facts == {"director": "Steven Spielberg", "year": "1975"}
    assert world[1].question("director") == "What is the director of Jaws?"
    text = world[0].text("multi5+permute", entry=3)
    assert [text[start:end] for start, end in text.spans["year"]] == ["1931"]
    swapped = kstore_jax.World(table=str(table), name=["Director"], attributes=["Title"])
    assert swapped[0].facts == {"title": "M"}
    with pytest.raises(UserError, match=r"^table: expected without a folder, got 'x' as well"):
        kstore_jax.World("x", table=table)
