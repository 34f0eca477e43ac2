"""How the truth is written: templates x augmentation -> pieces of text (Part 3.1, section 2.2).

A biography is never a string that is searched or cut. It is a row of pieces of the language
(`language.py`), so spans are known by construction and permuting sentences moves structure and not
text.
"""

import dataclasses
import re

import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.world import random
from kstore_jax.world.language import (
    NAME,
    PERSON,
    PRONOUN,
    Language,
    Texts,
    assemble_texts,
    take_columns,
)
from kstore_jax.world.people import ATTRIBUTES, People

FIG3_VARIANTS = (
    "single", "single+fullname", "single+permute1", "single+permute2", "single+permute5",
    "single+permute1+fullname", "single+permute2+fullname", "single+permute5+fullname",
    "multi2", "multi2+fullname", "multi2+permute", "multi2+permute+fullname",
    "multi5", "multi5+fullname", "multi5+permute", "multi5+permute+fullname",
)  # fmt: skip
"""The 16 datasets of Part 3.1, Fig. 3."""
OTHER_VARIANTS = (
    "couple1", "couple2", "couple5", "fresh", "fresh+fullname",
    "multi5+reverse1", "multi5+reverse2", "multi5+reverse6", "multi5+permute+reverse6",
)  # fmt: skip
"""Those of Part 3.1, section 5.1, of Part 3.3 and of Part 3.2."""
_VARIANT_SYNTAX = re.compile(
    r"single(\+permute(?P<copies>[1-9]\d*))?(?P<fullname>\+fullname)?"
    r"|multi(?P<entries>[1-9]\d*)(?P<permute>\+permute)?"
    r"(?:(?P<fullname_>\+fullname)|\+reverse(?P<reverse>[1-6]))?"
    r"|couple(?P<couples>[1-9]\d*)"
    r"|(?P<fresh>fresh)(?P<fullname__>\+fullname)?"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """How often and in which ways each person is written about.

    Attributes:
      entries: biographies a person and pass.
      reworded: templates are drawn anew for each entry (`multiM`) instead of once (`single`).
      order: of the sentences: `fixed`; `permuted`, drawn for each entry; or `couples`, three
        ordered pairs whose order is drawn for each entry (Part 3.1, section 5.1, Fig. 6).
      fullname: every sentence carries the full name; otherwise only one does.
      name_at: which sentence carries the name first; those before say "the person", and at 6 a
        seventh sentence states the name alone (`reverse`, Part 3.2).
      fresh: pass p of the training reads entry p, which no other pass reads: templates and order
        are drawn anew (Part 3.3). Any entry number exists; it is that of multiM+permute.
    """

    biographies_per_person: int = 1
    reworded: bool = False
    order: str = "fixed"
    fullname: bool = False
    name_at: int = 0
    fresh: bool = False

    @classmethod
    def parse(cls, text: str, field: str = "data.variant") -> "Variant":
        """Reads a variant as the papers write it; UserError names `field`."""
        match = _VARIANT_SYNTAX.fullmatch(text)
        if match is None:
            raise UserError(
                f"{field}: {text!r} is not a variant; expected single[+permuteP][+fullname], "
                "multiM[+permute][+fullname or +reverseK], coupleM or fresh[+fullname], "
                "M and P from 1, K from 1 to 6"
                f"{nearest(text, FIG3_VARIANTS + OTHER_VARIANTS)}"
            )
        found = match.groupdict()
        permuted = found["copies"] or found["permute"] or found["fresh"]
        return cls(
            biographies_per_person=int(
                found["entries"] or found["copies"] or found["couples"] or 1
            ),
            reworded=not text.startswith("single"),
            order="couples" if found["couples"] else "permuted" if permuted else "fixed",
            fullname=text.endswith("+fullname"),
            name_at=int(found["reverse"] or 0),
            fresh=found["fresh"] is not None,
        )

    @property
    def references(self) -> tuple[int, ...]:
        """How each of the six sentences refers to the person: PERSON, NAME or PRONOUN."""
        after = len(ATTRIBUTES) - 1 - self.name_at
        later = (NAME if self.fullname else PRONOUN,) * after
        return ((PERSON,) * self.name_at + (NAME,) + later)[: len(ATTRIBUTES)]


@dataclasses.dataclass(frozen=True)
class Biographies:
    """Some biographies: B rows.

    people (B,) person ids; entries (B,) which of the person's entries; templates (B, 6) the
    template that states each attribute; order (B, 6) the attribute stated by each sentence.
    """

    people: np.ndarray
    entries: np.ndarray
    templates: np.ndarray
    order: np.ndarray
    texts: Texts


def write_biographies(
    language: Language, seed: int, variant: Variant, who: People, entries: np.ndarray
) -> Biographies:
    """Entry number `entries[b]` (B,) of person `who[b]`, for each b."""
    ids = who.ids[:, None]
    entries = np.asarray(entries, np.int64)
    wording = entries[:, None] if variant.reworded else 0
    attributes = np.arange(len(ATTRIBUTES))
    high = random.bits(seed, "template", ids, wording, attributes) >> np.uint64(32)
    templates = ((high * language.template_counts.astype(np.uint64)) >> np.uint64(32)).astype(
        np.int64
    )
    order = _order(seed, variant, ids, entries[:, None])
    forms = language.sentence_forms(
        order, take_columns(templates, order), np.array(variant.references), who.pronouns[:, None]
    )
    closing = variant.name_at == len(ATTRIBUTES)
    texts = assemble_texts(language, who, forms, order, variant.references, closing)
    return Biographies(who.ids, entries, templates, order, texts)


def _order(seed: int, variant: Variant, ids: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """ids, entries (B, 1) -> (B, 6): the attribute stated by each sentence."""
    if variant.order == "fixed":
        return np.broadcast_to(np.arange(len(ATTRIBUTES)), (len(ids), len(ATTRIBUTES)))
    together = 2 if variant.order == "couples" else 1
    groups = np.arange(len(ATTRIBUTES) // together)
    keys = random.bits(seed, "order", ids, entries, groups)
    first = together * np.argsort(keys, axis=1)
    return (first[:, :, None] + np.arange(together)).reshape(len(ids), len(ATTRIBUTES))
