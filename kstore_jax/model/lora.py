"""What is trained on top of a frozen model: `params = merge(frozen, trainable)`.

A trainable is a dictionary of updates, by the matrix they act on; only `merge` interprets it. As
gradients reach it through `merge`, every training is the same loop.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params


def init_lora(
    params: Params,
    sites: Sequence[str],
    key: jax.Array,
    rank: int,
    embedding_rank: int,
    scale: float,
) -> dict[str, dict[str, jax.Array]]:
    """Returns low-rank updates of the kernels at some sites of every block, and of the embedding.

    The merged model starts as the frozen one. Source: LoRA (Hu et al., 2021), section 4.1.

    Args:
      sites: modules of a block, such as `query`.
      rank: of the updates of kernels; 0: no update, -1: the whole matrix is trained.
      embedding_rank: the same for the embedding.
      scale: standard deviation of the initial B; A is zero.
    """
    matrices = [
        (f"{block}/{site}", params[block][site]["kernel"], rank)
        for block in sorted(params)
        if block.startswith("block_")
        for site in sites
    ]
    matrices.append(("embedding", params["embedding"], embedding_rank))
    return {
        name: low_rank(jax.random.fold_in(key, i), (1, *matrix.shape), r, scale)
        if r > 0
        else {"whole": matrix[None]}
        for i, (name, matrix, r) in enumerate(matrices)
        if r
    }


def updated_products(params: Params, trainable: dict, embedding_side: str) -> int:
    """Returns the number of parameters of the matrix products that a trainable updates. The
    gradient of such a matrix is computed whole before it reaches the factors."""
    of_sites = (site.split("/") for site in trainable if site != "embedding")
    kernels = sum(params[block][name]["kernel"].size for block, name in of_sites)
    is_tied = "unembedding" not in params
    has_head = embedding_side == "new" or (embedding_side == "both" and is_tied)
    has_head = has_head and "embedding" in trainable
    return kernels + (params["embedding"].size if has_head else 0)


def low_rank(
    key: jax.Array, shape: tuple[int, int, int], rank: int, scale: float
) -> dict[str, jax.Array]:
    """Returns T updates A B of matrices (I, O), for `shape` (T, I, O).

    `a` (T, I, rank) is zero; `b` (T, rank, O) is Gaussian with standard deviation `scale`.
    """
    tasks, inputs, outputs = shape
    return {
        "a": jnp.zeros((tasks, inputs, rank)),
        "b": jax.random.normal(key, (tasks, rank, outputs)) * scale,
    }


def merge(frozen: Params, trainable: dict, alpha: float, embedding_side: str = "input") -> Params:
    """Returns the parameters with each updated matrix W replaced by W + alpha A B, or by the whole
    trained matrix; all others are the frozen arrays themselves.

    An update of T > 1 tasks turns the embedding into T tables (T V, D): row t V + v is token v of
    task t.

    Args:
      frozen: the model; for `new` also `new_tokens`, (V,) bool.
      embedding_side: `input`: the head keeps the frozen embedding; `both`: it changes with it;
        `new`: its rows of `new_tokens` change, tied or not.
    """
    params = {name: part for name, part in frozen.items() if name != "new_tokens"}
    for site, update in trainable.items():
        if site == "embedding":
            table = frozen["embedding"]
            changed = _apply_update(table, update, alpha)
            params["embedding"] = changed.reshape(-1, table.shape[1])
            head = frozen.get("unembedding", table)
            if embedding_side == "new":
                head = jnp.where(frozen["new_tokens"][:, None], head + changed[0] - table, head)
            if embedding_side != "both":
                params["unembedding"] = head
        else:
            block, name = site.split("/")
            layer = params[block][name]
            layer = {**layer, "kernel": _apply_update(layer["kernel"], update, alpha)[0]}
            params[block] = {**params[block], name: layer}
    return params


def _apply_update(matrix_IxO: jax.Array, update: dict[str, jax.Array], alpha: float) -> jax.Array:
    """Returns the matrix with each of T updates, (T, I, O)."""
    if "whole" in update:
        return update["whole"]
    return matrix_IxO[None] + alpha * jnp.einsum("tir,tro->tio", update["a"], update["b"])
