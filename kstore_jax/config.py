"""The one place that reads configuration: a ConfigDict -> validated, frozen dataclasses.

The defaults are the paper's (Part 3.1, sections 2 to 5) for bioS and the 124M GPT-2, as far as it
tells them; a file in `configs/` says what differs. It does not tell `b1`, `b2`, `clip` and
`init_scale` (the values here are common ones), and it probes with dropout on, which is not there
yet. The whole list of what is done unlike the paper, and of what it leaves open, is in
`lab/paper.py` (`DEPARTURES`, `CHOSEN`) and at the end of every page.
"""

import copy
import dataclasses
import itertools
import typing
from collections.abc import Collection, Sequence
from typing import Any

import ml_collections

from kstore_jax.errors import UserError, nearest


def _number(default, least, most=None):
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def _one_of(default, *choices):
    return dataclasses.field(default=default, metadata={"choices": choices})


@dataclasses.dataclass(frozen=True)
class World:
    """Who exists. `pools` and `templates` are folders of one's own, the bundled ones when empty."""

    people: int = _number(100_000, 2)
    seed: int = _number(0, 0)
    pools: str = ""
    templates: str = ""


@dataclasses.dataclass(frozen=True)
class Data:
    """How they are written about, and the ids the model knows.

    `vocabulary`: `gpt2` for all 50257 ids, `compact` for those that texts about these people use.
    """

    variant: str = "multi5+permute"
    vocabulary: str = _one_of("gpt2", "gpt2", "compact")


