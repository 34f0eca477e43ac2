"""The share of questions in mixed training (Part 3.1, Fig. 10).

Questions about half of the people are mixed into pretraining in several shares (QA_r). The
pretrained model is tested on the other half without finetuning. The number of steps is the same in
every row, so more questions mean fewer biographies. Biographies by another model (Fig. 10 b), one
variant at a time: `--config.data.rewritten=runs/written --config.data.variant=multi3` (see
`rewritten.py`), and at the paper's scale `--config.model.size=302M --config.pretrain.steps=150000`.

Command: `kstore sweep --config=configs/qa_ratio.py --workdir=runs/qa_ratio`. Scales:

- `laptop` (the default): 500 people and a twentieth of the values, on 2 CPU cores: two hours by
  `--dry-run`; not yet run.
- `:gpu`: 10,000 people, 6.5e16 FLOP per row, on one GPU: 245 s at the speed measured on an H200;
  not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Expected, from the paper, for shares of 0.1, 0.2, 0.3, 0.4, 0.6, 0.8 and 0.9: single 24.5, 53.6,
70.5, 77.5, 87.1, 85.7, 81.8 %; multi5+permute 96.6, 96.3, 95.9, 96.2, 95.8, 95.2, 93.9 %.
"""

from kstore_jax.config.rows import product, zipped
from kstore_jax.pipeline import recipes

VARIANTS = ("single", "single+permute1", "single+permute2", "multi2+permute", "multi5+permute")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9)


def get_config(scale: str = "laptop"):
    config = recipes.few_values(scale)
    variants, shares = VARIANTS, SHARES
    if scale == "laptop":
        config.pretrain.update(steps=10_000, batch_size=8)
        variants, shares = ("single", "multi5+permute"), (0.2, 0.4, 0.6, 0.8)
    config.finetune.update(steps=0, grid=())
    exposures = [round((1 - share) * config.pretrain.exposures, 2) for share in shares]
    by_share = zipped(data__qa_share=shares, pretrain__exposures=exposures)
    config.sweep = product(product(data__variant=variants), by_share)
    return config
