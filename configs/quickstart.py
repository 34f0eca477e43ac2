"""The paper's central finding, small: `kstore quickstart`.

Two GPTs of 1.1 M parameters, one pretrained on one fixed biography of each of 500 people, one on
five shuffled wordings, then finetuned on questions about half of the people, asked about the other
half, and probed. Hardware: 2 CPU cores. `docs/RESULTS.md` has times and scores.

`:smallest` only shows that everything runs; `:longer` trains on more people for longer.
"""

from kstore_jax import config as c


def get_config(size: str = "default"):
    config = c.default()
    config.sweep = c.product(data__variant=["single", "multi5+permute"])
    config.world.people = 500
    config.data.vocabulary = "compact"
    config.model.update(layers=4, heads=4, width=128)
    config.pretrain.update(
        steps=12_000,
        batch=4,
        window=128,
        learning_rate=3e-3,
        warmup=240,
        final=0.0,
        dispatch=50,
        checkpoint_every=1000,
    )
    config.finetune.update(
        steps=400,
        batch=32,
        learning_rate=3e-3,
        weight_decay=1.0,
        embedding_rank=64,
        init_scale=0.01,
        dispatch=20,
        checkpoint_every=200,
    )
    probe = {
        "learning_rate": 1e-2,
        "weight_decay": 1.0,
        "head": "unembedding",
        "updated": "shared",
        "dropout": 0.0,
        "dispatch": 5,
    }
    config.p_probe.update(
        **probe, steps=50, batch=25, embedding_rank=16, entries=1, checkpoint_every=25
    )
    config.q_probe.update(**probe, steps=60, batch=75, checkpoint_every=30)
    if size == "smallest":
        config.world.people = 40
        config.model.update(layers=1, heads=2, width=32)
        config.pretrain.update(steps=40, dispatch=20, checkpoint_every=20, warmup=4)
        config.finetune.update(steps=20, checkpoint_every=20)
        config.p_probe.update(steps=5, batch=10, checkpoint_every=5)
        config.q_probe.update(steps=5, batch=10, checkpoint_every=5)
    elif size == "longer":
        config.world.people = 600
        config.pretrain.update(steps=24_000, warmup=480)
    elif size != "default":
        raise ValueError(f"size {size!r}; expected smallest, longer, or nothing")
    return config
