"""Three pairs of facts that stay together (Part 3.1, Figs. 6 and 15).

The pairs are birth date and birth city, university and major, company and its city; their order is
random. The P-probe is evaluated for each set of facts that came before: the second fact of a pair
should become readable after the first.

Command: `kstore sweep --config=configs/couples.py --workdir=runs/couples`. Scales:

- `laptop` (the default): 500 people and a twentieth of the values, on 2 CPU cores: half an hour.
  Among all values, any fact would identify one of so few people.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining per row, on one GPU: 245 s at the speed measured
  on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`. Expected, from the paper: the accuracy of the second fact of a pair jumps
after the first. The paper shows the figures only in its diagrams.
"""

from kstore_jax.config.rows import product
from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.few_values(scale)
    config.sweep = product(data__variant=["couple1", "couple2", "couple5"])
    return config
