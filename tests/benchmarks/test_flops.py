"""FLOPs against counts by hand, against closed forms, and on Stable Diffusion 1.4."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import Mesh, PartitionSpec

from draftx.kernels import compiling_for, dot_product_attention
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    UNet2DConditionModel,
    UNetConfig,
)

from .helpers import load


_flops = load("_flops")
count_flops = _flops.count_flops


def _shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def _square(w, x):
    return jnp.tanh(x @ w)


W, X = _shape(8, 8), _shape(5, 8)
ONE = 2 * 5 * 8 * 8  # Of `_square(W, X)`.


def _conv(x, w, **options):
    options = dict(window_strides=(1, 1), padding="SAME") | options
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


def test_matrix_products():
    assert count_flops(jnp.matmul, _shape(3, 4), _shape(4, 5)) == 2 * 3 * 4 * 5
    batched = lambda x, y: jnp.einsum("bij,bkj->bik", x, y)
    assert count_flops(batched, _shape(6, 3, 4), _shape(6, 5, 4)) == 6 * 2 * 3 * 4 * 5
    both = lambda x, y: jnp.einsum("ijk,jkl->il", x, y)
    assert count_flops(both, _shape(2, 3, 4), _shape(3, 4, 5)) == 2 * 2 * 12 * 5
    # All else is free, and arrays count like shapes.
    free = lambda x: jnp.exp(x).sum() + jnp.sort(x).mean()
    assert count_flops(free, jnp.ones((7, 7))) == 0


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_and_its_gradients_cost_the_same(stride, groups, kernel):
    x, w = _shape(2, 12, 12, 8), _shape(kernel, kernel, 8 // groups, 16)
    conv = lambda x, w: _conv(
        x, w, window_strides=(stride, stride), feature_group_count=groups
    )
    side = 12 // stride
    # As is usual, taps on the border of zeros count.
    forward = 2 * (2 * side * side) * 16 * (8 // groups) * kernel**2
    assert count_flops(conv, x, w) == forward

    def gradient(of):
        def fn(x, w):
            out, pullback = jax.vjp(conv, x, w)
            return out, pullback(jnp.ones_like(out))[of]

        return fn

    # Of `x`: the zeros put between the elements of a strided gradient do not count.
    assert count_flops(gradient(0), x, w) == 2 * forward
    assert count_flops(gradient(1), x, w) == 2 * forward


def test_transposed_convolution():
    # Five inputs meet three taps each; two taps more meet the border.
    numbers = ("NHC", "HIO", "NHC")
    fn = lambda x, w: lax.conv_transpose(x, w, (2,), "VALID", dimension_numbers=numbers)
    assert count_flops(fn, _shape(1, 5, 1), _shape(3, 1, 1)) == 2 * (5 * 3 + 2)


def test_loops_and_branches():
    def scanned(w, x):
        return lax.scan(lambda x, _: (_square(w, x), None), x, length=7)[0]

    assert count_flops(scanned, W, X) == 7 * ONE
    nested = lambda w, x: lax.fori_loop(0, 3, lambda _, x: scanned(w, x), x)
    assert count_flops(nested, W, X) == 21 * ONE

    def branches(w, x, i):
        calls = [lambda x: x, lambda x: scanned(w, x), lambda x: _square(w, x)]
        return lax.switch(i, calls, x)

    assert count_flops(branches, W, X, _shape(dtype=jnp.int32)) == 7 * ONE


def test_while_loops_need_their_trips():
    def one(n, w, x):
        return lax.fori_loop(0, n, lambda _, x: _square(w, x), x)

    def two(n, w, x):
        outer = lambda _, x: _square(w, one(n, w, x))
        return one(n, w, lax.fori_loop(0, n, outer, x))

    n = _shape(dtype=jnp.int32)
    with pytest.raises(ValueError, match="`while_trips` must say how often"):
        count_flops(one, n, W, X)
    assert count_flops(one, n, W, X, while_trips=4) == 4 * ONE
    assert count_flops(two, n, W, X, while_trips=2) == (2 * (1 + 2) + 2) * ONE
    # Outer loop, the loop in it, the loop after it.
    assert count_flops(two, n, W, X, while_trips=(3, 5, 7)) == (3 * (5 + 1) + 7) * ONE
    with pytest.raises(ValueError, match="`while_trips` must say how often"):
        count_flops(two, n, W, X, while_trips=(3, 5))
    # A loop without work needs nothing.
    assert count_flops(lambda n: lax.fori_loop(0, n, lambda _, x: x + 1, 0), n) == 0


def test_calls_of_all_kinds():
    custom = jax.custom_vjp(_square)
    custom.defvjp(
        lambda w, x: (_square(w, x), (w, x)), lambda saved, d: (d.T @ d, d @ saved[0].T)
    )
    linear = jax.custom_jvp(_square)
    linear.defjvp(lambda primals, tangents: (_square(*primals), tangents[1]))
    for fn in (jax.jit(_square), jax.checkpoint(_square), custom, linear):
        assert count_flops(fn, W, X) == ONE
        assert count_flops(jax.jit(jax.vmap(fn, (None, 0))), W, _shape(3, 5, 8)) == (
            3 * ONE
        )
    # Forward, and what the rule says for `x`.
    both = jax.value_and_grad(lambda x, w: custom(w, x).sum())
    assert count_flops(both, X, W) == 2 * ONE


def test_recomputation_counts():
    def loss(x, w, call):
        return _square(w, call(w, x)).sum()

    plain = lambda x, w: jax.grad(loss)(x, w, _square)
    again = lambda x, w: jax.grad(loss)(x, w, jax.checkpoint(_square))
    assert count_flops(plain, X, W) == 4 * ONE
    assert count_flops(again, X, W) == 5 * ONE


def test_dead_code_is_free():
    def wasteful(w, x):
        out, pullback = jax.vjp(_square, w, x)
        d_weight, d_x = pullback(out)
        del d_weight
        return d_x

    assert count_flops(wasteful, W, X) == 2 * ONE

    def loop(w, x):
        body = lambda carry, _: ((_square(w, carry[0]), carry[1] @ w), None)
        return lax.scan(body, (x, x), length=3)[0][0]

    assert count_flops(loop, W, X) == 3 * ONE


def test_pallas_kernels():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    call = pl.pallas_call(
        kernel,
        grid=(4,),
        in_specs=[
            pl.BlockSpec((8, 16), lambda i: (i, 0)),
            pl.BlockSpec((16, 8), lambda i: (0, 0)),
        ],
        out_specs=pl.BlockSpec((8, 8), lambda i: (i, 0)),
        out_shape=_shape(32, 8),
    )
    assert count_flops(call, _shape(32, 16), _shape(16, 8)) == 2 * 32 * 16 * 8


def test_what_it_does_not_know_is_an_error():
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    spec = PartitionSpec("data")
    fn = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
    with pytest.raises(NotImplementedError, match="'shard_map'"):
        count_flops(fn, _shape(4, 4))


QKV = [_shape(2, n, 3, 8, dtype=jnp.bfloat16) for n in (64, 48, 48)]
SCORES = 2 * 2 * 3 * 64 * 48 * 8  # One matrix product with all scores.


def _attention_gradient(*qkv):
    out, pullback = jax.vjp(dot_product_attention, *qkv)
    return out, pullback(out)


def test_plain_attention_recomputes_nothing():
    long = [_shape(1, 4096, 8, 40)] * 3
    with _flops.plain_attention():
        assert count_flops(dot_product_attention, *QKV) == 2 * SCORES
        assert count_flops(_attention_gradient, *QKV) == 6 * SCORES
        least = count_flops(_attention_gradient, *long)
    # No backend keeps so many scores for the backward pass.
    assert 6 * count_flops(_attention_gradient, *long) == 7 * least


def test_attention_of_cudnn():
    with compiling_for("cuda", (9, 0)):
        assert count_flops(dot_product_attention, *QKV) == 2 * SCORES
        # Unlike that of its definition, it computes the scores again.
        assert count_flops(_attention_gradient, *QKV) == 7 * SCORES


def test_stable_diffusion():
    """The figures of a count by hooks on diffusers' modules."""
    unet, vae = (
        eqx.filter_eval_shape(cls, config, key=jr.key(0))
        for cls, config in (
            (UNet2DConditionModel, UNetConfig()),
            (AutoencoderKL, AutoencoderConfig()),
        )
    )
    latents = _shape(1, 64, 64, 4)
    call = lambda unet, *args: unet(*args)
    decode = lambda vae, latents: vae.decode(latents)
    with _flops.plain_attention():
        step = count_flops(call, unet, latents, _shape(1), _shape(1, 77, 768))
        image = count_flops(decode, vae, latents)
    # Of nine products of a convolution of repeated pixels four are made.
    conv = lambda channels, size: 18 * channels**2 * size**2 / 1e9
    spared = (conv(1280, 16) + conv(1280, 32) + conv(640, 64)) * 5 / 9
    assert step / 1e9 == pytest.approx(803.27 - spared, abs=0.005)
    spared = (conv(512, 128) + conv(512, 256) + conv(256, 512)) * 5 / 9
    assert image / 1e9 == pytest.approx(2514.5 - spared, abs=0.05)
