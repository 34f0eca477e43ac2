"""Celebrities improve answers about people with one biography (Part 3.1, section 6, Figs. 4, 8 and
17 to 19).

The people have one fixed biography each. The second row adds celebrities with five shuffled
wordings each. The model is finetuned on questions about celebrities alone and tested on questions
about the people. With celebrities, `gpu` and `paper` have the paper's steps (80,000), since the
paper states no exposures there.

Command: `kstore sweep --config=configs/celebrities.py --workdir=runs/celebrities`; another data set
by `--config.data.variant=single`. Scales:

- `laptop` (the default): 500 people and 500 celebrities, on 2 CPU cores: half an hour.
- `:gpu`: 10,000 of each, 7e16 FLOP per row, on one GPU: 262 s at the speed measured on an H200; not
  yet run.
- `:paper`: 100,000 of each, 2.9e18 FLOP per row, on a node of GPUs: 2 h 23 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`. Expected, from the paper: celebrities raise single+permute1 from 4.4 to
86.8 %, single from 9.7 to 63.2 %, single+permute1+fullname from 31.7 to 52.7 %. `rewritten.py` has
biographies by another model, and real text in place of celebrities.
"""

from kstore_jax.config.rows import chain, product, zipped
from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.few_values(scale)
    if scale == "laptop":
        config.data.variant = "single+permute1"
        config.sweep = zipped(
            world__celebrities=[0, 500],
            data__celebrity_share=[0.0, 0.7],
            pretrain__steps=[12_000, 36_000],
        )
        return config
    with_celebrities = zipped(
        world__celebrities=[config.world.people],
        pretrain__steps=[{"gpu": 8000, "paper": 80_000}[scale]],
    )
    config.sweep = product(
        chain(product(world__celebrities=[0]), with_celebrities),
        data__variant=["single+permute1", "single", "single+permute1+fullname"],
    )
    return config
