import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx

from ...helpers import relative_error
from ...toys import BASE, toy_noise, WEIGHT
from .family import assert_same, episode, gradient, KEY, METHODS


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


class _Size(draftx.AbstractPenalty):
    """Charges how large a prediction is, whatever the base model says."""

    def __call__(self, sampler, step, latents, output, base_output):
        return jnp.mean(output**2, axis=(1, 2, 3))


@pytest.mark.parametrize("name", ["draft-2", "draft-lv", "drtune", "score"])
def test_two_penalties_charge_both(name):
    method = METHODS[name]
    one, other = (
        draftx.Penalized(method, 0.7),
        draftx.Penalized(method, 0.4, False, _Size()),
    )
    both = draftx.Penalized(one, 0.4, False, _Size())
    plain, of_one, of_other, of_both = map(gradient, (method, one, other, both))
    assert relative_error(of_one[1], plain[1]) > 1e-3
    assert relative_error(of_other[1], plain[1]) > 1e-3
    for i in range(2):  # The value and the gradient.
        expected = of_one[i] + of_other[i] - plain[i]
        assert relative_error(of_both[i], expected) < 1e-5
    np.testing.assert_allclose(of_both[2], plain[2], rtol=1e-5)


def test_score_functions_are_charged_at_the_steps_that_they_visit():
    # Where the reward is one number for all, nothing but the penalty is left.
    def slope(method):
        def objective(weight):
            constant = lambda images: jnp.zeros(images.shape[0])
            return method(episode(weight, toy_noise(), reward=constant), KEY)[0]

        return jax.jit(jax.grad(objective))(jnp.asarray(WEIGHT, jnp.float32))

    method = draftx.ScoreFunction()
    assert jnp.all(slope(method) == 0)
    charged = slope(draftx.Penalized(method, weight=0.7))
    # Towards the base model: against the difference, up to the sign of each number.
    assert jnp.all(charged * (BASE.astype("f") - WEIGHT.astype("f")) > 0)
    assert (
        relative_error(slope(draftx.Penalized(method, weight=1.4)), 2 * charged) < 1e-5
    )
