"""The cases of `against_pytorch.py` in draftx, with PyTorch's weights."""

import time
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _cases import Case, Setting
from _measure import MIB
from _timing import Variant
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import draftx
from draftx._compilation import compiler_options
from draftx.diffusion import DDIM, run_truncated, SchedulerConfig
from draftx.episodes import Task
from draftx.finetuning import settle, split, value_and_grad
from draftx.layers import Remat
from draftx.lora import LoRALinear
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    map_linears,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)
from draftx.pipeline import Conditioning, make_plan
from draftx.rewards import as_reward


NOISE_SEED = 3  # Of DRaFT-LV's draws.


class NoDecoder(eqx.Module):
    """Stands in for the autoencoder where the reward is of the latents."""

    config: ClassVar = AutoencoderConfig()

    def decode(self, latents, *, remat=Remat.NONE):
        del remat
        return latents


def draftx_pipeline(setting: Setting, weights) -> Any:
    """A pipeline with PyTorch's weights and adapter, and a random text encoder."""
    dtype = jnp.dtype(setting.dtype)

    def load(cls, config, state):
        skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
        return replace_parameters(
            skeleton, lambda p: jnp.asarray(p.from_file(state[p.key].numpy()), dtype)
        )

    unet: Any = load(
        UNet2DConditionModel, UNetConfig.from_dict(setting.unet), weights["unet"]
    )
    vae: Any = NoDecoder()
    if setting.vae is not None:
        config = AutoencoderConfig.from_dict(setting.vae)
        vae = load(AutoencoderKL, config, weights["vae"])
    pipeline = draftx.Pipeline(
        unet=unet,
        vae=vae,
        text_encoder=CLIPTextModel(
            CLIPTextConfig.from_dict(setting.text), dtype=dtype, key=jr.key(1)
        ),
        sampler=DDIM(SchedulerConfig.from_dict(setting.scheduler)),
        tokenizer=draftx.load("tiny").tokenizer,  # Not used.
    )
    pipeline = draftx.add_lora(pipeline, rank=setting.rank, key=jr.key(2))

    def adapt(name, layer):
        if not isinstance(layer, LoRALinear):
            return layer
        new = [
            jnp.asarray(weights["lora"][f"{name}.lora.{side}.weight"].numpy())
            for side in ("down", "up")
        ]
        return eqx.tree_at(lambda m: (m.lora_down, m.lora_up), layer, new)

    return map_linears(adapt, pipeline)


def remat_tiers(wanted: list[str], default: Remat) -> list[Remat]:
    """What draftx can be asked to compute again, what it chooses itself first."""
    tiers = [tier for tier in Remat if "all" in wanted or tier in wanted]
    tiers = [tier for tier in tiers if tier != Remat.AUTO]
    return [default, *(tier for tier in tiers if tier != default)]


def draftx_variant(
    task: Task,
    case: Case,
    latents,
    *,
    num_devices: int,
    threads: int,
    name: str,
    role: str,
) -> Variant:
    """A compiled program of draftx and its arguments, the batch split over devices."""
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("data",))
    everywhere, by_batch = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",))
    )
    method = draftx.DRaFT(truncation_steps=max(case.k, 1))
    if case.draws:
        method = draftx.DRaFTLV(num_samples=case.draws)
    # The negative prompt is one row for all: of the conditioning, only the prompts'.
    ids = jax.device_put(task.conditioning.input_ids, by_batch)
    latents = jax.device_put(jnp.asarray(latents), by_batch)
    arrays, static = eqx.partition((task, jr.key(NOISE_SEED)), eqx.is_array)
    arrays = jax.device_put(arrays, everywhere)

    def program(arrays, ids, latents):
        task, key = eqx.combine(arrays, static)
        task = eqx.tree_at(lambda t: t.conditioning.input_ids, task, ids)
        batch = task.batch(latents, key)
        if case.k == 0:
            chain = task.pipeline.chain(task.plan, batch.conditioning)
            clean = run_truncated(chain, latents, 0).latents
            return {"latents": clean, "images": task.pipeline.decode(clean)}
        trainable, task = split(task)
        differentiate: Any = value_and_grad
        (_, scores), gradient = differentiate(trainable, task, method, batch, mesh)
        named = draftx.lora_state_dict(gradient)
        return {"rewards": scores.total, "gradient": named}

    operands = (arrays, ids, latents)
    options: dict[str, Any] = dict(compiler_options(jax.default_backend()))
    if jax.default_backend() == "cpu":
        # One device has a thread for each core; of several, each has one.
        options["xla_cpu_multi_thread_eigen"] = num_devices < threads
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*operands).compile(compiler_options=options)
    figures: dict[str, Any] = {"compile_s": time.perf_counter() - start}
    memory: Any = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    figures["peak_mib"] = num_devices * peak / MIB
    call = lambda: jax.block_until_ready(compiled(*operands))
    return Variant("draftx", name, call, role, figures)


def draftx_variants(pipeline, setting, case, latents, ids, args) -> list[Variant]:
    gpu, available = jax.default_backend() == "gpu", len(jax.devices())
    most = max(n for n in range(1, available + 1) if setting.batch % n == 0)
    most = 1 if gpu else most
    sampling = draftx.Sampling(setting.steps, setting.guidance)
    choice = settle(
        draftx.Memory(), pipeline, sampling, setting.batch, steps=max(case.k, 1)
    )
    tiers = remat_tiers(args.remat, choice.remat) if case.k else [None]
    wanted = [(tier, most) for tier in tiers]
    if most > 1 and not case.k:
        wanted.append((None, 1))  # To see what splitting the batch gives.
    reward = as_reward(setting.reward)
    conditioning = Conditioning(ids, jnp.zeros_like(ids[:1]))
    plan = make_plan(pipeline, sampling)
    variants = []
    for tier, n in wanted:
        memory = draftx.Memory() if tier is None else draftx.Memory(tier)
        name = f"remat={tier}" if tier else "draftx"
        if not gpu:
            name += f", {n} devices" if n > 1 else f", 1 device, {args.threads} cores"
        role = "default" if (tier, n) == wanted[0] else "variant"
        try:
            variant = draftx_variant(
                Task(pipeline, reward, conditioning, None, plan, memory),
                case,
                latents,
                num_devices=n,
                threads=args.threads,
                name=name,
                role=role,
            )
        except jax.errors.JaxRuntimeError as error:  # It does not fit.
            variant = Variant("draftx", name, lambda: None, role)
            variant.fail(error)
        variants.append(variant)
    return variants
