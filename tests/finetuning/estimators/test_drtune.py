import dataclasses

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import draftx
from draftx.diffusion import AbstractDenoiser

from ...helpers import relative_error
from ...toys import TOTAL, toy_noise, ToyDenoiser, WEIGHT
from .family import episode, gradient


def test_drtune_is_the_chain_with_the_input_stopped():
    # All steps trained: the same as a chain whose denoiser sees constants.
    class Stopped(AbstractDenoiser):
        inner: ToyDenoiser

        def __call__(self, latents, index):
            return self.inner(lax.stop_gradient(latents), index)

    def objective(weight):
        whole = episode(weight, toy_noise())
        chain = dataclasses.replace(whole.chain, denoiser=Stopped(ToyDenoiser(weight)))
        stopped = dataclasses.replace(whole, chain=chain)
        return stopped.score(stopped.run(None))[0]

    expected = jax.jit(jax.grad(objective))(jnp.asarray(WEIGHT, jnp.float32))
    actual = gradient(draftx.DRTune(num_trained_steps=TOTAL))[1]
    assert relative_error(actual, expected) < 1e-5


def test_drtune_visits_evenly_spaced_steps_of_the_whole_chain():
    method = draftx.DRTune(num_trained_steps=4)
    seen = set()
    for seed in range(40):
        indices = np.asarray(method.indices(10, jr.key(seed)))
        assert np.all(np.diff(indices) == 2)
        assert indices.min() >= 0
        assert indices.max() < 10
        seen |= set(indices.tolist())
    assert seen == set(range(10))
