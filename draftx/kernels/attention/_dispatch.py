"""Which backend computes an attention: the rules, as functions of plain values."""

from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp

from .._device import Device


Implementation: TypeAlias = Literal[
    "cudnn", "pallas_tpu", "xla", "chunked", "reference"
]
IMPLEMENTATIONS: tuple[Implementation, ...] = (
    "cudnn",
    "pallas_tpu",
    "xla",
    "chunked",
    "reference",
)

# Above so many scores `"chunked"` is chosen over `"xla"`, which keeps them all for the
# backward pass. On a CPU it is then the faster of the two as well. An accelerator is
# better off with larger matrix products; its figure is not measured.
_MAX_SCORES_CPU = 2**21
_MAX_SCORES_ACCELERATOR = 2**24
# On a TPU chunks are many small loops: by its compiler's estimate 4096 queries of 77
# keys, 20 million scores, take 3.6 times as long in chunks, and four times with the
# backward pass. No more than 256 MiB of them.
_MAX_SCORES_TPU = 2**26
# Shorter than this the score matrix is too small for a flash kernel to pay on a TPU.
_MIN_TOKENS_TPU = 1024


class AttentionShape(NamedTuple):
    """Holds the sizes of an attention.

    **Arguments:**

    - `batch`, `heads`: How many score matrices there are.
    - `q_len`, `kv_len`: Their sizes.
    - `head_dim`: Features of one head.
    """

    batch: int
    heads: int
    q_len: int
    kv_len: int
    head_dim: int


def refusal(
    implementation: str,
    *,
    device: Device,
    dtype: jnp.dtype,
    shape: AttentionShape,
    is_causal: bool,
) -> str | None:
    """Says why a backend cannot compute an attention: a rule and the value that breaks
    it, or `None` if it can."""
    if implementation in ("xla", "chunked", "reference"):
        return None
    if implementation == "cudnn":
        platform, dtypes = "cuda", ("float16", "bfloat16")
        # cuDNN's own limit before Hopper and from it on.
        is_hopper = (device.compute_capability or (0, 0)) >= (9, 0)
        max_head_dim, multiple = (256 if is_hopper else 128), 8
    else:
        platform, dtypes = "tpu", ("float32", "bfloat16")
        max_head_dim, multiple = 256, 1
    if device.platform != platform:
        return f"runs on {platform} devices only; got {device.platform!r}"
    if dtype.name not in dtypes:
        return f"takes {' and '.join(dtypes)} arrays only; got {dtype.name}"
    if shape.head_dim > max_head_dim or shape.head_dim % multiple != 0:
        of = "" if multiple == 1 else f"a multiple of {multiple} and "
        return f"needs `head_dim` to be {of}<= {max_head_dim}; got {shape.head_dim}"
    if is_causal and shape.q_len != shape.kv_len:
        return (
            "needs as many queries as keys if `is_causal`; got "
            f"q_len={shape.q_len}, kv_len={shape.kv_len}"
        )
    return None


def choose_attention(
    *, device: Device, dtype: jnp.dtype, shape: AttentionShape, is_causal: bool
) -> Implementation:
    """Chooses the backend of `dot_product_attention` where none is named.

    cuDNN wherever it can be, a Pallas kernel for long sequences on a TPU, else the
    score matrix in one piece or, where it is large, in chunks.

    **Arguments:**

    - `device`: What is compiled for.
    - `dtype`: Of the query.
    - `shape`: The sizes.
    - `is_causal`: Whether position `i` sees only positions `<= i`.
    """
    can = lambda name: (
        refusal(name, device=device, dtype=dtype, shape=shape, is_causal=is_causal)
        is None
    )
    if can("cudnn"):
        return "cudnn"
    is_long = min(shape.q_len, shape.kv_len) >= _MIN_TOKENS_TPU
    if is_long and can("pallas_tpu"):
        return "pallas_tpu"
    num_scores = shape.batch * shape.heads * shape.q_len * shape.kv_len
    limits = {"cpu": _MAX_SCORES_CPU, "tpu": _MAX_SCORES_TPU}
    limit = limits.get(device.platform, _MAX_SCORES_ACCELERATOR)
    return "xla" if num_scores <= limit else "chunked"
