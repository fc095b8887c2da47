"""What is not a plain LoRA, told by the names of its tensors or by PEFT's config."""

import re
from collections.abc import Mapping
from typing import Any

from ..formats import first_five, ModelFileError, TensorFile


# (pattern found in the names of tensors, what it is a sign of)
_BY_TENSOR = (
    (r"\.hada_", "a LoHa"),
    (r"\.lokr_", "a LoKr"),
    (r"\.(dora_scale|lora_magnitude_vector)\b", "a DoRA"),
    (r"\.lora_mid\b", "a LoCon with a Tucker decomposition"),
    (r"\.boft_", "a BOFT"),
    (r"\.oft_", "an OFT"),
    (r"\.(glora_|[ab][12]\.weight$)", "a GLoRA"),
    (r"\.(ia3_|on_input$)", "an (IA)³"),
    (r"\.(w_norm|b_norm)$", "an adapter of norms"),
    (r"\.diff(_b)?$", "one of full differences of weights, `.diff`"),
    (r"\.scalar$", "a LyCORIS with a trained scalar"),
    (r"\.vera_lambda_", "a VeRA"),
    (r"\.fourierft_", "a FourierFT"),
    (r"\.hra_", "an HRA"),
    (r"\.lora_embedding_", "a LoRA of embeddings"),
    (r"\.lora_\w+(\.[^.]+)?\.bias$|\.lora\.(up|down)\.bias$", "a LoRA with biases"),
    (r"^(unet|text_encoder):\d+:", "one that numbers its layers, `unet:0:up`"),
    (r"custom_diffusion\.", "a Custom Diffusion"),
    (r"^image_proj\.proj\.weight$", "an IP-Adapter of one embedding"),
    (r"^(ip_adapter|image_proj)\.", "an IP-Adapter of another form"),
)
# What reads those that are no LoRA and known all the same.
_READERS = {
    "an IP-Adapter of one embedding": "draftx.io.load_image_tokens(pipeline, path)",
}
# Fields of PEFT's `LoraConfig` that change what the factors mean.
_FIELDS = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "layer_replication",
)
# Initialisations that take away from the base weights what the factors begin with.
_CHANGED_BASE = r"pissa.*|corda.*|olora|loftq|lora_ga"


def refuse_other_kinds(file: TensorFile) -> None:
    """Raises if tensors of a file are of an adapter that is no plain LoRA.

    **Arguments:**

    - `file`: Of an adapter.
    """
    for pattern, kind in _BY_TENSOR:
        keys = [key for key in file.shapes if re.search(pattern, key)]
        if keys:
            what = "draftx does not implement"
            if reader := _READERS.get(kind):
                what = f"`{reader}` reads"
            raise ModelFileError(
                f"{file.name!r} must hold a plain LoRA; it is {kind}, which {what}: "
                f"{first_five(keys)}."
            )


def refuse_other_configs(name: str, config: Mapping[str, Any]) -> None:
    """Raises if PEFT's config of one model describes another adapter than a plain LoRA.

    **Arguments:**

    - `name`: Of the file.
    - `config`: PEFT's fields.
    """
    kind = config.get("peft_type")
    if kind not in (None, "LORA"):
        raise ModelFileError(
            f"{name!r} must hold a plain LoRA; its `peft_type` is {kind!r}, which "
            "draftx does not implement."
        )
    for field in _FIELDS:
        if config.get(field):
            raise ModelFileError(
                f"{name!r} must hold a plain LoRA; its metadata sets `{field}`, which "
                "draftx does not implement."
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and re.fullmatch(_CHANGED_BASE, start.lower()):
        raise ModelFileError(
            f"{name!r} must be an adapter of the base model; its `init_lora_weights` "
            f"is {start!r}, which changed the weights of the base before training. "
            "Save it with PEFT's `path_initial_model_for_weight_conversion`."
        )
