"""bioS as a TFDS data set, for other pipelines.

Importing this module registers the builder `bio_s`. Nothing is downloaded. TensorFlow is optional;
without it, pass `file_format="array_record"`:

    import tensorflow_datasets as tfds
    import kstore_jax.corpus.bio_s

    tfds.builder("bio_s/multi5_permute").download_and_prepare(file_format="array_record")
    biographies = tfds.data_source("bio_s/multi5_permute", split="train")

For other people, pass `BioSConfig(content="multi5+permute", people=1000, seed=7)` as `config` to
`tfds.builder("bio_s", config=...)`; `folder` is the folder of another world. A prepared
data set is read without this module.
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
    People,
    check_people_count,
    draw_people,
    full_names,
    in_train_half,
    value_texts,
)
from kstore_jax.world.questions import write_questions
from kstore_jax.world.schema import Schema

HALVES = ("P_train", "P_test")
PEOPLE_PER_BLOCK = 1024
"""People generated at a time."""
EXAMPLES_PER_SHARD = 100_000
"""Examples per file, about 55 MB of biographies."""

Example = dict[str, object]


class Examples(Protocol):
    """The kind of examples of a configuration."""

    def features(self, schema: Schema) -> dict[str, tfds.features.FeatureConnector]:
        """Returns the features of one example."""
        ...

    def per_person(self, language: Language) -> int:
        """Returns the number of examples about one person."""
        ...

    def generate(self, language: Language, seed: int, people: People) -> Iterator[Example]:
        """Yields the examples about some people, person by person."""
        ...


def _halves(seed: int, people: People) -> np.ndarray:
    """The index of each person's half in HALVES."""
    return np.where(in_train_half(seed, people.ids), 0, 1)


@dataclasses.dataclass(frozen=True)
class BiographyExamples:
    """The biographies of a variant, with GPT-2 tokens and spans."""

    variant: Variant

    def features(self, schema: Schema) -> dict[str, tfds.features.FeatureConnector]:
        spans = functools.partial(tfds.features.Tensor, dtype=np.int16, encoding="bytes")
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "entry": tfds.features.Scalar(np.int64),
            "text": tfds.features.Text(),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.uint16, encoding="bytes"),
            "value_spans": spans(shape=(len(schema.attributes), 2)),
            "name_spans": spans(shape=(None, 2)),
        }

    def per_person(self, language: Language) -> int:
        return self.variant.biographies_per_person

    def generate(self, language: Language, seed: int, people: People) -> Iterator[Example]:
        count = self.variant.biographies_per_person
        each = np.repeat(np.arange(len(people)), count)
        numbers = np.tile(np.arange(count), len(people))
        written = write_biographies(language, seed, self.variant, people.take(each), numbers)
        tokenized = encode_biographies(token_table(language, gpt2()), written)
        halves = _halves(seed, people)[each]
        for b, (start, stop) in enumerate(itertools.pairwise(tokenized.offsets)):
            yield {
                "person": written.people[b],
                "half": halves[b],
                "entry": numbers[b],
                "text": pieces_to_text(language, written.texts.pieces[b]),
                "tokens": tokenized.tokens[start:stop],
                "value_spans": tokenized.value_spans[b],
                "name_spans": tokenized.name_spans[b],
            }


@dataclasses.dataclass(frozen=True)
class PersonExamples:
    """The facts, one example per person."""

    def features(self, schema: Schema) -> dict[str, tfds.features.FeatureConnector]:
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "name": tfds.features.Text(),
            **(
                {"pronoun": tfds.features.ClassLabel(names=schema.pronouns)}
                if schema.pronouns
                else {}
            ),
            **{attribute: tfds.features.Text() for attribute in schema.names},
        }

    def per_person(self, language: Language) -> int:
        return 1

    def generate(self, language: Language, seed: int, people: People) -> Iterator[Example]:
        halves, names = _halves(seed, people), full_names(language.pools, people)
        schema = language.schema
        for b, values in enumerate(value_texts(language.pools, people)):
            yield {
                "person": people.ids[b],
                "half": halves[b],
                "name": names[b],
                **({"pronoun": people.pronouns[b]} if schema.pronouns else {}),
                **dict(zip(schema.names, values, strict=True)),
            }


@dataclasses.dataclass(frozen=True)
class QuestionExamples:
    """The questions about each person in every wording, with their answers."""

    def features(self, schema: Schema) -> dict[str, tfds.features.FeatureConnector]:
        return {
            "person": tfds.features.Scalar(np.int64),
            "half": tfds.features.ClassLabel(names=HALVES),
            "attribute": tfds.features.ClassLabel(names=schema.names),
            "wording": tfds.features.Scalar(np.int64),
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "text": tfds.features.Text(),
        }

    def per_person(self, language: Language) -> int:
        return language.questions.shape[0] * language.questions.shape[1]

    def generate(self, language: Language, seed: int, people: People) -> Iterator[Example]:
        count, wordings = language.questions.shape[0], range(language.questions.shape[1])
        each = np.repeat(np.arange(len(people)), count)
        attributes = np.tile(np.arange(count), len(people))
        some = people.take(each)
        texts = [write_questions(language, some, attributes, w).texts for w in wordings]
        (answer,) = texts[0].value_slots
        halves = _halves(seed, some)
        for b, wording in itertools.product(range(len(some)), wordings):
            pieces = texts[wording].pieces[b]
            yield {
                "person": some.ids[b],
                "half": halves[b],
                "attribute": attributes[b],
                "wording": wording,
                "question": pieces_to_text(language, pieces[:answer]).removesuffix(ANSWER_MARK),
                "answer": pieces_to_text(language, pieces[answer])[1:],
                "text": pieces_to_text(language, pieces),
            }


