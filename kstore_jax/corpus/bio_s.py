"""bioS as a TFDS data set, for other pipelines.

Importing this module registers the builder `bio_s`. Nothing is downloaded. TensorFlow is optional;
without it, pass `file_format="array_record"`:

    import tensorflow_datasets as tfds
    import kstore_jax.corpus.bio_s

    tfds.builder("bio_s/multi5_permute").download_and_prepare(file_format="array_record")
    biographies = tfds.data_source("bio_s/multi5_permute", split="train")

For another world, pass `BioSConfig(content="multi5+permute", people=1000, seed=7)` as `config` to
`tfds.builder("bio_s", config=...)`. A prepared data set is read without this module.
"""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import tensorflow_datasets as tfds

from kstore_jax.corpus.encode import encode_biographies, token_table
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS, Variant, write_biographies
from kstore_jax.world.language import ANSWER_MARK, Language, load_language, pieces_to_text
from kstore_jax.world.people import (
    ATTRIBUTES,
    PRONOUNS,
    People,
    check_people_count,
    draw_people,
    in_train_half,
)
from kstore_jax.world.questions import write_questions

HALVES = ("P_train", "P_test")
PEOPLE_PER_BLOCK = 1024  # people generated at once
EXAMPLES_PER_SHARD = 100_000  # examples a file, some 55 MB of biographies

Example = dict[str, object]


class Examples(Protocol):
    """What the examples of a configuration are."""

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """The features of one example."""

    def per_person(self, language: Language) -> int:
        """How many examples there are about one person."""

    def generate(self, language: Language, seed: int, who: People) -> Iterator[Example]:
        """The examples about some people, person by person."""


def _halves(seed: int, who: People) -> np.ndarray:
    """The place of each person's half in HALVES."""
    return np.where(in_train_half(seed, who.ids), 0, 1)


@dataclasses.dataclass(frozen=True)
class BiographyExamples:
    """Every entry of a variant, with its GPT-2 tokens and spans."""

    variant: Variant

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        spans = functools.partial(tfds.features.Tensor, dtype=np.int16, encoding="bytes")
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "entry": tfds.features.Scalar(np.int64),
            "text": tfds.features.Text(),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.uint16, encoding="bytes"),
            "value_spans": spans(shape=(len(ATTRIBUTES), 2)),
            "name_spans": spans(shape=(None, 2)),
        }

    def per_person(self, language: Language) -> int:
        return self.variant.biographies_per_person

    def generate(self, language: Language, seed: int, who: People) -> Iterator[Example]:
        each = np.repeat(np.arange(len(who)), self.variant.biographies_per_person)
        numbers = np.tile(np.arange(self.variant.biographies_per_person), len(who))
        entries = write_biographies(language, seed, self.variant, who.take(each), numbers)
        rows = encode_biographies(token_table(language, gpt2()), entries)
        halves = _halves(seed, who)[each]
        for b, (start, stop) in enumerate(itertools.pairwise(rows.offsets)):
            yield {
                "person": entries.people[b],
                "half": halves[b],
                "entry": numbers[b],
                "text": pieces_to_text(language, entries.texts.pieces[b]),
                "tokens": rows.tokens[start:stop],
                "value_spans": rows.value_spans[b],
                "name_spans": rows.name_spans[b],
            }


@dataclasses.dataclass(frozen=True)
class PersonExamples:
    """The truth itself, one example a person."""

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "name": tfds.features.Text(),
            "pronoun": tfds.features.ClassLabel(names=PRONOUNS),
            **{attribute: tfds.features.Text() for attribute in ATTRIBUTES},
        }

    def per_person(self, language: Language) -> int:
        return 1

    def generate(self, language: Language, seed: int, who: People) -> Iterator[Example]:
        halves = _halves(seed, who)
        names, values = who.names + language.name_offsets, who.values + language.value_offsets
        for b in range(len(who)):
            yield {
                "person": who.ids[b],
                "half": halves[b],
                "name": pieces_to_text(language, names[b])[1:],
                "pronoun": who.pronouns[b],
                **{a: pieces_to_text(language, values[b, k])[1:] for k, a in enumerate(ATTRIBUTES)},
            }


@dataclasses.dataclass(frozen=True)
class QuestionExamples:
    """The six questions about each person in every wording, with their answers."""

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "attribute": tfds.features.ClassLabel(names=ATTRIBUTES),
            "wording": tfds.features.Scalar(np.int64),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "text": tfds.features.Text(),
        }

    def per_person(self, language: Language) -> int:
        return len(ATTRIBUTES) * language.questions.shape[1]

    def generate(self, language: Language, seed: int, who: People) -> Iterator[Example]:
        wordings = range(language.questions.shape[1])
        each = np.repeat(np.arange(len(who)), len(ATTRIBUTES))
        attributes = np.tile(np.arange(len(ATTRIBUTES)), len(who))
        asked = [write_questions(language, who.take(each), attributes, w).texts for w in wordings]
        (answer,) = asked[0].value_slots
        halves = _halves(seed, who)[each]
        for b, wording in itertools.product(range(len(each)), wordings):
            pieces = asked[wording].pieces[b]
            yield {
                "person": who.ids[each[b]],
                "half": halves[b],
                "attribute": attributes[b],
                "wording": wording,
                "question": pieces_to_text(language, pieces[:answer]).removesuffix(ANSWER_MARK),
                "answer": pieces_to_text(language, pieces[answer])[1:],
                "text": pieces_to_text(language, pieces),
            }


