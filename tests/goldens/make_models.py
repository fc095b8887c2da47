"""Writes `<kind>_<name>.npz`: tiny networks of random weights, and what they compute.

python tests/goldens/make_models.py

Each file has the config (`config`, JSON), the state dict (`shapes`, JSON, and `state`,
all arrays one after the other), the inputs (`in/<name>`), the outputs (`out/<name>`),
the cotangents of the outputs (`ct/<name>`) and the gradients with respect to the inputs
(`grad/<name>`; for the text encoder, whose inputs are integers, the token embedding).
Pictures and latents are channels last, images in [0, 1], latents scaled. Weights are
rounded to bfloat16, which halves the files; everything is then computed in float64 and
stored in float32. Made with PyTorch 2.13.0, diffusers 0.42.1, transformers 5.23.0.
"""

import json
import pathlib
import zlib
from typing import Any

import numpy as np


_UNET = dict(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    norm_num_groups=2,
    cross_attention_dim=6,
)
# What every published file of Stable Diffusion 1.x says, channels apart.
_SD1 = _UNET | dict(
    act_fn="silu",
    attention_head_dim=2,
    block_out_channels=[4, 6, 8, 8],
    center_input_sample=False,
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    layers_per_block=2,
    mid_block_scale_factor=1,
    norm_eps=1e-5,
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
)
_SD2 = _UNET | dict(
    attention_head_dim=[1, 2, 3],
    block_out_channels=[4, 8, 12],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    dual_cross_attention=False,
    layers_per_block=1,
    only_cross_attention=False,
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
    use_linear_projection=True,
)
# Odd on purpose: attention in other places on the way up than on the way down, levels
# that differ in depth, and every number of channels another one.
_ODD = _UNET | dict(
    attention_head_dim=4,
    block_out_channels=[8, 4, 12],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    flip_sin_to_cos=False,
    freq_shift=1,
    in_channels=3,
    layers_per_block=[1, 2, 1],
    norm_eps=1e-3,
    out_channels=5,
    transformer_layers_per_block=[1, 2, 1],
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
)
_VAE = dict(
    block_out_channels=[4, 8, 8],
    down_block_types=["DownEncoderBlock2D"] * 3,
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
    up_block_types=["UpDecoderBlock2D"] * 3,
)
_CLIP = dict(
    bos_token_id=29,
    eos_token_id=30,
    hidden_act="quick_gelu",
    hidden_size=12,
    intermediate_size=20,
    max_position_embeddings=9,
    num_attention_heads=3,
    num_hidden_layers=2,
    vocab_size=31,
)

# Stored, and compared in every run of the tests.
CASES = {
    "unet_sd1": _SD1,
    "unet_sd2": _SD2,
    "unet_odd": _ODD,
    # Sees the latents of an image beside those that it is to change.
    "unet_seeing": _UNET
    | dict(
        attention_head_dim=2,
        block_out_channels=[4, 8],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        in_channels=8,
        layers_per_block=1,
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    ),
    "vae_small": _VAE,
    "vae_scaled": _VAE
    | dict(
        block_out_channels=[8, 4],
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=3,
        layers_per_block=2,
        scaling_factor=0.5,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ),
    "clip_quick": _CLIP,
    "clip_gelu": _CLIP
    | dict(hidden_act="gelu", layer_norm_eps=1e-3, num_attention_heads=1),
}


