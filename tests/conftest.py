"""Settings and materials of all tests."""

import os

# Read by JAX and matplotlib when they are imported, here and in the processes that tests start.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
from hypothesis import settings

from kstore_jax.corpus.encode import PieceTokens, piece_tokens
from kstore_jax.corpus.tokenizer import gpt2
from kstore_jax.world.biographies import Entries, Variant, write
from kstore_jax.world.language import Language, load_language
from kstore_jax.world.people import people

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def language() -> Language:
    """The bundled pools, templates and questions."""
    return load_language()


@pytest.fixture(scope="session")
def biographies(language):
    """`(variant, ids, seed) -> Entries`: every entry of each of these people, person by person."""

    def written(variant: str, ids: np.ndarray, seed: int = 0) -> Entries:
        parsed = Variant.parse(variant)
        ids, entries = np.repeat(ids, parsed.entries), np.tile(np.arange(parsed.entries), len(ids))
        return write(language, seed, parsed, people(language.pools, seed, ids), entries)

    return written


@pytest.fixture(scope="session")
def table(language) -> PieceTokens:
    """GPT-2's tokens of every piece of the bundled language."""
    return piece_tokens(language, gpt2())
