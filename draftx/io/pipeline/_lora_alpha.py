"""What the two factors of a layer are multiplied by, wherever a file says so.

It is alpha over the rank. Readers agree on alpha beside the factors (kohya) and on
PEFT's config, which diffusers stores as `lora_adapter_metadata`; all else is hearsay.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ..formats import first_five, ModelFileError, shown, TensorFile
from ._lora_kinds import refuse_other_configs


# PEFT's `LoraConfig.lora_alpha`, where a config does not say.
_PEFT_ALPHA = 8
_MODELS = ("unet", "text_encoder")
_OF_DIFFUSERS = "lora_adapter_metadata"
# Names of tensors that say which model they are of.
_PREFIXED = re.compile(r"(unet|text_encoder|(model\.)?diffusion_model)\.|lora_")


def peft_metadata(file: TensorFile) -> dict[str, Any] | None:
    """Reads PEFT's config from the header of a file, where diffusers keeps it.

    **Arguments:**

    - `file`: Of an adapter.

    **Returns:**

    `None` where there is none, which is also what diffusers makes of an empty text and
    of `null`.
    """
    text = file.metadata.get(_OF_DIFFUSERS)
    if not text:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ModelFileError(f"The metadata of {file.name!r} is no JSON: {e}.") from e
    if not isinstance(config, dict | None):
        raise ModelFileError(
            f"`{_OF_DIFFUSERS}` of {file.name!r} must be a JSON object, PEFT's config; "
            f"got {text[:80]!r}. {_WITHOUT}"
        )
    return config


# It keeps the tensors, and no header.
_WITHOUT = (
    "Without this metadata layers that have no alpha beside them have scale 1: "
    "`save_file(load_file(path), new_path)` of `safetensors.numpy` drops it."
)


class PeftConfig:
    """Reads alpha from PEFT's config, which diffusers keeps in the header of a file."""

    def __init__(self, file: TensorFile, adapter_config: Mapping[str, Any] | None):
        """**Arguments:**

        - `file`: Of the adapter.
        - `adapter_config`: What is in PEFT's `adapter_config.json`, if there is one.
        """
        self._name = file.name
        config = peft_metadata(file)
        # What says nothing of a model whose layers are there is a mistake.
        self._is_strict = config is not None and adapter_config is None
        # Where tensors name their model, diffusers looks for fields that do, alone.
        is_prefixed = any(map(_PREFIXED.match, file.shapes))
        self._keys = sorted(config or {})
        config = (config or {}) | dict(adapter_config or {})
        # Without a prefix where the file is of one model alone.
        alone = {key: value for key, value in config.items() if "." not in key}
        self._by_model: dict[str, dict[str, Any]] = {}
        for model in _MODELS:
            marked = {
                key.removeprefix(f"{model}."): value
                for key, value in config.items()
                if key.startswith(f"{model}.")
            }
            self._by_model[model] = marked or (
                {} if self._is_strict and is_prefixed else alone
            )

    def alpha(self, layer: str, rank: int) -> float | None:
        """Finds the alpha of a layer, by which the scale is alpha over rank.

        PEFT's rule for both of its tables: the keys are regular expressions of ends of
        names, and the first that matches wins.

        **Arguments:**

        - `layer`: Its published name.
        - `rank`: That its tensors have.

        **Returns:**

        `None` where nothing is said.
        """
        model, name = layer.split(".", 1)
        config = self._by_model.get(model, {})
        if not config:
            self._check_said(model)
            return None
        refuse_other_configs(self._name, config)
        said = self._lookup(config, "rank_pattern", name, config.get("r"))
        if said is not None and said != rank:
            raise ModelFileError(
                f"{self._name!r} must have tensors of the rank that its metadata says; "
                f"it says {said!r} for {layer!r}, whose tensors have rank {rank}."
            )
        default = config.get("lora_alpha", _PEFT_ALPHA)
        value = self._lookup(config, "alpha_pattern", name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Above all float32; a whole number in JSON has any number of digits.
        if not (is_number and abs(value) < 2.0**128):
            raise ModelFileError(
                f"`lora_alpha` of {self._name!r} must be a finite number; got "
                f"{shown(repr(value))}."
            )
        return float(value) * (rank**0.5 if config.get("use_rslora") else 1.0)

    def _check_said(self, model: str) -> None:
        if not self._is_strict:
            return
        fields = ("r", "lora_alpha", "target_modules")
        example = ", ".join(f'"{model}.{field}": ...' for field in fields)
        raise ModelFileError(
            f"`{_OF_DIFFUSERS}` of {self._name!r} must speak of every model that the "
            f"file has layers of; it has none of the {model}'s fields, but "
            f"{first_five(self._keys) or 'nothing'}. Diffusers cannot load such a "
            f"file. {_WITHOUT} With `metadata={{'{_OF_DIFFUSERS}': "
            f"json.dumps({{{example}}})}}` they have the scale of PEFT's config."
        )

    def _lookup(
        self, config: Mapping[str, Any], table: str, name: str, default: Any
    ) -> Any:
        patterns = config.get(table)
        if patterns is None:
            return default
        if not isinstance(patterns, dict):
            raise ModelFileError(
                f"`{table}` of {self._name!r} must be an object; got {patterns!r}."
            )
        # Newer versions of transformers have no `text_model` in between.
        names = (name, name.removeprefix("text_model."))
        for pattern, value in patterns.items():
            try:
                regex = re.compile(rf"(.*\.)?({pattern})$")
            except re.error as e:
                raise ModelFileError(
                    f"`{table}` of {self._name!r} must have regular expressions as "
                    f"keys; got {pattern!r}: {e}."
                ) from e
            if any(map(regex.match, names)):
                return value
        return default


def alpha_tensor(file: TensorFile, key: str) -> float:
    """Reads the alpha that is stored beside the factors.

    **Arguments:**

    - `file`: Of the adapter.
    - `key`: Of the tensor.
    """
    array = file.read(key, "float32")
    if array.size != 1:
        raise ModelFileError(
            f"{file.name!r} must have one number as alpha of a layer; {key!r} has the "
            f"shape {array.shape}."
        )
    return float(array.reshape(()))
