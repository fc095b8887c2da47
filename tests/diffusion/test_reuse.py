"""What a denoiser makes ready once is what the UNet would compute at every call."""

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import Denoiser
from draftx.layers import AbstractAffine, Remat
from draftx.lora import lora_filter, with_lora
from draftx.models import map_layers, UNet2DConditionModel, UNetConfig

from ..helpers import relative_error
from ..models.parity import jit_quickly


_CONFIG = UNetConfig(
    attention_head_dim=2,
    block_out_channels=(4, 8),
    cross_attention_dim=6,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    layers_per_block=1,
    norm_num_groups=2,
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
_GUIDANCE = 3.0
_TIMESTEPS = np.asarray([801, 401, 1])


@pytest.fixture(scope="module")
def problem():
    """A UNet with an adapter on every layer, and something to denoise."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        # By NumPy: a product by JAX would be compiled for every shape.
        return jnp.asarray(scale * rng.normal(size=shape).astype(np.float32))

    unet = eqx.filter_eval_shape(UNet2DConditionModel, _CONFIG, key=jr.key(0))
    unet = jax.tree.map(lambda x: draw(*x.shape, scale=0.3), unet)

    def adapt(_: str, layer: AbstractAffine) -> AbstractAffine:
        down, up = layer.factor_shapes(2)
        return with_lora(layer, draw(*down), draw(*up, scale=0.1), jnp.asarray(0.5))

    unet = map_layers(adapt, unet)
    latents, cotangent = draw(3, 4, 2, 4), draw(3, 4, 2, 4)
    return unet, latents, draw(3, 5, 6), draw(3, 5, 6), cotangent


def _reusing(unet, latents, text, negative, index, **options):
    denoiser = Denoiser(
        unet,
        jnp.asarray(_TIMESTEPS),
        text,
        negative,
        jnp.asarray(_GUIDANCE),
        **options,
    )
    return denoiser(latents, jnp.asarray(index))


def _leaves(value, d_lora, d_latents):
    return value, d_latents, [x for x in jax.tree.leaves(d_lora) if x is not None]


@pytest.fixture(scope="module")
def expected(problem):
    """Of two calls of the whole UNet, which share nothing but their program."""
    unet, latents, text, negative, cotangent = problem
    trained, frozen = eqx.partition(unet, lora_filter(unet))
    timesteps = jnp.full(latents.shape[0], _TIMESTEPS[1])

    @jit_quickly
    def call(trained, latents, text, cotangent):
        predict = lambda trained, latents: eqx.combine(trained, frozen)(
            latents, timesteps, text
        )
        out, pull_back = jax.vjp(predict, trained, latents)
        return out, *pull_back(cotangent)

    # The guided prediction is linear in both.
    without = call(trained, latents, negative, (1 - _GUIDANCE) * cotangent)
    with_text = call(trained, latents, text, _GUIDANCE * cotangent)
    value = without[0] + _GUIDANCE * (with_text[0] - without[0])
    return _leaves(value, *jax.tree.map(np.add, without[1:], with_text[1:]))


@pytest.mark.parametrize(
    "remat",
    [
        *("none", "ff", "nested"),
        # A part of what the last one computes again.
        pytest.param("block", marks=pytest.mark.slow),
    ],
)
def test_reuse_and_remat_change_neither_values_nor_gradients(remat, problem, expected):
    unet, latents, text, negative, cotangent = problem
    trained, frozen = eqx.partition(unet, lora_filter(unet))

    def loss(trained, latents):
        unet = eqx.combine(trained, frozen)
        out = _reusing(unet, latents, text, negative, 1, remat=Remat(remat))
        return jnp.sum(out * cotangent), out

    grad = jit_quickly(jax.grad(loss, argnums=(0, 1), has_aux=True))
    gradients, value = grad(trained, latents)
    value, d_latents, d_lora = _leaves(value, *gradients)
    assert relative_error(value, expected[0]) < 1e-5
    assert relative_error(d_latents, expected[1]) < 1e-5
    assert len(d_lora) == len(expected[2])
    assert all(np.any(np.asarray(x) != 0) for x in expected[2])
    flat = lambda arrays: np.concatenate([np.ravel(x) for x in arrays])
    assert relative_error(flat(d_lora), flat(expected[2])) < 1e-5


def _batches(jaxpr, primitive):
    """The leading axis of every operand of a primitive, in order of computation."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation.invars[0].aval.shape[0]
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _batches(inner, primitive)


def test_what_comes_before_the_text_is_computed_once_for_both(problem):
    unet, _, text, negative, _ = problem
    latents = jnp.zeros((3, 8, 4, 4))
    closed = jax.make_jaxpr(lambda *a: _reusing(unet, *a, 0))(latents, text, negative)
    convolutions = list(_batches(closed.jaxpr, "conv_general_dilated"))
    # `conv_in` and the two of the first residual block; then the text has come in.
    # At the lower resolution there is no convolution: so few pixels are a product.
    assert convolutions[:3] == [3, 3, 3]
    assert set(convolutions[3:]) == {6}


def test_a_batch_that_the_texts_do_not_fit_is_an_error(problem):
    unet, latents, text, _, _ = problem
    with pytest.raises(ValueError, match="multiple"):
        # Shapes are enough.
        jax.eval_shape(
            lambda: unet.denoise(
                latents[:2], unet.time_shifts(jnp.zeros(1)), unet.text_context(text)
            )
        )
