"""Makes `manifests/kohya_names.json.gz`: the layers of Stable Diffusion 1.4 that can be
adapted, by the name that kohya's scripts give them.

The names are made by their rule of the modules that diffusers and transformers have,
and what each means is read off diffusers' converter of such files, down to the module
that it adapts. Needs diffusers and transformers.

    python tests/goldens/make_kohya_names.py
"""

import gzip
import json
import pathlib

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
)
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from transformers import CLIPTextConfig, CLIPTextModel


FOLDER = pathlib.Path(__file__).parent / "manifests"
LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


def main():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_attention_heads=12
            )
        )
    names = [f"lora_unet_{name}" for name in layers(unet)]
    # Since version 5 of transformers the module `text_model` is the model itself.
    names += [
        f"lora_te_text_model_{name.removeprefix('text_model.')}"
        for name in layers(text)
    ]
    names = [name.replace(".", "_") for name in names]
    state, numbers = {}, {}
    for i, name in enumerate(names):
        numbers[i] = name
        for side in ("down", "up"):
            state[f"{name}.lora_{side}.weight"] = torch.tensor([float(i)])
    converted, _ = _convert_non_diffusers_lora_to_diffusers(state)
    found = {}
    for model, to_peft in (
        ("unet.", convert_unet_state_dict_to_peft),
        ("text_encoder.", text_to_peft),
    ):
        of_model = {
            key.removeprefix(model): value
            for key, value in converted.items()
            if key.startswith(model)
        }
        for key, value in to_peft(of_model).items():
            if key.endswith(".lora_A.weight"):
                module = key.removesuffix(".lora_A.weight")
                found[numbers[int(value.item())]] = model + module
    assert len(found) == len(names)
    text = json.dumps(found, separators=(",", ":"))
    path = FOLDER / "kohya_names.json.gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def text_to_peft(state):
    return convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))


def layers(model):
    return [name for name, m in model.named_modules() if isinstance(m, LAYERS)]


if __name__ == "__main__":
    main()
