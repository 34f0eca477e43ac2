"""The configuration of an experiment: errors, sweeps, sizes and styles."""

import dataclasses
import json
import re

import pytest

from kstore_jax.config.fields import as_dict
from kstore_jax.config.rows import chain, product, row
from kstore_jax.corpus.config import Data
from kstore_jax.errors import UserError
from kstore_jax.model.config import SIZES, STYLES, style_fields
from kstore_jax.pipeline.experiment import (
    Experiment,
    Finetune,
    Pretrain,
    default,
    parse,
    parse_base,
    parse_rows,
)
from kstore_jax.pipeline.results import labels
from kstore_jax.world.config import World


def changed(field: str, value) -> dict:
    """The default as a plain dictionary, with one dotted field set."""
    values = as_dict(Experiment())
    section = values
    *path, name = field.split(".")
    for step in path:
        section = section[step]
    section[name] = value
    return values


def error_of(read, values) -> str:
    """The error of `read`, which has to be one line."""
    with pytest.raises(UserError) as error:
        read(values)
    assert error.value.status == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_default_is_the_papers_experiment():
    assert parse_rows(default()) == [Experiment()]
    assert parse({}) == Experiment()


def test_an_experiment_survives_json():
    experiment = parse(changed("data.variant", "single"))
    assert parse(json.loads(json.dumps(as_dict(experiment)))) == experiment
    assert experiment.data.variant == "single"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sead", 1, "sead: no such field; did you mean 'seed'?"),
        ("pretrain.stpes", 1, "pretrain.stpes: no such field; did you mean 'steps'?"),
        (
            "readouts.p_probe.rank",
            1,
            "readouts.p_probe.rank: no such field; valid: enabled, steps, ",
        ),
        ("finetune.rank", 769, "finetune.rank: expected at most model.width = 768, got 769"),
        (
            "readouts.q_probe.embedding_rank",
            999,
            "readouts.q_probe.embedding_rank: expected at most model.width",
        ),
        ("finetune.rank", -2, "finetune.rank: expected at least -1, got -2"),
        (
            "finetune.method",
            "lorra",
            "finetune.method: 'lorra' is not a choice; did you mean 'lora'",
        ),
        (
            "finetune.grid",
            ((("learning_rat", 1e-3),),),
            "finetune.grid.learning_rat: no such field",
        ),
        ("finetune.grid", (3,), "finetune.grid: expected rows of (field, value)"),
        (
            "finetune.grid",
            ((("rank", 0.5),),),
            "finetune.grid.rank: expected a whole number, got 0.5",
        ),
        ("pretrain.skip_nonfinite", -1, "pretrain.skip_nonfinite: expected at least 0, got -1"),
        ("data.qa_share", 1.5, "data.qa_share: expected at most 1.0, got 1.5"),
        ("finetune.seq_len", 9, "finetune.seq_len: no such field"),
        ("world.people", "400", "world.people: expected a whole number, got '400'"),
        ("world.people", 400.0, "world.people: expected a whole number, got 400.0"),
        ("world.people", True, "world.people: expected a whole number, got True"),
        ("world.people", None, "world.people: expected a whole number, got None"),
        ("model.rotary_pct", "0.25", "model.rotary_pct: expected a number, got '0.25'"),
        ("model.rotary_pct", True, "model.rotary_pct: expected a number, got True"),
        ("data.variant", 5, "data.variant: expected text, got 5"),
        ("world", 5, "world: expected fields, got 5"),
        ("world", "people", "world: expected fields, got 'people'"),
        ("world.people", 1, "world.people: expected at least 2, got 1"),
        ("pretrain.steps", 0, "pretrain.steps: expected at least 1, got 0"),
        ("model.rotary_pct", 1.5, "model.rotary_pct: expected at most 1.0, got 1.5"),
        ("pretrain.adamw.b1", -0.1, "pretrain.adamw.b1: expected at least 0.0, got -0.1"),
        (
            "pretrain.learning_rate",
            float("nan"),
            "pretrain.learning_rate: expected a finite number",
        ),
        (
            "data.vocabulary",
            "compct",
            "data.vocabulary: 'compct' is not a choice; did you mean 'compact'",
        ),
        ("data.qa_share", 1.0, "data.qa_share: expected to leave a share of biographies"),
        ("finetune.schedule", "cos", "finetune.schedule: 'cos' is not a choice"),
        ("model.heads", 7, "model.width: expected a multiple of heads = 7, got 768"),
        ("model.num_kv_heads", 5, "model.num_kv_heads: expected a divisor of heads = 12, got 5"),
        ("model.attention", "spalsh", "model.attention: 'spalsh' is not a choice; did you mean"),
        (
            "model.rotary_pct",
            0.015625,
            "model.rotary_pct: expected an even number of rotated dimensions",
        ),
        (
            "pretrain.warmup_steps",
            80_000,
            "pretrain.warmup_steps: expected less than steps = 80000, got 80000",
        ),
        ("pretrain.steps", 500, "pretrain.warmup_steps: expected less than steps = 500, got 1000"),
        (
            "pretrain.keep_checkpoint_every",
            1500,
            "pretrain.keep_checkpoint_every: expected a multiple of checkpoint_every = 1000",
        ),
        (
            "readouts.q_probe.steps_per_call",
            7,
            "readouts.q_probe.checkpoint_every: expected a multiple of steps_per_call = 7",
        ),
    ],
)
def test_an_error_names_the_dotted_field(field, value, message):
    assert error_of(parse, changed(field, value)).startswith(message)


