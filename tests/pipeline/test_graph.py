"""Each field of the configuration is in the keys of the stages that depend on it."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from kstore_jax.config.rows import product
from kstore_jax.model.base import ARCHITECTURES, Architecture
from kstore_jax.model.hf_config import to_config
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import Experiment, Finetune, parse
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts.base import READOUTS, STAGES, Readout
from kstore_jax.tasks.base import TASKS, Task, TaskConfig
from kstore_jax.train.muon import MuonConfig
from kstore_jax.train.schedules import CosineConfig, LinearConfig
from kstore_jax.world.config import World
from kstore_jax.world.schema import BUNDLED_WORLD

ALL = ("shards", "pretrain", "finetune", "capacity", "examples", "p_probe", "q_probe")
ALL += ("qa", "recall")
DEPENDENT = {  # field, or section for its other fields: kinds of the stages that depend on it
    ("world",): ALL,
    ("world", "celebrities"): ALL[1:],
    ("data",): ALL[1:],
    ("data", "variant"): ALL,
    ("data", "tokenizer"): ALL,
    ("name",): (),
    ("seed",): ALL[1:],
    ("model",): ALL[1:],
    ("pretrain",): ALL[1:],
    ("data", "tasks"): (),
    ("finetune",): ("finetune", "examples", "qa"),
    ("readouts", "capacity"): ("capacity",),
    ("readouts", "capacity", "people"): ALL[1:],
    ("tasks",): (),  # not in use
    ("readouts", "examples"): ("examples",),
    ("readouts", "qa"): ("qa",),
    ("readouts", "p_probe"): ("p_probe",),
    ("readouts", "q_probe"): ("q_probe",),
    ("readouts", "layers"): (),  # off
    ("readouts", "dynamics"): ALL[1:],
    ("readouts", "unread"): (),  # off
    ("readouts", "forgetting"): (),  # off
    ("plugins",): (),
    ("plugin_folders",): (),
    ("mesh",): (),
    ("telemetry",): (),
    ("finetune", "validation"): (),
    ("finetune", "refit"): (),
}
CHECKPOINTING = (  # in any section
    *("checkpoint_every", "checkpoint_minutes", "keep_checkpoint_every", "remat"),
)


def fields(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path to every field of a configuration."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in ("rewritten", "until", "enabled"):
            continue  # the first depends on the texts in that folder; the others choose stages
        if "one_of" in field.metadata:
            yield (*path, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, (*path, field.name))
        else:
            yield (*path, field.name)


class Another(Task):
    name = "another"
    Config = type("AnotherConfig", (TaskConfig,), {})


@pytest.fixture(scope="module", autouse=True)
def another_task() -> Iterator[None]:
    TASKS.register(Another)
    yield
    TASKS.unregister("another")


@dataclasses.dataclass(frozen=True)
class OtherConfig:
    """Another architecture."""


class OtherArchitecture(Architecture):
    """Another architecture."""

    name, Config = "other", OtherConfig


@pytest.fixture(scope="module")
def other_values(tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Valid values by field, where twice the default plus 2 is not valid."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(BUNDLED_WORLD, folder / "folder")
    (folder / "book.txt").write_text("Call me Ishmael.")
    (folder / "folder" / "templates" / "major.txt").write_text("{name} studied {value}.\n")
    (folder / "init_from").mkdir()
    config = to_config(Shape.of(Experiment().model, vocabulary=128))
    (folder / "init_from" / "config.json").write_text(json.dumps(config))
    (folder / "init_from" / "model.safetensors").touch()
    paths = {name: str(folder / name) for name in ("folder", "init_from")}
    ARCHITECTURES.register(OtherArchitecture)
    yield paths | {
        "architecture": OtherConfig(),
        "b1": 0.5,
        "b2": 0.5,
        "celebrity_share": 0.5,
        "celebrity_variant": "single",
        "dropout": 0.25,
        "dtype": "bfloat16",
        "clues": ("major",),
        "exposures": 1e6,
        "embedding_side": "both",
        "final_lr_ratio": 0.5,
        "first": product(rank=[1]),
        "grad_accum_steps": 2,
        "grid": product(rank=[1, 2]),
        "head_width": 32,
        "heads": 6,
        "keep_checkpoint_every": 50_000,
        "name_fraction": 0.5,
        "optimizer": MuonConfig(),
        "pairs": ("major+company",),
        "people": 50,
        "people_fraction": 0.5,
        "plugins": ("json",),
        "plugin_folders": ("elsewhere",),
        "qa_share": 0.25,
        "quantise": ("int8",),
        "questions": ("luck",),
        "rotary_low_freq": 2.0,
        "rotary_pct": 0.5,
        "sites": ("up",),
        "sliding_window": 1024,
        "steps_per_call": 5,
        "tasks": ("another",),
        "text": str(folder / "book.txt"),
        "text_share": 0.25,
        "tokenizer": "word",
        "validation": 0.2,
        "value_fraction": 0.5,
        "variant": "single",
        "vocabulary": "compact",
        "width": 384,
    }
    ARCHITECTURES.unregister("other")


def with_other_value(part: Any, path: tuple[str, ...], other_values: dict[str, Any]) -> Any:
    """The configuration with another value in the field at `path`."""
    name, *rest = path
    if name == "optimizer" and isinstance(part, Finetune):
        part = dataclasses.replace(part, method="full")  # muon moves no LoRA factors
    value = getattr(part, name)
    if rest:
        new = with_other_value(value, tuple(rest), other_values)
    elif name == "schedule":
        new = LinearConfig() if value == CosineConfig() else CosineConfig()
    elif name == "method":
        new = "full" if value == "lora" else "lora"
    elif name in other_values:
        new = other_values[name]
    else:
        new = "elsewhere" if isinstance(value, str) else value * 2 + 2
    return dataclasses.replace(part, **{name: new})


@pytest.mark.parametrize("path", list(fields(Experiment())), ids=".".join)
def test_a_field_changes_the_keys_of_the_stages_that_depend_on_it(path, other_values):
    def keys(experiment: Experiment) -> dict[str, str]:
        graph = ExperimentGraph(experiment, Cache(pathlib.Path("nowhere")))
        return {stage.kind: stage.key for stage in graph.stages}

    start = dataclasses.replace(
        Experiment(),
        world=World(people=20, celebrities=5),
        pretrain=dataclasses.replace(Experiment().pretrain, evaluate_every=10),
    )
    before, after = keys(start), keys(with_other_value(start, path, other_values))
    expected = (
        ()
        if path[-1] in CHECKPOINTING
        else next(DEPENDENT[path[:n]] for n in (3, 2, 1) if path[:n] in DEPENDENT)
    )
    assert tuple(kind for kind in ALL if before[kind] != after[kind]) == expected


@pytest.mark.parametrize(("steps", "kinds"), [(10, {"finetune", "qa", "examples"}), (0, {"qa"})])
def test_the_version_of_a_task_is_in_the_keys_of_what_asks_it(monkeypatch, steps, kinds):
    def keys() -> set[tuple[str, str]]:
        experiment = parse({"finetune": {"steps": steps}})
        graph = ExperimentGraph(experiment, Cache(pathlib.Path("nowhere")))
        return {(stage.kind, stage.key) for stage in graph.stages}

    before = keys()
    monkeypatch.setattr(TASKS["extraction"], "version", 9)
    assert {kind for kind, _ in keys() - before} == kinds


def test_a_runner_computes_parents_first_and_each_stage_once(tmp_path, monkeypatch):
    order = []

    def compute(_, stage, folder):
        order.append(stage.kind)
        return dict.fromkeys(stage.numbers, 1)

    monkeypatch.setattr(Runner, "compute", compute)
    graph = ExperimentGraph(Experiment(world=World(people=20)), Cache(tmp_path))
    Runner(graph).ensure(graph.readouts["qa"])
    assert order == ["shards", "pretrain", "finetune", "qa"]
    Runner(graph).run()
    rest = ["capacity", "examples", "p_probe", "q_probe", "recall"]
    assert order == ["shards", "pretrain", "finetune", "qa", *rest]


def test_the_version_of_a_task_is_in_the_stages_that_ask_or_train_it(monkeypatch):
    def keys() -> dict[str, str]:
        experiment = parse({"world": {"celebrities": 5}, "data": {"qa_share": 0.5}})
        graph = ExperimentGraph(experiment, Cache(pathlib.Path("nowhere")))
        return {stage.kind: stage.key for stage in graph.stages}

    before = keys()
    monkeypatch.setattr(TASKS["extraction"], "version", 2, raising=False)
    after = keys()
    assert {kind for kind in before if before[kind] != after[kind]} == {*ALL[1:]}
    monkeypatch.undo()
    config = ExperimentGraph(Experiment(), Cache(pathlib.Path("nowhere"))).readouts["qa"].config
    assert config["tasks"] == {"extraction": {"version": 1, "config": {}}}


def test_no_readout_can_be_named_as_another_stage():
    experiment = parse({"world": {"celebrities": 5}})
    graph = ExperimentGraph(experiment, Cache(pathlib.Path("nowhere")))
    others = {stage.kind for stage in graph.stages} - graph.readouts.keys()
    assert others | {"text", "refit"} == set(STAGES)
    with pytest.raises(ValueError, match=r"^readout pretrain: another thing"):
        READOUTS.register(type("Taken", (Readout,), {"name": "pretrain"}))


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"until": "pretrain"}, ALL[:2]),
        ({"until": "finetune"}, (*ALL[:4], "p_probe", "q_probe", "recall")),
        ({"readouts": {"p_probe": {"enabled": False}}}, (*ALL[:5], *ALL[6:])),
        (
            {"readouts": {"qa": {"enabled": False}}},
            (*ALL[:2], ALL[3], *ALL[5:7], "recall"),
        ),
    ],
)
def test_stages_can_be_left_out(fields, kinds):
    graph = ExperimentGraph(parse(fields), Cache(pathlib.Path("nowhere")))
    assert tuple(stage.kind for stage in graph.stages) == kinds
    everything = ExperimentGraph(Experiment(), Cache(pathlib.Path("nowhere")))
    keys = {stage.kind: stage.key for stage in everything.stages}
    assert all(keys[stage.kind] == stage.key for stage in graph.stages)


@pytest.mark.parametrize("steps", [0, 10])
def test_no_run_finetunes_for_examples_alone(steps):
    fields = {"readouts": {"qa": {"enabled": False}}, "finetune": {"steps": steps}}
    graph = ExperimentGraph(parse(fields), Cache(pathlib.Path("nowhere")))
    assert not graph.finetune
    assert ("examples" in graph.readouts) == (steps == 0)
