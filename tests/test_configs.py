"""Every figure of the paper has a configuration at three scales; the largest is its protocol."""

import dataclasses
import importlib.util
import operator
import pathlib
import re

import jax
import pytest

from kstore_jax.cli.flags import define_flags, parse_config
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.config import SIZES, style_fields
from kstore_jax.model.forward import init
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import Experiment, parse_rows
from kstore_jax.pipeline.graph import ExperimentGraph, resolve_auto
from kstore_jax.pipeline.run import Runner, program_key
from kstore_jax.pipeline.stages import Cache
from kstore_jax.train.base import SCHEDULES
from tests.world.worlds import films

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
EXPERIMENTS = FOLDER.parent / "docs" / "experiments.md"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))
SCALES = ("laptop", "gpu", "paper")
OTHERS = ("quickstart", "own_facts")  # have other arguments
TOGETHER = ("datasets", "mixed")  # have one more scale, for models trained in one program
SCALES_OF = [
    *((name, scale) for name in FILES if name not in OTHERS for scale in SCALES),
    *((name, "together") for name in TOGETHER),
    *(("quickstart", size) for size in ("default", "smallest", "longer")),
    ("paper", "smallest"),
]
FIGURES = {  # figures of Part 3.1 or 3.2, and the number of rows they have in the paper
    "datasets": ((3, 5, 7, 13), 16),
    "mixed": ((1,), 2),
    "finetuning": ((2, 11), 36 + 3),
    "celebrities": ((4, 8, 17), 6),
    "couples": ((6, 15), 3),
    "directions": ((9,), 16 * 4),
    "qa_ratio": ((10,), 5 * 7),
    "rewritten": ((12, 14, 16, 17, 19), 2 * 12 + 4),
    "retrieval": ((3, 10), 16),
    "classification": ((4, 11, 13), 2 * 6 * 2 * 5),
    "comparison": ((4, 12, 13), 2 * 6 * 2 * 5),
    "inverse": ((6, 14), (16 + 4) * (1 + 2)),
}


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def docstring(name: str) -> str:
    return module(name).__doc__ or ""


def rows(name: str, *scale: str) -> list[Experiment]:
    return parse_rows(module(name).get_config(*scale))


@pytest.mark.parametrize(("name", "scale"), SCALES_OF)
def test_every_scale_can_be_run(name, scale):
    experiments = rows(name, scale)
    assert len(set(experiments)) == len(experiments) > 0
    for e in experiments:  # errors that would come after hours
        assert e.pretrain.steps % e.pretrain.steps_per_call == 0
        assert e.finetune.steps % e.finetune.steps_per_call == 0
        assert e.readouts.qa.beam_size == 1 or e.model.direction == "causal"


@pytest.mark.parametrize("name", TOGETHER)
def test_one_program_pretrains_all_rows_of_together(name, tmp_path):
    experiments = [resolve_auto(row) for row in rows(name, "together")]
    runners = [Runner(ExperimentGraph(one, Cache(tmp_path))) for one in experiments]
    assert len({program_key(runner) for runner in runners}) == 1 < len(runners)


@pytest.mark.parametrize("name", [name for name in FILES if name != "own_facts"])
def test_an_unknown_scale_names_the_valid_ones(name):
    with pytest.raises(ValueError, match=r"'enormous'; valid: .*(laptop|smallest)"):
        module(name).get_config("enormous")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
def test_the_flags_in_the_docstring_of_a_file_set_their_fields(name):
    flag_lists = [text.split() for text in re.findall(r"`(--config\.[^`]+)`", docstring(name))]
    for scale in (scale for file, scale in SCALES_OF if file == name):
        for argv in flag_lists:
            flag = f"--config={FOLDER / name}.py:{scale}"
            for e in parse_rows(*parse_config([flag, *argv], define_flags(), None)):
                finetunings = [dataclasses.replace(e, finetune=row) for row in e.finetune.rows]
                for field, value in (arg.removeprefix("--config.").split("=") for arg in argv):
                    if field == "model.size":
                        assert SIZES[value].items() <= vars(e.model).items()
                    elif field == "model.style":
                        assert style_fields(value, e.model.heads).items() <= vars(e.model).items()
                    else:
                        read = operator.attrgetter(field)
                        set_to = {read(each) for each in (e, *finetunings)}
                        kind = type(next(iter(set_to)))
                        names = tuple(filter(None, value.strip("()").split(",")))
                        assert set_to == {names if kind is tuple else kind(value)}
    assert flag_lists or name != "datasets"


