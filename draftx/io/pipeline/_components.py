"""The three networks of a pipeline as folders: their files, their tensors' names."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from ...layers import in_device_order
from ...lora import iter_lora
from ...models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    named_parameters,
    Parameter,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)
from ..formats import (
    AbstractTensors,
    check_variant,
    first_five,
    ModelFileError,
    open_weights,
    read_json,
    write_json,
    write_tensors,
)
from ._configs import check_sizes, config_dict
from ._dtypes import check_dtype_or_stored, resolved_dtype
from ._families import looks_like


Model = TypeVar("Model", bound=eqx.Module)

_CONFIGS: dict[type, Any] = {
    UNet2DConditionModel: UNetConfig,
    AutoencoderKL: AutoencoderConfig,
    CLIPTextModel: CLIPTextConfig,
}
_BESIDE = "its config.json"
# Names that autoencoders were published with at first.
_OLD_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def weights_stem(cls: type) -> str:
    """The name of the file of weights, without its ending."""
    return "model" if cls is CLIPTextModel else "diffusion_pytorch_model"


def load_component(
    cls: type[Model],
    folder: str | pathlib.Path,
    *,
    dtype: Any = None,
    variant: str | None = None,
) -> Model:
    """Reads one network from its folder.

    **Arguments:**

    - `cls`: `UNet2DConditionModel`, `AutoencoderKL` or `CLIPTextModel`.
    - `folder`: Has `config.json` and the weights, as diffusers or transformers write
        them.
    - `dtype`: To compute in; float32 if `None`, whatever the file has, and that of the
        file if `"stored"`.
    - `variant`: Of the weights, as in [`draftx.load`][].
    """
    folder, dtype = pathlib.Path(folder), check_dtype_or_stored(dtype)
    path = folder / "config.json"
    config = read_json(path)
    check_class(cls, config, str(path))
    file = open_component(cls, folder, check_variant(variant))
    return fill(make_skeleton(cls, config, str(path), file, dtype), file)


def open_component(
    cls: type, folder: pathlib.Path, variant: str | None
) -> AbstractTensors:
    """Opens the weights of one network.

    **Arguments:**

    - `cls`, `folder`, `variant`: As for `load_component`.
    """
    return open_weights(folder, weights_stem(cls), variant)


def make_skeleton(
    cls: type[Model],
    config: Mapping[str, Any],
    name: str,
    file: AbstractTensors,
    dtype: Any,
) -> Model:
    """Makes one network of its config, with shapes and dtypes for arrays.

    **Arguments:**

    - `cls`: As for `load_component`.
    - `config`: The parsed `config.json`, which may have been repaired.
    - `name`: Of the config, for error texts.
    - `file`: Its weights, for whose dtype `dtype` may ask.
    - `dtype`: As for `load_component`, checked.
    """
    dtype = resolved_dtype(dtype, file)
    check_sizes(config, name, file)
    try:
        config = _CONFIGS[cls].from_dict(config)
        return eqx.filter_eval_shape(cls, config, dtype=dtype, key=jr.key(0))
    except (TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as e:
        raise ModelFileError(f"{name!r} describes no {cls.__name__}: {e}") from e


def fill(
    skeleton: Any,
    file: AbstractTensors,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    described: str = _BESIDE,
) -> Any:
    """Fills a model with the arrays of a file, all of them or an error.

    **Arguments:**

    - `skeleton`: The model, its arrays shapes and dtypes only.
    - `file`: Has weights in any dtype.
    - `shapes`: Of the tensors to be read, by name; of all of them if `None`.
    - `described`: Whose the sizes of the skeleton are, for the error text.
    """
    shapes = file.shapes if shapes is None else shapes
    keys = match_keys(skeleton, shapes, file.name, described)
    file.check_dtypes(list(keys.values()))
    # Unlike `jnp.asarray`, this compiles nothing for each new shape.
    filled = replace_parameters(
        skeleton,
        lambda p: jax.device_put(p.from_file(file.read(keys[p.key], p.leaf.dtype))),
    )
    return in_device_order(filled)


def match_keys(
    model: eqx.Module,
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
    described: str = _BESIDE,
) -> dict[str, str]:
    """Finds the tensor of a file for every array of a model.

    **Arguments:**

    - `model`: Its arrays may be shapes only.
    - `shapes`: Of the tensors in the file, by name.
    - `name`: Of the file, for the error text.
    - `described`: Whose the sizes of the model are, for the error text.

    **Returns:**

    The name in the file, by the name that draftx gives the array.
    """
    parameters = {p.key: p for p in named_parameters(model)}
    found: dict[str, str] = {}
    unexpected = []
    for key in shapes:
        if key.endswith("position_ids"):
            continue  # The numbers 0, 1, 2, ..., which old files store.
        ours = _current_key(model, key)
        if ours in parameters and ours not in found:
            found[ours] = key
        else:
            unexpected.append(key)
    missing = [key for key in parameters if key not in found]
    misshaped = [
        f"{key}: {shapes[key]}, not {parameters[ours].file_shape}"
        for ours, key in found.items()
        if not _fits(parameters[ours], shapes[key])
    ]
    problems = [
        f"{len(items)} {kind}: {first_five(items)}"
        for kind, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", misshaped),
        )
        if items
    ]
    if problems:
        raise ModelFileError(
            f"{name!r} does not fit the {type(model).__name__} of {described} "
            f"({len(parameters)} tensors): {'; '.join(problems)}.{looks_like(shapes)}"
        )
    return found


class FileTensors(Mapping[str, np.ndarray]):
    """Makes the tensors of a network's file, each when it is asked for."""

    def __init__(self, model: eqx.Module):
        """**Arguments:**

        - `model`: Without LoRA.
        """
        self._parameters = {p.key: p for p in named_parameters(model)}

    def __getitem__(self, key: str) -> np.ndarray:
        return self._parameters[key].to_file()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def save_component(
    model: eqx.Module, folder: str | pathlib.Path, *, token_ids: Mapping[str, int] = {}
) -> None:
    """Writes one network as a folder that diffusers or transformers open.

    **Arguments:**

    - `model`: Without LoRA.
    - `folder`: Gets `config.json` and the weights, in the dtype that they have.
    - `token_ids`: `bos_token_id` and so on, for the text encoder's config. By default
        the last two ids of the vocabulary, at most CLIP's own 49,408.
    """
    folder = pathlib.Path(folder)
    check_no_lora(model)
    stem = weights_stem(type(model))
    write_tensors(folder / f"{stem}.safetensors", FileTensors(model))
    write_json(folder / "config.json", config_dict(model) | dict(token_ids))


