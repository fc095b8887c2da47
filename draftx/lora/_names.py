from typing import Any

from jaxtyping import Array

from ..models import iter_linears


def lora_state_dict(tree: Any) -> dict[str, Array]:
    """The adapters' arrays by the names that diffusers' training scripts give them.

    **Arguments:**

    - `tree`: A pipeline with an adapter, or a gradient with respect to one.

    **Returns:**

    `unet.<layer>.lora.down.weight`, `[rank, in_features]`, and
    `unet.<layer>.lora.up.weight`, `[out_features, rank]`, as the tree has them: the
    scale `alpha / rank` is not multiplied in, and 1x1 convolutions are matrices.
    """
    arrays = {}
    for name, layer in iter_linears(tree):
        if layer.lora_down is not None and layer.lora_up is not None:
            arrays[f"{name}.lora.down.weight"] = layer.lora_down
            arrays[f"{name}.lora.up.weight"] = layer.lora_up
    return arrays
