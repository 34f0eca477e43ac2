"""One row of Figs. 3, 5 and 7, as in the paper (Part 3.1, sections 2 to 5).

GPT-2 124M on 100,000 people, multi5+permute, 80,000 steps of 96 x 512 tokens; LoRA; both probes.

Command: `kstore run --config=configs/paper.py --workdir=runs/paper`; another variant by
`--config.data.variant=...`. Scales:

- `paper` (the default): 2.9e18 FLOP of pretraining, on a node of GPUs: 2 h 23 min at the speed
  measured on one H200, with GPT-2's full vocabulary (`--config.data.vocabulary=full`); not yet run.
- `:gpu`: a tenth of the people and steps, 25 M parameters, 7e16 FLOP, on one GPU: 262 s at the
  speed measured on an H200; not yet run.
- `:laptop`: one row of the quickstart.

Expected, from the paper: held-out exact match 96.6 % (single: 9.7 %).
"""

from kstore_jax.pipeline import recipes


def get_config(scale: str = "paper"):
    return recipes.at(scale)
