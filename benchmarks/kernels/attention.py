"""Attention: every backend that this device has, and autodiff of the definition.

python benchmarks/kernels/attention.py                    # small sizes on a CPU
python benchmarks/kernels/attention.py --no-small --batch 8 --out attention.json
"""

import functools as ft
from typing import Any

import jax
from _harness import Case, main, measure, normal, size

from draftx.kernels import dot_product_attention


# `(name, q_len, kv_len, heads, head_dim, is_causal)`. Those of Stable Diffusion 1.4:
# its UNet, the autoencoder's only attention, the text encoder.
_CASES = (
    ("self 4096", 4096, 4096, 8, 40, False),
    ("self 1024", 1024, 1024, 8, 80, False),
    ("self 256", 256, 256, 8, 160, False),
    ("self 64", 64, 64, 8, 160, False),
    ("cross 4096", 4096, 77, 8, 40, False),
    ("cross 1024", 1024, 77, 8, 80, False),
    ("cross 256", 256, 77, 8, 160, False),
    ("autoencoder", 4096, 4096, 1, 512, False),
    ("text", 77, 77, 12, 64, True),
)
# The first two are of the embedded model.
_SMALL_CASES = (
    ("embedded self", 256, 256, 4, 32, False),
    ("embedded cross", 256, 16, 4, 32, False),
    ("self 1024", 1024, 1024, 8, 80, False),
    ("cross 1024", 1024, 77, 8, 80, False),
    ("autoencoder 1024", 1024, 1024, 1, 512, False),
    ("text", 77, 77, 12, 64, True),
)
_BACKENDS = ("reference", "xla", "chunked", "cudnn", "pallas_tpu", None)


def _case(name, shapes, dtype, is_causal):
    q_shape, kv_shape = shapes
    args = normal(0, q_shape, dtype), normal(1, kv_shape, dtype)
    args = (*args, normal(2, kv_shape, dtype))
    variants = {}
    for backend in _BACKENDS:
        op = ft.partial(
            dot_product_attention, is_causal=is_causal, implementation=backend
        )
        try:
            jax.eval_shape(op, *args)
        except ValueError:  # Not on this device, or not of these sizes.
            continue
        variants[backend or "default"] = op
    batch, q_len, heads, head_dim = q_shape
    product = 2 * batch * heads * q_len * kv_shape[1] * head_dim
    product = product / 2 if is_causal else product
    return Case(
        name=name,
        variants=variants,
        args=args,
        argnums=(0, 1, 2),
        flops=(2 * product, 6 * product),
        nbytes=(size(args, args[0]), 3 * size(args, args[0])),
    )


def rows(batch: int, small: bool, dtype: Any) -> list[dict[str, Any]]:
    result = []
    for name, q_len, kv_len, heads, head_dim, is_causal in (
        _SMALL_CASES if small else _CASES
    ):
        shapes = (batch, q_len, heads, head_dim), (batch, kv_len, heads, head_dim)
        case = _case(name, shapes, dtype, is_causal)
        result += measure(case, seconds=3.0)
    return result


if __name__ == "__main__":
    main(rows, __doc__)