def test_parse_accepts_every_default():
    values = as_dict(Experiment())
    assert as_dict(parse(values)) == values
    assert set(values) == {field.name for field in dataclasses.fields(Experiment)}


def swept(**fields):
    config = default()
    config.sweep = product(**fields)
    return config


def test_a_sweep_has_a_row_for_every_combination():
    rows = parse_rows(swept(data__variant=["single", "multi5"], model__layers=[4, 8, 12]))
    assert [(row.data.variant, row.model.layers) for row in rows] == [
        (variant, layers) for variant in ("single", "multi5") for layers in (4, 8, 12)
    ]
    assert dataclasses.replace(rows[5], data=Experiment().data) == Experiment()


def test_equal_rows_run_once_under_the_first_name():
    config = default()
    config.sweep = chain(
        row("fixed", data__variant="single"),
        product(row("shuffled", data__variant="multi5+permute"), seed=[0, 1]),
        row("again", data__variant="single"),
    )
    rows = [(e.name, e.data.variant, e.seed) for e in parse_rows(config)]
    shuffled = [("shuffled", "multi5+permute", seed) for seed in (0, 1)]
    assert rows == [("fixed", "single", 0), *shuffled]
    config.data.variant = "multi2"
    rows = [(e.name, e.data.variant, e.seed) for e in parse_rows(config, {"data.variant"})]
    assert rows == [("fixed", "multi2", 0), ("shuffled", "multi2", 1)]
    config.name = "mine"
    assert {e.name for e in parse_rows(config, {"name"})} == {"mine"}


def test_the_command_line_overrides_the_sweep():
    config = swept(data__variant=["single", "multi5"], model__layers=[4, 8])
    config.data.variant = "multi2"
    rows = parse_rows(config, overridden={"data.variant"})
    assert [(row.data.variant, row.model.layers) for row in rows] == [("multi2", 4), ("multi2", 8)]


def finetunings(overridden, grid=(("rank", [8, 16]), ("learning_rate", [1e-4])), **fields):
    """Steps, grid, and the rank and learning rate of every row, with `fields` set; the command line
    sets the fields `overridden`."""
    config = default()
    config.finetune.update(fields)
    rows = product(**dict(grid))
    config.finetune.grid = rows
    config.sweep = chain(row("of the file"), row("its own", seed=1, finetune__grid=rows))
    dotted = {f"finetune.{field}" for field in overridden}
    experiments = parse_rows(config, dotted)
    assert [e.name for e in experiments] == ["of the file", "its own"]
    assert parse_base(config, dotted)[0].finetune in [e.finetune for e in experiments]
    (settings,) = {
        (e.finetune.steps, e.finetune.grid, *((r.rank, r.learning_rate) for r in e.finetune.rows))
        for e in experiments
    }
    return settings


def test_the_command_line_overrides_the_grid_of_finetuning():
    steps, ranks = 50_000, {"grid": (("rank", [8, 16]),)}
    assert finetunings([])[2:] == ((8, 1e-4), (16, 1e-4))
    assert finetunings(["rank"], rank=4) == (steps, ((("learning_rate", 1e-4),),), (4, 1e-4))
    assert finetunings(["rank"], rank=4, **ranks) == (steps, (), (4, 3e-4))
    assert finetunings(["learning_rate"], learning_rate=1.0)[2:] == ((8, 1.0), (16, 1.0))
    assert finetunings(["steps"], steps=9)[2:] == ((8, 1e-4), (16, 1e-4))
    assert finetunings(["steps"], steps=0) == (0, (), (8, 3e-4))
    with pytest.raises(UserError, match=r"^finetune\.grid: expected steps and validation"):
        finetunings([], steps=0)
    config = default()
    config.finetune.grid = (3,)
    message = error_of(lambda values: parse_rows(values, {"finetune.rank"}), config)
    assert message.startswith("finetune.grid: expected rows of (field, value)")


