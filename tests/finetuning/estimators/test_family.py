"""Every estimator on a model of three numbers: what holds for all or several."""

import jax.numpy as jnp
import numpy as np
import pytest

import draftx

from ...helpers import relative_error
from .family import assert_same, gradient, METHODS


@pytest.mark.parametrize("name", METHODS)
def test_rewards_and_a_gradient_with_or_without_remat(name):
    _, slope, rewards = gradient(METHODS[name], remat="step")
    assert rewards.total.shape == (2,)
    assert jnp.all(jnp.isfinite(slope))
    assert jnp.all(slope != 0)
    without = gradient(METHODS[name])[1]
    assert relative_error(slope, without) < 1e-5


def test_rewards_are_those_of_the_chain():
    _, _, chain = gradient(draftx.DRaFT())
    for name in ("draft-2", "draft-lv", "alignprop", "drtune", "single", "draft+"):
        np.testing.assert_allclose(gradient(METHODS[name])[2], chain, rtol=1e-5)


def test_rewards_are_those_of_the_same_chain_with_noise():
    quiet = gradient(draftx.DRaFT())[2]
    _, _, chain = gradient(draftx.DRaFT(), eta=1.0)
    assert not np.allclose(chain, quiet, rtol=1e-2)
    for name in ("draft-2", "draft-lv", "alignprop", "drtune", "single"):
        rewards = gradient(METHODS[name], eta=1.0)[2]
        np.testing.assert_allclose(rewards, chain, rtol=1e-5)


@pytest.mark.parametrize("name", ["draft-2", "draft-lv", "single"])
def test_one_image_at_a_time_is_all_at_once(name):
    apart = gradient(METHODS[name], images_at_once=1, remat="block")
    assert_same(apart, gradient(METHODS[name]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: draftx.ReFL(max_steps=0), "`max_steps` must be a whole number"),
        (lambda: draftx.ReFL(min_steps=3, max_steps=2), "of at least 3; got 2"),
        (lambda: draftx.AlignProp(min_steps=0), "`min_steps` must be a whole number"),
        (lambda: draftx.AlignProp(distribution="gaussian", std=0), "`std`"),
        (lambda: draftx.DRTune(num_trained_steps=0), "`num_trained_steps` must be"),
        (lambda: draftx.Penalized(draftx.DRaFT(), weight=-1), "`weight` must be"),
        (lambda: draftx.SingleRewardLV(num_samples=-1), "`num_samples` must be a"),
        (lambda: draftx.DRaFTLV(num_samples=-1), "`num_samples` must be a whole"),
        (lambda: draftx.DRaFTLV(num_samples=0, include_original=False), "at least 1"),
        (lambda: draftx.DRaFT(truncation_steps=0), "With 0 nothing would be trained"),
        (lambda: draftx.ReFL(max_steps=9).check(8), "at most 8, the number of steps"),
        (lambda: draftx.AlignProp(max_steps=9).check(8), "at most 8, the number of"),
        (lambda: draftx.DRTune(num_trained_steps=9).check(8), "at most 8, the number"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
