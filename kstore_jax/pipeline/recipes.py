"""Experiments at several scales that the files in `configs/` start from, as ConfigDicts."""

from collections.abc import Callable, Sequence
from typing import Any

from kstore_jax.config.rows import chain, product, row, zipped
from kstore_jax.errors import nearest
from kstore_jax.pipeline.experiment import default


def at(scale: str, **extra: Callable[[], Any]) -> Any:
    """Returns the recipe of a scale: `laptop`, `gpu`, `paper`, or one of `extra`.

    Raises:
      ValueError: there is no such scale.
    """
    scales = {"laptop": laptop, "gpu": gpu, "paper": paper, **extra}
    if scale not in scales:
        raise ValueError(f"no scale {scale!r}{nearest(scale, scales)}")
    return scales[scale]()


def paper() -> Any:
    """The paper's protocol (Part 3.1, sections 2 to 5) for bioS and the 124M GPT-2.

    Pretraining has the paper's 540 exposures. These are fewer steps than its 80,000, since our
    texts have fewer tokens.

    The paper chooses the better of two LoRA ranks by answers about P_test. Here the choice is made
    on a tenth of P_train, which both finetunings leave out; then the better one is finetuned once
    more, on all of P_train. Dropout is GPT-2's, except of attention weights, which fast attention
    cannot drop.
    """
    config = default()
    config.model.dropout = 0.1
    config.data.vocabulary = "compact"
    config.pretrain.exposures = 540.0
    config.finetune.grid = product(rank=[8, 16])
    config.finetune.refit = True
    config.readouts.qa.beam_size = 4
    for training in _trainings(config):
        training.steps_per_call = 10
    return config


def gpu() -> Any:
    """The paper's protocol with a tenth of its people and steps, and 25 M parameters in the blocks.

    Exposures of each person and repetitions of each question stay the paper's. 0.32 of the values
    and names are used, the square root of a tenth, for the reason that `together` gives.
    """
    config = paper()
    config.world.update(people=10_000, value_fraction=0.32, name_fraction=0.32)
    config.model.update(layers=8, heads=8, width=512)
    config.pretrain.warmup_steps //= 10
    for training in _trainings(config)[1:]:
        training.steps //= 10
    return config


def smallest() -> Any:
    """`gpu` with a hundredth of its people and exposures, and the smallest model: only shows that
    everything runs, on a CPU in a minute."""
    config = gpu()
    config.world.people //= 100
    config.model.update(layers=1, heads=2, width=32)
    config.pretrain.exposures /= 100
    config.pretrain.update(batch_size=4, seq_len=64, warmup_steps=10, checkpoint_every=50)
    config.finetune.update(steps=20, batch_size=8, embedding_rank=16, checkpoint_every=20)
    for probe in (config.readouts.p_probe, config.readouts.q_probe):
        probe.update(steps=20, batch_size=10, checkpoint_every=20)
    return config


