"""Three pairs of facts that always stay together (Part 3.1, Figs. 6 and 15).

Birth date and city, university and major, company and its city; the pairs come in any order. A
P-probe is read for each set of facts that was stated before: the second fact of a pair should
become readable where the first was stated.

Command: `kstore sweep --config=configs/couples.py --workdir=runs/couples`. `laptop` (the default):
500 people and a twentieth of the values, since of all values any fact of so few people tells the
others; on 2 CPU cores: half an hour. `gpu`: 10,000 people, 7e16 FLOP of pretraining a row, on one
GPU: 262 s at the speed measured on an H200. `paper`: 100,000 people, 2.9e18 FLOP a row, on a node
of GPUs: 2 h 23 min at the speed of one H200. The last two were not run yet; the first in
`docs/RESULTS.md`. Expected, from the paper: the accuracy of a pair's second fact jumps once the
first is stated; the figures in its diagrams are not in its text.
"""

from kstore_jax.config.rows import product
from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    if scale == "laptop":
        config.world.value_fraction = 0.05
        config.model.dropout = 0.1
    config.sweep = product(data__variant=["couple1", "couple2", "couple5"])
    return config
