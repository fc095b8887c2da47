"""What the benchmarks run: pipelines, with random weights where only shapes matter, and
the programs of sampling and of a reward gradient as functions of arrays.

A model is `"tiny"` (the embedded one), `"sd14-shape"` (Stable Diffusion 1.4 with random
weights), `"small-shape"` (the same kinds of layers, seconds to compile on a CPU), or a
diffusers folder. Weights and adapters are never zero: arithmetic on zeros draws less
power and is faster than what it stands for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh

import draftx
from draftx.diffusion import DDIM, run_truncated, SchedulerConfig
from draftx.episodes import Task
from draftx.finetuning import AbstractGradientEstimator, split, value_and_grad
from draftx.layers import in_device_order
from draftx.lora import lora_filter
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)
from draftx.pipeline import Batch, Conditioning, decoding, divided, make_plan
from draftx.rewards import as_reward, JPEGCompressibility, Reward


_SHAPES: dict[str, tuple[UNetConfig, AutoencoderConfig, CLIPTextConfig]] = {
    "sd14-shape": (UNetConfig(), AutoencoderConfig(), CLIPTextConfig()),
    "small-shape": (
        UNetConfig(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=2,
        ),
        AutoencoderConfig(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
    ),
}
RANDOM_MODELS = tuple(_SHAPES)


class Inputs(NamedTuple):
    """What a gradient is a function of: arrays, or only their shapes."""

    pipeline: draftx.Pipeline
    conditioning: Conditioning
    latents: Any
    key: Any


class Program(NamedTuple):
    """`fn(arrays)` to be compiled, and its arrays or their shapes."""

    fn: Callable[..., Any]
    arrays: Any


def make_pipeline(model: str, dtype: Any) -> draftx.Pipeline:
    """A pipeline by its name, without an adapter."""
    if model not in _SHAPES:
        return draftx.load(model, dtype=dtype)
    unet_key, vae_key, text_key = jr.split(jr.key(0), 3)
    unet, vae, text = _SHAPES[model]
    return draftx.Pipeline(
        unet=UNet2DConditionModel(unet, dtype=dtype, key=unet_key),
        vae=AutoencoderKL(vae, dtype=dtype, key=vae_key),
        text_encoder=CLIPTextModel(text, dtype=dtype, key=text_key),
        sampler=DDIM(SchedulerConfig()),
        tokenizer=draftx.load("tiny").tokenizer,  # Not used.
    )


def random_adapter(pipeline: draftx.Pipeline, *, rank: int, key: Any):
    """The pipeline with an adapter of which both factors are random."""
    pipeline = draftx.add_lora(pipeline, rank=rank, key=key)
    trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
    leaves, treedef = jax.tree.flatten(trainable)
    keys = jr.split(key, len(leaves))
    leaves = [
        0.02 * jr.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), frozen)


def make_inputs(
    model: str, *, dtype: Any, batch: int, rank: int, only_shapes: bool = False
) -> Inputs:
    """**Arguments:**

    - `model`, `dtype`: See `make_pipeline`.
    - `batch`: Images; guidance doubles it in the UNet.
    - `rank`: Of the adapter.
    - `only_shapes`: Whether to make `jax.ShapeDtypeStruct`s, to compile and not to run.
    """

    def build() -> Inputs:
        pipeline = make_pipeline(model, jnp.dtype(dtype))
        pipeline = random_adapter(pipeline, rank=rank, key=jr.key(1))
        config = pipeline.text_encoder.config
        tokens, words = config.max_position_embeddings, config.vocab_size
        ids = jr.randint(jr.key(4), (batch + 1, tokens), 0, words, jnp.int32)
        # Encoded before, as a training does: no program asks the text encoder.
        text = pipeline.text_encoder(ids)
        told = Conditioning(ids[1:], ids[:1], None, text[1:], text[:1])
        latents = jr.normal(jr.key(2), (batch, *pipeline.latent_shape))
        return Inputs(pipeline, told, latents, jr.key(3))

    # As they are loaded.
    return in_device_order(eqx.filter_eval_shape(build) if only_shapes else build())


def gradient_program(
    inputs: Inputs,
    method: AbstractGradientEstimator,
    sampling: draftx.Sampling,
    memory: draftx.Memory,
    *,
    reward: Reward | None = None,
    mesh: Mesh | None = None,
) -> Program:
    """Rewards and the adapter's gradient, as `draftx.finetune` computes them.

    **Arguments:**

    - `inputs`: From `make_inputs`.
    - `method`, `sampling`, `memory`: As for `draftx.reward_gradient`.
    - `reward`: `None` is `JPEGCompressibility`.
    - `mesh`: Devices that the batch is divided over; the program is to be given its
        arrays whole.
    """
    task = Task(
        inputs.pipeline,
        as_reward(JPEGCompressibility() if reward is None else reward),
        inputs.conditioning,
        None,
        make_plan(inputs.pipeline, sampling),
        memory,
    )
    operands = (*split(task), method, inputs.latents, inputs.key)
    arrays, static = eqx.partition(operands, _is_array)

    def fn(arrays):
        trainable, task, method, latents, key = eqx.combine(arrays, static)
        batch = task.batch(latents, key)
        batch = batch if mesh is None else divided(batch, mesh)
        (_, scores), gradient = value_and_grad(trainable, task, method, batch, mesh)
        return scores.total, eqx.filter(gradient, eqx.is_array)

    return Program(fn, arrays)


def sampling_program(
    inputs: Inputs, sampling: draftx.Sampling, mesh: Mesh | None = None
) -> Program:
    """Images, as `draftx.sample` draws them.

    **Arguments:**

    - `inputs`, `sampling`, `mesh`: As for `gradient_program`.
    """
    operands = (inputs, make_plan(inputs.pipeline, sampling))
    arrays, static = eqx.partition(operands, _is_array)

    def fn(arrays):
        inputs, plan = eqx.combine(arrays, static)
        told, latents = inputs.conditioning, inputs.latents
        if mesh is not None:
            batch = divided(Batch(told, latents, inputs.key, plan), mesh)
            told, latents = batch.conditioning, batch.latents
        chain = inputs.pipeline.chain(plan, told, mesh=mesh)
        clean = run_truncated(chain, latents, 0)
        return decoding(inputs.pipeline.decode, mesh)(clean.latents)

    return Program(fn, arrays)


def chain_program(
    inputs: Inputs, sampling: draftx.Sampling, truncation_steps: int
) -> Program:
    """Clean latents, or with `truncation_steps` the adapter's gradient of a function of
    them: the UNet without the decoder, everything kept."""
    trainable, frozen = eqx.partition(inputs.pipeline, lora_filter(inputs.pipeline))
    inputs = inputs._replace(pipeline=frozen)
    operands = (trainable, inputs, make_plan(frozen, sampling))
    arrays, static = eqx.partition(operands, _is_array)

    def fn(arrays):
        trainable, inputs, plan = eqx.combine(arrays, static)

        def clean(trainable):
            pipeline = eqx.combine(trainable, inputs.pipeline)
            chain = pipeline.chain(plan, inputs.conditioning)
            end = run_truncated(
                chain, inputs.latents, truncation_steps, checkpoint=False
            )
            return end.latents

        if truncation_steps == 0:
            return clean(trainable)
        return jax.grad(lambda trainable: jnp.mean(clean(trainable) ** 2))(trainable)

    return Program(fn, arrays)


def decoder_program(inputs: Inputs, *, differentiate: bool) -> Program:
    """Images of latents, or the gradient of a function of them, everything kept."""
    arrays, static = eqx.partition((inputs.pipeline, inputs.latents), _is_array)

    def fn(arrays):
        pipeline, latents = eqx.combine(arrays, static)
        if not differentiate:
            return pipeline.decode(latents)
        return jax.grad(lambda x: jnp.mean(pipeline.decode(x) ** 2))(latents)

    return Program(fn, arrays)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)
