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


def read_image_reward(
    path: pathlib.Path, dtype: np.dtype, config: ImageRewardConfig = IMAGE_REWARD
) -> ImageRewardModel:
    """Reads an ImageReward with the names of its authors' code.

    **Arguments:**

    - `path`: `ImageReward.pt`, or a copy of it as safetensors.
    - `dtype`: To compute in, but for the last five layers, which are float32.
    - `config`: What the file does not say. A `med_config.json` beside the file says
        it of the text encoder.
    """
    beside = path.parent / "med_config.json"
    if beside.is_file():
        try:
            text = BertConfig.from_dict(read_json(beside))
        except (TypeError, ValueError, ArithmeticError) as e:
            raise ModelFileError(
                f"{str(beside)!r} describes no text encoder of BLIP: {e}"
            ) from e
        config = dataclasses.replace(config, text=text)
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
    return fill(skeleton, Arrays(from_blip(state), str(path)))


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
