"""Exports a pretrained model of a run, with its tokenizer, as a Hugging Face folder."""

import json
import pathlib
from collections.abc import Mapping

from kstore_jax.config.fields import flatten, identity
from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import select_graphs


def export(run: pathlib.Path, out: pathlib.Path, row: int | None = None) -> None:
    """Writes the model pretrained in `run` to the folder `out`.

    The exported model has every row of the embedding, so its logits are the model's own; rows
    beyond the vocabulary are no token. With a compact vocabulary, `tokenizer.json` splits text as
    before and numbers tokens as the model does; tokens the model lacks get numbers beyond its rows,
    so that they fail instead of passing for another token.

    Args:
      run: the folder of a run, or of one `pretrain-...` stage.
      row: number of the experiment; None where all share one model.

    Raises:
      UserError: there is no such run or row, it has several models or none that is finished, or
        Hugging Face has no such network; nothing is written.
    """
    context = build_context(_graph_to_export(run, row))
    vocabulary, end = context.vocabulary, context.vocabulary.end_of_text
    tokenizer = tokenizer_json(vocabulary, context.shape.vocabulary)
    end_token = vocabulary.tokenizer.backend.id_to_token(vocabulary.tokenizer.end_of_text)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end_token}
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": json.dumps(about) + "\n"}
    ends = {"bos_token_id": end, "eos_token_id": end}
    hf_checkpoint.write(out, context.shape, context.pretrained, ends, files)


def _graph_to_export(run: pathlib.Path, row: int | None) -> ExperimentGraph:
    """The experiment whose pretrained model is exported."""
    is_stage = run.name.startswith("pretrain-")
    workdir = run.absolute().parents[1] if is_stage else run
    graphs = select_graphs(workdir, row)
    models: dict[pathlib.Path, int] = {}
    for which, graph in graphs.items():
        models.setdefault(graph.cache.folder(graph.pretrain), which)
    if is_stage:
        models = {folder: which for folder, which in models.items() if folder.name == run.name}
    if not models:
        raise UserError(f"--run: {run} is no stage of the run in {workdir}")
    if len(models) > 1:
        labels = _labels({which: graphs[which].experiment for which in models.values()})
        rows = ", ".join(f"{which} ({label})" for which, label in labels.items())
        raise UserError(f"--row: {run} has several models; expected one of {rows}")
    ((folder, which),) = models.items()
    graph = graphs[which]
    if graph.cache.result(graph.pretrain) is None:
        raise UserError(f"--run: {folder}: is not there or not finished; run it first")
    return graph


def _labels(experiments: Mapping[int, Experiment]) -> dict[int, str]:
    """The label of each experiment, with the settings in which they differ."""
    settings = {which: flatten(identity(one)) for which, one in experiments.items()}
    first = next(iter(settings.values()))
    varied = [
        name
        for name in first
        if name not in ("seed", "world.seed", "data.variant")
        and len({str(one.get(name)) for one in settings.values()}) > 1
    ]
    labels = {}
    for which, experiment in experiments.items():
        values = ", ".join(f"{name}={settings[which].get(name)}" for name in varied)
        labels[which] = f"{experiment.label}; {values}" if values else experiment.label
    return labels


def tokenizer_json(vocabulary: Vocabulary, rows: int) -> str:
    """The tokenizer.json of a model whose embedding has `rows` rows.

    Raises:
      UserError: the vocabulary is compact and its tokenizer's numbers cannot be changed.
    """
    whole = vocabulary.tokenizer.backend.to_str()
    if vocabulary.size == vocabulary.tokenizer.size:
        return whole
    tokenizer = json.loads(whole)
    tokens = tokenizer["model"].get("vocab")
    if not isinstance(tokens, dict):
        raise UserError("data.vocabulary: a compact one of this kind of tokenizer has no export")
    place = dict(zip(vocabulary.ids.tolist(), range(vocabulary.size), strict=True))
    for old in range(vocabulary.tokenizer.size):
        place.setdefault(old, rows + old)
    tokenizer["model"]["vocab"] = {token: place[old] for token, old in tokens.items()}
    for added in tokenizer["added_tokens"]:
        added["id"] = place[added["id"]]
        # the numbers of added tokens are read from here
        tokenizer["model"]["vocab"][added["content"]] = added["id"]
    tokenizer["post_processor"] = None  # it would add tokens by their old numbers
    return json.dumps(tokenizer, ensure_ascii=False)