def test_parse_base_returns_the_experiment_and_the_number_of_rows():
    config = swept(data__variant=["single", "multi5"], seed=[0, 1])
    config.data.variant = "multi2"
    base = dataclasses.replace(
        Experiment(), data=dataclasses.replace(Experiment().data, variant="multi2")
    )
    assert parse_base(config) == (base, 4)
    assert parse_base(config, {"data.variant"}) == (base, 2)
    assert parse_base(config, {"data.variant", "seed"}) == (base, 0)
    assert parse_base(default()) == (Experiment(), 0)
    config.sweep = chain(row("one"), row("other"))
    assert parse_base(config) == (base, 0)
    config.sweep = row("one", seed=1)
    assert parse_base(config) == (base, 1)
    config.sweep = (3,)
    assert error_of(parse_base, config).startswith("sweep: ")


def test_an_error_in_a_sweep_names_the_field():
    assert error_of(parse_rows, swept(model__layrs=[4])).startswith("model.layrs: no such field; ")
    assert error_of(parse_rows, swept(modl__layers=[4])).startswith("modl: no such field; ")
    assert error_of(parse_rows, swept(seed__layers=[4])).startswith("seed.layers: no such field")
    message = error_of(parse_rows, swept(model__layers=[4, "8"]))
    assert message.startswith("row 1 (model.layers=8): model.layers: expected")
    message = error_of(parse_rows, swept(model__layers=[[4]]))
    assert message == "model.layers: expected a whole number, got (4,)"


def test_an_error_names_the_row_only_where_the_row_causes_it():
    config = default()
    config.sweep = chain(row("default"), row("narrow", model__width=8, model__heads=1))
    message = r"row 1 \(narrow\): \S+rank: expected at most model.width = 8"
    assert re.match(message, error_of(parse_rows, config))
    config.pretrain.steps = -1
    assert error_of(parse_rows, config).startswith("pretrain.steps: expected")


@pytest.mark.parametrize("sweep", [(3,), (("seed",),), ("seed",), ((("seed", 1, 2),),)])
def test_a_sweep_must_be_rows(sweep):
    config = default()
    config.sweep = sweep
    assert error_of(parse_rows, config).startswith("sweep: ")


def test_the_seed_of_the_world_follows_the_seed_unless_it_is_set():
    config = default()
    config.seed = 3
    assert [(e.seed, e.world.seed) for e in parse_rows(config)] == [(3, 3)]
    config.world.seed = 5
    assert [(e.seed, e.world.seed) for e in parse_rows(config)] == [(3, 5)]
    assert [(e.seed, e.world.seed) for e in parse_rows(swept(seed=[0, 1]))] == [(0, 0), (1, 1)]
    both = swept(seed=[0, 1], world__seed=[7])
    assert [(e.seed, e.world.seed) for e in parse_rows(both)] == [(0, 7), (1, 7)]


def model_with(overridden=(), **fields):
    """The default `model` with some of its fields set."""
    config = default()
    config.model.update(fields)
    (row,) = parse_rows(config, {f"model.{field}" for field in overridden})
    return row.model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("style", STYLES)
def test_a_size_and_a_style_set_their_fields(size, style):
    fields = {**SIZES[size], **style_fields(style, SIZES[size]["heads"])}
    expected = dataclasses.replace(Experiment().model, **fields)
    assert model_with(size=size, style=style) == expected


def test_a_field_overrides_the_size_and_the_style():
    model = model_with(size="302M", style="llama", layers=3, tie_embeddings=True)
    assert (model.layers, model.heads, model.tie_embeddings, model.bias) == (3, 20, True, False)


def test_a_size_on_the_command_line_overrides_the_fields_of_the_file():
    file = {"layers": 3, "heads": 2, "width": 64, "rotary_pct": 1.0}
    model = model_with({"size"}, size="302M", **file)
    assert (model.layers, model.heads, model.width, model.rotary_pct) == (12, 20, 1280, 1.0)
    model = model_with({"size", "layers"}, size="302M", **file)
    assert (model.layers, model.heads, model.width) == (3, 20, 1280)


