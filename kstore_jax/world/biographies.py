"""How the truth is written: templates x augmentation -> pieces of text (Part 3.1, section 2.2).

A biography is never a string that is searched or cut. It is a row of pieces of the language
(`language.py`), so spans are known by construction and permuting sentences moves structure and not
text.
"""

import dataclasses
import re

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world import draw
from kstore_jax.world.language import FIRST, VALUE, Language, fill
from kstore_jax.world.people import ATTRIBUTES, People

VARIANT_EXAMPLES = (
    "single", "single+fullname", "single+permute1", "single+permute2", "single+permute5",
    "single+permute1+fullname", "single+permute2+fullname", "single+permute5+fullname",
    "multi2", "multi2+fullname", "multi2+permute", "multi2+permute+fullname",
    "multi5", "multi5+fullname", "multi5+permute", "multi5+permute+fullname",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Variant:
    """How often and in which ways each person is written about (Part 3.1, section 2.2 and Fig. 3).

    Attributes:
      entries: biographies a person.
      reworded: templates are drawn anew for each entry (`multiM`) instead of once (`single`).
      permuted: the order of the sentences is drawn for each entry.
      fullname: every sentence carries the full name; otherwise only the first one does.
    """

    entries: int
    reworded: bool
    permuted: bool
    fullname: bool

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Reads `single[+permuteP][+fullname]` or `multiM[+permute][+fullname]`."""
        match = re.fullmatch(
            r"(?:single(?:\+permute(?P<copies>[1-9]\d*))?|multi(?P<entries>[1-9]\d*)"
            r"(?P<permute>\+permute)?)(?P<fullname>\+fullname)?",
            text,
        )
        if match is None:
            raise UserError(
                f"data.variant: {text!r} is not a variant; expected single[+permuteP][+fullname] "
                f"or multiM[+permute][+fullname]{nearest(text, VARIANT_EXAMPLES)}"
            )
        copies, entries = match["copies"], match["entries"]
        return cls(
            entries=int(entries or copies or 1),
            reworded=entries is not None,
            permuted=bool(copies or match["permute"]),
            fullname=match["fullname"] is not None,
        )


@dataclasses.dataclass(frozen=True)
class Entries:
    """Some biographies, as columns of B rows.

    people (B,) person ids; entries (B,) which of the person's entries; order (B, 6) the attribute
    stated by each sentence; pieces (B, 6, SLOTS) the pieces of each sentence, 0 where a slot is
    empty; value_slots (B, 6) and name_slots (B, 6) the slot where the value, and the first of the
    three pieces of the full name, stand in each sentence (-1: the sentence has no full name).
    """

    people: np.ndarray
    entries: np.ndarray
    order: np.ndarray
    pieces: np.ndarray
    value_slots: np.ndarray
    name_slots: np.ndarray


def write(
    language: Language, seed: int, variant: Variant, who: People, entries: np.ndarray
) -> Entries:
    """Entry number `entries[b]` (B,) of person `who[b]`, for each b."""
    ids = who.ids[:, None]
    entries = np.asarray(entries, np.int64)
    wording = entries[:, None] if variant.reworded else 0
    attributes = np.arange(len(ATTRIBUTES))
    high = draw.bits(seed, "template", ids, wording, attributes) >> np.uint64(32)
    template = ((high * language.templates.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
    if variant.permuted:
        keys = draw.bits(seed, "order", ids, entries[:, None], attributes)
        order = np.argsort(keys, axis=1)
    else:
        order = np.broadcast_to(attributes, (len(who), len(ATTRIBUTES)))
    named = np.full(order.shape, variant.fullname)
    named[:, 0] = True
    codes = language.forms[
        order, np.take_along_axis(template, order, 1), named.astype(int), who.pronouns[:, None]
    ]
    return Entries(
        people=who.ids,
        entries=entries,
        order=order,
        pieces=fill(language, codes, who, order),
        value_slots=np.argmax(codes == VALUE, axis=2),
        name_slots=np.where(named, np.argmax(codes == FIRST, axis=2), -1),
    )
