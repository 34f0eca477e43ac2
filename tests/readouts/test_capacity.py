"""The bits that a model has stored, by hand and of models that know nothing or everything."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from kstore_jax.corpus.encode import compact_vocabulary
from kstore_jax.corpus.examples import SpanExamples
from kstore_jax.errors import UserError
from kstore_jax.model import forward
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.run import Runner
from kstore_jax.pipeline.stages import Cache
from kstore_jax.readouts import capacity, spans
from kstore_jax.readouts.bound import bound_of, span_names
from kstore_jax.readouts.capacity import CapacityConfig
from kstore_jax.readouts.quantised import quantise
from kstore_jax.train.telemetry import METRICS, read_metrics
from kstore_jax.world.pools import load_pools
from tests.model import reference
from tests.pipeline.runners import finished_runner, with_sections
from tests.report.runs import a_row, a_run, csv_of, text_of, write_page


@pytest.fixture(scope="module", params=[0, 1], ids=["single", "multi2+permute"])
def runner(request, finished) -> Runner:
    """A row of the finished sweep."""
    return finished_runner(finished, request.param)


@pytest.fixture(scope="module")
def own_cache(finished, tmp_path_factory) -> Cache:
    """A copy of the stages of the finished sweep, to write to."""
    folder = tmp_path_factory.mktemp("own") / "stages"
    shutil.copytree(finished / "stages", folder)
    return Cache(folder)


@pytest.fixture
def small_world(tmp_path):
    """The pools of 2 x 4 names, 8 towns in 2 countries, and 4 trades; he or she."""
    folder = tmp_path / "world"
    (folder / "pools").mkdir(parents=True)
    (folder / "world.toml").write_text(
        'name = ["first", "last"]\npronouns = ["she", "he"]\n[attributes]\n'
        'town.pool = "towns"\ncountry.function_of = "town"\ntrade.pool = "trades"\n'
    )
    lines = {
        "first": ["Ada", "Bea"],
        "last": ["Abel", "Bach", "Cohn", "Dahl"],
        "towns": [f"Town{i}; Land{i % 2}" for i in range(8)],
        "trades": ["Baker", "Cook", "Smith", "Tailor"],
    }
    for name, values in lines.items():
        (folder / "pools" / f"{name}.txt").write_text("\n".join(values) + "\n")
    return load_pools(str(folder))


def test_the_bound_of_a_small_world_by_hand(small_world):
    assert span_names(small_world) == ("name", "town", "country", "trade", "pronoun")
    bound = bound_of(small_world, 4, np.array([1.0, 1.0, 1.0, 1.0, 0.5]))
    assert bound.names == ("name", "town", "trade", "pronoun")
    bit = math.log(2)
    # Of 3 bits a name 2.5 are missing, of 3 bits a town 1 and in its country another, of 2 bits a
    # trade 3, which is worse than a guess, of 1 bit a pronoun none; half of the texts show that.
    nats = np.array([2.5 * bit, 1 * bit, 1 * bit, 3 * bit, 0.0])
    assert bound.bits(nats).tolist() == pytest.approx([0.5, 1.0, 0.0, 1.0])
    assert bound.learned(nats) == pytest.approx(4 * (0.5 + 1.0 + 0.0 + 0.5 * 1.0))
    assert bound.most.tolist() == [1.0, 3.0, 2.0, 1.0]  # nothing says whose biography begins
    on_device = bound.learned(jax.numpy.asarray(nats, np.float32))
    assert float(on_device) == pytest.approx(8.0)
    assert bound_of(small_world, 4, np.array([1.0, 1, 1, 1, 0])).names == bound.names[:3]


def test_the_bundled_world_has_the_choices_of_its_pools():
    pools = load_pools("", 0.05, 0.1)
    bound = bound_of(pools, 10, np.ones(8))
    most = dict(zip(bound.names, bound.most, strict=True))
    assert most["name"] == pytest.approx(math.log2(40 * 40 * 100 / 10))
    assert most["pronoun"] == pytest.approx(math.log2(3))
    assert most["birth_city"] == pytest.approx(math.log2(10))
    assert "company_city" not in most


def test_losses_of_spans_are_sums_of_log_likelihoods():
    shape = Shape(vocabulary=16, layers=1, heads=2, width=16)
    params, draw = reference.parameters(shape), np.random.default_rng(0)
    tokens = draw.integers(0, 16, (10, 8)).astype(np.int32)
    positions = np.broadcast_to(np.array([[0, 1], [4, 0]], np.int32), (10, 2, 2))
    weights = np.broadcast_to(np.array([[1, 1], [1, 0]], np.float32), (10, 2, 2)).copy()
    weights[7:, 1] = 0  # without the second span
    targets = draw.integers(0, 16, (10, 2, 2)).astype(np.int32)
    examples = SpanExamples(tokens, positions, targets, weights, np.full(10, 8, np.int32))
    exact = reference.as_float64(params)
    logits = reference.outputs(np, exact, tokens, shape) @ exact["embedding"].T
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.arange(10)[:, None, None]
    expected = (-log_p[rows, positions, targets] * weights).sum(-1)
    nats = spans.span_nats(shape, params, examples, batch=4)
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-5)
    means = spans.mean_nats(shape, params, spans.stack_batches(examples, 4))
    np.testing.assert_allclose(means, [expected[:, 0].mean(), expected[:7, 1].mean()], rtol=1e-4)


def test_an_untrained_model_knows_nothing(runner, tmp_path):
    params = forward.init(runner.context.shape, jax.random.key(0))
    untrained = dataclasses.replace(runner.context, load_pretrained=lambda _: params)
    result = capacity.capacity(untrained, CapacityConfig(), tmp_path)
    assert result["learned"] == 0.0
    assert result["bits_per_parameter"]["used"] == 0.0
    assert result["nats"]["name"] > math.log(2) * math.log2(400 * 400 * 1000)  # worse than a guess


def test_a_model_that_memorised_knows_all_there_is(finished, own_cache):
    runner = finished_runner(finished, 0)
    e = runner.graph.experiment
    trained = with_sections(
        runner,
        own_cache,
        model=dataclasses.replace(e.model, width=64),
        pretrain=dataclasses.replace(
            e.pretrain,
            steps=400,
            batch_size=8,
            seq_len=64,
            learning_rate=1e-2,
            weight_decay=0.0,
            steps_per_call=20,
            checkpoint_every=400,
            evaluate_every=200,
        ),
    )
    result = trained.ensure(trained.graph.readouts["capacity"])
    rate = result["bits_per_parameter"]
    assert rate["used"] == pytest.approx(rate["most"], rel=0.02)
    assert result["most"]["name"] == pytest.approx(math.log2(400 * 400 * 1000 / 20))
    assert result["learned"] == pytest.approx(20 * sum(result["bits"].values()), rel=1e-6)
    lines = read_metrics(own_cache.folder(trained.graph.pretrain) / METRICS)
    measured = [line["evaluation"] for line in lines if "evaluation" in line]
    assert len(measured) == 2
    assert measured[0]["capacity_bits_per_parameter"] < rate["most"]
    assert measured[-1]["capacity_bits_per_parameter"] == pytest.approx(rate["used"], rel=1e-4)
    assert measured[-1]["capacity_major"] == pytest.approx(result["bits"]["major"], rel=1e-4)


def test_parameters_are_counted_with_and_without_unused_rows(runner, tmp_path):
    context = runner.context
    result = capacity.capacity(context, CapacityConfig(), tmp_path)
    parameters = runner.graph.cache.require(runner.graph.pretrain)["parameters"]
    unused = context.shape.vocabulary - context.vocabulary.size
    assert unused > 0
    assert result["parameters"] == {"all": parameters, "used": parameters - 16 * unused}
    full = dataclasses.replace(
        context, shape=dataclasses.replace(context.shape, vocabulary=50304, tie_embeddings=False)
    )
    used = compact_vocabulary(context.table, context.everyone).size
    assert used == context.vocabulary.size
    counts = capacity._num_parameters(full)
    assert counts["all"] - counts["used"] == 2 * 16 * (50304 - used)


def test_a_biography_is_read_after_the_end_of_another_one(runner):
    context, before = runner.context, capacity._TOKENS_BEFORE
    ids, examples = capacity._examples(context, CapacityConfig(people=15), 0)
    (end,) = context.vocabulary.encode(np.array([context.table.tokenizer.end_of_text]))
    rows = zip(examples.tokens, examples.lengths, strict=True)
    texts = [row[before + 2 : length] for row, length in rows]
    for text, row, others in zip(texts, examples.tokens, texts[-1:] + texts, strict=False):
        assert row[0] == row[before + 1] == end
        assert end not in row[1 : before + 1]
        assert end not in text
        assert row[1 : before + 1].tolist() == others[-before:].tolist()
    assert len(ids) == len(texts)
    _, alone = capacity._examples(context, CapacityConfig(people=1), 0)
    assert alone.tokens[0, 1] == texts[0][0]  # there is no other one


def words_of(context, examples: SpanExamples, span: int) -> list[str]:
    inside = examples.weights[:, span] > 0
    return [
        context.vocabulary.decode(row[mask])
        for row, mask in zip(examples.targets[:, span], inside, strict=True)
    ]


@pytest.mark.parametrize("variant", ["single", "multi2+permute", "fresh"])
def test_the_spans_are_the_name_the_values_and_the_first_pronoun(runner, own_cache, variant):
    data = dataclasses.replace(runner.graph.experiment.data, variant=variant)
    other = with_sections(runner, own_cache, data=data)
    other.ensure(other.graph.datasets["shards"])
    context = other.context
    config = CapacityConfig(people=15)
    ids, examples = capacity._examples(context, config, 0)
    assert ids.tolist() == [i * 20 // 15 for i in range(15)]
    people = context.people.take(ids)
    pools = context.table.language.pools
    names = words_of(context, examples, 0)
    assert names == [
        " " + " ".join(part[i] for part, i in zip(pools.names, row, strict=True))
        for row in people.names
    ]
    cities = words_of(context, examples, 2)
    assert cities == [f" {pools.values['birth_city'][row[1]]}" for row in people.values]
    forms = {"she": {"she", "her"}, "he": {"he", "his", "him"}, "they": {"they", "their", "them"}}
    shown = words_of(context, examples, 7)
    assert len(set(people.pronouns)) == 3
    for word, pronoun in zip(shown, people.pronouns, strict=True):
        assert word.strip().lower() in forms[pools.schema.pronouns[pronoun]]


def test_fresh_text_is_measured_on_wordings_that_no_epoch_has(runner, own_cache, tmp_path):
    data = dataclasses.replace(runner.graph.experiment.data, variant="fresh")
    fresh = with_sections(runner, own_cache, data=data)
    fresh.ensure(fresh.graph.pretrain)
    context, config = fresh.context, CapacityConfig(draws=3)
    texts = [capacity._examples(context, config, draw)[1].tokens.tolist() for draw in range(3)]
    read = context.corpus.texts.take(np.arange(20))
    first = [context.vocabulary.encode(row) for row in np.split(read.tokens, read.offsets[1:-1])]
    written = [tuple(row) for draw in texts for row in draw]
    assert len(set(written)) == 60
    assert not any(tuple(row[1 : 1 + len(f)]) == tuple(f) for row in written for f in first)
    result = fresh.ensure(fresh.graph.readouts["capacity"])
    assert len(result["draws"]) == 3
    assert result["measured"] == {"people": 20, "texts": 60}
    one = with_sections(fresh, own_cache, readouts=with_capacity(fresh, draws=1))
    alone = capacity.capacity(one.context, CapacityConfig(draws=1), tmp_path)
    assert alone["learned"] == result["draws"][0]


def with_capacity(runner: Runner, **fields):
    readouts = runner.graph.experiment.readouts
    return dataclasses.replace(readouts, capacity=CapacityConfig(**fields))


def test_a_text_of_several_is_measured_by_the_ones_that_were_read(runner, tmp_path):
    context = runner.context
    result = capacity.capacity(context, CapacityConfig(people=7), tmp_path)
    entries = context.variant.biographies_per_person
    assert result["measured"] == {"people": 7, "texts": 7 * entries}
    cases = dict(np.load(tmp_path / "cases.npz"))
    assert cases["draw"].tolist() == [d for d in range(entries) for _ in range(7)]
    assert cases["nats"].shape == (7 * entries, len(cases["names"]))
    means = dict(zip(cases["names"].tolist(), cases["nats"].mean(0), strict=True))
    together = means["company"] + means["company_city"]
    assert result["nats"]["company"] == pytest.approx(together, rel=1e-5)
    assert result["nats"]["major"] == pytest.approx(means["major"], rel=1e-5)


DEVICES = """
import json, sys, tempfile, pathlib
import jax
from kstore_jax.readouts import capacity
from kstore_jax.readouts.capacity import CapacityConfig
from kstore_jax.train.mesh import shard_tree
from tests.pipeline.runners import finished_runner