@pytest.mark.parametrize("name", FILES)
def test_a_docstring_has_command_hardware_time_and_expected_scores(name):
    text = docstring(name)
    assert re.search(rf"kstore (run|sweep) --config=configs/{name}\.py|kstore quickstart", text)
    assert "CPU" in text or "GPU" in text
    assert re.search(r"\b(hours?|minutes?|min|s)\b", text)
    assert name == "quickstart" or "Expected" in text
    assert f"configs/{name}.py" in EXPERIMENTS.read_text()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_in_the_docstring_and_has_the_rows_of_the_paper(name):
    figures, count = FIGURES[name]
    numbers = {int(number) for number in re.findall(r"\b\d+\b", docstring(name))}
    assert set(figures) <= numbers
    assert len(rows(name, "paper")) == count


PAPER = {  # Part 3.1, sections 2 to 5; of every row unless a test below has another value
    "people": 100_000,
    "shape": (12, 12, 768, 0.25),
    "pretraining": (540.0, 96, 512, 1e-3, 1000, "cosine", 0.1, 0.1, 1e-6),
    "finetuning": (50_000, 48, 3e-4, 0, "cosine", 0.1, 0.01, 128, 4.0),
    "finetuned": {8, 16},
    "beam": 4,
    "p_probe": (30_000, 50, 1e-3, "linear", 0.0, 0.3, 2, "linear", "all"),
    "q_probe": (30_000, 200, 1e-3, "linear", 0.0, 0.3, 16, "linear", "all"),
}


def name_of(schedule: object) -> str:
    return SCHEDULES.of(schedule).name


def protocol(e: Experiment) -> dict:
    p, f, m = e.pretrain, e.finetune, e.model
    settings = {
        "people": e.world.people,
        "shape": (m.layers, m.heads, m.width, m.rotary_pct),
        "pretraining": (
            *(p.exposures or p.steps, p.batch_size, p.seq_len, p.learning_rate, p.warmup_steps),
            *(name_of(p.schedule), p.final_lr_ratio, p.weight_decay, p.optimizer.eps),
        ),
        "finetuning": (
            *(f.steps, f.batch_size, f.learning_rate, f.warmup_steps),
            *(name_of(f.schedule), f.final_lr_ratio, f.weight_decay, f.embedding_rank, f.alpha),
        ),
        "finetuned": {row.rank for row in f.rows},
        "beam": e.readouts.qa.beam_size,
    }
    for name in ("p_probe", "q_probe"):
        q = getattr(e.readouts, name)
        settings[name] = (
            *(q.steps, q.batch_size, q.learning_rate, name_of(q.schedule), q.final_lr_ratio),
            *(q.weight_decay, q.embedding_rank, q.head, q.embedding_update),
        )
    return settings


@pytest.mark.parametrize("name", ["paper", "datasets", "couples", "celebrities"])
def test_the_paper_scale_is_the_papers_protocol(name):
    for e in rows(name, "paper"):
        if e.finetune.steps:
            steps = {"pretraining": (80_000, *PAPER["pretraining"][1:])}  # no exposures are stated
            assert protocol(e) == (PAPER | steps if e.world.celebrities else PAPER)


def test_the_headline_has_the_three_rows_with_equal_steps(tmp_path):
    experiments = rows("paper", "gpu")
    assert [(e.data.variant, e.data.qa_share, e.pretrain.exposures) for e in experiments] == [
        ("multi5+permute", 0.0, 540.0),
        ("single", 0.0, 540.0),
        ("single", 0.8, 108.0),
    ]
    graphs = [ExperimentGraph(e, Cache(tmp_path)) for e in rows("paper", "smallest")]
    assert len({graph.experiment.pretrain.steps for graph in graphs}) == 1
    for probe in (experiments[1].readouts.p_probe, experiments[1].readouts.q_probe):
        assert (probe.head, probe.embedding_update) == ("linear", "all")  # as in the paper
    assert experiments[2].finetune.steps == 0


def test_there_are_as_many_celebrities_with_five_shuffled_biographies():
    actual = {(e.data.variant, e.world.celebrities) for e in rows("celebrities", "paper")}
    of_figure_17 = ("single+permute1", "single", "single+permute1+fullname")
    assert actual == {(v, n) for v in of_figure_17 for n in (0, 100_000)}
    assert {e.data.celebrity_variant for e in rows("celebrities", "paper")} == {"multi5+permute"}


