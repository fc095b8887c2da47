"""Pictures that were not drawn but given, as what a value is fitted to."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import as_rows, check_pictures
from ..._compilation import compiled
from ..._custom_types import Images, Latents
from ...pipeline import Pipeline, take_rows
from .._setup import Question


def check_images(
    images: Any, pipeline: Pipeline, shape: tuple[int, ...]
) -> Float[np.ndarray, "rows height width 3"]:
    """Makes float32 of given images, or a `ValueError` that says what is wrong.

    **Arguments:**

    - `images`: As for `fit_value`.
    - `pipeline`: Whose encoder makes latents of them.
    - `shape`: Of the latents of all rows.
    """
    factor = pipeline.vae.config.downsampling_factor
    wanted = (shape[0], factor * shape[1], factor * shape[2], 3)
    images = as_rows("images", images)
    if images.shape != wanted:
        raise ValueError(
            "`images` must have one image for each row of `prompts`, of the size that "
            f"is drawn: (rows, height, width, 3) = {wanted}; got {images.shape}."
        )
    if shape[0] < 3:
        raise ValueError(
            f"`images` must be at least 3, of which one is held out; got {shape[0]}."
        )
    return check_pictures("images", images)


def encode(
    question: Question, images: Float[np.ndarray, "..."], rows: np.ndarray
) -> tuple[Latents, Float[Array, " batch"]]:
    """Encodes given images, and rewards them.

    **Arguments:**

    - `question`: Who judges, and whose encoder it is.
    - `images`: From `check_images`, some of them.
    - `rows`: That they belong to.
    """
    features = take_rows(question.batch.features, jnp.asarray(rows))
    return _encode(question, jnp.asarray(images), features)


@compiled()
def _encode(
    question: Question, images: Images, features: Any
) -> tuple[Latents, Float[Array, " batch"]]:
    task = question.task
    scores = task.reward(images, features).astype(jnp.float32)
    return task.pipeline.vae.encode(images), scores
