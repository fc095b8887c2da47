"""Adapters of convolutions and of the time against diffusers and PEFT, both ways."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, save_lora
from draftx.lora import iter_lora, lora_filter, lora_state_dict, premerge
from draftx.models import map_layers

from ..helpers import relative_error
from .test_lora import assert_same_updates
from .test_lora_names import kohya
from .test_oracle import channels_first, inputs, our_noise, their_noise, TOLERANCE
from .tiny import random_lora


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
# What LCM-LoRA adapts.
LCM = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj")
LCM += ("ff.net.2", "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv")
LCM += ("upsamplers.0.conv", "time_emb_proj")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def pipe(torch, saved):
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(str(saved))


def test_diffusers_loads_every_layer(torch, pipe, pipeline, tmp_path):
    adapted = random_lora(pipeline, rank=3, scale=0.1, mapped=map_layers)
    save_lora(adapted, tmp_path / "x.safetensors")
    base = their_noise(torch, pipe.unet)
    pipe.load_lora_weights(str(tmp_path), weight_name="x.safetensors")
    theirs = their_noise(torch, pipe.unet)
    assert relative_error(base, theirs) > 0.01
    assert relative_error(our_noise(adapted), theirs) < TOLERANCE
    adapters = [m for m in pipe.unet.modules() if hasattr(m, "lora_A")]
    assert len(adapters) == len([*iter_lora(adapted.unet)])


def test_a_file_like_lcm_lora(torch, pipe, pipeline, tmp_path):
    """In kohya's names, with alphas, of all that is in the blocks of the UNet."""
    adapted = random_lora(pipeline, targets=LCM, mapped=map_layers)
    adapted = eqx.tree_at(lambda p: p.text_encoder, adapted, pipeline.text_encoder)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_lora(adapted, path)
    arrays = {kohya(k): 0.3 * v for k, v in load_file(path).items()}
    arrays |= {
        f"{key.split('.')[0]}.alpha": np.asarray(1.0, np.float32) for key in arrays
    }
    save_file({k: v.astype(np.float16) for k, v in arrays.items()}, path)
    assert "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight" in arrays
    pipe.load_lora_weights(str(tmp_path))
    ours = our_noise(load_lora(pipeline, tmp_path))
    base = their_noise(torch, pipe.unet)
    assert relative_error(our_noise(pipeline), base) > 0.01
    assert relative_error(ours, base) < TOLERANCE


@pytest.mark.parametrize("prepare", [lambda unet: unet, premerge])
def test_values_and_gradients_are_those_of_peft(
    torch, pipe, pipeline, tmp_path, prepare
):
    peft = pytest.importorskip("peft")
    targets = ["conv_in", "conv_out", "time_embedding.linear_1", *LCM]
    config = peft.LoraConfig(
        r=2, lora_alpha=1, target_modules=targets, init_lora_weights=False
    )
    unet = pipe.unet
    unet.add_adapter(config)
    torch.manual_seed(1)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    unet.save_lora_adapter(tmp_path)

    latents, timesteps, context = inputs(12)
    cotangent = np.cos(np.arange(latents.size, dtype=np.float32)).reshape(latents.shape)
    theirs = torch.from_numpy(channels_first(latents).copy())
    out = unet(theirs, torch.from_numpy(timesteps), torch.from_numpy(context)).sample
    (out * torch.from_numpy(channels_first(cotangent).copy())).sum().backward()
    expected = {
        f"unet.{name}".replace(".default", "").replace(f"lora_{letter}", side): p.grad
        for name, p in unet.named_parameters()
        for letter, side in (("A", "lora.down"), ("B", "lora.up"))
        if f"lora_{letter}" in name
    }

    adapted = load_lora(pipeline, tmp_path).unet
    trained, frozen = eqx.partition(adapted, lora_filter(adapted))

    def loss(trained):
        unet = prepare(eqx.combine(trained, frozen))
        ours = unet(jnp.asarray(latents), jnp.asarray(timesteps), jnp.asarray(context))
        return jnp.sum(ours * cotangent), ours

    (_, ours), grads = eqx.filter_jit(jax.value_and_grad(loss, has_aux=True))(trained)
    assert relative_error(channels_first(ours), out.detach().numpy()) < TOLERANCE
    actual = {f"unet.{key}": g for key, g in lora_state_dict(grads).items()}
    assert actual.keys() == expected.keys()
    for key, grad in actual.items():
        # Of the factor behind the scale of one half, which `load_lora` multiplies in.
        factor = 0.5 if key.endswith("up.weight") else 1.0
        grad = np.asarray(grad)
        grad = grad.transpose(3, 2, 0, 1) if grad.ndim == 4 else grad
        theirs = expected[key].numpy().reshape(grad.shape)
        assert relative_error(factor * grad, theirs) < 1e-3, key


def test_diffusers_reads_what_we_wrote_of_its_own(torch, pipe, pipeline, tmp_path):
    """Through diffusers and back: the same adapter, its convolutions among it."""
    peft = pytest.importorskip("peft")
    adapted = random_lora(pipeline, targets=LCM, mapped=map_layers)
    adapted = eqx.tree_at(lambda p: p.text_encoder, adapted, pipeline.text_encoder)
    save_lora(adapted, tmp_path / "ours")
    pipe.load_lora_weights(str(tmp_path / "ours"), adapter_name="default_0")
    state = peft.get_peft_model_state_dict(pipe.unet, adapter_name="default_0")
    pipe.save_lora_weights(tmp_path / "theirs", unet_lora_layers=state)
    assert_same_updates(load_lora(pipeline, tmp_path / "theirs"), adapted)
