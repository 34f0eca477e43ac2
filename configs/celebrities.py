"""Celebrities help the people nobody writes about twice (Part 3.1, section 6, Figs. 4, 8, 17-19).

The people have one fixed biography each. In the second row celebrities, of whom there are five
shuffled wordings, are read about beside them; questions about celebrities alone are finetuned, and
the people are asked about.

Command: `kstore sweep --config=configs/celebrities.py --workdir=runs/celebrities`. Hardware: 2 CPU
cores, half an hour, for 500 people and 500 celebrities; another data set by
`--config.data.variant=single`. `:gpu` has 10,000 people and as many celebrities, 7e16 FLOP a row,
for one GPU: 262 s at the speed measured on an H200; `:paper` 100,000 of both, 2.9e18 FLOP a row,
for a node of GPUs: 2 h 23 min at the speed of one H200. Neither was run yet. Scores:
`docs/RESULTS.md`. Expected, from the paper: with celebrities single+permute1 goes from 4.4 to
86.8 %, single from 9.7 to 63.2 %, single+permute1+fullname from 31.7 to 52.7 %. Biographies that
another model wrote, and real text in place of celebrities: `rewritten.py`.
"""

from kstore_jax.config.rows import product, zipped
from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    if scale == "laptop":
        config.world.value_fraction = 0.05
        config.model.dropout = 0.1
        config.data.variant = "single+permute1"
        config.sweep = zipped(
            world__celebrities=[0, 500],
            data__celebrity_share=[0.0, 0.7],
            pretrain__steps=[12_000, 36_000],
        )
        return config
    config.sweep = product(
        world__celebrities=[0, config.world.people],
        data__variant=["single+permute1", "single", "single+permute1+fullname"],
    )
    return config
