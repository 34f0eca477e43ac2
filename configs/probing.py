"""The paper's own probes beside a laptop's, on the same pretrained models (Part 3.1, section 5).

The paper's probes train a linear head of a class for each value, update the embedding of all
tokens, and keep the dropout on, for first tokens and whole values. Those of `recipes.laptop` read
first tokens through the model's own output rows, since a few hundred people cannot train such a
head. Both are trained here on single and on multi5+permute, so that any difference is the probe's.
Each person is read as often as in the paper, or in the recipe. The page says which probes were
still improving.

Command: `kstore sweep --config=configs/probing.py --workdir=runs/probing`. Scales:

- `laptop` (the default): 1,000 people and a tenth of the values, on 2 CPU cores, two hours. The
  paper's probes have 1,000 steps of fewer texts.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining per model, on one GPU: 245 s at the speed
  measured on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per model, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`. On a laptop the paper's probes learn the few people they are trained on
by their names.

Expected, from the paper: the first token of every fact is readable from the name for
multi5+permute (99.8 to 100 %; whole values 72.6 to 99.7 %), and for single only the month (63.4 %).
"""

from typing import Any

from kstore_jax.config.rows import chain, product, row
from kstore_jax.pipeline import recipes

_STEPS = 1000  # of the paper's probes on a laptop
_FIELDS = (
    *("steps", "batch_size", "learning_rate", "weight_decay", "steps_per_call", "checkpoint_every"),
    *("head", "embedding_update", "embedding_rank", "dropout"),
)


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    if scale == "laptop":
        config.world.update(people=1000, value_fraction=0.1)
        recipes.pretrain_quickly(config, steps=6000)
        config.pretrain.batch_size = 8
    probes = {"the laptop's probes": recipes.laptop(), "the paper's probes": recipes.paper()}
    for name, recipe in probes.items():
        for probe in (recipe.readouts.p_probe, recipe.readouts.q_probe):
            texts_read = probe.steps * probe.batch_size * config.world.people / recipe.world.people
            if scale == "laptop" and name == "the paper's probes":
                probe.batch_size = round(texts_read / _STEPS)
            probe.steps = round(texts_read / probe.batch_size)
            probe.checkpoint_every = probe.steps // 4
    rows = chain(*(row(name, **_fields(recipe)) for name, recipe in probes.items()))
    config.sweep = product(rows, data__variant=["single", "multi5+permute"])
    return config


def _fields(recipe: Any) -> dict[str, Any]:
    """The fields of both probes of a recipe, for a row."""
    p_probe, q_probe = recipe.readouts.p_probe, recipe.readouts.q_probe
    fields = {f"readouts__p_probe__{name}": p_probe[name] for name in _FIELDS}
    fields |= {f"readouts__q_probe__{name}": q_probe[name] for name in _FIELDS}
    return fields | {"readouts__p_probe__biographies_per_person": p_probe.biographies_per_person}
