"""The names that LoRA files give to their tensors: which are the factors of what."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

from ..formats import first_five, ModelFileError, TensorFile
from ._lora_alpha import alpha_tensor, PeftConfig
from ._lora_hearsay import Alpha, warn_of_hearsay
from ._lora_kinds import refuse_other_kinds


_PAIR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora\.(?P<a>down|up)"  # diffusers' training scripts
    r"|\.lora_(?P<b>down|up)"  # kohya
    r"|\.lora_(?P<c>A|B)(?:\.(?P<adapter>[^.]+))?"  # PEFT
    r"|\.lora_linear_layer\.(?P<d>down|up)"  # diffusers, text encoder, 2023
    r"|\.to_(?P<old>q|k|v|out)_lora\.(?P<e>down|up)"  # diffusers, attention, 2023
    r")\.weight"
)
# Its second text encoder, its second conditioning, and its deeper transformers.
_OF_SDXL = re.compile(
    r"text_encoder_2|lora_te2|add_embedding|label_emb|transformer_blocks[._][1-9]"
)
# Before the words that the web UI finds in a LoRA.
_BUNDLED = "bundle_emb."


# Gives the layer that the first known of some names means, or `None`.
FindLayer: TypeAlias = Callable[..., str | None]


class Pair(NamedTuple):
    """Where the two factors of one layer are, and the factor to multiply them by.

    `alpha` is `None` where the file says nothing, which means that it is the rank.
    """

    down: str
    up: str
    alpha: float | None


def find_pairs(
    file: TensorFile,
    find_layer: FindLayer,
    adapter_config: Mapping[str, Any] | None = None,
    *,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Pair]:
    """The pairs of a file by layer.

    **Arguments:**

    - `file`: In any of the formats.
    - `find_layer`: Finds a layer that may be adapted.
    - `adapter_config`: PEFT's `adapter_config.json`, if there is one.
    - `beside`: An `adapter_config.json` which PEFT would not read with this file.

    **Returns:**

    A pair for each layer that has one; a tensor that belongs nowhere is an error.
    """
    refuse_other_kinds(file)
    found: dict[str, dict[str, str]] = {}
    adapters: set[str] = set()
    unexpected, twice = [], []
    for key in file.shapes:
        side, spellings, adapter = _parse(key)
        layer = find_layer(*spellings)
        if layer is None:
            unexpected.append(key)
            continue
        adapters |= {adapter} - {""}
        if side in found.setdefault(layer, {}):
            twice.append(key)
        found[layer].setdefault(side, key)
    halves = [
        key
        for keys in found.values()
        if not keys.keys() >= {"down", "up"}
        for key in keys.values()
    ]
    if len(adapters) > 1:
        raise ModelFileError(
            f"{file.name!r} must hold one adapter; it holds {sorted(adapters)}. Save "
            "the one that is meant alone."
        )
    _check_all_used(file, found, unexpected, halves, twice)
    if not found:
        raise ModelFileError(f"{file.name!r} must hold a LoRA; it holds no tensors.")
    config = PeftConfig(file, adapter_config)
    pairs, said = {}, {}
    for layer, keys in found.items():
        rank = (file.shapes[keys["down"]][:1] or (0,))[0]
        alpha = _alpha(file, config, layer, rank, keys.get("alpha"))
        pairs[layer] = Pair(keys["down"], keys["up"], alpha)
        said[layer] = Alpha(rank, alpha)
    warn_of_hearsay(file, said, beside)
    return pairs


def check_factors(file: TensorFile, layer: str, pair: Pair) -> None:
    """Raises unless the two tensors of a layer can be multiplied.

    **Arguments:**

    - `file`: Of the adapter.
    - `layer`: For the error text.
    - `pair`: The two.
    """
    down, up = file.shapes[pair.down], file.shapes[pair.up]
    fits = len(down) in (2, 4) and len(up) in (2, 4) and 0 not in down + up
    if not fits or up[1] != down[0] or up[2:] not in ((), (1, 1)):
        raise ModelFileError(
            f"{file.name!r} must hold two factors of one rank for each layer; those of "
            f"{layer!r} have the shapes {down} and {up}."
        )


def _parse(key: str) -> tuple[str, list[str], str]:
    """What a tensor is of its layer, how the layer may be spelled, and the adapter."""
    plain = key.replace(".processor.", ".")
    if plain.endswith(".alpha"):
        return "alpha", [plain.removesuffix(".alpha")], ""
    match = _PAIR.fullmatch(plain)
    if match is None:
        return "", [], ""
    side = next(filter(None, match.group("a", "b", "c", "d", "e")))
    side = {"A": "down", "B": "up"}.get(side, side)
    name, old = match["layer"], match["old"]
    if old is None:
        return side, [name], match["adapter"] or ""
    # The UNet's word, and the text encoder's.
    inner = "to_out.0" if old == "out" else f"to_{old}"
    return side, [f"{name}.{inner}", f"{name}.{old}_proj"], ""


def _alpha(
    file: TensorFile, config: PeftConfig, layer: str, rank: int, key: str | None
) -> float | None:
    of_config = config.alpha(layer, rank)
    if key is None:
        return of_config
    alpha = alpha_tensor(file, key)
    if of_config is not None and abs(of_config - alpha) > 1e-3 * abs(alpha):
        raise ModelFileError(
            f"{file.name!r} must say one alpha of a layer; {key!r} is {alpha:g}, but "
            f"its metadata says {of_config:g}."
        )
    return alpha


def _check_all_used(
    file: TensorFile,
    found: Collection[str],
    unexpected: list[str],
    halves: list[str],
    twice: list[str],
) -> None:
    problems = []
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors belong to no linear layer or convolution of "
            f"the UNet or the text encoder: {first_five(unexpected)}"
        )
        if any(_OF_SDXL.search(key) for key in unexpected):
            problems.append("it was trained on SDXL, which is not supported")
        problems += _other_kind(unexpected, found)
    for keys, what in ((halves, "lack the other half"), (twice, "are there twice")):
        if keys:
            problems.append(f"{len(keys)} tensors {what}: {first_five(keys)}")
    if problems:
        raise ModelFileError(
            f"{file.name!r} must be a LoRA of this model, all of it; "
            f"{'; '.join(problems)}. Nothing was loaded."
        )


def _other_kind(unexpected: list[str], found: Collection[str]) -> list[str]:
    """What a file is that is no LoRA, or has something besides one."""
    if bundled := [key for key in unexpected if key.startswith(_BUNDLED)]:
        return [
            f"{len(bundled)} of them are learned words that are bundled with the LoRA: "
            "write the other tensors into a file for `draftx.load_lora`, and the "
            "vectors of each word into one for `draftx.load_embedding`, with "
            "`safetensors.numpy`: `tensors = load_file(path)`, then "
            f'`save_file({{"{_word(bundled[0])}": tensors["{bundled[0]}"]}}, '
            '"word.safetensors")`'
        ]
    if found or any("lora" in key for key in unexpected):
        return []
    if any(key.endswith((".weight", ".bias")) for key in unexpected):
        return ["it looks like a whole model: pass it to `draftx.load`"]
    if len(unexpected) == 1 or any("string_to_param" in key for key in unexpected):
        return ["it looks like a learned word: pass it to `draftx.load_embedding`"]
    return []


def _word(key: str) -> str:
    return key.removeprefix(_BUNDLED).split(".string_to_param")[0]
