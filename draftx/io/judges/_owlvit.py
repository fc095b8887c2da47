"""OWL-ViT from the folder it was published as."""

import pathlib

import equinox as eqx
import jax.random as jr
import numpy as np

from ...judges import owlvit_config, OwlViTForObjectDetection
from ..formats import ModelFileError, open_weights, read_json
from ..pipeline import fill


_NAME = "OwlViTForObjectDetection"


def read_owlvit(folder: pathlib.Path, dtype: np.dtype) -> OwlViTForObjectDetection:
    """Reads an OWL-ViT as transformers saves it.

    **Arguments:**

    - `folder`: Has `config.json` and the weights of an `OwlViTForObjectDetection`, such
        as `google/owlvit-base-patch32`.
    - `dtype`: To compute in. Logits and boxes are float32 whatever it is.
    """
    path = folder / "config.json"
    config = read_json(path)
    names = config.get("architectures") or [_NAME]
    if names != [_NAME] or config.get("model_type", "owlvit") != "owlvit":
        kind = names if names != [_NAME] else repr(config["model_type"])
        raise ModelFileError(
            f"{str(path)!r} must describe an {_NAME}; it describes {kind}. OWLv2 is "
            "another model; use `google/owlvit-base-patch32`."
        )
    try:
        skeleton = eqx.filter_eval_shape(
            OwlViTForObjectDetection, owlvit_config(config), dtype=dtype, key=jr.key(0)
        )
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise ModelFileError(f"{str(path)!r} describes no {_NAME}: {e}") from e
    return fill(skeleton, open_weights(folder, "model"))
