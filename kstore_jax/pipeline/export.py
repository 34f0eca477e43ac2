"""Exports a model of a run, with its tokenizer, as a Hugging Face folder."""

import json
import pathlib

import numpy as np

from kstore_jax.corpus.tokenizer import Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.model import hf_checkpoint
from kstore_jax.pipeline.context import build_context
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.lm_eval import task_files
from kstore_jax.pipeline.results import labels, select_graphs
from kstore_jax.readouts.base import Context
from kstore_jax.world.people import full_names


def export(
    run: pathlib.Path,
    out: pathlib.Path,
    row: str | None = None,
    stage: str | None = None,
    lm_eval: bool = False,
) -> str:
    """Writes a model of `run` to the folder `out`; returns its stage.

    The exported embedding has all rows, also those beyond the vocabulary, which stand for no token;
    so the logits are bit for bit those of the run. With a compact vocabulary, `tokenizer.json`
    splits text as before and numbers tokens as the model does. Tokens the model lacks get ids
    beyond its rows, so that they raise an error instead of passing for another token.

    Args:
      run: the folder of a run, or of one `pretrain-...` stage.
      out: the folder to write.
      row: name or number of the experiment; None where all share one model.
      stage: `pretrained`, or `finetuned`, with LoRA merged; None: the last model that the run
        trains, the finetuned one unless it finetunes none.
      lm_eval: whether the folder gets the questions of the run as tasks of `lm_eval`
        (`pipeline/lm_eval.py`).

    Raises:
      UserError: there is no such run, row or stage, the run has several models or no finished one,
        Hugging Face has no such network, or `lm_eval` cannot ask this one. Nothing is written then.
    """
    graph, stage = _model_to_export(run, row, stage)
    context = build_context(graph, to_read=True)
    params = context.finetuned if stage == "finetuned" else context.pretrained
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
        "README.md": _readme(graph.experiment, context, stage),
    }
    if lm_eval:
        if stage == "pretrained" and graph.finetune:
            raise UserError("--lm-eval: expected --stage=finetuned, the model that answers")
        files |= task_files(context, graph.experiment.readouts.qa.tasks)
        files["README.md"] += _LM_EVAL
    ends = {"bos_token_id": end, "eos_token_id": end}
    hf_checkpoint.write(out, context.shape, params, ends, files)
    return stage


_README = """# {label}

A network that kstore_jax {trained}. In transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer({prompt!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

- Every text ends with `{end}`, and the model reads one before each text.
- **A biography begins with a space**, as in `{biography}`. Without it the name has other tokens,
  which the model never read. A question (`What is the ... of ...? Answer:`) begins without one.
"""
_TRAINED = {
    "pretrained": "pretrained on invented people; it recites their biographies",
    "finetuned": "pretrained on invented people and finetuned on questions about some of them",
}
_COMPACT = """- The vocabulary is compact: it has the {size:,} tokens of the pretraining data. Any
  other token gets an id from {rows:,} on, for which the model raises IndexError: its text has a
  word, or a space, that the data has nowhere.
"""
_LM_EVAL = """- `lm_eval/` has the questions as tasks of lm-evaluation-harness. The exact match
  is that of `kstore eval`:

```
lm_eval --model hf --model_args pretrained=FOLDER --include_path FOLDER/lm_eval \\
  --tasks kstore_extraction_held_out,kstore_extraction_trained
```
"""
_BIDIRECTIONAL = """- The model reads in both directions (`"is_causal": false`, which transformers
  before 5 ignores). It fills in hidden tokens and does not generate. The id that hides a token is
  {mask:,}.
"""


def _readme(experiment: Experiment, context: Context, stage: str) -> str:
    """The content of `README.md`: how to use the folder, and what its texts have to look like."""
    vocabulary, rows = context.vocabulary, context.shape.vocabulary
    tokenizer = vocabulary.tokenizer
    name = full_names(context.table.language.pools, context.everyone.take(np.arange(1)))[0]
    end = tokenizer.backend.id_to_token(tokenizer.end_of_text) or ""
    biography = prompt = f"{end} {name}"
    if stage == "finetuned" and context.trained_tasks:
        items = context.items(context.trained_tasks[0])
        prompt = end + tokenizer.decode(items.texts.tokens[: items.texts.value_spans[0, 0, 0]])
    text = _README.format(
        label=f"{experiment.label}, {stage}",
        trained=_TRAINED[stage],
        prompt=prompt,
        biography=biography,
        end=end,
    )
    if vocabulary.size < tokenizer.size:
        text += _COMPACT.format(size=vocabulary.size, rows=rows)
    if context.mask_token is not None:
        text += _BIDIRECTIONAL.format(mask=context.mask_token)
    return text


def _model_to_export(
    run: pathlib.Path, row: str | None, stage: str | None
) -> tuple[ExperimentGraph, str]:
    """The experiment whose model is exported, and the stage of the model."""
    is_stage = run.name.startswith("pretrain-")
    workdir = run.absolute().parents[1] if is_stage else run
    graphs = select_graphs(workdir, row)
    if is_stage:
        if stage == "finetuned":
            raise UserError(f"--stage: expected pretrained for {run}, got finetuned")
        stage = "pretrained"
        graphs = {i: g for i, g in graphs.items() if g.pretrain.folder == run.name}
    if not graphs:
        raise UserError(f"{run}: no stage of the run in {workdir}")
    models: dict[tuple[str, ...], int] = {}  # folders of the trainings -> the first row with them
    for number, graph in graphs.items():
        trainings = (graph.pretrain,) if stage == "pretrained" else graph.trainings
        models.setdefault(tuple(training.folder for training in trainings), number)
    if len(models) > 1:
        names = labels([graphs[number].experiment for number in models.values()])
        rows = ", ".join(f"{i} ({name})" for i, name in zip(models.values(), names, strict=True))
        raise UserError(f"--row: {run} has several models; expected one of {rows}")
    ((folders, number),) = models.items()
    graph = graphs[number]
    if stage == "finetuned" and not graph.has_finetuned:
        raise UserError(f"--stage: expected pretrained, since {run} finetunes no model")
    finished = {s.folder for s in graph.trainings if graph.cache.result(s) is not None}
    for folder in folders:
        if folder not in finished:
            raise UserError(f"{graph.cache.root / folder}: {graph.why_unfinished()}")
    return graph, stage or ("finetuned" if graph.finetune else "pretrained")


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
