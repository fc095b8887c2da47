"""The network of a learned value: what noised latents will be worth, read off them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray

from ..._checks import check_whole
from ..._custom_types import Latents
from ...layers import (
    Conv2d,
    Linear,
    ResnetBlock,
    sinusoidal_embedding,
    TimestepEmbedding,
)
from ...models import ConfigError, known_fields


_GROUPS = 4
_EPSILON = 1e-5
_SINUSOIDS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValueNetworkConfig:
    """Holds the sizes of a value's network.

    **Arguments:**

    - `in_channels`: Of the latents.
    - `text_features`: Of the text embeddings that it is told; 0 for none.
    - `width`: Channels of the first block, a multiple of 4; each block has twice those
        of the one before.
    - `num_blocks`: How many residual blocks; the height and the width are halved
        between two.
    """

    in_channels: int = 4
    text_features: int = 0
    width: int = 16
    num_blocks: int = 3

    def __post_init__(self):
        for name, least in (
            ("in_channels", 1),
            ("text_features", 0),
            ("width", _GROUPS),
            ("num_blocks", 1),
        ):
            whole = check_whole(name, getattr(self, name), least=least)
            object.__setattr__(self, name, whole)
        if self.width % _GROUPS:
            raise ConfigError(
                f"`width` must be a multiple of {_GROUPS}, the groups of its norms; "
                f"got {self.width}."
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ValueNetworkConfig":
        """Reads the sizes from a parsed file of `draftx.search.save_value`."""
        return cls(**known_fields(cls, config, "the value"))

    @property
    def downsampling_factor(self) -> int:
        """What the height and the width of latents are divided by on the way."""
        return 2 ** (self.num_blocks - 1)


class ValueNetwork(eqx.Module):
    """Maps noised latents, a timestep and a text to one number for each image.

    Residual blocks with group norm, halved in between, that are told the time, and the
    mean of the text's embeddings where there is one; then the mean and the deviation of
    each channel over the image, and two linear layers. The numbers are all 0 at first.
    """

    conv_in: Conv2d
    time_embedding: TimestepEmbedding
    text_proj: Linear | None
    blocks: list[ResnetBlock]
    downsamplers: list[Conv2d]
    linear_1: Linear
    linear_2: Linear
    config: ValueNetworkConfig = eqx.field(static=True)

    def __init__(self, config: ValueNetworkConfig, *, key: PRNGKeyArray):
        """**Arguments:**

        - `config`: The sizes.
        - `key`: Initializes the weights.
        """
        widths = [config.width * 2**i for i in range(config.num_blocks)]
        features = 4 * config.width
        own_key, blocks_key = jr.split(key)
        in_key, time_key, text_key, head_key, last_key = jr.split(own_key, 5)
        keys = jr.split(blocks_key, 2 * config.num_blocks)
        self.conv_in = Conv2d(config.in_channels, config.width, key=in_key)
        self.time_embedding = TimestepEmbedding(_SINUSOIDS, features, key=time_key)
        self.text_proj = None
        if config.text_features:
            self.text_proj = Linear(config.text_features, features, key=text_key)
        self.blocks = [
            ResnetBlock(
                width,
                width,
                time_features=features,
                num_groups=_GROUPS,
                epsilon=_EPSILON,
                key=keys[2 * i],
            )
            for i, width in enumerate(widths)
        ]
        self.downsamplers = [
            Conv2d(width, 2 * width, stride=2, key=keys[2 * i + 1])
            for i, width in enumerate(widths[:-1])
        ]
        self.linear_1 = Linear(2 * widths[-1], widths[-1], key=head_key)
        last = Linear(widths[-1], 1, key=last_key)
        # Before it has learned anything it says the mean.
        self.linear_2 = eqx.tree_at(
            lambda layer: layer.weight, last, jnp.zeros_like(last.weight)
        )
        self.config = config

    @jax.named_scope("draftx.value")
    def __call__(
        self,
        latents: Latents,
        timesteps: Num[Array, " batch"],
        text: Float[Array, "batch features"] | None = None,
    ) -> Float[Array, " batch"]:
        """Reads off noised latents what they will be worth.

        **Arguments:**

        - `latents`: $x_t$.
        - `timesteps`: $t$ of each.
        - `text`: Means of the text embeddings, where the network is told of texts.
        """
        told = self.time_embedding(sinusoidal_embedding(timesteps, _SINUSOIDS))
        if self.text_proj is not None:
            if text is None:
                raise ValueError("`text` must be given to a value that is told texts.")
            told = told + self.text_proj(text.astype(jnp.float32))
        x = self.conv_in(latents)
        for i, block in enumerate(self.blocks):
            if i > 0:
                x = self.downsamplers[i - 1](x)
            x = block(x, block.time_shift(told))
        mean = jnp.mean(x, axis=(1, 2))
        spread = jnp.sqrt(jnp.var(x, axis=(1, 2)) + _EPSILON)
        pooled = jnp.concatenate([mean, spread], axis=-1)
        return self.linear_2(jax.nn.silu(self.linear_1(pooled)))[:, 0]
