"""Causal attention over a packed window; documents in it see each other, as in the paper."""

import jax
import jax.numpy as jnp


def attend(q_BxLxHxK: jax.Array, k_BxLxHxK: jax.Array, v_BxLxHxK: jax.Array, dtype: str):
    """Softmax attention, causal: (B, L, H, K) float32. `dtype`: of the inputs of the products."""
    q, k, v = (x.astype(dtype) for x in (q_BxLxHxK, k_BxLxHxK, v_BxLxHxK))
    length, width = q.shape[1], q.shape[3]
    scores = jnp.einsum("BLHK,BMHK->BHLM", q, k, preferred_element_type=jnp.float32)
    causal = jnp.tril(jnp.ones((length, length), bool))
    scores = jnp.where(causal[None, None], scores * width**-0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    return jnp.einsum("BHLM,BMHK->BLHK", weights, v, preferred_element_type=jnp.float32)
