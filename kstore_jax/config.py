"""The one place that reads configuration: a ConfigDict -> validated, frozen dataclasses.

The defaults are the paper's (Part 3.1, sections 2 to 5) for bioS and the 124M GPT-2, as far as it
tells them; a file in `configs/` says what differs. It does not tell `b1`, `b2`, `clip`, `dropout`
and `init_scale` (the values here are common ones). The whole list of what is done unlike the paper,
and of what it leaves open, is in `lab/paper.py` (`DEPARTURES`, `CHOSEN`) and at the end of every
page.
"""

import copy
import dataclasses
import functools
import json
import typing
from collections.abc import Collection, Iterable
from typing import Any

import ml_collections

from kstore_jax.errors import UserError, nearest
from kstore_jax.rows import Row
from kstore_jax.rows import chain as chain
from kstore_jax.rows import product as product
from kstore_jax.rows import row as row
from kstore_jax.rows import zipped as zipped


def _number(default, least, most=None):
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def _one_of(default, *choices):
    return dataclasses.field(default=default, metadata={"choices": choices})


@dataclasses.dataclass(frozen=True)
class World:
    """Who exists. `pools` and `templates` are folders of one's own, the bundled ones when empty.

    `celebrities`: further people, numbered after the others, who are written about in
    `data.celebrity_variant` (Part 3.1, section 6); the questions about them are trained, and the
    others' are held out. `pool_share`: the share of each pool of values that they hold, from all
    over it and two at least; months are not thinned. Of the paper's 100,000 people 333 hold each
    university; a tenth of them among a tenth of the values are as many. `name_share`: that of the
    first, middle and last names. In the paper 250 people have each first name and 100 each last
    one, so that it takes the whole name to tell who is meant; of 500 people among all names, one
    word of it does.
    """

    people: int = _number(100_000, 2)
    celebrities: int = _number(0, 0)
    seed: int = _number(0, 0)
    pools: str = ""
    pool_share: float = _number(1.0, 0.0, 1.0)
    name_share: float = _number(1.0, 0.0, 1.0)
    templates: str = ""


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read in pretraining: biographies, and what is mixed in by whole windows.

    `tokenizer`: `gpt2`; `bpeN` or `word`, trained on these people's texts; or the path of a
    `tokenizer.json`. `vocabulary`: `full`, or `compact` for the ids that the texts use.
    `celebrity_share`: of the windows of biographies, those about celebrities; 0 shuffles all
    biographies together, so that each is read once a pass (the paper leaves the weight open).
    `qa_share`: the share of windows of questions about the people whose questions are trained,
    answered (QA_r, Part 3.1, section 3). `rewritten`: the folder of `kstore rewrite` whose texts
    are the biographies, instead of those of templates (bioR). `text`: real text, as
    `corpus/text.py` reads it; `text_share`: the share of its windows (half, in the paper's WikiBook
    control).
    """

    variant: str = "multi5+permute"
    tokenizer: str = "gpt2"
    vocabulary: str = _one_of("full", "full", "compact")
    celebrity_variant: str = "multi5+permute"
    celebrity_share: float = _number(0.0, 0.0, 1.0)
    qa_share: float = _number(0.0, 0.0, 1.0)
    rewritten: str = ""
    text: str = ""
    text_share: float = _number(0.5, 0.0, 1.0)

    def __post_init__(self):
        if self.celebrity_share >= 1.0:
            raise UserError(
                "celebrity_share: expected less than 1, or nobody else is read about, "
                f"got {self.celebrity_share}"
            )
        if self.qa_share + (self.text_share if self.text else 0.0) >= 1.0:
            raise UserError(
                "qa_share: expected to leave a share of biographies beside it and text_share = "
                f"{self.text_share if self.text else 0.0}, got {self.qa_share}"
            )


SIZES = {  # Part 3.1, section 2.2: GPT-2 of about so many parameters with GPT-2's vocabulary
    "124M": {"layers": 12, "heads": 12, "width": 768},
    "302M": {"layers": 12, "heads": 20, "width": 1280},
    "682M": {"layers": 12, "heads": 32, "width": 2048},
}
_GPT2 = {
    "group": 1,
    "positions": "rotary",
    "rotary": 0.25,
    "norm": "layer",
    "activation": "gelu",
    "bias": True,
    "tied": True,
}
_LLAMA = {
    "group": 1,
    "positions": "rotary",
    "rotary": 1.0,
    "norm": "rms",
    "activation": "swiglu",
    "bias": False,
    "tied": False,
}
STYLES = {
    "gpt2-rotary": _GPT2,
    "gpt2": {**_GPT2, "positions": "learned"},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "group": 4},
}
_NAMED = {"size": SIZES, "style": STYLES}  # fields of `model` that stand for several others


@dataclasses.dataclass(frozen=True)
class Network:
    """The network: by default the paper's GPT-2, rotary on a quarter of each head, tied embedding.

    A configuration may also name a `size` and a `style` (SIZES, STYLES): they stand for the fields
    they list, and a field that is set itself wins.

    Attributes:
      group: heads that share one key and value head (grouped queries; 1: each has its own).
      feed_forward: width between the two halves of a layer's second part; 0 is 4 `width`, or
        8/3 `width` up to a multiple of 64 for `swiglu`, which has three matrices there.
      positions: `rotary`, or `learned`: a table of `context` rows added to the embedding.
      rotary: the rotated part of each head. `rotary_base`: the longest wavelength is 2 pi times it.
      bias: whether products add one.
      tied: whether the head is the embedding.
      direction: `causal`, or `bidirectional`: each position sees all.
      dropout: of embeddings, attention weights and what is added to the residual, in pretraining
        and finetuning; rounded to a 256th, but not to 0. Attention programs other than `dense`
        drop nothing.
      attention: the program that computes it (`model/attention.py`); `auto` chooses one.
      init_scale: standard deviation of the initial weights.
      dtype: of the inputs of matrix products, whose sums and results are float32; `auto` is
        bfloat16 where the hardware multiplies it (accelerators, CPUs with AMX), else float32.
    """

    layers: int = _number(12, 1)
    heads: int = _number(12, 1)
    width: int = _number(768, 1)
    group: int = _number(1, 1)
    feed_forward: int = _number(0, 0)
    positions: str = _one_of("rotary", "rotary", "learned")
    context: int = _number(1024, 1)
    rotary: float = _number(0.25, 0.0, 1.0)
    rotary_base: float = _number(10_000.0, 1.0)
    norm: str = _one_of("layer", "layer", "rms")
    norm_epsilon: float = _number(1e-5, 0.0)
    activation: str = _one_of("gelu", "gelu", "swiglu")
    bias: bool = True
    tied: bool = True
    direction: str = _one_of("causal", "causal", "bidirectional")
    dropout: float = _number(0.0, 0.0, 0.99)
    attention: str = _one_of("auto", "auto", "dense", "xla", "cudnn", "splash")
    init_scale: float = _number(0.02, 0.0)
    dtype: str = _one_of("auto", "auto", "float32", "bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"width: expected a multiple of heads = {self.heads}, got {self.width}")
        if self.heads % self.group:
            raise UserError(f"group: expected a divisor of heads = {self.heads}, got {self.group}")
        if (rotated := self.rotary * self.width / self.heads) % 2:
            raise UserError(
                f"rotary: expected an even number of rotated dimensions a head, got {rotated}"
            )


@dataclasses.dataclass(frozen=True)
class Model(Network):
    """The network, and where its training starts.

    `init_from`: a folder of Hugging Face with `config.json` and safetensors whose weights are
    where pretraining starts; empty to draw them.
    """

    init_from: str = ""


@dataclasses.dataclass(frozen=True)
class Training:
    """How weights change: an optimizer and a schedule.

    `optimizer`: `adamw`, or `muon` for the matrices of the blocks (of a probe, its head) and AdamW
    for the rest. `b1`, `b2`: AdamW's, also beside Muon, whose momentum is 0.95. `eps`: added to the
    denominators of both. `warmup`: steps of linear warm-up. `final`: the learning rate at the end,
    as a part of the peak. `clip`: global norm of the gradient, 0 for none. `accumulate`: parts of a
    batch whose gradients are computed one after the other, for less memory; the step is that of the
    whole batch (BatchNorm sees a part, and dropout draws for one). `dispatch`: steps a call of the
    compiled loop. `skip_nonfinite`: how many steps in a row may have a gradient that is not finite
    and be left out; 0 stops at the first. `checkpoint_every`: steps between checkpoints, a multiple
    of `dispatch`; the newest two are kept. `checkpoint_minutes`: one is also written when so long
    has passed, 0 for none. `keep_every`: checkpoints of multiples of so many steps, a multiple of
    `checkpoint_every`, are kept for good, 0 for none.
    """

    steps: int = _number(80_000, 1)
    batch: int = _number(96, 1)
    learning_rate: float = _number(1e-3, 0.0)
    warmup: int = _number(0, 0)
    optimizer: str = _one_of("adamw", "adamw", "muon")
    schedule: str = _one_of("cosine", "cosine", "linear")
    final: float = _number(0.1, 0.0, 1.0)
    weight_decay: float = _number(0.1, 0.0)
    b1: float = _number(0.9, 0.0, 1.0)
    b2: float = _number(0.95, 0.0, 1.0)
    eps: float = _number(1e-6, 0.0)
    clip: float = _number(1.0, 0.0)
    accumulate: int = _number(1, 1)
    skip_nonfinite: int = _number(0, 0)
    dispatch: int = _number(1, 1)
    checkpoint_every: int = _number(1000, 1)
    checkpoint_minutes: float = _number(0.0, 0.0)
    keep_every: int = _number(0, 0)

    def __post_init__(self):
        for name, of in (
            ("checkpoint_every", "dispatch"),
            ("evaluate_every", "dispatch"),
            ("keep_every", "checkpoint_every"),
        ):
            if (steps := getattr(self, name, 0)) % getattr(self, of):
                raise UserError(
                    f"{name}: expected a multiple of {of} = {getattr(self, of)}, got {steps}"
                )
        if self.optimizer == "muon" and not self.trains_matrices:
            raise UserError(
                "optimizer: expected adamw, since no matrix that muon moves is trained here, got "
                "'muon'"
            )
        if self.batch % self.accumulate:
            raise UserError(
                f"accumulate: expected a divisor of batch = {self.batch}, got {self.accumulate}"
            )
        if self.warmup and self.warmup >= self.steps:
            raise UserError(f"warmup: expected less than steps = {self.steps}, got {self.warmup}")

    @property
    def trains_matrices(self) -> bool:
        """Whether whole matrices of the blocks or of a head are among what is trained."""
        return True


@dataclasses.dataclass(frozen=True)
class Pretrain(Training):
    """Part 3.1, section 3: 80,000 steps of 96 windows of 512 tokens.

    `evaluate_every`: steps between looks at what the model knows (the dynamics of Fig. 1), 0 for
    none: whether it continues biographies and answers questions, about `evaluate_people` of P_train
    and as many of P_test.
    """

    window: int = _number(512, 2)
    warmup: int = _number(1000, 0)
    evaluate_every: int = _number(0, 0)
    evaluate_people: int = _number(200, 1)


@dataclasses.dataclass(frozen=True)
class Finetune(Training):
    """LoRA on queries and values (`rank`) and on the embedding (`embedding_rank`), or all weights.

    W' = W + alpha A B, A zero and B Gaussian at the start (Part 3.2, appendix B), with standard
    deviation `init_scale`, which the papers leave open.

    Attributes:
      steps: 0 asks the pretrained model itself, as after mixed training.
      method: `lora`, or `full` to train every weight.
      rank: 0 leaves queries and values as they are, -1 trains their whole matrices.
      embedding_rank: likewise, of the embedding.
      embedding_side: where an update of the embedding acts: its `input` alone, or `both` input and
        head, where they are tied.
      grid: rows of other values of these fields, as `product` gives them. Each row is finetuned on
        P_train but for a share `validation` of its people; the one that answers most about these
        is the one that is asked about P_test.
    """

    steps: int = _number(50_000, 0)
    batch: int = _number(48, 1)
    learning_rate: float = _number(3e-4, 0.0)
    weight_decay: float = _number(0.01, 0.0)
    method: str = _one_of("lora", "lora", "full")
    rank: int = _number(8, -1)
    embedding_rank: int = _number(128, -1)
    embedding_side: str = _one_of("input", "input", "both")
    alpha: float = _number(4.0, 0.0)
    init_scale: float = _number(0.02, 0.0)
    grid: tuple = ()
    validation: float = _number(0.1, 0.0, 0.9)

    def __post_init__(self):
        super().__post_init__()
        if self.method == "lora" and self.rank == self.embedding_rank == 0:
            raise UserError("rank: expected other than 0 beside embedding_rank = 0")
        _ = self.rows

    @property
    def trains_matrices(self) -> bool:
        return self.method == "full"

    @property
    def rows(self) -> "tuple[Finetune, ...]":
        """What is finetuned: each row of the grid, or this one alone where there is none."""
        if not self.grid:
            return (self,)
        if not self.steps or not self.validation:
            raise UserError("grid: expected steps and validation to be more than 0 with it")
        plain = {**dataclasses.asdict(self), "grid": ()}
        rows = _without((), self.grid, "grid")
        return tuple(_parse(Finetune, {**plain, **dict(row)}, "grid.") for row in rows)


@dataclasses.dataclass(frozen=True)
class QA:
    """How questions are asked.

    `beam`: 1 counts an answer where greedy decoding gives it, by one forward; more also counts what
    a beam search so wide finds (the paper's is 4).
    """

    beam: int = _number(1, 1)


@dataclasses.dataclass(frozen=True)
class Probe(Training):
    """A probe on the frozen model: low-rank update of the embedding, norm, linear head.

    `dropout`: of the frozen model while a probe is trained; the paper leaves it on.
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
    dropout: float = _number(0.1, 0.0, 0.99)
    head: str = _one_of("linear", "linear", "unembedding")
    updated: str = _one_of("all", "all", "shared")

    @property
    def trains_matrices(self) -> bool:
        return self.head == "linear"


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
class Telemetry:
    """What is told of the trainings beside `metrics.jsonl`; no stage depends on it.

    Attributes:
      tensorboard: whether the metrics also go to TensorBoard (extra `tensorboard`), into a folder
        of the stage.
      wandb: the project of Weights & Biases they also go to (extra `wandb`), empty for none;
        offline with WANDB_MODE=offline in the environment.
      profile_from: the first step that is profiled, into the stage's folder.
      profile_steps: how many are, 0 for none.
    """

    tensorboard: bool = False
    wandb: str = ""
    profile_from: int = _number(100, 0)
    profile_steps: int = _number(0, 0)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How the devices are used; what is computed does not depend on it but for rounding.

    `data`: copies of the model, each with its rows of the batch, 0 for as many as there are devices
    left; `fsdp`: parts that weights and optimizer state are cut into, with rows of their own;
    `tensor`: parts that each product is cut into.
    """

    data: int = _number(0, 0)
    fsdp: int = _number(1, 1)
    tensor: int = _number(1, 1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of a sweep: a world, a model, its training, and what is read out of it.

    `name`: what results and page call it, for the reader; nothing that is computed depends on it.
    """

    name: str = ""
    seed: int = _number(0, 0)
    world: World = World()
    data: Data = Data()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    qa: QA = QA()
    p_probe: PProbe = PProbe()
    q_probe: QProbe = QProbe()
    mesh: Mesh = Mesh()
    telemetry: Telemetry = Telemetry()

    @property
    def label(self) -> str:
        """What it is called: its name, or else its dataset and seed."""
        return self.name or f"{self.data.variant}, seed {self.seed}"

    def __post_init__(self):
        if self.data.celebrity_share and not self.world.celebrities:
            raise UserError("data.celebrity_share: expected world.celebrities to be set with it")
        if self.qa.beam > 1 and self.model.direction == "bidirectional":
            raise UserError(f"qa.beam: expected 1 of a bidirectional model, got {self.qa.beam}")
        ranks = [("finetune.rank", row.rank) for row in self.finetune.rows]
        for part in (*self.finetune.rows, self.p_probe, self.q_probe):
            name = {PProbe: "p_probe", QProbe: "q_probe"}.get(type(part), "finetune")
            ranks.append((f"{name}.embedding_rank", part.embedding_rank))
        for name, rank in ranks:
            if rank > self.model.width:
                raise UserError(
                    f"{name}: expected at most model.width = {self.model.width}, got {rank}"
                )
        if self.model.positions == "learned" and self.pretrain.window > self.model.context:
            raise UserError(
                f"pretrain.window: expected at most model.context = {self.model.context}, "
                f"got {self.pretrain.window}"
            )


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict, to be changed by a configuration file.

    `world.seed` follows `seed` unless it is set itself, and fields of `model` follow `model.size`
    and `model.style`. `sweep` holds the rows of a sweep, as `product`, `zipped`, `chain` and `row`
    give them (`rows.py`); empty for a single experiment.
    """
    config = ml_collections.ConfigDict({**dataclasses.asdict(Experiment()), "sweep": ()})
    config.world.seed = ml_collections.config_dict.placeholder(int)
    for name, choices in _NAMED.items():
        for field, value in next(iter(choices.values())).items():
            config.model[field] = ml_collections.config_dict.placeholder(type(value))
        config.model[name] = next(iter(choices))
    return config


def parse_rows(
    config: ml_collections.ConfigDict, overridden: Collection[str] = ()
) -> list[Experiment]:
    """Validates a configuration, and every row of its sweep; UserError names the field,
    and the row where it is that of a row.

    `overridden` are the dotted fields given on the command line: they win over the file and the
    sweep, and rows that become equal by it, whatever their names, are one with the first's name.
    So do they over `finetune.grid`, which `finetune.steps` = 0 given there drops.
    """
    base, rows = _base_and_rows(config, overridden)
    numbers = range(len(rows)) if len(rows) > 1 else [None]
    experiments = [
        _parse_row(base, row, i, overridden) for i, row in zip(numbers, rows, strict=True)
    ]
    kept: dict[Experiment, Experiment] = {}
    for experiment in experiments:
        kept.setdefault(dataclasses.replace(experiment, name=""), experiment)
    return [*kept.values()]


def _parse_row(base: dict, row: Row, number: int | None, overridden: Collection[str]) -> Experiment:
    """One row of a sweep, which the error names by its number, where it has one, unless the error
    is that of the base alone."""

    def parsed(row: Row) -> Experiment:
        return parse(_over_grid(overridden, _with(base, row)))

    try:
        return parsed(row)
    except UserError as error:
        if number is None:
            raise
        try:
            parsed(())
        except UserError as of_base:
            if str(of_base) == str(error):
                raise error from None
        name = dict(row).get("name") or ", ".join(f"{field}={value}" for field, value in row)
        raise UserError(f"row {number} ({name}): {error}") from None


def parse_base(
    config: ml_collections.ConfigDict, overridden: Collection[str] = ()
) -> tuple[Experiment, int]:
    """Validates a configuration without its sweep.

    Returns: the experiment, and how many rows the sweep has, 0 where it would run nothing else.
    """
    base, rows = _base_and_rows(config, overridden)
    different = {tuple((field, value) for field, value in row if field != "name") for row in rows}
    return parse(_over_grid(overridden, _with(base, ()))), 0 if different == {()} else len(
        different
    )


def _base_and_rows(
    config: ml_collections.ConfigDict, overridden: Collection[str]
) -> tuple[dict, list[Row]]:
    """What all rows of a sweep start from, and what each sets that is not overridden, once."""
    base = config.to_dict()
    sweep = base.pop("sweep", ()) or ((),)
    for name, choices in _NAMED.items():
        if f"model.{name}" in overridden:
            stood_for = {f"model.{field}" for fields in choices.values() for field in fields}
            base = _with(base, [(field, None) for field in stood_for.difference(overridden)])
            overridden = stood_for.union(overridden)
    return base, _without(overridden, sweep, "sweep")


def _without(fields: Collection[str], rows: Iterable[Row], name: str) -> list[Row]:
    """What rows set beside `fields`, once; UserError names them by `name` where they are none."""
    try:
        given = [[(field, value) for field, value in row] for row in rows]
        if not all(isinstance(field, str) for row in given for field, _ in row):
            raise TypeError
        left = (tuple(pair for pair in row if pair[0] not in fields) for row in given)
        return [*dict.fromkeys(left)]
    except (TypeError, ValueError):
        raise UserError(
            f"{name}: expected rows of (field, value), as product() and chain() give"
        ) from None


def _over_grid(overridden: Collection[str], given: dict) -> dict:
    """`given` with what is left of the grid of finetuning beside the fields that are overridden,
    which is nothing where they ask for no finetuning."""
    finetune = given.get("finetune")
    if not isinstance(finetune, dict) or not finetune.get("grid"):
        return given
    fields = {field.removeprefix("finetune.") for field in overridden}
    left = _without(fields, finetune["grid"], "finetune.grid")
    if left == [()] or ("steps" in fields and finetune["steps"] == 0):
        left = []
    return {**given, "finetune": {**finetune, "grid": tuple(left)}}


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
    if isinstance(given, dict) and isinstance(model := given.get("model"), dict):
        given = {**given, "model": _spelt_out(model)}
    return _parse(Experiment, given, "")


def _spelt_out(model: dict) -> dict:
    """`model` with the fields that its size and style stand for, and without their names."""
    model = dict(model)
    for name, choices in _NAMED.items():
        if (chosen := model.pop(name, None)) is None:
            continue
        if not isinstance(chosen, str) or chosen not in choices:
            raise UserError(f"model.{name}: no {name} {chosen!r}{nearest(str(chosen), choices)}")
        for field, value in choices[chosen].items():
            if model.get(field) is None:
                model[field] = value
    return model


_types = functools.cache(typing.get_type_hints)


def _parse(kind: type, given: dict, path: str):
    if not isinstance(given, dict):
        raise UserError(f"{path.removesuffix('.')}: expected fields, got {given!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in given:
        if name not in fields:
            raise UserError(f"{path}{name}: no such field{nearest(name, fields)}")
    types = _types(kind)
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
    if kind is tuple and type(value) is list:
        value = tuple(value)
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
    return json.loads(json.dumps(dataclasses.asdict(config)))


_ASIDE = ("name", "mesh", "telemetry", "checkpoint_every", "checkpoint_minutes", "keep_every")


def identity(plain: dict) -> dict:
    """What results depend on, of a configuration or a part of one, as `as_dict` gives them."""
    return {
        name: identity(value) if isinstance(value, dict) else value
        for name, value in plain.items()
        if name not in _ASIDE
    }