def check_no_lora(model: eqx.Module) -> None:
    """Raises if a model has LoRA, which its own files have no place for."""
    names = [name for name, _ in iter_lora(model)]
    if names:
        raise ValueError(
            f"`{type(model).__name__}` must be saved without LoRA: save the LoRA alone "
            "with `draftx.save_lora`, or put it into the weights with "
            f"`draftx.merge_lora`. {len(names)} of its layers have it, the first being "
            f"{names[0]!r}."
        )


def check_class(cls: type, config: Mapping[str, Any], name: str) -> None:
    """Raises unless a config is of a network.

    **Arguments:**

    - `cls`: Of the network.
    - `config`, `name`: As for `make_skeleton`.
    """
    names = [config.get("_class_name")]
    if cls is CLIPTextModel:
        names = config.get("architectures") or names
        names = names if isinstance(names, list) else [names]
    if names != [None] and cls.__name__ not in names:
        raise ModelFileError(
            f"{name!r} must describe a {cls.__name__}; it describes {names[0]!r}."
        )


def _current_key(model: eqx.Module, key: str) -> str:
    if isinstance(model, CLIPTextModel):
        return key if key.startswith("text_model.") else f"text_model.{key}"
    if isinstance(model, AutoencoderKL):
        old = r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)"
        return re.sub(old, lambda m: _OLD_ATTENTION[m.group()], key)
    return key


def _fits(parameter: Parameter, shape: tuple[int, ...]) -> bool:
    if parameter.layout == "conv":
        return shape == parameter.file_shape
    # A 1x1 convolution and a matrix are the same, and files differ in which they have.
    return (shape[:-2] if len(shape) == 4 and shape[2:] == (1, 1) else shape) == tuple(
        parameter.leaf.shape
    )
