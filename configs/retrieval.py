"""Partial and dual retrieval: a part of a fact, or two facts (Part 3.2, section 3, Figs. 3 and 10).

A model that answers whole facts is finetuned on eight questions together, about half of the people:
the day and the year of the birth date alone, and two facts in both orders.

Command: `kstore sweep --config=configs/retrieval.py --workdir=runs/retrieval`; other questions by
`--config.tasks.retrieval.pairs=university+major`. Scales:

- `laptop` (the default): 500 people, two datasets, on 2 CPU cores: 6 to 10 minutes of pretraining a
  row, and two for the rest.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining per row, on one GPU: 245 s at the speed measured
  on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`.

`gpu` and `paper` have the 16 datasets. Expected, from the paper: two facts are answered in both
orders on multi5+permute. On multi5+fullname, where the company is always stated before its city,
`company_then_company_city` is, and `company_city_then_company` is not. The year alone is answered
far less than the whole date, on every dataset; the day alone at 82.3 % on multi5+permute.
"""

from kstore_jax.config.rows import product
from kstore_jax.pipeline import recipes
from kstore_jax.world.biographies import FIG3_VARIANTS


def get_config(scale: str = "laptop"):
    config = recipes.manipulation(scale, "retrieval")
    variants = FIG3_VARIANTS if scale != "laptop" else ("multi5+fullname", "multi5+permute")
    config.sweep = product(data__variant=variants)
    return config
