"""The bound of *Knowledge Capacity Scaling Laws* (Part 3.3, Theorem 3.2): the bits that a model
must have stored of a random world, by its losses on what was drawn.

A world draws names, values and pronouns uniformly and independently. Where one of 2^b choices costs
a model a mean of x nats, the model has stored at least b - x / ln 2 bits of each draw; the bound is
the sum over all draws. It holds on average over random worlds. For a table it takes the values of a
column as if they were drawn.

Shapes: S spans of a text whose losses are measured, T terms of the bound.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from kstore_jax.world.pools import Pools

NAME, PRONOUN, STRINGS = "name", "pronoun", "strings"
"""Spans and terms beside those of attributes, which cannot have the first two names."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """The terms of the bound: what a world draws for each person.

    Attributes:
      names: of the terms: `name`, the attributes that no other one determines, `pronoun`, and in
        bioD `strings`, the sets of strings that values consist of.
      choices: (T,) log2 of the number of equally likely choices.
      least: (T,) the loss in bits of a model that knows everything: for names, log2 of the number
        of people, since nothing says whose biography begins; otherwise 0.
      draws: (T,) how often it is drawn: for each person whose texts state it; a string once.
      of_spans: (S, T) the weight of the loss on a span in the loss of a term.
    """

    names: tuple[str, ...]
    choices: np.ndarray
    least: np.ndarray
    draws: np.ndarray
    of_spans: np.ndarray

    def bits(self, nats_S: Any) -> Any:
        """Returns the bits stored of each draw (T,), at least 0: a model that predicts worse than a
        uniform guess has stored nothing.

        Args:
          nats_S: the mean loss on each span, the sum over its tokens; of NumPy or of JAX.
        """
        return (self.choices - nats_S @ self.of_spans / math.log(2)).clip(0.0)

    def learned(self, nats_S: Any) -> Any:
        """Returns the bits stored of all draws together."""
        return (self.bits(nats_S) * self.draws).sum()

    @property
    def most(self) -> np.ndarray:
        """(T,) the bits of each draw that a model can store."""
        return self.choices - self.least


def span_names(pools: Pools) -> tuple[str, ...]:
    """The spans whose losses are measured: the name, each attribute; where there are several, the
    pronoun; and in bioD the first string of each attribute."""
    pronoun = [PRONOUN] * (len(pools.schema.pronouns) > 1)
    first = [f"{a.name}.first" for a in pools.schema.attributes if a.strings]
    return (NAME, *pools.schema.names, *pronoun, *first)


def bound_of(pools: Pools, people: int, stated_S: np.ndarray) -> Bound:
    """The bound of a world with so many people.

    An attribute that another one determines adds no choices, but its loss counts for the other one:
    where a text states it first, it says which values of the other one are left. In bioD each of
    the K D strings adds log2(T^L / D) bits, less the mean loss on the first string of values.

    Args:
      stated_S: the share of texts that state each of `span_names`; terms that no text states are
        left out.
    """
    spans = span_names(pools)
    term_of = {a.name: a.function_of or a.name for a in pools.schema.attributes}
    strings = {f"{a.name}.first": a.strings for a in pools.schema.attributes if a.strings}
    term_of |= dict.fromkeys(strings, STRINGS)
    stated = dict(zip(spans, stated_S.tolist(), strict=True))
    choices = {NAME: math.log2(pools.full_name_count)}
    choices |= {PRONOUN: math.log2(max(1, len(pools.schema.pronouns)))}
    choices |= {name: math.log2(len(values)) for name, values in pools.values.items()}
    names = [x for x in spans if stated[x] and term_of.get(x, x) == x]
    draws = [people * stated[name] for name in names]
    for source in [*strings.values()][:1]:  # all attributes have as many strings
        names.append(STRINGS)
        choices[STRINGS] = source.length * math.log2(source.symbols) - math.log2(source.count)
        draws.append(float(len(strings) * source.count))
    weights = [[float(term_of.get(x, x) == name) for name in names] for x in spans]
    of_spans = np.array(weights)
    if strings:
        of_spans[:, -1] /= len(strings)
    return Bound(
        names=tuple(names),
        choices=np.array([choices[name] for name in names]),
        least=np.array([math.log2(people) if name == NAME else 0.0 for name in names]),
        draws=np.array(draws),
        of_spans=of_spans,
    )
