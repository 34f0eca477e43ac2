"""Questions mixed into pretraining on one fixed biography a person (Part 3.1, Figs. 1 and 10).

Half of the windows are questions about half of the people; the model is asked about the other half
as it is, without finetuning. On a laptop there are rows of more and more people, each read about as
often, and beside the last one the same people pretrained without questions and finetuned
afterwards.

Command: `kstore sweep --config=configs/mixed.py --workdir=runs/mixed`. Hardware: 2 CPU cores; an
hour of one of them. A fifth of the values keeps the guess low (4 %). A weight decay of 1 helps the
questions mixed in as dropout does, but hardly what finetuning finds afterwards. `:together`, with
`--together=4`, has 3,000 and 6,000 people and dropout, for one GPU: 132 s of pretraining on an
H200. `:gpu` has 10,000 people, 7e16 FLOP a row, for one GPU: 262 s at the speed measured on an
H200; `:paper` 100,000, 2.9e18 FLOP a row, for a node of GPUs: 2 h 23 min at the speed of one H200;
both a share of 0.8, and not run yet. `docs/RESULTS.md` has the scores of the others. Expected, from
the paper: 86.6 % mixed, 9.7 % finetuned afterwards. Other shares: `qa_ratio.py`.
"""

from kstore_jax.config.rows import chain, product, row
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
        config.sweep = product(_mixed_and_alone(MIXED), world__people=[3000, 6000])
    else:
        config.pretrain.evaluate_every = config.pretrain.steps // 40
        config.sweep = _mixed_and_alone(0.8)
    return config


def _mixed_and_alone(share: float):
    asked_as_it_is = {"finetune__steps": 0, "finetune__grid": ()}
    return chain(
        row("questions mixed in", data__qa_share=share, **asked_as_it_is),
        row("finetuned afterwards"),
    )


def _row(people: int, what: str, **fields):
    fields["pretrain__batch_size"] = people // 125  # everyone is read as often per step
    return row(f"{people:,} people, {what}", world__people=people, **fields)
