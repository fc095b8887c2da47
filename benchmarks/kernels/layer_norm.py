"""Layer normalization: one VJP that keeps its input and two scalars a row.

python benchmarks/kernels/layer_norm.py                      # small sizes on a CPU
python benchmarks/kernels/layer_norm.py --no-small --batch 8 --out layer_norm.json

Weight and bias are frozen, as in fine-tuning with LoRA.
"""

import functools as ft
from typing import Any

from _harness import Case, main, measure, normal, size

from draftx.kernels import layer_norm, layer_norm_reference


# `(tokens, features)` of Stable Diffusion 1.4's transformer blocks and text encoder.
_SIZES = ((4096, 320), (1024, 640), (256, 1280), (64, 1280), (77, 768))
_SMALL_SIZES = ((256, 128), (1024, 320), (256, 640))


def rows(batch: int, small: bool, dtype: Any) -> list[dict[str, Any]]:
    result = []
    for tokens, features in _SMALL_SIZES if small else _SIZES:
        x = normal(0, (batch, tokens, features), dtype)
        weight, bias = normal(1, (features,), dtype), normal(2, (features,), dtype)
        case = Case(
            name=f"{tokens} x {features}",
            variants={
                "plain": ft.partial(layer_norm_reference, epsilon=1e-5),
                "layer_norm": ft.partial(layer_norm, epsilon=1e-5),
            },
            args=(x, weight, bias),
            argnums=(0,),
            flops=(0, 0),
            nbytes=(2 * size(x), 5 * size(x)),
        )
        result += measure(case)
    return result


if __name__ == "__main__":
    main(rows, __doc__)
