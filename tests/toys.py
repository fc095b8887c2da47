"""Toys of all tests: a denoiser of three numbers, chains and episodes of it, and
pipelines of random weights."""

import dataclasses
import functools as ft
import json
import pathlib
from typing import ClassVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import draftx
from draftx.diffusion import (
    AbstractDenoiser,
    AbstractSampler,
    Chain,
    DDIM,
    Euler,
    EulerSteps,
    SchedulerConfig,
)
from draftx.episodes import Episode, Memory
from draftx.lora import LoRALinear
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    map_linears,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)
from draftx.rewards import as_reward

from .goldens import make_gradient, make_scheduler
from .goldens.make_scheduler import SD14, toy


TOKENIZER = pathlib.Path(__file__).parents[1] / "weights/tiny/tokenizer"
BASE = np.asarray([0.1, 0.4, 0.2])
WEIGHT = np.asarray([0.3, 0.5, -0.2])
# Its last step adds no noise, whatever its eta.
SAMPLER = DDIM(SchedulerConfig(set_alpha_to_one=True))
TOTAL = 5


@ft.cache
def golden():
    """What diffusers' chains end with."""
    path = pathlib.Path(make_scheduler.__file__).with_name("scheduler.npz")
    with np.load(path) as file:
        arrays = dict(file)
    for name in make_scheduler.SAMPLERS:
        arrays[f"{name}_cases"] = json.loads(str(arrays[f"{name}_cases"]))
    return arrays


def config(**changes) -> SchedulerConfig:
    """Of Stable Diffusion's published file with these changes."""
    return SchedulerConfig.from_dict(SD14 | changes)


class ToyDenoiser(AbstractDenoiser):
    """Depends on its weight, on the latents and on the step; no UNet."""

    weight: jax.Array

    def __call__(self, latents, index):
        scale = 2 - jnp.asarray(index).astype(latents.dtype) / 10
        return jnp.tanh(self.weight[None, None, None] * latents) * scale


def toy_decode(latents, remat):
    del remat
    return jax.nn.sigmoid(latents)


def toy_reward(images):
    return -jnp.mean((images - 0.3) ** 2, axis=(1, 2, 3))


def toy_noise(batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(batch, 2, 2, 3)), dtype)


def toy_steps(dtype, *, sampler=SAMPLER, total=TOTAL, eta=0.0):
    """The steps of a chain in this precision."""
    cast = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
    return jax.tree.map(cast, sampler.steps(total, eta=eta))


def toy_episode(
    denoiser,
    noise=None,
    *,
    sampler=SAMPLER,
    total=TOTAL,
    eta=0.0,
    key=None,
    reward=toy_reward,
    decoder=toy_decode,
    remat="none",
    images_at_once=None,
):
    """An episode in the precision of its noise, of a base model with weights `BASE`."""
    noise = toy_noise() if noise is None else noise
    steps = toy_steps(noise.dtype, sampler=sampler, total=total, eta=eta)
    return Episode(
        chain=Chain(sampler, denoiser, steps, key),
        noise=noise,
        decoder=decoder,
        reward=as_reward(reward),
        memory=Memory(remat, images_at_once),
        base=eqx.Partial(ToyDenoiser, jnp.asarray(BASE, noise.dtype)),
    )


class AdamsBashforth(AbstractSampler[EulerSteps]):
    """A sampler with a memory: Euler's steps, along the noise extrapolated from two."""

    config: SchedulerConfig = eqx.field(static=True, default=SchedulerConfig())
    takes_eta: ClassVar[bool] = False

    @property
    def euler(self):
        return Euler(self.config)

    def steps(self, num_inference_steps, eta):
        return self.euler.steps(num_inference_steps, eta=eta)

    def is_random(self, eta):
        return False

    def memory(self, latents):
        return {"noise": jnp.zeros_like(latents), "weight": jnp.zeros(())}

    def predict(self, latents, prediction, step):
        return self.euler.predict(latents, prediction, step)

    def update(self, latents, prediction, step, memory=None):
        x0, noise = self.predict(latents, prediction, step)
        ahead = noise + memory["weight"] * (noise - memory["noise"]) / 2
        following = step.prev_signal * x0 + step.prev_sigma * ahead
        return following, {"noise": noise, "weight": jnp.ones(())}

    def add_noise(self, latents, noise, step):
        return self.euler.add_noise(latents, noise, step)


