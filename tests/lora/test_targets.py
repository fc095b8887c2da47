"""Which layers are meant: PEFT's rule, groups, and what is said of a slip."""

import dataclasses

import pytest

import draftx
from draftx.io.pipeline._configs import config_dict
from draftx.lora import DEFAULT_TARGETS, iter_lora, TARGET_GROUPS
from draftx.lora._targets import find_targets
from draftx.models import iter_layers, UNet2DConditionModel


@pytest.fixture(scope="module")
def names(base_pipeline):
    return [name for name, _ in iter_layers(base_pipeline)]


# The tiny UNet has 4 transformers of 1 block, 8 residual blocks, 5 of which change the
# number of channels, and one resampling each way; the text encoder has 2 layers.
@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["to_k", "to_q", "to_v", "to_out.0"], 32),
        (["conv1", "conv2"], 16),
        (["conv_in", "conv_out"], 2),
        (["downsamplers.0.conv"], 1),
        (["convolutions"], 23),
        (["time_embedding"], 10),
        (["time_emb_proj"], 8),
        (["mid_block.resnets.0.conv1"], 1),
        (["unet.mid_block.resnets.0.conv1"], 1),
        # PEFT's other form.
        (r".*attn2\.to_[kv]", 8),
        (r"down_blocks\.\d+\.resnets\..*\.conv1", 2),
        (r"unet\.mid_block.*\.(to_q|conv1)", 4),
        (r".*\.(q_proj|to_q)", 10),
        (r".*", 95),
    ],
)
def test_targets(names, targets, count):
    found = find_targets(targets, names)
    assert len(found) == count
    assert not any(name.startswith("vae.") for name in found)


# Eight to_q and so on of attention in each of 4 transformers, 2 of its feed-forward
# network, 8 time projections of residual blocks, and 2 of the time embedding; the
# projections of the transformers are 1x1 convolutions, as in Stable Diffusion 1.x.
@pytest.mark.parametrize("targets", ["all-linear", "All-Linear"])
def test_all_linear_layers(base_pipeline, getkey, targets):
    adapted = draftx.add_lora(base_pipeline, rank=1, targets=targets, key=getkey())
    found = {name for name, _ in iter_lora(adapted)}
    assert len(found) == 4 * (8 + 2) + 8 + 2
    assert all(name.startswith("unet.") for name in found)
    assert not any("conv" in name or "proj_in" in name for name in found)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_linear", [False, True])
def test_all_linear_layers_are_those_of_peft(base_pipeline, getkey, is_linear):
    peft = pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    config = dataclasses.replace(
        base_pipeline.unet.config, use_linear_projection=is_linear
    )
    fields = config_dict(base_pipeline.unet)
    fields |= {"use_linear_projection": is_linear}
    theirs = diffusers.UNet2DConditionModel.from_config(fields)
    theirs.add_adapter(peft.LoraConfig(r=1, target_modules="all-linear"))
    expected = {n for n, m in theirs.named_modules() if getattr(m, "scaling", None)}
    ours = dataclasses.replace(
        base_pipeline, unet=UNet2DConditionModel(config, key=getkey())
    )
    adapted = draftx.add_lora(ours, rank=1, targets="all-linear", key=getkey())
    found = {name.removeprefix("unet.") for name, _ in iter_lora(adapted)}
    assert found == expected


def test_the_defaults_are_linear(names):
    found = find_targets(DEFAULT_TARGETS, names)
    assert not any("conv" in name or "time" in name for name in found)


def test_groups_share_no_layer(names):
    found = [find_targets([group], names) for group in TARGET_GROUPS]
    assert sum(map(len, found)) == len(set().union(*found)) == 93


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["to_out"], r"got 'to_out', which matches none. Did you mean 'to_out\.0'\?"),
        (["to_q", "attn1.to_out"], r"Did you mean 'attn1\.to_out\.0'\?"),
        (["ff.net.0"], r"Did you mean 'ff\.net\.0\.proj'\?"),
        (["attn2"], r"Did you mean 'attn2\.to_q' or 'attn2\.to_k' or"),
        (["to_kk"], "Did you mean 'to_k'"),
        (["crossattention"], "Did you mean 'cross_attention'"),
        (["proj_inn"], "Did you mean 'proj_in'"),
        ("to_q", r"a regular expression; got 'to_q', .* Did you mean \['to_q'\]\?"),
        ("cross_attention", r"Did you mean \['cross_attention'\]\?"),
        ("to_(q", r"must be a regular expression of layer names; got 'to_\(q'"),
        ("", "`targets` must be a non-empty sequence of names, or a regular"),
        (["xyz"], r"which matches none\. Groups are \["),
        (["quant_conv"], "which matches none"),
        (["all-linear"], "Did you mean the string 'all-linear', without a list"),
    ],
)
def test_what_matches_nothing(base_pipeline, targets, message, getkey):
    with pytest.raises(ValueError, match=message):
        draftx.add_lora(base_pipeline, rank=1, targets=targets, key=getkey())


def test_adapters_of_convolutions_and_of_a_pattern(base_pipeline, getkey):
    add = draftx.add_lora
    first = add(base_pipeline, rank=3, targets=r".*mid_block.*conv1", key=getkey())
    both = add(first, rank=2, alpha=1.0, targets=["conv_in"], key=getkey())
    layers = dict(iter_lora(both))
    shapes = {name: (x.lora_down.shape, x.lora_up.shape) for name, x in layers.items()}
    assert shapes == {
        "unet.mid_block.resnets.0.conv1": ((3, 3, 16, 3), (16, 3)),
        "unet.mid_block.resnets.1.conv1": ((3, 3, 16, 3), (16, 3)),
        "unet.conv_in": ((3, 3, 4, 2), (8, 2)),
    }
    layer = layers["unet.conv_in"]
    assert layer.lora_scale == 0.5
    assert not layer.lora_up.any()
    # The variance is one over the rank, of 72 draws.
    assert 0.3 < float((layer.lora_down**2).mean()) < 0.7


def test_the_rank_of_a_convolution(base_pipeline, getkey):
    # Three by three of eight channels in, four out.
    with pytest.raises(ValueError, match="`rank` must be at most 4, the smaller side"):
        draftx.add_lora(base_pipeline, rank=5, targets=["conv_out"], key=getkey())
