"""The gradient through sampling, against PyTorch's autograd."""

import json
import pathlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import DDIM, SchedulerConfig
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

from ..goldens import make_gradient as reference
from ..helpers import relative_error


_TOKENIZER = pathlib.Path(__file__).parents[2] / "weights/tiny/tokenizer"
_LIMIT = 1e-3  # Of the relative error of the whole gradient.


def _fill(cls, config, data, prefix):
    skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
    return replace_parameters(
        skeleton, lambda p: jnp.asarray(p.from_file(data[f"{prefix}/{p.key}"]))
    )


def make_pipeline(data):
    pipeline = draftx.Pipeline(
        _fill(UNet2DConditionModel, UNetConfig.from_dict(reference.UNET), data, "unet"),
        _fill(AutoencoderKL, AutoencoderConfig.from_dict(reference.VAE), data, "vae"),
        _fill(
            CLIPTextModel,
            CLIPTextConfig.from_dict(reference.TEXT),
            data,
            "text_encoder",
        ),
        DDIM(SchedulerConfig.from_dict(reference.SCHEDULER)),
        CLIPTokenizer.from_folder(_TOKENIZER),
    )
    pipeline = draftx.add_lora(
        pipeline,
        rank=reference.RANK,
        alpha=reference.ALPHA,
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


def _check(data, k):
    pipeline = make_pipeline(data)
    rewards, gradient = draftx.reward_gradient(
        pipeline,
        reference.reward,
        json.loads(str(data["prompts"])),
        method=draftx.DRaFT(truncation_steps=None if k == reference.NUM_STEPS else k),
        latents=data["latents"],
        num_inference_steps=reference.NUM_STEPS,
        guidance_scale=reference.GUIDANCE,
    )
    assert relative_error(rewards, data["rewards"]) < 1e-4
    ours = draftx.lora_state_dict(gradient)
    prefix = f"gradient{k}/"
    theirs = {
        n.removeprefix(prefix): x for n, x in data.items() if n.startswith(prefix)
    }
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.any(theirs[name]), name  # A zero gradient would prove nothing.
    join = lambda state: np.concatenate(
        [np.ravel(state[name]) for name in sorted(ours)]
    )
    assert relative_error(join(ours), join(theirs)) < _LIMIT


@pytest.fixture(scope="module")
def golden():
    with np.load(reference.PATH) as file:
        return dict(file)


@pytest.mark.parametrize("k", [1, 2, reference.NUM_STEPS])
def test_gradient_equals_golden(golden, k):
    _check(golden, k)


def test_images_equal_golden(golden):
    images = draftx.sample(
        make_pipeline(golden),
        json.loads(str(golden["prompts"])),
        latents=golden["latents"],
        num_inference_steps=reference.NUM_STEPS,
        guidance_scale=reference.GUIDANCE,
    )
    assert relative_error(images, golden["images"]) < 1e-4


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [1, 3])
def test_gradient_equals_autograd(k):
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    _check(reference.make(_TOKENIZER, truncations=(k,), seed=k), k)
