"""Writes `dinov2.npz`: a tiny DINOv2 of random weights, and its tokens of images.

python -m tests.goldens.make_dinov2

The file has the state dict of a `Dinov2Model` (`state/<name>`), normalized images
(`in/<case>`) of the size that it was made for and of two others, the tokens that
transformers makes of them (`out/<case>`), and the gradient (`grad/<case>`) of their
products with `weight/<case>`. Everything is in float64, stored in float32. Made with
PyTorch 2.13.0, transformers 5.24.0.
"""

import json
import pathlib
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from . import make_clip


PATH = make_clip.FOLDER / "dinov2.npz"
CONFIG: dict[str, Any] = dict(
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    mlp_ratio=2,
    image_size=20,
    patch_size=4,
    layer_norm_eps=1e-3,
)
# `facebook/dinov2-small`.
PUBLISHED: dict[str, Any] = dict(
    hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518
)
SIZES = {"own": (20, 20), "smaller": (12, 16), "larger": (28, 24)}
# As transformers 4 named them, and as 5 does.
_OLD = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def model(config: dict[str, Any]):
    """A DINOv2 of transformers, its arrays and its factors of residuals random."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    network = Dinov2Model(Dinov2Config(**config)).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = rng.normal(size=parameter.shape)
            if parameter.ndim > 1 and "embeddings" not in name:
                values /= np.sqrt(parameter.shape[-1])
            elif name.endswith("norm.weight") or "norm1.w" in name or "norm2.w" in name:
                values = 1 + 0.1 * values
            else:
                values *= 0.3
            parameter.copy_(torch.as_tensor(values).float())
    return network


def reference() -> dict[str, np.ndarray]:
    """What is in the file."""
    import torch

    network = model(CONFIG)
    arrays = {f"state/{k}": v.numpy().copy() for k, v in network.state_dict().items()}
    network = network.double()
    rng = np.random.default_rng(1)
    for case, (height, width) in SIZES.items():
        images = rng.normal(size=(2, height, width, 3)).astype(np.float32)
        pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
        tokens = network(pixel_values=pixels).last_hidden_state
        weight = rng.normal(size=tokens.shape).astype(np.float32)
        (tokens * torch.as_tensor(weight)).sum().backward()
        assert pixels.grad is not None
        arrays |= {
            f"in/{case}": images,
            f"weight/{case}": weight,
            f"out/{case}": tokens.detach().float().numpy(),
            f"grad/{case}": pixels.grad.permute(0, 2, 3, 1).float().numpy(),
        }
    return arrays


def published_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays by the names of transformers 4."""
    renamed = {}
    for name, array in arrays.items():
        for new, old in _OLD.items():
            name = name.replace(new, old)
        renamed[name] = array
    return renamed


def write(arrays: dict[str, np.ndarray], folder: pathlib.Path) -> pathlib.Path:
    """Writes the folder that transformers would."""
    state = {
        name.removeprefix("state/"): np.ascontiguousarray(array)
        for name, array in arrays.items()
        if name.startswith("state/")
    }
    save_file(state, folder / "model.safetensors")
    config = CONFIG | dict(model_type="dinov2", architectures=["Dinov2Model"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    np.savez_compressed(PATH, **reference())