context = finished_runner(pathlib.Path(sys.argv[1]), 1).context
assert context.mesh.size == jax.device_count() == int(sys.argv[2])
folder = pathlib.Path(tempfile.mkdtemp())
result = capacity.capacity(context, CapacityConfig(), folder)
during = capacity.while_training(context, CapacityConfig())
scalars = during(shard_tree(context.mesh, context.pretrained))
print(json.dumps([result, jax.tree.map(float, jax.device_get(scalars))]))
"""


def test_one_and_eight_devices_measure_the_same(finished):
    found = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        output = subprocess.run(
            [sys.executable, "-c", DEVICES, str(finished), str(devices)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            cwd=pathlib.Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        found.append(json.loads(output.splitlines()[-1]))
    for one, eight in zip(*found, strict=True):
        assert jax.tree.leaves(eight) == pytest.approx(jax.tree.leaves(one), rel=1e-5, abs=1e-6)


def test_a_rounded_copy_has_integers_times_a_scale_a_channel():
    shape = Shape(vocabulary=16, layers=1, heads=2, width=16)
    params = reference.parameters(shape)
    for format, largest in (("int8", 127), ("int4", 7)):
        rounded = quantise(params, format)
        for kernel, copy, axis in (
            (params["block_0"]["up"]["kernel"], rounded["block_0"]["up"]["kernel"], 0),
            (params["embedding"], rounded["embedding"], 1),
        ):
            scale = np.abs(kernel).max(axis, keepdims=True) / largest
            np.testing.assert_allclose(copy, np.round(kernel / scale) * scale, rtol=1e-5)
            assert np.abs(copy / scale - np.round(copy / scale)).max() < 1e-3
            assert (np.abs(copy - kernel) <= 0.501 * scale).all()
        assert np.array_equal(rounded["ln_f"]["scale"], params["ln_f"]["scale"])
        assert np.array_equal(rounded["block_0"]["up"]["bias"], params["block_0"]["up"]["bias"])


def test_rounded_copies_are_measured_and_need_no_training(runner, own_cache):
    plain = with_sections(runner, own_cache)
    rounding = with_sections(
        runner, own_cache, readouts=with_capacity(runner, quantise=("int8", "int4"))
    )
    evaluated = [
        with_sections(
            each,
            own_cache,
            pretrain=dataclasses.replace(each.graph.experiment.pretrain, evaluate_every=2),
        ).graph.pretrain.key
        for each in (plain, rounding)
    ]
    assert evaluated[0] == evaluated[1]
    result = rounding.ensure(rounding.graph.readouts["capacity"])
    assert [*result["quantised"]] == ["int8", "int4"]
    exact, eight, four = (
        np.array([*nats.values()])
        for nats in (result["nats"], *(copy["nats"] for copy in result["quantised"].values()))
    )
    assert 0 < np.abs(eight - exact).max() < np.abs(four - exact).max()
    with pytest.raises(UserError, match=r"^quantise: no format 'int9'; did you mean 'int8'"):
        CapacityConfig(quantise=("int9",))


def test_a_bidirectional_model_has_no_bits(runner, own_cache, tmp_path):
    model = dataclasses.replace(runner.graph.experiment.model, direction="bidirectional")
    bert = with_sections(runner, own_cache, model=model)
    bert.ensure(bert.graph.datasets["shards"])
    assert capacity.capacity(bert.context, CapacityConfig(), tmp_path) == {}
    assert capacity.while_training(bert.context, CapacityConfig())({}) == {}


RESULT = {
    "people": 400,
    "measured": {"people": 400, "texts": 800},
    "nats": {"name": 6.0, "major": 0.5},
    "bits": {"name": 18.0, "major": 6.0},
    "most": {"name": 18.6, "major": 6.6},
    "learned": 9600.0,
    "most_learned": 10080.0,
    "draws": [9500.0, 9700.0],
    "parameters": {"used": 8000, "all": 9000},
    "bits_per_parameter": {"used": 1.2, "all": 1.0667, "most": 1.26},
    "quantised": {
        "int4": {
            "nats": {"name": 9.0, "major": 2.0},
            "bits": {"name": 14.0, "major": 3.7},
            "learned": 7080.0,
            "bits_per_parameter": {"used": 0.885, "all": 0.787},
        }
    },
}


def measured_row(size: int, learned: float, **fields):
    rate = {"used": learned / size, "all": learned / size, "most": 10080 / size}
    result = {**RESULT, "learned": learned, "parameters": {"used": size, "all": 9000}}
    row = a_row("fresh", model__width=size // 100, **fields)
    return dataclasses.replace(
        row,
        readouts={"capacity": {**result, "bits_per_parameter": rate}},
        evaluations=[
            {"step": s, "exposures": 3.0 * s, "evaluation": {"capacity_bits_per_parameter": s / 9}}
            for s in (5, 10)
        ],
    )


def test_the_page_has_tables_and_bits_against_parameters(tmp_path):
    page = write_page(a_run(tmp_path, [measured_row(8000, 9600.0), measured_row(4000, 7000.0)]))
    head, *lines = csv_of(page, "capacity.csv")
    assert head == ["", "people", "parameters", "bits", "at most", "bits a parameter"]
    assert [line[2:] for line in lines[:2]] == [
        ["8000", "9600.0", "10080.0", "1.2"],
        ["4000", "7000.0", "10080.0", "1.75"],
    ]
    assert ["Part 3.3, Fig. 1 (a)", "50K people", "816000", "1400000.0"] in [x[:4] for x in lines]
    text = text_of(page)
    for words in ("9,600", "9,500 to 9,700", "8,000 (9,000)", "1.20 (1.20)", "int4", "14.0"):
        assert words in text
    head, *lines = csv_of(page, "capacity-training")
    assert [line[1:] for line in lines[:2]] == [["0", "5", "0.556"], ["0", "10", "1.111"]]


def test_models_of_one_size_have_tables_alone(tmp_path):
    page = write_page(a_run(tmp_path, [measured_row(8000, 9600.0)]))
    assert "Bits stored" in text_of(page)
    assert 'download="capacity.csv"' not in page