def reference(name: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """The content of one golden file, computed by the published implementations.

    **Arguments:**

    - `name`: Of the case; begins with `unet`, `vae` or `clip`, and seeds all numbers.
    - `config`: The parsed `config.json`.
    """
    kind = name.partition("_")[0]
    make = {"unet": _unet, "vae": _vae, "clip": _clip}[kind]
    arrays = make(config, np.random.default_rng(zlib.crc32(name.encode())))
    as_stored = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    arrays = {key: as_stored(np.asarray(x)) for key, x in arrays.items()}
    return {"config": np.asarray(json.dumps(config))} | arrays


def _bfloat16(x):
    import torch

    return torch.as_tensor(x).to(torch.bfloat16).double()


def _randomize(model, rng):
    """Every array, norms and biases included, so that none can hide; float64."""
    import torch

    model = model.double().eval()
    for key, array in sorted(model.state_dict().items()):
        if not array.is_floating_point():
            continue
        noise = rng.standard_normal(array.shape)
        if array.ndim == 1:
            noise = 0.3 * noise + (1.0 if "norm" in key and "weight" in key else 0.0)
        elif "embedding.weight" not in key:
            # Keeps activations of order one.
            noise = noise / array[0].numel() ** 0.5
        with torch.no_grad():
            array.copy_(_bfloat16(noise))
    return model


def _state(model):
    state = {
        _key(model, key): array.detach().numpy()
        for key, array in model.state_dict().items()
        if not key.endswith("position_ids")
    }
    shapes = {key: array.shape for key, array in state.items()}
    flat = np.concatenate([array.ravel() for array in state.values()])
    return {"shapes": np.asarray(json.dumps(shapes)), "state": flat}


def _key(model, key):
    # Files of the text encoder have this prefix, whatever the version in memory.
    if not hasattr(model.config, "hidden_act"):
        return key
    return f"text_model.{key.removeprefix('text_model.')}"


def _channels_last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def _channels_first(x):
    import torch

    return torch.as_tensor(x).permute(0, 3, 1, 2)


def _float(rng, shape):
    """Numbers that float32 holds exactly."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def _unet(config, rng):
    import torch
    from diffusers import UNet2DConditionModel

    model = _randomize(UNet2DConditionModel(**config), rng)
    # Height, width, batch and tokens all differ: no transposition passes unnoticed.
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    latents = _float(rng, (3, 2 * factor, factor, config["in_channels"]))
    text = _float(rng, (3, 5, config["cross_attention_dim"]))
    timesteps = np.asarray([1, 501, 981], np.int32)
    ct = _float(rng, (*latents.shape[:3], config["out_channels"]))
    x = _channels_first(latents).requires_grad_()
    context = torch.as_tensor(text).requires_grad_()
    # The model casts the sinusoids, computed in float32, to float64.
    out = model(x, torch.as_tensor(timesteps).long(), context).sample
    out.backward(_channels_first(ct))
    assert x.grad is not None
    assert context.grad is not None
    return _state(model) | {
        "in/latents": latents,
        "in/timesteps": timesteps,
        "in/text_embeddings": text,
        "out/prediction": _channels_last(out),
        "ct/prediction": ct,
        "grad/latents": _channels_last(x.grad),
        "grad/text_embeddings": context.grad.numpy(),
        **_parameter_gradients(model),
    }


def _vae(config, rng):
    from diffusers import AutoencoderKL

    model = _randomize(AutoencoderKL(**config), rng)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    scale = model.config["scaling_factor"]
    images = rng.uniform(size=(2, 4 * factor, 3 * factor, 3)).astype(np.float32)
    images = images.astype(np.float64)
    latents = _float(rng, (2, 4, 3, config["latent_channels"]))
    latents_ct, images_ct = _float(rng, latents.shape), _float(rng, images.shape)

    pixels = _channels_first(images).requires_grad_()
    posterior = model.encode(2 * pixels - 1).latent_dist
    encoded = posterior.mean * scale
    encoded.backward(_channels_first(latents_ct))
    z = _channels_first(latents).requires_grad_()
    decoded = model.decode(z / scale).sample / 2 + 0.5
    decoded.backward(_channels_first(images_ct))
    assert pixels.grad is not None
    assert z.grad is not None
    return _state(model) | {
        "in/images": images,
        "in/latents": latents,
        "out/encoded": _channels_last(encoded),
        "out/log_variance": _channels_last(posterior.logvar),
        "out/decoded": _channels_last(decoded),
        "ct/encoded": latents_ct,
        "ct/decoded": images_ct,
        "grad/images": _channels_last(pixels.grad),
        "grad/latents": _channels_last(z.grad),
        **_parameter_gradients(model),
    }


def _clip(config, rng):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    model = _randomize(CLIPTextModel(CLIPTextConfig(**config)), rng)
    length = config["max_position_embeddings"] - 1
    ids = rng.integers(config["vocab_size"], size=(3, length)).astype(np.int32)
    ct = _float(rng, (3, length, config["hidden_size"]))
    out = model(torch.as_tensor(ids).long()).last_hidden_state
    out.backward(torch.as_tensor(ct))
    gradients = _parameter_gradients(model)
    embedding = gradients["param_grad/text_model.embeddings.token_embedding.weight"]
    return _state(model) | {
        "in/input_ids": ids,
        "out/hidden_states": out.detach().numpy(),
        "ct/hidden_states": ct,
        "grad/token_embedding": embedding,
        **gradients,
    }


def _parameter_gradients(model):
    """Of every weight; compared live, and too much to store."""
    return {
        f"param_grad/{_key(model, key)}": array.grad.numpy()
        for key, array in model.named_parameters()
        if array.grad is not None
    }


def main() -> None:
    for name, config in CASES.items():
        arrays = reference(name, config)
        stored = {k: v for k, v in arrays.items() if not k.startswith("param_grad/")}
        path = pathlib.Path(__file__).with_name(f"{name}.npz")
        np.savez_compressed(path, **stored)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
