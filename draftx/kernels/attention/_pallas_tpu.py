"""JAX's own splash-attention kernel for TPUs, padded to the tiles it needs.

What has been checked: values and VJP in Pallas' interpreter, and that both passes lower
to Mosaic at the shapes of Stable Diffusion. It has never run on a TPU, and the block
sizes are unmeasured.
"""

import functools as ft
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtypes import at_least_float32


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

    **Backward:** saves `query`, `key`, `value`, the result and one float32 a row.
    """
    # Takes a second to import, for which other devices have no use.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as splash,
        splash_attention_mask as masks,
    )

    _, q_len, heads, head_dim = query.shape
    kv_len, width = key.shape[1], _padded_head_dim(head_dim)
    shape = (_padded(q_len), _padded(kv_len))
    q_block, kv_block = map(_block, shape)
    # Tokens in lanes, as the products that make queries, keys and values leave them:
    # heads are narrower than lanes, and would be padded to them, each in a copy.
    turned = splash.QKVLayout.SEQ_MINOR
    mask = (masks.CausalMask if is_causal else masks.FullMask)(shape)
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=q_block,
            block_kv=kv_block,
            block_kv_compute=kv_block,
            block_q_dkv=q_block,
            block_kv_dkv=kv_block,
            block_kv_dkv_compute=kv_block,
            block_q_dq=q_block,
            block_kv_dq=kv_block,
            q_layout=turned,
            k_layout=turned,
            v_layout=turned,
        ),
        head_shards=1,
        q_seq_shards=1,
    )
    segment_ids = None
    if shape[1] != kv_len:
        # Queries see the keys of their own segment: all but those of the padding.
        is_key = (jnp.arange(shape[1]) < kv_len).astype(jnp.int32)
        segment_ids = splash.SegmentIds(q=jnp.ones(shape[0], jnp.int32), kv=is_key)
    # The kernel does not scale.
    scaled = query.astype(at_least_float32(query.dtype)) * head_dim**-0.5
    tiles = [_tiles(x, width) for x in (scaled.astype(query.dtype), key, value)]
    of_one: Any = ft.partial(kernel, segment_ids=segment_ids)
    out = jax.vmap(of_one)(*tiles)
    return jnp.swapaxes(out, 1, 2)[:, :q_len, :, :head_dim]