@dataclasses.dataclass(kw_only=True)
class BioSConfig(tfds.core.BuilderConfig):
    """One world and what is told of it.

    Attributes:
      content: a variant as the papers write it (`multi5+permute`), `people` or `questions`.
      people: how many people there are, at least 2.
      seed: of everything that is drawn.
      name: of the folder; made from the others, so that no two worlds share one, if not given.

    Raises:
      UserError: no such variant or a `fresh` one, which has no last entry; or a number of people
        that the pools do not make.
    """

    content: str
    people: int = 100_000
    seed: int = 0
    name: str = ""

    def __post_init__(self):
        self.examples()
        if self.people < 2:
            raise UserError(f"bio_s.people: expected at least 2, got {self.people}")
        check_people_count(load_language().pools, self.people)
        world = (self.people, self.seed)
        suffix = "" if world == (100_000, 0) else f"_people{self.people}_seed{self.seed}"
        self.name = self.name or self.content.replace("+", "_") + suffix
        told = f"{self.content}: {self.people} people, seed {self.seed}"
        self.description = self.description or told

    def examples(self) -> Examples:
        """What the examples are."""
        if self.content in ("people", "questions"):
            return PersonExamples() if self.content == "people" else QuestionExamples()
        variant = Variant.parse(self.content, "bio_s.content")
        if variant.fresh:
            raise UserError(f"bio_s.content: {self.content} never ends; expected another variant")
        return BiographyExamples(variant)


_VARIANTS = [v for v in (*FIG3_VARIANTS, *OTHER_VARIANTS) if not v.startswith("fresh")]


class BioS(tfds.core.ShardBasedBuilder):
    """Synthetic biographies of people who do not exist, for studies of how language models store
    facts and whether they can be asked for them (bioS of Physics of Language Models, Part 3.1).

    Each person has a unique full name, a pronoun and six attributes. The configurations are:

    * one a variant of the biographies, `+` written as `_` (`single`, `multi5_permute_fullname`):
      the text, with a space in front, its GPT-2 tokens, and where in them each attribute (birth
      date, birth city, university, major, company, work city) and each occurrence of the full name
      stands, as [start, end). One split, `train`: models are pretrained on the biographies of
      everybody. Entry m of person i of a variant with M entries is example i * M + m.
    * `people`: what is true. One split, `train`; person i is example i.
    * `questions`: the six questions about each person in every wording, of which a model is
      finetuned on wording 0; `text` is the question, " Answer: " and the answer, the paper's way
      to join them. Two splits: `train` asks about P_train, `test` about P_test.

    `half` says everywhere whether a person belongs to P_train, whose questions a model may be
    trained on, or to P_test, whose questions it is tested with. Examples are not shuffled, so that
    they can be found by number.
    """

    # Nothing is downloaded; to look for checksums TFDS needs a package that it does not declare.
    url_infos = None
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First release."}  # noqa: RUF012 (as TFDS has it)
    BUILDER_CONFIGS = [  # noqa: RUF012
        BioSConfig(content=content) for content in (*_VARIANTS, "people", "questions")
    ]
    CITATION = """@inproceedings{allenzhu2024knowledge,
  title={Physics of Language Models: Part 3.1, Knowledge Storage and Extraction},
  author={Allen-Zhu, Zeyuan and Li, Yuanzhi},
  booktitle={International Conference on Machine Learning},
  year={2024},
  eprint={2309.14316},
  archivePrefix={arXiv}
}"""

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        world = {"content": config.content, "people": config.people, "seed": config.seed}
        return tfds.core.DatasetInfo(
            builder=self,
            description=inspect.cleandoc(self.__doc__),
            features=tfds.features.FeaturesDict(config.examples().features()),
            citation=self.CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(world),
        )

    # Written in order, shard by shard; TFDS's other kind of builder sorts all examples by key.
    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        config = self.builder_config
        ids = np.arange(config.people)
        if config.content != "questions":
            return {"train": self._shards(ids)}
        trained = in_train_half(config.seed, ids)
        return {"train": self._shards(ids[trained]), "test": self._shards(ids[~trained])}

    def _shards(self, ids: np.ndarray) -> list[Callable]:
        step = max(
            1, EXAMPLES_PER_SHARD // self.builder_config.examples().per_person(load_language())
        )
        some = (ids[start : start + step] for start in range(0, len(ids), step))
        return [functools.partial(self._examples, of_shard) for of_shard in some]

    def _examples(self, ids: np.ndarray) -> Iterator[tuple[int, Example]]:
        config, language = self.builder_config, load_language()
        blocks = (
            ids[start : start + PEOPLE_PER_BLOCK] for start in range(0, len(ids), PEOPLE_PER_BLOCK)
        )
        worlds = (draw_people(language.pools, config.seed, block) for block in blocks)
        told = (config.examples().generate(language, config.seed, who) for who in worlds)
        return enumerate(itertools.chain.from_iterable(told))
