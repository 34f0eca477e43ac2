"""What an experiment is about: people, language, tokens, questions. Nothing here is trained."""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from kstore_jax.corpus import shards, tokenizer
from kstore_jax.corpus.encode import (
    PieceTokens,
    TokenRows,
    compact_vocabulary,
    encode_questions,
    full_vocabulary,
    piece_tokens,
)
from kstore_jax.corpus.examples import Spans, span_examples
from kstore_jax.corpus.shards import Dataset, with_end_of_text
from kstore_jax.corpus.text import open_documents, text_parts
from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.pipeline.experiment import Experiment
from kstore_jax.world.biographies import Variant
from kstore_jax.world.config import World
from kstore_jax.world.language import Language, load_language
from kstore_jax.world.people import (
    ATTRIBUTES,
    People,
    check_size,
    in_train_half,
    load_pools,
    people,
)
from kstore_jax.world.questions import TRAINED_WORDING, ask
from kstore_jax.writers.rewritten import Rewritten, check_variant


@functools.lru_cache(maxsize=4)
def _everyone(world: World) -> People:
    """All people of a world, which the rows of a sweep share."""
    pools = load_pools(world.pools, world.value_fraction, world.name_fraction)
    return people(pools, world.seed, np.arange(world.people + world.celebrities))


class Materials:
    """The materials of an experiment, each made when it is first asked for."""

    def __init__(self, experiment: Experiment):
        world, data = experiment.world, experiment.data
        self.world = world
        self.data = data
        self.variant = Variant.parse(data.variant)
        self.celebrity_variant = Variant.parse(data.celebrity_variant, "data.celebrity_variant")
        check_size(self.language.pools, world.people + world.celebrities)
        if data.rewritten:
            check_variant(self.variant, data.variant, "data.variant")
            if world.celebrities:
                famous = self.celebrity_variant, data.celebrity_variant
                check_variant(*famous, "data.celebrity_variant")
            if data.tokenizer == "word":
                raise UserError("data.tokenizer: word knows the words of templates only")
        fresh = self.variant.fresh or self.celebrity_variant.fresh
        if fresh and world.celebrities and not data.celebrity_share:
            raise UserError(
                "data.celebrity_share: expected more than 0 where a group's text is fresh"
            )

    @functools.cached_property
    def language(self) -> Language:
        world = self.world
        return load_language(
            world.pools, world.templates, world.value_fraction, world.name_fraction
        )

    @functools.cached_property
    def everyone(self) -> People:
        """All people, the celebrities after the others."""
        return _everyone(self.world)

    @functools.cached_property
    def people(self) -> People:
        """All people who are no celebrities: those the model is read about."""
        who = self.everyone
        return who.rows(np.arange(self.world.people)) if self.world.celebrities else who

    @functools.cached_property
    def in_train(self) -> np.ndarray:
        """(people,) bool: who belongs to P_train, whom probes are trained on."""
        return in_train_half(self.world.seed, self.people.ids)

    @functools.cached_property
    def taught(self) -> np.ndarray:
        """(everyone,) bool: whose questions are trained; the others' are held out."""
        if not self.world.celebrities:
            return self.in_train
        return self.everyone.ids >= self.world.people

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        name, seed = self.data.tokenizer, self.world.seed
        return tokenizer.tokenizer(name, self.language, seed, self.people)

    @functools.cached_property
    def table(self) -> PieceTokens:
        return piece_tokens(self.language, self.tokenizer)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The ids of texts about these people, or all of the tokenizer's."""
        if self.data.vocabulary == "compact":
            reverse = bool(self.variant.name_at or self.celebrity_variant.name_at)
            return compact_vocabulary(self.table, self.everyone, reverse)
        return full_vocabulary(self.tokenizer)

    @functools.cached_property
    def rewritten(self) -> Rewritten:
        """The texts of `data.rewritten`."""
        folder = pathlib.Path(self.data.rewritten).expanduser()
        return Rewritten(folder, self.language.pools, self.world.seed)

    @functools.cached_property
    def datasets(self) -> dict[str, Dataset]:
        """What is written before anything is read: biographies of the people, of the celebrities,
        and real text, where there are any."""
        found = {
            "shards": self._biographies(0, self.world.people, self.data.variant),
        }
        if size := self.world.celebrities:
            variant = self.data.celebrity_variant
            found["celebrities"] = self._biographies(self.world.people, size, variant)
        if source := self.data.text:
            cut = self.tokenizer
            documents = open_documents(source)
            config = {
                "text": source,
                "documents": documents.fingerprint,
                "tokenizer": cut.fingerprint,
                "format": shards.FORMAT,
            }
            found["text"] = Dataset(config, cut, lambda: text_parts(cut, documents))
        return found

    def _biographies(self, first: int, size: int, variant: str) -> Dataset:
        """All biographies of people first .. first + size - 1; of fresh text, the first pass."""
        config = {
            "seed": self.world.seed,
            "language": self.language.fingerprint,
            "variant": variant,
            "first": first,
            "people": size,
            "tokenizer": self.tokenizer.fingerprint,
            "format": shards.FORMAT,
        }
        parsed = Variant.parse(variant)
        how = self.world.seed, parsed, first, size
        if self.data.rewritten:
            told = parsed, first, size
            config["rewritten"] = self.rewritten.fingerprint(*told)
            return Dataset(config, self.tokenizer, lambda: self.rewritten.parts(self.table, *told))
        return Dataset(config, self.tokenizer, lambda: shards.biography_parts(self.table, *how))

    def closed(self, rows: TokenRows) -> TokenRows:
        return with_end_of_text(rows, self.tokenizer.end_of_text)

    def question_rows(self, wording: int = TRAINED_WORDING) -> TokenRows:
        """The six questions of everyone, answered; row 6 i + a asks for attribute a of i."""
        who = np.repeat(np.arange(len(self.everyone)), len(ATTRIBUTES))
        asked = np.tile(np.arange(len(ATTRIBUTES)), len(self.everyone))
        rows = ask(self.language, self.everyone.rows(who), asked, wording)
        return encode_questions(self.table, rows)

    def questions(
        self, vocabulary: Vocabulary, wording: int = TRAINED_WORDING, mask: int | None = None
    ) -> Spans:
        """The questions, whose answers and ends of text are to be predicted; or whose answers are,
        where `mask` hides each token of them."""
        rows = self.question_rows(wording)
        spans = rows.value_spans.copy()
        if mask is None:
            spans[..., 1] += 1
        return span_examples(self.closed(rows), spans, vocabulary, mask)


def write_datasets(
    experiment: Experiment, out: pathlib.Path, workers: int
) -> Iterator[tuple[pathlib.Path, dict]]:
    """Writes the biographies into a folder, and what is mixed in into folders of its own in there.

    Yields each folder and its manifest.
    """
    materials = Materials(experiment)
    famous = materials.world.celebrities and materials.celebrity_variant.fresh
    if materials.variant.fresh or famous:
        raise UserError(
            "data.variant: fresh text is drawn while a model reads it; multiM+permute is M passes"
        )
    for name, dataset in materials.datasets.items():
        folder = out if name == "shards" else out / name
        yield folder, shards.write_dataset(dataset, folder, workers)
