import equinox as eqx
import jax
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import (
    Attention,
    checkpoint_if,
    Conv2d,
    GroupNorm,
    Remat,
    ResnetBlock,
)
from ._config import AutoencoderConfig


_EPSILON = 1e-6  # Of every norm in the autoencoder; not a field of the config.
_Map = Float[Array, "batch height width channels"]


def _resnets(
    in_channels: int,
    out_channels: int,
    num_layers: int,
    config: AutoencoderConfig,
    dtype,
    key: PRNGKeyArray,
) -> list[ResnetBlock]:
    return [
        ResnetBlock(
            in_channels if i == 0 else out_channels,
            out_channels,
            time_features=None,
            num_groups=config.norm_num_groups,
            epsilon=_EPSILON,
            dtype=dtype,
            key=k,
        )
        for i, k in enumerate(jr.split(key, num_layers))
    ]


def norm_out(channels: int, config: AutoencoderConfig, dtype) -> GroupNorm:
    """Makes the norm before the last convolution of encoder and decoder."""
    groups = config.norm_num_groups
    return GroupNorm(channels, num_groups=groups, epsilon=_EPSILON, dtype=dtype)


class PixelAttention(eqx.Module):
    """Lets all pixels of a feature map attend to each other, with one head."""

    group_norm: GroupNorm
    attention: Attention

    def __init__(
        self, channels: int, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray
    ):
        self.group_norm = norm_out(channels, config, dtype)
        self.attention = Attention(
            channels, channels, num_heads=1, qkv_bias=True, dtype=dtype, key=key
        )

    @jax.named_scope("pixel_attention")
    def __call__(self, x: _Map) -> _Map:
        _, height, width, _ = x.shape
        hidden = rearrange(self.group_norm(x), "b h w c -> b (h w) c")
        hidden = self.attention(hidden)
        return x + rearrange(hidden, "b (h w) c -> b h w c", h=height, w=width)


class MidBlock(eqx.Module):
    """Maps a feature map of the latents' resolution to another.

    Residual block, attention, residual block.
    """

    resnets: list[ResnetBlock]
    attentions: list[PixelAttention]

    def __init__(
        self, channels: int, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray
    ):
        rkey, akey = jr.split(key)
        self.resnets = _resnets(channels, channels, 2, config, dtype, rkey)
        self.attentions = [PixelAttention(channels, config, dtype=dtype, key=akey)]

    @jax.named_scope("mid_block")
    def __call__(self, x: _Map, *, remat: Remat = Remat.NONE) -> _Map:
        for block in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = checkpoint_if(remat.scoring, block)(x)
        return x


class DownBlock(eqx.Module):
    """Maps a feature map to one of half the resolution, in the encoder."""

    resnets: list[ResnetBlock]
    downsampler: Conv2d | None

    def __init__(
        self, level: int, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray
    ):
        channels = config.block_out_channels
        rkey, dkey = jr.split(key)
        self.resnets = _resnets(
            channels[max(level - 1, 0)],
            channels[level],
            config.layers_per_block,
            config,
            dtype,
            rkey,
        )
        self.downsampler = None
        if level < len(channels) - 1:
            self.downsampler = Conv2d(
                channels[level],
                channels[level],
                stride=2,
                padding=(0, 1),
                dtype=dtype,
                key=dkey,
            )

    @jax.named_scope("down_block")
    def __call__(self, x: _Map) -> Array:
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.downsampler is None else self.downsampler(x)


class UpBlock(eqx.Module):
    """Maps a feature map to one of twice the resolution, in the decoder."""

    resnets: list[ResnetBlock]
    upsampler: Conv2d | None

    def __init__(
        self, index: int, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray
    ):
        channels = config.block_out_channels[::-1]
        rkey, ukey = jr.split(key)
        self.resnets = _resnets(
            channels[max(index - 1, 0)],
            channels[index],
            config.layers_per_block + 1,
            config,
            dtype,
            rkey,
        )
        self.upsampler = None
        if index < len(channels) - 1:
            self.upsampler = Conv2d(
                channels[index], channels[index], dtype=dtype, key=ukey
            )

    @jax.named_scope("up_block")
    def __call__(self, x: _Map, *, remat: Remat = Remat.NONE) -> Array:
        for resnet in self.resnets:
            x = checkpoint_if(remat.scoring, resnet)(x)
        return x if self.upsampler is None else self.upsampler.upsampled(x)
