"""The paper's finding in three rows (Part 3.1, sections 2 to 5, Figs. 1, 3, 5 and 7).

GPT-2 124M on 100,000 people, 96 windows of 512 tokens a step. Rows, with equal steps:

- multi5+permute: five shuffled wordings per person, read 540 times in all; LoRA, both probes;
- single: one biography per person, read 540 times; the same;
- single with questions mixed in, 0.8 of the windows, read 108 times; not finetuned.

Command: `kstore sweep --config=configs/paper.py --workdir=runs/paper`, or `kstore run` for
multi5+permute alone. Steps and parameters (with `--config.data.vocabulary=full` the paper's 124M,
otherwise 88M) are printed by `--dry-run`. Scales:

- `paper` (the default): 2.7e18 FLOP of pretraining per row, on a node of GPUs: 2 h 13 min at the
  speed measured on one H200, with GPT-2's full vocabulary; not yet run.
- `:gpu`: a tenth of the people and steps, 25 M parameters, 6.5e16 FLOP per row, on one GPU: 245 s
  at the speed measured on an H200; not yet run. `launch/gpu.sh` runs it in pieces.
- `:laptop`: the quickstart's model and 500 people.
- `:smallest`: only shows that everything runs, on a CPU in a minute.

Expected, from the paper: held-out exact match 9.7 % for single, 96.6 % for multi5+permute, 86.6 %
for questions mixed in.
"""

from kstore_jax.config.rows import chain, product, row
from kstore_jax.pipeline import recipes

MIXED = 0.8


def get_config(scale: str = "paper"):
    config = recipes.at(scale, smallest=recipes.smallest)
    mixed = row(
        "questions mixed in",
        data__variant="single",
        data__qa_share=MIXED,
        finetune__steps=0,
        finetune__grid=(),
        pretrain__exposures=round((1 - MIXED) * config.pretrain.exposures, 2),
    )
    config.sweep = chain(product(data__variant=["multi5+permute", "single"]), mixed)
    return config
