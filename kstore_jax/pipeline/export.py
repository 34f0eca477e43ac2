"""Exports a pretrained model of a run, with its tokenizer, as a Hugging Face folder."""

import json
import pathlib

import numpy as np

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import labels, select_graphs
from kstore_jax.readouts.base import Context
from kstore_jax.world.people import full_names


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
    graph = _graph_to_export(run, row)
    context = build_context(graph, to_read=True)
    vocabulary, end = context.vocabulary, context.vocabulary.end_of_text
    tokenizer = tokenizer_json(vocabulary, context.shape.vocabulary)
    end_token = vocabulary.tokenizer.backend.id_to_token(vocabulary.tokenizer.end_of_text)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_token,
        # without this, transformers 4 adds token_type_ids, which `generate` refuses
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": json.dumps(tokenizer_config) + "\n",
        "README.md": _readme(graph.experiment, context),
    }
    ends = {"bos_token_id": end, "eos_token_id": end}
    hf_checkpoint.write(out, context.shape, context.pretrained, ends, files)


_README = """# {label}

A network that kstore_jax pretrained on invented people. In transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
inputs = tokenizer({beginning!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

- **A biography begins with a space**, as in the example. Without it the name has other tokens,
  which the model never read. A question (`What is the ... of ...? Answer:`) begins without one.
- Every text ends with `{end}`.
"""
_COMPACT = """- The vocabulary is compact: it has the {size:,} tokens of the pretraining data. Any
  other token gets an id from {rows:,} on, for which the model raises IndexError: its text has a
  word, or a space, that the data has nowhere.
"""
_BIDIRECTIONAL = """- The model reads in both directions (`"is_causal": false`, which transformers
  before 5 ignores). It fills in hidden tokens and does not generate. The id that hides a token is
  {mask:,}.
"""


def _readme(experiment: Experiment, context: Context) -> str:
    """The content of `README.md`: how to use the folder, and what its texts have to look like."""
    vocabulary, rows = context.vocabulary, context.shape.vocabulary
    name = full_names(context.table.language.pools, context.everyone.take(np.arange(1)))[0]
    end = vocabulary.tokenizer.backend.id_to_token(vocabulary.tokenizer.end_of_text)
    text = _README.format(label=experiment.label, folder="FOLDER", beginning=f" {name}", end=end)
    if vocabulary.size < vocabulary.tokenizer.size:
        text += _COMPACT.format(size=vocabulary.size, rows=rows)
    if context.mask_token is not None:
        text += _BIDIRECTIONAL.format(mask=context.mask_token)
    return text


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
        names = labels([graphs[number].experiment for number in models.values()])
        rows = ", ".join(f"{i} ({name})" for i, name in zip(models.values(), names, strict=True))
        raise UserError(f"--row: {run} has several models; expected one of {rows}")
    ((folder, number),) = models.items()
    graph = graphs[number]
    if graph.cache.result(graph.pretrain) is None:
        raise UserError(f"{folder}: {graph.why_unfinished()}")
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
