"""Writes `image_tokens.npz`: a UNet of diffusers with an IP-Adapter of random weights.

python -m tests.goldens.make_image_tokens    # with torch and diffusers

The UNet is that of `unet_odd.npz`, whose weights are there. The file has the adapter's
weights by their published names, and inputs, outputs, cotangents and gradients as those
of `make_models.py`; `param_grad/<name>` are those of the adapter's weights. Made with
PyTorch 2.13.0 and diffusers 0.42.1.
"""

import pathlib
import zlib
from typing import Any

import numpy as np

from . import make_models


PATH = pathlib.Path(__file__).parent / "image_tokens.npz"
NAME, SCALE, EMBEDDING, NUM_TOKENS = "unet_odd", 0.7, 5, 4


def reference(name: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a UNet says with an IP-Adapter; `state` and `shapes` are of the UNet alone.

    **Arguments:**

    - `name`: Of a case of `make_models`, which seeds all numbers.
    - `config`: The parsed `config.json`.
    """
    import torch
    from diffusers import UNet2DConditionModel

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    model = make_models._randomize(UNet2DConditionModel(**config), rng)
    unet_state = make_models._state(model)
    state = _random_state(model, rng)
    load(model, state)
    set_scale(model, SCALE)

    given = inputs(config, rng)
    x = make_models._channels_first(given["in/latents"]).requires_grad_()
    text = torch.as_tensor(given["in/text_embeddings"]).requires_grad_()
    embeddings = torch.as_tensor(given["in/embeddings"]).requires_grad_()
    out = model(
        x,
        torch.as_tensor(given["in/timesteps"]).long(),
        text,
        added_cond_kwargs={"image_embeds": [embeddings[:, None]]},
    ).sample
    out.backward(make_models._channels_first(given["ct/prediction"]))
    assert x.grad is not None
    gradients = {f"param_grad/{k}": p.grad.numpy() for k, p in parameters(model)}
    assert gradients.keys() == {f"param_grad/{k}" for k in state}
    arrays = given | {
        **{f"tokens/{k}": v.numpy() for k, v in state.items()},
        **gradients,
        "out/prediction": make_models._channels_last(out),
        "grad/latents": make_models._channels_last(x.grad),
        "grad/text_embeddings": text.grad.numpy(),
        "grad/embeddings": embeddings.grad.numpy(),
    }
    as_stored = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    arrays = {k: as_stored(np.asarray(x)) for k, x in (unet_state | arrays).items()}
    return arrays


def inputs(config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs and cotangents whose sizes all differ."""
    draw = make_models._float
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    shape = (3, 2 * factor, factor)
    return {
        "in/latents": draw(rng, (*shape, config["in_channels"])),
        "in/text_embeddings": draw(rng, (3, 5, config["cross_attention_dim"])),
        "in/embeddings": draw(rng, (3, EMBEDDING)),
        "in/timesteps": np.asarray([1, 501, 981], np.int32),
        "ct/prediction": draw(rng, (*shape, config["out_channels"])),
    }


def load(model, state: dict[str, Any]) -> None:
    """Gives a UNet of diffusers an IP-Adapter, as its loader does a file's."""
    parts = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    model._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)


def set_scale(model, scale: float) -> None:
    """Sets how much the picture weighs."""
    for processor in model.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]


def parameters(model) -> list[tuple[str, Any]]:
    """The weights of the IP-Adapter by the names of its file."""
    projection = model.encoder_hid_proj.image_projection_layers[0]
    found = [
        (f"image_proj.{key.replace('image_embeds', 'proj')}", p)
        for key, p in projection.named_parameters()
    ]
    layers = [p for p in model.attn_processors.values() if hasattr(p, "to_k_ip")]
    for i, layer in enumerate(layers):
        for part in ("to_k_ip", "to_v_ip"):
            weight = getattr(layer, part)[0].weight
            found.append((f"ip_adapter.{2 * i + 1}.{part}.weight", weight))
    return found


def _random_state(model, rng) -> dict[str, Any]:
    features = model.config["cross_attention_dim"]
    shapes = {
        "image_proj.proj.weight": (NUM_TOKENS * features, EMBEDDING),
        "image_proj.proj.bias": (NUM_TOKENS * features,),
        "image_proj.norm.weight": (features,),
        "image_proj.norm.bias": (features,),
    }
    cross = [m for m in model.modules() if getattr(m, "is_cross_attention", False)]
    by_name = {f"{n}.processor": m for n, m in model.named_modules() if m in cross}
    order = [name for name in model.attn_processors if name in by_name]
    for i, name in enumerate(order):
        for part in ("to_k_ip", "to_v_ip"):
            shape = (by_name[name].inner_dim, features)
            shapes[f"ip_adapter.{2 * i + 1}.{part}.weight"] = shape
    return {
        key: make_models._bfloat16(rng.standard_normal(shape) / shape[-1] ** 0.5)
        for key, shape in shapes.items()
    }


def main() -> None:
    arrays = reference(NAME, make_models.CASES[NAME])
    stored = {k: v for k, v in arrays.items() if k not in ("shapes", "state")}
    np.savez_compressed(PATH, **stored)
    print(PATH, PATH.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
