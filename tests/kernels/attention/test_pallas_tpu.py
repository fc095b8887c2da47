"""The TPU kernel without a TPU: interpreted, and lowered to Mosaic."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.experimental.pallas import tpu as pltpu

from draftx.kernels import (
    attention_reference,
    compiling_for,
    dot_product_attention,
)
from draftx.kernels.attention._pallas_tpu import _block, attention_pallas_tpu

from ...helpers import assert_close


def _vjp(fn):
    return lambda query, key, value, d_out: jax.vjp(fn, query, key, value)[1](d_out)


def test_interpreted_forward_matches_reference(getkey):
    query = jr.normal(getkey(), (1, 5, 2, 40))
    key, value = jr.normal(getkey(), (2, 1, 77, 2, 40))
    with pltpu.force_tpu_interpret_mode():
        actual = jax.jit(attention_pallas_tpu)(query, key, value)
    assert_close(actual, jax.jit(attention_reference)(query, key, value))


def test_interpreted_vjp_matches_reference(getkey):
    # Causal, with queries, keys and heads that all have to be padded.
    args = jr.normal(getkey(), (4, 1, 130, 1, 136))

    @ft.partial(jax.jit, static_argnums=0)
    def both(fn, args):
        *qkv, d_out = args
        out, pullback = jax.vjp(ft.partial(fn, is_causal=True), *qkv)
        return out, pullback(d_out)

    with pltpu.force_tpu_interpret_mode():
        actual = both(attention_pallas_tpu, args)
    assert_close(actual, both(attention_reference, args), scale=130**0.5)


@pytest.mark.parametrize(
    ("tokens", "head_dim", "dtype"),
    [(4096, 40, jnp.bfloat16), (1024, 80, jnp.float32), (1100, 160, jnp.bfloat16)],
)
def test_lowers_to_mosaic(tokens, head_dim, dtype):
    x = jax.ShapeDtypeStruct((2, tokens, 8, head_dim), dtype)
    for fn, args, calls in (
        (dot_product_attention, (x, x, x), 1),
        (_vjp(dot_product_attention), (x, x, x, x), 3),
    ):
        with compiling_for("tpu"):
            lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("tpu",))
        assert lowered.as_text().count("@tpu_custom_call") == calls


def test_blocks_divide_padded_lengths():
    assert [_block(n) for n in (128, 256, 640, 1024, 1152, 4096)] == [
        128,
        256,
        128,
        512,
        384,
        512,
    ]
