"""What a camera and a file do to a picture: blur, fewer pixels, noise, compression."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import check_whole, not_negative
from ..._custom_types import Images, RealLike, WholeLike
from ..._keys import check_key
from ...kernels import at_least_float32
from .._preprocess import check_images
from ..jpeg import jpeg_roundtrip


class Degradation(eqx.Module):
    r"""Makes small pictures of images: blurred, down-sampled, noisy and compressed.

    $$y = \mathrm{JPEG}_q\bigl((k_\sigma * x)\downarrow_s + \eta\,\epsilon\bigr)$$

    in this order, the usual one. Differentiable: JPEG's rounding has the slope of a
    cubic (`jpeg_roundtrip(rounding="hard_cubic")`). Images are first repeated at
    their borders, and down-sampling is the mean of each square of pixels.

    What lies outside of $[0, 1]$, by noise or in an image that overshoots, is cut by
    JPEG alone, and has no gradient there; without it, it stays, and is pulled back.

    It makes the pictures that a super-resolution model is trained on, and it is what
    [`draftx.rewards.ReferenceSimilarity`][] can put an output through, to compare it
    with the picture that it was made of.

    ??? cite

        The order is that of the first of two rounds of [Real-ESRGAN](
        https://arxiv.org/abs/2107.10833), section 3.1.
    """

    factor: int = eqx.field(static=True)
    blur: float = eqx.field(static=True)
    noise: float = eqx.field(static=True)
    quality: int | None = eqx.field(static=True)

    def __init__(
        self,
        factor: WholeLike,
        *,
        blur: RealLike = 0.0,
        noise: RealLike = 0.0,
        quality: WholeLike | None = None,
    ):
        """**Arguments:**

        - `factor`: $s$, pixels of a side that become one; 1 keeps all.
        - `blur`: $\\sigma$, the deviation of the Gaussian in pixels; 0 is none.
        - `noise`: $\\eta$, its deviation; pixels are in $[0, 1]$. 0 is none.
        - `quality`: JPEG's, from 1 to 100; `None` is no compression.
        """
        self.factor = check_whole("factor", factor)
        self.blur = float(not_negative("blur", blur))
        self.noise = float(not_negative("noise", noise))
        self.quality = None if quality is None else check_whole("quality", quality)
        if self.quality is not None and self.quality > 100:
            raise ValueError(f"`quality` must be from 1 to 100; got {quality}.")

    def __call__(
        self, images: Images, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch small_height small_width 3"]:
        """Makes the small picture of each image, float32.

        In $[0, 1]$ with `quality`, and without where images are and there is no noise.

        **Arguments:**

        - `images`: Channels last, in $[0, 1]$, whose sides `factor` divides.
        - `key`: Draws the noise; there is none with `None`.
        """
        images = jnp.asarray(images)
        check_images(images)
        key = None if key is None else check_key(key)
        height, width = images.shape[1:3]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"`images` must have sides that `factor` divides, {self.factor}; got "
                f"{height}x{width}."
            )
        x = _blurred(images.astype(at_least_float32(images.dtype)), self.blur)
        s = self.factor
        x = x.reshape(len(x), height // s, s, width // s, s, 3).mean(axis=(2, 4))
        if key is not None and self.noise > 0:
            x = x + self.noise * jr.normal(key, x.shape, x.dtype)
        if self.quality is not None:
            x = jpeg_roundtrip(x, self.quality, rounding="hard_cubic")
        return x


def _blurred(
    images: Float[Array, "batch height width 3"], sigma: float
) -> Float[Array, "batch height width 3"]:
    """A Gaussian up to four deviations, down the columns and then along the rows."""
    if sigma == 0:
        return images
    reach = max(1, math.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).tolist()
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (reach, reach)
        padded = jnp.pad(images, widths, mode="edge")
        size = images.shape[axis]
        shifted = (
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, weight in enumerate(kernel)
        )
        images = sum(shifted, jnp.zeros_like(images))
    return images
