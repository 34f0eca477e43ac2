"""The data of an experiment: people, language, tokens and datasets."""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from kstore_jax.corpus import fresh, shards, tokenizer
from kstore_jax.corpus.config import Data
from kstore_jax.corpus.encode import (
    TokenizedTexts,
    TokenTable,
    compact_vocabulary,
    full_vocabulary,
    token_table,
)
from kstore_jax.corpus.shards import DatasetSpec, with_end_of_text, with_marker
from kstore_jax.corpus.text import open_documents, text_parts
from kstore_jax.corpus.tokenizer import Tokenizer, Vocabulary
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import Variant
from kstore_jax.world.config import World
from kstore_jax.world.language import Language, load_language
from kstore_jax.world.people import People, check_people_count, draw_people, in_train_half
from kstore_jax.world.pools import load_pools
from kstore_jax.writers.rewritten import RewrittenTexts, check_rewritable


@functools.lru_cache(maxsize=4)
def _everyone(world: World) -> People:
    """All people of a world, celebrities last; cached for the rows of a sweep."""
    pools = load_pools(world.folder, world.value_fraction, world.name_fraction)
    return draw_people(pools, world.seed, np.arange(world.people + world.celebrities))


class ExperimentData:
    """The data of an experiment. Each part is made when first used.

    Attributes:
      world, data: the sections of the configuration.
      variant, celebrity_variant: how the biographies of each group are written.

    Raises:
      UserError: `world` and `data` do not fit together.
    """

    def __init__(self, world: World, data: Data):
        self.world = world
        self.data = data
        self.variant = Variant.parse(data.variant)
        self.celebrity_variant = Variant.parse(data.celebrity_variant, "data.celebrity_variant")
        self.variant.check(self.language.schema)
        if world.celebrities:
            self.celebrity_variant.check(self.language.schema, "data.celebrity_variant")
        check_people_count(self.language.pools, world.people + world.celebrities)
        if data.rewritten:
            check_rewritable(world, data)
        is_fresh = self.variant.fresh or self.celebrity_variant.fresh
        if is_fresh and world.celebrities and not data.celebrity_share:
            raise UserError(
                "data.celebrity_share: expected more than 0 where data.variant or "
                "data.celebrity_variant is fresh, got 0.0"
            )

    @functools.cached_property
    def language(self) -> Language:
        """Pools, templates and questions."""
        world = self.world
        return load_language(world.folder, world.value_fraction, world.name_fraction)

    @functools.cached_property
    def everyone(self) -> People:
        """All people, the celebrities after the others."""
        return _everyone(self.world)

    @functools.cached_property
    def people(self) -> People:
        """All people except celebrities. Probes and recall are about them."""
        if not self.world.celebrities:
            return self.everyone
        return self.everyone.take(np.arange(self.world.people))

    @functools.cached_property
    def in_train(self) -> np.ndarray:
        """(people,) bool: members of P_train; probes train on them and are scored on the others."""
        return in_train_half(self.world.seed, self.people.ids)

    @functools.cached_property
    def qa_train_mask(self) -> np.ndarray:
        """(everyone,) bool: people whose questions are trained on: P_train or, where there are any,
        all celebrities. Questions about the others are held out."""
        if not self.world.celebrities:
            return self.in_train
        return self.everyone.ids >= self.world.people

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `data.tokenizer`; a `bpeN` is trained on biographies of `people`."""
        name, world = self.data.tokenizer, self.world
        if world.people <= tokenizer.MOST_PEOPLE:
            people = self.people
        else:
            ids = np.arange(tokenizer.MOST_PEOPLE)
            people = draw_people(self.language.pools, world.seed, ids)
        return tokenizer.load_tokenizer(name, self.language, world.seed, people)

    @functools.cached_property
    def table(self) -> TokenTable:
        """The tokens of every piece of the language."""
        return token_table(self.language, self.tokenizer)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The token ids that template texts about these people use, or all of the tokenizer's."""
        if self.data.vocabulary == "compact":
            reverse = bool(self.variant.name_at or self.celebrity_variant.name_at)
            return self._with_marker(compact_vocabulary(self.table, self.everyone, reverse))
        return self._with_marker(full_vocabulary(self.tokenizer))

    def _with_marker(self, vocabulary: Vocabulary) -> Vocabulary:
        if not self.data.marker:
            return vocabulary
        return Vocabulary(self.tokenizer, np.append(vocabulary.ids, vocabulary.marker))

    @functools.cached_property
    def rewritten(self) -> RewrittenTexts:
        """The texts of `data.rewritten`."""
        return RewrittenTexts(
            pathlib.Path(self.data.rewritten), self.language.pools, self.world.seed
        )

    @functools.cached_property
    def datasets(self) -> dict[str, DatasetSpec]:
        """The datasets to write, by kind of stage: `shards` (biographies of `people`), and
        `celebrities` and `text` where the configuration has them."""
        datasets = {"shards": self._biographies(0, self.world.people, self.data.variant)}
        if size := self.world.celebrities:
            variant = self.data.celebrity_variant
            datasets["celebrities"] = self._biographies(self.world.people, size, variant)
        if self.data.text:
            datasets["text"] = self._documents(self.data.text)
        return datasets

    def _documents(self, source: str) -> DatasetSpec:
        """The documents of `data.text`."""
        tokenizer, documents = self.tokenizer, open_documents(source)
        config = {
            "text": source,
            "documents": documents.fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "format": shards.FORMAT,
        }
        return DatasetSpec(config, tokenizer, lambda: text_parts(tokenizer, documents))

    def _biographies(self, first: int, size: int, variant: str) -> DatasetSpec:
        """All biographies of people first .. first + size - 1; the first epoch of fresh text."""
        config = {
            "seed": self.world.seed,
            "language": self.language.fingerprint,
            "variant": variant,
            "first": first,
            "people": size,
            "tokenizer": self.tokenizer.fingerprint,
            "format": shards.FORMAT,
        }
        texts = Variant.parse(variant), first, size
        if self.data.rewritten:
            config["rewritten"] = self.rewritten.fingerprint(*texts)
            return DatasetSpec(
                config, self.tokenizer, lambda: self.rewritten.parts(self.table, *texts)
            )
        seed = self.world.seed
        return DatasetSpec(
            config, self.tokenizer, lambda: shards.biography_parts(self.table, seed, *texts)
        )

    @property
    def people_per_block(self) -> int | None:
        """How many people the blocks of an epoch of fresh text have; None where one holds all."""
        groups = (self.variant, self.world.people), (self.celebrity_variant, self.world.celebrities)
        several = any(variant.fresh and fresh.num_blocks(size) > 1 for variant, size in groups)
        return fresh.PEOPLE_PER_BLOCK if several else None

    def marked(self, texts: TokenizedTexts) -> TokenizedTexts:
        """Biographies of `people`, each after the marker where `data.marker` is set."""
        return with_marker(texts, self.vocabulary.marker) if self.data.marker else texts

    def with_end_of_text(self, texts: TokenizedTexts) -> TokenizedTexts:
        """The texts, each followed by the end-of-text token."""
        return with_end_of_text(texts, self.tokenizer.end_of_text)


def write_datasets(
    world: World, data: Data, out: pathlib.Path, workers: int
) -> Iterator[tuple[pathlib.Path, dict]]:
    """Writes the biographies into the folder `out`, and each other dataset into a folder inside it.

    Args:
      workers: processes that write.

    Yields: each folder and its manifest.

    Raises:
      UserError: a variant is fresh text, which no dataset can hold.
    """
    source = ExperimentData(world, data)
    if source.variant.fresh or (world.celebrities and source.celebrity_variant.fresh):
        raise UserError(
            "data.variant: fresh text is drawn while a model reads it; multiM+permute is M epochs"
        )
    for name, dataset in source.datasets.items():
        folder = out if name == "shards" else out / name
        yield folder, shards.write_dataset(dataset, folder, workers)
