"""Exported models in other programs: transformers, lm-evaluation-harness, TransformerLens.

They need the extra `programs`; `pytest -m slow tests/pipeline/test_programs.py` runs them.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import kstore_jax
from kstore_jax.cli.main import main
from kstore_jax.model.forward import forward, unembed

CONFIG = """
from kstore_jax.pipeline.experiment import default


def get_config():
    config = default()
    config.world.people = 30
    config.data.update(variant="multi5+permute", vocabulary="compact")
    config.model.update(layers=2, heads=4, width=64, dtype="float32")
    config.pretrain.update(steps=600, batch_size=16, seq_len=64, warmup_steps=20)
    config.pretrain.learning_rate = 3e-3
    config.finetune.update(steps=150, batch_size=32, rank=8, embedding_rank=32)
    config.finetune.learning_rate = 3e-3
    for probe in (config.readouts.p_probe, config.readouts.q_probe):
        probe.enabled = False
    return config
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run whose models recite, and answer some questions."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "config.py").write_text(CONFIG)
    assert main(["run", f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def folders(run) -> dict[str, pathlib.Path]:
    """The exported models by stage."""
    found = {}
    for stage, more in (("pretrained", []), ("finetuned", ["--lm-eval"])):
        found[stage] = run.parent / stage
        out = f"--out={found[stage]}"
        assert main(["export", str(run), f"--stage={stage}", out, *more]) == 0
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_recites_and_answers(run, folders):
    transformers = pytest.importorskip("transformers")
    opened = kstore_jax.load(run)
    person = opened.world()[3]
    for stage, prompt in (
        ("pretrained", f" {person.name}"),
        ("finetuned", f"{person.question('university')} Answer:"),
    ):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders[stage])
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folders[stage])
        inputs = tokenizer(tokenizer.eos_token + prompt, return_tensors="pt")
        written = theirs.generate(**inputs, max_new_tokens=90, do_sample=False)
        text = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :])
        model = opened.model(stage=stage)
        ours = model.ask(prompt, 90) if stage == "finetuned" else model.generate(prompt, 90)
        assert text.removesuffix(tokenizer.eos_token).strip() == ours.strip()
        assert text.endswith(tokenizer.eos_token)


@pytest.mark.slow
def test_lm_eval_has_the_exact_match_of_the_evaluation(run, folders, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    assert main(["eval", str(run), "--beam=1", "--show=0", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    scores = row["scores"]["extraction"]
    moved = tmp_path / "elsewhere"  # the tasks find their questions where the folder is now
    folders["finetuned"].rename(moved)
    names = {"kstore_extraction_held_out": "test", "kstore_extraction_trained": "train"}
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu"),
        *("--model_args", f"pretrained={moved}", "--include_path", str(moved / "lm_eval")),
        *("--tasks", ",".join(names), "--batch_size", "16", "--output_path", str(tmp_path / "out")),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    try:
        subprocess.run(command, check=True, env={**os.environ, **offline})
    finally:
        moved.rename(folders["finetuned"])
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    for name, half in names.items():
        assert results[name]["exact_match,answer"] == pytest.approx(scores[half]["exact"]["mean"])
    assert scores["train"]["exact"]["mean"] > 0.2
    assert scores["test"]["exact"]["mean"] < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stage", ["pretrained", "finetuned"])
def test_transformer_lens_has_our_logits_and_attention(run, folders, stage, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch = pytest.importorskip("torch")
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    theirs = bridge.TransformerBridge.boot_transformers(str(folders[stage]), device="cpu")
    opened = kstore_jax.load(run)
    model = opened.model(stage=stage)
    text = f" {opened.world()[3].text('multi5+permute')}"
    tokens, inside = model.tokens(text)[None], model.run(text, attention=True)
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(torch.from_numpy(tokens.astype(np.int64)))
    hidden = forward(model.shape, model.params, tokens)
    ours = unembed(model.shape, model.params, hidden)
    np.testing.assert_allclose(logits.numpy(), ours, rtol=1e-4, atol=1e-4)
    for layer in range(model.shape.layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"].numpy()
        np.testing.assert_allclose(pattern[0], inside.attention[layer], rtol=1e-4, atol=1e-5)
