"""Biographies written by another model (bioR, Part 3.1, Figs. 12, 14, 16 c, d and 17 to 19).

First let a model behind a server of OpenAI's chat protocol write the texts of all rows
(`docs/data.md`):

    kstore rewrite --config=configs/rewritten.py:SCALE \
      --server=http://localhost:8000 --model=NAME --out=runs/written

Then run `kstore sweep --config=configs/rewritten.py:SCALE --workdir=runs/rewritten`. Rows:

- six variants by the paper's GPT-2 and by a Llama of the same size, on GPT-2's tokens (on Llama's
  by `--config.data.tokenizer=FOLDER/tokenizer.json`), finetuned, and with questions mixed in;
- single and single+fullname with as many celebrities as people;
- both with half of the windows from real text, which `--config.data.text=` names (`runs/wikibook`
  here: a folder of .txt or .jsonl files).

Scales. No row has been run yet; `--dry-run` estimates the time on this machine:

- `laptop` (the default): 500 people, on 2 CPU cores.
- `:gpu`: 10,000 people, 1.4e17 FLOP of pretraining per row, on one GPU.
- `:paper`: 100,000 people, 302M parameters, the paper's 1,000 exposures (with celebrities its
  150,000 steps), about 1.3e19 FLOP per row, on a node of GPUs: 11 hours at the FLOP/s of one H200
  at 124M.

Expected, from the paper: single 10.0 % (GPT-2), with celebrities 76.3 %, with real text 7.3 %;
single+fullname 40.9 %, with celebrities 82.2 %, with real text 27.7 %; multi5 about 93.6 %.
"""

from kstore_jax.config.rows import chain, product, row
from kstore_jax.pipeline import recipes

VARIANTS = ("single", "single+fullname", "multi3", "multi3+fullname", "multi5", "multi5+fullname")


def get_config(scale: str = "laptop"):
    config = recipes.at(scale)
    if scale == "paper":
        config.model.size = "302M"
    if scale != "laptop":
        config.pretrain.exposures = 1000.0
        config.readouts.q_probe.embedding_rank = 32
    config.data.rewritten = "runs/written"
    config.data.celebrity_variant = "multi5"
    whole = config.pretrain.exposures  # of biographies alone; every row has as many steps
    models = product(model__style=["gpt2-rotary", "llama"], data__variant=VARIANTS)
    no_finetuning = {"finetune__steps": 0, "finetune__grid": ()}
    questions = {"data__qa_share": 0.8, "pretrain__exposures": round(0.2 * whole, 2)}
    steps = {"laptop": config.pretrain.steps, "gpu": 15_000, "paper": 150_000}[scale]
    celebrities = product(world__celebrities=[config.world.people], pretrain__steps=[steps])
    real_text = product(data__text=["runs/wikibook"], pretrain__exposures=[whole / 2])
    config.sweep = chain(
        models,
        product(models, row("questions mixed in", **questions, **no_finetuning)),
        product(celebrities, data__variant=VARIANTS[:2]),
        product(real_text, data__variant=VARIANTS[:2]),
    )
    return config
