"""Your facts: will a model be able to answer what it will recite? (`docs/your-facts.md`)

    kstore facts films.csv --out=films
    kstore sweep --config=configs/own_facts.py:films --workdir=runs/films

`:WORLD` is the folder that `kstore facts` wrote; `:WORLD:MODEL` starts from the model in a Hugging
Face folder, whose tokenizer is used, and measures what it forgets. Without a model it trains the
small one of the quickstart. Rows:

- one plain text about each row of the table;
- five wordings, their sentences shuffled;
- one text, with questions about half of the rows mixed into pretraining;
- five texts by another model, for each folder `rewritten...` in WORLD that `kstore rewrite` wrote.

Each row reads the facts of a table as often. `--config.pretrain.exposures=100` sets how often,
`--config.readouts.forgetting.text=FILE` names text of your own whose loss is measured before and
after. Hardware: 2 CPU cores, 12 minutes for 243 countries with six facts; one GPU for a model of
your own.

Expected: every row recites; on the countries one text answers 14 to 16 %, five shuffled wordings 66
to 79 %, questions mixed in 30 %, a guess 7 % (`docs/results.md`).
"""

import pathlib
from typing import Any

from kstore_jax.config.rows import Rows, chain, row
from kstore_jax.model.hf_config import read_shape
from kstore_jax.pipeline import recipes
from kstore_jax.pipeline.experiment import default
from kstore_jax.world.pools import load_pools

EXPOSURES = 200.0
MIXED = 0.5


def get_config(facts: str = ""):
    world, _, model = facts.partition(":")
    if not world:
        raise ValueError("expected own_facts.py:WORLD, a folder that `kstore facts` wrote")
    config = _with_model(model) if model else recipes.laptop()
    pools = load_pools(world)
    people = pools.full_name_count if pools.name_rows is not None else 500
    config.world.update(folder=world, people=people)
    config.pretrain.update(steps=0, exposures=EXPOSURES)
    config.sweep = chain(
        _row("one text", "single"),
        _row("five wordings", "multi5+permute"),
        _row("one text, questions", "single", data__qa_share=MIXED, finetune__steps=0),
    )
    for written in sorted(pathlib.Path(world).glob("rewritten*")):
        rewritten = _row(written.name, "multi5", data__rewritten=str(written))
        config.sweep = chain(config.sweep, rewritten)
    return config


def _row(name: str, variant: str, **fields: Any) -> Rows:
    return row(name, data__variant=variant, **fields)


def _with_model(folder: str) -> Any:
    """Continued pretraining of the model in a Hugging Face folder, with its tokenizer."""
    config = recipes.laptop()
    config.model = default().model
    config.model.init_from = folder
    config.data.vocabulary = "full"
    shape = read_shape(pathlib.Path(folder))
    longest = shape.max_positions if shape.positions == "learned" else 512
    config.pretrain.update(batch_size=8, seq_len=min(512, longest), learning_rate=1e-4)
    config.finetune.embedding_rank = min(config.finetune.embedding_rank, shape.width)
    config.readouts.forgetting.enabled = True
    return config