@dataclasses.dataclass(frozen=True)
class Model:
    """A GPT-2 with rotary positions on a part of each head, and tied embedding.

    `rotary`: the rotated part of each head. `init_scale`: standard deviation of the initial
    weights. `dtype`: of the inputs of matrix products, whose sums and results are float32; `auto`
    is bfloat16 where the hardware multiplies it (accelerators, CPUs with AMX), else float32.
    """

    layers: int = _number(12, 1)
    heads: int = _number(12, 1)
    width: int = _number(768, 1)
    rotary: float = _number(0.25, 0.0, 1.0)
    init_scale: float = _number(0.02, 0.0)
    dtype: str = _one_of("auto", "auto", "float32", "bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"width: expected a multiple of heads = {self.heads}, got {self.width}")
        if (rotated := self.rotary * self.width / self.heads) % 2:
            raise UserError(
                f"rotary: expected an even number of rotated dimensions a head, got {rotated}"
            )


@dataclasses.dataclass(frozen=True)
class Training:
    """How weights change: AdamW and a schedule.

    `warmup`: steps of linear warm-up. `final`: the learning rate at the end, as a part of the
    peak. `clip`: global norm of the gradient, 0 for none. `dispatch`: steps a call of the
    compiled loop. `checkpoint_every`: steps between checkpoints, a multiple of `dispatch`.
    """

    steps: int = _number(80_000, 1)
    batch: int = _number(96, 1)
    learning_rate: float = _number(1e-3, 0.0)
    warmup: int = _number(0, 0)
    schedule: str = _one_of("cosine", "cosine", "linear")
    final: float = _number(0.1, 0.0, 1.0)
    weight_decay: float = _number(0.1, 0.0)
    b1: float = _number(0.9, 0.0, 1.0)
    b2: float = _number(0.95, 0.0, 1.0)
    eps: float = _number(1e-6, 0.0)
    clip: float = _number(1.0, 0.0)
    dispatch: int = _number(1, 1)
    checkpoint_every: int = _number(1000, 1)

    def __post_init__(self):
        if self.checkpoint_every % self.dispatch:
            raise UserError(
                f"checkpoint_every: expected a multiple of dispatch = {self.dispatch}, "
                f"got {self.checkpoint_every}"
            )


@dataclasses.dataclass(frozen=True)
class Pretrain(Training):
    """Part 3.1, section 3: 80,000 steps of 96 windows of 512 tokens."""

    window: int = _number(512, 2)
    warmup: int = _number(1000, 0)


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    """LoRA on queries and values (`rank`) and on the embedding's input side (`embedding_rank`).

    W' = W + alpha A B, A zero and B Gaussian at the start (Part 3.2, appendix B), with standard
    deviation `init_scale`, which the papers leave open.
    """

    steps: int = _number(50_000, 1)
    batch: int = _number(48, 1)
    learning_rate: float = _number(3e-4, 0.0)
    weight_decay: float = _number(0.01, 0.0)
    rank: int = _number(8, 1)
    embedding_rank: int = _number(128, 0)
    alpha: float = _number(4.0, 0.0)
    init_scale: float = _number(0.02, 0.0)


@dataclasses.dataclass(frozen=True)
class Probe(Training):
    """A probe on the frozen model: low-rank update of the embedding, norm, linear head. The paper
    leaves the model's dropout on; there is none here.

    `head`: `linear` trains norm and head, as the paper does with 50,000 people. With a few hundred
    a head of as many classes cannot be trained; `unembedding` takes the model's own rows for the
    first tokens of the values and trains the embedding update alone (first-token tasks only).
    `updated`: the tokens whose embedding is updated: `all`, as in the paper, or `shared`, those of
    templates and the end of text. With few people a name's token is nearly the person's own, and
    an update of it learns the training half by heart.
    """

    steps: int = _number(30_000, 1)
    schedule: str = _one_of("linear", "cosine", "linear")
    final: float = _number(0.0, 0.0, 1.0)
    weight_decay: float = _number(0.3, 0.0)
    clip: float = _number(0.0, 0.0)
    head: str = _one_of("linear", "linear", "unembedding")
    updated: str = _one_of("all", "all", "shared")


@dataclasses.dataclass(frozen=True)
class PProbe(Probe):
    """Part 3.1, section 5.1: rank 2, batches of 50 biographies.

    `entries`: how many biographies of each person are read, 0 for all.
    """

    batch: int = _number(50, 1)
    embedding_rank: int = _number(2, 1)
    entries: int = _number(0, 0)


@dataclasses.dataclass(frozen=True)
class QProbe(Probe):
    """Part 3.1, section 5.2: rank 16, batches of 200 names."""

    batch: int = _number(200, 1)
    embedding_rank: int = _number(16, 1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of a sweep: a world, a model, its training, and what is read out of it."""

    seed: int = _number(0, 0)
    world: World = World()
    data: Data = Data()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    p_probe: PProbe = PProbe()
    q_probe: QProbe = QProbe()


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict, to be changed by a configuration file.

    `world.seed` follows `seed` unless it is set itself. `sweep` holds the rows of a sweep, as
    `product` gives them; empty for a single experiment.
    """
    config = ml_collections.ConfigDict({**dataclasses.asdict(Experiment()), "sweep": ()})
    config.world.seed = ml_collections.config_dict.placeholder(int)
    return config


def product(**fields: Sequence) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """The rows of a sweep over every combination of values; `__` stands for the dot in a field.

    >>> product(data__variant=["single", "multi5"], seed=[0])
    ((('data.variant', 'single'), ('seed', 0)), (('data.variant', 'multi5'), ('seed', 0)))
    """
    names = [name.replace("__", ".") for name in fields]
    combinations = itertools.product(*fields.values())
    return tuple(tuple(zip(names, values, strict=True)) for values in combinations)


def parse_rows(
    config: ml_collections.ConfigDict, overridden: Collection[str] = ()
) -> list[Experiment]:
    """Validates a configuration, and every row of its sweep; UserError names the field.

    `overridden` are the dotted fields given on the command line: they win over the sweep, and rows
    that become equal by it are one.
    """
    base = config.to_dict()
    sweep = base.pop("sweep", ()) or ((),)
    try:
        rows = dict.fromkeys(
            tuple((field, value) for field, value in row if field not in overridden)
            for row in sweep
        )
    except (TypeError, ValueError):
        raise UserError("sweep: expected rows of (field, value), as product() gives them") from None
    return [parse(_with(base, row)) for row in rows]


def _with(base: dict, row: tuple[tuple[str, Any], ...]) -> dict:
    changed = copy.deepcopy(base)
    for field, value in row:
        *path, name = field.split(".")
        part = changed
        for step in path:
            part = part.setdefault(step, {})
            if not isinstance(part, dict):
                raise UserError(f"{field}: no such field")
        part[name] = value
    world = changed.get("world")
    if isinstance(world, dict) and world.get("seed") is None:
        world["seed"] = changed.get("seed", Experiment.seed)
    return changed


def parse(given: dict) -> Experiment:
    """Validates a whole configuration; raises UserError with one line that names the field."""
    return _parse(Experiment, given, "")


def _parse(kind: type, given: dict, path: str):
    if not isinstance(given, dict):
        raise UserError(f"{path.removesuffix('.')}: expected fields, got {given!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in given:
        if name not in fields:
            raise UserError(f"{path}{name}: no such field{nearest(name, fields)}")
    types = typing.get_type_hints(kind)
    read = {
        name: _parse(types[name], value, f"{path}{name}.")
        if dataclasses.is_dataclass(types[name])
        else _value(types[name], value, fields[name], path + name)
        for name, value in given.items()
    }
    try:
        return kind(**read)
    except UserError as error:
        raise UserError(f"{path}{error}") from None


def _value(kind: type, value, field: dataclasses.Field, path: str):
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{path}: expected {kind.__name__}, got {value!r}")
    least, most = field.metadata.get("least"), field.metadata.get("most")
    if least is not None and not value >= least:
        raise UserError(f"{path}: expected at least {least}, got {value!r}")
    if most is not None and not value <= most:
        raise UserError(f"{path}: expected at most {most}, got {value!r}")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(f"{path}: {value!r} is not a choice{nearest(value, choices)}")
    return value


def as_dict(config) -> dict:
    """A configuration, or a part of one, as plain JSON values."""
    return dataclasses.asdict(config)
