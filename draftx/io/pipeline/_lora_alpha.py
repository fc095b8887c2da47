"""What the two factors of a layer are multiplied by, wherever a file says so.

It is alpha over the rank. Readers agree on alpha beside the factors (kohya) and on
PEFT's config, which diffusers stores as `lora_adapter_metadata`; all else is hearsay.
"""

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..formats import ModelFileError, TensorFile
from ._lora_kinds import refuse_other_configs


# PEFT's `LoraConfig.lora_alpha`, where a config does not say.
_PEFT_ALPHA = 8
_MODELS = ("unet", "text_encoder")
_HEARSAY = re.compile(
    r"(?:(?P<model>unet|text_encoder)\.)?(?:ss_)?(?:lora_|network_)?alpha"
)


class PeftConfig:
    """Reads alpha from PEFT's config, which diffusers keeps in the header of a file."""

    def __init__(self, file: TensorFile, adapter_config: Mapping[str, Any] | None):
        """**Arguments:**

        - `file`: Of the adapter.
        - `adapter_config`: What is in PEFT's `adapter_config.json`, if there is one.
        """
        self._name = file.name
        try:
            config = dict(json.loads(file.metadata.get("lora_adapter_metadata", "{}")))
        except (TypeError, ValueError) as e:
            raise ModelFileError(
                f"The metadata of {file.name!r} is no JSON: {e}."
            ) from e
        config |= adapter_config or {}
        self._by_model: dict[str, dict[str, Any]] = {}
        for model in _MODELS:
            marked = {
                key.removeprefix(f"{model}."): value
                for key, value in config.items()
                if key.startswith(f"{model}.")
            }
            # Without a prefix where the file is of one model alone.
            alone = {key: value for key, value in config.items() if "." not in key}
            self._by_model[model] = marked or alone

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
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFileError(
                f"`lora_alpha` of {self._name!r} must be a number; got {value!r}."
            )
        return float(value) * (rank**0.5 if config.get("use_rslora") else 1.0)

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


class Alpha(NamedTuple):
    """Holds what is said of one layer: its rank, and its alpha or `None`."""

    rank: int
    alpha: float | None


def warn_of_hearsay(
    file: TensorFile, said: Mapping[str, Alpha], beside: Mapping[str, Any] | None
) -> None:
    """Warns where a file may mean another scale than 1, which it is loaded with.

    **Arguments:**

    - `file`: Of the adapter.
    - `said`: By layer, what those say that all readers ask.
    - `beside`: What is in an `adapter_config.json` that belongs to another file name.
    """
    found = list(_hearsay(file.metadata))
    found += [
        (f"{k} of adapter_config.json", m, v) for k, m, v in _hearsay(beside or {})
    ]
    for key, model, value in found:
        ranks = {
            entry.rank
            for layer, entry in said.items()
            if entry.alpha is None and layer.startswith(f"{model or ''}")
        }
        _warn(file.name, f"`{key}` is {value:g}", value, ranks)
    # Diffusers gives the alpha that most layers have to those that have none.
    alphas = Counter(entry.alpha for entry in said.values() if entry.alpha is not None)
    if alphas and not found:
        value, _ = alphas.most_common(1)[0]
        ranks = {entry.rank for entry in said.values() if entry.alpha is None}
        _warn(file.name, f"other layers have alpha {value:g}", value, ranks)


def _warn(name: str, what: str, alpha: float, ranks: set[int]) -> None:
    others = sorted(rank for rank in ranks if rank != alpha)
    if not others:
        return
    scales = ", ".join(f"{alpha / rank:g} at rank {rank}" for rank in others)
    hint = f"; pass `scale={alpha / others[0]:g}` if that is meant"
    warnings.warn(
        f"{name!r} has layers without an alpha beside their factors or in PEFT's "
        f"config, but {what}. They are loaded with scale 1, as kohya's scripts and "
        "diffusers read files without alpha. Read as their alpha, that number is a "
        f"scale of {scales}{hint if len(ranks) == 1 else ''}.",
        stacklevel=6,
    )


def _hearsay(header: Mapping[str, Any]):
    """Numbers in a header that look like an alpha: the key, the model, the number."""
    for key, value in header.items():
        if key == "lora_adapter_metadata":
            continue
        if match := _HEARSAY.fullmatch(key):
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue  # "None", as kohya's scripts write it.
            if math.isfinite(number):
                yield key, match["model"], number
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                inner = json.loads(value)
            except ValueError:
                continue
            yield from ((f"{key}: {k}", model, v) for k, model, v in _hearsay(inner))
