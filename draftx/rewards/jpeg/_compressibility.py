"""Images that JPEG leaves alone, or spoils: the paper's first two rewards."""

from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import check_whole, finite
from ..._custom_types import Images, Real, RealLike, WholeLike
from .._numerics import safe_sqrt
from .._preprocess import check_images
from ..contract import AbstractReward
from ._codec import check_codec_arguments, jpeg_roundtrip
from ._tables import quantization_tables, Rounding, Subsampling


Norm: TypeAlias = Literal["squared_l2", "l2", "l1", "mse"]


class JPEGCompressibility(AbstractReward):
    r"""Scores images by minus their distance to what JPEG makes of them.

    $$r(x) = -\lVert x - \mathrm{decode}(\mathrm{encode}(x)) \rVert^2$$

    summed over pixels and channels, so an image of twice the area weighs twice.

    The paper says "Euclidean distance" and "a fixed compression ratio"; whether the
    distance was squared, and which ratio, is lost. `norm`, and `quality` or `factor`,
    are the readings.

    !!! info

        The defaults are those whose ascent shrinks real files. A hundred steps on the
        pixels of 64x64 images, of equal length, took files saved at quality 95 down
        by 44% (of which `quality=25` reached 36%, 50 26%, 80 13%); `"hard"` rounding
        came out one to three points behind at each. At high quality most coefficients
        round to a nonzero multiple of a small step, and are pulled to it rather than
        to zero: that lowers the distance and not the file. `"4:4:4"` shows this most,
        at 4% for `quality=80`.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), section 5.3 and appendix B.3.
    """

    quality: int = eqx.field(static=True)
    subsampling: Subsampling = eqx.field(static=True)
    rounding: Rounding = eqx.field(static=True)
    norm: Norm = eqx.field(static=True)
    factor: Real | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        quality: WholeLike = 10,
        subsampling: Subsampling = "4:2:0",
        rounding: Rounding = "cubic",
        norm: Norm = "squared_l2",
        factor: RealLike | None = None,
    ):
        """**Arguments:**

        - `quality`: 1 to 100. Lower is a coarser codec and a stronger pull towards
            simple images.
        - `subsampling`: `"4:2:0"` also penalizes fine detail in color alone.
        - `rounding`: With `"hard"` the gradient is $-2 (x - \\hat{x})$, a pull to the
            nearest image that JPEG can hold; with `"cubic"` the codec answers too, and
            with `"hard_cubic"` it does at the values of a file. See
            [`draftx.rewards.jpeg_roundtrip`][].
        - `norm`: `"squared_l2"`, `"l2"`, the Euclidean norm itself, whose gradient is
            no smaller for images nearly there, `"l1"`, or `"mse"`, the square averaged
            over pixels and channels, which is the same at every size.
        - `factor`: Multiplies the steps of quality 50, unrounded, and takes the place
            of `quality`: 1 is the standard's own tables, 2 twice as coarse.
        """
        check_codec_arguments(quality, subsampling, rounding)
        factor = None if factor is None else finite("factor", factor)
        if factor is not None and not factor > 0:
            raise ValueError(
                f"`factor` must be positive; got {factor}. 1 is quality 50."
            )
        if norm not in get_args(Norm):
            raise ValueError(
                f"`norm` must be one of {get_args(Norm)}; got {norm!r}. Use "
                "'squared_l2' if in doubt."
            )
        self.quality = check_whole("quality", quality)
        self.subsampling = subsampling
        self.rounding = rounding
        self.norm = norm
        self.factor = factor

    @jax.named_scope("draftx.rewards.JPEGCompressibility")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        check_images(images)
        tables = None
        if self.factor is not None:
            tables = self.factor * quantization_tables(50).astype(jnp.float32)
        decoded = jpeg_roundtrip(
            images,
            self.quality,
            self.subsampling,
            rounding=self.rounding,
            tables=tables,
        )
        error = images.astype(decoded.dtype) - decoded
        if self.norm == "l1":
            # Not `jnp.abs`, whose slope at zero is one: it would move settled pixels.
            distance = jnp.sum(error * jnp.sign(error), axis=(1, 2, 3))
        else:
            reduce = jnp.mean if self.norm == "mse" else jnp.sum
            distance = reduce(error**2, axis=(1, 2, 3))
            if self.norm == "l2":
                distance = safe_sqrt(distance)
        return -distance.astype(jnp.float32)


class JPEGIncompressibility(AbstractReward):
    """Scores images by their distance to what JPEG makes of them.

    The negative of [`draftx.rewards.JPEGCompressibility`][], with the same defaults.
    """

    compressibility: JPEGCompressibility

    def __init__(
        self,
        *,
        quality: WholeLike = 10,
        subsampling: Subsampling = "4:2:0",
        rounding: Rounding = "cubic",
        norm: Norm = "squared_l2",
        factor: RealLike | None = None,
    ):
        """**Arguments:**

        - `quality`, `subsampling`, `rounding`, `norm`, `factor`: As for
            [`draftx.rewards.JPEGCompressibility`][].
        """
        self.compressibility = JPEGCompressibility(
            quality=quality,
            subsampling=subsampling,
            rounding=rounding,
            norm=norm,
            factor=factor,
        )

    @jax.named_scope("draftx.rewards.JPEGIncompressibility")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        return -self.compressibility(images)
