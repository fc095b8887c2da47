import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.layers import sinusoidal_embedding, TimestepEmbedding

from ..helpers import assert_close


@pytest.mark.parametrize("flip_sin_to_cos", [True, False])
@pytest.mark.parametrize("freq_shift", [0, 1])
def test_sinusoids_match_numpy(freq_shift, flip_sin_to_cos):
    timesteps = np.asarray([0, 1, 20, 981, 999])
    frequencies = 10_000.0 ** (-np.arange(5) / (5 - freq_shift))
    angles = timesteps[:, None] * frequencies[None]
    halves = [np.cos(angles), np.sin(angles)]
    expected = np.concatenate(halves if flip_sin_to_cos else halves[::-1], axis=-1)
    actual = sinusoidal_embedding(
        jnp.asarray(timesteps),
        10,
        flip_sin_to_cos=flip_sin_to_cos,
        freq_shift=freq_shift,
    )
    assert actual.dtype == jnp.float32
    # float32 knows an angle of 999 to 6e-5.
    np.testing.assert_allclose(actual, expected, atol=1.5e-4)


def test_fractional_timesteps_are_allowed():
    between = sinusoidal_embedding(jnp.asarray([1.0, 1.5, 2.0]), 4)
    assert_close(between[1, 0], jnp.cos(jnp.asarray(1.5)))


def test_odd_features_are_refused():
    with pytest.raises(ValueError, match="`features` must be even; got 7"):
        sinusoidal_embedding(jnp.asarray([1]), 7)


def test_two_layers_with_silu_between(getkey):
    layer = TimestepEmbedding(4, 6, key=getkey())
    x = jr.normal(getkey(), (3, 4))
    hidden = jax.nn.silu(x @ layer.linear_1.weight.T)
    assert_close(layer(x), hidden @ layer.linear_2.weight.T)
