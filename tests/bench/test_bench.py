"""The output of `kstore bench` and the arithmetic behind it. No test checks how fast it is."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from kstore_jax.bench import hlo_profile
from kstore_jax.bench.train import TrainingSteps
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import adapters
from kstore_jax.pipeline.experiment import Pretrain
from kstore_jax.train import flops as peaks
from kstore_jax.train.objectives import next_token, total_loss

SHAPE = Shape(vocabulary=32, layers=3, heads=2, width=16)
TRAINED = {
    "tokens_per_s", "step_ms", "mfu_full", "mfu_causal", "peak_flops_per_s", "peak_from",
    "device", "device_kind", "devices", "dtype", "batch", "window", "vocabulary", "parameters",
    "compile_s", "peak_memory_bytes", "checkpoint_blocks_s", "checkpoint_s",
}  # fmt: skip


class Device:
    def __init__(self, kind: str):
        self.device_kind = kind


def bench(*argv: str) -> dict:
    command = [sys.executable, "-m", "kstore_jax.cli", "bench", *argv, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(config_file) -> dict:
    return bench("train", f"--config={config_file}")


def test_bench_train_names_the_measured_settings(trained):
    assert set(trained) == TRAINED
    asked = {"dtype": "float32", "batch": 4, "window": 32, "devices": 1, "device": "cpu"}
    assert asked.items() <= trained.items()
    assert trained["peak_from"] == "measured: product of 2048 x 2048, float32"
    assert trained["vocabulary"] % 128 == 0
    kernels = 12 * 16**2 + (4 + 4 + 1) * 16 + 4 * 16  # of the one layer, its biases and norms
    assert trained["parameters"] == trained["vocabulary"] * 16 + kernels + 2 * 16


def test_bench_train_agrees_with_itself(trained):
    assert trained["tokens_per_s"] == pytest.approx(4 * 32 / trained["step_ms"] * 1000, rel=0.01)
    assert 0 < trained["mfu_causal"] <= trained["mfu_full"] < 1
    assert trained["peak_memory_bytes"] > 4 * trained["parameters"]
    assert 0 < trained["checkpoint_blocks_s"] < trained["checkpoint_s"]


def test_bench_train_compares_models_together_and_one_by_one(config_file):
    found = bench("train", f"--config={config_file}", "--together=3")
    more = {"models_tokens_per_s", "one_by_one_tokens_per_s", "together_over_one_by_one"}
    assert set(found) == TRAINED | more | {"together"}
    assert found["together"] == 3
    assert all(found[name] > 0 for name in more)
    training = Pretrain(steps=4, warmup_steps=0, batch_size=2, seq_len=8, steps_per_call=2)
    several, alone = TrainingSteps(SHAPE, training, together=3), TrainingSteps(SHAPE, training)
    assert several.parameters == alone.parameters
    for all_, one in zip(jax.tree.leaves(several.state), jax.tree.leaves(alone.state), strict=True):
        assert all_.shape == (3, *one.shape)


def test_bench_profile_has_the_time_of_each_operation(config_file):
    found = bench("profile", f"--config={config_file}")
    spent = list(found.values())
    assert spent == sorted(spent, reverse=True)
    for name in ("block/up/dot_general", "unembed/dot_general", "block/out/dot_general"):
        assert {name, f"backward {name}"} <= found.keys()


def test_operations_are_named_as_in_the_model():
    named = hlo_profile.operation_names(
        """
  %fusion.7 = (f32[2]{0}, f32[]) fusion(%a), metadata={op_name="jit(f)/transpose(jvp(g))/block_3/h"}
  ROOT %dot.1 = f32[2]{1,0:T(8,128)} dot(%a, %b), metadata={op_name="jit(f)/h/dot_general"}
  %while.2 = (s32[], f32[2]) while(%t), metadata={op_name="jit(f)/while"}
  %copy = f32[2] copy(%a)
  %add.3 = f32[2] add(%a, %b), metadata={op_name="jit(f)/while/body/closed_call/jvp(jit(g))/up/add"}
  %add.4 = f32[2] add(%a, %b), metadata={op_name="jit(f)/while/body/eval_jaxpr/jvp(jit(g))/up/add"}
