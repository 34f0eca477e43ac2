"""Where the files in `configs/` start from: one experiment at several scales."""

from collections.abc import Callable

import ml_collections

from kstore_jax.config.rows import product
from kstore_jax.errors import nearest
from kstore_jax.pipeline.experiment import default


def at(scale: str, **more: Callable[[], ml_collections.ConfigDict]) -> ml_collections.ConfigDict:
    """The recipe of a scale: `laptop`, `gpu`, `paper`, or one that only some files have.

    Raises:
      ValueError: there is no such scale.
    """
    scales = {"laptop": laptop, "gpu": gpu, "paper": paper, **more}
    if scale not in scales:
        raise ValueError(f"no scale {scale!r}{nearest(scale, scales)}")
    return scales[scale]()


def paper() -> ml_collections.ConfigDict:
    """The paper's protocol (Part 3.1, sections 2 to 5) for bioS and the 124M GPT-2.

    Of the two ranks of LoRA that the paper takes the better of, by its answers about people held
    out, the one is taken that answers more about a tenth of P_train that it is not trained on.
    """
    config = default()
    config.data.vocabulary = "compact"
    config.finetune.grid = product(rank=[8, 16])
    config.qa.beam_size = 4
    for training in _trainings(config):
        training.steps_per_call = 10
    return config


def gpu() -> ml_collections.ConfigDict:
    """The paper's protocol for a tenth of its people and steps, by a GPT-2 of 25 M parameters in
    its blocks: each person is read about as often, each question asked as often."""
    config = paper()
    config.world.people = 10_000
    config.model.update(layers=8, heads=8, width=512)
    for training in _trainings(config):
        training.steps //= 10
        training.warmup_steps //= 10
    return config


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
        batch_size=4,
        seq_len=128,
        learning_rate=3e-3,
        warmup_steps=240,
        final_lr_ratio=0.0,
        steps_per_call=50,
        checkpoint_every=1000,
    )
    config.finetune.update(
        steps=400,
        batch_size=32,
        learning_rate=3e-3,
        weight_decay=1.0,
        embedding_rank=64,
        init_std=0.01,
        steps_per_call=20,
        checkpoint_every=200,
    )
    probe = {
        "learning_rate": 1e-2,
        "weight_decay": 1.0,
        "head": "unembedding",
        "embedding_update": "shared",
        "dropout": 0.0,
        "steps_per_call": 5,
    }
    config.p_probe.update(
        **probe,
        steps=50,
        batch_size=25,
        embedding_rank=16,
        biographies_per_person=1,
        checkpoint_every=25,
    )
    config.q_probe.update(**probe, steps=60, batch_size=75, checkpoint_every=30)
    return config


def together() -> ml_collections.ConfigDict:
    """The laptop's network on more people for longer: many of them are trained by one GPU in
    minutes, in one program (`kstore sweep --together`).

    The people are 0.015 of the paper's, among 0.12 of the values and of the names, about the square
    root of it: any two values, and any first and last name, point to as many people as there.
    """
    config = laptop()
    config.world.update(people=1500, value_fraction=0.12, name_fraction=0.12)
    config.model.dropout = 0.1
    config.pretrain.update(steps=72_000, batch_size=8, warmup_steps=1440, checkpoint_every=6000)
    config.finetune.batch_size = 96
    config.q_probe.update(batch_size=50, steps=270)
    return config


def _trainings(config: ml_collections.ConfigDict) -> tuple[ml_collections.ConfigDict, ...]:
    return config.pretrain, config.finetune, config.p_probe, config.q_probe