def test_mixed_training_differs_in_questions_alone():
    mixed, afterwards = rows("mixed", "paper")
    assert (mixed.data.variant, mixed.data.qa_share, mixed.finetune.steps) == ("single", 0.8, 0)
    assert protocol(afterwards) == PAPER
    assert protocol(mixed)["pretraining"] == (108.0, *PAPER["pretraining"][1:])


def test_on_a_laptop_every_row_of_mixed_training_has_equal_exposures():
    *mixed, afterwards = rows("mixed", "laptop")
    exposures = {
        e.pretrain.steps * e.pretrain.batch_size * (1 - e.data.qa_share) / e.world.people
        for e in (*mixed, afterwards)
    }
    assert len(exposures) == 1
    assert afterwards.world == mixed[-1].world
    assert {e.finetune.steps for e in mixed} == {0} != {afterwards.finetune.steps}


def test_the_shares_of_questions_are_those_of_figure_10():
    experiments = rows("qa_ratio", "paper")
    assert {(e.data.qa_share, e.pretrain.exposures) for e in experiments} == {
        *((0.1, 486.0), (0.2, 432.0), (0.3, 378.0), (0.4, 324.0)),
        *((0.6, 216.0), (0.8, 108.0), (0.9, 54.0)),
    }
    assert {e.finetune.steps for e in experiments} == {0}


def test_the_grid_of_finetuning_is_that_of_figure_2():
    *lora, _, best_lora, full = rows("finetuning", "paper")
    cells = {(e.finetune.rank, e.finetune.embedding_rank) for e in lora}
    assert cells == {(r, s) for r in (2, 4, 8, 16, 32, -1) for s in (0, 16, 32, 64, 128, -1)}
    assert all(len(e.finetune.rows) == 1 for e in lora)
    grid = {(row.learning_rate, row.weight_decay) for row in full.finetune.rows}
    assert full.finetune.method == "full"
    assert len(best_lora.finetune.rows) == len(full.finetune.rows)
    assert best_lora.finetune.refit
    assert full.finetune.refit
    assert grid == {(rate, decay) for rate in (1e-3, 3e-4, 1e-4) for decay in (0.01, 0.001)}


def test_bert_is_trained_and_finetuned_as_in_section_7():
    berts = [e for e in rows("directions", "paper") if e.model.direction == "bidirectional"]
    assert len({e.data.variant for e in berts}) == 16
    for e in berts:
        expected = (150_000, 96, 512, 3e-4, 1000, "cosine", 0.1, 0.1, 1e-6)
        assert protocol(e)["pretraining"] == expected
    finetuned = [e.finetune for e in berts if e.finetune.steps]
    assert {
        (name_of(f.schedule), f.final_lr_ratio, f.learning_rate, f.batch_size) for f in finetuned
    } == {("linear", 0.0, 3e-4, 48)}
    cells = {(row.rank, row.embedding_rank) for row in finetuned[0].rows}
    assert cells == {(8, 128), (8, -1), (32, 128), (32, -1)}
    assert {e.data.qa_share for e in berts} == {0.0, 0.2, 0.8}


def test_rewritten_biographies_have_the_larger_model_and_more_steps():
    for e in rows("rewritten", "paper"):
        settings = protocol(e)
        assert settings["shape"][:3] == (12, 20, 1280)
        length = 150_000 if e.world.celebrities else 1000.0  # exposures
        length *= 0.2 if e.data.qa_share else 0.5 if e.data.text else 1.0  # in as many steps
        assert settings["pretraining"] == (length, *PAPER["pretraining"][1:])
        assert e.readouts.q_probe.embedding_rank == 32
    with_text = [e for e in rows("rewritten", "paper") if e.data.text]
    assert [(e.data.variant, e.data.text_share) for e in with_text] == [
        ("single", 0.5),
        ("single+fullname", 0.5),
    ]


def test_the_gpu_scale_has_the_exposures_of_the_paper():
    sections = operator.attrgetter("finetune", "readouts.p_probe", "readouts.q_probe")
    for gpu, paper in zip(rows("paper", "gpu"), rows("paper", "paper"), strict=True):
        assert gpu.pretrain.exposures == paper.pretrain.exposures
        assert gpu.pretrain.batch_size == paper.pretrain.batch_size
        for of_gpu, of_paper in zip(sections(gpu), sections(paper), strict=True):
            assert of_gpu.steps / gpu.world.people == of_paper.steps / paper.world.people
            assert of_gpu.batch_size == of_paper.batch_size


