"""How many bits a model knows: capacity against parameters (Part 3.3, Fig. 1).

GPTs of several sizes read worlds of several numbers of people, in new wordings at every exposure.
Nothing is finetuned. The page has bits stored against parameters, with lines of 1 and 2 bits a
parameter, what there is to know of each world (dashed), and the paper's points beside. A run prints
that maximum, in bits a parameter, before anything is trained.

Command: `kstore sweep --config=configs/capacity.py --workdir=runs/capacity`; 100 exposures by
`--config.pretrain.exposures=100`; no MLP by `--config.model.mlp_width=-1`; Llama by
`--config.model.style=llama`. Scales:

- `laptop` (the default): 250 to 2,000 entries of bioD, 4 attributes of two random symbols, models
  of 8,000 to 30,000 parameters, 1,000 exposures of Muon, on 2 CPU cores: 38 minutes of one of them.
- `:gpu`, with `--together=4`: bioS of 10,000 to 50,000 people, 0.3 to 2 M parameters, on one GPU:
  131 s a model of 10,000 people at the speed measured on an H200; not yet run.
- `:paper`: bioS of 50,000 to 1 M people, 1 to 88 M parameters, on a node of GPUs: hours a row; not
  yet run.

Scores: `docs/results.md`. Expected, from the paper: 2 bits a parameter after 1,000 exposures
wherever there is as much to know, never above 2.3; all there is to know where that is below 1.8; 1
bit after 100 exposures.
"""

from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    return recipes.capacity(scale)
