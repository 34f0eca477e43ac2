"""Inverse search: who has these facts? (Part 3.2, section 5, Figs. 6 and 14).

Ten questions state some facts of a person and ask for the first or the full name. They are
finetuned together, about half of the people, or mixed into pretraining. In the `reverse` datasets
biographies state facts before the name.

Command: `kstore sweep --config=configs/inverse.py --workdir=runs/inverse`; one question by
`--config.tasks.inverse.clues=birth_date`. Scales:

- `laptop` (the default): 500 people, multi5+permute and its reverse6, finetuned and mixed, on 2 CPU
  cores: 6 to 10 minutes of pretraining a row, or twice as long with questions mixed in (reverse6
  mixed: not yet run).
- `:gpu`: 10,000 people, 6.5e16 FLOP of pretraining per row, on one GPU: 245 s at the speed measured
  on an H200; not yet run.
- `:paper`: 100,000 people, 2.7e18 FLOP per row, on a node of GPUs: 2 h 13 min at the speed of one
  H200; not yet run.

Scores: `docs/results.md`.

`gpu` and `paper` have the 16 datasets and four reverse ones, each finetuned and with questions in
half and in 0.8 of the windows. Expected, from the paper: about 0 % on the 16 datasets, of full
names 0.0, however the questions are trained; clearly more on the reverse datasets only.
"""

from kstore_jax.config.rows import chain, product, row, zipped
from kstore_jax.pipeline import recipes
from kstore_jax.world.biographies import FIG3_VARIANTS, OTHER_VARIANTS

REVERSE = tuple(variant for variant in OTHER_VARIANTS if "+reverse" in variant)


def get_config(scale: str = "laptop"):
    config = recipes.manipulation(scale, "inverse")
    variants, shares = (*FIG3_VARIANTS, *REVERSE), (0.5, 0.8)
    length = {
        "pretrain__exposures": [
            round((1 - share) * (config.pretrain.exposures or 0.0), 2) for share in shares
        ]
    }
    if scale == "laptop":
        variants, shares = ("multi5+permute", "multi5+permute+reverse6"), (0.5,)
        length = {"pretrain__steps": [2 * config.pretrain.steps]}  # equal exposures
    mixed = product(
        row("mixed", data__tasks=("inverse",), finetune__steps=0, finetune__grid=()),
        zipped(data__qa_share=shares, **length),
    )
    config.sweep = product(chain(row("finetuned"), mixed), data__variant=variants)
    return config
