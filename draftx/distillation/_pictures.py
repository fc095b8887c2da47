"""Visual prompts as an interface: as users have them, and as a score takes them."""

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_pictures
from .._compilation import compiled
from .._custom_types import Images, Latents
from ..diffusion import AbstractDenoiser, DDIMSteps
from ..pipeline import Conditioning, Pipeline


class AbstractPictures(eqx.Module):
    """Conditions a score on pictures, ready for the images of a step."""

    @abc.abstractmethod
    def denoiser(
        self,
        pipeline: Pipeline,
        conditioning: Conditioning,
        guidance_scale: Float[Array, ""] | None,
        steps: DDIMSteps,
        key: PRNGKeyArray,
    ) -> AbstractDenoiser:
        """Makes the model ready with pictures and texts.

        **Arguments:**

        - `pipeline`: The model.
        - `conditioning`: Of the images.
        - `guidance_scale`: `None` where guidance is off.
        - `steps`: At whose times it is asked.
        - `key`: Draws whatever is random.
        """

    @abc.abstractmethod
    def num_evaluations(self, batch: int, is_guided: bool) -> int:
        """Counts the images that one call of the denoiser takes through the UNet.

        **Arguments:**

        - `batch`: How many images are asked about.
        - `is_guided`: Whether guidance is on.
        """


class AbstractVisualPrompt(eqx.Module):
    """Says which pictures a score is conditioned on besides the text, and how."""

    @abc.abstractmethod
    def bind(
        self, pipeline: Pipeline, image_shape: tuple[int, ...]
    ) -> AbstractPictures:
        """Makes the pictures ready for images, or raises a `ValueError`.

        **Arguments:**

        - `pipeline`: The model.
        - `image_shape`: Of the images of a step.
        """


def read_pictures(values: Any) -> Float[np.ndarray, "pictures height width 3"]:
    """Makes float32 of one picture or of several, or raises a `ValueError`.

    **Arguments:**

    - `values`: The argument `pictures`.
    """
    array = np.asarray(values)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[0] == 0 or array.shape[-1] != 3:
        raise ValueError(
            "`pictures` must have shape (height, width, 3) or (pictures, height, "
            f"width, 3), channels last; got {array.shape}."
        )
    return check_pictures("pictures", array)


@compiled()
def encode(pipeline: Pipeline, pictures: Images) -> Latents:
    """Makes clean latents of pictures.

    **Arguments:**

    - `pipeline`: Whose autoencoder does.
    - `pictures`: In $[0, 1]$.
    """
    return pipeline.vae.encode(pictures)


def check_count(count: int, batch: int) -> None:
    """Raises unless as many images of a step belong to each picture.

    **Arguments:**

    - `count`: Of the pictures.
    - `batch`: How many images there are in a step.
    """
    if batch % count:
        raise ValueError(
            "`pictures` must be one, or divide the images of a step, "
            f"{batch}; got {count}."
        )
