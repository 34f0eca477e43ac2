"""Capacity: how many bits of a world a model has stored, at least (Part 3.3)."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from kstore_jax.charts.drawing import Chart
from kstore_jax.charts.tables import Table
from kstore_jax.config.fields import names, number
from kstore_jax.corpus.encode import (
    SPAN_DTYPE,
    TokenizedTexts,
    compact_vocabulary,
    encode_biographies,
    pad_texts,
    ragged_indices,
)
from kstore_jax.corpus.examples import SpanExamples, span_examples
from kstore_jax.errors import UserError, nearest
from kstore_jax.model.forward import Params
from kstore_jax.readouts import bits_page, bound, spans
from kstore_jax.readouts.base import (
    READ_COST,
    READOUTS,
    Context,
    Readout,
    ReadoutConfig,
    write_cases,
)
from kstore_jax.readouts.measured import Measured
from kstore_jax.readouts.quantised import BITS, quantise
from kstore_jax.train.flops import num_parameters
from kstore_jax.train.mesh import shard_tree
from kstore_jax.world.biographies import write_biographies
from kstore_jax.world.people import People
from kstore_jax.world.pools import Pools

_NEW_WORDING = 2**30
"""Fresh text is measured on biographies of this number and after, which no pretraining reaches."""
_BATCH = 64
_TOKENS_BEFORE = 16
"""Tokens of another biography before the one measured."""
_PREFIX, _RATE = "capacity_", "bits_per_parameter"


@dataclasses.dataclass(frozen=True)
class CapacityConfig(ReadoutConfig):
    """Bits of knowledge that a causal model has stored, and bits a parameter (Part 3.3); also every
    `pretrain.evaluate_every` steps."""

    people: int = number(500, 1)
    """People measured, evenly spaced; their mean loss stands for everybody's."""
    draws: int = number(3, 1)
    """Biographies of each; of fresh text new wordings, which pretraining did not read."""
    quantise: tuple = names()
    """Formats of rounded copies that are measured too: `int8`, `int4`."""

    def __post_init__(self):
        for name in self.quantise:
            if name not in BITS:
                raise UserError(f"quantise: no format {name!r}{nearest(name, BITS)}")


@READOUTS.register
class Capacity(Readout):
    """At least how many bits a model has stored, by its losses on names and values."""

    name = "capacity"
    version = 2
    Config = CapacityConfig
    measures_training = True

    title = "Bits: how much does the model know?"
    paragraph = (
        "A model knows a fact in so far as it predicts it better than a uniform guess. So the "
        "losses on names and values say how many bits of the random world it has stored, at least. "
        "Wordings and rules that hold for all people do not count. The dashed line is everything "
        "there is to know about the people."
    )
    in_the_paper = (
        "In Part 3.3 every model that reads the facts of each person 1,000 times stores about 2 "
        "bits a parameter, whatever its depth and width, unless there is less to know; after 100 "
        "times about 1 bit."
    )

    def run(self, context: Context, config: CapacityConfig, folder: pathlib.Path) -> dict:
        return capacity(context, config, folder)

    def during(
        self, context: Context, config: CapacityConfig
    ) -> Callable[[Params], dict[str, jax.Array]]:
        return while_training(context, config)

    def during_config(self, config: CapacityConfig) -> dict[str, Any]:
        return {"people": config.people}

    def work(
        self, context: Context, texts: TokenizedTexts, config: CapacityConfig, scale: float
    ) -> float:
        people = min(config.people, scale * len(context.people))
        length = _TOKENS_BEFORE + float(texts.lengths.max())
        read = people * _draws(context, config) * length
        return READ_COST * read * (1 + len(config.quantise)) * (context.mask_token is None)

    def tables(self, groups: Sequence[Measured]) -> list[Table]:
        return bits_page.tables([group for group in groups if group.has("bits")])

    def charts(self, groups: Sequence[Measured]) -> list[Chart]:
        return bits_page.charts([group for group in groups if group.has("bits")])


