"""What a training step writes and keeps on an NVIDIA GPU, without one, by the dtype of activations.

    python -m benchmarks.bytes [--scale=paper] [--vocabulary=50304] [--json]

Traces the step of a configuration as a GPU would, lowers it for CUDA without compiling it, and
counts, with activations in float32 and in bfloat16:

- `kept`: bytes kept between forward and backward pass, parameters left out.
- `values`: bytes of all values of the step, as if no operation were fused with another.
- `products`: bytes that matrix products and attention read and write. These are never fused.
- `dropout`: fraction of `values` that are random bits and masks.
- `float32`: where in blocks and loss values in float32 of at least B L D elements remain, and how
  many products or attentions read or write one of them. `FLOAT32` gives the reasons.

How long a step takes is not shown by any of these.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jax.interpreters import partial_eval

from kstore_jax.errors import run_guarded
from kstore_jax.model import attention
from kstore_jax.model.forward import init
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline.experiment import Experiment, parse_base
from kstore_jax.pipeline.graph import resolve_auto, with_steps
from kstore_jax.pipeline.pretrain_config import Pretrain
from kstore_jax.pipeline.recipes import at
from kstore_jax.train.fit import merge_all
from kstore_jax.train.objectives import next_token, num_tiles, total_loss
from kstore_jax.train.optimizer import optimizer, traced_hparams
from kstore_jax.train.step import train_steps

POLICIES = ("float32", "bfloat16")
FLOAT32 = {
    "norm": "statistics of a norm, and what they are applied to, in one fusion",
    "in_float32": "an elementwise function of the MLP, rounded in the fusion that computes it",
    "rotary": "the rotated part of queries and keys, rounded in the fusion that computes it",
    "bias": "the sum of a bias's gradient reads its terms in float32, in one fusion",
    "loss": "log-sum-exp and its gradient read logits in float32, in one fusion",
}
"""Why bfloat16 activations leave a value in float32, by part of the network. None is in memory."""
_ATTENTION = "dot_product_attention"
_VIEWS = ("reshape", "squeeze", "expand_dims", "copy")
_CUDNN = 91000  # JAX asks for the version when it traces


@contextlib.contextmanager
def traced_for_cuda() -> Iterator[None]:
    """Lets this process trace programs as it would on an NVIDIA GPU; they can be lowered for CUDA,
    not run."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    with (
        mock.patch.object(jax, "default_backend", return_value="gpu"),
        mock.patch.object(attention, "has_cuda", return_value=True),
        mock.patch.object(cudnn, "check_cudnn_version", return_value=_CUDNN),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step of a network, traced for CUDA."""

    shape: Shape
    training: Pretrain

    @functools.cached_property
    def _arguments(self) -> tuple:
        """State, frozen parameters, hyper-parameters and batch, as shapes."""
        training = self.training
        params = jax.eval_shape(lambda key: init(self.shape, key), jax.random.key(0))
        state = {
            "trainable": params,
            "optimizer": jax.eval_shape(optimizer(training).init, params),
            "step": jax.ShapeDtypeStruct((), jnp.int32),
        }
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        hparams = {**jax.eval_shape(lambda: traced_hparams(training)), "key": key}
        tokens = (1, training.batch_size, training.seq_len + 1)
        return state, {}, hparams, {"tokens": jax.ShapeDtypeStruct(tokens, jnp.int32)}

    @functools.cached_property
    def traced(self) -> Any:
        """The step of `fit`, as `jax.jit` traces it."""
        step = functools.partial(train_steps, next_token(self.shape), merge_all, self.training)
        return jax.jit(step).trace(*self._arguments)

    def lowered_text(self) -> str:
        """StableHLO of the step for CUDA."""
        return self.traced.lower(lowering_platforms=("cuda",)).as_text()

    def equations(self) -> Iterator[tuple[Any, str, int]]:
        """Yields each equation of the step with its name in the model and how often it runs."""
        jaxpr = self.traced.jaxpr.jaxpr
        live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        return _equations(live, "", 1)

    def residuals(self) -> dict[Var, Any]:
        """What the backward pass reads of the forward pass, parameters left out, each array once:
        variable -> its shape and dtype."""
        state, _, _, batch = self._arguments
        tokens = jax.ShapeDtypeStruct(batch["tokens"].shape[1:], jnp.int32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(tokens.shape)))

        def leaves(params, tokens, keys):
            def loss(params):
                terms = next_token(self.shape)(params, {"tokens": tokens, "keys": keys})
                return total_loss(*terms)

            return jax.tree.leaves(jax.vjp(loss, params)[1])

        jaxpr = jax.make_jaxpr(leaves)(state["trainable"], tokens, keys).jaxpr
        origins = [_origin(jaxpr, x) for x in jaxpr.outvars if not isinstance(x, Literal)]
        return {x: x.aval for x in origins if x not in jaxpr.invars}


def _equations(jaxpr: Jaxpr, name: str, times: int) -> Iterator[tuple[Any, str, int]]:
    for equation in jaxpr.eqns:
        path = f"{name}/{equation.source_info.name_stack}/{equation.primitive.name}"
        inner = [] if _is_attention(equation) else [*_inner_jaxprs(equation)]
        for one in inner:
            yield from _equations(one, path, times * equation.params.get("length", 1))
        if not inner and times:
            yield equation, path, times


def _inner_jaxprs(equation: Any) -> Iterator[Jaxpr]:
    for value in jax.tree.leaves(
        [*equation.params.values()], is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
    ):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _is_attention(equation: Any) -> bool:
    return _ATTENTION in str(equation.params.get("name", equation.primitive.name))


def _origin(jaxpr: Jaxpr, variable: Any) -> Any:
    """The variable that a variable of `jaxpr` is a view of, in the function that computes it."""
    made = {out: (equation, i) for equation in jaxpr.eqns for i, out in enumerate(equation.outvars)}
    if variable not in made:
        return variable
    equation, i = made[variable]
    if equation.primitive.name in _VIEWS:
        return _origin(jaxpr, equation.invars[0])
    if equation.primitive.name in ("jit", "pjit"):
        (inner,) = _inner_jaxprs(equation)
        found = _origin(inner, inner.outvars[i])
        if found in inner.invars:
            return _origin(jaxpr, equation.invars[inner.invars.index(found)])
        return found
    return variable


def size(aval: Any) -> int:
    """Bytes of an array; a key has as many as its data."""
    return aval.size * aval.dtype.itemsize


def part_of(name: str) -> str | None:
    """The part of the network that an equation of this name belongs to, as in `FLOAT32`; None
    outside of blocks and loss."""
    for part, words in {
        "norm": ("ln_", "._norm/"),
        "in_float32": ("in_float32",),
        "rotary": ("rotary",),
        "loss": ("summed_loss",),
        "bias": ("/reduce_sum", "bias_gradient"),
    }.items():
        if any(word in name for word in words):
            return part
    return "other" if "block_" in name else None


def measure(step: Step) -> dict[str, Any]:
    """The counts of the module's docstring."""
    shape, training = step.shape, step.training
    rows = training.batch_size * training.seq_len
    tiles = num_tiles(rows, shape.vocabulary) if shape.activation_dtype == "bfloat16" else 1
    leading = training.batch_size, rows, training.batch_size * shape.heads
    least = dict.fromkeys(leading, rows * shape.width)  # elements, by the first dimension
    least |= {rows // tiles: rows // tiles * shape.width}
    counts = collections.Counter()
    float32: collections.Counter = collections.Counter()
    for equation, name, times in step.equations():
        results = [x.aval for x in equation.outvars]
        written = times * sum(map(size, results))
        counts["values"] += written
        is_product = equation.primitive.name == "dot_general" or _is_attention(equation)
        operands = [x.aval for x in equation.invars] if is_product else []
        if is_product:
            counts["products"] += written + times * sum(map(size, operands))
        if "keep_mask" in name:
            counts["random"] += written
        part = part_of(name)
        large = [
            x
            for x in [*results, *operands]
            if x.dtype == jnp.float32 and x.shape and x.size >= least.get(x.shape[0], math.inf)
        ]
        if large and part:
            float32[part] += 1
            counts["float32_products"] += is_product
    residuals = step.residuals().values()
    return {
        "activations": shape.activation_dtype,
        "kept": sum(map(size, residuals)),
        "values": counts["values"],
        "products": counts["products"],
        "dropout": round(counts["random"] / counts["values"], 4),
        "float32": dict(sorted(float32.items())),
        "float32_products": counts["float32_products"],
    }


def compare(experiment: Experiment, vocabulary: int) -> list[dict[str, Any]]:
    """`measure` of each policy, and the ratios of `bfloat16` to `float32`. Raises an error where a
    step cannot be lowered for CUDA."""
    found = []
    with traced_for_cuda():
        for policy in POLICIES:
            model = dataclasses.replace(experiment.model, activation_dtype=policy)
            model = resolve_auto(dataclasses.replace(experiment, model=model)).model
            training = dataclasses.replace(with_steps(experiment).pretrain, steps_per_call=1)
            step = Step(Shape.of(model, vocabulary), training)
            step.lowered_text()
            found.append(measure(step))
    before, after = found
    ratios = {name: round(after[name] / before[name], 3) for name in ("kept", "values", "products")}
    return [*found, {"activations": "ratio", **ratios}]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", default="paper", help="of configs/paper.py")
    parser.add_argument("--vocabulary", type=int, default=50_304, help="rows of the embedding")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    experiment, _ = parse_base(at(given.scale))
    rows = compare(experiment, given.vocabulary)
    if given.json:
        print(json.dumps({"rows": rows}))
        return
    for name in {name: None for row in rows for name in row}:
        print(f"{name:<18}" + "".join(f"{_cell(row.get(name)):>32}" for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(run_guarded(main))
