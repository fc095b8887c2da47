"""Images unlike themselves turned around."""

from collections.abc import Sequence
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite, plain
from .._custom_types import Images, RealLike, WholeLike
from ..kernels import at_least_float32
from ._numerics import safe_sqrt
from ._preprocess import check_images
from .contract import AbstractReward


Form: TypeAlias = Literal["distance", "l2", "l1", "correlation", "cosine"]
Reduction: TypeAlias = Literal["mean", "min"]

_ANGLES = (90, 180, 270)


class RotationAntiCorrelation(AbstractReward):
    r"""Scores how unlike its own rotations $R_k x$ each image is, on average over them.

    `form="distance"` is the mean squared difference over pixels and channels,

    $$r(x) = \mathrm{mean}_k\, \mathrm{mean}\, (x - R_k x)^2 \in [0, 1],$$

    and `form="correlation"` is minus the Pearson correlation,

    $$r(x) = -\mathrm{mean}_k\,
      \frac{\langle \bar{x}, R_k \bar{x} \rangle}
           {\langle \bar{x}, \bar{x} \rangle + \varepsilon n} \in [-1, 1],$$

    where $\bar{x}$ is $x$ minus the mean of each channel: an image's average color
    survives every rotation, and would count as resemblance otherwise.

    `"l2"` is the root of the distance (over pixels and channels, averaged), `"l1"` the
    mean of the absolute difference, both in $[0, 1]$, and `"cosine"` is the correlation
    without the means taken off, in $[-1, 0]$.

    Distances grow with contrast, so ascending them leads to black and white; the
    correlation is the same at every contrast, and the cosine falls with brightness.

    The paper's formula is lost but for "dissimilar to their rotations"; its images
    became black and white, which speaks for a distance. `angles`, `form` and
    `reduction` are the readings.

    !!! info

        All have gradient zero at an image equal to its rotations, such as a flat one.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.9.
    """

    angles: tuple[int, ...] = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    reduction: Reduction = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        angles: Sequence[WholeLike] = _ANGLES,
        form: Form = "distance",
        reduction: Reduction = "mean",
        epsilon: RealLike = 1e-5,
    ):
        """**Arguments:**

        - `angles`: In degrees, a non-empty subset of `(90, 180, 270)`. 90 and 270 give
            equal scores, so all three together count quarter turns twice.
        - `form`: `"distance"`, `"l2"`, `"l1"`, `"correlation"` or `"cosine"`.
        - `reduction`: `"mean"` over the angles, or the least, `"min"`: no rotation may
            resemble the image.
        - `epsilon`: $\\varepsilon$, added to the variance of an image in
            `"correlation"`, and to its mean square in `"cosine"`, so that flat and
            black images have a gradient.
        """
        angles = tuple(plain(angle) for angle in angles)
        is_subset = set(angles) <= set(_ANGLES) and len(set(angles)) == len(angles)
        if not angles or not is_subset:
            raise ValueError(
                f"`angles` must be a non-empty subset of {_ANGLES}; got {angles}. "
                "Other angles would need interpolation."
            )
        if form not in get_args(Form):
            raise ValueError(
                f"`form` must be one of {get_args(Form)}; got {form!r}. Use "
                "'correlation' for a score that ignores contrast."
            )
        if reduction not in get_args(Reduction):
            raise ValueError(
                f"`reduction` must be one of {get_args(Reduction)}; got {reduction!r}."
            )
        epsilon = finite("epsilon", epsilon)
        if epsilon <= 0:
            raise ValueError(
                f"`epsilon` must be positive; got {epsilon}. A flat image has variance "
                "zero, which it keeps from being divided by."
            )
        self.angles = angles
        self.form = form
        self.reduction = reduction
        self.epsilon = epsilon

    @jax.named_scope("draftx.rewards.RotationAntiCorrelation")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        check_images(images)
        _, height, width, _ = images.shape
        if height != width and self.angles != (180,):
            raise ValueError(
                "`images` must be square to be rotated by 90 or 270 degrees; got "
                f"{height}x{width}. Crop them, or use `angles=(180,)`."
            )
        x = images.astype(at_least_float32(images.dtype))
        if self.form == "correlation":
            x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
        scores = jnp.stack([self._score(x, angle) for angle in self.angles])
        reduce = jnp.mean if self.reduction == "mean" else jnp.min
        return reduce(scores, axis=0).astype(jnp.float32)

    def _score(self, x: Images, angle: int) -> Float[Array, " batch"]:
        rotated = jnp.rot90(x, angle // 90, axes=(1, 2))
        mean = lambda values: jnp.mean(values, axis=(1, 2, 3))
        if self.form in ("distance", "l2"):
            distance = mean((x - rotated) ** 2)
            return distance if self.form == "distance" else safe_sqrt(distance)
        if self.form == "l1":
            # Not `jnp.abs`, whose slope at zero is one.
            return mean((x - rotated) * jnp.sign(x - rotated))
        # Rotation keeps the square, so the two norms are one mean square.
        return -mean(x * rotated) / (mean(x**2) + self.epsilon)
