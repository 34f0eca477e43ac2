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
    `scale`.
    """
    sites = [
        (f"{block}/{site}", params[block][site]["kernel"].shape, rank)
        for block in sorted(params)
        if block.startswith("block_")
        for site in ("query", "value")
    ]
    if embedding_rank:
        sites.append(("embedding", params["embedding"].shape, embedding_rank))
    return {
        name: low_rank(jax.random.fold_in(key, i), (1, *shape), r, scale)
        for i, (name, shape, r) in enumerate(sites)
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


def merge(frozen: Params, trainable: dict, alpha: float) -> Params:
    """W + alpha A B where there is an update, the frozen W elsewhere.

    An update of the embedding acts on its input side: the head keeps the frozen table. One with
    T > 1 tasks gives T tables stacked, (T V, D): token v of task t is row t V + v.
    """
    params = dict(frozen)
    for site, update in trainable.items():
        delta = alpha * jnp.einsum("tir,tro->tio", update["a"], update["b"])
        if site == "embedding":
            table = frozen["embedding"]
            params["unembedding"] = frozen.get("unembedding", table)
            params["embedding"] = (table[None] + delta).reshape(-1, table.shape[1])
        else:
            block, name = site.split("/")
            layer = params[block][name]
            layer = {**layer, "kernel": layer["kernel"] + delta[0]}
            params[block] = {**params[block], name: layer}
    return params
