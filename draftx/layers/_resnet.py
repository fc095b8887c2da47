from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._conv import AbstractConv2d, Conv2d
from ._linear import AbstractLinear, Linear
from ._norm import GroupNorm


class ResnetBlock(eqx.Module):
    """Adds to a feature map what two convolutions make of it, `[batch, h, w, c]`.

    Norm, SiLU, convolution, twice, with the time embedding added in between.

    The autoencoder uses the same block without a time embedding.
    """

    norm1: GroupNorm
    conv1: AbstractConv2d
    time_emb_proj: AbstractLinear | None
    norm2: GroupNorm
    conv2: AbstractConv2d
    conv_shortcut: AbstractLinear | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_features: int | None,
        num_groups: int,
        epsilon: float,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_channels`, `out_channels`: A 1x1 shortcut is added where they differ.
        - `time_features`: Size of the time embedding, or `None` for none.
        - `num_groups`, `epsilon`: Of both norms.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        keys = jr.split(key, 4)
        norm: dict[str, Any] = dict(num_groups=num_groups, epsilon=epsilon, dtype=dtype)
        self.norm1 = GroupNorm(in_channels, **norm)
        self.conv1 = Conv2d(in_channels, out_channels, dtype=dtype, key=keys[0])
        self.norm2 = GroupNorm(out_channels, **norm)
        self.conv2 = Conv2d(out_channels, out_channels, dtype=dtype, key=keys[1])
        if time_features is None:
            self.time_emb_proj = None
        else:
            self.time_emb_proj = Linear(
                time_features, out_channels, dtype=dtype, key=keys[2]
            )
        if in_channels == out_channels:
            self.conv_shortcut = None
        else:
            self.conv_shortcut = Linear(
                in_channels, out_channels, is_conv=True, dtype=dtype, key=keys[3]
            )

    @jax.named_scope("time_shift")
    def time_shift(
        self, time_embedding: Float[Array, "steps time_features"]
    ) -> Float[Array, "steps out_channels"]:
        """Projects the time embedding to what is added between the two convolutions.

        The bias of the first one is part of it.
        """
        if self.time_emb_proj is None:
            raise ValueError("This block was built without `time_features`.")
        return self.conv1.add_bias(self.time_emb_proj(jax.nn.silu(time_embedding)))

    @jax.named_scope("resnet")
    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        time_shift: Float[Array, "#batch out_channels"] | None = None,
    ) -> Float[Array, "batch height width out_channels"]:
        """Maps a feature map to one with `out_channels`.

        **Arguments:**

        - `x`: Activations.
        - `time_shift`: From the method of that name; one row for all images, or one
            for each.
        """
        if (time_shift is None) != (self.time_emb_proj is None):
            raise ValueError(
                "`time_shift` must be given if and only if the block was built with "
                "`time_features`."
            )
        hidden = self.norm1(x, silu=True)
        if time_shift is None:
            hidden = self.conv1(hidden)
        else:
            hidden = self.conv1.convolve(hidden) + time_shift[:, None, None]
        hidden = self.conv2(self.norm2(hidden, silu=True))
        residual = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return residual + hidden
