"""The adapted convolution against the two-pass definition, values and VJP."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import lora_conv2d, lora_conv2d_reference

from ..helpers import assert_close


def _problem(getkey, dtype, *, size=5, has_scale=True):
    x = jr.normal(getkey(), (2, size, size + 1, 4), dtype)
    weight = jr.normal(getkey(), (3, 3, 4, 5), dtype) / 3
    down, up = jr.normal(getkey(), (3, 3, 4, 2)) / 3, jr.normal(getkey(), (5, 2)) / 2
    return x, weight, down, up, jnp.asarray(0.7) if has_scale else None


def _merged(x, weight, lora_down, lora_up, lora_scale, **window):
    """`lora_conv2d` as a function of the weight without the update."""
    update = jnp.einsum("hwir,or->hwio", lora_down, lora_up)
    update = update if lora_scale is None else lora_scale * update
    merged = (weight.astype(update.dtype) + update).astype(weight.dtype)
    # The value of `merged` with the gradient of `weight`.
    merged = jax.lax.stop_gradient(merged - weight) + weight
    return lora_conv2d(x, merged, lora_down, lora_up, lora_scale, **window)


def _value_and_vjp(fn, args, window):
    @jax.jit
    def run(args):
        out, vjp = jax.vjp(lambda *args: fn(*args, **window), *args)
        cotangent = jnp.cos(jnp.arange(out.size, dtype=jnp.float32))
        return out, vjp(cotangent.reshape(out.shape).astype(out.dtype))

    return run(args)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "has_scale"),
    [
        (5, 1, (1, 1), True),
        (6, 2, (1, 1), False),
        (6, 2, (0, 1), True),
        (2, 1, (1, 1), True),  # Of so few pixels, another implementation.
    ],
)
def test_matches_definition(size, stride, padding, has_scale, getkey):
    args = _problem(getkey, jnp.float32, size=size, has_scale=has_scale)
    window = dict(stride=stride, padding=padding)
    actual = _value_and_vjp(_merged, args, window)
    assert_close(actual, _value_and_vjp(lora_conv2d_reference, args, window))


def test_bfloat16_with_float32_adapter(getkey):
    args, window = _problem(getkey, jnp.bfloat16), dict(padding=(1, 1))
    out, grads = _value_and_vjp(_merged, args, window)
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
    expected, expected_grads = _value_and_vjp(lora_conv2d_reference, wide(args), window)
    assert out.dtype == jnp.bfloat16
    assert [g.dtype for g in grads] == [a.dtype for a in args]
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), tree)
    # Rounding of the merged weight meets 36 terms, of a cotangent 60.
    assert_close(out, cast(expected), scale=6.0)
    assert_close(cast(grads), cast(expected_grads), scale=60**0.5)


def test_a_frozen_weight_gets_no_gradient(getkey):
    args = _problem(getkey, jnp.float32, size=16)

    def flops(*asked):
        loss = lambda *args: jnp.sum(lora_conv2d(*args, padding=(1, 1)) ** 2)
        grad = jax.jit(jax.grad(loss, argnums=asked))
        return grad.lower(*args).compile().cost_analysis()["flops"]

    # That of the weight costs as much as a forward pass, which has 5 channels out: what
    # the two factors cost is only that of 2 channels, forward and backward.
    assert flops(0, 2, 3) < 0.8 * flops(0, 1, 2, 3)
