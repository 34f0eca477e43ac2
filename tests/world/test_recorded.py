"""The bundled world's people, texts and spans are the recorded ones, byte for byte."""

import hashlib

import numpy as np

from kstore_jax.corpus.encode import encode_biographies
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS
from kstore_jax.world.language import pieces_to_text
from kstore_jax.world.people import draw_people, in_train_half
from kstore_jax.world.questions import write_questions

PEOPLE = "c1887831572120831e388f1f9cc9dc910437756bc4eff5ec4bb0caadc45d06b0"
BIOGRAPHIES = "b487b608a711d7fdfb930ce8c01f1be80e812e5a1d9ebd9a7ac28c23d04b1e66"
QUESTIONS = "fa63bb04b0a5344b3b38e4bf44996068b0270c291de3f2aa11a36fe9c7e3b2cb"
IDS = np.arange(60)


def digest_of(*parts) -> str:
    """SHA-256 of texts and integer arrays."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, str) else np.asarray(part, np.int64).tobytes()
        digest.update(data.encode() if isinstance(data, str) else data)
    return digest.hexdigest()


def texts_of(language, written) -> list[str]:
    return [pieces_to_text(language, pieces) for pieces in written.texts.pieces]


def test_people(language):
    columns = []
    for seed in (0, 7):
        people = draw_people(language.pools, seed, np.arange(5000))
        columns += [people.names, people.pronouns, people.values]
        columns.append(in_train_half(seed, people.ids))
    assert digest_of(*columns) == PEOPLE


def test_biographies_with_tokens_and_spans(language, table, biographies):
    parts = []
    for variant in FIG3_VARIANTS + OTHER_VARIANTS:
        for seed in (0, 7):
            written = biographies(variant, IDS, seed)
            rows = encode_biographies(table, written)
            parts += [*texts_of(language, written), rows.tokens, rows.offsets]
            parts += [rows.value_spans, rows.name_spans]
    assert digest_of(*parts) == BIOGRAPHIES


def test_questions(language):
    people = draw_people(language.pools, 3, IDS)
    texts = [
        text
        for attribute in range(6)
        for wording in range(5)
        for text in texts_of(
            language, write_questions(language, people, np.full(len(IDS), attribute), wording)
        )
    ]
    assert digest_of(*texts) == QUESTIONS
