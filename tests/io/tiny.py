"""A random pipeline of a few thousand parameters with every kind of layer."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from draftx import Pipeline
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.lora import with_lora
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


UNET = UNetConfig(
    sample_size=8,
    freq_shift=0.0,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
)
VAE = AutoencoderConfig(
    sample_size=16,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
)


# With one block where others have several, and the text in the middle one alone:
# compiles in a third of the time.
_ONE = dict(block_out_channels=(8,))
SHORT_UNET = dataclasses.replace(
    UNET,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    **_ONE,
)
SHORT_VAE = dataclasses.replace(
    VAE,
    down_block_types=("DownEncoderBlock2D",),
    up_block_types=("UpDecoderBlock2D",),
    **_ONE,
)


def write_tokenizer(folder, *, max_length=9):
    """Bytes, three merges and the two special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    symbols += [chr(256 + i) for i in range(68)]
    merges = ["c a", "ca t</w>", "d o"]
    vocab = [*symbols, *(s + "</w>" for s in symbols)]
    vocab += [m.replace(" ", "") for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocab)}), "utf-8"
    )
    lines = ["#version: 0.2", *merges, ""]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": max_length, "tokenizer_class": "CLIPTokenizer"})
    )
    return CLIPTokenizer.from_folder(folder)


def text_config(tokenizer):
    return CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.max_length,
    )


def random_model(cls, config, rng):
    """Filled by NumPy: drawing with JAX would compile a program for every shape."""
    skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))

    def draw(parameter):
        shape = parameter.file_shape
        is_norm = parameter.key.endswith("weight") and len(shape) == 1
        fan_in = max(1, int(np.prod(shape[1:])))
        noise = rng.standard_normal(parameter.leaf.shape) / fan_in**0.5
        noise = 0.3 * noise + 1 if is_norm else noise
        return jax.device_put(noise.astype(np.float32))

    return replace_parameters(skeleton, draw)


def random_pipeline(tokenizer, seed=0, *, short=False):
    rng = np.random.default_rng(seed)
    unet, vae = (SHORT_UNET, SHORT_VAE) if short else (UNET, VAE)
    return Pipeline(
        random_model(UNet2DConditionModel, unet, rng),
        random_model(AutoencoderKL, vae, rng),
        random_model(CLIPTextModel, text_config(tokenizer), rng),
        DDIM(SchedulerConfig()),
        tokenizer,
    )


def cast(tree, dtype):
    """By NumPy, for the same reason."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(dtype)), tree)


def assert_equal(actual, expected):
    """The same structure, static fields included, dtypes and values."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))


def random_lora(
    pipeline, rank=2, *, scale=None, targets=None, seed=1, mapped=map_linears
):
    """On the layers whose names end in one of `targets`; on all if `None`.

    Those are linear layers, or what else `mapped` reaches.

    Unlike a fresh adapter, it changes the model.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jax.device_put(rng.standard_normal(shape, np.float32))

    def one(name, layer):
        if name.startswith("vae.") or not (targets is None or name.endswith(targets)):
            return layer
        down, up = (draw(*shape) for shape in layer.factor_shapes(rank))
        array = None if scale is None else jax.device_put(np.float32(scale))
        return with_lora(layer, down, up, array)

    return mapped(one, pipeline)
