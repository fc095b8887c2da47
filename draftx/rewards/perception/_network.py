"""What a network is given of images, and whether what it gives back is of any use."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._custom_types import Images
from ...judges import CLIPVisionModel, Dinov2Model
from ...judges.classifiers import EfficientNetLite, ResNet
from ...kernels import at_least_float32
from .._preprocess import check_images, CLIP_MEAN, CLIP_STD
from ..contract import RewardError
from ._imagenet import DINOV2, EFFICIENTNET_LITE, IMAGENET, ResizeAndCrop


# Images in [0, 1] to what a network takes.
Preprocess: TypeAlias = Callable[[Images], Float[Array, "batch _ _ 3"]] | None


def _for_clip(tower: CLIPVisionModel) -> ResizeAndCrop:
    size = tower.config.image_size
    return ResizeAndCrop(
        resize=size, crop=size, mean=CLIP_MEAN, std=CLIP_STD, method="cubic"
    )


# What `"auto"` is, for networks that cannot do without.
_TRAINED_WITH: dict[type, Callable[[Any], ResizeAndCrop]] = {
    ResNet: lambda network: IMAGENET,
    EfficientNetLite: lambda network: EFFICIENTNET_LITE,
    Dinov2Model: lambda network: DINOV2,
    CLIPVisionModel: _for_clip,
}


def default_preprocess(
    network: Any, preprocess: Preprocess | Literal["auto"]
) -> Preprocess:
    """Decides what `"auto"` means for a network, or for a method of one."""
    if preprocess != "auto":
        return preprocess
    network = getattr(network, "__self__", network)
    # Of a CLIP, the tower that is given images.
    network = getattr(network, "vision_model", network)
    trained_with = _TRAINED_WITH.get(type(network))
    return None if trained_with is None else trained_with(network)


def preprocessed(preprocess: Preprocess, images: Images) -> Float[Array, "batch _ _ 3"]:
    """Prepares what a network is given of images, in at least float32."""
    if preprocess is not None:
        return preprocess(images)
    check_images(images)
    return images.astype(at_least_float32(images.dtype))


def what_it_sees(
    network: Callable[..., Any], preprocess: Preprocess, images: Images
) -> Any:
    """Asks a network of images, and says which one it was if it fails.

    Raises a `RewardError` for whatever the network raises.

    **Arguments:**

    - `network`, `preprocess`: A user's.
    - `images`: In $[0, 1]$.
    """
    pixels = preprocessed(preprocess, images)
    try:
        return network(pixels)
    # Of another program, or of the device: no matter of what the network is.
    except (jax.errors.UnexpectedTracerError, jax.errors.JaxRuntimeError):
        raise
    except Exception as e:
        why = (str(e).strip().splitlines() or [""])[0]
        raise RewardError(
            "`network` must be a function of preprocessed images that JAX can trace; "
            f"given images of shape {pixels.shape} it raised {type(e).__name__}: {why} "
            "Write it with `jax.numpy`, and give a `preprocess` that makes of images "
            "in [0, 1] what it takes."
        ) from e


def is_of(images: Images, given: Any, *, axes: int) -> bool:
    """Whether what a network gave is floats with a row for each image.

    **Arguments:**

    - `images`: What it was asked of.
    - `given`: Anything.
    - `axes`: How many there are at least, the batch among them.
    """
    if not isinstance(given, jax.Array | np.ndarray):
        return False
    is_float = jnp.issubdtype(given.dtype, jnp.floating)
    shape = given.shape
    has_rows = len(shape) >= axes and shape[0] == len(images)
    return is_float and has_rows and 0 not in shape[1:]


def in_words(given: Any) -> str:
    """Says what a network gave: shapes and dtypes, or what it is instead.

    **Arguments:**

    - `given`: Anything.
    """
    if isinstance(given, list | tuple):
        return f"[{', '.join(map(in_words, given))}]"
    if isinstance(given, jax.Array | np.ndarray):
        return f"{given.shape} {given.dtype}"
    return "None" if given is None else f"a {type(given).__name__}"
