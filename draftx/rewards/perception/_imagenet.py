"""What classifiers of ImageNet expect: their 1000 classes, and how images are cut."""

import difflib
import functools as ft
import pathlib
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..._checks import check_whole, is_whole
from ..._custom_types import Images, WholeLike
from ...kernels import at_least_float32
from .._preprocess import center_crop, check_images, normalize


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ResizeAndCrop(eqx.Module):
    """Resizes the shortest edge, cuts out the middle square and normalizes it.

    Differentiable; bilinear or bicubic, with antialiasing where it shrinks, as
    torchvision and Pillow do it.
    """

    resize: int = eqx.field(static=True)
    crop: int = eqx.field(static=True)
    mean: tuple[float, float, float] = eqx.field(static=True)
    std: tuple[float, float, float] = eqx.field(static=True)
    method: Literal["linear", "cubic"] = eqx.field(static=True)

    def __init__(
        self,
        *,
        resize: WholeLike = 256,
        crop: WholeLike = 224,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        method: Literal["linear", "cubic"] = "linear",
    ):
        """**Arguments:**

        - `resize`: Of the shortest edge; the longer one is rounded down.
        - `crop`: Edge of the middle square, at most `resize`.
        - `mean`, `std`: Of each channel, for images in $[0, 1]$.
        - `method`: Of resizing.
        """
        if method not in ("linear", "cubic"):
            raise ValueError(f"`method` must be 'linear' or 'cubic'; got {method!r}.")
        resize, crop = check_whole("resize", resize), check_whole("crop", crop, least=0)
        if not 1 <= crop <= resize:
            raise ValueError(
                "`crop` must be positive and at most `resize`; got "
                f"crop={crop}, resize={resize}."
            )
        self.resize = resize
        self.crop = crop
        self.mean = mean
        self.std = std
        self.method = method

    def __call__(self, images: Images) -> Float[Array, "batch size size 3"]:
        """Prepares images for a network.

        **Arguments:**

        - `images`: In $[0, 1]$.

        **Returns:**

        What the network sees, in at least float32.
        """
        check_images(images)
        images = images.astype(at_least_float32(images.dtype))
        batch, height, width, channels = images.shape
        shortest = min(height, width)
        scaled = (self.resize * height // shortest, self.resize * width // shortest)
        if scaled != (height, width):
            shape = (batch, *scaled, channels)
            images = jax.image.resize(images, shape, self.method, antialias=True)
        return normalize(center_crop(images, self.crop), self.mean, self.std)


# torchvision's and timm's evaluation of ResNets.
IMAGENET = ResizeAndCrop()
# transformers' of DINOv2.
DINOV2 = ResizeAndCrop(method="cubic")
# TensorFlow's, of the Lite models: bytes minus 127, over 128.
EFFICIENTNET_LITE = ResizeAndCrop(
    mean=(127 / 255, 127 / 255, 127 / 255), std=(128 / 255, 128 / 255, 128 / 255)
)


@ft.cache
def imagenet_classes() -> tuple[str, ...]:
    """Gives the names of the 1000 classes, as torchvision has them (BSD-3-Clause)."""
    text = pathlib.Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def class_index(target: int | str, class_names: Sequence[str] | None) -> int:
    """Finds the index of a class given by index or by name.

    **Arguments:**

    - `target`: Upper and lower case, underscores and spaces are the same.
    - `class_names`: Of the classifier; `None` if they are not known.
    """
    if not isinstance(target, str):
        is_index = is_whole(target, least=0)
        if not is_index or (class_names is not None and target >= len(class_names)):
            most = "" if class_names is None else f" below {len(class_names)}"
            raise ValueError(
                f"`target` must be a name or an index{most}, from 0 on; got {target!r}."
            )
        return target
    if class_names is None:
        raise ValueError(
            f"`target` must be an index where `class_names` is None; got {target!r}."
        )
    plain = lambda name: name.casefold().replace("_", " ").strip()
    names = [plain(name) for name in class_names]
    found = [i for i, name in enumerate(names) if name == plain(target)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"`target` must name one class; {target!r} is the name of {found}. Give "
            "one of these indices."
        )
    words = plain(target).split()
    near = [i for i, name in enumerate(names) if set(words) & set(name.split())]
    close = difflib.get_close_matches(plain(target), names, n=5)
    near = list(dict.fromkeys([names.index(name) for name in close] + near))[:8]
    listed = ", ".join(f"{class_names[i]!r} ({i})" for i in near)
    raise ValueError(
        f"`target` must be one of the {len(names)} names in `class_names`, or an "
        f"index; got {target!r}." + (f" Near it are {listed}." if near else "")
    )
