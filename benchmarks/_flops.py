"""The floating-point operations of a program: counted from what JAX traced, not timed.

`count_flops(fn, *args)` counts 2 for each multiply-add of matrix products and
convolutions, and nothing for the rest. Nothing is run or compiled, and the arguments
may be shapes.

- Zeros that a convolution puts between the elements of its operands are not counted,
  zeros at the borders are: the gradient of a strided convolution with respect to its
  input costs what its forward pass does.
- A scan counts its body as often as it runs, a `cond` the dearer branch. What no result
  depends on is not counted: XLA removes it as well.
- What a program computes twice counts twice. *Model* FLOPs, those of
  utilization figures, are without recomputation: count the program that has `remat`
  "none", under `plain_attention()`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import equinox as eqx
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(
    fn: Callable[..., Any], *args: Any, while_trips: int | Sequence[int] | None = None
) -> int:
    """**Arguments:**

    - `fn`, `args`: What would be called. Arrays may be `jax.ShapeDtypeStruct`s; what is
        not an array is passed as it is.
    - `while_trips`: How often the bodies of `while` loops run, which a trace does not
        know: one number for all, or one for each in the order of the program, outer
        loops before the loops in them.

    **Returns:**

    The count. Raises a `ValueError` for a `while` loop without `while_trips`.
    """
    jaxpr, _, _ = eqx.filter_make_jaxpr(fn)(*args)
    return count_jaxpr_flops(jaxpr, while_trips=while_trips)


def count_jaxpr_flops(
    closed: core.ClosedJaxpr, *, while_trips: int | Sequence[int] | None = None
) -> int:
    """As `count_flops`, of what was traced already."""
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    if isinstance(while_trips, int):
        return _of_jaxpr(jaxpr, iter(lambda: while_trips, None))
    return _of_jaxpr(jaxpr, iter(while_trips or ()))


@contextlib.contextmanager
def plain_attention():
    """Attention as its definition says while something is traced: what backends compute
    again in the backward pass is then not counted."""
    target = "draftx.kernels.attention._api.choose_attention"
    with mock.patch(target, return_value="reference"):
        yield


def _of_jaxpr(jaxpr, trips: Iterator[int]) -> int:
    return sum(_of_equation(equation, trips) for equation in jaxpr.eqns)


def _of_equation(equation, trips: Iterator[int]) -> int:
    name, params = equation.primitive.name, equation.params
    rule = _RULES.get(name)
    if rule is not None:
        shapes = [tuple(v.aval.shape) for v in (*equation.invars, *equation.outvars)]
        return rule(params, shapes)
    inner = list(_inner_jaxprs(params))
    match name:
        case "scan":
            return params["length"] * _of_jaxpr(inner[0], trips)
        case "cond":
            return max(_of_jaxpr(branch, trips) for branch in inner)
        case "while":
            return _of_while(inner, trips)
        case "pallas_call":
            return math.prod(params["grid_mapping"].grid) * _of_jaxpr(inner[0], trips)
    # Calls of all kinds: jit, checkpoint, custom derivatives.
    counts = [count for jaxpr in inner if (count := _of_jaxpr(jaxpr, trips))]
    if len(counts) > 1 or (counts and name == "shard_map"):
        raise NotImplementedError(
            f"`count_flops` does not know the primitive {name!r}."
        )
    return sum(counts)


def _of_while(inner, trips: Iterator[int]) -> int:
    if not sum(_of_jaxpr(jaxpr, iter(lambda: 1, None)) for jaxpr in inner):
        return 0
    trip = next(trips, None)
    if trip is None:
        raise ValueError(
            "`while_trips` must say how often the body of each `while` loop runs; a "
            "trace does not know it. Give one number for all loops, or one for each."
        )
    return trip * sum(_of_jaxpr(jaxpr, trips) for jaxpr in inner)


def _inner_jaxprs(params) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot_general(params, shapes) -> int:
    lhs, _, out = shapes
    (contracted, _), _ = params["dimension_numbers"]
    return 2 * math.prod(out) * math.prod(lhs[i] for i in contracted)


def _convolution(params, shapes) -> int:
    lhs, rhs, out = shapes
    numbers = params["dimension_numbers"]
    count = 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    # The kernel's own input channels: those of one group.
    count *= rhs[numbers.rhs_spec[1]]
    for i, (stride, padding, lhs_dilation, rhs_dilation) in enumerate(
        zip(
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    ):
        out_size = out[numbers.out_spec[2 + i]]
        kernel_size = rhs[numbers.rhs_spec[2 + i]]
        if lhs_dilation == 1:
            count *= out_size * kernel_size
            continue
        # Taps that meet an element and not a zero between elements.
        count *= sum(
            (position * stride + tap * rhs_dilation - padding[0]) % lhs_dilation == 0
            for position in range(out_size)
            for tap in range(kernel_size)
        )
    return count


def _fused_attention(products: int):
    """cuDNN's: so many matrix products with the score matrix, by what it computes."""

    def count(params, shapes) -> int:
        query, key = shapes[:2]
        tokens = key[2 if params["layout"] == 1 else 1]
        return 2 * products * math.prod(query) * tokens

    return count


_RULES: dict[str, Callable[[Any, list[tuple[int, ...]]], int]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _fused_attention(2),
    "dot_product_attention_bwd_wrapper": _fused_attention(5),
}
