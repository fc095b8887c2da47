"""Files of adapters in the formats that programs of others open."""

import os
import pathlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, get_args, Literal, TypeAlias

import numpy as np

from ..formats import new_folder, write_json, write_tensors
from ._lora_header import Base, kohya_header, own_header


LoRAFormat: TypeAlias = Literal["diffusers", "kohya", "peft"]
# Of one layer as files have them: [rank, inputs, ...] and [outputs, rank, ...].
Factors: TypeAlias = tuple[np.ndarray, np.ndarray]

DIFFUSERS_NAME: Final = "pytorch_lora_weights.safetensors"
PEFT_NAME: Final = "adapter_model.safetensors"
PEFT_CONFIG: Final = "adapter_config.json"
# PEFT has an adapter of one model in a folder: that of the text encoder is inside.
PEFT_TEXT: Final = "text_encoder"


def check_target(
    argument: str, path: str | os.PathLike, format: LoRAFormat
) -> pathlib.Path:
    """Gives the file or the folder to write, or raises a `ValueError`.

    **Arguments:**

    - `argument`: What `path` is called in the error.
    - `path`: As it was given.
    - `format`: Of the file.
    """
    if format not in get_args(LoRAFormat):
        raise ValueError(
            f"`format` must be one of {list(get_args(LoRAFormat))}; got {format!r}."
        )
    path = pathlib.Path(path)
    is_file = path.suffix == ".safetensors"
    if format == "peft":
        if is_file or not _may_be_replaced(path):
            raise ValueError(
                f"`{argument}` must be a folder of the adapter alone, as PEFT has it; "
                f"{str(path)!r} is a file or has other things in it."
            )
        return path
    if is_file:
        if path.is_dir():
            raise ValueError(f"`{argument}` must be a file; {str(path)!r} is a folder.")
        return path
    if format == "kohya":
        raise ValueError(
            f"`{argument}` must end in .safetensors, by whose name programs list it; "
            f"got {str(path)!r}."
        )
    if path.is_file():
        raise ValueError(
            f"`{argument}` must end in .safetensors or be a folder; got the file "
            f"{str(path)!r}."
        )
    return path / DIFFUSERS_NAME


def _may_be_replaced(folder: pathlib.Path) -> bool:
    ours = {PEFT_NAME, PEFT_CONFIG, PEFT_TEXT}
    if not folder.is_dir():
        return not folder.exists()
    inside = [p.name for p in (folder / PEFT_TEXT).glob("*")]
    return ours.issuperset([p.name for p in folder.iterdir()] + inside)


def write_adapter(
    path: pathlib.Path,
    format: LoRAFormat,
    factors: Mapping[str, Factors],
    base: Base,
    metadata: Mapping[str, str],
) -> None:
    r"""Writes an adapter, whole or not at all.

    $\alpha$ is the rank in all formats, so that who asks for it and who does not add
    the same.

    **Arguments:**

    - `path`: From `check_target`.
    - `format`: Of the file.
    - `factors`: By the published name of the layer.
    - `base`: What is known of its base model.
    - `metadata`: For the header.
    """
    ranks = {name: down.shape[0] for name, (down, _) in factors.items()}
    metadata = own_header(list(ranks.values()), metadata)
    if format == "diffusers":
        write_tensors(path, _diffusers(factors), metadata=metadata)
        return
    if format == "kohya":
        arrays = _kohya(factors)
        of_ranks = list(ranks.values())
        # Diffusers has no scale but the commonest for attention where alphas differ;
        # without one, all readers take the rank of each layer.
        if len(set(of_ranks)) == 1:
            alpha = np.asarray(of_ranks[0], np.float32)
            arrays |= {f"{_flat(name)}.alpha": alpha for name in factors}
        header = kohya_header(arrays, of_ranks, base, path.stem, metadata)
        write_tensors(path, arrays, metadata=header)
        return
    with new_folder(path) as folder:
        for model, inside in (("unet.", folder), ("text_encoder.", folder / PEFT_TEXT)):
            of_model = {
                _in_peft(name): pair
                for name, pair in factors.items()
                if name.startswith(model)
            }
            if of_model:
                config = _peft_config(of_model, metadata.get("base_model"))
                write_tensors(inside / PEFT_NAME, _peft(of_model), metadata=metadata)
                write_json(inside / PEFT_CONFIG, config)


def _diffusers(factors: Mapping[str, Factors]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (down, up) in factors.items():
        # Diffusers knows one word for a UNet and another for a text encoder.
        word = "lora" if name.startswith("unet.") else "lora_linear_layer"
        arrays[f"{name}.{word}.down.weight"] = down
        arrays[f"{name}.{word}.up.weight"] = up
    return arrays


def _flat(name: str) -> str:
    model, bare = name.split(".", 1)
    short = {"unet": "unet", "text_encoder": "te"}[model]
    return f"lora_{short}_{bare.replace('.', '_')}"


def _kohya(factors: Mapping[str, Factors]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (down, up) in factors.items():
        arrays[f"{_flat(name)}.lora_down.weight"] = down
        arrays[f"{_flat(name)}.lora_up.weight"] = up
    return arrays


def _in_peft(name: str) -> str:
    # PEFT takes the names of the model as it is in memory, which has no `text_model`
    # since transformers 5.
    return name.split(".", 1)[1].removeprefix("text_model.")


def _peft(factors: Mapping[str, Factors]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (down, up) in factors.items():
        arrays[f"base_model.model.{name}.lora_A.weight"] = down
        arrays[f"base_model.model.{name}.lora_B.weight"] = up
    return arrays


def _peft_config(
    factors: Mapping[str, Factors], base_model: str | None
) -> dict[str, Any]:
    ranks = {name: down.shape[0] for name, (down, _) in factors.items()}
    commonest, _ = Counter(ranks.values()).most_common(1)[0]
    others = {name: rank for name, rank in ranks.items() if rank != commonest}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": commonest,
        "lora_alpha": commonest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
