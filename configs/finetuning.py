"""Which weights to finetune: LoRA of several ranks, or all weights (Part 3.1, Figs. 2 and 11).

One model is pretrained and asked after each way of finetuning. Full finetuning takes the best of a
grid of learning rates and weight decays, judged on people of the trained half that it is not
trained on.

Command: `kstore sweep --config=configs/finetuning.py --workdir=runs/finetuning`; the paper's other
case by `--config.data.variant=single`. Hardware: 2 CPU cores. `docs/RESULTS.md` has times and
scores. `:paper` has the paper's size, people and ranks (not run yet; expected from the
paper for single: no way answers more than 10.5 % about people held out).
"""

from kstore_jax import config as c
from kstore_jax import recipes


def get_config(scale: str = "laptop"):
    if scale == "laptop":
        config = recipes.laptop()
        ranks, embedding_ranks, rates = (2, 8, -1), (0, 64, -1), (1e-3, 3e-4, 1e-4)
    elif scale == "paper":
        config = c.default()
        config.data.vocabulary = "compact"
        config.pretrain.dispatch = config.finetune.dispatch = 10
        ranks, embedding_ranks = (2, 4, 8, 16, 32, -1), (0, 16, 32, 64, 128, -1)
        rates = (1e-3, 3e-4, 1e-4)
    else:
        raise ValueError(f"scale {scale!r}; expected laptop or paper")
    grid = c.product(learning_rate=rates, weight_decay=(0.01, 0.001))
    lora = c.product(finetune__rank=ranks, finetune__embedding_rank=embedding_ranks)
    config.sweep = (*lora, (("finetune.method", "full"), ("finetune.grid", grid)))
    return config
