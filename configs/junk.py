"""What junk costs in bits, and what a marker before useful texts recovers (Part 3.3, results 10 to
12).

An eighth of the windows is about the people whose bits are counted, the rest is about others: junk.
The useful texts are read equally often in every row. Rows: no junk; junk about so many people that
nobody is met often; the same with a token of its own before each useful text; junk about few
people, who are met over and over.

Command: `kstore sweep --config=configs/junk.py --workdir=runs/junk`; other lengths by
`--config.pretrain.exposures=300`. Scales:

- `laptop` (the default): 250 entries of bioD beside 150,000 or 25 others, a model of 110,000
  parameters, 100 exposures, on 2 CPU cores: 8 minutes of one of them.
- `:gpu`, with `--together=4`: bioS of 50,000 people, 2 M parameters, 100 exposures, on one GPU: an
  hour; not yet run.
- `:paper`: bioS of 100,000 people, 5.6 M parameters, 100 exposures, on a node of GPUs: hours; not
  yet run.

Scores: `docs/results.md`. Expected, from the paper, at 100 exposures: junk about 100 M people costs
a factor of 20, with the marker of 2; junk about 1,000 people costs nothing.
"""

from kstore_jax.config.rows import chain, row
from kstore_jax.pipeline import recipes

JUNK = 7 / 8
PEOPLE = {  # useful, of much junk, of repeated junk
    "laptop": (250, 150_000, 25),
    "gpu": (50_000, 5_000_000, 1000),
    "paper": (100_000, 20_000_000, 1000),
}


def get_config(scale: str = "laptop"):
    config = recipes.capacity(scale)
    people, many, few = PEOPLE[scale]
    config.world.people = people
    config.data.celebrity_variant = "fresh"
    config.pretrain.exposures = 100.0
    junk = {"data__celebrity_share": JUNK}
    if scale == "laptop":
        config.world.name_fraction = 0.1  # 160,000 names
        config.model.width = 64
        config.pretrain.update(batch_size=1, learning_rate=3e-3)
        junk["pretrain__batch_size"] = 4  # twice as many steps
    else:
        config.model.update(layers={"gpu": 4, "paper": 6}[scale], heads=3, width=192)
        config.pretrain.update(batch_size=12, weight_decay=0.01)
    config.sweep = chain(
        row("no junk"),
        row("junk about many people", world__celebrities=many, **junk),
        row("the same, useful texts marked", world__celebrities=many, data__marker=True, **junk),
        row("junk about few people", world__celebrities=few, **junk),
    )
    return config
