"""The adapted linear map against the two-pass definition, values and VJP."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

from draftx.kernels import lora_matmul, lora_matmul_reference

from ..helpers import assert_close


def _problem(
    getkey, batch, dtype, *, has_scale=True, lora_dtype=jnp.float32
) -> tuple[Any, ...]:
    x = jr.normal(getkey(), (*batch, 6), dtype)
    weight = jr.normal(getkey(), (5, 6), dtype)
    lora_down = jr.normal(getkey(), (3, 6), lora_dtype) / 2
    lora_up = jr.normal(getkey(), (5, 3), lora_dtype) / 2
    scale = jnp.asarray(0.7, lora_dtype) if has_scale else None
    return x, weight, lora_down, lora_up, scale


def _merged(x, weight, lora_down, lora_up, lora_scale):
    """`lora_matmul` as a function of the weight without the update."""
    update = lora_up @ lora_down
    update = update if lora_scale is None else lora_scale * update
    merged = (weight.astype(update.dtype) + update).astype(weight.dtype)
    # The value of `merged` with the gradient of `weight`.
    merged = jax.lax.stop_gradient(merged - weight) + weight
    return lora_matmul(x, merged, lora_down, lora_up, lora_scale)


def _value_and_vjp(fn, args, cotangent):
    @jax.jit
    def run(args, cotangent):
        out, vjp = jax.vjp(fn, *args)
        return out, vjp(cotangent)

    return run(args, cotangent)


@pytest.mark.parametrize(
    ("batch", "has_scale"), [((), True), ((4,), False), ((2, 3, 7), True)]
)
def test_matches_definition(batch, has_scale, getkey):
    args = _problem(getkey, batch, jnp.float32, has_scale=has_scale)
    cotangent = jr.normal(getkey(), (*batch, 5))
    actual = _value_and_vjp(_merged, args, cotangent)
    assert_close(actual, _value_and_vjp(lora_matmul_reference, args, cotangent))


def test_bfloat16_with_float32_adapter(getkey):
    args = _problem(getkey, (3, 64), jnp.bfloat16)
    cotangent = jr.normal(getkey(), (3, 64, 5), jnp.bfloat16)
    out, grads = _value_and_vjp(_merged, args, cotangent)
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
    expected, expected_grads = _value_and_vjp(
        lora_matmul_reference, wide(args), wide(cotangent)
    )
    assert out.dtype == jnp.bfloat16
    assert [g.dtype for g in grads] == [a.dtype for a in args]
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), tree)
    # Rounding of the merged weight meets six terms, of a cotangent 192.
    assert_close(out, cast(expected), scale=6**0.5)
    assert_close(cast(grads), cast(expected_grads), scale=192**0.5)


def test_sums_over_tokens_are_float32(getkey):
    # Sixty-four thousand ones: a bfloat16 sum would stop at 256.
    x = jnp.ones((64, 1000, 6), jnp.bfloat16)
    _, weight, lora_down, lora_up, _ = _problem(getkey, (), jnp.bfloat16)
    ones = jnp.ones_like
    _, vjp = jax.vjp(lora_matmul, x, weight, ones(lora_down), ones(lora_up))
    *_, d_down, d_up = vjp(jnp.ones((64, 1000, 5), jnp.bfloat16))
    assert_close(d_down, jnp.full_like(d_down, 64_000 * 5))
    assert_close(d_up, jnp.full_like(d_up, 64_000 * 6))


@pytest.mark.parametrize("has_scale", [False, True])
def test_gradient_against_finite_differences(has_scale, getkey):
    with jax.enable_x64(True):
        kwargs = dict(has_scale=has_scale, lora_dtype=jnp.float64)
        x, weight, *lora = _problem(getkey, (2, 3), jnp.float64, **kwargs)

        # Differences see the merged weight move; `lora_matmul` has it stopped. So the
        # difference is taken of the definition, the derivative of `lora_matmul`.
        @jax.custom_vjp
        def op(*args):
            return lora_matmul_reference(*args)

        op.defvjp(lambda *args: jax.vjp(_merged, *args), lambda vjp, d: vjp(d))
        args = (x, weight, *lora)
        jax.test_util.check_grads(jax.jit(op), args, order=1, modes=["rev"])


def test_products_nobody_asked_for_are_dead_code(getkey):
    x, weight, lora_down, lora_up, scale = _problem(getkey, (7,), jnp.float32)

    def loss(lora_down, lora_up, x, weight):
        return jnp.sum(lora_matmul(x, weight, lora_down, lora_up, scale) ** 2)

    def num_products(argnums):
        grad = jax.jit(jax.grad(loss, argnums=argnums))
        lowered = grad.lower(lora_down, lora_up, x, weight)
        return str(lowered.compile().as_text()).count(" dot(")

    # Of the frozen weight, and of an input that no gradient passes, such as text.
    everything = num_products((0, 1, 2, 3))
    assert num_products((0, 1, 2)) == everything - 1
    assert num_products((0, 1)) == everything - 2


def test_vmap_is_batching(getkey):
    x, *rest = _problem(getkey, (3, 4), jnp.float32)
    one_at_a_time = jax.jit(jax.vmap(lambda xi: lora_matmul(xi, *rest)))(x)
    assert_close(one_at_a_time, lora_matmul(x, *rest))


def test_unequal_features_are_caught_by_annotation(getkey):
    x, *rest = _problem(getkey, (4,), jnp.float32)
    with pytest.raises(Exception, match="(?i)type-check"):
        lora_matmul(x[:, :5], *rest)
