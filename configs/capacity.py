"""How many bits a model knows: capacity against parameters (Part 3.3, Fig. 1).

GPTs of several sizes read worlds of several numbers of people, in new wordings at every exposure.
Nothing is finetuned. The page has bits stored against parameters, with lines of 1 and 2 bits a
parameter, what there is to know of each world (dashed), and the paper's points beside. The first
lines of a run print that maximum before anything is trained.

Command: `kstore sweep --config=configs/capacity.py --workdir=runs/capacity`; 100 exposures by
`--config.pretrain.exposures=100`; other MLPs by `--config.model.mlp_width=-1` (none) and
`--config.model.style=llama`. Scales:

- `laptop` (the default): 500 to 2,000 entries of bioD, 4 attributes of two random symbols, models
  of 8,000 to 62,000 parameters, 1,000 exposures, on 2 CPU cores: the time is in `docs/results.md`.
- `:gpu`, with `--together=4`: bioS of 10,000 to 50,000 people, 0.3 to 2.9 M parameters, 1,000
  exposures, on one GPU: 131 s a model of 10,000 people at the speed measured on an H200; not yet
  run.
- `:paper`: bioS of 50,000 to 1 M people, 1 to 88 M parameters, 1,000 exposures, on a node of GPUs:
  hours a row; not yet run.

Expected, from the paper: 2 bits a parameter after 1,000 exposures wherever there is as much to
know, never above 2.3; all there is to know where that is below 1.8; 1 bit after 100 exposures.
"""

from kstore_jax.config.rows import chain, product
from kstore_jax.pipeline import recipes

WIDTHS = (16, 24, 32, 48)
SIZES = {"gpu": ((2, 64), (2, 128), (4, 128), (4, 192)), "paper": ((2, 128), (6, 256), (12, 768))}
"""Layers and width, with 64 a head."""
PEOPLE = {
    "laptop": (500, 1000, 2000),
    "gpu": (10_000, 20_000, 50_000),
    "paper": (50_000, 100_000, 200_000, 500_000, 1_000_000),
}
PROTOCOL = {  # people: weight decay, learning rate, windows a step; Part 3.3, 1000 exposures
    10_000: (0.02, 1e-3, 24),
    20_000: (0.02, 1e-3, 48),
    50_000: (0.02, 1e-3, 96),
    100_000: (0.02, 1e-3, 192),
    200_000: (0.02, 1e-3, 192),
    500_000: (0.01, 5e-4, 192),
    1_000_000: (0.01, 5e-4, 192),
}


def get_config(scale: str = "laptop"):
    config = recipes.capacity(scale)
    if scale == "laptop":
        config.sweep = product(world__people=PEOPLE[scale], model__width=WIDTHS)
        return config
    config.sweep = chain(*(_of_people(people, SIZES[scale]) for people in PEOPLE[scale]))
    return config


def _of_people(people, sizes):
    decay, rate, batch = PROTOCOL[people]
    rows = (
        product(
            world__people=[people],
            model__layers=[layers],
            model__width=[width],
            model__heads=[width // 64],
            pretrain__weight_decay=[decay],
            pretrain__learning_rate=[rate],
            pretrain__batch_size=[batch],
        )
        for layers, width in sizes
    )
    return chain(*rows)
