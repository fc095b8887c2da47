"""CLIP and what was trained on top of it, from the files they were published as."""

import pathlib
import re
from typing import Any, TypeVar

import equinox as eqx
import jax.random as jr
import numpy as np

from ...judges import (
    AestheticHead,
    CLIPModel,
    CLIPVisionModelWithProjection,
    from_open_clip,
)
from ...models import CLIPConfig, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from ..formats import (
    AbstractTensors,
    Arrays,
    first_five,
    ModelFileError,
    open_weights,
    read_arrays,
    read_json,
)
from ..pipeline import fill, load_tokenizer
from ._open_clip_config import find_open_clip_config


Tower = TypeVar("Tower", CLIPModel, CLIPVisionModelWithProjection)

VIT_H_14 = CLIPConfig(
    text=CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        hidden_act="gelu",
    ),
    vision=CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        hidden_act="gelu",
    ),
    projection_dim=1024,
)


def read_clip(cls: type[Tower], folder: pathlib.Path, dtype: np.dtype) -> Tower:
    """Reads a CLIP as transformers saves it.

    **Arguments:**

    - `cls`: `CLIPModel`, or the half of it that embeds images.
    - `folder`: Has `config.json` and the weights of a `CLIPModel`.
    - `dtype`: To compute in.
    """
    path = folder / "config.json"
    config = read_json(path)
    names = config.get("architectures") or ["CLIPModel"]
    if names != ["CLIPModel"]:
        raise ModelFileError(
            f"{str(path)!r} must describe a CLIPModel; it describes {names}."
        )
    try:
        skeleton = _skeleton(cls, CLIPConfig.from_dict(config), dtype)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as e:
        raise ModelFileError(f"{str(path)!r} describes no CLIPModel: {e}") from e
    return _fill(skeleton, open_weights(folder, "model"))


def read_open_clip(
    path: pathlib.Path,
    dtype: np.dtype,
    config: CLIPConfig | pathlib.Path | None,
    published: CLIPConfig = VIT_H_14,
) -> CLIPModel:
    """Reads a CLIP as open_clip names and lays out its tensors.

    **Arguments:**

    - `path`: A file of PyTorch or of safetensors.
    - `dtype`: To compute in.
    - `config`: What the file does not say, or a file that says it: open_clip's, or the
        `config.json` of a `CLIPModel`. `None` is `open_clip_config.json` beside `path`.
    - `published`: The config if there is none.
    """
    config, whose = find_open_clip_config(path, config, published)
    try:
        skeleton = _skeleton(CLIPModel, config, dtype)
    except (TypeError, ValueError, ArithmeticError) as e:
        raise ModelFileError(f"{whose} is that of no CLIPModel: {e}") from e
    state = read_arrays(path)
    if "visual.class_embedding" not in state:
        got = f"{len(state)} tensors, such as {first_five(state)}"
        hint = ""
        if any(key.startswith("vision_model.") for key in state):
            hint = " These are the names of transformers, as of PickScore."
        raise ModelFileError(
            f"{str(path)!r} must hold a CLIP with the names of open_clip, such as "
            f"visual.class_embedding; it holds {got}.{hint}"
        )
    file = Arrays(from_open_clip(state), str(path))
    return fill(skeleton, file, described=whose)


def read_aesthetic_head(path: pathlib.Path) -> AestheticHead:
    """Reads the five linear layers of the LAION aesthetic predictor, float32.

    **Arguments:**

    - `path`: A file of PyTorch or of safetensors.
    """
    state = read_arrays(path)
    # Dropout has the other places in the list.
    places = {f"layers.{j}": f"linears.{i}" for i, j in enumerate((0, 2, 4, 6, 7))}
    names = [f"{place}.{part}" for place in places for part in ("weight", "bias")]
    if sorted(names) != sorted(state):
        raise ModelFileError(
            f"{str(path)!r} must hold the aesthetic predictor's 10 tensors, "
            f"{first_five(names)}; it holds {len(state)}: {first_five(state)}."
        )
    arrays = {
        re.sub(r"^layers\.\d", lambda m: places[m.group()], key): array
        for key, array in state.items()
    }
    shapes = [arrays[f"linears.{i}.weight"].shape for i in range(5)]
    if any(len(shape) != 2 for shape in shapes):
        raise ModelFileError(
            f"{str(path)!r} must hold five matrices; their shapes are {shapes}."
        )
    skeleton = eqx.filter_eval_shape(
        AestheticHead,
        shapes[0][1],
        widths=tuple(shape[0] for shape in shapes[:-1]),
        key=jr.key(0),
    )
    return _fill(skeleton, Arrays(arrays, str(path)))


def read_tokenizer(folder: pathlib.Path, vocab_size: int) -> CLIPTokenizer:
    """Reads the tokenizer of a CLIP.

    **Arguments:**

    - `folder`: Has `vocab.json` and `merges.txt`, or `tokenizer.json`.
    - `vocab_size`: Of the model, which it must fit.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != vocab_size:
        raise ModelFileError(
            f"The tokenizer of {str(folder)!r} must have the model's {vocab_size} ids; "
            f"it has {tokenizer.vocab_size}."
        )
    return tokenizer


def _skeleton(cls: Any, config: CLIPConfig, dtype: np.dtype) -> Any:
    return eqx.filter_eval_shape(cls, config, dtype=dtype, key=jr.key(0))


def _fill(skeleton: Any, file: AbstractTensors) -> Any:
    """Makes a model with the arrays of a file in the dtypes of the skeleton."""
    shapes = file.shapes
    if isinstance(skeleton, CLIPVisionModelWithProjection):
        half = ("vision_model.", "visual_projection.")
        shapes = {key: s for key, s in shapes.items() if key.startswith(half)}
    return fill(skeleton, file, shapes)