"""
    )
    assert named == {
        "fusion.7": "backward f/g/block/h", "dot.1": "f/h/dot_general", "while.2": "",
        "add.3": "g/up/add", "add.4": "g/up/add",
    }  # fmt: skip


def test_bench_qa_counts_questions(config_file):
    found = bench("qa", f"--config={config_file}")
    assert found["questions"] == 6 * 20
    assert found["questions_per_s"] > 0


def test_flops_of_the_paper_model_counted_by_hand():
    """Per token and layer, the queries meet the keys and the weights the values: 2 products of
    2 width window FLOP forward, twice that backward."""
    paper = Shape(vocabulary=50304, layers=12, heads=12, width=768)
    full, causal = peaks.flops_per_token(124_000_000, paper, 512)
    attention = 12 * (2 * 2 * 768 * 512) * 3
    assert full == 6 * 124_000_000 + attention
    assert causal == 6 * 124_000_000 + attention / 2
    wide = dataclasses.replace(paper, head_width=128)  # of 64
    assert peaks.flops_per_token(124_000_000, wide, 512)[0] == 6 * 124_000_000 + 2 * attention


@pytest.mark.parametrize(
    ("fields", "training"),
    [
        ({}, Pretrain()),
        ({"head_width": 192, "num_kv_heads": 1, "rotary_pct": 0.5, "qk_norm": True}, Pretrain()),
        ({"tie_embeddings": False}, Pretrain(method="lora", rank=1, embedding_rank=1)),
    ],
    ids=["plain", "wide heads", "lora"],
)
def test_flops_are_a_little_less_than_xla_counts(fields, training):
    """Norms, softmax and the like are on top; at this size they are a few percent."""
    shape = Shape(vocabulary=512, layers=2, heads=2, width=256, **fields)
    frozen, trainable = adapters.abstract_parts(shape, training)
    tokens = {"tokens": jax.ShapeDtypeStruct((2, 64 + 1), "int32")}
    merge = adapters.merge_of(training)

    def loss(trainable, frozen, tokens):
        return total_loss(*next_token(shape)(merge(frozen, trainable), tokens))

    lowered = jax.jit(jax.value_and_grad(loss)).lower(trainable, frozen, tokens)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(frozen or trainable))
    products = adapters.updated_products(shape, training)
    full, _ = peaks.flops_per_token(parameters, shape, 64, products)
    assert 1.0 < lowered.cost_analysis()["flops"] / (2 * 64 * full) < 1.1


def test_steps_go_on_from_one_another():
    steps = TrainingSteps(
        SHAPE, Pretrain(batch_size=2, seq_len=8, steps_per_call=5, learning_rate=1e-2)
    )
    before = jax.device_get(steps.state["trainable"]["embedding"])
    assert steps.run(2) > 0
    after = steps.state
    assert not (before == jax.device_get(after["trainable"]["embedding"])).any(1).all()
    counts = [leaf for leaf in jax.tree.leaves(after["optimizer"]) if leaf.dtype == "int32"]
    assert {int(count) for count in counts} == {10}


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
    ],
)
def test_the_peak_of_a_known_accelerator_is_from_its_data_sheet(kind, flops):
    found, source = peaks.peak_flops(Device(kind), "bfloat16")
    assert found == flops
    assert source.startswith("data sheet of ")


def test_the_peak_of_another_device_is_measured(monkeypatch):
    monkeypatch.setattr(peaks, "measured_peak", lambda device, dtype: 7.0)
    assert peaks.peak_flops(Device("cpu"), "bfloat16") == (
        7.0,
        "measured: product of 2048 x 2048, bfloat16",
    )
