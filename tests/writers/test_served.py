"""A model of our own behind `transformers serve`, a real server of the protocol.

It is not trained to chat, so that every text is rejected. Needs the extra `serving`.
"""

import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from kstore_jax.cli.main import main
from kstore_jax.config.fields import as_dict
from kstore_jax.files import write_json
from kstore_jax.pipeline.experiment import default, parse_rows
from kstore_jax.pipeline.export import export
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.writers import asking, client, journal, rewriting
from kstore_jax.writers.item_files import BUNDLED
from kstore_jax.writers.rewritten import RECORD_FIELDS
from tests.world.worlds import films

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
RETRY_POLICY = client.RetryPolicy(timeout=120.0, max_attempts=3, initial_delay=0.5)


def pretrained(workdir: pathlib.Path) -> pathlib.Path:
    """The stage of a tiny model with the whole vocabulary of GPT-2."""
    config = default()
    config.world.people = 20
    config.data.variant = "single"
    config.model.update(layers=1, heads=2, width=16, dtype="float32", attention="dense")
    config.finetune.embedding_rank = 4
    config.pretrain.update(steps=4, batch_size=4, seq_len=64, warmup_steps=0)
    (row,) = map(resolve_auto, parse_rows(config))
    runner = Runner(ExperimentGraph(row, Cache(workdir / "stages")))
    runner.ensure(runner.graph.pretrain)
    write_json(workdir / "config.json", {"rows": [as_dict(row)]})
    return runner.graph.cache.folder(runner.graph.pretrain)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the server and the name of the model."""
    for library in ("torch", "transformers", "fastapi", "uvicorn", "openai", "accelerate"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("served") / "model"
    export(pretrained(folder.parent), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.with_name("log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)),
                *("--host=127.0.0.1", f"--port={port}", "--device=cpu"),
            ],
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address, str(folder)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_the_texts_of_a_model_that_cannot_write_are_rejected(served, tmp_path, monkeypatch):
    monkeypatch.setitem(rewriting.SAMPLING, "max_tokens", 30)
    config = default()
    config.world.people = 2
    config.data.variant = "single"
    (row,) = parse_rows(config)
    server, model = served
    rows = [(row.world, row.data)]
    job = rewriting.rewrite(rows, server, model, tmp_path / "out", 2, 2, RETRY_POLICY)
    assert (job.accepted, job.answers, job.rejected) == (0, 4, 4)
    records = journal.read_records(tmp_path / "out" / journal.JOURNAL, RECORD_FIELDS)
    assert any(record["text"] for _, record in records)
    assert job.rejections["name"] == 4


@pytest.mark.slow
def test_it_recites_no_passage_and_answers_no_question(served, tmp_path, monkeypatch):
    monkeypatch.setitem(asking.SAMPLING, "max_tokens", 8)
    server, model = served
    results = asking.ask(server, model, BUNDLED["passages"], tmp_path / "out", 2, RETRY_POLICY)
    assert results["answered"] == 0.0
    assert results["recited"] < 0.1
    assert any(row["recitation"]["answer"] for row in results["items"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["questions", "links"])
def test_a_strategy_is_answered_and_counted(served, tmp_path, monkeypatch, capsys, strategy):
    monkeypatch.setitem(rewriting.SAMPLING, "max_tokens", 30)
    world = films(tmp_path / "films")
    config = CONFIGS / "own_facts.py"
    server, model = served
    argv = [f"--config={config}:{world}", "--config.data.variant=single", f"--strategy={strategy}"]
    argv += [f"--server={server}", f"--model={model}", f"--out={tmp_path / 'out'}", "--attempts=2"]
    assert main(["rewrite", *argv]) == 2
    output, error = capsys.readouterr()
    first, *counts = output.splitlines()
    assert first == f"{tmp_path / 'out'}: 0 of 6 texts, 12 answers, 12 rejected"
    assert {line.split()[0]: int(line.split()[1]) for line in counts}["name"] == 12
    assert error.splitlines()[-1].endswith(
        "6 texts were rejected 2 times; repeat with a larger --attempts"
    )