@dataclasses.dataclass(kw_only=True)
class BioSConfig(tfds.core.BuilderConfig):
    """A world and the kind of examples about it.

    Attributes:
      content: the name of a variant (`multi5+permute`), `people` or `questions`.
      people: the number of people, at least 2.
      seed: the seed of all draws.
      folder: the folder of the world; empty: the bundled one.
      name: the name of the folder; empty: a name that is unique to the other fields.

    Raises:
      UserError: the world has no such variant or not that many people; or the variant is `fresh`,
        which has no last biography.
    """

    content: str
    people: int = 100_000
    seed: int = 0
    folder: str = ""
    name: str = ""

    def __post_init__(self):
        self.examples()
        if self.people < 2:
            raise UserError(f"bio_s.people: expected at least 2, got {self.people}")
        check_people_count(self.language().pools, self.people)
        world = (self.people, self.seed)
        suffix = "" if world == (100_000, 0) else f"_people{self.people}_seed{self.seed}"
        suffix += f"_{self.language().fingerprint[:8]}" if self.folder else ""
        self.name = self.name or self.content.replace("+", "_") + suffix
        description = f"{self.content}: {self.people} people, seed {self.seed}"
        self.description = self.description or description

    def language(self) -> Language:
        """Returns the language of the world."""
        return load_language(self.folder)

    def examples(self) -> Examples:
        """Returns the kind of examples that `content` names."""
        if self.content in ("people", "questions"):
            return PersonExamples() if self.content == "people" else QuestionExamples()
        variant = Variant.parse(self.content, "bio_s.content")
        if variant.fresh:
            raise UserError(f"bio_s.content: {self.content} has no end; expected another variant")
        variant.check(self.language().schema, "bio_s.content")
        return BiographyExamples(variant)


_VARIANTS = [v for v in (*FIG3_VARIANTS, *OTHER_VARIANTS) if not v.startswith("fresh")]


class BioS(tfds.core.ShardBasedBuilder):
    """Synthetic biographies of people who do not exist, for studies of how language models store
    facts and whether they can answer questions about them (bioS of Physics of Language Models,
    Part 3.1).

    Each person has a unique full name, a pronoun and attributes: birth date, birth city,
    university, major, company and work city, or those of another world. The configurations are:

    * one per variant of the biographies, with `_` for `+` (`single`, `multi5_permute_fullname`):
      the text, which starts with a space; its GPT-2 tokens; and the spans [start, end) of each
      attribute and of each occurrence of the full name in the tokens. One split, `train`: models
      are pretrained on the biographies of everybody. Biography m of person i, of a variant with M
      biographies per person, is example i * M + m.
    * `people`: the facts. One split, `train`; person i is example i.
    * `questions`: the questions about each person in every wording. Models are finetuned on
      wording 0. `text` is the question, " Answer: " and the answer, as in the paper. Two splits:
      `train` has questions about P_train, `test` about P_test.

    Every example has `half`: P_train, whose questions a model may be trained on, or P_test, whose
    questions it is tested on. Examples are not shuffled, so that they can be found by number.
    """

    # Nothing is downloaded. To look for checksums TFDS needs a package that it does not declare.
    url_infos = None
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: dict[str, str] = {"1.0.0": "First release."}  # noqa: RUF012 (as in TFDS)
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

    @property
    def _bio_s_config(self) -> BioSConfig:
        assert isinstance(self.builder_config, BioSConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._bio_s_config
        world = {"content": config.content, "people": config.people, "seed": config.seed}
        return tfds.core.DatasetInfo(
            builder=self,
            description=inspect.cleandoc(self.__doc__ or ""),
            features=tfds.features.FeaturesDict(
                config.examples().features(config.language().schema)
            ),
            citation=self.CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(world),
        )

    # A ShardBasedBuilder writes shards in order; a GeneratorBasedBuilder sorts examples by key.
    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable]]:
        config = self._bio_s_config
        ids = np.arange(config.people)
        if config.content != "questions":
            return {"train": self._shards(ids)}
        trained = in_train_half(config.seed, ids)
        return {"train": self._shards(ids[trained]), "test": self._shards(ids[~trained])}

    def _shards(self, ids: np.ndarray) -> list[Callable]:
        per_person = self._bio_s_config.examples().per_person(self._bio_s_config.language())
        size = max(1, EXAMPLES_PER_SHARD // per_person)
        shards = (ids[start : start + size] for start in range(0, len(ids), size))
        return [functools.partial(self._examples, shard) for shard in shards]

    def _examples(self, ids: np.ndarray) -> Iterator[tuple[int, Example]]:
        """The examples about people `ids`, numbered."""
        config = self._bio_s_config
        language = config.language()
        size = PEOPLE_PER_BLOCK
        blocks = (ids[start : start + size] for start in range(0, len(ids), size))
        groups = (draw_people(language.pools, config.seed, block) for block in blocks)
        examples = (config.examples().generate(language, config.seed, group) for group in groups)
        return enumerate(itertools.chain.from_iterable(examples))
