"""A model is exported for Hugging Face, and another pretraining starts from it."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import tokenizers

import kstore_jax
from kstore_jax.cli.main import main
from kstore_jax.corpus.encode import compact_vocabulary, token_table
from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary, load_tokenizer
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.forward import forward, unembed
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.export import tokenizer_json
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.people import draw_people
from tests.pipeline.runners import finished_runner

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> tuple[Runner, pathlib.Path]:
    """A runner of the first row, and the folder its model is exported to."""
    runner = finished_runner(finished, 0)
    out = tmp_path_factory.mktemp("export") / "model"
    stage = runner.graph.cache.folder(runner.graph.pretrain)
    assert main(["export", str(stage), "--format=hf", f"--out={out}"]) == 0
    return runner, out


def test_the_exported_model_has_the_logits_of_the_run(exported):
    runner, out = exported
    context = runner.context
    tokens = np.arange(30, dtype=np.int32).reshape(2, 15)
    ours, theirs = (
        unembed(shape, params, forward(shape, params, tokens))
        for shape, params in ((context.shape, context.pretrained), hf_checkpoint.read(out))
    )
    np.testing.assert_array_equal(ours, theirs)
    config = json.loads((out / "config.json").read_text())
    assert config["eos_token_id"] == context.vocabulary.end_of_text
    assert config["vocab_size"] == context.shape.vocabulary


def test_the_exported_tokenizer_splits_text_into_the_model_s_tokens(exported):
    runner, out = exported
    context, vocabulary = runner.context, runner.context.vocabulary
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    tokens = vocabulary.encode(context.corpus.texts.tokens[:40])
    text = vocabulary.decode(tokens)
    assert tokenizer.encode(text).ids == tokens.tolist()
    assert tokenizer.decode(tokens.tolist()) == text
    assert tokenizer.token_to_id(END) == vocabulary.end_of_text
    not_in_model = tokenizer.encode("Xylophone quartz").ids
    assert max(not_in_model) >= context.shape.vocabulary


def test_transformers_reads_the_exported_folder(exported):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    runner, out = exported
    shape, params = runner.context.shape, runner.context.pretrained
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = runner.context.vocabulary.tokenizer.decode(runner.context.corpus.texts.tokens[:20])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits.numpy()
    ours = unembed(shape, params, forward(shape, params, ids.numpy().astype(np.int32)))
    np.testing.assert_allclose(logits, ours, rtol=1e-4, atol=1e-4)
    assert tokenizer.eos_token == END
    generated = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=2)
    assert generated.shape == (1, ids.shape[1] + 2)


def test_a_row_and_a_stage_are_chosen(finished, tmp_path):
    out = tmp_path / "out"
    assert main(["export", str(finished), "--row=1", "--stage=pretrained", f"--out={out}"]) == 0
    _, params = hf_checkpoint.read(out)
    expected = finished_runner(finished, 1).context.pretrained
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert "it recites their biographies" in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def finetuned_folder(finished, tmp_path_factory) -> pathlib.Path:
    """The folder of a finetuned model, exported without `--stage`."""
    out = tmp_path_factory.mktemp("finetuned_folder") / "model"
    assert main(["export", str(finished), "--row=multi2+permute", f"--out={out}"]) == 0
    return out


def test_the_finetuned_model_is_exported_without_a_stage(finished, finetuned_folder):
    config = json.loads((finetuned_folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    context = finished_runner(finished, 1).context
    tokens = np.arange(30, dtype=np.int32).reshape(2, 15)
    ours, theirs = (
        unembed(shape, params, forward(shape, params, tokens))
        for shape, params in (
            (context.shape, context.finetuned),
            hf_checkpoint.read(finetuned_folder),
        )
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_exported_finetuned_model_answers_as_the_run_s(finished, finetuned_folder):
    exported, model = kstore_jax.load_hf(finetuned_folder), kstore_jax.load(finished).model(1)
    person = kstore_jax.load(finished).world(1)[2]
    for attribute in person.facts:
        question = person.question(attribute)
        assert exported.ask(question) == model.ask(question)


def test_the_readme_of_a_finetuned_model_asks_a_question(finetuned_folder):
    readme = (finetuned_folder / "README.md").read_text()
    assert "finetuned on questions" in readme
    assert readme.count("Answer:', return_tensors") == 1


def test_a_stage_that_a_run_does_not_have_is_refused(finished, tmp_path, capsys):
    content = json.loads((finished / "config.json").read_text())
    content["rows"] = content["rows"][:1]
    content["rows"][0]["readouts"]["qa"]["enabled"] = False
    (tmp_path / "config.json").write_text(json.dumps(content))
    out = [f"--out={tmp_path / 'out'}", "--stage=finetuned"]
    assert main(["export", str(tmp_path), *out]) == 2
    assert "--stage: expected pretrained, since " in capsys.readouterr().err
    stage = finished_runner(finished, 0).graph.pretrain.folder
    assert main(["export", str(finished / "stages" / stage), *out]) == 2
    assert "--stage: expected pretrained for " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_error_for_several_models_labels_rows_by_the_fields_that_differ(
    finished, tmp_path, capsys
):
    row = json.loads((finished / "config.json").read_text())["rows"][0]
    deeper = {**row, "model": {**row["model"], "layers": 2}}
    (tmp_path / "config.json").write_text(json.dumps({"rows": [row, deeper]}))
    assert main(["export", str(tmp_path), f"--out={tmp_path / 'out'}"]) == 2
    labels = "0 (single, seed 0; model.layers=1), 1 (single, seed 0; model.layers=2)"
    assert labels in capsys.readouterr().err


def started_from(
    experiment: Experiment, model: pathlib.Path, tmp_path: pathlib.Path, **data
) -> Runner:
    """A runner whose pretraining starts from a Hugging Face folder and changes nothing."""
    experiment = dataclasses.replace(
        experiment,
        pretrain=dataclasses.replace(
            experiment.pretrain, steps=1, warmup_steps=0, learning_rate=0.0
        ),
        model=dataclasses.replace(experiment.model, init_from=str(model)),
        data=dataclasses.replace(experiment.data, **data),
    )
    return Runner(ExperimentGraph(experiment, Cache(tmp_path / "stages")))


def test_pretraining_starts_from_the_exported_model(exported, tmp_path):
    runner, out = exported
    tokenizer = str(out / "tokenizer.json")
    again = started_from(runner.graph.experiment, out, tmp_path, tokenizer=tokenizer)
    again.ensure(again.graph.pretrain)
    size = runner.context.vocabulary.size
    assert again.context.vocabulary.size == size
    expected, params = dict(runner.context.pretrained), dict(again.context.pretrained)
    np.testing.assert_array_equal(params.pop("embedding")[:size], expected.pop("embedding")[:size])
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_start_from_a_model_of_other_tokens_or_another_shape_is_refused(exported, tmp_path):
    runner, out = exported
    experiment = runner.graph.experiment
    other_tokens = started_from(experiment, out, tmp_path)
    with pytest.raises(UserError, match=r"^data\.tokenizer: its token "):
        other_tokens.ensure(other_tokens.graph.pretrain)
    wider = dataclasses.replace(experiment.model, width=32)
    with pytest.raises(UserError, match=r"model\.width: expected 16, as in .*config\.json, got 32"):
        started_from(dataclasses.replace(experiment, model=wider), out, tmp_path)
    with pytest.raises(UserError, match=r"model\.init_from: .*no such file"):
        started_from(experiment, tmp_path / "nowhere", tmp_path)


def test_a_run_that_cannot_be_exported_is_refused(finished, tmp_path, capsys):
    out = tmp_path / "out"

    def refused(*argv: str) -> str:
        assert main(["export", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists()
        return line

    rows = "expected one of 0 (single, seed 0), 1 (multi2+permute, seed 0)"
    assert f"has several models; {rows}" in refused(str(finished), f"--out={out}")
    past = refused(str(finished), f"--out={out}", "--row=2")
    assert "--row: expected less than 2, got 2" in past
    assert "no configuration of a run" in refused(str(tmp_path), f"--out={out}")
    assert "--out is missing" in refused(str(finished))
    assert "expected one folder of a run" in refused(f"--out={out}")
    assert "expected hf, got 'gguf'" in refused(str(finished), f"--out={out}", "--format=gguf")
    unknown = finished / "stages" / "pretrain-0"
    assert "no stage of the run" in refused(str(unknown), f"--out={out}")
    config = json.loads((finished / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"rows": config["rows"][:1]}))
    assert "not finished; run it first" in refused(str(tmp_path), f"--out={out}")


@pytest.mark.parametrize("name", ["gpt2", "bpe300", "word"])
def test_a_renumbered_tokenizer_splits_text_as_before(language, name):
    people = draw_people(language.pools, 0, np.arange(5))
    table = token_table(language, load_tokenizer(name, language, 0, people))
    vocabulary = compact_vocabulary(table, people)
    exported = tokenizers.Tokenizer.from_str(tokenizer_json(vocabulary, vocabulary.size))
    text = vocabulary.decode(np.arange(min(60, vocabulary.size))) + END
    expected = vocabulary.lookup(np.array(vocabulary.tokenizer.backend.encode(text).ids))
    ids, in_model = np.array(exported.encode(text).ids), expected >= 0
    np.testing.assert_array_equal(ids[in_model], expected[in_model])
    assert (ids[~in_model] >= vocabulary.size).all()


def test_an_end_of_text_outside_the_tokenizers_own_vocabulary_is_renumbered_too():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "c": 2}, []))
    backend.add_special_tokens([END])
    vocabulary = Vocabulary(Tokenizer(backend, 3), np.array([1, 3]))
    exported = tokenizers.Tokenizer.from_str(tokenizer_json(vocabulary, 8))
    assert exported.encode(f"b{END}").ids == [0, 1]
    assert min(exported.encode("ac").ids) >= 8
