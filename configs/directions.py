"""GPT beside BERT, one field apart (Part 3.1, section 7, Fig. 9).

The same network, people, texts, number of tokens and questions; one reads from left to right and
tells the next token, the other sees all and tells masked words. It answers a question by as many
masks as the answer has tokens.

Command: `kstore sweep --config=configs/directions.py --workdir=runs/directions`; other data sets by
`--config.data.variant=single`, other worlds by `--config.seed=1`. Hardware: 2 CPU cores.
`docs/RESULTS.md` has times and scores. `:paper` has the paper's size, people and 150,000 steps of
either (not run yet). Expected, from the paper: GPT answers every attribute of multi5+permute
(96.6 %); BERT answers birth dates and majors in part, the rest at or near the majority guess,
although it can tell every masked word of the biographies.
"""

from kstore_jax import config as c
from kstore_jax import recipes


def get_config(scale: str = "laptop"):
    if scale == "laptop":
        config = recipes.laptop()
        config.world.people = 300
        config.pretrain.update(steps=24_000, batch=8, learning_rate=2e-3, evaluate_every=1000)
    elif scale == "paper":
        config = c.default()
        config.data.vocabulary = "compact"
        config.pretrain.update(steps=150_000, learning_rate=3e-4, dispatch=10, evaluate_every=5000)
        config.finetune.update(dispatch=10)
    else:
        raise ValueError(f"scale {scale!r}; expected laptop or paper")
    config.sweep = c.product(model__direction=["causal", "bidirectional"])
    return config
