"""What is trained on top of a frozen model: `params = merge(frozen, trainable)`.

A trainable is a plain dictionary; `merge` is the only thing that knows how it acts. Gradients reach
the trainable through `merge`, so every training is the same loop.
"""

import jax
import jax.numpy as jnp

from kstore_jax.model.forward import Params


def init_lora(
    params: Params, key: jax.Array, rank: int, embedding_rank: int, scale: float
) -> dict[str, dict[str, jax.Array]]:
    """Low-rank updates of every query and value kernel, and of the embedding.

    A is zero, so the merged model starts as the frozen one; B is Gaussian with standard deviation
    `scale`. A rank of 0 makes no update, one of -1 trains the whole matrix itself.
    """
    sites = [
        (f"{block}/{site}", params[block][site]["kernel"], rank)
        for block in sorted(params)
        if block.startswith("block_")
        for site in ("query", "value")
    ]
    sites.append(("embedding", params["embedding"], embedding_rank))
    return {
        name: low_rank(jax.random.fold_in(key, i), (1, *matrix.shape), r, scale)
        if r > 0
        else {"whole": matrix[None]}
        for i, (name, matrix, r) in enumerate(sites)
        if r
    }


def low_rank(
    key: jax.Array, shape: tuple[int, int, int], rank: int, scale: float
) -> dict[str, jax.Array]:
    """A (T, I, rank) zero and B (T, rank, O) Gaussian, for `shape` (T, I, O): T updates."""
    tasks, rows, columns = shape
    return {
        "a": jnp.zeros((tasks, rows, rank)),
        "b": jax.random.normal(key, (tasks, rank, columns)) * scale,
    }


def merge(frozen: Params, trainable: dict, alpha: float, embedding_side: str = "input") -> Params:
    """W + alpha A B, or the whole matrix trained, where there is an update; the frozen W elsewhere.

    An update of the embedding acts on its input side, where the head keeps the frozen table, or on
    `both`. One with T > 1 tasks gives T tables stacked, (T V, D): token v of task t is row t V + v.
    """
    params = dict(frozen)
    for site, update in trainable.items():
        if site == "embedding":
            table = frozen["embedding"]
            if embedding_side == "input":
                params["unembedding"] = frozen.get("unembedding", table)
            params["embedding"] = _updated(table, update, alpha).reshape(-1, table.shape[1])
        else:
            block, name = site.split("/")
            layer = params[block][name]
            layer = {**layer, "kernel": _updated(layer["kernel"], update, alpha)[0]}
            params[block] = {**params[block], name: layer}
    return params


def _updated(matrix_IxO: jax.Array, update: dict[str, jax.Array], alpha: float) -> jax.Array:
    """(T, I, O): the matrix with each of T updates."""
    if "whole" in update:
        return update["whole"]
    return matrix_IxO[None] + alpha * jnp.einsum("tir,tro->tio", update["a"], update["b"])
