"""A person as a text to read: who, the biographies, the questions."""

import numpy as np

from kstore_jax.config import Experiment
from kstore_jax.errors import UserError
from kstore_jax.world.biographies import Variant, write
from kstore_jax.world.language import load_language, text
from kstore_jax.world.people import ATTRIBUTES, check_size, in_train_half, people
from kstore_jax.world.questions import ask


def person_text(experiment: Experiment, person: int) -> str:
    """Everything that is written about one person of an experiment's world."""
    world = experiment.world
    if person >= world.people:
        raise UserError(f"person: expected less than world.people = {world.people}, got {person}")
    variant = Variant.parse(experiment.data.variant)
    language = load_language(world.pools, world.templates)
    check_size(language.pools, world.people)
    entries = np.arange(variant.entries)
    who = people(language.pools, world.seed, np.full(len(entries), person))
    written = write(language, world.seed, variant, who, entries)
    asked = ask(
        language,
        people(language.pools, world.seed, np.full(len(ATTRIBUTES), person)),
        np.arange(len(ATTRIBUTES)),
    )
    half = "P_train" if in_train_half(world.seed, who.ids)[0] else "P_test"
    lines = [f"person {person} ({half}), {experiment.data.variant}"]
    lines += [f"\nentry {m}:{text(language, pieces)}" for m, pieces in enumerate(written.pieces)]
    lines += ["", *(text(language, pieces) for pieces in asked.pieces)]
    return "\n".join(lines)