def test_own_facts_reads_every_row_of_the_table(tmp_path):
    world = films(tmp_path / "films")
    one, five, mixed = rows("own_facts", str(world))
    assert [e.label for e in (one, five, mixed)] == [
        "one text",
        "five wordings",
        "one text, questions",
    ]
    assert {e.world.people for e in (one, five, mixed)} == {6}
    assert (mixed.data.qa_share, mixed.finetune.steps) == (0.5, 0)
    (world / "rewritten").mkdir()
    *_, rewritten = rows("own_facts", str(world))
    assert rewritten.data.rewritten == str(world / "rewritten")
    with pytest.raises(ValueError, match=r"^expected own_facts\.py:WORLD, a folder that"):
        module("own_facts").get_config()


def test_own_facts_continues_a_model(tmp_path):
    shape = Shape(layers=2, heads=2, width=32, vocabulary=50_257, rotary_pct=1.0, norm="rms",
                  activation="swiglu", bias=False, tie_embeddings=False, mlp_width=96)  # fmt: skip
    hf_checkpoint.write(tmp_path / "model", shape, init(shape, jax.random.key(0)), {}, {})
    world = films(tmp_path / "films")
    for e in rows("own_facts", f"{world}:{tmp_path / 'model'}"):
        assert (e.model.layers, e.model.width, e.model.norm) == (2, 32, "rms")
        assert e.model.init_from == str(tmp_path / "model")
        assert hf_checkpoint.init_digest(e.model, tmp_path / "model")
        assert e.readouts.forgetting.enabled
        assert e.data.vocabulary == "full"


@pytest.mark.parametrize("name", ["classification", "comparison"])
def test_tasks_of_values_are_finetuned_as_in_part_3_2(name):
    experiments = rows(name, "paper")
    for e in experiments:
        f, asked = e.finetune, getattr(e.tasks, name)
        assert (f.rank, f.embedding_rank, f.learning_rate, f.steps) == (16, 128, 1e-3, 50_000)
        assert (f.tasks, len(asked.questions), e.data.variant) == ((name,), 1, "multi5+permute")
        if first := f.first_row:
            settings = (first.tasks, first.rank, first.embedding_rank, first.learning_rate)
            assert settings == (("extraction",), 8, 128, 3e-4)
    assert {e.finetune.first_row is None for e in experiments} == {True, False}
    trained = {round(50_000 * e.finetune.people_fraction) for e in experiments}
    assert trained == {2500, 5000, 10_000, 25_000, 50_000}


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
@pytest.mark.parametrize("name", ["classification", "comparison"])
def test_one_model_is_pretrained_for_all_questions_of_a_task(name, scale, tmp_path):
    graphs = [ExperimentGraph(e, Cache(tmp_path)) for e in map(resolve_auto, rows(name, scale))]
    assert len({graph.pretrain.folder for graph in graphs}) == 1
    assert len({graph.first.folder for graph in graphs if graph.first}) == 1


def test_inverse_search_is_finetuned_or_mixed_in():
    experiments = rows("inverse", "paper")
    assert sum("reverse" in e.data.variant for e in experiments) == 4 * 3
    settings = {(e.data.qa_share, e.pretrain.exposures) for e in experiments}
    assert settings == {(0.0, 540.0), (0.5, 270.0), (0.8, 108.0)}
    for e in experiments:
        assert bool(e.finetune.steps) == (e.data.qa_share == 0)
        assert e.finetune.tasks == e.readouts.qa.tasks == ("inverse",)
        assert e.data.tasks == ("inverse",) or not e.data.qa_share


@pytest.mark.parametrize("scale", ["laptop", "gpu", "paper"])
def test_experiments_on_manipulation_share_their_pretrained_models(scale, tmp_path):
    keys = [
        {
            ExperimentGraph(e, Cache(tmp_path)).pretrain.folder
            for e in map(resolve_auto, rows(name, scale))
            if e.data.variant == "multi5+permute" and not e.data.qa_share
        }
        for name in ("retrieval", "classification", "comparison", "inverse")
    ]
    assert len(set.union(*keys)) == 1
