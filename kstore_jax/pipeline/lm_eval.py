"""Task files of lm-evaluation-harness (`lm_eval`): the questions of a run, and their answers."""

import json
from collections.abc import Sequence

import numpy as np

from kstore_jax.errors import UserError
from kstore_jax.readouts.base import Context
from kstore_jax.tasks.base import TASKS, Items

FOLDER = "lm_eval"
_TASK = """task: {name}
custom_dataset: !function data.{name}
dataset_path: ""
dataset_name: ""
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
generation_kwargs:
  do_sample: false
  max_gen_toks: {most}
  until: []
filter_list:
  - name: answer
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: {version}
"""
_DATA = '''"""Reads the questions beside this file, wherever the folder is."""

import json
import pathlib

import datasets


def _read(name):
    lines = pathlib.Path(__file__).with_name(f"{name}.jsonl").read_text(encoding="utf-8")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines.splitlines()])}
'''
_READER = """

def {name}(**_):
    return _read("{name}")
"""


def task_files(context: Context, tasks: Sequence[str]) -> dict[str, str]:
    """Returns the name and the text of each file of `lm_eval/`.

    Each task becomes two: `kstore_TASK_held_out` and `kstore_TASK_trained`, a YAML file and a line
    of JSON for each question in the trained wording: `prompt`, `answer`, `group` and `person`. A
    prompt begins with the end of text, as in training. It has no space at its end: the answer's
    first token contains it.

    Args:
      tasks: names, as in `readouts.qa.tasks`.

    Raises:
      UserError: the model is bidirectional, or a task compares answers by their end.
    """
    if context.mask_token is not None:
        raise UserError("--lm-eval: expected a causal model; this one writes no text")
    files, data = {}, _DATA
    for task in tasks:
        items = context.items(task)
        if items.hint_lengths.any():
            raise UserError(
                f"--lm-eval: task {task} writes hints and compares answers by their end"
            )
        answers = items.texts.value_spans[:, 0]
        most = int((answers[:, 1] - answers[:, 0]).max()) + 1
        for half, members in (
            ("held_out", ~context.qa_train_mask),
            ("trained", context.qa_train_mask & ~context.held_back_mask),
        ):
            name = f"kstore_{task}_{half}"
            chosen = items.take(np.flatnonzero(items.about(members)))
            path = f"{FOLDER}/{name}"
            files[f"{path}.yaml"] = _TASK.format(name=name, most=most, version=TASKS[task].version)
            files[f"{path}.jsonl"] = _json_lines(context, task, chosen)
            data += _READER.format(name=name)
    return {**files, f"{FOLDER}/data.py": data}


def _json_lines(context: Context, task: str, items: Items) -> str:
    """A line for each question."""
    tokenizer, texts = context.vocabulary.tokenizer, items.texts
    names = context.group_names(task)
    lines = []
    for i in range(len(items)):
        tokens = texts.tokens[texts.offsets[i] : texts.offsets[i + 1]]
        start, end = texts.value_spans[i, 0].tolist()
        question = {
            "prompt": tokenizer.decode([tokenizer.end_of_text, *tokens[:start]]),
            "answer": tokenizer.decode(tokens[start:end]).strip(),
            "group": names[items.groups[i]],
            "person": context.everyone.ids[items.people[i]].tolist(),
        }
        lines.append(json.dumps(question, ensure_ascii=False) + "\n")
    return "".join(lines)
