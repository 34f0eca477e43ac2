"""Classification: the month of a birth, and the luckiness of a major (Part 3.2, section 4, Figs. 4,
11 and 13).

Each question has rows for more and more people of P_train, with and without hints. A hint is the
fact itself, written before the answer. With hints, half of the training questions ask for one, and
the others do not; the test has both forms. All rows share one pretrained model, and its
finetuning on the questions about the six facts.

Command: `kstore sweep --config=configs/classification.py --workdir=runs/classification`; from the
pretrained model itself by `--config.finetune.first=()`. Scales:

- `laptop` (the default): 500 people, whether the month is even and the luckiness modulo 5, on 2 CPU
  cores: 6 to 10 minutes of pretraining, and 40 seconds a row.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining for all rows, on one GPU: 245 s at the speed
  measured on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP of pretraining for all rows, on a node of GPUs: 2 h 13 min
  at the speed of one H200; not yet run.

Scores: `docs/results.md`.

Expected, from the paper, without hints: even months of 10,000 trained people 75.9 %, of 50,000
95.3 (chance 50); the major modulo 5 of 10,000 people 23.6 (chance 20). Trained with hints: the
major 86.4 where the hint is written, 24.1 where it is not, and 84.5 of the hints right.
"""

from kstore_jax.pipeline import recipes
from kstore_jax.tasks.classification import Classification


def get_config(scale: str = "laptop"):
    questions = [*Classification.questions]
    return recipes.learning_curves(
        scale, "classification", questions, laptop=("even_month", "luck_mod_5")
    )
