from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import (
    AbstractConv2d,
    checkpoint_if,
    Conv2d,
    KeyValue,
    match_batch,
    Remat,
    ResnetBlock,
)
from ._config import UNetConfig
from ._transformer import Transformer2D


_Map = Float[Array, "batch height width channels"]
# One row a step of the chain, or one an image; for every residual block.
TimeShifts: TypeAlias = list[Float[Array, "rows _"]]
# Keys and values of the text, for every transformer and every block in it.
TextContext: TypeAlias = list[list[KeyValue]]


class BlockConditioning(NamedTuple):
    """Holds what one block of the UNet is told of the time, the text and references."""

    time_shifts: TimeShifts
    text_context: TextContext
    num_references: int = 0


def _call_resnet(
    resnet: ResnetBlock, x: Array, shift: Array, remat: Remat
) -> Float[Array, "batch height width out_channels"]:
    if shift.shape[0] > 1:
        shift = match_batch(shift, x.shape[0])
    # What its backward pass needs is the input of its two norms: forgetting the second
    # costs two convolutions.
    return checkpoint_if(remat.residual_blocks, resnet)(x, shift)


def _call_transformer(
    transformer: Transformer2D,
    x: Array,
    index: int,
    conditioning: BlockConditioning,
    remat: Remat,
) -> Float[Array, "batch height width channels"]:
    call = lambda transformer, *args: transformer(
        *args, remat=remat, num_references=conditioning.num_references
    )
    contexts = conditioning.text_context[index]
    return checkpoint_if(remat.transformers, call)(transformer, x, contexts)


def _downsample(layer: AbstractConv2d, x: Array) -> Array:
    return checkpoint_if(False, layer)(x)


def _upsample(layer: AbstractConv2d, x: Array) -> Array:
    return checkpoint_if(False, AbstractConv2d.upsampled)(layer, x)


def _resnet(
    in_channels: int, out_channels: int, config: UNetConfig, dtype, key: PRNGKeyArray
) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        time_features=4 * config.block_out_channels[0],
        num_groups=config.norm_num_groups,
        epsilon=config.norm_eps,
        dtype=dtype,
        key=key,
    )


def _transformer(
    level: int, config: UNetConfig, dtype, key: PRNGKeyArray
) -> Transformer2D:
    return Transformer2D(
        config.block_out_channels[level],
        num_heads=config.num_heads[level],
        num_layers=config.per_level(config.transformer_layers_per_block)[level],
        text_features=config.cross_attention_dim,
        num_groups=config.norm_num_groups,
        use_linear_projection=config.use_linear_projection,
        dtype=dtype,
        key=key,
    )


class DownBlock(eqx.Module):
    """Maps a feature map to one of half the resolution, and to skips.

    Residual blocks, each followed by a transformer or not.
    """

    resnets: list[ResnetBlock]
    attentions: list[Transformer2D] | None
    downsampler: AbstractConv2d | None

    def __init__(
        self,
        level: int,
        config: UNetConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        channels = config.block_out_channels
        inputs, out = channels[max(level - 1, 0)], channels[level]
        num_layers = config.per_level(config.layers_per_block)[level]
        rkey, akey, dkey = jr.split(key, 3)
        self.resnets = [
            _resnet(inputs if i == 0 else out, out, config, dtype, k)
            for i, k in enumerate(jr.split(rkey, num_layers))
        ]
        self.attentions = None
        if config.down_has_attention[level]:
            self.attentions = [
                _transformer(level, config, dtype, k)
                for k in jr.split(akey, num_layers)
            ]
        self.downsampler = None
        if level < len(channels) - 1:
            self.downsampler = Conv2d(out, out, stride=2, dtype=dtype, key=dkey)

    @jax.named_scope("down_block")
    def __call__(
        self, x: _Map, conditioning: BlockConditioning, *, remat: Remat = Remat.NONE
    ) -> tuple[Array, list[Array]]:
        """Maps a feature map `[batch, height, width, channels]`.

        **Returns:**

        The output, and every activation that the way up is given as a skip.
        """
        shifts = conditioning.time_shifts
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = _call_resnet(resnet, x, shifts[i], remat)
            if self.attentions is not None:
                x = _call_transformer(self.attentions[i], x, i, conditioning, remat)
            skips.append(x)
        if self.downsampler is not None:
            x = _downsample(self.downsampler, x)
            skips.append(x)
        return x, skips


class MidBlock(eqx.Module):
    """Maps a feature map of the lowest resolution to another.

    Residual block, transformer, residual block.
    """

    resnets: list[ResnetBlock]
    attentions: list[Transformer2D]

    def __init__(
        self,
        config: UNetConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        channels = config.block_out_channels[-1]
        keys = jr.split(key, 3)
        self.resnets = [_resnet(channels, channels, config, dtype, k) for k in keys[:2]]
        level = len(config.block_out_channels) - 1
        self.attentions = [_transformer(level, config, dtype, keys[2])]

    @jax.named_scope("mid_block")
    def __call__(
        self, x: _Map, conditioning: BlockConditioning, *, remat: Remat = Remat.NONE
    ) -> Array:
        shifts = conditioning.time_shifts
        x = _call_resnet(self.resnets[0], x, shifts[0], remat)
        x = _call_transformer(self.attentions[0], x, 0, conditioning, remat)
        return _call_resnet(self.resnets[1], x, shifts[1], remat)


class UpBlock(eqx.Module):
    """Maps a feature map and skips to a feature map of twice the resolution.

    Residual blocks that are each given one skip of the way down.
    """

    resnets: list[ResnetBlock]
    attentions: list[Transformer2D] | None
    upsampler: AbstractConv2d | None

    def __init__(
        self,
        index: int,
        config: UNetConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `index`: 0 is the lowest resolution, as in `up_block_types`.
        """
        channels = config.block_out_channels
        level = len(channels) - 1 - index
        out, below = channels[level], channels[min(level + 1, len(channels) - 1)]
        skip_below = channels[max(level - 1, 0)]
        num_layers = config.per_level(config.layers_per_block)[level] + 1
        rkey, akey, ukey = jr.split(key, 3)
        self.resnets = []
        for i, k in enumerate(jr.split(rkey, num_layers)):
            skip = skip_below if i == num_layers - 1 else out
            inputs = (below if i == 0 else out) + skip
            self.resnets.append(_resnet(inputs, out, config, dtype, k))
        self.attentions = None
        if config.up_has_attention[index]:
            self.attentions = [
                _transformer(level, config, dtype, k)
                for k in jr.split(akey, num_layers)
            ]
        self.upsampler = None
        if level > 0:
            self.upsampler = Conv2d(out, out, dtype=dtype, key=ukey)

    @jax.named_scope("up_block")
    def __call__(
        self,
        x: _Map,
        skips: list[Array],
        conditioning: BlockConditioning,
        *,
        remat: Remat = Remat.NONE,
    ) -> Array:
        """Maps a feature map `[batch, height, width, channels]`.

        **Arguments:**

        - `skips`: One for each residual block, in the order they are used.
        """
        shifts = conditioning.time_shifts
        for i, (resnet, skip) in enumerate(zip(self.resnets, skips, strict=True)):
            # A skip from before the text came in has fewer rows.
            x = jnp.concatenate([x, match_batch(skip, x.shape[0])], axis=-1)
            x = _call_resnet(resnet, x, shifts[i], remat)
            if self.attentions is not None:
                x = _call_transformer(self.attentions[i], x, i, conditioning, remat)
        if self.upsampler is not None:
            x = _upsample(self.upsampler, x)
        return x
