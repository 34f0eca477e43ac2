"""One row of Figs. 3, 5 and 7, as in the paper (Part 3.1, sections 2 to 5).

GPT-2 124M on 100,000 people, multi5+permute, 80,000 steps of 96 x 512 tokens; LoRA; both probes.
Command: `kstore run --config=configs/paper.py --workdir=runs/paper`, any variant with
`--config.data.variant=...`. Hardware: a node of GPUs; 2.9e18 FLOP of pretraining. `:gpu` is a tenth
of the people and of the steps, by 25 M parameters: 7e16 FLOP, on one GPU; `:laptop` one row of the
quickstart. Time of pretraining, at the speed that was measured on one H200: 2 h 23 min with all of
GPT-2's vocabulary (`--config.data.vocabulary=full`), and 262 s for `:gpu`; neither was run.
Expected, from the paper: held-out exact match 96.6 % (single: 9.7 %).
"""

from kstore_jax.pipeline import recipes


def get_config(scale: str = "paper"):
    return recipes.at(scale)
