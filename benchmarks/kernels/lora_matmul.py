"""An adapted linear map: one product with the merged weight, against two passes.

python benchmarks/kernels/lora_matmul.py                      # small sizes on a CPU
python benchmarks/kernels/lora_matmul.py --no-small --batch 8 --out lora_matmul.json

The base weight is frozen. `frozen` has no adapter at all: what `lora_matmul` should
cost in the forward pass.
"""

from typing import Any

import jax.numpy as jnp
from _harness import Case, main, measure, normal, size

from draftx.kernels import lora_matmul, lora_matmul_reference


_RANK = 4
# `(tokens, in_features, out_features)` of Stable Diffusion 1.4's attention layers.
_SIZES = (
    (4096, 320, 320),
    (1024, 640, 640),
    (256, 1280, 1280),
    (64, 1280, 1280),
    (77, 768, 320),
    (77, 768, 1280),
)
_SMALL_SIZES = ((256, 128, 128), (1024, 320, 320), (256, 640, 640), (77, 768, 320))


def _frozen(x, weight, lora_down, lora_up, lora_scale):
    del lora_down, lora_up, lora_scale
    return jnp.einsum("...i,oi->...o", x, weight)


def rows(batch: int, small: bool, dtype: Any) -> list[dict[str, Any]]:
    result = []
    for tokens, in_features, out_features in _SMALL_SIZES if small else _SIZES:
        x = normal(0, (batch, tokens, in_features), dtype)
        weight = normal(1, (out_features, in_features), dtype)
        lora_down = normal(2, (_RANK, in_features), jnp.float32)
        lora_up = normal(3, (out_features, _RANK), jnp.float32)
        args = (x, weight, lora_down, lora_up, jnp.asarray(0.5))
        out = batch * tokens * out_features * jnp.dtype(dtype).itemsize
        product = 2 * batch * tokens * in_features * out_features
        case = Case(
            name=f"{tokens} x {in_features} -> {out_features}",
            variants={
                "plain": lora_matmul_reference,
                "lora_matmul": lora_matmul,
                "frozen": _frozen,
            },
            args=args,
            argnums=(0, 2, 3),
            flops=(product, 2 * product),
            # Both passes: the backward pass reads `x` and its own cotangent again.
            nbytes=(size(x, weight) + out, 3 * size(x) + 2 * (size(weight) + out)),
        )
        result += measure(case)
    return result


if __name__ == "__main__":
    main(rows, __doc__)