@ft.partial(jax.jit, static_argnums=0)
def _run(sampler, steps, latents, noise):
    """Many chains of one length at once."""

    def chain(steps, latents):
        def body(carry, row):
            (latents, memory), (step, noise) = carry, row
            prediction = toy(latents, step.timestep.astype(jnp.float32))
            mean, memory = sampler.update(latents, prediction, step, memory)
            return (mean + step.noise_scale * noise, memory), None

        first = (latents, sampler.memory(latents))
        return lax.scan(body, first, (steps, noise))[0][0]

    return jax.vmap(chain)(steps, latents)


def finals(samplers, num_steps, latents, noise, *, eta=None):
    """What a chain of each sampler ends with.

    Those that differ only in their tables run together.

    **Arguments:**

    - `samplers`, `num_steps`, `eta`: One a chain.
    - `latents`: Unit-variance noise that every chain starts from.
    - `noise`: Of the steps.
    """
    eta = [0.0] * len(samplers) if eta is None else eta
    groups, ends = {}, [None] * len(samplers)
    chains = zip(samplers, num_steps, eta, strict=True)
    for i, (sampler, length, amount) in enumerate(chains):
        like = SchedulerConfig(
            prediction_type=sampler.config.prediction_type,
            clip_sample=sampler.config.clip_sample,
            clip_sample_range=sampler.config.clip_sample_range,
        )
        steps = sampler.steps(length, eta=amount)
        start = sampler.start(jnp.asarray(latents), steps)
        like = dataclasses.replace(sampler, config=like)
        groups.setdefault((length, like), []).append((i, steps, start))
    for (length, like), group in groups.items():
        indices, *args = zip(*group, strict=True)
        steps, starts = (jax.tree.map(lambda *x: jnp.stack(x), *arg) for arg in args)
        out = _run(like, steps, starts, jnp.asarray(noise[:length]))
        for i, final in zip(indices, out, strict=True):
            ends[i] = np.asarray(final)
    return ends


def with_options(sampling, **options):
    """The same sampling with some of its options changed."""
    fields = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
    return draftx.Sampling(**(fields | options))


def make_pipeline(data):
    """The pipeline of `make_gradient`'s weights, with its adapter."""
    pipeline = draftx.Pipeline(
        _fill(UNet2DConditionModel, UNetConfig, make_gradient.UNET, data, "unet"),
        _fill(AutoencoderKL, AutoencoderConfig, make_gradient.VAE, data, "vae"),
        _fill(CLIPTextModel, CLIPTextConfig, make_gradient.TEXT, data, "text_encoder"),
        DDIM(SchedulerConfig.from_dict(make_gradient.SCHEDULER)),
        CLIPTokenizer.from_folder(TOKENIZER),
    )
    pipeline = draftx.add_lora(
        pipeline,
        rank=make_gradient.RANK,
        alpha=make_gradient.ALPHA,
        targets=("cross_attention", "feed_forward", "projections"),
        key=jr.key(0),
    )

    def adapt(name, layer):
        if not isinstance(layer, LoRALinear):
            return layer
        new = [
            jnp.asarray(data[f"lora/{name}.lora.{side}.weight"]).reshape(old.shape)
            for side, old in (("down", layer.lora_down), ("up", layer.lora_up))
        ]
        return eqx.tree_at(lambda m: (m.lora_down, m.lora_up), layer, new)

    return map_linears(adapt, pipeline)


def _fill(cls, config, of_file, data, prefix):
    skeleton = eqx.filter_eval_shape(cls, config.from_dict(of_file), key=jr.key(0))
    return replace_parameters(
        skeleton, lambda p: jnp.asarray(p.from_file(data[f"{prefix}/{p.key}"]))
    )
