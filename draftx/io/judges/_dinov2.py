"""DINOv2 from the folder it was published as."""

import pathlib

import equinox as eqx
import jax.random as jr
import numpy as np

from ...judges import dinov2_config, Dinov2Model, from_dinov2
from ..formats import Arrays, ModelFileError, open_weights, read_json
from ..pipeline import fill


_NAME = "Dinov2Model"


def read_dinov2(folder: pathlib.Path, dtype: np.dtype) -> Dinov2Model:
    """Reads a DINOv2 as transformers saves it.

    **Arguments:**

    - `folder`: Has `config.json` and the weights of a `Dinov2Model`, such as
        `facebook/dinov2-small`.
    - `dtype`: To compute in.
    """
    path = folder / "config.json"
    config = read_json(path)
    names = config.get("architectures") or [_NAME]
    if names != [_NAME] or config.get("model_type", "dinov2") != "dinov2":
        raise ModelFileError(
            f"{str(path)!r} must describe a {_NAME}; it describes {names}, a "
            f"{config.get('model_type')!r}. Use `facebook/dinov2-small`."
        )
    try:
        skeleton = eqx.filter_eval_shape(
            Dinov2Model, dinov2_config(config), dtype=dtype, key=jr.key(0)
        )
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise ModelFileError(f"{str(path)!r} describes no {_NAME}: {e}") from e
    file = open_weights(folder, "model")
    state = {key: file.read(key, np.dtype(np.float32)) for key in file.shapes}
    try:
        arrays = from_dinov2(state)
    except (KeyError, ValueError, IndexError) as e:
        raise ModelFileError(f"{file.name!r} does not fit a {_NAME}: {e}") from e
    return fill(skeleton, Arrays(arrays, file.name))
