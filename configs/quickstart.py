"""quickstart"""

from kstore_jax import config as c


def get_config(size=None):
    config = c.default()
    config.world.people = 400
    config.data.vocabulary = "compact"
    config.model.update(layers=4, heads=4, width=128)
    config.pretrain.update(
        steps=40,
        batch=4,
        window=256,
        learning_rate=3e-3,
        warmup=10,
        dispatch=10,
        checkpoint_every=20,
    )
    config.finetune.update(
        steps=20,
        batch=32,
        rank=8,
        embedding_rank=64,
        learning_rate=1e-3,
        dispatch=10,
        checkpoint_every=10,
    )
    config.p_probe.update(steps=4, batch=25, learning_rate=1e-2, dispatch=2, checkpoint_every=2)
    config.q_probe.update(steps=4, batch=50, learning_rate=1e-2, dispatch=2, checkpoint_every=2)
    config.sweep = c.product(data__variant=["single", "multi5+permute"])
    return config
