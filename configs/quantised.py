"""What rounding a model's weights costs it in bits (Part 3.3, result 8).

The models of `capacity.py`, and copies of them whose matrices are rounded to nearest as int8 and
int4, with a scale a channel. Over the stages of a finished `capacity.py` nothing is trained.

Command: `kstore sweep --config=configs/quantised.py --workdir=runs/quantised
--cache=runs/capacity/stages`. Scales are those of `capacity.py`:

- `laptop` (the default): on 2 CPU cores: an hour, or seconds a row over the stages of
`capacity.py`.
- `:gpu`, `:paper`: on one GPU, a node of GPUs: as `capacity.py`; not yet run.

Expected, from the paper, which rounds by GPTQ on texts about 1,000 people: int8 loses nothing, int4
leaves less than half, 0.7 bits a parameter.
"""

from kstore_jax.pipeline import recipes


def get_config(scale: str = "laptop"):
    config = recipes.capacity(scale)
    config.readouts.capacity.quantise = ("int8", "int4")
    return config
