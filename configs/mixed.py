"""Questions mixed into pretraining on one fixed biography a person (Part 3.1, Figs. 1 and 10).

Half of the windows are questions about half of the people; the model is asked about the other half
as it is, without finetuning. The more people there are, the more of the others it answers: each is
read about as often in every row. Beside them the same people pretrained without questions and
finetuned afterwards.

Command: `kstore sweep --config=configs/mixed.py --workdir=runs/mixed`. Hardware: 2 CPU cores, an
hour. `:together`, with `--together=4`, has 3,000 and 6,000 people among a fifth of the values,
mixed and alone, for one GPU: 132 s of pretraining on an H200. `:gpu` has 10,000 people, 7e16 FLOP a
row, for one GPU: 262 s at the speed measured on an H200; `:paper` 100,000, 2.9e18 FLOP a row, for a
node of GPUs: 2 h 23 min at the speed of one H200; both a share of 0.8. `docs/RESULTS.md` has scores
of the first three rows of `laptop` and of `together`; the others were not run yet. Expected, from
the paper: 86.6 % mixed, 9.7 % finetuned afterwards. Other shares: `qa_ratio.py`.
"""

from kstore_jax import config as c
from kstore_jax import recipes

STEPS_A_PERSON = 20  # about 150 exposures
MIXED, ALONE = 0.5, 0.0


def get_config(scale: str = "laptop"):
    config = recipes.at(scale, together=recipes.together)
    config.data.variant = "single"
    if scale == "laptop":
        config.world.pool_share = 0.05
        config.model.dropout = 0.1
        config.pretrain.update(batch=8, evaluate_every=500)
        rows = [_row(people, MIXED) for people in (250, 500, 1000)]
        config.sweep = (*rows, _row(1000, ALONE))
    elif scale == "together":
        config.world.update(pool_share=0.2, name_share=1.0)
        config.model.width = 256
        config.pretrain.update(steps=22_000, batch=24, learning_rate=2e-3, warmup=960)
        config.pretrain.checkpoint_every = 2000
        config.finetune.steps = 1000
        config.sweep = c.product(_mixed_and_alone(MIXED), world__people=[3000, 6000])
    else:
        config.pretrain.evaluate_every = config.pretrain.steps // 40
        config.sweep = _mixed_and_alone(0.8)
    return config


def _mixed_and_alone(share: float):
    asked_as_it_is = {"finetune__steps": 0, "finetune__grid": ()}
    return c.chain(
        c.row("questions mixed in", data__qa_share=share, **asked_as_it_is),
        c.row("finetuned afterwards"),
    )


def _row(people: int, share: float) -> tuple[tuple[str, object], ...]:
    row = {
        "world.people": people,
        "data.qa_share": share,
        "pretrain.steps": round(STEPS_A_PERSON * people * (1 - MIXED) / (1 - share)),
    }
    return (*row.items(), *([("finetune.steps", 0)] if share else []))
