"""The paper's central finding at a small scale: `kstore quickstart`.

Two GPTs of 1.1 M parameters: one is pretrained on one fixed biography of each of 500 people, the
other on five shuffled wordings. Both are finetuned on questions about half of the people, tested on
the other half, and probed. Hardware: 2 CPU cores, 5 minutes. Scores: `docs/results.md`.

- `:smallest` only shows that everything runs.
- `:longer` trains on more people for longer.
"""

from kstore_jax.config.rows import product
from kstore_jax.errors import nearest
from kstore_jax.pipeline import recipes


def get_config(size: str = "default"):
    config = recipes.laptop()
    recipes.pretrain_quickly(config, steps=6000)
    config.finetune.embedding_rank = 8
    p_probe, q_probe = config.readouts.p_probe, config.readouts.q_probe
    p_probe.update(steps=60, batch_size=12, learning_rate=2e-2, checkpoint_every=15)
    q_probe.update(batch_size=38, learning_rate=2e-2)
    config.sweep = product(data__variant=["single", "multi5+permute"])
    if size == "smallest":
        config.world.people = 40
        config.model.update(layers=1, heads=2, width=32)
        config.pretrain.update(steps=40, steps_per_call=20, checkpoint_every=20, warmup_steps=4)
        config.finetune.update(steps=20, checkpoint_every=20)
        p_probe.update(steps=5, batch_size=10, checkpoint_every=5)
        q_probe.update(steps=5, batch_size=10, checkpoint_every=5)
    elif size == "longer":
        config.world.people = 600
        recipes.pretrain_quickly(config, steps=12_000)
    elif size != "default":
        raise ValueError(f"no size {size!r}{nearest(size, ('default', 'smallest', 'longer'))}")
    return config
