"""The fused attention of cuDNN: nothing of the score matrix reaches memory."""

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
    q_len, kv_len = query.shape[1], key.shape[1]
    lengths = None
    if kv_len % 2 != 0:
        # JAX refuses odd lengths where a gradient is taken (it counts its own empty
        # placeholder as a bias), and the text of Stable Diffusion is 77 tokens. The
        # token added is masked.
        lengths = jnp.full(key.shape[:1], kv_len, jnp.int32)
    out = jax.nn.dot_product_attention(
        _even(query),
        _even(key),
        _even(value),
        is_causal=is_causal,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :q_len]
