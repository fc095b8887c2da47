import jax
import jax.random as jr
import numpy as np
import pytest

import draftx

from ...toys import TOTAL
from .family import gradient, KEY


def test_alignprop_is_draft_k_for_the_k_it_draws():
    drawn = set()
    for seed in (0, 1, 3, 6, 8):
        method = draftx.AlignProp()
        k = int(method.draw(TOTAL, jr.key(seed)))
        drawn.add(k)
        expected = gradient(draftx.DRaFT(k))
        for actual, wanted in zip(gradient(method, seed), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    assert drawn == set(range(1, TOTAL + 1))


def test_alignprop_draws_in_its_range():
    keys = jr.split(KEY, 4000)
    uniform = draftx.AlignProp(min_steps=2, max_steps=4)
    draws = np.asarray(jax.vmap(lambda k: uniform.draw(50, k))(keys))
    np.testing.assert_allclose(np.bincount(draws)[2:] / 4000, 1 / 3, atol=0.03)
    gaussian = draftx.AlignProp(distribution="gaussian", mean=8, std=5)
    draws = np.asarray(jax.vmap(lambda k: gaussian.draw(50, k))(keys))
    assert draws.min() == 1
    assert abs(np.median(draws) - 8) <= 1


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_the_mean_of_alignprop_is_that_of_its_draws(distribution):
    method = draftx.AlignProp(distribution, min_steps=2, max_steps=9, mean=3, std=2)
    draws = jax.vmap(lambda key: method.draw(10, key))(jr.split(jr.key(0), 20_000))
    np.testing.assert_allclose(method.mean_steps(10), np.mean(draws), atol=0.05)
