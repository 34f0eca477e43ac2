"""Where the files in `configs/` start from, beside the paper's settings (`config.default`)."""

import ml_collections

from kstore_jax.config import default


def laptop() -> ml_collections.ConfigDict:
    """A GPT of 1.1 M parameters that learns 500 people in minutes on a CPU core.

    How the settings were found is told in docs/RESULTS.md, and why the probes train no head of
    their own in `config.Probe`.
    """
    config = default()
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
    return config
