"""Reading again what was written, before anybody relies on it."""

import pathlib
from collections.abc import Mapping

import numpy as np

from ...models import (
    AutoencoderConfig,
    CLIPTextConfig,
    UNetConfig,
)
from ...pipeline import Pipeline
from ..formats import AbstractTensors, first_five, ModelFileError, TensorFile
from ..original import KINDS
from ._components import FileTensors, make_skeleton, open_component
from ._configs import config_dict
from ._folder import describe_folder, NETWORKS
from ._save import single_file_tensors


def check_saved(pipeline: Pipeline, path: pathlib.Path) -> dict[str, int]:
    """Compares what [`draftx.save`][] wrote with the pipeline, bit by bit.

    **Arguments:**

    - `pipeline`: What was saved.
    - `path`: Of the folder or file.

    **Returns:**

    The files, with their sizes in bytes. What differs is a
    [`draftx.io.ModelFileError`][]; nothing is deleted.
    """
    if path.is_file():
        _check_tensors(TensorFile(path), single_file_tensors(pipeline))
        return {path.name: path.stat().st_size}
    description = describe_folder(path)
    differing = []
    for part, cls in NETWORKS.items():
        file, model = open_component(cls, path / part, None), getattr(pipeline, part)
        _check_tensors(file, FileTensors(model))
        config, name = description.configs[part], description.names[part]
        read = make_skeleton(cls, config, name, file, "stored")
        if config_dict(read) != config_dict(model):
            differing.append(f"the config of {part}")
    if description.sampler != pipeline.sampler:
        differing.append("the noise schedule")
    if description.tokenizer != pipeline.tokenizer:
        differing.append("the tokenizer")
    if differing:
        raise _differs(str(path), differing)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {f.relative_to(path).as_posix(): f.stat().st_size for f in files}


def published_config(pipeline: Pipeline) -> str | None:
    """Finds the `config` with which [`draftx.load`][] reads a pipeline's single file.

    **Arguments:**

    - `pipeline`: That was or will be saved.

    **Returns:**

    The name, or `None` if its configs or tokenizer are none of the published ones.
    """
    tokenizer, vae = pipeline.tokenizer, pipeline.vae.config
    # Those that the UNet sees besides are in the file alone.
    channels = {"in_channels": pipeline.unet.config.in_channels}
    if tokenizer.vocab_size != CLIPTextConfig().vocab_size:
        return None
    for name, kind in KINDS.items():
        # How large an image an autoencoder was trained with changes nothing.
        same_vae = dict(kind.vae, sample_size=vae.sample_size)
        if (
            UNetConfig.from_dict(kind.unet | channels) == pipeline.unet.config
            and AutoencoderConfig.from_dict(same_vae) == vae
            and CLIPTextConfig.from_dict(kind.text_encoder)
            == pipeline.text_encoder.config
            and kind.sampler == pipeline.sampler
            and kind.pad_token == tokenizer.pad_token
        ):
            return name
    return None


def _check_tensors(file: AbstractTensors, arrays: Mapping[str, np.ndarray]) -> None:
    differing = sorted(file.shapes.keys() ^ arrays.keys())
    for key in file.shapes.keys() & arrays.keys():
        written, array = file.read_exactly(key), arrays[key]
        same = written.dtype == array.dtype and written.shape == array.shape
        # Bits, so that zeros of both signs differ.
        if not same or not np.array_equal(_bytes(written), _bytes(array)):
            differing.append(key)
    if differing:
        raise _differs(file.name, sorted(differing))


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _differs(name: str, what: list[str]) -> ModelFileError:
    return ModelFileError(
        f"{name!r} must hold what was written; read again, {first_five(what)} differ. "
        "Nothing was deleted. Write it again, to another disk if it stays so."
    )
