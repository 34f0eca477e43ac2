"""Celebrities help the people nobody writes about twice (Part 3.1, section 6, Fig. 4).

The people have one fixed biography each. In the second row as many celebrities, of whom there are
five shuffled wordings, are read about beside them; questions about celebrities alone are finetuned,
and the people are asked about.

Command: `kstore sweep --config=configs/celebrities.py --workdir=runs/celebrities`. Hardware: 2 CPU
cores. `docs/RESULTS.md` has times and scores. `:paper` has the paper's size and people (not run
yet; expected from the paper: 9.7 % without celebrities; with them, single+permute1 goes from 4.4 to
86.8 %).
"""

from kstore_jax import config as c
from kstore_jax import recipes


def get_config(scale: str = "laptop"):
    if scale == "laptop":
        config = recipes.laptop()
        config.pretrain.steps = 18_000
        celebrities, share = 500, 0.65
    elif scale == "paper":
        config = c.default()
        config.data.vocabulary = "compact"
        config.pretrain.dispatch = config.finetune.dispatch = 10
        celebrities, share = 100_000, 0.0
    else:
        raise ValueError(f"scale {scale!r}; expected laptop or paper")
    config.data.variant = "single"
    config.sweep = (
        (("world.celebrities", 0),),
        (("world.celebrities", celebrities), ("data.celebrity_share", share)),
    )
    return config
