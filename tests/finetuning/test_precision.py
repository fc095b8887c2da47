"""bfloat16 weights at Stable Diffusion 1.4's widths: the gradient stays the same."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import Chain, DDIM, Denoiser, run_truncated, SchedulerConfig
from draftx.lora import lora_filter
from draftx.models import UNet2DConditionModel, UNetConfig


_STEPS = DDIM(SchedulerConfig()).steps(50, 0.0)[np.asarray([10, 49])]


class _Model(eqx.Module):
    unet: UNet2DConditionModel


def _model():
    """Real widths, random weights, an adapter that is not a no-op."""
    skeleton = eqx.filter_eval_shape(UNet2DConditionModel, UNetConfig(), key=jr.key(0))
    rng = np.random.default_rng(0)

    def draw(x):
        fan_in = int(np.prod(x.shape[1:] if x.ndim == 2 else x.shape[:-1]))
        values = rng.standard_normal(x.shape, np.float32) / np.sqrt(max(fan_in, 1))
        return jnp.asarray(values if x.ndim > 1 else 1 + 0.1 * values)

    model = draftx.add_lora(_Model(jax.tree.map(draw, skeleton)), rank=4, key=jr.key(1))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: (
            jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32))
            if getattr(path[-1], "name", "") == "lora_up"
            else x
        ),
        model,
    )


@pytest.mark.slow
def test_bfloat16_gradient_has_the_direction_of_float32():
    rng = np.random.default_rng(2)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    latents, cotangent = draw(1, 16, 16, 4), draw(1, 16, 16, 4)
    text, negative = draw(1, 77, 768), draw(1, 77, 768)
    trained, frozen = eqx.partition(_model(), lora_filter(_model()))

    @jax.jit
    def gradient(trained, frozen):
        def loss(trained):
            denoiser = Denoiser(
                eqx.combine(trained, frozen).unet,
                _STEPS.timestep,
                text,
                negative,
                jnp.asarray(7.5),
            )
            chain = Chain(DDIM(SchedulerConfig()), denoiser, _STEPS)
            clean = run_truncated(chain, latents, 1).latents
            return jnp.sum(clean * cotangent)

        return jax.grad(loss)(trained)

    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    expected = gradient(trained, frozen)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), frozen)
    actual = gradient(trained, low)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(actual))
    a, b = flat(actual), flat(expected)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    print(f"cosine {cosine:.5f}")
    assert cosine > 0.99
