"""Reward gradients by PyTorch, diffusers and peft, for `gradient.npz`.

python -m tests.goldens.make_gradient    # with torch, diffusers, transformers, peft

A random latent diffusion model with a random LoRA (both factors), a reward that is a
plain function of the pixels, and the DDIM chain written out in Python: autograd gives
what DRaFT-K must give.
"""

import json
import pathlib

import numpy as np


PATH = pathlib.Path(__file__).parent / "gradient.npz"
UNET = dict(
    sample_size=8,
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
)
VAE = dict(
    sample_size=16,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    scaling_factor=0.18215,
)
TEXT = dict(
    vocab_size=1024,
    hidden_size=12,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=32,
    hidden_act="quick_gelu",
)
SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)
PROMPTS = ["a fox, 3d style, on a striped blue background", "an ant"]
NUM_STEPS, GUIDANCE, RANK, ALPHA = 5, 4.0, 3, 2.0
TARGETS = r".*(attn2\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|proj_in|proj_out)"


def reward(images):
    """Works on arrays of PyTorch and of JAX alike; images channels last."""
    weight = 1.0 + 0.5 * images[..., 0:1] - 0.2 * images[..., 2:3]
    return -((images - 0.3) ** 2 * weight).mean((1, 2, 3))


def make(tokenizer_folder, truncations=(1, 2, NUM_STEPS), seed=0) -> dict:
    """Weights, inputs, rewards, images and the LoRA gradient for each K."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from peft import LoraConfig
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    unet, vae = UNet2DConditionModel(**UNET).eval(), AutoencoderKL(**VAE).eval()
    text = CLIPTextModel(CLIPTextConfig(**TEXT, eos_token_id=1023)).eval()
    data = {"prompts": json.dumps(PROMPTS)}
    for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        model.requires_grad_(False)
        for key, value in model.state_dict().items():
            if not key.endswith("position_ids"):
                if name == "text_encoder" and not key.startswith("text_model."):
                    key = f"text_model.{key}"
                data[f"{name}/{key}"] = value.numpy().copy()
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    adapter = {k: p for k, p in unet.named_parameters() if ".lora_" in k}
    for key, parameter in adapter.items():
        parameter.data = 0.3 * torch.randn_like(parameter)
        data[f"lora/{_diffusers_name(key)}"] = parameter.detach().numpy().copy()

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    encode = lambda prompts: text(
        tokenizer(
            prompts, padding="max_length", max_length=32, return_tensors="pt"
        ).input_ids
    )[0]
    conditioning = torch.cat([encode([""] * len(PROMPTS)), encode(PROMPTS)])
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(NUM_STEPS)
    start = torch.randn(len(PROMPTS), 4, 8, 8)
    data["latents"] = start.permute(0, 2, 3, 1).numpy().copy()

    for k in truncations:
        latents = start
        for i, timestep in enumerate(scheduler.timesteps):
            if i == NUM_STEPS - k:
                latents = latents.detach()
            with torch.set_grad_enabled(i >= NUM_STEPS - k):
                both = unet(torch.cat([latents] * 2), timestep, conditioning).sample
                negative, positive = both.chunk(2)
                noise = negative + GUIDANCE * (positive - negative)
                latents = scheduler.step(noise, timestep, latents).prev_sample
        decoded = vae.decode(latents / VAE["scaling_factor"]).sample
        images = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        rewards = reward(images)
        gradients = torch.autograd.grad(rewards.mean(), list(adapter.values()))
        data["images"] = images.detach().numpy().copy()
        data["rewards"] = rewards.detach().numpy().copy()
        for key, gradient in zip(adapter, gradients, strict=True):
            data[f"gradient{k}/{_diffusers_name(key)}"] = gradient.numpy().copy()
    return data


def _diffusers_name(key: str) -> str:
    key = key.replace("lora_A.default", "lora.down").replace(
        "lora_B.default", "lora.up"
    )
    return f"unet.{key}"


if __name__ == "__main__":
    arrays = make(pathlib.Path(__file__).parents[2] / "weights/tiny/tokenizer")
    np.savez_compressed(PATH, **arrays)
    print(PATH, PATH.stat().st_size // 1024, "KiB")
