"""Between modules and files: names, layouts, and what adapters leave alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.layers import AbstractLinear
from draftx.lora import LoRALinear
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    checkpoint_arrays,
    CLIPTextConfig,
    CLIPTextModel,
    iter_linears,
    map_linears,
    named_parameters,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)


def _skeleton(model_cls, config):
    return eqx.filter_eval_shape(model_cls, config, key=jr.key(0))


_FULL_SIZE = {
    "unet": (UNet2DConditionModel, UNetConfig(), 686, 859_520_964),
    "vae": (AutoencoderKL, AutoencoderConfig(), 248, 83_653_863),
    "clip": (CLIPTextModel, CLIPTextConfig(), 196, 123_060_480),
}


@pytest.mark.parametrize("name", _FULL_SIZE)
def test_defaults_have_the_size_of_stable_diffusion_1(name):
    model_cls, config, arrays, numbers = _FULL_SIZE[name]
    parameters = named_parameters(_skeleton(model_cls, config))
    assert len({p.key for p in parameters}) == len(parameters) == arrays
    assert sum(np.prod(p.file_shape, dtype=int) for p in parameters) == numbers


def _tiny_vae():
    config = AutoencoderConfig(
        block_out_channels=(4, 6),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    # Numbers in place of drawn weights: nothing to compile.
    skeleton = _skeleton(AutoencoderKL, config)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), skeleton
    )


def test_to_the_file_and_back():
    model = _tiny_vae()
    state = checkpoint_arrays(model)
    assert all(array.flags.c_contiguous for array in state.values())
    assert state["encoder.conv_in.weight"].shape == (4, 3, 3, 3)
    assert state["quant_conv.weight"].shape == (8, 8, 1, 1)
    key = "decoder.mid_block.attentions.0.to_q.weight"
    assert state[key].shape == (6, 6)
    back = replace_parameters(model, lambda p: p.from_file(state[p.key]))
    assert jax.tree.structure(back) == jax.tree.structure(model)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layout_is_out_in_height_width():
    model = _tiny_vae()
    ours = model.encoder.conv_in.weight
    theirs = checkpoint_arrays(model)["encoder.conv_in.weight"]
    assert theirs[3, 2, 1, 0] == ours[1, 0, 2, 3]


def test_adapters_are_left_out_and_left_alone():
    model = _tiny_vae()
    before = checkpoint_arrays(model)

    def adapt(name: str, layer: AbstractLinear) -> AbstractLinear:
        if not name.endswith(("to_q", "quant_conv")):
            return layer
        down, up = jnp.ones((2, layer.in_features)), jnp.ones((layer.out_features, 2))
        return LoRALinear(layer, down, up, jnp.asarray(0.5))

    adapted = map_linears(adapt, model)
    linears = dict(iter_linears(adapted))
    assert linears.keys() == dict(iter_linears(model)).keys()
    names = [name for name, x in linears.items() if isinstance(x, LoRALinear)]
    assert sorted(names) == [
        "decoder.mid_block.attentions.0.to_q",
        "encoder.mid_block.attentions.0.to_q",
        "post_quant_conv",
        "quant_conv",
    ]
    assert checkpoint_arrays(adapted).keys() == before.keys()
    zeroed = replace_parameters(adapted, lambda p: np.zeros_like(p.leaf))
    assert not np.any(zeroed.quant_conv.base.weight)
    np.testing.assert_array_equal(zeroed.quant_conv.lora_up, np.ones((8, 2)))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["unet", "vae"])
def test_defaults_are_what_diffusers_builds(name):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    model_cls, config, _, _ = _FULL_SIZE[name]
    # The fields that diffusers' own defaults do not share with Stable Diffusion 1.
    with torch.device("meta"):
        if name == "unet":
            theirs = diffusers.UNet2DConditionModel(
                attention_head_dim=8, cross_attention_dim=768
            )
        else:
            theirs = diffusers.AutoencoderKL(
                block_out_channels=config.block_out_channels,
                down_block_types=config.down_block_types,
                layers_per_block=2,
                up_block_types=config.up_block_types,
            )
    expected = {key: tuple(x.shape) for key, x in theirs.state_dict().items()}
    parameters = named_parameters(_skeleton(model_cls, config))
    assert {p.key: p.file_shape for p in parameters} == expected
