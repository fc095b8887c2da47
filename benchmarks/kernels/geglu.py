"""GEGLU: one VJP that keeps its input, against autodiff of the two lines it is.

python benchmarks/kernels/geglu.py                      # small sizes on a CPU
python benchmarks/kernels/geglu.py --no-small --batch 8 --out geglu.json
"""

from typing import Any

import jax
import jax.numpy as jnp
from _harness import Case, main, measure, normal, size

from draftx.kernels import geglu


# `(tokens, features)` of Stable Diffusion 1.4's transformer blocks.
_SIZES = ((4096, 320), (1024, 640), (256, 1280), (64, 1280))
_SMALL_SIZES = ((256, 128), (1024, 320), (256, 640))


def _plain(x):
    value, gate = jnp.split(x, 2, axis=-1)
    return value * jax.nn.gelu(gate, approximate=False)


def rows(batch: int, small: bool, dtype: Any) -> list[dict[str, Any]]:
    result = []
    for tokens, features in _SMALL_SIZES if small else _SIZES:
        x = normal(0, (batch, tokens, 8 * features), dtype)
        half = size(x) // 2
        case = Case(
            name=f"{tokens} x {8 * features}",
            variants={"plain": _plain, "geglu": geglu},
            args=(x,),
            argnums=(0,),
            flops=(0, 0),
            nbytes=(3 * half, 8 * half),
        )
        result += measure(case)
    return result


if __name__ == "__main__":
    main(rows, __doc__)
