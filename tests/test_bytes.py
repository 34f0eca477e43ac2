"""What the step of an accelerator keeps and writes, counted without one."""

import dataclasses

import pytest

from benchmarks import bytes as counting
from kstore_jax.model import transformer
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import Experiment, Pretrain

LAYERS = 2
SMALL = Shape(
    vocabulary=320,
    layers=LAYERS,
    heads=2,
    width=64,
    dropout=0.1,
    dtype="bfloat16",
    attention="cudnn",
)
TRAINING = Pretrain(steps=10, warmup_steps=1, batch_size=16, seq_len=64)


def step(**changes) -> counting.Step:
    return counting.Step(dataclasses.replace(SMALL, **changes), TRAINING)


@pytest.fixture(scope="module")
def steps():
    """The step with activations in float32, and in bfloat16."""
    with counting.traced_for_cuda():
        found = [step(activation_dtype=policy) for policy in counting.POLICIES]
        for one in found:
            _ = one.traced
        yield found


def test_bfloat16_keeps_at_most_six_tenths_and_leaves_the_listed_float32(steps):
    before, after = map(counting.measure, steps)
    assert after["kept"] <= 0.6 * before["kept"]
    assert after["products"] <= 0.8 * before["products"]
    assert {*after["float32"]} <= {*counting.FLOAT32}
    assert after["float32_products"] == 0
    assert "other" in before["float32"]
    assert before["float32_products"] > 0


def test_random_bits_are_a_twentieth_of_the_values_at_most(steps):
    for one in map(counting.measure, steps):
        assert 0 < one["dropout"] < 0.05


def test_the_loss_keeps_no_logits(steps):
    rows = TRAINING.batch_size * TRAINING.seq_len
    before, after = ({aval.shape for aval in one.residuals().values()} for one in steps)
    assert (rows, SMALL.vocabulary) in before
    assert (rows, SMALL.vocabulary) not in after


def test_queries_keys_and_values_are_one_product_without_transposes(steps):
    def count(one, primitive: str) -> int:
        found = [
            equation
            for equation, *_ in one.equations()
            if equation.primitive.name == primitive
            and equation.outvars[0].aval.size >= SMALL.width**2
        ]
        return len(found)

    assert [count(one, "dot_general") for one in steps] == [18 * LAYERS + 3, 12 * LAYERS + 3]
    before, after = (count(one, "transpose") for one in steps)
    assert after == 0 < before


def test_both_steps_are_lowered_for_cuda_with_its_attention(steps):
    for one in steps:
        text = one.lowered_text()
        assert text.count("@__cudnn$fmhaSoftmax(") == LAYERS
        assert text.count("@__cudnn$fmhaSoftmaxBackward(") == LAYERS


def test_a_float32_value_outside_the_listed_parts_is_found(monkeypatch):
    """The MLP's activation computed outside of `in_float32`."""

    def unlisted(f, *xs):
        return f(*(x.astype("float32") for x in xs)).astype(xs[0].dtype)

    monkeypatch.setattr(transformer, "in_float32", unlisted)
    with counting.traced_for_cuda():  # an epsilon that no other test traces
        found = counting.measure(step(activation_dtype="bfloat16", norm_epsilon=1.1e-5))
    assert found["float32"]["other"] > 0


def test_compare_resolves_a_configuration_as_a_gpu_does():
    model = dataclasses.replace(Experiment().model, layers=1, heads=2, width=128, dropout=0.1)
    experiment = dataclasses.replace(Experiment(), model=model, pretrain=TRAINING)
    before, after, ratio = counting.compare(experiment, 128)
    assert [before["activations"], after["activations"]] == [*counting.POLICIES]
    assert ratio["kept"] == pytest.approx(after["kept"] / before["kept"], abs=1e-3)