def test_rows_of_a_sweep_may_set_sizes_and_styles():
    rows = parse_rows(swept(model__size=["302M", "124M"], model__style=["llama"]))
    assert [(row.model.width, row.model.norm) for row in rows] == [(1280, "rms"), (768, "rms")]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", "125M", "model.size: no size '125M'; did you mean '124M'?"),
        ("style", "lama", "model.style: no style 'lama'; did you mean 'llama'?"),
        ("size", 124, "model.size: no size 124; did you mean '124M'?"),
        ("size", [], "model.size: no size []; valid: 124M, 302M, 682M"),
    ],
)
def test_an_unknown_size_or_style_names_the_nearest(field, value, message):
    assert error_of(parse, {"model": {field: value}}) == message


def test_windows_fit_in_the_learned_positions():
    values = {"model": {"style": "gpt2", "max_positions": 256}}
    message = "pretrain.seq_len: expected at most model.max_positions = 256, got 512"
    assert error_of(parse, values) == message


def test_rows_with_the_same_name_are_told_apart_by_what_differs_between_them():
    alone = Experiment(name="alone", finetune=Finetune(steps=7))
    variants = [Experiment(name="b", data=Data(variant=v)) for v in ("single", "multi2")]
    seeds = [Experiment(seed=1, pretrain=Pretrain(steps=50, warmup_steps=0)), Experiment(seed=1)]
    assert labels([alone, *variants, *seeds, Experiment(seed=2)]) == [
        "alone",
        "b; data.variant=single",
        "b; data.variant=multi2",
        "multi5+permute, seed 1; pretrain.steps=50, pretrain.warmup_steps=0",
        "multi5+permute, seed 1; pretrain.steps=80000, pretrain.warmup_steps=1000",
        "multi5+permute, seed 2",
    ]
    first = Experiment(name="b")
    same, another = (Experiment(name="b", seed=1, world=World(seed=seed)) for seed in (1, 5))
    assert labels([first, same]) == ["b; seed=0", "b; seed=1"]
    assert labels([first, another]) == ["b; seed=0, world.seed=0", "b; seed=1, world.seed=5"]


def length_with(overridden=(), row=None, **fields) -> tuple[int, float]:
    """Steps and exposures where a file sets these fields of `pretrain`, and a row or the command
    line others."""
    config = default()
    config.pretrain.update({"warmup_steps": 0, **fields})
    config.sweep = product(**{f"pretrain__{name}": [value] for name, value in (row or {}).items()})
    (experiment,) = parse_rows(config, {f"pretrain.{field}" for field in overridden})
    return experiment.pretrain.steps, experiment.pretrain.exposures


def test_steps_or_exposures_give_the_length_of_pretraining():
    assert length_with() == (80_000, 0.0)
    assert length_with(steps=50) == (50, 0.0)
    assert length_with(exposures=540.0) == (0, 540.0)  # steps follow from the data
    assert length_with(row={"exposures": 108.0}, exposures=540.0) == (0, 108.0)
    assert parse({"pretrain": {"exposures": 540}}).pretrain.steps == 0
    computed = {"exposures": 540, "steps": 70, "warmup_steps": 0}  # as in a run's config.json
    assert parse({"pretrain": computed}).pretrain.steps == 70


def test_a_row_and_the_command_line_replace_the_other_length():
    assert length_with(row={"exposures": 9.0}, steps=50) == (0, 9.0)
    assert length_with(row={"steps": 50}, exposures=9.0) == (50, 0.0)
    assert length_with(row={"exposures": 0.0}, steps=50) == (50, 0.0)
    config = default()
    config.pretrain.update(steps=50, exposures=9.0, warmup_steps=0)
    for field, expected in (("steps", (50, 0.0)), ("exposures", (0, 9.0))):
        (experiment,) = parse_rows(config, {f"pretrain.{field}"})
        assert (experiment.pretrain.steps, experiment.pretrain.exposures) == expected


@pytest.mark.parametrize("overridden", [{}, {"pretrain.steps", "pretrain.exposures"}])
def test_steps_beside_exposures_are_refused(overridden):
    config = default()
    config.pretrain.update(steps=50, exposures=9.0, warmup_steps=0)
    message = "pretrain.steps: expected 0 beside pretrain.exposures = 9.0, got 50"
    assert error_of(lambda c: parse_rows(c, overridden), config) == message
    config.pretrain.update(steps=0, exposures=0.0)
    assert error_of(parse_rows, config) == "pretrain.steps: expected at least 1, got 0"
