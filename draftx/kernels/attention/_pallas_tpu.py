"""JAX's own flash-attention kernel for TPUs, padded to the tiles it needs.

What has been checked: values and VJP in Pallas' interpreter, and that both passes lower
to Mosaic at the shapes of Stable Diffusion. It has never run on a TPU, and the block
sizes are unmeasured.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


_LANES = 128
_MAX_BLOCK = 512


def _padded(size):
    return -(-size // _LANES) * _LANES


def _padded_head_dim(head_dim):
    # Up to one row of lanes the kernel takes any width; above, whole rows only.
    return head_dim if head_dim <= _LANES else _padded(head_dim)


def _block(length):
    """The largest block, in whole rows of lanes, that divides a padded length."""
    return max(b for b in range(_LANES, _MAX_BLOCK + 1, _LANES) if length % b == 0)


def _tiles(x, head_dim):
    """`[batch, tokens, heads, head_dim]`, heads first, padded with zeros."""
    tokens = x.shape[1]
    width = head_dim - x.shape[3]
    x = jnp.pad(x, ((0, 0), (0, _padded(tokens) - tokens), (0, 0), (0, width)))
    return jnp.swapaxes(x, 1, 2)


def attention_pallas_tpu(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attends by a Pallas kernel, on TPUs, in float32 or bfloat16.

    Lengths are padded to multiples of 128, and so are heads wider than 128.

    **Backward:** saves `query`, `key`, `value`, the result and two float32 a row.
    """
    # Takes a second to import, for which other devices have no use.
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    batch, q_len, _, head_dim = query.shape
    kv_len, width = key.shape[1], _padded_head_dim(head_dim)
    q_block, kv_block = _block(_padded(q_len)), _block(_padded(kv_len))
    segment_ids = None
    if _padded(kv_len) != kv_len:
        # Queries see the keys of their own segment: all but those of the padding.
        is_key = (jnp.arange(_padded(kv_len)) < kv_len).astype(jnp.int32)
        segment_ids = flash.SegmentIds(
            q=jnp.ones((batch, _padded(q_len)), jnp.int32),
            kv=jnp.broadcast_to(is_key[None], (batch, _padded(kv_len))),
        )
    out = flash.flash_attention(
        _tiles(query, width),
        _tiles(key, width),
        _tiles(value, width),
        segment_ids=segment_ids,
        causal=is_causal,
        sm_scale=head_dim**-0.5,
        block_sizes=flash.BlockSizes(
            block_b=1,
            block_q=q_block,
            block_k_major=kv_block,
            block_k=kv_block,
            block_q_major_dkv=q_block,
            block_k_major_dkv=kv_block,
            block_q_dkv=q_block,
            block_k_dkv=kv_block,
            block_q_dq=q_block,
            block_k_major_dq=kv_block,
            block_k_dq=kv_block,
        ),
    )
    return jnp.swapaxes(out, 1, 2)[:, :q_len, :, :head_dim]
