"""A picture that a score is conditioned on besides the text."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._checks import check_pictures
from .._custom_types import Images


class VisualPrompt(eqx.Module):
    r"""Conditions the score on a picture besides the text: VP3D's visual prompt.

    The picture is given, or drawn before by `draftx.sample`. With reference attention
    it is noised to the time of the rendering, goes through the model beside it, and in
    every self-attention its keys and values are appended to the rendering's own: the
    model draws what is in the picture where it fits. This needs no training.

    !!! info

        VP3D conditions on the picture by a network that was trained to (as an
        IP-Adapter). That consistency with the picture can be rewarded as well is for
        `reward`, as with `draftx.rewards.FeatureSimilarity(network, picture)`.

    ??? cite

        [VP3D](https://arxiv.org/abs/2403.17001); [draftx.diffusion.Reference][] for
        reference attention.
    """

    pictures: Images
    in_negative: bool = eqx.field(static=True)

    def __init__(self, pictures: Any, *, in_negative: bool = False):
        """**Arguments:**

        - `pictures`: Of the size of what is rendered, in $[0, 1]$: one, or several, as
            many images of a step to each, one after the other.
        - `in_negative`: Whether what guidance leads away from sees the picture as well:
            guidance then strengthens the text alone. With `False` it strengthens both.

        Raises a `ValueError` that names the argument for anything else.
        """
        values = np.asarray(pictures)
        if values.ndim == 3:
            values = values[None]
        if values.ndim != 4 or values.shape[0] == 0 or values.shape[-1] != 3:
            raise ValueError(
                "`pictures` must have shape (height, width, 3) or (pictures, height, "
                f"width, 3), channels last; got {values.shape}."
            )
        self.pictures = jnp.asarray(check_pictures("pictures", values))
        self.in_negative = bool(in_negative)

    def __len__(self) -> int:
        """The number of pictures."""
        return self.pictures.shape[0]

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises unless the pictures fit what is rendered.

        **Arguments:**

        - `image_shape`: Of the images of a step.
        """
        if self.pictures.shape[1:] != image_shape[1:]:
            raise ValueError(
                "`pictures` must have the size of what is rendered, "
                f"{image_shape[1]}x{image_shape[2]}; got "
                f"{self.pictures.shape[1]}x{self.pictures.shape[2]}."
            )
        if image_shape[0] % len(self):
            raise ValueError(
                "`pictures` must be one, or divide the images of a step, "
                f"{image_shape[0]}; got {len(self)}."
            )

    def image_rows(self, batch: int) -> Int[Array, " pictures"]:
        """Finds the first image of each picture, whose text is the picture's.

        **Arguments:**

        - `batch`: How many images there are in a step.
        """
        return jnp.arange(0, batch, batch // len(self))
