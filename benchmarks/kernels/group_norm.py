"""Group normalization with SiLU: one VJP that keeps its input and its statistics.

python benchmarks/kernels/group_norm.py                      # small sizes on a CPU
python benchmarks/kernels/group_norm.py --no-small --batch 8 --out group_norm.json

Weight and bias are frozen, as in fine-tuning with LoRA.
"""

import functools as ft
from typing import Any

from _harness import Case, main, measure, normal, size

from draftx.kernels import group_norm, group_norm_reference


# `(height, channels)`: Stable Diffusion 1.4's UNet, then its autoencoder.
_SIZES = (
    (64, 320),
    (64, 640),
    (32, 640),
    (32, 1280),
    (16, 1280),
    (16, 2560),
    (8, 1280),
    (64, 512),
    (256, 256),
    (512, 128),
)
_SMALL_SIZES = ((16, 128), (32, 320), (16, 640), (64, 128))


def rows(batch: int, small: bool, dtype: Any) -> list[dict[str, Any]]:
    result = []
    for height, channels in _SMALL_SIZES if small else _SIZES:
        x = normal(0, (batch, height, height, channels), dtype)
        weight, bias = normal(1, (channels,), dtype), normal(2, (channels,), dtype)
        kwargs: dict[str, Any] = dict(num_groups=32, epsilon=1e-5, silu=True)
        case = Case(
            name=f"{height} x {height} x {channels}",
            variants={
                "plain": ft.partial(group_norm_reference, **kwargs),
                "group_norm": ft.partial(group_norm, **kwargs),
            },
            args=(x, weight, bias),
            argnums=(0,),
            flops=(0, 0),
            # The statistics cannot be known before the first pass over `x` ends.
            nbytes=(3 * size(x), 8 * size(x)),
        )
        result += measure(case)
    return result


if __name__ == "__main__":
    main(rows, __doc__)