def capacity(context: Context, config: CapacityConfig, folder: pathlib.Path) -> dict:
    """The bits that the pretrained model has stored, at least, about `context.people`.

    Writes the cases into `folder`: `person` and `draw` (texts,), and `nats` (texts, spans), the
    loss on each of `names`: the name, the attributes and the pronoun.

    Returns: empty for a bidirectional model, which predicts the tokens in no order. Otherwise
      - `people`, and how many of them and of their texts were `measured`;
      - `nats`, `bits` and `most` by term of the bound: the mean loss, the bits stored a person, and
        the bits if everything is known; an attribute that another one determines is part of it;
      - `learned` and `most_learned`: bits about all people; `draws`: `learned` by each draw alone;
      - `parameters`: `all` of them, and those `used`, without the rows of tokens that no text has;
      - `bits_per_parameter`: by the parameters `used` and `all`, and the `most` by those used;
      - `quantised`: by format, `nats`, `bits`, `learned` and `bits_per_parameter` of that copy.
    """
    if context.mask_token is not None:
        return {}
    drawn = [_examples(context, config, draw) for draw in range(_draws(context, config))]
    stated_NxS = np.concatenate([_stated(examples) for _, examples in drawn])
    of_world = _bound(context, stated_NxS)
    parameters = _num_parameters(context)

    def nats_of(params: Params) -> np.ndarray:
        each = [spans.span_nats(context.shape, params, examples) for _, examples in drawn]
        return np.concatenate(each)

    def summary(nats_NxS: np.ndarray) -> dict:
        nats_S = _means(nats_NxS, stated_NxS)
        learned = float(of_world.learned(nats_S))
        by_term = nats_S @ of_world.of_spans
        return {
            "nats": dict(zip(of_world.names, by_term.tolist(), strict=True)),
            "bits": dict(zip(of_world.names, of_world.bits(nats_S).tolist(), strict=True)),
            "learned": learned,
            "bits_per_parameter": {name: learned / count for name, count in parameters.items()},
        }

    person = np.concatenate([people for people, _ in drawn])
    draw = np.repeat(np.arange(len(drawn)), [len(people) for people, _ in drawn])
    nats_NxS, columns = nats_of(context.pretrained), bound.span_names(_pools(context))
    cases = {"person": person, "draw": draw, "nats": nats_NxS, "names": np.array(columns)}
    write_cases(folder, cases)
    result, most = summary(nats_NxS), float((of_world.most * of_world.draws).sum())
    result["bits_per_parameter"]["most"] = most / parameters["used"]
    return {
        "people": len(context.people),
        "measured": {"people": len(np.unique(person)), "texts": len(person)},
        **result,
        "most": dict(zip(of_world.names, of_world.most.tolist(), strict=True)),
        "most_learned": most,
        "draws": [
            float(of_world.learned(_means(nats_NxS[draw == d], stated_NxS[draw == d])))
            for d in range(len(drawn))
        ],
        "parameters": parameters,
        "quantised": {
            format: summary(nats_of(quantise(context.pretrained, format)))
            for format in config.quantise
        },
    }


def most_bits_per_parameter(context: Context) -> float:
    """All there is to know about `context.people`, in bits by the parameters used."""
    everything = np.ones((1, len(bound.span_names(_pools(context)))))
    of_world = _bound(context, everything)
    return float((of_world.most * of_world.draws).sum()) / _num_parameters(context)["used"]


def while_training(
    context: Context, config: CapacityConfig
) -> Callable[[Params], dict[str, jax.Array]]:
    """Returns `params -> scalars on the device`, which pretraining calls every so many steps:
    `capacity_bits_per_parameter`, by the parameters used, and `capacity_TERM`, the bits a person of
    each term, by one biography of each person measured. Empty for a bidirectional model."""
    if context.mask_token is not None:
        return lambda _: {}
    _, examples = _examples(context, config, 0)
    of_world = _bound(context, _stated(examples))
    used = _num_parameters(context)["used"]
    batches = shard_tree(context.mesh, spans.stack_batches(examples, _BATCH))

    def evaluate(params: Params) -> dict[str, jax.Array]:
        nats_S = spans.mean_nats(context.shape, params, batches)
        by_term = zip(of_world.names, of_world.bits(nats_S), strict=True)
        scalars = {f"{_PREFIX}{name}": bits for name, bits in by_term}
        return {f"{_PREFIX}{_RATE}": of_world.learned(nats_S) / used, **scalars}

    return evaluate


def _draws(context: Context, config: CapacityConfig) -> int:
    """How many biographies of each person are measured."""
    variant = context.variant
    return config.draws if variant.fresh else min(config.draws, variant.biographies_per_person)


def _pools(context: Context) -> Pools:
    return context.table.language.pools


def _bound(context: Context, stated_NxS: np.ndarray) -> bound.Bound:
    return bound.bound_of(_pools(context), len(context.people), stated_NxS.mean(0))


def _stated(examples: SpanExamples) -> np.ndarray:
    """(N, S) bool: whether each text has each span."""
    return np.asarray((examples.weights > 0).any(-1))


def _means(nats_NxS: np.ndarray, stated_NxS: np.ndarray) -> np.ndarray:
    """(S,) the mean over the texts that have the span."""
    totals = np.where(stated_NxS, nats_NxS, 0.0).sum(0, dtype=np.float64)
    return totals / np.maximum(stated_NxS.sum(0), 1)


