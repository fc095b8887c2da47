"""The model FLOPs of a case, counted layer by layer on diffusers' networks."""

import torch
from _cases import Case, Setting
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention


# Layers that no gradient passes: of the time embedding, and keys and values of text.
_NO_BACKWARD = ("time_emb", "attn2.to_k", "attn2.to_v")


def model_flops(setting: Setting, case: Case) -> float:
    """Of one step of training: convolutions, linear layers and attention, 2 for each
    multiply-add, nothing recomputed, the adapter left out.

    The backward pass of a frozen layer costs as much as its forward pass, that of
    attention twice as much.
    """
    unet = _forward_flops(UNet2DConditionModel, setting.unet, setting)
    vae = {"forward": 0, "backward": 0}
    if setting.vae is not None:
        vae = _forward_flops(AutoencoderKL, setting.vae, setting)
    decoded = 1 + case.draws
    evaluations = setting.steps + case.draws
    total = 2 * evaluations * unet["forward"] + decoded * vae["forward"]
    if case.k:
        total += 2 * (case.k + case.draws) * unet["backward"]
        total += decoded * vae["backward"]
    return float(setting.batch * total)


def _forward_flops(cls, config: dict, setting: Setting) -> dict[str, int]:
    """Of one UNet evaluation or one decoding, of one image, without running it."""
    flops = {"forward": 0, "backward": 0}

    def add(name, count, backward):
        frozen = any(part in name for part in _NO_BACKWARD)
        flops["forward"] += count
        flops["backward"] += 0 if frozen else backward * count

    def hook(name, module):
        def count(module, args, kwargs, out):
            if isinstance(module, torch.nn.Conv2d):
                add(name, 2 * out.numel() * module.weight[0].numel(), 1)
            elif isinstance(module, torch.nn.Linear):
                add(name, 2 * out.numel() * module.in_features, 1)
            else:
                hidden = args[0] if args else kwargs["hidden_states"]
                text = kwargs.get("encoder_hidden_states")
                flat = hidden if hidden.ndim == 3 else hidden.flatten(2).mT
                keys = (flat if text is None else text).shape[1]
                add(name, 4 * flat.numel() * keys, 2)

        module.register_forward_hook(count, with_kwargs=True)

    size = setting.unet["sample_size"]
    with torch.device("meta"), torch.no_grad():
        model = cls(**config).eval()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | Attention):
                hook(name, module)
        latents = torch.zeros(1, 4, size, size)
        if cls is AutoencoderKL:
            model.decode(latents)
        else:
            text = setting.text
            tokens, features = text["max_position_embeddings"], text["hidden_size"]
            model(latents, torch.zeros(()), torch.zeros(1, tokens, features))
    return flops
