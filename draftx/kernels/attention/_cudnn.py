"""The fused attention of cuDNN: nothing of the score matrix reaches memory."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _even(x):
    """Pads the tokens to an even number."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


def attention_cudnn(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attends by cuDNN's fused kernel, on CUDA devices, in float16 or bfloat16.

    Not to be put under `jax.vmap` with an odd number of keys.

    **Backward:** saves `query`, `key`, `value`, the result and one float32 a row.
    """
    return _attention(query, key, value, is_causal)


@ft.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, is_causal):
    # Where no gradient is taken, JAX lets any length through.
    return _call(query, key, value, is_causal, None)


def _fwd(query, key, value, is_causal):
    return jax.vjp(ft.partial(_even_attention, is_causal=is_causal), query, key, value)


def _bwd(is_causal, vjp, d_out):
    del is_causal  # Already inside `vjp`.
    return vjp(d_out)


_attention.defvjp(_fwd, _bwd)


def _call(query, key, value, is_causal, lengths):
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=is_causal,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


def _even_attention(query, key, value, *, is_causal):
    """Attends with even lengths.

    JAX refuses odd ones where a gradient is taken (it counts its own empty placeholder
    as a bias), and the text of Stable Diffusion is 77 tokens. The token that is added
    is masked.
    """
    q_len, kv_len = query.shape[1], key.shape[1]
    lengths = None
    if kv_len % 2 != 0:
        lengths = jnp.full(key.shape[:1], kv_len, jnp.int32)
    out = _call(_even(query), _even(key), _even(value), is_causal, lengths)
    return out[:, :q_len]
