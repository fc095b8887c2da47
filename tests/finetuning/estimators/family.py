"""All estimators on a model of three numbers, each program compiled once for all."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import draftx

from ...toys import toy_episode, toy_noise, ToyDenoiser, WEIGHT


SEED = 7
KEY = jr.key(SEED)
NOISE_KEY = jr.key(8)

METHODS = {
    "draft": draftx.DRaFT(),
    "draft-2": draftx.DRaFT(2),
    "draft-lv": draftx.DRaFTLV(num_samples=2),
    "refl": draftx.ReFL(max_steps=4),
    "alignprop": draftx.AlignProp(),
    "alignprop-gaussian": draftx.AlignProp(distribution="gaussian", mean=3, std=1),
    "drtune": draftx.DRTune(num_trained_steps=2),
    "single": draftx.SingleRewardLV(num_samples=2),
}
# With a penalty, and one that treats the latents as constants.
METHODS |= {
    f"{name}+": draftx.Penalized(METHODS[name], weight=0.7)
    for name in ("draft", "draft-2", "draft-lv", "refl", "alignprop", "drtune")
}
METHODS["single+"] = draftx.Penalized(METHODS["single"], weight=0.7)
METHODS["draft-2+stopped"] = draftx.Penalized(
    draftx.DRaFT(2), weight=0.7, stop_latents=True
)
METHODS["alignprop+stopped"] = draftx.Penalized(
    draftx.AlignProp(), weight=0.7, stop_latents=True
)
METHODS["draft++"] = draftx.Penalized(METHODS["draft+"], weight=0.4)
METHODS["score"] = draftx.ScoreFunction()
METHODS["score+"] = draftx.Penalized(METHODS["score"], weight=0.7)


def episode(weight, noise, *, eta=0.0, **options):
    """Of a toy with this weight; with noise in its steps if they have some."""
    key = NOISE_KEY if eta else None
    return toy_episode(ToyDenoiser(weight), noise, eta=eta, key=key, **options)


@ft.cache
def gradient(method, seed=SEED, **options):
    """Value, gradient and rewards of a method."""

    def objective(weight):
        return method(episode(weight, toy_noise(), **options), jr.key(seed))

    weight = jnp.asarray(WEIGHT, jnp.float32)
    run = eqx.filter_jit(jax.value_and_grad(objective, has_aux=True))
    (value, rewards), slope = run(weight)
    return value, slope, rewards


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7)
