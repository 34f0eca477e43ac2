"""A pretrained model leaves a run for Hugging Face, and another pretraining starts from it."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import tokenizers

from kstore_jax.cli.main import main
from kstore_jax.corpus.encode import compact_vocabulary, token_table
from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary, load_tokenizer
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.forward import forward, unembed
from kstore_jax.pipeline.experiment import Experiment, parse
from kstore_jax.pipeline.export import tokenizer_json
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.world.people import draw_people

END = "<|endoftext|>"


def runners(workdir: pathlib.Path) -> list[Runner]:
    rows = json.loads((workdir / "config.json").read_text())["rows"]
    return [Runner(ExperimentGraph(parse(row), Cache(workdir / "stages"))) for row in rows]


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> tuple[Runner, pathlib.Path]:
    runner = runners(finished)[0]
    out = tmp_path_factory.mktemp("export") / "model"
    stage = runner.graph.cache.folder(runner.graph.pretrain)
    assert main(["export", f"--run={stage}", "--format=hf", f"--out={out}"]) == 0
    return runner, out


def test_the_exported_model_has_the_logits_of_the_run(exported):
    runner, out = exported
    shape, params = hf_checkpoint.read(out)
    tokens = np.arange(30, dtype=np.int32).reshape(2, 15)
    ours, theirs = (
        unembed(s, p, forward(s, p, tokens))
        for s, p in ((runner.context.shape, runner.context.pretrained), (shape, params))
    )
    np.testing.assert_array_equal(ours, theirs)
    config = json.loads((out / "config.json").read_text())
    assert config["eos_token_id"] == runner.context.vocabulary.end_of_text
    assert config["vocab_size"] == runner.context.shape.vocabulary


def test_the_exported_tokenizer_cuts_text_into_the_models_tokens(exported):
    runner, out = exported
    theirs = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    tokens = runner.context.vocabulary.encode(runner.context.corpus.texts.tokens[:40])
    text = runner.context.vocabulary.decode(tokens)
    assert theirs.encode(text).ids == tokens.tolist()
    assert theirs.decode(tokens.tolist()) == text
    assert theirs.token_to_id(END) == runner.context.vocabulary.end_of_text
    unknown = theirs.encode("Xylophone quartz").ids
    assert max(unknown) >= runner.context.shape.vocabulary


def test_transformers_reads_the_exported_folder(exported):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    runner, out = exported
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = runner.context.vocabulary.decode(
        runner.context.vocabulary.encode(runner.context.corpus.texts.tokens[:20])
    )
    ids = theirs(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits.numpy()
    tokens = ids.numpy().astype(np.int32)
    ours = unembed(
        runner.context.shape,
        runner.context.pretrained,
        forward(runner.context.shape, runner.context.pretrained, tokens),
    )
    np.testing.assert_allclose(logits, ours, rtol=1e-4, atol=1e-4)
    assert theirs.eos_token == END


def test_a_row_is_chosen_by_its_number(finished, tmp_path):
    out = tmp_path / "out"
    assert main(["export", f"--run={finished}", "--row=1", f"--out={out}"]) == 0
    _, params = hf_checkpoint.read(out)
    jax.tree.map(np.testing.assert_array_equal, params, runners(finished)[1].context.pretrained)


def test_rows_of_one_dataset_are_told_apart_by_what_differs(finished, tmp_path, capsys):
    config = json.loads((finished / "config.json").read_text())
    rows = [config["rows"][0], {**config["rows"][0], "model": {**config["rows"][0]["model"]}}]
    rows[1]["model"]["layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps({"rows": rows}))
    assert main(["export", f"--run={tmp_path}", f"--out={tmp_path / 'out'}"]) == 2
    said = "0 (single, seed 0; model.layers=1), 1 (single, seed 0; model.layers=2)"
    assert said in capsys.readouterr().err


def started(experiment: Experiment, out: pathlib.Path, tmp_path, **data) -> Runner:
    still = dataclasses.replace(experiment.pretrain, steps=1, warmup_steps=0, learning_rate=0.0)
    experiment = dataclasses.replace(
        experiment,
        pretrain=still,
        model=dataclasses.replace(experiment.model, init_from=str(out)),
        data=dataclasses.replace(experiment.data, **data),
    )
    return Runner(ExperimentGraph(experiment, Cache(tmp_path / "stages")))


def test_pretraining_starts_from_the_exported_model(exported, tmp_path):
    runner, out = exported
    again = started(runner.graph.experiment, out, tmp_path, tokenizer=str(out / "tokenizer.json"))
    again.ensure(again.graph.pretrain)
    assert again.context.vocabulary.size == runner.context.vocabulary.size
    size = runner.context.vocabulary.size
    expected, found = dict(runner.context.pretrained), dict(again.context.pretrained)
    np.testing.assert_array_equal(found.pop("embedding")[:size], expected.pop("embedding")[:size])
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_start_from_a_model_of_other_tokens_or_another_shape_is_refused(exported, tmp_path):
    runner, out = exported
    other = started(runner.graph.experiment, out, tmp_path)
    with pytest.raises(UserError, match="its token "):
        other.ensure(other.graph.pretrain)
    wider = dataclasses.replace(runner.graph.experiment.model, width=32)
    with pytest.raises(UserError, match=r"model\.width: expected 16, as in .*config\.json, got 32"):
        started(dataclasses.replace(runner.graph.experiment, model=wider), out, tmp_path)
    with pytest.raises(UserError, match=r"model\.init_from: .*no such file"):
        started(runner.graph.experiment, tmp_path / "nowhere", tmp_path)


def test_a_run_that_cannot_be_exported_is_refused(finished, tmp_path, capsys):
    out = tmp_path / "out"

    def refused(*argv: str) -> str:
        assert main(["export", *argv]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not out.exists()
        return line

    rows = "expected one of 0 (single, seed 0), 1 (multi2+permute, seed 0)"
    assert f"has several models; {rows}" in refused(f"--run={finished}", f"--out={out}")
    past = refused(f"--run={finished}", f"--out={out}", "--row=2")
    assert "--row: expected less than 2, got 2" in past
    assert "no configuration of a run" in refused(f"--run={tmp_path}", f"--out={out}")
    assert "--out is missing" in refused(f"--run={finished}")
    assert "--run is missing" in refused(f"--out={out}")
    assert "expected hf, got 'gguf'" in refused(f"--run={finished}", f"--out={out}", "--format=gguf")
    unknown = finished / "stages" / "pretrain-0"
    assert "is no stage of the run" in refused(f"--run={unknown}", f"--out={out}")
    config = json.loads((finished / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"rows": config["rows"][:1]}))
    assert "not finished; run it first" in refused(f"--run={tmp_path}", f"--out={out}")


@pytest.mark.parametrize("name", ["gpt2", "bpe300", "word"])
def test_a_renumbered_tokenizer_cuts_text_as_before(language, name):
    who = draw_people(language.pools, 0, np.arange(5))
    table = token_table(language, load_tokenizer(name, language, 0, who))
    vocabulary = compact_vocabulary(table, who)
    again = tokenizers.Tokenizer.from_str(tokenizer_json(vocabulary, vocabulary.size))
    text = vocabulary.decode(np.arange(min(60, vocabulary.size)))
    text = f"{text}{END}"
    before = vocabulary.tokenizer.backend.encode(text).ids
    places = vocabulary.lookup(np.array(before))
    after = np.array(again.encode(text).ids)
    known = places >= 0
    np.testing.assert_array_equal(after[known], places[known])
    assert (after[~known] >= vocabulary.size).all()


def test_an_end_of_text_outside_the_tokenizers_own_vocabulary_is_renumbered_too():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "c": 2}, []))
    backend.add_special_tokens([END])
    vocabulary = Vocabulary(Tokenizer(backend, 3), np.array([1, 3]))
    again = tokenizers.Tokenizer.from_str(tokenizer_json(vocabulary, 8))
    assert again.encode(f"b{END}").ids == [0, 1]
    assert min(again.encode("ac").ids) >= 8
