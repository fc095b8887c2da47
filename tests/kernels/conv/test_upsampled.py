"""The convolution of repeated pixels against its definition: values and gradients."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import pytest

from draftx.kernels import (
    choose_upsampled_conv2d,
    Device,
    upsampled_conv2d,
    upsampled_conv2d_reference,
)
from draftx.layers import Conv2d
from draftx.lora import LoRAConv2d

from ...helpers import assert_close


_FAST = ("apart", "together", "spread")


@ft.partial(jax.jit, static_argnums=0)
def _both(fn, args, d_out):
    out, vjp = jax.vjp(fn, *args)
    return out, vjp(d_out)


def _problem(getkey, shape, dtype, size=3):
    x, weight = jr.normal(getkey(), shape, dtype), (size, size, shape[3], 5)
    weight = jr.normal(getkey(), weight, dtype)
    d_out = (shape[0], 2 * shape[1], 2 * shape[2], 5)
    return (x, weight), jr.normal(getkey(), d_out, dtype)


@pytest.mark.parametrize("implementation", _FAST)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 2), (2, 1, 4, 3)])
def test_values_and_gradients_are_those_of_the_definition(
    implementation, shape, getkey
):
    args, d_out = _problem(getkey, shape, jnp.float32)
    fn = ft.partial(upsampled_conv2d, implementation=implementation)
    expected = _both(upsampled_conv2d_reference, args, d_out)
    assert_close(_both(fn, args, d_out), expected, scale=10)


@pytest.mark.parametrize("implementation", _FAST)
def test_sixteen_bits_lose_no_more_than_the_definition(implementation, getkey):
    args, d_out = _problem(getkey, (2, 3, 5, 4), jnp.bfloat16)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (args, d_out))
    fn = ft.partial(upsampled_conv2d, implementation=implementation)
    expected = _both(upsampled_conv2d_reference, *wide)
    actual = _both(fn, args, d_out)
    assert {x.dtype for x in jax.tree.leaves(actual)} == {jnp.dtype(jnp.bfloat16)}
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected)
    # Sums of 36 products, for the weight of 60.
    assert_close(actual, expected, scale=60**0.5)


@pytest.mark.parametrize("implementation", _FAST)
def test_gradient_against_finite_differences(implementation, getkey):
    with jax.enable_x64(True):
        args, _ = _problem(getkey, (1, 2, 3, 2), jnp.float64)
        fn = ft.partial(upsampled_conv2d, implementation=implementation)
        assert_close(fn(*args), upsampled_conv2d_reference(*args))
        jax.test_util.check_grads(jax.jit(fn), args, order=1, modes=["rev"])


@pytest.mark.parametrize("size", [1, 5])
def test_other_windows_see_the_repeated_image(size, getkey):
    args, d_out = _problem(getkey, (2, 3, 4, 2), jnp.float32, size)
    actual = _both(upsampled_conv2d, args, d_out)
    assert_close(actual, _both(upsampled_conv2d_reference, args, d_out))
    message = rf"`implementation='apart'` is of 3x3 windows; got {size}x{size}"
    with pytest.raises(ValueError, match=message):
        upsampled_conv2d(*args, implementation="apart")


@pytest.mark.parametrize("is_premerged", [False, True])
def test_adapted_layers_are_those_of_the_repeated_image(is_premerged, getkey):
    base = Conv2d(3, 4, key=getkey())
    down, up = jr.normal(getkey(), (3, 3, 3, 2)), jr.normal(getkey(), (4, 2))
    layer, x = LoRAConv2d(base, down, up), jr.normal(getkey(), (2, 3, 4, 3))
    ready = (lambda layer: layer.premerged()) if is_premerged else (lambda layer: layer)
    repeated = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    d_out = jr.normal(getkey(), (2, 6, 8, 4))

    def gradient(fn):
        out, vjp = jax.vjp(fn, layer)
        return out, vjp(d_out)

    actual = gradient(lambda layer: ready(layer).upsampled(x))
    assert_close(actual, gradient(lambda layer: ready(layer)(repeated)), scale=10)


@pytest.mark.parametrize(
    ("platform", "out_pixels", "chosen"),
    [
        ("cpu", 64, "apart"),
        ("cuda", 64, "together"),
        ("tpu", 64 * 64, "reference"),
        ("tpu", 128 * 128, "spread"),
        ("tpu", 512 * 512, "spread"),
    ],
)
def test_choice(platform, out_pixels, chosen):
    device = Device(platform)
    assert choose_upsampled_conv2d(device=device, out_pixels=out_pixels) == chosen
