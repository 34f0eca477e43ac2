"""Questions mixed into pretraining on one fixed biography a person (Part 3.1, Figs. 1 and 10).

Half of the windows are questions about half of the people; the model is asked about the other half
as it is, without finetuning. The more people there are, the more of the others it answers: each is
read about as often in every row. Beside them the same people pretrained without questions and
finetuned afterwards.

Command: `kstore sweep --config=configs/mixed.py --workdir=runs/mixed`. Hardware: 2 CPU cores.
`docs/RESULTS.md` has times and scores. `:paper` has the paper's size, people and share of 0.8 (not
run yet; expected from the paper: 86.6 % mixed, 9.7 % finetuned afterwards).
"""

from kstore_jax import config as c
from kstore_jax import recipes

STEPS_A_PERSON = 10  # 76 exposures
MIXED, ALONE = 0.5, 0.0


def get_config(scale: str = "laptop"):
    if scale == "laptop":
        config = recipes.laptop()
        config.pretrain.update(batch=8, evaluate_every=500)
        rows = [_row(people, MIXED) for people in (500, 1000, 2000, 4000)]
        config.sweep = (*rows, _row(2000, ALONE))
    elif scale == "paper":
        config = c.default()
        config.data.vocabulary = "compact"
        config.pretrain.update(dispatch=10, evaluate_every=2000)
        config.sweep = (
            (("data.qa_share", 0.8), ("finetune.steps", 0)),
            (("data.qa_share", ALONE),),
        )
    else:
        raise ValueError(f"scale {scale!r}; expected laptop or paper")
    config.data.variant = "single"
    return config


def _row(people: int, share: float) -> tuple[tuple[str, object], ...]:
    row = {
        "world.people": people,
        "data.qa_share": share,
        "pretrain.steps": round(STEPS_A_PERSON * people * (1 - MIXED) / (1 - share)),
    }
    return (*row.items(), *([("finetune.steps", 0)] if share else []))
