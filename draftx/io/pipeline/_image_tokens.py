"""Tokens of pictures as a file of IP-Adapter's, which diffusers reads."""

import os
import pathlib
from typing import Any

import equinox as eqx
import jax.random as jr

from ..._checks import check_is
from ...models import checkpoint_arrays, ImageTokens
from ...pipeline import Pipeline
from ..formats import files_there, ModelFileError, TensorFile, write_tensors
from ._components import fill
from ._dtypes import check_dtype


_PROJECTION = "image_proj.proj.weight"
_NORM = "image_proj.norm.weight"


def save_image_tokens(tokens: ImageTokens, path: str | os.PathLike) -> None:
    """Writes tokens of pictures, by the names of IP-Adapter's own files.

    diffusers reads the file (`load_ip_adapter`) if there are 4 tokens. It has no
    network that embeds pictures.

    **Arguments:**

    - `tokens`: From [`draftx.distillation.fit_image_tokens`][].
    - `path`: A name ending in `.safetensors`. A file there already is replaced.
    """
    check_is("tokens", tokens, ImageTokens, "fit_image_tokens(...).tokens")
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors; got {str(path)!r}.")
    write_tensors(path, checkpoint_arrays(tokens))


def load_image_tokens(
    pipeline: Pipeline, path: str | os.PathLike, *, dtype: Any = None
) -> ImageTokens:
    """Reads tokens of pictures from a file, as `save_image_tokens` writes it.

    Those published as IP-Adapter for Stable Diffusion 1.5 and 2.1, with 4 tokens of one
    embedding, have its form.

    **Arguments:**

    - `pipeline`: The model that they were trained with, or one of its architecture.
    - `path`: Ends in `.safetensors`.
    - `dtype`: Of all weights; `None` is float32, in which they can be trained.

    Raises a [`draftx.io.ModelFileError`][] that names the file and what is wrong in it.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    path = pathlib.Path(path)
    if not path.is_file():
        got = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(
            f"`path` must be a .safetensors file; {str(path)!r} {got}."
            f"{files_there(path)}"
        )
    if path.suffix != ".safetensors":
        raise ModelFileError(
            f"`path` must be a .safetensors file; got {str(path)!r}. Pickles are not "
            "read."
        )
    dtype = check_dtype(dtype)
    file, config = TensorFile(path), pipeline.unet.config
    shape, norm = file.shapes.get(_PROJECTION, ()), file.shapes.get(_NORM, ())
    features = config.cross_attention_dim
    if len(shape) != 2 or not all(shape) or norm != (features,) or shape[0] % features:
        raise ModelFileError(
            f"{str(path)!r} must hold an IP-Adapter of one embedding for a model with "
            f"{features} text features: {_PROJECTION!r} of shape (tokens x {features}, "
            f"embedding) and {_NORM!r} of shape ({features},); it has {shape or 'none'}"
            f" and {norm or 'none'}."
        )
    skeleton = eqx.filter_eval_shape(
        ImageTokens,
        config,
        embedding_features=shape[1],
        num_tokens=shape[0] // features,
        dtype=dtype,
        key=jr.key(0),
    )
    return fill(skeleton, file, described="the UNet of `pipeline`")
