"""The paper's model and data, every setting at the default: one row of Figs. 3, 5 and 7.

GPT-2 124M on 100,000 people, multi5+permute, 80,000 steps of 96 x 512 tokens; LoRA; both probes.
Command: `kstore run --config=configs/paper.py --workdir=runs/paper`, any variant with
`--config.data.variant=...`. Hardware: GPUs; 2.9e18 FLOP of pretraining. Time: not measured.
Expected, from the paper: held-out exact match 96.6 % (single: 9.7 %).
"""

from kstore_jax import config as c


def get_config():
    config = c.default()
    config.data.vocabulary = "compact"
    config.pretrain.update(dispatch=10)
    config.finetune.update(dispatch=10)
    config.qa.beam = 4
    return config
