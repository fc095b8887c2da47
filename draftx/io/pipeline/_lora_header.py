"""What the header of an adapter's file says, for people and for programs of others."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from safetensors.numpy import save

from ..._version import __version__
from ...pipeline import Pipeline
from ._lora_hearsay import is_hearsay


class Base(NamedTuple):
    """Holds what is known of a base model: `None` and "" are not known.

    - `width`: Of what its cross-attention looks at, which no two families share.
    - `prediction`: What it predicts, as diffusers calls it.
    - `resolution`: Of its images, `512x512`.
    """

    width: int | None = None
    prediction: str = ""
    resolution: str = ""


# By the width: kohya's name of the family, and ModelSpec's of the architecture.
_FAMILIES: Final = {
    768: ("sd_v1", "stable-diffusion-v1"),
    1024: ("sd_v2", "stable-diffusion-v2-512"),
}
_VELOCITY: Final = ("sd_v2_v", "stable-diffusion-v2-768-v")
# Said by this package of every file; the rest of a header is kept when it is converted.
_OWN: Final = ("draftx_version", "draftx_rank", "draftx_alpha")
_OF_THE_TENSORS: Final = ("format", "lora_adapter_metadata", "modelspec.hash_sha256")
# Header fields of ModelSpec, and what they are called here.
_MODEL_SPEC: Final = {
    "modelspec.description": "description",
    "modelspec.license": "license",
    "modelspec.tags": "tags",
    "modelspec.trigger_phrase": "trigger_words",
}


def base_of(pipeline: Pipeline) -> Base:
    """Tells what the header says of the base model that a `pipeline` is."""
    height, width = pipeline.unet.config.latent_size
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return Base(
        pipeline.unet.config.cross_attention_dim,
        pipeline.sampler.config.prediction_type,
        f"{factor * width}x{factor * height}",
    )


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Gives the texts for a header, or raises a `ValueError` that names what is none.

    **Arguments:**

    - `metadata`: As `save_lora` is given it.
    """
    found = dict(metadata or {})
    for name, text in found.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise ValueError(
                "`metadata` must be of texts by name, as headers of safetensors are; "
                f"got {text!r} for {name!r}. Write numbers as `str(number)`."
            )
        if name in _OWN or is_of_tensors(name):
            raise ValueError(
                f"`metadata` must not have {name!r}, which readers take for what the "
                "tensors mean, or which is written of itself. Choose another name."
            )
    return found


def is_of_tensors(name: str) -> bool:
    """Whether a field `name` of a header speaks of the tensors of that very file."""
    starts = ("ss_network_", "sshs_")
    return name in _OF_THE_TENSORS or name.startswith(starts) or is_hearsay(name)


def kept(header: Mapping[str, str]) -> dict[str, str]:
    """What a `header` says that is true of the same adapter in another format."""
    found = {
        name: text
        for name, text in header.items()
        if name not in _OWN and not is_of_tensors(name)
    }
    of_peft = found.pop("base_model_name_or_path", None)
    if base := found.get("ss_sd_model_name") or of_peft:
        found.setdefault("base_model", base)
    return found


def own_header(ranks: list[int], metadata: Mapping[str, str]) -> dict[str, str]:
    """Makes the header that files of all formats have.

    **Arguments:**

    - `ranks`: Of the layers. Each is the layer's alpha, too.
    - `metadata`: To be added.
    """
    low, high = min(ranks), max(ranks)
    rank = str(low) if low == high else f"{low} to {high}"
    own = dict(zip(_OWN, (__version__, rank, rank), strict=True))
    return own | dict(metadata)


def kohya_header(
    arrays: Mapping[str, np.ndarray],
    ranks: list[int],
    base: Base,
    name: str,
    metadata: Mapping[str, str],
) -> dict[str, str]:
    """Makes the header that kohya's scripts write, as far as it can be known.

    **Arguments:**

    - `arrays`: All tensors, which the hashes are of.
    - `ranks`: Of the layers.
    - `base`: The base model.
    - `name`: Of the file, without its ending.
    - `metadata`: To be added; what it says already is left as it is.
    """
    is_velocity = base.prediction == "v_prediction"
    # What their scripts for changing ranks write where layers differ.
    dim = str(ranks[0]) if len(set(ranks)) == 1 else "Dynamic"
    alpha = f"{float(ranks[0])}" if dim != "Dynamic" else dim
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": alpha,
        "ss_output_name": name,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": metadata.get("title", name),
    }
    if family := _FAMILIES.get(base.width or 0):
        version, architecture = family
        if is_velocity:
            version, architecture = (
                _VELOCITY if base.width == 1024 else (f"{version}_v", architecture)
            )
        found["ss_base_model_version"] = version
        found["ss_v2"] = str(base.width == 1024)
        found["modelspec.architecture"] = f"{architecture}/lora"
    if base.prediction in ("epsilon", "v_prediction"):
        found["modelspec.prediction_type"] = "v" if is_velocity else "epsilon"
    if base.resolution:
        found["modelspec.resolution"] = base.resolution
    if "base_model" in metadata:
        found["ss_sd_model_name"] = metadata["base_model"]
    found |= {
        field: metadata[here] for field, here in _MODEL_SPEC.items() if here in metadata
    }
    found |= metadata
    return found | _hashes(arrays, found)


def _hashes(
    arrays: Mapping[str, np.ndarray], header: Mapping[str, str]
) -> dict[str, str]:
    """By which the web UI and others know a file again, whatever is written beside."""
    of_training = {k: v for k, v in header.items() if k.startswith("ss_")}
    content = save(dict(arrays), of_training)
    start = 8 + int.from_bytes(content[:8], "little")
    digest = hashlib.sha256(content[start:]).hexdigest()
    old = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    return {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": old,
        "modelspec.hash_sha256": f"0x{digest}",
    }
