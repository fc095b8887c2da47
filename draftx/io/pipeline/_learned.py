import os
import pathlib

import equinox as eqx
import jax
import numpy as np

from ...pipeline import LearnedInputs, Pipeline
from ..formats import ModelFileError, TensorFile, write_tensors


_NAMES = ("guidance_scales", "negative_weight", "negative_bias")


def save_learned_inputs(pipeline: Pipeline, path: str | os.PathLike) -> None:
    """Writes the learned inputs of the sampler alone, by the names of their fields.

    **Arguments:**

    - `pipeline`: With learned inputs (`draftx.add_learned_inputs`).
    - `path`: A name ending in `.safetensors`. A file there already is replaced.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors; got {str(path)!r}.")
    if pipeline.learned is None:
        raise ValueError(
            "`pipeline` must have learned inputs; it has none. Add some with "
            "`draftx.add_learned_inputs`."
        )
    arrays = {name: getattr(pipeline.learned, name) for name in _NAMES}
    write_tensors(
        path,
        {n: np.asarray(x, np.float32) for n, x in arrays.items() if x is not None},
    )


def load_learned_inputs(pipeline: Pipeline, path: str | os.PathLike) -> Pipeline:
    """Puts the learned inputs of a file on a pipeline, in place of those it has.

    **Arguments:**

    - `pipeline`: The model that they were trained with.
    - `path`: As written by [`draftx.save_learned_inputs`][].
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ModelFileError(f"`path` must be a file; {str(path)!r} does not exist.")
    file = TensorFile(path)
    n = pipeline.unet.config.cross_attention_dim
    shapes = file.shapes
    whole = set(shapes) in ({_NAMES[0]}, set(_NAMES[1:]), set(_NAMES))
    length = len(shapes.get("guidance_scales", (1,))) == 1
    square = shapes.get("negative_weight", (n, n)) == (n, n)
    bias = shapes.get("negative_bias", (n,)) == (n,)
    if not (whole and length and square and bias and 0 not in sum(shapes.values(), ())):
        raise ModelFileError(
            f"{str(path)!r} must hold the learned inputs of a model with {n} text "
            f"features: guidance_scales (steps,), negative_weight ({n}, {n}) and "
            f"negative_bias ({n},), or the first or the others alone; it holds "
            f"{shapes}."
        )
    file.check_dtypes(list(shapes))
    read = lambda name: jax.device_put(file.read(name, np.float32))
    scales, weight, bias = (read(n) if n in shapes else None for n in _NAMES)
    learned = LearnedInputs(scales, weight, bias)
    return eqx.tree_at(
        lambda p: p.learned, pipeline, learned, is_leaf=lambda node: node is None
    )
