import jax
import jax.numpy as jnp
import numpy as np

import draftx

from ...helpers import relative_error
from ...toys import BASE, toy_noise
from .family import assert_same, episode, gradient, KEY


def test_penalty_of_weight_zero_is_none_and_of_the_base_model_zero():
    method = draftx.DRaFT(2)
    plain = gradient(method)
    assert_same(gradient(draftx.Penalized(method, weight=0)), plain)

    def objective(weight):
        return draftx.Penalized(method)(episode(weight, toy_noise()), KEY)

    plainly = lambda weight: method(episode(weight, toy_noise()), KEY)
    base = jnp.asarray(BASE, jnp.float32)
    actual = jax.jit(jax.value_and_grad(objective, has_aux=True))(base)
    expected = jax.jit(jax.value_and_grad(plainly, has_aux=True))(base)
    np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-6)
    assert relative_error(actual[1], expected[1]) < 1e-5


def test_penalty_counts_what_it_costs():
    plain = draftx.DRaFT(2).budget(5, 4)
    flowing = draftx.Penalized(draftx.DRaFT(2)).budget(5, 4)
    stopped = draftx.Penalized(draftx.DRaFT(2), stop_latents=True).budget(5, 4)
    assert flowing.unet_forwards == plain.unet_forwards + 2 * 2 * 4
    assert stopped.unet_forwards == plain.unet_forwards + 2 * 2 * 2 * 4
    assert stopped.unet_backwards == 2 * plain.unet_backwards
    assert draftx.Penalized(draftx.DRaFT(2), weight=0).budget(5, 4) == plain
