"""Learned words, "textual inversion": the files of diffusers and of the web UI."""

import dataclasses
import os
import pathlib
from typing import NamedTuple

import jax

from ..._checks import check_is
from ...pipeline import Pipeline
from ..formats import (
    Arrays,
    first_five,
    ModelFileError,
    read_torch_contents,
    TensorFile,
)


# In a folder, as diffusers saves and looks for them.
EMBEDDING_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
# The web UI's, in its two formats.
_PARAMETERS, _UNNAMED = "string_to_param.", "emb_params"
# One tensor for each text encoder of a model that has several.
_OTHER_MODELS = {"clip_l", "clip_g", "t5xxl"}


class _Entry(NamedTuple):
    """Which tensor of a file holds the vectors, and the word it names, if any."""

    key: str
    word: str | None


def load_embedding(
    pipeline: Pipeline, path: str | os.PathLike, token: str | None = None
) -> Pipeline:
    """Teaches a pipeline a word that textual inversion learned.

    The word is then a token as any other: `sample` and `finetune` know it in prompts,
    `save` keeps it. A word of several vectors becomes `<cat>`, `<cat>_1`, `<cat>_2`,
    ..., and `<cat>` in a prompt stands for all of them, as in diffusers.

    **Arguments:**

    - `pipeline`: Of the kind that the word was learned with. An adapter is kept.
    - `path`: A file of diffusers, `learned_embeds.safetensors` or `.bin`, or the folder
        it is in; or one of AUTOMATIC1111's web UI, `.pt` or `.safetensors`. Nothing in
        a pickle is run.
    - `token`: What the word is called in prompts; the name in the file if `None`. One
        that is there already is an error.

    **Returns:**

    A pipeline with the tokens and their rows in the embedding.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    if not isinstance(token, str | None):
        raise ValueError(f"`token` must be a string or None; got {token!r}.")
    file, texts = _open(pathlib.Path(path))
    entry = _find(file, texts)
    word = entry.word if token is None else token
    if word is None:
        raise ModelFileError(
            f"{file.name!r} does not say what its word is called. Say it: "
            '`draftx.load_embedding(pipeline, path, token="<cat-toy>")`.'
        )
    text_encoder = pipeline.text_encoder
    features, shape = text_encoder.config.hidden_size, file.shapes[entry.key]
    if len(shape) not in (1, 2) or shape[-1] != features or 0 in shape:
        raise ModelFileError(
            f"{file.name!r} must hold vectors of {features} numbers, which the text "
            f"encoder of this model takes; {entry.key!r} has the shape {shape}. Words "
            "of Stable Diffusion 1.x have 768 numbers, those of 2.x 1024."
        )
    file.check_dtypes([entry.key])
    vectors = file.read(entry.key, text_encoder.token_embedding.dtype)
    vectors = vectors.reshape(-1, features)
    try:
        tokenizer = pipeline.tokenizer.with_word(word, len(vectors))
    except ValueError as e:
        raise ValueError(f"`token` {word!r} cannot be added: {e}") from e
    first = tokenizer.token_id(word)
    assert first is not None
    return dataclasses.replace(
        pipeline,
        tokenizer=tokenizer,
        text_encoder=text_encoder.with_rows(first, jax.device_put(vectors)),
    )


def _open(path: pathlib.Path) -> tuple[TensorFile | Arrays, dict[str, str]]:
    """The tensors of a file, and its strings."""
    if path.is_dir():
        found = [path / name for name in EMBEDDING_FILES if (path / name).is_file()]
        if not found:
            raise ModelFileError(
                "`path` must be a file, or a folder with "
                f"{' or '.join(EMBEDDING_FILES)}; {str(path)!r} has neither."
            )
        path = found[0]
    if not path.is_file():
        raise ModelFileError(
            f"`path` must be a file or a folder; {str(path)!r} does not exist. A word "
            "on the Hugging Face Hub is downloaded first, by `hf download owner/name`."
        )
    if path.suffix == ".safetensors":
        return TensorFile(path), {}
    arrays, texts = read_torch_contents(path)
    return Arrays(arrays, str(path)), texts


def _find(file: TensorFile | Arrays, texts: dict[str, str]) -> _Entry:
    keys = list(file.shapes)
    if _OTHER_MODELS & set(keys):
        raise ModelFileError(
            f"{file.name!r} must be a word of Stable Diffusion 1.x or 2.x, which have "
            "one text encoder; it names its vectors by text encoder, as words of SDXL "
            f"do: {first_five(keys)}."
        )
    parameters = [key for key in keys if key.startswith(_PARAMETERS)]
    if len(parameters) == 1:
        return _Entry(parameters[0], texts.get("name"))
    if len(keys) == 1:
        return _Entry(keys[0], None if keys[0] == _UNNAMED else keys[0])
    raise ModelFileError(
        f"{file.name!r} must hold one learned word: a single tensor, or the web UI's "
        f"`string_to_param` with one; it holds {len(keys)} tensors: {first_five(keys)}."
    )
