"""DRaFT in PyTorch: one chain and its gradient, run in one of several ways."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import torch
from _cases import Case, Inputs, Setting
from _pytorch_networks import Networks
from diffusers import DDIMScheduler
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils.checkpoint import checkpoint


SCALING_FACTOR = 0.18215  # Diffusers' default, and Stable Diffusion's.
# The decoder's one wide head fits neither kernel: the others stand behind them.
_OTHERS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_BACKENDS = {
    "flash": [SDPBackend.FLASH_ATTENTION, *_OTHERS],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, *_OTHERS],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How PyTorch runs a step.

    - `checkpoint`: Recompute every differentiated step, and the decoding.
    - `tuned`: Before the differentiated steps the adapter is merged into the weights,
        keys and values of the text are computed once, and nothing is recorded; DDIM is
        two numbers a step instead of diffusers' scheduler.
    - `layout`: Of convolutions and their weights.
    - `compiled`: `torch.compile` of the UNet.
    - `backend`: Of attention on a GPU.
    - `workers`: Threads that each take a part of the batch, with one core each.
    - `published`: AlignProp's loop, which checkpoints all steps and detaches the
        predictions of the early ones.
    """

    checkpoint: bool = False
    tuned: bool = False
    layout: torch.memory_format = torch.contiguous_format
    compiled: bool = False
    backend: str | None = None
    workers: int = 1
    published: bool = False


class Runner:
    """One way of running a step: `runner(case)` gives rewards and gradients, or with
    `case.k == 0` the clean latents and the images."""

    def __init__(
        self,
        setting: Setting,
        inputs: Inputs,
        options: Options,
        networks: Networks,
        compile_mode: str | None = None,
    ):
        self.setting, self.options, self.networks = setting, options, networks
        self.dtype: torch.dtype = networks.unet.dtype
        device = networks.unet.device
        array = lambda x: torch.from_numpy(np.array(x)).to(device)
        nchw = lambda x: array(np.moveaxis(x, -1, -3).copy())
        self.latents = nchw(inputs.latents)
        self.noises = [nchw(x) for x in inputs.noises]
        self.negative = array(inputs.negative).to(self.dtype)
        self.positive = array(inputs.positive).to(self.dtype)
        self.embeddings = torch.cat([self.negative, self.positive])
        self.scheduler = DDIMScheduler(**setting.scheduler)
        self.scheduler.set_timesteps(setting.steps)
        self.timesteps = self.scheduler.timesteps.tolist()
        self.times = [torch.tensor(t, device=device) for t in self.timesteps]
        self.unet, self.merged = self.networks.unet, self.networks.merged
        if options.compiled:
            self.unet, self.merged = networks.compiled(compile_mode)

    def __call__(self, case: Case) -> dict[str, Any]:
        with self._backend():
            return self._sample() if case.k == 0 else self._gradient(case)

    def _backend(self):
        if self.options.backend is None:
            return contextlib.nullcontext()
        return sdpa_kernel(_BACKENDS[self.options.backend], set_priority=True)

    def _sample(self):
        with torch.no_grad():
            latents = self._prefix(self.setting.steps)
            return {"latents": _nhwc(latents), "images": self._decode(latents)}

    def _gradient(self, case: Case):
        options, steps = self.options, self.setting.steps
        first = steps - case.k
        if options.published:
            latents = self.latents
            for i in range(steps):
                latents = self._step(self.unet, latents, i, detach=i < first)
        else:
            latents = self._prefix(first)
            for i in range(first, steps):
                latents = self._tail(latents, i)
        rewards = self._reward(latents)
        parameters = list(self.networks.parameters.values())
        gradients = torch.autograd.grad(rewards.mean() / (1 + case.draws), parameters)
        if case.draws:
            draws = self._redraw(latents.detach())
            # Each draw on its own needs least memory; together they are one call.
            for noised in [torch.cat(draws)] if options.tuned else draws:
                mean = self._reward(self._tail(noised, steps - 1)).mean()
                weight = len(noised) / len(latents) / (1 + case.draws)
                more = torch.autograd.grad(mean * weight, parameters)
                gradients = [a + b for a, b in zip(gradients, more, strict=True)]
        named = dict(zip(self.networks.parameters, gradients, strict=True))
        return {"rewards": rewards.detach(), "gradient": named}

    def _prefix(self, count: int):
        """The first steps, of which no gradient is taken."""
        latents, options = self.latents, self.options
        if count == 0:
            return latents
        if not options.tuned:
            with torch.no_grad():
                for i in range(count):
                    latents = self._step(self.unet, latents, i)
            return latents
        self.networks.merge(self.embeddings)
        with torch.no_grad() if options.compiled else torch.inference_mode():
            for i in range(count):
                latents = self._step(self.merged, latents, i)
        return latents.clone()  # Out of inference mode: may be saved for a gradient.

    def _tail(self, latents, i):
        if not self.options.checkpoint:
            return self._step(self.unet, latents, i)
        return checkpoint(self._step, self.unet, latents, i, use_reentrant=False)

    def _step(self, unet, latents, i, detach: bool = False):
        negative, positive = self._predict(unet, latents, i, detach).chunk(2)
        noise = negative + self.setting.guidance * (positive - negative)
        if not self.options.tuned:
            return self.scheduler.step(
                noise, self.timesteps[i], latents, return_dict=False
            )[0]
        alpha, prev = self._alphas(i)
        keep = (prev / alpha) ** 0.5
        add = (1 - prev) ** 0.5 - (prev * (1 - alpha) / alpha) ** 0.5
        return torch.add(keep * latents, noise, alpha=add)

    def _predict(self, unet, latents, i, detach):
        both = torch.cat([latents] * 2).to(self.dtype)
        both = both.to(memory_format=self.options.layout)
        embeddings, draws = self.embeddings, len(latents) // len(self.latents)
        if draws > 1:
            embeddings = torch.cat([self.negative] * draws + [self.positive] * draws)
        call = lambda *args: unet(*args, return_dict=False)[0]
        args = (both, self.times[i], embeddings)
        if not self.options.published:
            return call(*args).float()
        out = checkpoint(call, *args, use_reentrant=False)
        return (out.detach() if detach else out).float()

    def _alphas(self, i) -> tuple[float, float]:
        alphas = self.scheduler.alphas_cumprod
        stride = len(alphas) // self.setting.steps
        prev = self.timesteps[i] - stride
        final = self.scheduler.final_alpha_cumprod
        return float(alphas[self.timesteps[i]]), float(
            alphas[prev] if prev >= 0 else final
        )

    def _redraw(self, latents):
        alpha, _ = self._alphas(self.setting.steps - 1)
        return [alpha**0.5 * latents + (1 - alpha) ** 0.5 * z for z in self.noises]

    def _reward(self, latents):
        score = lambda latents: self.setting.reward(self._decode(latents))
        if self.options.checkpoint:
            return checkpoint(score, latents, use_reentrant=False)
        return score(latents)

    def _decode(self, latents):
        vae = self.networks.vae
        if vae is None:
            return _nhwc(latents)
        scaled = (latents / SCALING_FACTOR).to(self.dtype)
        scaled = scaled.to(memory_format=self.options.layout)
        decoded = vae.decode(scaled, return_dict=False)[0].float()
        return _nhwc((decoded / 2 + 0.5).clamp(0, 1))


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)
