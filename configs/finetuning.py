"""Which weights to finetune: LoRA of several ranks, or all weights (Part 3.1, Figs. 2 and 11).

One model is pretrained and tested after each way of finetuning: LoRA, and all weights with a high
learning rate, which answers everything it is trained on. Two more rows compare LoRA with full
finetuning by equal rules: each takes the best of six, judged by answers about a tenth of
P_train that it is not trained on, and is finetuned once more on all of P_train.

Command: `kstore sweep --config=configs/finetuning.py --workdir=runs/finetuning`; the paper's other
cases by `--config.data.variant=`. The paper's larger models, for which no finetuning works (Fig. 2
b to d, on single): `--config.model.size=302M --config.pretrain.exposures=1000` and
`--config.model.size=682M --config.pretrain.exposures=1350`, both with
`--config.data.rewritten=runs/written` (see `rewritten.py`), the second also without. Scales:

- `laptop` (the default): 500 people and fewer ranks, on 2 CPU cores: half an hour by `--dry-run`.
- `:gpu`: the paper's ranks on 10,000 people, 6.5e16 FLOP of pretraining, on one GPU: 245 s at the
  speed measured on an H200; not yet run.
- `:paper`: the paper's people and size, 2.7e18 FLOP, on a node of GPUs: 2 h 13 min at the speed of
  one H200; not yet run.

Scores: `docs/results.md`. Expected, from the paper: for single no way answers more than 10.5 %
about held-out people; for multi5+permute LoRA of ranks 8 and 128 answers 96.4 %, full finetuning
94.6 %.
"""

from kstore_jax.config.rows import chain, product, row
from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    config.finetune.update(grid=(), refit=True)
    ranks, embedding_ranks = (2, 4, 8, 16, 32, -1), (0, 16, 32, 64, 128, -1)
    of_lora = product(rank=(8, 16, 32), embedding_rank=(64, 128))
    if scale == "laptop":
        ranks, embedding_ranks = (2, 8, -1), (0, 64, -1)
        of_lora = product(rank=ranks, embedding_rank=(0, 64))
    full = {"finetune__method": "full", "finetune__weight_decay": 0.01}
    of_full = product(learning_rate=(1e-3, 3e-4, 1e-4), weight_decay=(0.01, 0.001))
    config.sweep = chain(
        product(finetune__rank=ranks, finetune__embedding_rank=embedding_ranks),
        row("all weights", **full, finetune__learning_rate=1e-3),
        row("LoRA, best of six", finetune__grid=of_lora),
        row("all weights, best of six", **full, finetune__grid=of_full),
    )
    return config
