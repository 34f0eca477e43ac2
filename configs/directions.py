"""GPT and BERT, which differ in one field (Part 3.1, section 7, Fig. 9).

Network, people, texts, number of tokens and questions are the same. GPT predicts the next token;
BERT sees the whole text and predicts masked words. BERT answers a question by as many masks as the
answer has tokens.

Command: `kstore sweep --config=configs/directions.py --workdir=runs/directions`; other data sets by
`--config.data.variant=single`, other worlds by `--config.seed=1`. Scales:

- `laptop` (the default): 150 people and a twentieth of the values, on 2 CPU cores: 40 minutes, one
  core per row.
- `:gpu`: 10,000 people, 1.4e17 FLOP of pretraining per row of BERT, on one GPU: 9 minutes at the
  speed measured on an H200; not yet run.
- `:paper`: 100,000 people, 5.5e18 FLOP per row of BERT, on a node of GPUs: 4.5 hours at the speed
  of one H200; not yet run.

On `gpu` and `paper` each of 16 datasets has four rows: GPT, BERT, and two BERTs with questions
mixed in. As in the paper, GPT has 540 exposures, and BERT 150,000 steps at `paper`.

Scores: `docs/results.md`. Expected, from the paper: GPT answers every attribute of multi5+permute
(96.6 %). BERT answers birth dates and majors in part, the rest at or near the majority guess,
although it predicts every masked word of the biographies. On a laptop majors are answered best too,
but no birth dates: the other facts identify each of so few people.
"""

from kstore_jax.config.rows import chain, product, row
from kstore_jax.pipeline import recipes
from kstore_jax.world.biographies import FIG3_VARIANTS


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    if scale == "laptop":
        config.world.update(people=150, value_fraction=0.05)
        config.pretrain.update(steps=24_000, batch_size=8, learning_rate=2e-3, evaluate_every=1000)
        config.sweep = chain(
            row("GPT", model__direction="causal"),
            row("BERT", model__direction="bidirectional", pretrain__learning_rate=7e-4),
        )
        return config
    bert = {
        "pretrain__steps": {"gpu": 15_000, "paper": 150_000}[scale],
        "model__direction": "bidirectional",
        "pretrain__learning_rate": 3e-4,
        "readouts__qa__beam_size": 1,
    }
    lora = {
        "finetune__schedule": "linear",
        "finetune__final_lr_ratio": 0.0,
        "finetune__grid": product(rank=[8, 32], embedding_rank=[128, -1]),
    }
    mixed = {"finetune__steps": 0, "finetune__grid": ()}
    config.sweep = product(
        chain(
            row("GPT", model__direction="causal"),
            row("BERT", **bert, **lora),
            *(row(f"BERT, QA_r {r}", **bert, **mixed, data__qa_share=r) for r in (0.2, 0.8)),
        ),
        data__variant=FIG3_VARIANTS,
    )
    return config
