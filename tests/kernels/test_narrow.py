"""Products of 16-bit numbers on a CPU: the same numbers, and no wide copies kept."""

import functools as ft

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx._compilation import compiler_options
from draftx.kernels import compiling_for, conv2d, lora_matmul
from draftx.kernels._narrow import widened


_SIZE, _LAYERS = 256, 6
_NARROW = [jnp.bfloat16, jnp.float16]


def _product(x, weight):
    return x @ weight


@pytest.mark.parametrize("dtype", _NARROW)
def test_rounds_as_the_narrow_product(dtype, getkey):
    x = jr.normal(getkey(), (4, 32), dtype)
    weight = jr.normal(getkey(), (32, 8), dtype)
    actual = jax.jit(ft.partial(widened, _product))(x, weight)
    expected = jax.jit(_product)(x, weight)
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "dtypes", [(jnp.float32, jnp.float32), (jnp.float32, jnp.bfloat16)]
)
def test_leaves_wide_products_alone(dtypes):
    x, weight = (jnp.zeros((4, 4), dtype) for dtype in dtypes)
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.make_jaxpr(ft.partial(widened, _product))(x, weight)
        assert str(traced) == str(jax.make_jaxpr(_product)(x, weight))


def test_leaves_other_devices_alone():
    x = jnp.zeros((4, 4), jnp.bfloat16)
    with compiling_for("tpu"):
        traced = jax.make_jaxpr(ft.partial(widened, _product))(x, x)
    assert "float32" not in str(traced)
    assert "optimization_barrier" not in str(traced)


def _temporaries(layer, weights, shape):
    """Of a few frozen steps, and the gradient of one more that is computed again."""

    def step(x, weights):
        for weight in weights:
            x = jnp.tanh(layer(x, weight))
        return x

    def fn(x, weights):
        x, _ = lax.scan(lambda x, _: (step(x, weights), None), x, None, length=3)
        return jax.grad(lambda x: jnp.sum(jax.checkpoint(step)(x, weights)))(x)

    x = jnp.zeros(shape, jnp.bfloat16)
    lowered = jax.jit(fn).lower(x, weights)
    compiled = lowered.compile(compiler_options=compiler_options("cpu"))
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("kind", ["conv", "matmul"])
def test_keeps_no_wide_weights(kind):
    if kind == "conv":
        size, shape = _SIZE // 4, (1, 4, 4, _SIZE // 4)
        weights = [jnp.zeros((3, 3, size, size), jnp.bfloat16)] * _LAYERS
        layer = ft.partial(conv2d, padding=(1, 1))
        plain = lambda x, w: conv2d(x, w, padding=(1, 1), implementation="reference")
    else:
        shape = (4, _SIZE)
        weights = [jnp.zeros((_SIZE, _SIZE), jnp.bfloat16)] * _LAYERS
        factors = jnp.zeros((1, _SIZE)), jnp.zeros((_SIZE, 1))
        layer = lambda x, w: lora_matmul(x, w, *factors)
        plain = lambda x, w: x @ w.T
    weights = [jnp.copy(weight) for weight in weights]
    wide = sum(4 * weight.size for weight in weights)
    assert _temporaries(layer, weights, shape) < wide / 2
    assert _temporaries(plain, weights, shape) > wide
