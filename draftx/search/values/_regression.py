"""Least squares: a value's network, fitted to the rewards of clean latents."""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._compilation import compiled
from ..._custom_types import Latents
from ...diffusion import AbstractSampler, AbstractSteps
from ._network import ValueNetwork


# The average of the weights forgets so much of itself at a step, but more at first.
_FORGETS = 0.01
# A few images have much larger errors than the others.
_MAX_NORM = 1.0


class Pairs(eqx.Module):
    """Noises clean latents to steps of a chain.

    **Arguments:**

    - `sampler`, `steps`: Of the chain.
    - `texts`: What the network is told of each image; `None` for nothing.
    """

    sampler: AbstractSampler
    steps: AbstractSteps
    texts: Float[Array, "images features"] | None

    def noised(
        self, clean: Latents, indices: Int[Array, " batch"], key: PRNGKeyArray
    ) -> Latents:
        """Noises each of some clean latents to a step of its own.

        **Arguments:**

        - `clean`: One each.
        - `indices`: Of the steps.
        - `key`: Draws the noise.
        """

        def one(clean, noise, step):
            return self.sampler.add_noise(clean[None], noise[None], step)[0]

        noise = jr.normal(key, clean.shape, clean.dtype)
        return eqx.filter_vmap(one)(clean, noise, self.steps[indices])


class Learner(eqx.Module):
    """Holds what a fit has seen, and what it has learned.

    **Arguments:**

    - `latents`, `rewards`: Clean latents of all images, and their rewards.
    - `network`, `opt_state`: As they are.
    - `average`: Of the network's weights.
    """

    latents: Float[Array, "images height width channels"]
    rewards: Float[Array, " images"]
    network: ValueNetwork
    average: ValueNetwork
    opt_state: Any

    def seen(
        self, rows: np.ndarray, latents: Latents, rewards: Float[Array, " batch"]
    ) -> "Learner":
        """Adds images that were seen.

        **Arguments:**

        - `rows`: Where they belong.
        - `latents`, `rewards`: Of these images.
        """
        where = lambda learner: (learner.latents, learner.rewards)
        new = self.latents.at[rows].set(latents), self.rewards.at[rows].set(rewards)
        return eqx.tree_at(where, self, new)

    def standardized(self, fitted: int) -> Float[Array, " images"]:
        """Makes the rewards less their mean, over their deviation."""
        known = self.rewards[:fitted]
        return (self.rewards - jnp.mean(known)) / jnp.std(known)


# The same object compiles no other program.
@ft.cache
def optimizer_of(learning_rate: float) -> optax.GradientTransformation:
    """Makes the optimizer of a fit."""
    adam = optax.adam(learning_rate)
    return optax.chain(optax.clip_by_global_norm(_MAX_NORM), adam)


def begin(optimizer: optax.GradientTransformation, network: ValueNetwork) -> Any:
    """Makes the state of an optimizer before the first step of a network."""
    params: Any = network
    return optimizer.init(params)


@compiled()
def learn(
    learner: Learner,
    pairs: Pairs,
    key: PRNGKeyArray,
    optimizer: optax.GradientTransformation,
    sizes: tuple[int, int],
) -> tuple[Learner, Float[Array, ""]]:
    """Takes a training step; gives its error too.

    **Arguments:**

    - `learner`, `pairs`, `optimizer`: Of the fit.
    - `key`: Draws images, steps and noise.
    - `sizes`: How many images, the first, are fitted to, and how many make a batch.
    """
    fitted, batch_size = sizes
    image_key, step_key, noise_key = jr.split(key, 3)
    images = jr.randint(image_key, (batch_size,), 0, fitted)
    indices = jr.randint(step_key, (batch_size,), 0, len(pairs.steps))
    noised = pairs.noised(learner.latents[images], indices, noise_key)
    timesteps = pairs.steps[indices].timestep
    texts = None if pairs.texts is None else pairs.texts[images]
    wanted = learner.standardized(fitted)[images]

    def loss(network: ValueNetwork) -> Float[Array, ""]:
        return jnp.mean((network(noised, timesteps, texts) - wanted) ** 2)

    error, gradient = eqx.filter_value_and_grad(loss)(learner.network)
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(gradient, learner.opt_state)
    network: ValueNetwork = eqx.apply_updates(learner.network, updates)
    taken = optax.tree_utils.tree_get(opt_state, "count").astype(jnp.float32)
    share = jnp.maximum(_FORGETS, 1 / (1 + taken))
    average = jax.tree.map(
        lambda old, new: old + share * (new - old), learner.average, network
    )
    learner = eqx.tree_at(
        lambda l: (l.network, l.average, l.opt_state),
        learner,
        (network, average, opt_state),
    )
    return learner, error


@compiled()
def explain(
    learner: Learner, pairs: Pairs, key: PRNGKeyArray, fitted: int
) -> Float[Array, " steps"]:
    """Measures how much of the rewards the network explains at each step.

    **Arguments:**

    - `learner`, `pairs`: Of the fit.
    - `key`: Draws the noise.
    - `fitted`: How many images, the first, it was fitted to.
    """
    clean, wanted = learner.latents[fitted:], learner.standardized(fitted)[fitted:]
    texts = None if pairs.texts is None else pairs.texts[fitted:]

    def at(index: Int[Array, ""]) -> Float[Array, ""]:
        indices = jnp.broadcast_to(index, wanted.shape)
        noised = pairs.noised(clean, indices, jr.fold_in(key, index))
        timesteps = pairs.steps[indices].timestep
        values = learner.average(noised, timesteps, texts)
        return 1 - jnp.mean((values - wanted) ** 2) / jnp.mean(wanted**2)

    return jax.lax.map(at, jnp.arange(len(pairs.steps)))
