"""Biographies: people, templates and augmentation -> rows of pieces (Part 3.1, section 2.2).

A biography is a row of pieces of the language (`language.py`), not a string. So spans are known by
construction, and a permutation of its sentences moves pieces.
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
"""Variants of Part 3.1, section 5.1 (couple), Part 3.3 (fresh) and Part 3.2 (reverse)."""
_VARIANT_SYNTAX = re.compile(
    r"single(\+permute(?P<copies>[1-9]\d*))?(?P<fullname>\+fullname)?"
    r"|multi(?P<entries>[1-9]\d*)(?P<permute>\+permute)?"
    r"(?:(?P<fullname_>\+fullname)|\+reverse(?P<reverse>[1-6]))?"
    r"|couple(?P<couples>[1-9]\d*)"
    r"|(?P<fresh>fresh)(?P<fullname__>\+fullname)?"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the biographies of a person are written.

    Attributes:
      biographies_per_person: biographies per person and epoch.
      reworded: templates are drawn for each biography (`multiM`) instead of once (`single`).
      order: order of the sentences: `fixed`; `permuted`, drawn for each biography; or `couples`,
        three ordered pairs whose order is drawn for each biography (Part 3.1, section 5.1, Fig. 6).
      fullname: every sentence carries the full name; otherwise one sentence does.
      name_at: the first sentence that carries the name; sentences before it say "the person"; 6: a
        seventh sentence states the name (`reverse`, Part 3.2).
      fresh: epoch e reads biography e of each person, with templates and order of its own (Part
        3.3). It is biography e of multiM+permute; there is one for every e.
    """

    biographies_per_person: int = 1
    reworded: bool = False
    order: str = "fixed"
    fullname: bool = False
    name_at: int = 0
    fresh: bool = False

    @classmethod
    def parse(cls, text: str, field: str = "data.variant") -> "Variant":
        """Parses the name of a variant, as the papers write it.

        Raises:
          UserError: there is no such variant; names `field`.
        """
        match = _VARIANT_SYNTAX.fullmatch(text)
        if match is None:
            raise UserError(
                f"{field}: {text!r} is not a variant; expected single[+permuteP][+fullname], "
                "multiM[+permute][+fullname or +reverseK], coupleM or fresh[+fullname], "
                "M and P from 1, K from 1 to 6"
                f"{nearest(text, FIG3_VARIANTS + OTHER_VARIANTS)}"
            )
        parts = match.groupdict()
        permuted = parts["copies"] or parts["permute"] or parts["fresh"]
        count = parts["entries"] or parts["copies"] or parts["couples"] or 1
        return cls(
            biographies_per_person=int(count),
            reworded=not text.startswith("single"),
            order="couples" if parts["couples"] else "permuted" if permuted else "fixed",
            fullname=text.endswith("+fullname"),
            name_at=int(parts["reverse"] or 0),
            fresh=parts["fresh"] is not None,
        )

    @property
    def references(self) -> tuple[int, ...]:
        """(6,) how each sentence refers to the person: PERSON, NAME or PRONOUN."""
        before = (PERSON,) * self.name_at
        after = (NAME if self.fullname else PRONOUN,) * (len(ATTRIBUTES) - 1 - self.name_at)
        return (*before, NAME, *after)[: len(ATTRIBUTES)]


@dataclasses.dataclass(frozen=True)
class Biographies:
    """B biographies.

    Attributes:
      people: (B,) person ids.
      entries: (B,) the number of each biography among those of its person.
      templates: (B, 6) the template that states each attribute.
      order: (B, 6) the attribute that each sentence states.
      texts: the texts.
    """

    people: np.ndarray
    entries: np.ndarray
    templates: np.ndarray
    order: np.ndarray
    texts: Texts


def write_biographies(
    language: Language, seed: int, variant: Variant, people: People, entries: np.ndarray
) -> Biographies:
    """Returns biography number `entries[b]` (B,) of person b of `people`, for each b."""
    ids = people.ids[:, None]
    entries = np.asarray(entries, np.int64)
    wording = entries[:, None] if variant.reworded else 0
    attributes = np.arange(len(ATTRIBUTES))
    counts = language.template_counts
    templates = random.randint(counts, seed, "template", ids, wording, attributes)
    order = _sentence_order(seed, variant, ids, entries[:, None])
    forms = language.sentence_forms(
        order,
        take_columns(templates, order),
        np.array(variant.references),
        people.pronouns[:, None],
    )
    closing = variant.name_at == len(ATTRIBUTES)
    texts = assemble_texts(language, people, forms, order, variant.references, closing)
    return Biographies(people.ids, entries, templates, order, texts)


def _sentence_order(
    seed: int, variant: Variant, ids: np.ndarray, entries: np.ndarray
) -> np.ndarray:
    """ids, entries (B, 1) -> (B, 6): the attribute that each sentence states."""
    if variant.order == "fixed":
        return np.broadcast_to(np.arange(len(ATTRIBUTES)), (len(ids), len(ATTRIBUTES)))
    sentences_per_group = 2 if variant.order == "couples" else 1
    groups = np.arange(len(ATTRIBUTES) // sentences_per_group)
    keys = random.bits(seed, "order", ids, entries, groups)
    first = sentences_per_group * np.argsort(keys, axis=1)
    return (first[:, :, None] + np.arange(sentences_per_group)).reshape(len(ids), len(ATTRIBUTES))
