"""Gradients of score distillation by PyTorch and diffusers, for `distillation.npz`.

python -m tests.goldens.make_distillation    # with torch, diffusers, transformers, peft

The model of `make_gradient.py` with its adapter; what is rendered is the images
themselves. Autograd differentiates the surrogate, <w (eps_hat - eps), z>. A visual
prompt goes through the UNet by itself, before the images, and a processor of diffusers'
attention keeps the tokens that its keys and values are made of.

JAX draws the noise, so that it is that of the library.
"""

import pathlib

import jax
import jax.random as jr
import numpy as np

from . import make_gradient
from .make_gradient import GUIDANCE, PROMPTS, reward


PATH = pathlib.Path(__file__).parent / "distillation.npz"
TIMESTEP, TEMPERATURE, NUM_NOISES, NUM_STEPS = 600, 0.02, 3, 3
KEY = jr.key(11)
# What is on, by case.
CASES = {
    "text": dict(),
    "uniform": dict(uniform=True),
    "latents": dict(latents=True),
    "reward": dict(reward=True),
    "reference": dict(pictures=1),
    "reference_in_negative": dict(pictures=2, in_negative=True),
    "noises": dict(noises=True),
}


def inputs(seed=0) -> dict:
    """Images, latents and pictures that all cases have."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.uniform(0.1, 0.9, (2, 16, 16, 3)).astype(np.float32),
        "latents": rng.standard_normal((2, 8, 8, 4)).astype(np.float32),
        "pictures": rng.uniform(0.1, 0.9, (2, 16, 16, 3)).astype(np.float32),
    }


def make(model, case: dict, given: dict) -> dict:
    """The gradient of one case, and the size of its residual."""
    import torch

    to_torch = lambda x: torch.as_tensor(np.array(x)).movedim(-1, 1)
    _, score_key, _ = jr.split(jr.fold_in(KEY, 0), 3)
    _, picture_key, noise_key = jr.split(score_key, 3)
    draw = lambda key, count: to_torch(jr.normal(key, (count, 8, 8, 4)))

    rendered = to_torch(given["latents" if case.get("latents") else "images"])
    rendered.requires_grad_()
    latents = rendered if case.get("latents") else _encode(model, rendered)
    timestep = torch.tensor(TIMESTEP)
    alpha = model.scheduler.alphas_cumprod[TIMESTEP]
    pictures = None
    if "pictures" in case:
        count = case["pictures"]
        clean = _encode(model, to_torch(given["pictures"][:count]))
        noise = draw(picture_key, count)
        pictures = model.scheduler.add_noise(clean, noise, timestep)
    predict = Guided(model, pictures, case.get("in_negative", False))

    def difference(key):
        noise = draw(key, 2)
        noised = model.scheduler.add_noise(latents.detach(), noise, timestep)
        with torch.no_grad():
            return noised, predict(noised, timestep) - noise

    if case.get("noises"):
        found = [difference(key) for key in jr.split(noise_key, NUM_NOISES)]
        rewards = torch.stack([_finish(model, predict, noised) for noised, _ in found])
        weights = torch.softmax(rewards / TEMPERATURE, dim=0)[:, :, None, None, None]
        residual = (weights * torch.stack([x for _, x in found])).sum(0)
    else:
        residual = difference(noise_key)[1]
    weight = 1.0 if case.get("uniform") else 1 - alpha
    loss = (weight * residual * latents).sum() / len(latents)
    if case.get("reward"):
        loss = loss - reward(rendered.movedim(1, -1)).mean()
    (gradient,) = torch.autograd.grad(loss, rendered)
    return {
        "gradient": gradient.movedim(1, -1).numpy().copy(),
        "residual": residual.square().mean().sqrt().numpy().copy(),
    }


class Guided:
    """Asks the UNet with guidance, one branch after the other."""

    def __init__(self, model, pictures, in_negative):
        self.model, self.pictures, self.in_negative = model, pictures, in_negative

    def __call__(self, latents, timestep):
        negative, positive = self.model.conditioning.chunk(2)
        on = self.pictures is not None
        away = self._branch(latents, timestep, negative, on and self.in_negative)
        to = self._branch(latents, timestep, positive, on)
        return away + GUIDANCE * (to - away)

    def _branch(self, latents, timestep, text, sees):
        unet, bank = self.model.unet, {}
        if not sees:
            return unet(latents, timestep, text).sample
        count = len(self.pictures)
        rows = slice(None, None, len(latents) // count)
        try:
            _attend(unet, bank, "write")
            unet(self.pictures, timestep, text[rows])
            _attend(unet, bank, "read")
            return unet(latents, timestep, text).sample
        finally:
            _attend(unet, bank, "off")


def _attend(unet, bank: dict, mode: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    plain = AttnProcessor()

    def processor(name):
        def call(attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
            if encoder_hidden_states is None and mode == "write":
                bank[name] = hidden_states
            if encoder_hidden_states is None and mode == "read":
                import torch

                times = len(hidden_states) // len(bank[name])
                beside = bank[name].repeat_interleave(times, dim=0)
                encoder_hidden_states = torch.cat([hidden_states, beside], dim=1)
            return plain(attn, hidden_states, encoder_hidden_states, *args, **kwargs)

        return call

    unet.set_attn_processor({name: processor(name) for name in unet.attn_processors})


def _finish(model, predict, noised):
    """The rewards of what noised latents lead to, by diffusers' DDIM."""
    import torch

    stride = TIMESTEP // NUM_STEPS
    model.scheduler.set_timesteps(1000 // stride)
    with torch.no_grad():
        for left in range(NUM_STEPS, 0, -1):
            timestep = torch.tensor(left * stride)
            noise = predict(noised, timestep)
            noised = model.scheduler.step(noise, timestep, noised).prev_sample
        return reward(model.decode(noised))


def _encode(model, images):
    posterior = model.vae.encode(2 * images - 1).latent_dist
    return posterior.mean * make_gradient.VAE["scaling_factor"]


def reference(tokenizer_folder, cases=CASES, seed=0) -> tuple[dict, dict]:
    """The model's weights and inputs, and what each case gives."""
    assert len(PROMPTS) == 2
    with jax.numpy_rank_promotion("allow"):
        data, model = make_gradient.make_model(tokenizer_folder, seed)
        given = inputs(seed)
        return data | given, {n: make(model, case, given) for n, case in cases.items()}


if __name__ == "__main__":
    folder = pathlib.Path(__file__).parents[2] / "weights/tiny/tokenizer"
    _, found = reference(folder)
    arrays = {f"{n}/{k}": x for n, case in found.items() for k, x in case.items()}
    np.savez_compressed(PATH, **arrays)
    print(PATH, PATH.stat().st_size // 1024, "KiB")
