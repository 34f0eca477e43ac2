"""The stages of an experiment: what each reads and trains, and what its result says."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from kstore_jax.config.rows import product
from kstore_jax.corpus.tokenizer import Vocabulary, gpt2
from kstore_jax.pipeline.context import best_finetuning
from kstore_jax.pipeline.data import ExperimentData
from kstore_jax.pipeline.graph import ExperimentGraph
from kstore_jax.pipeline.results import finetune_grid
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache, NotFinished
from kstore_jax.readouts import spans
from kstore_jax.readouts.base import Context
from kstore_jax.readouts.dynamics import dynamics
from kstore_jax.readouts.probe_validation import split_people, still_improving
from kstore_jax.readouts.qa import evaluate_task
from kstore_jax.train.fit import TrainTask
from kstore_jax.train.telemetry import METRICS, read_metrics
from tests.pipeline.runners import finished_runner, full_names, planned_training, with_sections
from tests.train.training import same_bits
from tests.world.bundled import ATTRIBUTES

STAGES = ("shards", "pretrain", "finetune", "capacity", "examples", "p_probe", "q_probe")
STAGES += ("qa", "recall")


@pytest.fixture(scope="module", params=[0, 1], ids=["single", "multi2+permute"])
def runner(request, finished) -> Runner:
    """A row of the finished sweep."""
    return finished_runner(finished, request.param)


@pytest.fixture
def graph(runner) -> ExperimentGraph:
    return runner.graph


@pytest.fixture
def data(graph) -> ExperimentData:
    return graph.data


@pytest.fixture
def context(runner) -> Context:
    return runner.context


@pytest.fixture(scope="module")
def own_cache(finished, tmp_path_factory) -> Cache:
    """A copy of the stages of the finished sweep, to write to."""
    folder = tmp_path_factory.mktemp("own") / "stages"
    shutil.copytree(finished / "stages", folder)
    return Cache(folder)


@pytest.fixture
def task_of(runner, monkeypatch, tmp_path):
    """`(kind of stage) -> TrainTask`: what that stage trains."""

    def task(kind: str) -> TrainTask:
        (stage,) = (stage for stage in runner.graph.stages if stage.kind == kind)
        return planned_training(monkeypatch, runner, stage, tmp_path)[0]

    return task


def names_in(data: ExperimentData, in_train: bool) -> list[str]:
    """The full names of P_train or P_test."""
    members = np.flatnonzero(data.in_train == in_train)
    return full_names(data.language.pools, data.people.take(members))


def texts_of(task: TrainTask, vocabulary: Vocabulary, steps: int) -> list[str]:
    """The first four texts in the batches of the first steps, each once."""
    tokens = np.concatenate([task.make_batch(step, range(4))["tokens"] for step in range(steps)])
    return [vocabulary.decode(row) for row in np.unique(tokens, axis=0)]


def test_every_stage_of_a_finished_run_has_a_result(graph):
    assert tuple(stage.kind for stage in graph.stages) == STAGES
    assert graph.done
    assert sorted(graph.data.in_train) == [False] * 10 + [True] * 10


@pytest.mark.parametrize("kind", ["finetune", "p_probe", "q_probe"])
def test_batches_hold_everyone_in_p_train_and_nobody_in_p_test(data, context, task_of, kind):
    """Except the people held back from probes."""
    texts = texts_of(task_of(kind), context.vocabulary, 50)
    trained = [
        any(name in text for text in texts) for name in full_names(data.language.pools, data.people)
    ]
    held_back, _ = split_people(context, 0.1)
    assert held_back.sum() == 1
    assert trained == [*(data.in_train & ~(held_back & (kind != "finetune")))]


def test_pretraining_reads_about_everybody(data, context, task_of):
    tokens = [task_of("pretrain").make_batch(step, range(4))["tokens"] for step in range(200)]
    text = " ".join(context.vocabulary.decode(row) for row in np.concatenate(tokens))
    everybody = names_in(data, True) + names_in(data, False)
    assert sum(name in text for name in everybody) == 20


@pytest.mark.parametrize("kind", ["pretrain", "finetune", "q_probe"])
def test_the_next_row_of_a_sweep_compiles_no_training_step(finished, tmp_path, kind):
    for row in range(2):
        runner = finished_runner(finished, row)
        (stage,) = (stage for stage in runner.graph.stages if stage.kind == kind)
        (tmp_path / str(row)).mkdir()
        runner.compute(stage, tmp_path / str(row))
    assert read_metrics(tmp_path / "1" / METRICS)[-1]["spent"]["compile"] == 0.0


def test_a_batch_is_a_function_of_step_and_row(task_of):
    for kind in ("pretrain", "finetune", "p_probe", "q_probe"):
        make_batch = task_of(kind).make_batch
        batch = make_batch(3, range(4))
        for k in range(4):
            row = make_batch(3, range(k, k + 1))
            assert all(np.array_equal(batch[name][k], row[name][0]) for name in batch)


def test_trainable_and_frozen_parameters_of_each_stage(context, task_of):
    for kind, trainable in (
        ("finetune", {"block_0/query", "block_0/value", "embedding"}),
        ("p_probe", {"embedding", "head"}),
        ("q_probe", {"embedding"}),
    ):
        task = task_of(kind)
        assert set(task.trainable) == trainable
        network = {name: task.frozen[name] for name in context.pretrained}
        assert same_bits(network, context.pretrained)
    assert set(task.frozen) == {*context.pretrained, "head", "updated"}  # of the q_probe


def test_shared_tokens_are_of_templates_and_not_of_names(data, context, task_of):
    is_shared, vocabulary = np.asarray(task_of("q_probe").frozen["updated"]), context.vocabulary
    assert set(is_shared) == {0.0, 1.0}
    assert is_shared[vocabulary.end_of_text] == 1
    assert 0 < is_shared.sum() < vocabulary.size
    _, questions = context.questions()
    colons = questions.tokens[np.arange(120), questions.positions[:, 0, 0]]  # of `? Answer:`
    assert (is_shared[colons] == 1).all()
    for name in names_in(data, True):
        assert not is_shared[vocabulary.encode(np.array(gpt2().encode([f" {name}"])[0]))].all()


def test_qa_is_scored_by_group_wording_and_attribute(runner, context, monkeypatch, tmp_path):
    hits = np.random.default_rng(0).random((5, 2, 20, 6)) < 0.5  # wordings, exact and first
    questions = []

    def span_hits(shape, params, examples):
        questions.append(context.vocabulary.decode(examples.tokens[1]))
        return tuple(x.reshape(-1, 1) for x in hits[len(questions) - 1])

    monkeypatch.setattr(spans, "span_hits", span_hits)
    graph = runner.graph
    scores = runner.compute(graph.readouts["qa"], tmp_path)["extraction"]
    in_train = graph.data.in_train
    for group, members in (("train", in_train), ("test", ~in_train)):
        for kind, of_everyone in zip(("exact", "first"), hits[0], strict=True):
            expected = {name: of_everyone[members, a].mean() for a, name in enumerate(ATTRIBUTES)}
            expected["mean"] = of_everyone[members].mean()
            assert scores[group][kind] == pytest.approx(expected)
        for (exact, _), reworded in zip(hits[1:], scores["wordings"][group], strict=True):
            assert reworded["mean"] == pytest.approx(exact[members].mean())
            assert reworded["major"] == pytest.approx(exact[members, 3].mean())
    assert len(set(questions)) == 5
    assert questions[0] == context.vocabulary.decode(context.questions()[1].tokens[1])


def test_qa_reads_the_finetuned_model(runner, context, monkeypatch, tmp_path):
    evaluated = []

    def span_hits(shape, params, examples):
        evaluated.append(params)
        return np.zeros((120, 1), bool), np.zeros((120, 1), bool)

    monkeypatch.setattr(spans, "span_hits", span_hits)
    runner.compute(runner.graph.readouts["qa"], tmp_path)
    block, before = evaluated[0]["block_0"], context.pretrained["block_0"]
    for name, trained in (("query", True), ("value", True), ("key", False), ("out", False)):
        assert bool((block[name]["kernel"] != before[name]["kernel"]).any()) == trained
    assert same_bits(evaluated[0]["unembedding"], context.pretrained["embedding"])


def test_probes_report_each_position_and_none_where_nobody_is_scored(graph):
    scores = graph.cache.require(graph.readouts["p_probe"])
    assert all(len(scores["first"][name]) == 6 for name in ATTRIBUTES)
    assert set(scores["whole"]) == set(ATTRIBUTES[1:])
    assert scores["first"]["birth_date"][0] is not None
    if graph.experiment.data.variant == "single":  # every biography begins with the date
        assert scores["first"]["birth_date"][1:] == [None] * 5
        assert None not in scores["whole"]["company_city"]
    by_name = graph.cache.require(
        graph.readouts["q_probe"]
    )  # with the model's own head: first tokens alone
    assert all(len(by_name["first"][name]) == 1 for name in ATTRIBUTES)
    assert by_name["whole"] == {}


@pytest.mark.parametrize("kind", ["p_probe", "q_probe"])
def test_the_course_of_a_probe_is_that_of_its_metrics(graph, kind):
    stage = graph.readouts[kind]
    training = graph.cache.require(stage)["training"]
    assert (training["people"], training["steps"]) == (1, [0, 12, 18, 24])
    lines = {line["step"]: line for line in read_metrics(graph.cache.folder(stage) / METRICS)}
    assert [step for step, line in lines.items() if "evaluation" in line] == [12, 18]
    for measure in ("loss", "first"):
        for part in ("held_back", "trained"):
            course = training[measure][part]
            assert course[1:3] == [lines[s]["evaluation"][measure][part] for s in (12, 18)]
            assert len(course) == 4
    assert training["loss"]["trained"][-1] < training["loss"]["trained"][0]
    assert training["still_improving"] is still_improving(
        training["steps"], training["loss"]["held_back"]
    )


def test_exposures_are_tokens_read_over_tokens_of_a_person(graph, context):
    training, texts = graph.experiment.pretrain, context.corpus.texts
    tokens = len(texts.tokens) + len(texts)  # with the ends of text
    per_person = graph.data.variant.biographies_per_person
    expected = training.steps * training.batch_size * training.seq_len / tokens * per_person
    assert graph.cache.require(graph.pretrain)["exposures"] == pytest.approx(expected)


def finetuned_with(runner: Runner, cache: Cache, **fields) -> Runner:
    """The same experiment with other fields of `finetune`, over a cache that has its parents."""
    section = dataclasses.replace(runner.graph.experiment.finetune, steps=4, **fields)
    return with_sections(runner, cache, finetune=section)


def test_without_finetuning_the_pretrained_model_answers(runner, context, own_cache):
    section = dataclasses.replace(runner.graph.experiment.finetune, steps=0)
    plain = with_sections(runner, own_cache, finetune=section)
    assert "finetune" not in [stage.kind for stage in plain.graph.stages]
    assert same_bits(plain.context.finetuned, context.pretrained)
    assert plain.ensure(plain.graph.readouts["qa"])["extraction"]["test"]["exact"].keys() == {
        "mean",
        *ATTRIBUTES,
    }


def test_full_finetuning_changes_every_weight(runner, context, own_cache):
    full = finetuned_with(runner, own_cache, method="full")
    with pytest.raises(NotFinished, match=r"stage finetune is not finished; `kstore sweep`"):
        _ = full.context.finetuned
    full.ensure(full.graph.readouts["qa"])
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), full.context.finetuned, context.pretrained
    )
    unchanged = [path for path, did in jax.tree_util.tree_leaves_with_path(changed) if not did]
    # A bias of the keys adds the same to every logit of a query, so its gradient is 0 or rounding.
    assert all("key" in str(path) and "bias" in str(path) for path in unchanged)


def test_the_row_of_a_grid_with_the_best_validation_is_chosen(runner, own_cache):
    grid = product(learning_rate=[1e-9, 3e-3], weight_decay=[0.1])
    tuned = finetuned_with(runner, own_cache, grid=grid, validation=0.3)
    assert [stage.kind for stage in tuned.graph.stages].count("finetune") == 2
    tuned.ensure(tuned.graph.readouts["qa"])
    rows = finetune_grid(tuned.graph)
    assert [row["learning_rate"] for row in rows] == [1e-9, 3e-3]
    best = max(rows, key=lambda row: row["validation"])
    assert [row for row in rows if row["chosen"]] == [best]
    assert best_finetuning(tuned.graph).learning_rate == best["learning_rate"]
    for row, stage in tuned.graph.finetune.items():
        assert row.grid == ()
        assert tuned.ensure(stage)["questions"] == 7 * 6  # 3 of 10 people are held back


def halves(runner: Runner) -> dict[str, set[int]]:
    """The people of each half in the cases of the answers."""
    with np.load(runner.graph.cache.folder(runner.graph.readouts["qa"]) / "cases.npz") as cases:
        return {
            half: set(cases["extraction.person"][cases[f"extraction.{half}"], 0].tolist())
            for half in ("train", "test", "held_back")
            if f"extraction.{half}" in cases
        }


def test_people_held_back_are_not_counted_as_trained(runner, data, own_cache):
    tuned = finetuned_with(runner, own_cache, grid=product(rank=[1, 2]), validation=0.3)
    scores = tuned.ensure(tuned.graph.readouts["qa"])["extraction"]
    chosen = tuned.graph.finetune[best_finetuning(tuned.graph)]
    assert tuned.ensure(chosen)["validation"] == pytest.approx(scores["held_back"]["exact"]["mean"])
    members = halves(tuned)
    assert [len(members[half]) for half in ("train", "test", "held_back")] == [7, 10, 3]
    assert members["train"] | members["held_back"] == set(np.flatnonzero(data.in_train).tolist())


def test_the_chosen_row_is_finetuned_once_more_on_all_of_p_train(runner, data, own_cache, context):
    grid = product(learning_rate=[1e-9, 3e-3])
    again = finetuned_with(runner, own_cache, grid=grid, validation=0.3, refit=True)
    kinds = [stage.kind for stage in again.graph.stages]
    assert kinds[kinds.index("finetune") :][:3] == ["finetune", "finetune", "refit"]
    scores = again.ensure(again.graph.readouts["qa"])["extraction"]
    (refit,) = (stage for stage in again.graph.stages if stage.kind == "refit")
    assert again.ensure(refit)["questions"] == 10 * 6
    assert "held_back" not in scores
    assert len(halves(again)["train"]) == 10
    best = best_finetuning(again.graph)
    alone = with_sections(runner, own_cache, finetune=best)
    alone.ensure(alone.graph.readouts["qa"])
    assert same_bits(again.context.finetuned, alone.context.finetuned)


def test_rows_of_a_grid_are_the_same_stages_with_and_without_refit(runner, own_cache):
    graphs = [
        finetuned_with(runner, own_cache, grid=product(rank=[1, 2]), refit=refit).graph
        for refit in (False, True)
    ]
    keys = [[stage.key for stage in graph.finetune.values()] for graph in graphs]
    assert keys[0] == keys[1]
    assert graphs[0].readouts["qa"].key != graphs[1].readouts["qa"].key
    assert graphs[0].readouts["recall"].key == graphs[1].readouts["recall"].key


def test_every_row_of_a_grid_holds_back_the_same_people_of_p_train(
    runner, data, context, own_cache, monkeypatch, tmp_path
):
    tuned = finetuned_with(runner, own_cache, grid=product(rank=[1, 2]), validation=0.3)
    trained = []
    for stage in tuned.graph.finetune.values():
        task, _ = planned_training(monkeypatch, tuned, stage, tmp_path)
        texts = texts_of(task, context.vocabulary, 99)
        trained.append({n for n in names_in(data, True) if any(n in text for text in texts)})
        assert not any(name in text for name in names_in(data, False) for text in texts)
    assert len(trained[0]) == 7
    assert trained[0] == trained[1]


def test_dynamics_of_the_pretrained_model_equal_its_recall_and_answers(graph, context):
    shares = jax.device_get(dynamics(context, 99)(context.pretrained))  # over everybody
    assert shares.keys() == {
        "bio_train_first", "bio_test_first",
        "qa_train_first", "qa_train_exact", "qa_test_first", "qa_test_exact",
    }  # fmt: skip
    scores, _ = evaluate_task(context, context.pretrained, "extraction", 2)
    for group in ("train", "test"):
        for kind in ("exact", "first"):
            expected = scores[group][kind]["mean"]
            assert float(shares[f"qa_{group}_{kind}"]) == pytest.approx(expected, abs=1e-6)
    if graph.data.variant.biographies_per_person == 1:
        recall = graph.cache.require(graph.readouts["recall"])["first"]["mean"]
        both = (shares["bio_train_first"] + shares["bio_test_first"]) / 2
        assert float(both) == pytest.approx(recall, abs=1e-6)


def test_dynamics_are_in_the_metrics_of_pretraining(runner, own_cache):
    section = dataclasses.replace(
        runner.graph.experiment.pretrain, steps=4, warmup_steps=1, evaluate_every=2
    )
    evaluated = with_sections(runner, own_cache, pretrain=section)
    evaluated.ensure(evaluated.graph.pretrain)
    lines = read_metrics(own_cache.folder(evaluated.graph.pretrain) / METRICS)
    assert [line["step"] for line in lines if "evaluation" in line] == [2, 4]
    expected = jax.device_get(dynamics(evaluated.context, 200)(evaluated.context.pretrained))
    found = lines[-1]["evaluation"]
    assert {name: found[name] for name in expected} == pytest.approx(jax.tree.map(float, expected))
    assert "capacity_bits_per_parameter" in found.keys() - expected.keys()


def test_p_probing_of_couples_counts_readings_by_what_was_stated_before(runner, graph, own_cache):
    section = dataclasses.replace(graph.experiment.data, variant="couple2")
    couples = with_sections(runner, own_cache, data=section)
    scores = couples.ensure(couples.graph.readouts["p_probe"])
    held_out = int((~couples.graph.data.in_train).sum()) * 2  # biographies
    for kind in ("first", "whole"):
        for name, cells in scores["by_stated"][kind].items():
            a = ATTRIBUTES.index(name)
            sets = [tuple(cell["stated"]) for cell in cells]
            assert len(set(sets)) == len(sets)
            for stated in sets:
                assert name not in stated
                numbers = [ATTRIBUTES.index(x) for x in stated]
                assert all(x - 1 in numbers for x in numbers if x % 2)  # couples keep their order
                assert sum(x % 2 == 0 and x + 1 not in numbers for x in numbers) <= 1  # adjacent
            count = sum(cell["readings"] for cell in cells)
            right = sum(cell["readings"] * cell["right"] for cell in cells)
            assert count >= held_out * (1 + a % 2)
            assert 0 <= right <= count
            assert len(scores[kind][name]) == 6
            if a % 2:  # with and without the first of its couple
                assert {ATTRIBUTES[a - 1] in stated for stated in sets} == {True, False}
    assert "by_stated" not in graph.cache.require(graph.readouts["p_probe"])
