"""Biographies: people, templates and augmentation -> rows of pieces (Part 3.1, section 2.2).

A biography is a row of pieces of the language (`language.py`), not a string. So spans are known by
construction, and a permutation of its sentences moves pieces.
"""

import dataclasses
import re

import numpy as np

from kstore_jax.errors import UserError, nearest, shown
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
from kstore_jax.world.people import People
from kstore_jax.world.schema import FILE, Schema

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
    r"single(\+permute(?P<copies>[1-9]\d{0,8}))?(?P<fullname>\+fullname)?"
    r"|multi(?P<entries>[1-9]\d{0,8})(?P<permute>\+permute)?"
    r"(?:(?P<fullname_>\+fullname)|\+reverse(?P<reverse>[1-9]\d{0,8}))?"
    r"|couple(?P<couples>[1-9]\d{0,8})"
    r"|(?P<fresh>fresh)(?P<fullname__>\+fullname)?"
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the biographies of a person are written.

    Attributes:
      biographies_per_person: biographies per person and epoch.
      reworded: templates are drawn for each biography (`multiM`) instead of once (`single`).
      order: order of the sentences: `fixed`; `permuted`, drawn for each biography; or `couples`,
        ordered pairs whose order is drawn for each biography (Part 3.1, section 5.1, Fig. 6).
      fullname: every sentence carries the full name; otherwise one sentence does.
      name_at: the first sentence that carries the name; sentences before it say "the person".
        The number of attributes: one more sentence states the name (`reverse`, Part 3.2).
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
                f"{field}: {shown(text)} is not a variant; expected single[+permuteP][+fullname], "
                "multiM[+permute][+fullname or +reverseK], coupleM or fresh[+fullname], "
                "M, P and K from 1"
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

    def check(self, schema: Schema, field: str = "data.variant") -> None:
        """Raises UserError where a world has no such biographies; names `field`."""
        if self.order == "couples" and not schema.pairs:
            raise UserError(
                f"{field}: couples need pairs of attributes; {schema.folder / FILE} has no pairs"
            )
        if self.name_at > (count := len(schema.attributes)):
            raise UserError(
                f"{field}: expected reverse1 to reverse{count} where people have {count} "
                f"attribute{'s' * (count > 1)}, got reverse{self.name_at}"
            )

    def references(self, schema: Schema) -> tuple[int, ...]:
        """(A,) how each sentence refers to the person: PERSON, NAME or PRONOUN."""
        count = len(schema.attributes)
        before = (PERSON,) * self.name_at
        by_name = self.fullname or not schema.pronouns
        return (*before, NAME, *((NAME if by_name else PRONOUN,) * count))[:count]


@dataclasses.dataclass(frozen=True)
class Biographies:
    """B biographies.

    Attributes:
      people: (B,) person ids.
      entries: (B,) the number of each biography among those of its person.
      templates: (B, A) the template that states each attribute.
      order: (B, A) the attribute that each sentence states.
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
    schema = language.schema
    variant.check(schema)
    ids = people.ids[:, None]
    entries = np.asarray(entries, np.int64)
    wording = entries[:, None] if variant.reworded else 0
    attributes = np.arange(len(schema.attributes))
    counts = language.template_counts
    templates = random.randint(counts, seed, "template", ids, wording, attributes)
    order = _sentence_order(schema, seed, variant, ids, entries[:, None])
    references = variant.references(schema)
    forms = language.sentence_forms(
        order, take_columns(templates, order), np.array(references), people.pronouns[:, None]
    )
    closing = variant.name_at == len(attributes)
    texts = assemble_texts(language, people, forms, order, references, closing)
    return Biographies(people.ids, entries, templates, order, texts)


def _sentence_order(
    schema: Schema, seed: int, variant: Variant, ids: np.ndarray, entries: np.ndarray
) -> np.ndarray:
    """ids, entries (B, 1) -> (B, A): the attribute that each sentence states."""
    singles = tuple((a,) for a in range(len(schema.attributes)))
    groups = schema.groups if variant.order == "couples" else singles
    attributes = np.concatenate(groups)
    if variant.order == "fixed":
        return np.broadcast_to(attributes, (len(ids), len(attributes)))
    keys = random.bits(seed, "order", ids, entries, np.arange(len(groups)))
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return attributes[np.argsort(keys[:, group_of], axis=1, kind="stable")]
