"""Toys for chains: a denoiser without a UNet, and many small chains at once."""

import dataclasses
import functools as ft
import json
import pathlib
from typing import ClassVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np

from draftx.diffusion import (
    AbstractDenoiser,
    AbstractSampler,
    Euler,
    EulerSteps,
    SchedulerConfig,
)

from ..goldens import make_scheduler
from ..goldens.make_scheduler import SD14, toy


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
        scale = 2 - jnp.asarray(index).astype(jnp.float32) / 10
        return jnp.tanh(self.weight[None, None, None] * latents) * scale


class AdamsBashforth(AbstractSampler[EulerSteps]):
    """A sampler with a memory: Euler's steps, along the noise extrapolated from two."""

    config: SchedulerConfig = eqx.field(static=True, default=SchedulerConfig())
    takes_eta: ClassVar[bool] = False

    @property
    def euler(self):
        return Euler(self.config)

    def steps(self, num_inference_steps, *, eta=0.0):
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
