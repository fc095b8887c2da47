"""ImageReward from the files it was published as."""

import dataclasses
import pathlib

import equinox as eqx
import jax.random as jr
import numpy as np

from ...judges import (
    BertConfig,
    BertTokenizer,
    from_blip,
    IMAGE_REWARD,
    ImageRewardConfig,
    ImageRewardModel,
)
from ..formats import Arrays, first_five, ModelFileError, read_arrays, read_json
from ..pipeline import fill


_TEXT_CONFIG = "med_config.json"


def read_image_reward(
    path: pathlib.Path,
    dtype: np.dtype,
    config: ImageRewardConfig | pathlib.Path | None = None,
) -> ImageRewardModel:
    """Reads an ImageReward with the names of its authors' code.

    **Arguments:**

    - `path`: `ImageReward.pt`, or a copy of it as safetensors.
    - `dtype`: To compute in, but for the last five layers, which are float32.
    - `config`: What the file does not say, or a `med_config.json`, which says it of the
        text encoder; `None` is the published one's. A `med_config.json` beside `path`
        says it too, unless another is given.
    """
    beside = path.parent / _TEXT_CONFIG
    described = config if isinstance(config, pathlib.Path) else beside
    if isinstance(config, pathlib.Path) or config is None:
        whose = f"the published weights, with {str(described)!r} for its text"
        config = IMAGE_REWARD
    else:
        whose = f"the `config` that was given, with {str(described)!r} for its text"
    if described.is_file():
        config = dataclasses.replace(config, text=_read_text_config(described))
    else:
        whose = whose.partition(", with")[0] + f"; there is no {_TEXT_CONFIG} beside it"
    state = read_arrays(path)
    if not {"blip.visual_encoder.cls_token", "mlp.layers.0.weight"} <= set(state):
        hint = ""
        if any(key.startswith(("visual_encoder.", "text_encoder.")) for key in state):
            hint = " These are the names of BLIP itself, which gives no such score."
        raise ModelFileError(
            f"{str(path)!r} must hold an ImageReward with the names of its authors, "
            "such as blip.visual_encoder.cls_token and mlp.layers.0.weight; it holds "
            f"{len(state)} tensors, such as {first_five(state)}.{hint} Download "
            "ImageReward.pt of `zai-org/ImageReward`."
        )
    skeleton = eqx.filter_eval_shape(
        ImageRewardModel, config, dtype=dtype, key=jr.key(0)
    )
    return fill(skeleton, Arrays(from_blip(state), str(path)), described=whose)


def _read_text_config(path: pathlib.Path) -> BertConfig:
    try:
        return BertConfig.from_dict(read_json(path))
    except (TypeError, ValueError, ArithmeticError) as e:
        raise ModelFileError(
            f"{str(path)!r} describes no text encoder of BLIP: {e}"
        ) from e


def read_bert_tokenizer(path: pathlib.Path) -> BertTokenizer:
    """Reads the tokenizer of an ImageReward.

    **Arguments:**

    - `path`: `vocab.txt` of `google-bert/bert-base-uncased`, or a folder that has it.
    """
    path = path / "vocab.txt" if path.is_dir() else path
    try:
        return BertTokenizer.from_vocab(path)
    except FileNotFoundError as e:
        raise ModelFileError(
            f"{str(path)!r} is missing. Download vocab.txt of "
            "`google-bert/bert-base-uncased`."
        ) from e
    # The library behind it raises bare `Exception`s.
    except Exception as e:
        raise ModelFileError(f"{str(path)!r} holds no BERT vocabulary: {e}") from e
