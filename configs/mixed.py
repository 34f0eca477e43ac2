"""Questions mixed into pretraining on one fixed biography per person (Part 3.1, Figs. 1 and 10).

Half of the windows are questions about half of the people. The pretrained model is tested on the
other half without finetuning. On a laptop there are rows for more and more people, with equal
exposures, and one row with the same people as the last one, pretrained without questions and
finetuned afterwards.

Command: `kstore sweep --config=configs/mixed.py --workdir=runs/mixed`. Scales:

- `laptop` (the default): a fifth of the values, which keeps the majority guess low (4 %), on 2 CPU
  cores; an hour of one of them. A weight decay of 1 helps mixed training as dropout does, but
  hardly finetuning afterwards.
- `:together`, with `--together=4`: 3,000 and 6,000 people with dropout, on one GPU: 132 s of
  pretraining on an H200.
- `:gpu`: 10,000 people, 6.5e16 FLOP per row, a share of 0.8, on one GPU: 245 s at the speed
  measured on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, a share of 0.8, on a node of GPUs: 2 h 13 min at
  the speed of one H200; not yet run.

Scores: `docs/results.md`. Expected, from the paper: 86.6 % mixed, 9.7 % finetuned afterwards. Other
shares: `qa_ratio.py`.
"""

from typing import Any

from kstore_jax.config.rows import Rows, chain, product, row
from kstore_jax.pipeline import recipes

MIXED = 0.5


def get_config(scale: str = "laptop"):
    config = recipes.at(scale, together=recipes.together)
    config.data.variant = "single"
    if scale == "laptop":
        config.world.value_fraction = 0.2
        config.model.layers = 2
        config.pretrain.update(weight_decay=1.0, evaluate_every=1000, steps=7500)  # 113 exposures
        config.finetune.update(steps=2400, checkpoint_every=400)
        mixed = {"data__qa_share": MIXED, "pretrain__steps": 15_000, "finetune__steps": 0}
        rows = [_row(people, "questions mixed in", **mixed) for people in (500, 1000, 2000)]
        config.sweep = chain(*rows, _row(2000, "finetuned afterwards"))
    elif scale == "together":
        config.world.update(value_fraction=0.2, name_fraction=1.0)
        config.model.width = 256
        config.pretrain.update(steps=22_000, batch_size=24, learning_rate=2e-3, warmup_steps=960)
        config.pretrain.checkpoint_every = 2000
        config.finetune.steps = 1000
        config.sweep = product(_mixed_and_finetuned(MIXED), world__people=[3000, 6000])
    else:
        config.pretrain.evaluate_every = {"gpu": 200, "paper": 2000}[scale]
        exposures = round(0.2 * config.pretrain.exposures, 2)  # with the steps of the other row
        config.sweep = _mixed_and_finetuned(0.8, pretrain__exposures=exposures)
    return config


def _mixed_and_finetuned(share: float, **mixed: Any) -> Rows:
    mixed |= {"finetune__steps": 0, "finetune__grid": ()}
    return chain(
        row("questions mixed in", data__qa_share=share, **mixed),
        row("finetuned afterwards"),
    )


def _row(people: int, training: str, **fields: Any) -> Rows:
    fields["pretrain__batch_size"] = people // 125  # equal exposures per step in every row
    return row(f"{people:,} people, {training}", world__people=people, **fields)
