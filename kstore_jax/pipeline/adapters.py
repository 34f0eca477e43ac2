"""What a training updates: all weights, or low-rank updates of a frozen model (LoRA)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kstore_jax.errors import UserError, nearest
from kstore_jax.model import forward, lora
from kstore_jax.model.base import ARCHITECTURES
from kstore_jax.model.config import Network
from kstore_jax.model.forward import Params
from kstore_jax.model.transformer import Shape
from kstore_jax.train.config import LowRank
from kstore_jax.train.fit import merge_all


def split(
    shape: Shape,
    params: Params,
    training: LowRank,
    key: jax.Array,
    new_tokens: Callable[[], np.ndarray],
) -> tuple[Params, Params]:
    """Returns the frozen and the trainable part of a model before the first step.

    Args:
      params: all weights.
      key: the randomness of the initial factors.
      new_tokens: returns (V,) bool: the tokens of `embedding_side="new"`.
    """
    if training.method == "full":
        return {}, params
    sites = training.sites or ARCHITECTURES.of(shape.architecture).adapter_sites
    ranks = training.rank, training.embedding_rank
    if training.embedding_side == "new":
        params = {**params, "new_tokens": jnp.asarray(new_tokens())}
    return params, lora.init_lora(params, sites, key, *ranks, training.init_std)


def merge_of(training: LowRank) -> Callable[[Params, Params], Params]:
    """Returns `(frozen, trainable) -> parameters`. Equal settings share one function, and so one
    compiled program."""
    if training.method == "full":
        return merge_all
    return _merge_lora(training.alpha, training.embedding_side)


@functools.cache
def _merge_lora(alpha: float, embedding_side: str) -> Callable[[Params, Params], Params]:
    return functools.partial(lora.merge, alpha=alpha, embedding_side=embedding_side)


def abstract_parts(shape: Shape, training: LowRank) -> tuple[Params, Params]:
    """`split` of a network as `jax.ShapeDtypeStruct`, without an array."""
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: forward.init(shape, key))

    none = functools.partial(np.zeros, shape.vocabulary, bool)
    return jax.eval_shape(lambda params: split(shape, params, training, key, none), params)


def updated_products(shape: Shape, training: LowRank) -> int | None:
    """The parameters of matrix products that a training changes, for `flops_per_token`; None: all
    of them."""
    if training.method == "full":
        return None
    return lora.updated_products(*abstract_parts(shape, training), training.embedding_side)


def check_sites(network: Network, training: LowRank, section: str) -> None:
    """Raises UserError, which names the section of a training, where the blocks of a network lack
    one of its `sites`."""
    if not training.sites:
        return
    shape = Shape.of(dataclasses.replace(network, layers=1), 1)
    params = jax.eval_shape(lambda: forward.init(shape, jax.random.key(0)))
    modules = [name for name, module in params["block_0"].items() if "kernel" in module]
    if missing := [site for site in training.sites if site not in modules]:
        raise UserError(f"{section}.sites: no module {missing[0]!r}{nearest(missing[0], modules)}")
