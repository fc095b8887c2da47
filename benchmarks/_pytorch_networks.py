"""Diffusers' networks with peft's adapter, and their random weights."""

import copy
import functools

import torch
import torch.nn.functional as F
from _cases import Setting
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import LoraConfig


# DRaFT's targets, as `draftx.add_lora` has them by default.
TARGETS = r".*(attn2\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"


class Networks:
    """A UNet with an adapter, the same UNet to merge the adapter into, a decoder."""

    def __init__(self, setting: Setting, weights: dict, dtype, device, layout):
        def load(cls, config, state):
            model = cls(**config)
            model.load_state_dict(state)
            model = model.to(device, dtype, memory_format=layout)
            return model.eval().requires_grad_(False)

        self.merged = load(UNet2DConditionModel, setting.unet, weights["unet"])
        self.vae = None
        if setting.vae is not None:
            self.vae = load(AutoencoderKL, setting.vae, weights["vae"])
        self.unet = copy.deepcopy(self.merged)
        self.unet.add_adapter(
            LoraConfig(r=setting.rank, lora_alpha=setting.rank, target_modules=TARGETS)
        )
        self.parameters = {}
        for name, parameter in self.unet.named_parameters():
            if ".lora_" in name:
                name = diffusers_name(name)
                parameter.data = weights["lora"][name].to(device, dtype)
                self.parameters[name] = parameter
        self._share()

    def _share(self):
        """Lets the merged UNet hold only what is its own: weights of adapted layers."""
        self._adapted = []
        for name, layer in self.unet.named_modules():
            if hasattr(layer, "lora_A") and hasattr(layer, "base_layer"):
                self._adapted.append((self.merged.get_submodule(name), layer))
        for name, module in self.unet.named_parameters():
            if ".lora_" not in name and ".base_layer." not in name:
                self.merged.get_parameter(name).data = module.data

    @functools.cache  # noqa: B019
    def compiled(self, mode: str | None):
        """Both UNets, for all cases: one compilation serves them."""
        return [
            torch.compile(unet, mode=mode, dynamic=False)
            for unet in (self.unet, self.merged)
        ]

    @torch.no_grad()
    def merge(self, embeddings: torch.Tensor) -> None:
        for own, layer in self._adapted:
            down = layer.lora_A["default"].weight.float()
            up = layer.lora_B["default"].weight.float()
            own.weight.copy_(torch.addmm(layer.base_layer.weight.float(), up, down))
        for module in self.merged.modules():
            if isinstance(module, Attention) and module.is_cross_attention:
                for name in ("to_k", "to_v"):
                    held = getattr(module, name)
                    if not isinstance(held, _Held):
                        held = _Held(held)
                        setattr(module, name, held)
                    held.hold(embeddings)


class _Held(torch.nn.Module):
    """A linear layer whose input is the same in every step of a chain."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.linear = linear
        self.value = torch.empty(0)

    def hold(self, x: torch.Tensor) -> None:
        self.value = F.linear(x, self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def random_weights(setting: Setting, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Diffusers' own initialization; both factors of the adapter drawn, since with one
    of them zero half of the gradient would be."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**setting.unet)
    weights: dict[str, dict] = {"unet": unet.state_dict(), "lora": {}}
    if setting.vae is not None:
        weights["vae"] = AutoencoderKL(**setting.vae).state_dict()
    with torch.device("meta"):
        adapted = UNet2DConditionModel(**setting.unet)
        adapted.add_adapter(LoraConfig(r=setting.rank, target_modules=TARGETS))
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            scale = 0.1 if ".lora_B." in name else parameter.shape[1] ** -0.5
            drawn = scale * torch.randn(parameter.shape)
            weights["lora"][diffusers_name(name)] = drawn
    return weights


def diffusers_name(name: str) -> str:
    """A parameter of peft by the name that `draftx.lora_state_dict` gives it."""
    for ours, theirs in (("down", "A"), ("up", "B")):
        name = name.replace(f"lora_{theirs}.default", f"lora.{ours}")
    return f"unet.{name}"
