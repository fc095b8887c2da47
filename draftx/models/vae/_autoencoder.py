from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Latents
from ..._scaled_gradient import scaled_gradient
from ...layers import AbstractLinear, Conv2d, GroupNorm, Linear, Remat
from ._blocks import DownBlock, MidBlock, norm_out, UpBlock
from ._config import AutoencoderConfig


# Of any number of channels: autoencoders of other things than images exist.
_Pixels = Float[Array, "batch image_height image_width colors"]


class Encoder(eqx.Module):
    """Maps pixels to the moments of the latents."""

    conv_in: Conv2d
    down_blocks: list[DownBlock]
    mid_block: MidBlock
    conv_norm_out: GroupNorm
    conv_out: Conv2d

    def __init__(self, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray):
        channels = config.block_out_channels
        ikey, dkey, mkey, okey = jr.split(key, 4)
        self.conv_in = Conv2d(config.in_channels, channels[0], dtype=dtype, key=ikey)
        self.down_blocks = [
            DownBlock(level, config, dtype=dtype, key=k)
            for level, k in enumerate(jr.split(dkey, len(channels)))
        ]
        self.mid_block = MidBlock(channels[-1], config, dtype=dtype, key=mkey)
        self.conv_norm_out = norm_out(channels[-1], config, dtype)
        self.conv_out = Conv2d(
            channels[-1], 2 * config.latent_channels, dtype=dtype, key=okey
        )

    @jax.named_scope("encoder")
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(eqx.Module):
    """Maps latents to pixels."""

    conv_in: Conv2d
    mid_block: MidBlock
    up_blocks: list[UpBlock]
    conv_norm_out: GroupNorm
    conv_out: Conv2d

    def __init__(self, config: AutoencoderConfig, *, dtype, key: PRNGKeyArray):
        channels = config.block_out_channels
        ikey, ukey, mkey, okey = jr.split(key, 4)
        self.conv_in = Conv2d(
            config.latent_channels, channels[-1], dtype=dtype, key=ikey
        )
        self.mid_block = MidBlock(channels[-1], config, dtype=dtype, key=mkey)
        self.up_blocks = [
            UpBlock(index, config, dtype=dtype, key=k)
            for index, k in enumerate(jr.split(ukey, len(channels)))
        ]
        self.conv_norm_out = norm_out(channels[0], config, dtype)
        self.conv_out = Conv2d(channels[0], config.out_channels, dtype=dtype, key=okey)

    @jax.named_scope("decoder")
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        remat: Remat = Remat.NONE,
    ) -> Array:
        x = self.mid_block(self.conv_in(x), remat=remat)
        for block in self.up_blocks:
            x = block(x, remat=remat)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class AutoencoderKL(eqx.Module):
    """Encodes images as latents, and decodes them: a variational autoencoder.

    Latents on the outside are *scaled*: multiplied by `config.scaling_factor`, which
    gives them about unit variance, the space in which diffusion happens.

    Weights in float16 are computed with in float32 if `config.force_upcast` says so,
    and it does unless a file says otherwise: the default of diffusers, which does as
    much for SDXL. Activations of large autoencoders exceed what float16 holds, and
    where they do not this is more exact, at a cost of memory that bfloat16 has not.

    ??? cite

        [High-Resolution Image Synthesis with Latent Diffusion Models](
        https://arxiv.org/abs/2112.10752), section 3.1.
    """

    encoder: Encoder
    decoder: Decoder
    quant_conv: AbstractLinear
    post_quant_conv: AbstractLinear
    config: AutoencoderConfig = eqx.field(static=True)

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        ekey, dkey, qkey, pkey = jr.split(key, 4)
        latent = config.latent_channels
        conv: dict[str, Any] = dict(is_conv=True, dtype=dtype)
        self.encoder = Encoder(config, dtype=dtype, key=ekey)
        self.decoder = Decoder(config, dtype=dtype, key=dkey)
        self.quant_conv = Linear(2 * latent, 2 * latent, **conv, key=qkey)
        self.post_quant_conv = Linear(latent, latent, **conv, key=pkey)
        self.config = config

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the weights, in which activations are computed."""
        return self.post_quant_conv.dtype

    def encode(
        self,
        images: _Pixels,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Latents:
        """Encodes images `[batch, height, width, colors]` as latents.

        **Arguments:**

        - `images`: In $[0, 1]$.
        - `key`: Draws from the posterior; its mean is taken if `None`.

        **Returns:**

        Scaled latents, float32.
        """
        mean, log_variance = self.posterior(images)
        if key is not None:
            noise = jr.normal(key, mean.shape, mean.dtype)
            mean = mean + jnp.exp(0.5 * log_variance) * noise
        return mean * self.config.scaling_factor

    @jax.named_scope("draftx.vae.encode")
    def posterior(self, images: _Pixels) -> tuple[Latents, Latents]:
        """Computes mean and log variance of unscaled latents of images in $[0, 1]$."""
        moments = self._upcast()._moments(2 * images - 1).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    @scaled_gradient
    def _moments(self, x: _Pixels) -> Array:
        return self.quant_conv(self.encoder(x.astype(self.dtype)))

    def decode(self, latents: Latents, *, remat: Remat = Remat.NONE) -> _Pixels:
        """Decodes latents to images `[batch, height, width, colors]`.

        **Arguments:**

        - `latents`: Scaled latents.
        - `remat`: Where its `scoring` is true, the backward pass is left only what each
            block was given, and computes its inside again.

        **Returns:**

        Images, float32, in $[0, 1]$. Values outside are clipped, and pass no gradient.
        What is infinite is not a number here, so that clipping does not hide it.
        """
        pixels = self.decode_unclipped(latents, remat=remat)
        return jnp.where(jnp.isfinite(pixels), jnp.clip(pixels, 0.0, 1.0), jnp.nan)

    @jax.named_scope("draftx.vae.decode")
    def decode_unclipped(
        self, latents: Latents, *, remat: Remat = Remat.NONE
    ) -> _Pixels:
        """Decodes without clipping: what a reconstruction loss is computed on.

        **Arguments:** those of `decode`.

        **Arguments:**

        - `latents`: Scaled, channels last.
        - `remat`: What the backward pass computes again.
        """
        x = latents / self.config.scaling_factor
        decoded = self._upcast()._decode(x, remat=remat)
        return decoded.astype(jnp.float32) / 2 + 0.5

    @scaled_gradient
    def _decode(self, x: Latents, *, remat: Remat) -> Array:
        x = self.post_quant_conv(x.astype(self.dtype))
        return self.decoder(x, remat=remat)

    def _upcast(self) -> "AutoencoderKL":
        """The network as it computes, which is not always as it is stored."""
        if not (self.config.force_upcast and self.dtype == jnp.float16):
            return self
        is_half = lambda x: eqx.is_array(x) and x.dtype == jnp.float16
        cast = lambda x: x.astype(jnp.float32) if is_half(x) else x
        return jax.tree.map(cast, self)
