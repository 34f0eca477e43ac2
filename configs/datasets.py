"""The paper's 16 datasets: answers about held-out people, and probes (Part 3.1, Figs. 3 left, 5, 7
and 13 a, c).

They have one fixed biography per person or several, sentences in order or shuffled, and the full
name once or in every sentence. Each model is finetuned by LoRA on questions about half of the
people, tested on the other half, and probed before each fact (P-probing) and at the end of the name
(Q-probing).

Command: `kstore sweep --config=configs/datasets.py --workdir=runs/datasets`. Further figures:

- Fig. 13 b, d by `--config.readouts.p_probe.embedding_rank=4` and Fig. 16 b by
  `--config.readouts.q_probe.embedding_rank=64`, on the same pretrained models: with another
  `--workdir` and `--cache=runs/datasets/stages`.
- Fig. 3 right (questions mixed in) by `--config.data.qa_share=0.8 --config.finetune.steps=0`, at
  `:gpu` and `:paper` with `--config.pretrain.exposures=108`, which are as many steps.
- Fig. 12 (Llama) by `--config.model.style=llama`, with or without questions mixed in.

Scales:

- `laptop` (the default): 500 people and a twentieth of the values, 98 M tokens of pretraining in
  total, on 2 CPU cores: an hour (115 minutes of work).
- `:together`, with `--together=16`: 1,500 people with 0.12 of the values and names, 1.2 G tokens in
  total, on one GPU: 4 minutes of pretraining on an H200, and 79 minutes of one CPU core for the
  rest.
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining per row, on one GPU: 245 s at the speed measured
  on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`. Expected, from the paper: a mean of 9.7 % for single, 41.0 % for multi5,
96.6 % for multi5+permute; the first token of every fact is readable from the name only in the last.
"""

from kstore_jax.config.rows import product
from kstore_jax.pipeline import recipes
from kstore_jax.world.biographies import FIG3_VARIANTS


def get_config(scale: str = "laptop"):
    config = recipes.few_values(scale, together=recipes.together)
    config.sweep = product(data__variant=FIG3_VARIANTS)
    return config
