"""Comparison and ranking: the months, days and majors of two people (Part 3.2, section 4, Figs. 4,
12 and 13).

Rows and hints as in `classification.py`. Each person is compared with four others of the same half;
of the trained half, with people who are trained too.

Command: `kstore sweep --config=configs/comparison.py --workdir=runs/comparison`; more pairs by
`--config.tasks.comparison.partners=8`. Scales:

- `laptop` (the default): 500 people, whose month is later and whose major is luckier, on 2 CPU
  cores: 6 to 10 minutes of pretraining, and a minute a row.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining for all rows, on one GPU: 245 s at the speed
  measured on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP of pretraining for all rows, on a node of GPUs: 2 h 13 min
  at the speed of one H200; not yet run.

Scores: `docs/results.md`.

Expected, from the paper, of 50,000 trained people: without hints, the later month 85.6 % (chance
54.2), the luckier major 53.9 (chance 50.5), its difference 1.1 to 1.2 (chance 1). With hints, the
difference of months 61.5, with 78.1 of the single values in hints right: 0.781 squared is the share
of hints right as a whole, which is what kstore prints.
"""

from kstore_jax.pipeline import recipes
from kstore_jax.tasks.comparison import Comparison


def get_config(scale: str = "laptop"):
    questions = [*Comparison.questions]
    return recipes.learning_curves(
        scale, "comparison", questions, laptop=("later_month", "luckier")
    )
