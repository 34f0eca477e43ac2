"""Forgetting: the loss on real text before and after pretraining on the facts."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kstore_jax.charts.tables import Body, Line, Table
from kstore_jax.config.fields import flag, number, path
from kstore_jax.corpus.shards import with_end_of_text
from kstore_jax.corpus.text import encode_documents, open_documents
from kstore_jax.errors import UserError
from kstore_jax.model.forward import Params
from kstore_jax.readouts.base import READOUTS, Context, Readout, ReadoutConfig
from kstore_jax.readouts.measured import Measured
from kstore_jax.train import objectives

PASSAGES = pathlib.Path(__file__).parents[1] / "writers" / "passages" / "passages.jsonl"
"""General text in the package: twelve passages most models know."""
_WINDOW, _BATCH = 256, 4  # predicted tokens of a window; windows of a forward
_DOCUMENTS = 64  # read at a time


@dataclasses.dataclass(frozen=True)
class ForgettingConfig(ReadoutConfig):
    """The loss on real text before and after pretraining, of a model from `model.init_from`."""

    enabled: bool = flag(False, affects_result=False)
    """Whether it is computed; it needs all token ids (`data.vocabulary=full`)."""
    text: str = path("")
    """Text of your own, as `data.text` takes it; empty: none."""
    general: str = path("")
    """General text that pretraining does not read, likewise; empty: twelve passages that most
    models know."""
    tokens: int = number(100_000, 2)
    """At most so many tokens of each text are read."""


@READOUTS.register
class Forgetting(Readout):
    """The mean loss of the next token of two texts, by the model before and after pretraining."""

    name, Config = "forgetting", ForgettingConfig
    title = "What was forgotten"
    paragraph = (
        "Mean loss of the next token in nats, on text that is not about the facts, by the model "
        "before pretraining on the facts and after it. Where it rises, the model forgot."
    )

    def check(self, config: ForgettingConfig, experiment: Any) -> None:
        if experiment.data.vocabulary == "compact":
            raise UserError("enabled: expected data.vocabulary = full beside it, got compact")
        if experiment.model.direction == "bidirectional":
            raise UserError("enabled: expected a causal model beside it, got bidirectional")
        _sources(config)

    def contents(self, config: ForgettingConfig) -> dict[str, str]:
        return {name: documents.fingerprint for name, documents in _sources(config).items()}

    def run(self, context: Context, config: ForgettingConfig, folder: pathlib.Path) -> dict:
        """Returns for `text`, where there is some, and `general`: the loss `before` and `after`,
        and the number of predicted `tokens`."""
        found = {}
        for name, documents in _sources(config).items():
            windows = _windows(context, documents, config.tokens)
            losses = {
                "before": mean_loss(context, context.untrained, windows),
                "after": mean_loss(context, context.pretrained, windows),
            }
            found[name] = {**losses, "tokens": windows[:, 1:].size}
        return found

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        names = {"text": "your text", "general": "general text"}
        bodies = [
            Body(
                group.label,
                group.wording,
                [
                    Line(names[name], {}, "ours", _cells(group, name))
                    for name in names
                    if group.has(name)
                ],
            )
            for group in groups
        ]
        heads = ["tokens", "before", "after", "change"]
        return [Table(self.title, self.paragraph, bodies, heads)]


def _cells(group: Measured, name: str) -> list[str]:
    before, after = (group.mean(name, when) for when in ("before", "after"))
    tokens = f"{group.mean(name, 'tokens'):,.0f}"
    return [tokens, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]


def _sources(config: ForgettingConfig) -> dict[str, Any]:
    """The documents of each text, by the name of the field.

    Raises:
      UserError: a text is missing or none; begins with the field.
    """
    opened = {}
    for name, source in (("text", config.text), ("general", config.general or str(PASSAGES))):
        try:
            opened |= {name: open_documents(source)} if source else {}
        except UserError as error:
            raise UserError(f"{name}: {str(error).removeprefix('data.text: ')}") from None
    return opened


def _windows(context: Context, documents: Any, most: int) -> np.ndarray:
    """The first tokens of documents, each ended by the end of text, as windows (N, L + 1) int32.

    Windows have 256 predicted tokens, or all of a shorter text; a last shorter window is left out.
    """
    tokenizer, parts, count = context.table.tokenizer, [], 0
    for start in range(0, len(documents), _DOCUMENTS):
        texts = documents.read(start, min(start + _DOCUMENTS, len(documents)))
        encoded = with_end_of_text(encode_documents(tokenizer, texts), tokenizer.end_of_text)
        parts.append(encoded.tokens)
        count += len(encoded.tokens)
        if count > most:
            break
    tokens = context.vocabulary.encode(np.concatenate(parts)[: most + 1])
    length = min(_WINDOW, context.shape.max_positions, len(tokens) - 1)
    starts = np.arange(0, len(tokens) - length, length)
    return tokens[starts[:, None] + np.arange(length + 1)]


def mean_loss(context: Context, params: Params, windows: np.ndarray) -> float:
    """The mean loss of the next token in nats over windows (N, L + 1)."""
    objective, total, count = jax.jit(objectives.next_token(context.shape)), 0.0, 0.0
    for start in range(0, len(windows), _BATCH):
        sums = objective(params, {"tokens": windows[start : start + _BATCH]})
        summed, terms = (float(np.sum(jax.device_get(x))) for x in sums)
        total, count = total + summed, count + terms
    return total / count
