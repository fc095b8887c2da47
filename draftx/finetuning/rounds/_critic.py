"""Critics: what a step of sampling is worth, learned from what it led to."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._autodiff import stop_gradient
from ..._custom_types import Images
from ..._scaled_gradient import scaled_call
from ...layers import AbstractLinear
from ...lora import lora_filter, with_lora
from ...models import map_linears
from ...rewards import AbstractReward


class AbstractCritic(eqx.Module):
    """Predicts the final reward from the image that a step is seen to lead to."""

    @abc.abstractmethod
    def __call__(
        self, images: Images, features: Any, remaining: Float[Array, ""]
    ) -> Float[Array, " batch"]:
        """**Arguments:**

        - `images`: What the latents would be after one jump to the end, decoded.
        - `features`: What the reward prepared of the rows.
        - `remaining`: The part of the chain that is still to come, in [0, 1).
        """

    @abc.abstractmethod
    def filter(self) -> Any:
        """Makes a tree of booleans, true at what is learned: for `eqx.partition`."""


class AdaptedReward(AbstractCritic):
    """Adapts the reward: a fresh low-rank adapter on all of its linear layers."""

    reward: Any

    def __init__(self, reward: AbstractReward, *, rank: int, key: PRNGKeyArray):
        """**Arguments:**

        - `reward`: A module with linear layers.
        - `rank`: Of the adapter; of a layer with a smaller side, that side.
        - `key`: Draws the adapter, which changes nothing yet.
        """
        keys = iter(jr.split(key, 1 + count_linears(reward)))

        def adapt(_: str, layer: AbstractLinear) -> AbstractLinear:
            size = min(rank, layer.in_features, layer.out_features)
            down = jr.normal(next(keys), (size, layer.in_features)) / jnp.sqrt(size)
            return with_lora(layer, down, jnp.zeros((layer.out_features, size)))

        self.reward = map_linears(adapt, reward)

    def __call__(
        self, images: Images, features: Any, remaining: Float[Array, ""]
    ) -> Float[Array, " batch"]:
        del remaining
        return scaled_call(self.reward, images, features)

    def filter(self) -> Any:
        return lora_filter(self)


class CorrectedReward(AbstractCritic):
    """Corrects the reward by what a small network says of the image and the time.

    The network sees 8 × 8 pixels, has one hidden layer, and says nothing at first.
    """

    reward: Any
    hidden: Float[Array, "hidden inputs"]
    bias: Float[Array, " hidden"]
    out: Float[Array, " hidden"]
    offset: Float[Array, ""]

    def __init__(self, reward: AbstractReward, *, width: int = 64, key: PRNGKeyArray):
        """**Arguments:**

        - `reward`: Any that can be differentiated.
        - `width`: Of the hidden layer.
        - `key`: Initializes it.
        """
        inputs = 8 * 8 * 3 + 1
        self.reward = reward
        self.hidden = jr.normal(key, (width, inputs)) / jnp.sqrt(inputs)
        self.bias = jnp.zeros(width)
        self.out = jnp.zeros(width)
        self.offset = jnp.zeros(())

    def __call__(
        self, images: Images, features: Any, remaining: Float[Array, ""]
    ) -> Float[Array, " batch"]:
        rewards = scaled_call(self.reward, images, features)
        batch = images.shape[0]
        small = jax.image.resize(images, (batch, 8, 8, 3), "linear").reshape(batch, -1)
        time = jnp.broadcast_to(remaining.astype(small.dtype), (batch, 1))
        inputs = jnp.concatenate([2 * small - 1, time], axis=1)
        hidden = jnp.tanh(inputs @ self.hidden.T + self.bias[None])
        return rewards + hidden @ self.out + self.offset

    def filter(self) -> Any:
        nothing = jax.tree.map(lambda _: False, self)
        where = lambda c: (c.hidden, c.bias, c.out, c.offset)
        return eqx.tree_at(where, nothing, (True,) * 4)


def count_linears(reward: AbstractReward) -> int:
    """Counts the linear layers of a reward: 0 if it is a plain function."""
    found = []
    map_linears(lambda _, layer: found.append(layer) or layer, reward)
    return len(found)


def as_constant(critic: AbstractCritic) -> AbstractCritic:
    """Makes a critic that passes gradients to images, but is not learned."""
    return stop_gradient(critic)
