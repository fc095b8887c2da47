import types
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from .._choice import resolve
from .._device import target_device
from ._chunked import attention_chunked
from ._cudnn import attention_cudnn
from ._dispatch import AttentionShape, choose_attention, IMPLEMENTATIONS, refusal
from ._pallas_tpu import attention_pallas_tpu
from ._reference import attention_reference
from ._xla import attention_xla


_BACKENDS = types.MappingProxyType[str, Callable[..., Array]](
    {
        "cudnn": attention_cudnn,
        "pallas_tpu": attention_pallas_tpu,
        "xla": attention_xla,
        "chunked": attention_chunked,
        "reference": attention_reference,
    }
)


def dot_product_attention(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
    implementation: str | None = None,
) -> Float[Array, "batch q_len heads head_dim"]:
    r"""Attends from queries to keys and values, `[batch, tokens, heads, head_dim]`.

    $$\mathrm{softmax}\big(Q K^\top / \sqrt{d}\big) V$$

    **Arguments:**

    - `query`: $Q$, its heads already split.
    - `key`, `value`: $K$ and $V$, with as many heads.
    - `is_causal`: Whether position `i` sees only positions `<= i`.
    - `implementation`: `None` chooses by the device compiled for (that of
        `compiling_for`, else JAX's default device), the dtype and the shapes. A backend
        that is named is used or refuses with a `ValueError`:
        - `"cudnn"`: CUDA devices; float16 or bfloat16; heads whose size is a multiple
            of 8, up to 256 (128 before Hopper).
        - `"pallas_tpu"`: TPUs; float32 or bfloat16; heads up to 256.
        - `"xla"`: Everywhere; one matrix of all scores, kept for the backward pass.
        - `"chunked"`: Everywhere; a bounded number of scores at a time, made again by
            the backward pass.
        - `"reference"`: Everywhere; the definition, with autodiff's derivative.

    **Returns:**

    An array like `query`. The softmax is computed in at least float32.

    **Backward:** `"cudnn"`, `"pallas_tpu"` and `"chunked"` save arrays of the size of
    the arguments; `"xla"` the softmax too, in the dtype of `value`.

    ??? cite

        [Attention Is All You Need](https://arxiv.org/abs/1706.03762), equation 1;
        [FlashAttention](https://arxiv.org/abs/2205.14135) for keeping no scores.
    """
    batch, q_len, heads, head_dim = query.shape
    about: dict[str, Any] = dict(
        device=target_device(),
        dtype=query.dtype,
        shape=AttentionShape(batch, heads, q_len, key.shape[1], head_dim),
        is_causal=is_causal,
    )
    chosen = resolve(
        implementation,
        IMPLEMENTATIONS,
        choose=lambda: choose_attention(**about),
        refusal=lambda name: refusal(name, **about),
    )
    return _BACKENDS[chosen](query, key, value, is_causal=is_causal)
