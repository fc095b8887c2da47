"""A renderer of a few numbers, and options that are quick."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import draftx


SAMPLING = draftx.Sampling(2, guidance_scale=3.0)
PROMPTS = ["cat", "do"]
KEY = jr.key(4)


def params(seed=0, batch=2, side=8):
    """Colors of pixels, and what is no number to be optimized."""
    rng = np.random.default_rng(seed)
    colors = rng.normal(size=(batch, side, side, 3)).astype(np.float32)
    return {"colors": jnp.asarray(colors), "shift": jnp.asarray(1)}


def render(params, key):
    """Pixels, moved by one in the direction that the key says."""
    shift = jnp.where(jr.bernoulli(key), params["shift"], 0)
    return jnp.roll(jax.nn.sigmoid(params["colors"]), shift, axis=2)