def laptop() -> Any:
    """A GPT of 1.1 M parameters that learns 500 people in minutes on a CPU core.

    How the settings were found: docs/log.md. Why the probes train no head of their own:
    `readouts/probe_config.py`.
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
    for readout in (config.readouts.p_probe, config.readouts.layers):
        readout.update(
            **probe,
            steps=100,
            batch_size=25,
            embedding_rank=16,
            biographies_per_person=1,
            checkpoint_every=25,
        )
    config.readouts.q_probe.update(**probe, steps=60, batch_size=75, checkpoint_every=30)
    return config


def pretrain_quickly(config: Any, steps: int) -> None:
    """Starts the laptop's model from larger initial weights, at a higher learning rate; half of the
    recipe's steps then suffice."""
    config.model.init_std = 0.06
    config.pretrain.update(steps=steps, learning_rate=4e-3, warmup_steps=steps // 50)


def few_values(scale: str, **extra: Callable[[], Any]) -> Any:
    """The recipe of a scale; on a laptop with a twentieth of the values, so that 500 people share
    them as the paper's people do, and with dropout."""
    config = at(scale, **extra)
    if scale == "laptop":
        config.world.value_fraction = 0.05
        config.model.update(dropout=0.1, attention_dropout=0.1)
    return config


def together() -> Any:
    """The laptop's network with more people and steps. One GPU trains many such models in minutes,
    in one program (`kstore sweep --together`).

    With 0.015 of the paper's people, 0.12 of the values and names are used, about the square root:
    so a pair of values, or a first and a last name, belong to as many people as in the paper.
    """
    config = few_values("laptop")
    config.world.update(people=1500, value_fraction=0.12, name_fraction=0.12)
    config.pretrain.update(steps=72_000, batch_size=8, warmup_steps=1440, checkpoint_every=6000)
    config.finetune.batch_size = 96
    config.readouts.q_probe.update(batch_size=50, steps=270)
    return config


_CAPACITY = {  # people: weight decay, learning rate, windows a step (Part 3.3, appendix A)
    10_000: (0.02, 1e-3, 24),
    20_000: (0.02, 1e-3, 48),
    50_000: (0.02, 1e-3, 96),
    100_000: (0.02, 1e-3, 192),
    200_000: (0.02, 1e-3, 192),
    500_000: (0.01, 5e-4, 192),
    1_000_000: (0.01, 5e-4, 192),
}
_LAYERS_AND_WIDTHS = {
    "gpu": ((2, 64), (2, 128), (4, 128), (4, 192)),
    "paper": ((2, 128), (2, 256), (6, 256), (6, 512), (12, 768)),
}


def capacity(scale: str) -> Any:
    """Models of several sizes in worlds of several numbers of people (Part 3.3). They read the
    facts of each person 1,000 times, in new wordings; `capacity` is the only readout.

    At `laptop` the world is bioD with the smallest vocabulary, so that a small model has most of
    its parameters in its blocks, and the optimizer is Muon, with which such narrow models store
    more (docs/log.md); otherwise it is bioS. Heads are 64 wide there, as in the paper.
    """
    config = at(scale)
    config.data.update(variant="fresh", vocabulary="compact")
    config.model.update(dropout=0.0, attention_dropout=0.0)
    config.finetune.update(steps=0, grid=(), refit=False, embedding_rank=8)
    for name, readout in config.readouts.items():
        readout.enabled = name == "capacity"
    config.pretrain.update(steps=None, exposures=1000.0, final_lr_ratio=0.1)
    config.world.update(value_fraction=1.0, name_fraction=1.0)
    if scale == "laptop":
        config.world.update(folder="bioD(4,2,32,1,32)", name_fraction=0.05)
        config.data.tokenizer = "word"
        config.model.update(layers=2, heads=2, rotary_pct=0.5)
        config.model.init_std = 0.2  # about width**-0.5
        # Of twenty times the paper's learning rate, a tenth of its decay, and its last rate.
        config.pretrain.update(optimizer="muon", learning_rate=2e-2, weight_decay=0.002)
        config.pretrain.update(final_lr_ratio=0.01, warmup_steps=500)
        config.pretrain.update(steps_per_call=100, checkpoint_every=5000, evaluate_every=2000)
        people, batches = [250, 500, 1000, 2000], [4, 8, 16, 32]  # equal steps
        of_world = zipped(world__people=people, pretrain__batch_size=batches)
        config.sweep = product(of_world, model__width=[16, 24, 32])
        return config
    config.pretrain.update(warmup_steps=1000, steps_per_call=10)
    by_scale = {"gpu": (10_000, 20_000, 50_000), "paper": (*_CAPACITY,)[2:]}
    config.sweep = chain(
        *(
            _of_size(people, *size)
            for people in by_scale[scale]
            for size in _LAYERS_AND_WIDTHS[scale]
        )
    )
    return config


def _of_size(people: int, layers: int, width: int) -> Any:
    decay, rate, batch = _CAPACITY[people]
    return row(
        f"{people:,} people, {layers} layers of {width}",
        world__people=people,
        model__layers=layers,
        model__width=width,
        model__heads=width // 64,
        pretrain__weight_decay=decay,
        pretrain__learning_rate=rate,
        pretrain__batch_size=batch,
    )


_MANIPULATION = ("retrieval", "classification", "comparison", "inverse")


def manipulation(scale: str, task: str) -> Any:
    """The recipe of a scale without probes, which trains and asks the questions of one task (Part
    3.2). With a common `--cache` the experiments on all four tasks share their pretrained models.

    Their answers have tokens that no biography has (yes, no, digits, the semicolon between two
    values). Pretraining makes these improbable everywhere, and low ranks of queries and values do
    not mend that; so finetuning changes the output rows of these tokens, too. The paper leaves open
    whether its update of the embedding changed the output.
    """
    config = at(scale)
    config.data.tasks = _MANIPULATION
    for probe in (config.readouts.p_probe, config.readouts.q_probe):
        probe.enabled = False
    config.finetune.tasks = config.readouts.qa.tasks = (task,)
    config.finetune.embedding_side = "new"
    if scale == "laptop":
        pretrain_quickly(config, config.pretrain.steps)
        config.finetune.update(steps=1200, checkpoint_every=400)
    return config


def learning_curves(scale: str, task: str, questions: Sequence[str], laptop: Sequence[str]) -> Any:
    """Each question of a task by itself, with and without hints, about more and more people of
    P_train, after finetuning on the questions about their attributes (Part 3.2, section 4).

    Args:
      laptop: the questions on a laptop, where the sizes are three instead of the paper's five. The
        other scales also start from the pretrained model.
    """
    config, field = manipulation(scale, task), f"tasks__{task}__"
    first = {"tasks": [("extraction",)], "embedding_side": ["input"]}
    fractions = (0.1, 0.3, 1.0)
    if scale == "laptop":
        recipe = at(scale).finetune
        first |= {name: [recipe[name]] for name in ("steps", "weight_decay")}
        first |= {"embedding_rank": [16]}
        # More steps on one question wear off what the model recalls of people held out.
        config.finetune.update(steps=300, checkpoint_every=100, weight_decay=3.0)
    else:
        fractions, laptop = (0.05, 0.1, 0.2, 0.5, 1.0), questions
        first |= {"rank": [8], "learning_rate": [3e-4]}
        config.finetune.update(grid=(), rank=16, learning_rate=1e-3)
    config.finetune.first = product(**first)
    forms = {f"{field}questions": [(name,) for name in laptop], f"{field}hints": [False, True]}
    config.sweep = product(**forms, finetune__people_fraction=fractions)
    if scale != "laptop":
        config.sweep = product(product(finetune__first=[config.finetune.first, ()]), config.sweep)
    return config


def _trainings(config: Any) -> tuple[Any, ...]:
    probes = config.readouts.p_probe, config.readouts.q_probe, config.readouts.layers
    return config.pretrain, config.finetune, *probes
