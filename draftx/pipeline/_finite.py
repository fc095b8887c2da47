"""Whether what was drawn is made of numbers."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from .._custom_types import Images, Latents
from ._pipeline import Pipeline


def finite_rows(latents: Latents, images: Images) -> Bool[Array, "2 batch"]:
    """Finds the rows whose latents are finite, and those whose images are.

    **Arguments:**

    - `latents`, `images`: Clean ones, and what they were decoded to.
    """
    of = lambda x: jnp.all(jnp.isfinite(x), axis=(1, 2, 3))
    return jnp.stack([of(latents), of(images)])


def not_finite(pipeline: Pipeline, finite: Bool[Array, "2 batch"]) -> str | None:
    """Says what is wrong with images that are not finite; `None` if all are.

    It waits for them, and says nothing while they are only being traced.

    **Arguments:**

    - `pipeline`: That drew them.
    - `finite`: From `finite_rows`.
    """
    # Waiting costs what would have been done meanwhile, here the tokens and the noise
    # of a next call: milliseconds. A check by the device itself would wait for nothing,
    # but report at some later call, or in the middle of a training.
    if isinstance(finite, Tracer):
        return None
    latents, images = np.asarray(finite)
    if np.all(latents & images):
        return None
    rows = np.flatnonzero(~(latents & images)).tolist()
    in_chain = np.flatnonzero(~latents).tolist()
    where = "their latents are finite, so that it happened in the autoencoder"
    if in_chain:
        where = f"rows {in_chain} were not before they were decoded"
    unet, vae = pipeline.unet.dtype, pipeline.vae.dtype
    if jnp.float16 in (unet, vae):
        remedy = (
            "float16 ends at 65504: load the model with `dtype=jnp.bfloat16` or "
            "`jnp.float32`"
        )
        if not in_chain and not pipeline.vae.config.force_upcast:
            remedy += (
                ', or say `"force_upcast": true` in the config of the autoencoder, '
                "which then decodes in float32"
            )
    else:
        remedy = (
            "Look for weights, an adapter, latents or a `guidance_scale` that are not "
            "finite or very large"
        )
    return (
        f"`pipeline` must draw finite images; rows {rows} of {len(images)} are not "
        f"({where}; the UNet is {unet}, the autoencoder {vae}). {remedy}."
    )


def check_drawn(pipeline: Pipeline, latents: Latents, images: Images) -> None:
    """Raises a `ValueError` unless all images that were drawn are finite.

    **Arguments:**

    - `pipeline`: That drew them.
    - `latents`, `images`: Clean ones, and what they were decoded to.
    """
    wrong = not_finite(pipeline, finite_rows(latents, images))
    if wrong is not None:
        raise ValueError(wrong)
