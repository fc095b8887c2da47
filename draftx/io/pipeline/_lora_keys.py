"""The names that LoRA files give to their tensors: diffusers', PEFT's, kohya's."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..formats import first_five, ModelFileError, TensorFile


_PAIR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora\.(?P<a>down|up)"  # diffusers' training scripts
    r"|\.lora_(?P<b>down|up)"  # kohya
    r"|\.lora_(?P<c>A|B)(?:\.default)?"  # PEFT
    r"|\.lora_linear_layer\.(?P<d>down|up)"  # diffusers, text encoder, 2023
    r"|\.processor\.to_(?P<old>q|k|v|out)_lora\.(?P<e>down|up)"  # diffusers, 2023
    r")\.weight"
)
_OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoCon with a Tucker decomposition",
    "oft_": "an OFT",
}


class Pair(NamedTuple):
    """Where the two factors of one layer are, and the factor to multiply them by.

    `alpha` is `None` where the file says nothing, which means that it is the rank.
    """

    down: str
    up: str
    alpha: float | None


def find_pairs(
    file: TensorFile,
    layers: Iterable[str],
    adapter_config: Mapping[str, Any] | None = None,
) -> dict[str, Pair]:
    """The pairs of a file by layer.

    **Arguments:**

    - `file`: In any of the formats.
    - `layers`: All names of linear layers, `unet.down_blocks.0...` and
        `text_encoder.text_model.encoder...`.
    - `adapter_config`: PEFT's `adapter_config.json`, if there is one.

    **Returns:**

    A pair for each layer that has one; a tensor that belongs nowhere is an error.
    """
    _refuse_other_kinds(file)
    sides: dict[str, dict[str, str]] = {}
    unexpected = []
    for key in file.shapes:
        if match := _PAIR.fullmatch(key):
            side = next(filter(None, match.group("a", "b", "c", "d", "e")))
            name = match["layer"]
            if match["old"]:
                name += ".to_out.0" if match["old"] == "out" else f".to_{match['old']}"
            side = {"A": "down", "B": "up"}.get(side, side)
            sides.setdefault(name, {})[side] = key
        elif key.endswith(".alpha"):
            sides.setdefault(key.removesuffix(".alpha"), {})["alpha"] = key
        else:
            unexpected.append(key)
    known = _spellings(layers)
    alphas = _alphas_of_metadata(file, adapter_config)
    pairs, halves = {}, []
    for name, keys in sides.items():
        layer = known.get(re.sub(r"^base_model\.model\.", "", name))
        if layer is None or layer in pairs:
            unexpected.extend(keys.values())
        elif not keys.keys() >= {"down", "up"}:
            halves.extend(keys.values())
        else:
            rank = file.shapes[keys["down"]][:1] or (0,)
            alpha = alphas(layer, rank[0])
            if "alpha" in keys:
                alpha = float(file.read(keys["alpha"], "float32").mean())
            pairs[layer] = Pair(keys["down"], keys["up"], alpha)
    _check_all_used(file, unexpected, halves)
    if not pairs:
        raise ModelFileError(f"{file.name!r} must hold a LoRA; it holds no tensors.")
    return pairs


def _spellings(layers: Iterable[str]) -> dict[str, str]:
    known = {}
    for layer in layers:
        model, name = layer.split(".", 1)
        kohya = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[model]
        # The bare name is what PEFT writes for one model alone.
        known[layer] = known[name] = known[kohya + name.replace(".", "_")] = layer
        if model == "text_encoder":
            known[f"{model}.{name.removeprefix('text_model.')}"] = layer
    return known


def _alphas_of_metadata(file: TensorFile, adapter_config: Mapping[str, Any] | None):
    try:
        config = dict(json.loads(file.metadata.get("lora_adapter_metadata", "{}")))
    except (TypeError, ValueError) as e:
        raise ModelFileError(f"The metadata of {file.name!r} is no JSON: {e}.") from e
    config |= adapter_config or {}

    def alpha(layer: str, rank: int) -> float | None:
        model, name = layer.split(".", 1)
        # Without a prefix where the file is of one model alone.
        field = lambda key: config.get(f"{model}.{key}", config.get(key))
        if field("use_dora") or field("lora_bias"):
            raise ModelFileError(
                f"{file.name!r} must hold a plain LoRA; its metadata sets `use_dora` "
                "or `lora_bias`, which draftx does not implement."
            )
        value, patterns = field("lora_alpha"), field("alpha_pattern")
        for pattern, special in (
            patterns if isinstance(patterns, dict) else {}
        ).items():
            if f".{name}".endswith(f".{str(pattern).removeprefix('^')}"):
                value = special
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFileError(
                f"`lora_alpha` of {file.name!r} must be a number; got {value!r}."
            )
        return float(value) * (rank**0.5 if field("use_rslora") else 1.0)

    return alpha


def _refuse_other_kinds(file: TensorFile) -> None:
    for part, kind in _OTHER_KINDS.items():
        keys = [key for key in file.shapes if part in key]
        if keys:
            raise ModelFileError(
                f"{file.name!r} must hold a plain LoRA; it is {kind}, which draftx "
                f"does not implement: {first_five(keys)}."
            )


def _check_all_used(file: TensorFile, unexpected: list[str], halves: list[str]) -> None:
    problems = []
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors belong to no linear layer of the UNet or the "
            f"text encoder: {first_five(unexpected)}"
        )
        shapes = [file.shapes[key] for key in unexpected]
        if any(len(shape) == 4 and shape[2:] != (1, 1) for shape in shapes):
            problems.append("LoRA of 3x3 convolutions is not implemented")
        if any("text_encoder_2" in k or "lora_te2" in k for k in unexpected):
            problems.append("it was trained on SDXL, which is not supported")
        if not any("lora" in key for key in unexpected):
            problems.append("it looks like a whole model: pass it to `draftx.load`")
    if halves:
        problems.append(
            f"{len(halves)} tensors lack the other half: {first_five(halves)}"
        )
    if problems:
        raise ModelFileError(
            f"{file.name!r} must be a LoRA of this model, all of it; "
            f"{'; '.join(problems)}. Nothing was loaded."
        )
