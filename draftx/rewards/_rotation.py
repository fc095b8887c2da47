"""Images unlike themselves turned around."""

from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._custom_types import Images
from ..kernels import at_least_float32
from ._base import AbstractReward


Form: TypeAlias = Literal["distance", "correlation"]

_ANGLES = (90, 180, 270)


class RotationAntiCorrelation(AbstractReward):
    r"""How unlike its own rotations $R_k x$ each image is, averaged over the angles.

    `form="distance"` is the mean squared difference over pixels and channels,

    $$r(x) = \mathrm{mean}_k\, \mathrm{mean}\, (x - R_k x)^2 \in [0, 1],$$

    and `form="correlation"` is minus the Pearson correlation,

    $$r(x) = -\mathrm{mean}_k\,
      \frac{\langle \bar{x}, R_k \bar{x} \rangle}
           {\langle \bar{x}, \bar{x} \rangle + \varepsilon n} \in [-1, 1],$$

    where $\bar{x}$ is $x$ minus the mean of each channel: an image's average color
    survives every rotation, and would count as resemblance otherwise.

    The distance grows with contrast, so ascending it leads to black and white; the
    correlation is the same at every contrast.

    !!! info

        Both have gradient zero at an image equal to its rotations, such as a flat one.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.9.
    """

    angles: tuple[int, ...] = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    def __init__(
        self,
        *,
        angles: tuple[int, ...] = _ANGLES,
        form: Form = "distance",
        epsilon: float = 1e-5,
    ):
        """**Arguments:**

        - `angles`: In degrees, a non-empty subset of `(90, 180, 270)`. 90 and 270 give
            equal scores, so all three together count quarter turns twice.
        - `form`: `"distance"` or `"correlation"`.
        - `epsilon`: $\\varepsilon$, added to the variance of an image in
            `"correlation"`, so that flat images have a gradient.
        """
        angles = tuple(angles)
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
        if epsilon <= 0:
            raise ValueError(
                f"`epsilon` must be positive; got {epsilon}. A flat image has variance "
                "zero, which it keeps from being divided by."
            )
        self.angles = angles
        self.form = form
        self.epsilon = epsilon

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        del prompts
        _, height, width, _ = images.shape
        if height != width and self.angles != (180,):
            raise ValueError(
                "`images` must be square to be rotated by 90 or 270 degrees; got "
                f"{height}x{width}. Crop them, or use `angles=(180,)`."
            )
        x = images.astype(at_least_float32(images.dtype))
        if self.form == "correlation":
            x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
        scores = [self._score(x, angle) for angle in self.angles]
        return jnp.mean(jnp.stack(scores), axis=0).astype(jnp.float32)

    def _score(self, x: Images, angle: int) -> Float[Array, " batch"]:
        rotated = jnp.rot90(x, angle // 90, axes=(1, 2))
        if self.form == "distance":
            return jnp.mean((x - rotated) ** 2, axis=(1, 2, 3))
        covariance = jnp.mean(x * rotated, axis=(1, 2, 3))
        # Rotation keeps the variance, so the two standard deviations are one variance.
        variance = jnp.mean(x**2, axis=(1, 2, 3))
        return -covariance / (variance + self.epsilon)