def _num_parameters(context: Context) -> dict[str, int]:
    """The number of parameters: `all`, and those `used`, without the rows of the embedding, and of
    the output head, of tokens that no text of this world has."""
    shape, tokens = context.shape, context.vocabulary.size
    if tokens == context.table.tokenizer.size:  # not a compact one
        tokens = compact_vocabulary(context.table, context.everyone).size
    tables = 1 if shape.tie_embeddings else 2
    count = num_parameters(shape)
    return {"used": count - tables * shape.width * (shape.vocabulary - tokens), "all": count}


def _examples(
    context: Context, config: CapacityConfig, draw: int
) -> tuple[np.ndarray, SpanExamples]:
    """Number `draw` of the biographies of the people measured, each after the end of another one,
    with the spans of the name, the values and the pronoun.

    Returns: the people (N,), and their texts.
    """
    count = min(config.people, len(context.people))
    people = context.people.take(np.arange(count) * len(context.people) // count)
    entry = draw + _NEW_WORDING * context.variant.fresh
    if context.variant.fresh:
        texts = _write(context, people, entry)
    else:
        corpus = context.read_corpus("shards")
        chosen = np.isin(corpus.people, people.ids) & (corpus.entries == draw)
        texts = corpus.texts.take(np.flatnonzero(chosen))
    columns = [texts.name_spans[:, :1], texts.value_spans]
    if bound.PRONOUN in bound.span_names(_pools(context)):
        columns.append(_pronoun_spans(context, people, entry, texts))
    if any(attribute.strings for attribute in _pools(context).schema.attributes):
        first = context.table.language.value_pieces(people.values)[..., 0]
        starts = texts.value_spans[..., 0]
        lengths = context.table.lengths[first].astype(SPAN_DTYPE)
        columns.append(np.stack([starts, starts + lengths], axis=-1))
    read = dataclasses.replace(texts, value_spans=np.concatenate(columns, 1))
    read = _after_another(context.marked(read), context.table.tokenizer.end_of_text)
    return people.ids, span_examples(read, read.value_spans, context.vocabulary)


def _after_another(texts: TokenizedTexts, end_of_text: int) -> TokenizedTexts:
    """The texts as pretraining reads them: each after the last tokens of another one and its end of
    text. Few windows begin with a text, so models can predict names badly there: one that stores
    every value had 10.7 instead of 7.0 nats a name."""
    if len(texts) == 1:
        return texts
    other = np.roll(np.arange(len(texts)), 1)
    before = np.minimum(texts.lengths[other], _TOKENS_BEFORE)
    starts = [texts.offsets[1:][other] - before, np.full_like(before, len(texts.tokens))]
    starts = np.stack([*starts, texts.offsets[:-1]], axis=-1)
    lengths = np.stack([before, np.ones_like(before), texts.lengths], axis=-1)
    tokens = np.append(texts.tokens, texts.tokens.dtype.type(end_of_text))
    shift = (before + 1)[:, None, None].astype(SPAN_DTYPE)
    return TokenizedTexts(
        tokens=tokens[ragged_indices(starts.ravel(), lengths.ravel())],
        offsets=np.concatenate([[0], np.cumsum(lengths.sum(-1))]),
        value_spans=texts.value_spans + shift,
        name_spans=texts.name_spans + shift,
    )


def _write(context: Context, people: People, entry: int) -> TokenizedTexts:
    """Biography number `entry` of each person, by templates."""
    language, entries = context.table.language, np.full(len(people), entry)
    written = write_biographies(language, context.world_seed, context.variant, people, entries)
    return encode_biographies(context.table, written)


def _pronoun_spans(
    context: Context, people: People, entry: int, texts: TokenizedTexts
) -> np.ndarray:
    """(N, 1, 2): the tokens that show a person's pronoun. They end with the first at which the text
    differs from the same text with any other pronoun. Empty where it does not show the pronoun, or
    where no template wrote it."""
    pronouns = np.arange(len(_pools(context).schema.pronouns))[:, None]
    of_each = [
        _write(context, dataclasses.replace(people, pronouns=np.full_like(people.ids, p)), entry)
        for p in pronouns[:, 0]
    ]
    length = 1 + max(int(each.lengths.max()) for each in (*of_each, texts))
    end = context.table.tokenizer.end_of_text
    padded = [pad_texts(each, length, end)[:, 1:] for each in (*of_each, texts)]
    differs = np.stack(padded[:-1]) != padded[-1]
    first = np.where(differs.any(-1), differs.argmax(-1), length)
    is_own = pronouns == people.pronouns
    by_template = (first == length)[is_own].all()
    last = np.where(is_own, 0, first).max(0)
    shown = (last < length) & by_template
    ends = np.stack([first.min(0), last + 1], axis=-1)
    return np.where(shown[:, None], ends, 0)[:, None].astype(SPAN_DTYPE)
