"""What a generator sees beside the latents: an image of each row, or other channels."""

import dataclasses
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_is, check_pictures, is_traced
from .._compilation import compiled
from .._custom_types import Images, Latents
from .._mesh import to_host
from .._table import Table
from ..models import AutoencoderKL
from ._pipeline import Pipeline


# The columns: an image that is encoded here, or what the UNet sees as it is.
_IMAGE: Final = "conditioning_image"
_CHANNELS: Final = "conditioning"
# Of images that are encoded at once: four of 512x512.
_PIXELS: Final = 2**20
_MOST: Final = 16


def add_conditioning_image(pipeline: Pipeline) -> Pipeline:
    """Makes the UNet see an image beside the latents, the one that belongs to its row.

    It is given with the prompts, as a column `conditioning_image`: images `[rows,
    height, width, 3]` in $[0, 1]$, of the size that is drawn. They are encoded once;
    the latents that the UNet sees are the mode of the posterior, not scaled, as in
    diffusers' `StableDiffusionInstructPix2PixPipeline`. Guidance has two branches,
    which both see the image: there that is `image_guidance_scale=1`.

    The weights for it are zeros: until they are trained, images are those of the
    model as it was. An adapter learns to look if its targets have `"conv_in"`.

    **Arguments:**

    - `pipeline`: Of a model that sees the text alone. An adapter is kept; the first
        convolution must have none.

    **Returns:**

    A pipeline whose UNet takes twice the channels of the latents.

    ??? cite

        [InstructPix2Pix](https://arxiv.org/abs/2211.09800), section 3.2.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    if pipeline.conditioning_channels:
        raise ValueError(
            "`pipeline` must be of a model that sees the text alone; its UNet has "
            f"{pipeline.conditioning_channels} channels beside the latents already. "
            "Use it as it is."
        )
    count = pipeline.vae.config.latent_channels
    return dataclasses.replace(pipeline, unet=pipeline.unet.with_more_channels(count))


def check_channels(pipeline: Pipeline, table: Table, shape: tuple[int, ...]) -> None:
    """Raises unless a table has what the UNet sees beside the latents, and no more.

    **Arguments:**

    - `pipeline`: Whose UNet it is.
    - `table`: The rows.
    - `shape`: Of the latents of a batch.
    """
    extra = pipeline.conditioning_channels
    given = [name for name in (_CHANNELS, _IMAGE) if name in table]
    if len(given) > 1:
        raise ValueError(
            f"`prompts` must have one of the columns {_CHANNELS!r} and {_IMAGE!r}; got "
            "both. The first is what the UNet sees as it is, the second is encoded."
        )
    if given and not extra:
        raise ValueError(
            f"`prompts` must have no column {given[0]!r}: this model sees nothing "
            "beside the latents. Leave it out, call it otherwise if it is for a reward "
            "alone, or make the model see an image by "
            "`draftx.add_conditioning_image(pipeline)`."
        )
    if not extra:
        return
    factor, config = pipeline.vae.config.downsampling_factor, pipeline.vae.config
    pixels = (len(table), factor * shape[1], factor * shape[2], config.in_channels)
    channels = (len(table), *shape[1:3], extra)
    is_image = extra == config.latent_channels
    if _IMAGE in table and is_image:
        _check_images(table[_IMAGE], pixels)
        return
    got = np.shape(table[_CHANNELS]) if _CHANNELS in table else None
    if got != channels:
        images = (
            f"a column {_IMAGE!r}, images in [0, 1] of shape (rows, height, width, "
            f"colors) = {pixels}, or "
        )
        raise ValueError(
            f"`prompts` must have {images if is_image else ''}a column {_CHANNELS!r} "
            f"of shape (rows, height, width, channels) = {channels}, which this UNet "
            f"sees beside the latents; got {got} and the columns {table.names}."
            f"{'' if given else table.slip(_IMAGE if is_image else _CHANNELS)}"
        )
    if not np.isfinite(table[_CHANNELS]).all():
        raise ValueError(
            f"`prompts[{_CHANNELS!r}]` must be finite; got numbers that are not."
        )


def make_channels(
    pipeline: Pipeline, table: Table, shape: tuple[int, ...]
) -> Float[Array, "rows height width channels"] | None:
    """Makes what the UNet sees beside the latents, one row an image, or `None`.

    **Arguments:**

    - `pipeline`: Whose autoencoder encodes images.
    - `table`, `shape`: As for `check_channels`, which is called first.
    """
    check_channels(pipeline, table, shape)
    if pipeline.conditioning_channels == 0:
        return None
    if _CHANNELS in table:
        return jnp.asarray(table[_CHANNELS], jnp.float32)
    return _encode_all(pipeline.vae, table[_IMAGE])


def _check_images(images: Any, wanted: tuple[int, ...]) -> None:
    label = f"prompts[{_IMAGE!r}]"
    if images.shape != wanted:
        remedy = "Put channels last, one image a row."
        if images.ndim == 4 and images.shape[3] == wanted[3]:
            remedy = "Resize them, or draw at theirs: `height`, `width` of `sampling`."
        raise ValueError(
            f"`{label}` must hold images of the size that is drawn, (rows, height, "
            f"width, colors) = {wanted}; got {images.shape}. {remedy}"
        )
    # Row by row, so that a large table is not copied.
    for i, image in enumerate(images):
        check_pictures(f"{label}[{i}]", image)


def _encode_all(vae: AutoencoderKL, images: np.ndarray) -> Array:
    """A few images after the other, gathered on the host."""
    count, most = len(images), _PIXELS // (images.shape[1] * images.shape[2])
    # One program for long tables, a few for short ones.
    size = min(max(1, min(_MOST, most)), 1 << (count - 1).bit_length())
    parts = []
    for start in range(0, count, size):
        # The last are filled up with the first.
        rows = np.arange(start, start + size) % count
        part = _encode(vae, jnp.asarray(images[rows], jnp.float32))
        parts.append(part if is_traced(part) else to_host(part))
    if any(map(is_traced, parts)):
        return jnp.concatenate(parts)[:count]
    return jnp.asarray(np.concatenate(parts)[:count])


@compiled()
def _encode(vae: AutoencoderKL, images: Images) -> Latents:
    return vae.posterior(images)[0]
