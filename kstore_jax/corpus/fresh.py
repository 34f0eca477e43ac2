"""Fresh text: new biographies in every epoch, drawn while a model reads them (Part 3.3, section 2).

An epoch of 20 million people has 1.4 billion tokens. So it comes in blocks, and a block depends on
its number alone.
"""

import numpy as np

from kstore_jax.corpus.encode import TokenizedTexts, TokenTable, concatenate, encode_biographies
from kstore_jax.world import random
from kstore_jax.world.biographies import Variant, write_biographies
from kstore_jax.world.people import draw_people

PEOPLE_PER_BLOCK = 1 << 18
_PEOPLE_AT_A_TIME = 8192


def num_blocks(size: int) -> int:
    """The number of blocks in which an epoch of fresh text about `size` people is written."""
    return -(-size // PEOPLE_PER_BLOCK)


def fresh_block(
    table: TokenTable, seed: int, variant: Variant, first: int, size: int, number: int
) -> TokenizedTexts:
    """Returns a block of fresh text: a new biography of each of at most `PEOPLE_PER_BLOCK` people.

    An epoch has a biography of each of the people first .. first + size - 1. Where they are more
    than a block holds, every epoch distributes them over its blocks in another way.

    Args:
      number: of the block; epoch e has the blocks e * num_blocks(size) and following.
    """
    blocks = num_blocks(size)
    epoch, block = divmod(number, blocks)
    start = block * PEOPLE_PER_BLOCK
    people = np.arange(start, min(size, start + PEOPLE_PER_BLOCK))
    if blocks > 1:
        people = random.permute_index(size, seed, f"block {epoch}", people)
    parts = []
    for start in range(0, len(people), _PEOPLE_AT_A_TIME):
        ids = first + people[start : start + _PEOPLE_AT_A_TIME]
        drawn = draw_people(table.language.pools, seed, ids)
        entries = np.full(len(drawn), epoch)
        written = write_biographies(table.language, seed, variant, drawn, entries)
        parts.append(encode_biographies(table, written))
    return concatenate(parts)
