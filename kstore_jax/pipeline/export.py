"""Exports a pretrained model of a run, with its tokenizer, as a Hugging Face folder."""

import json
import pathlib

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import labels, select_graphs


def export(run: pathlib.Path, out: pathlib.Path, row: str | None = None) -> None:
    """Writes the model pretrained in `run` to the folder `out`.

    The exported embedding has all rows, also those beyond the vocabulary, which stand for no token;
    so the logits are bit for bit those of the run. With a compact vocabulary, `tokenizer.json`
    splits text as before and numbers tokens as the model does. Tokens the model lacks get ids
    beyond its rows, so that they raise an error instead of passing for another token.

    Args:
      run: the folder of a run, or of one `pretrain-...` stage.
      out: the folder to write.
      row: name or number of the experiment; None where all share one model.

    Raises:
      UserError: there is no such run or row, the run has several models or no finished one, or
        Hugging Face has no such network. Nothing is written then.
    """
    context = build_context(_graph_to_export(run, row))
    vocabulary, end = context.vocabulary, context.vocabulary.end_of_text
    tokenizer = tokenizer_json(vocabulary, context.shape.vocabulary)
    end_token = vocabulary.tokenizer.backend.id_to_token(vocabulary.tokenizer.end_of_text)
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end_token}
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.dumps(tokenizer_config) + "\n",
    }
    ends = {"bos_token_id": end, "eos_token_id": end}
    hf_checkpoint.write(out, context.shape, context.pretrained, ends, files)


def _graph_to_export(run: pathlib.Path, row: str | None) -> ExperimentGraph:
    """The experiment whose pretrained model is exported."""
    is_stage = run.name.startswith("pretrain-")
    workdir = run.absolute().parents[1] if is_stage else run
    graphs = select_graphs(workdir, row)
    models: dict[pathlib.Path, int] = {}  # folder of the stage -> the first row that has it
    for number, graph in graphs.items():
        models.setdefault(graph.cache.folder(graph.pretrain), number)
    if is_stage:
        models = {folder: number for folder, number in models.items() if folder.name == run.name}
    if not models:
        raise UserError(f"{run}: no stage of the run in {workdir}")
    if len(models) > 1:
        names = labels({number: graphs[number].experiment for number in models.values()})
        rows = ", ".join(f"{number} ({name})" for number, name in names.items())
        raise UserError(f"--row: {run} has several models; expected one of {rows}")
    ((folder, number),) = models.items()
    graph = graphs[number]
    if graph.cache.result(graph.pretrain) is None:
        raise UserError(f"{folder}: missing or not finished; run it first")
    return graph


def tokenizer_json(vocabulary: Vocabulary, rows: int) -> str:
    """The content of `tokenizer.json` for a model whose embedding has `rows` rows.

    Raises:
      UserError: the vocabulary is compact, and its tokenizer has no table of ids to change.
    """
    original = vocabulary.tokenizer.backend.to_str()
    if vocabulary.size == vocabulary.tokenizer.size:
        return original
    tokenizer = json.loads(original)
    tokens = tokenizer["model"].get("vocab")
    if not isinstance(tokens, dict):
        raise UserError(
            "data.vocabulary: a compact vocabulary of this kind of tokenizer cannot be exported"
        )
    new_id = dict(zip(vocabulary.ids.tolist(), range(vocabulary.size), strict=True))
    for old_id in range(vocabulary.tokenizer.size):
        new_id.setdefault(old_id, rows + old_id)
    tokenizer["model"]["vocab"] = {token: new_id[old_id] for token, old_id in tokens.items()}
    for added in tokenizer["added_tokens"]:
        added["id"] = new_id[added["id"]]
        # Hugging Face reads the ids of added tokens from here.
        tokenizer["model"]["vocab"][added["content"]] = added["id"]
    tokenizer["post_processor"] = None  # it would add tokens by their old ids
    return json.dumps(tokenizer, ensure_ascii=False)
