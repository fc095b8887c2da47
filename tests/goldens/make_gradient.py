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
    data, model = make_model(tokenizer_folder, seed)
    for k in truncations:
        latents = model.run(model.start, 0, NUM_STEPS - k)
        images = model.decode(model.run(latents, NUM_STEPS - k, NUM_STEPS, train=True))
        rewards = reward(images)
        data["images"] = images.detach().numpy().copy()
        data["rewards"] = rewards.detach().numpy().copy()
        data |= model.gradient(f"gradient{k}", rewards.mean())
    return data


class Model:
    """The models with conditioning, as the pieces of a chain."""

    def __init__(self, unet, vae, scheduler, conditioning, adapter, start):
        self.unet, self.vae, self.scheduler = unet, vae, scheduler
        self.conditioning, self.adapter, self.start = conditioning, adapter, start
        self.timesteps = scheduler.timesteps

    def predict(self, latents, i, *, train=False):
        """The guided noise at one step of the chain."""
        import torch

        with torch.set_grad_enabled(train):
            both = torch.cat([latents] * 2)
            noise = self.unet(both, self.timesteps[i], self.conditioning).sample
            negative, positive = noise.chunk(2)
            return negative + GUIDANCE * (positive - negative)

    def predict_base(self, latents, i):
        """The same with the adapter off, a constant."""
        self.unet.disable_adapters()
        noise = self.predict(latents, i)
        self.unet.enable_adapters()
        return noise

    def step(self, latents, noise, i):
        return self.scheduler.step(noise, self.timesteps[i], latents).prev_sample

    def run(self, latents, first, stop, *, train=False, charge=None):
        """`charge` is called with what every step predicts."""
        for i in range(first, stop):
            noise = self.predict(latents, i, train=train)
            if charge is not None:
                charge(latents, noise, i)
            latents = self.step(latents, noise, i)
        return latents

    def decode(self, latents):
        decoded = self.vae.decode(latents / VAE["scaling_factor"]).sample
        return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def score(self, latents):
        return reward(self.decode(latents)).mean()

    def gradient(self, name, objective) -> dict:
        import torch

        gradients = torch.autograd.grad(objective, list(self.adapter.values()))
        return {
            f"{name}/{_diffusers_name(key)}": gradient.numpy().copy()
            for key, gradient in zip(self.adapter, gradients, strict=True)
        }


def refl(model: Model, left: int):
    """ReFL's objective with so many steps to go."""
    i = NUM_STEPS - left
    latents = model.run(model.start, 0, i)
    noise = model.predict(latents, i, train=True)
    step = model.scheduler.step(noise, model.timesteps[i], latents)
    return model.score(step.pred_original_sample)


def drtune(model: Model, trained: list[int]):
    """DRTune's: the input of the UNet is detached, and some steps are trained."""
    latents = model.start
    for i in range(NUM_STEPS):
        noise = model.predict(latents.detach(), i, train=i in trained)
        latents = model.step(latents, noise, i)
    return model.score(latents)


def draft_lv(model: Model, draws, *, single_reward: bool):
    """DRaFT-LV's with this noise, as the mean with the chain's own last step."""
    import torch

    last = NUM_STEPS - 1
    latents = model.run(model.start, 0, last)
    clean = [model.run(latents, last, NUM_STEPS, train=True)]
    for draw in draws:
        noise = torch.as_tensor(np.array(draw)).permute(0, 3, 1, 2)
        timestep = model.timesteps[last]
        noised = model.scheduler.add_noise(clean[0].detach(), noise, timestep)
        predicted = model.predict(noised, last, train=True)
        clean.append(model.step(noised, predicted, last))
    if single_reward:
        x0 = clean[0].detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.score(x0), x0)
        return sum((slope * latents).sum() for latents in clean) / len(clean)
    return sum(model.score(latents) for latents in clean) / len(clean)


def penalized(model: Model, k: int, weight: float):
    """DRaFT-K's less the distance to the base model over its steps."""
    charges = []

    def charge(latents, noise, i):
        charges.append(((noise - model.predict_base(latents, i)) ** 2).mean())

    latents = model.run(model.start, 0, NUM_STEPS - k)
    latents = model.run(latents, NUM_STEPS - k, NUM_STEPS, train=True, charge=charge)
    return model.score(latents) - weight * sum(charges) / k


def make_model(tokenizer_folder, seed) -> tuple[dict, Model]:
    """Weights and inputs as arrays, and as a model."""
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
    return data, Model(unet, vae, scheduler, conditioning, adapter, start)


def _diffusers_name(key: str) -> str:
    key = key.replace("lora_A.default", "lora.down").replace(
        "lora_B.default", "lora.up"
    )
    return f"unet.{key}"


if __name__ == "__main__":
    arrays = make(pathlib.Path(__file__).parents[2] / "weights/tiny/tokenizer")
    np.savez_compressed(PATH, **arrays)
    print(PATH, PATH.stat().st_size // 1024, "KiB")
