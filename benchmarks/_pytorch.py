"""DRaFT in PyTorch: diffusers' UNet with peft's adapter, run in several ways."""

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _timing import Case, Inputs, Setting, Variant
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import LoraConfig
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.utils.checkpoint import checkpoint


# DRaFT's targets, as `draftx.add_lora` has them by default.
TARGETS = r".*(attn2\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))"
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
        self._adapted, self._texts = [], []
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


class Workers:
    """Several `Runner`s, each with a part of the batch and a thread on one core."""

    def __init__(self, setting: Setting, weights: dict, inputs: Inputs, options):
        n = options.workers
        part = dataclasses.replace(setting, batch=setting.batch // n)
        split = lambda x, axis: np.split(x, n, axis)
        parts = zip(
            *(split(x, 0) for x in (inputs.latents, inputs.negative, inputs.positive)),
            split(inputs.noises, 1),
            strict=True,
        )
        self.runners = []
        for inputs_part in parts:
            networks = Networks(part, weights, torch.float32, "cpu", options.layout)
            self.runners.append(Runner(part, Inputs(*inputs_part), options, networks))
        self.pool = concurrent.futures.ThreadPoolExecutor(
            n, initializer=torch.set_num_threads, initargs=(1,)
        )

    def __call__(self, case: Case) -> dict[str, Any]:
        outs = list(self.pool.map(lambda runner: runner(case), self.runners))
        joined: dict[str, Any] = {
            name: torch.cat([out[name] for out in outs])
            for name in outs[0]
            if name != "gradient"
        }
        if case.k:
            joined["gradient"] = {
                name: sum(out["gradient"][name] for out in outs) / len(outs)
                for name in outs[0]["gradient"]
            }
        return joined


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


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def torch_runners(
    setting: Setting,
    weights: dict,
    inputs: Inputs,
    compile_mode: str,
    threads: int,
    gpu: bool,
) -> dict[str, Any]:
    """PyTorch's variants by name, the baseline first."""
    last, device = torch.channels_last, "cuda" if gpu else "cpu"
    plain = last if gpu else torch.contiguous_format
    options = {
        "eager": Options(layout=plain),
        "eager, checkpoint": Options(checkpoint=True, layout=plain),
        "AlignProp as published": Options(published=True, layout=plain),
        "tuned": Options(tuned=True, layout=plain),
        "tuned, checkpoint": Options(tuned=True, checkpoint=True, layout=plain),
    }
    if gpu:
        for name in ("flash", "cudnn"):
            options[f"tuned, {name}"] = Options(tuned=True, layout=plain, backend=name)
    else:
        options["tuned, channels last"] = Options(tuned=True, layout=last)
    if not gpu and threads > 1 and setting.batch % threads == 0:
        options[f"tuned, channels last, {threads} workers"] = Options(
            tuned=True, layout=last, workers=threads
        )
    if compile_mode != "off":
        compiled = Options(compiled=True, layout=last)
        options["compile"] = compiled
        tuned = dataclasses.replace(compiled, tuned=True)
        options["compile, tuned"] = tuned
        checkpointed = dataclasses.replace(tuned, checkpoint=True)
        options["compile, tuned, checkpoint"] = checkpointed
    dtype = getattr(torch, setting.dtype)
    networks: dict[Any, Networks] = {}
    runners: dict[str, Any] = {}
    for name, option in options.items():
        if option.workers > 1:
            runners[name] = Workers(setting, weights, inputs, option)
            continue
        if option.layout not in networks:
            networks[option.layout] = Networks(
                setting, weights, dtype, device, option.layout
            )
        runners[name] = Runner(
            setting,
            inputs,
            option,
            networks[option.layout],
            None if compile_mode == "default" else compile_mode,
        )
    return runners


def torch_variants(runners, case: Case, gpu: bool) -> list[Variant]:
    variants = []
    for name, runner in runners.items():
        published = name.startswith("AlignProp")
        if case.k == 0 and (published or "checkpoint" in name):
            continue  # Nothing is differentiated.
        if case.draws and published:
            continue  # It has no such method.

        def call(runner=runner):
            out = runner(case)
            if gpu:
                torch.cuda.synchronize()
            return out

        role = "apart" if published else "default" if name == "eager" else "variant"
        variants.append(Variant("PyTorch", name, call, role))
    return variants
