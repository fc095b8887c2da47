"""The scale of a LoRA file: PEFT's config, alpha beside the factors, other headers."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from draftx import load_lora
from draftx.io import describe_lora, ModelFileError
from draftx.lora import iter_lora

from .test_lora import NAME, pair, TO_Q, updates


TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
PEFT = (".lora_A", ".lora_B")


def scale_of(pipeline, path, layer=TO_Q):
    """What the product of the factors of `pair` is multiplied by."""
    features = (12, 12) if layer == TEXT else (8, 8)
    down, up = pair(layer, features=features).values()
    update, plain = updates(load_lora(pipeline, path))[layer], up @ down
    scale = np.vdot(update, plain) / np.vdot(plain, plain)
    np.testing.assert_allclose(update, scale * plain, 1e-5, 1e-6)
    return float(scale)


def settle(arrays, path, **config):
    """Writes a file with PEFT's config where diffusers keeps it."""
    save_file(arrays, path, {"lora_adapter_metadata": json.dumps(config)})


def unet(**config):
    return {f"unet.{key}": value for key, value in config.items()}


# Scales of a layer of rank 2: alpha over 2.
@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (unet(lora_alpha=6), 3),
        (unet(lora_alpha=6, use_rslora=True), 6 / 2**0.5),
        (unet(lora_alpha=6) | {"transformer.lora_alpha": 2}, 3),
        (unet(lora_alpha=6) | {"lora_alpha": 2}, 3),
        # PEFT's default is 8, whatever the rank.
        (unet(r=2), 4),
        (unet(alpha_pattern={"to_k": 1}), 4),
        # An end of the name, from a dot on.
        (unet(lora_alpha=6, alpha_pattern={"attn1.to_q": 1}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={"attn2.to_q": 1}), 3),
        (unet(lora_alpha=6, alpha_pattern={"o_q": 1}), 3),
        (unet(lora_alpha=6, alpha_pattern={TO_Q.removeprefix("unet."): 1}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={"^" + TO_Q.removeprefix("unet."): 1}), 0.5),
        # Regular expressions.
        (unet(lora_alpha=6, alpha_pattern={r"attn\d.to_(q|k)": 1}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={r"down_blocks.*": 1}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={r".*\.attn1\..*": 1}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={r"^to_q": 1}), 3),
        (unet(lora_alpha=6, alpha_pattern={r"transformer_blocks\.0": 1}), 3),
        # The first that matches.
        (unet(lora_alpha=6, alpha_pattern={"to_q": 1, "attn1.to_q": 2}), 0.5),
        (unet(lora_alpha=6, alpha_pattern={"attn1.to_q": 2, "to_q": 1}), 1),
        (unet(lora_alpha=6, alpha_pattern={"to_k": 1, "to_.": 2, "to_q": 4}), 1),
        (unet(lora_alpha=6, r=4, rank_pattern={"to_[qk]": 2, "to_q": 4}), 3),
    ],
)
def test_configs_of_peft(pipeline, tmp_path, config, scale):
    settle(pair(sides=PEFT), tmp_path / NAME, **config)
    assert scale_of(pipeline, tmp_path) == pytest.approx(scale)


@pytest.mark.parametrize(
    "key", ["encoder.layers.1.self_attn.q_proj", TEXT.removeprefix("text_encoder.")]
)
def test_both_names_of_a_layer_of_the_text_encoder(pipeline, tmp_path, key):
    arrays = pair(TEXT, features=(12, 12), sides=PEFT)
    config = {"text_encoder.lora_alpha": 6, "text_encoder.alpha_pattern": {key: 1}}
    settle(arrays, tmp_path / NAME, **config)
    assert scale_of(pipeline, tmp_path, TEXT) == pytest.approx(0.5)


def test_a_header_without_end_says_nothing(pipeline, tmp_path):
    header = {"ss_tag_frequency": '{"alpha":' * 100_000}
    save_file(pair(sides=PEFT), tmp_path / NAME, header)
    assert scale_of(pipeline, tmp_path) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", r"must be a JSON object, PEFT's config; got '\[1\]'"),
        ("[]", r"must be a JSON object, PEFT's config; got '\[\]'"),
        ('""', "must be a JSON object"),
        ("3", "must be a JSON object"),
        ({}, "none of the unet's fields, but nothing. Diffusers cannot load"),
        ({"lora_alpha": 4, "r": 2}, "none of the unet's fields, but lora_alpha, r"),
        ({"transformer.lora_alpha": 4}, "but transformer.lora_alpha. .*scale 1"),
        ({"text_encoder.lora_alpha": 4}, "but text_encoder.lora_alpha. "),
        (unet(lora_alpha="many"), "`lora_alpha` .*must be a finite number; got 'many'"),
        (unet(lora_alpha=True), "must be a finite number; got True"),
        (unet(alpha_pattern={"to_q": "1"}), "must be a finite number; got '1'"),
        (unet(lora_alpha=float("nan")), "must be a finite number; got nan"),
        (unet(lora_alpha=float("inf")), "must be a finite number; got inf"),
        (unet(lora_alpha=10**400), "must be a finite number; got 10{199}.* 201 more"),
        (unet(alpha_pattern={"to_(q": 1}), r"`alpha_pattern`.*got 'to_\(q'"),
        (unet(alpha_pattern=["to_q"]), "`alpha_pattern`.* must be an object"),
        (unet(r=4), "it says 4 for 'unet.*to_q', whose tensors have rank 2"),
        (unet(r=2, rank_pattern={"to_q": 3}), "it says 3 for"),
        (unet(use_dora=True), "sets `use_dora`"),
        (unet(lora_bias=True), "sets `lora_bias`"),
        (unet(layer_replication=[[0, 1]]), "sets `layer_replication`"),
        (unet(peft_type="LOHA"), "`peft_type` is 'LOHA'"),
        (unet(init_lora_weights="pissa_niter_4"), "'pissa_niter_4', which changed"),
        (unet(init_lora_weights="olora"), "'olora', which changed the weights"),
    ],
)
def test_configs_that_are_refused(pipeline, tmp_path, config, message):
    config = config if isinstance(config, str) else json.dumps(config)
    path = tmp_path / NAME
    save_file(pair(sides=PEFT), path, {"lora_adapter_metadata": config})
    with pytest.raises(ModelFileError, match=message):
        load_lora(pipeline, path)


def test_a_folder_of_peft(pipeline, tmp_path):
    layer = "base_model.model." + TO_Q.removeprefix("unet.")
    path, config = tmp_path / "adapter_model.safetensors", {"lora_alpha": 8, "r": 2}
    save_file(pair(layer, sides=PEFT), path)
    config |= {"alpha_pattern": {}, "peft_type": "LORA", "init_lora_weights": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert scale_of(pipeline, tmp_path) == pytest.approx(4)
    # Under another name PEFT would not find it, and diffusers never reads the config.
    path = path.rename(tmp_path / "mine.safetensors")
    with pytest.warns(UserWarning, match="`lora_alpha of adapter_config.json` is 8"):
        assert scale_of(pipeline, path) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "null"])
def test_a_config_that_is_empty_is_none(pipeline, tmp_path, text):
    save_file(pair(sides=PEFT), tmp_path / NAME, {"lora_adapter_metadata": text})
    assert scale_of(pipeline, tmp_path) == 1
    assert describe_lora(tmp_path)["scales"] == {1.0: 1}


def test_a_config_without_prefix_is_of_tensors_without(pipeline, tmp_path):
    """As `unet.save_lora_adapter` of diffusers writes both."""
    layer = TO_Q.removeprefix("unet.")
    settle(pair(layer, sides=PEFT), tmp_path / NAME, lora_alpha=6, r=2)
    assert scale_of(pipeline, tmp_path) == pytest.approx(3)
    settle(pair(layer, sides=PEFT), tmp_path / NAME, **{"text_encoder.lora_alpha": 6})
    with pytest.raises(ModelFileError, match="none of the unet's fields"):
        load_lora(pipeline, tmp_path)


def test_a_config_of_one_model_beside_layers_of_two(pipeline, tmp_path):
    arrays = pair(sides=PEFT) | pair(TEXT, features=(12, 12), sides=PEFT)
    settle(arrays, tmp_path / NAME, **unet(lora_alpha=6))
    with pytest.raises(ModelFileError, match="none of the text_encoder's fields"):
        load_lora(pipeline, tmp_path)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"lora_alpha": "6"}, "lora_alpha"),
        ({"unet.lora_alpha": "6"}, "unet.lora_alpha"),
        ({"network_alpha": "6.0"}, "network_alpha"),
        ({"ss_network_alpha": "6.0", "ss_network_dim": "2"}, "ss_network_alpha"),
        ({"ss_network_args": '{"alpha": 6}'}, "ss_network_args: alpha"),
        ({"config": '{"r": 2, "lora_alpha": 6}'}, "config: lora_alpha"),
    ],
)
def test_an_alpha_in_the_header_alone(pipeline, tmp_path, header, word):
    path = tmp_path / NAME
    save_file(pair(), path, header)
    message = f"`{word}` is 6.* scale 1,.*scale of 3 at rank 2; pass `scale=3`"
    with pytest.warns(UserWarning, match=re.escape(word)) as caught:
        assert scale_of(pipeline, path) == 1
    assert len(caught) == 1
    assert re.search(message, str(caught[0].message))


@pytest.mark.parametrize(
    "header",
    [
        {"ss_network_alpha": "2.0"},  # The rank: both readings are one.
        {"ss_network_alpha": "None"},
        {"text_encoder.lora_alpha": "6"},  # Of a model without tensors here.
        {"ss_network_dim": "6", "ss_clip_skip": "{", "format": "pt"},
    ],
)
def test_headers_that_say_nothing_else(pipeline, tmp_path, header):
    save_file(pair(), tmp_path / NAME, header)
    assert scale_of(pipeline, tmp_path) == 1


def kohya(**alphas):
    """Two layers in kohya's names, with the alphas given of them."""
    arrays = {}
    for name, features in (("to_q", (8, 8)), ("to_v", (8, 8))):
        layer = (TO_Q.removesuffix("to_q") + name).removeprefix("unet.")
        layer = "lora_unet_" + layer.replace(".", "_")
        arrays |= pair(layer, features=features, sides=(".lora_down", ".lora_up"))
        if name in alphas:
            arrays[f"{layer}.alpha"] = np.asarray(alphas[name], np.float32)
    return arrays


def test_alpha_beside_the_factors_settles_it(pipeline, tmp_path):
    header = {"ss_network_alpha": "8.0"}
    save_file(kohya(to_q=6, to_v=1), tmp_path / NAME, header)
    assert scale_of(pipeline, tmp_path) == pytest.approx(3)


@pytest.mark.parametrize("header", [{}, {"ss_network_alpha": "6"}])
def test_alpha_of_some_layers_only(pipeline, tmp_path, header):
    arrays = kohya(to_v=6)
    save_file(arrays, tmp_path / NAME, header)
    text = "Diffusers gives them .* commonest in the unet, 6, .* a scale of 3 at rank 2"
    with pytest.warns(UserWarning, match=text) as caught:
        assert scale_of(pipeline, tmp_path) == 1
    assert len(caught) == 1
    # A scale of all layers is not that reading; what the text says to do is.
    assert "pass `scale=" not in str(caught[0].message)
    assert "`<layer>.alpha` tensors of 6" in str(caught[0].message)
    layer = "lora_unet_" + TO_Q.removeprefix("unet.").replace(".", "_")
    arrays[f"{layer}.alpha"] = np.asarray(6, np.float32)
    save_file(arrays, tmp_path / NAME, header)
    assert scale_of(pipeline, tmp_path) == pytest.approx(3)
    save_file(kohya(to_v=2), tmp_path / NAME)
    assert scale_of(pipeline, tmp_path) == 1


def test_alpha_of_one_model_only(pipeline, tmp_path):
    """Diffusers looks for the commonest in each model by itself."""
    layer = "lora_te_" + TEXT.removeprefix("text_encoder.").replace(".", "_")
    text = pair(layer, features=(12, 12), sides=(".lora_down", ".lora_up"))
    save_file(kohya(to_q=6, to_v=6) | text, tmp_path / NAME)
    assert scale_of(pipeline, tmp_path, TEXT) == 1
    # Which a scale of all layers is not either.
    save_file(kohya(to_q=6, to_v=6) | text, tmp_path / NAME, {"network_alpha": "6"})
    with pytest.warns(UserWarning, match="a scale of 3 at rank 2") as caught:
        assert scale_of(pipeline, tmp_path, TEXT) == 1
    assert "pass `scale=" not in str(caught[0].message)


def test_an_alpha_of_one_model_in_the_header_is_no_scale_of_both(pipeline, tmp_path):
    arrays = pair() | pair(TEXT, features=(12, 12))
    save_file(arrays, tmp_path / NAME, {"unet.lora_alpha": "6"})
    with pytest.warns(UserWarning, match="a scale of 3 at rank 2") as caught:
        assert scale_of(pipeline, tmp_path) == 1
    assert "pass `scale=" not in str(caught[0].message)


def test_two_alphas_of_one_layer(pipeline, tmp_path):
    config = {"lora_adapter_metadata": json.dumps(unet(lora_alpha=4))}
    save_file(kohya(to_q=6, to_v=6), tmp_path / NAME, config)
    with pytest.raises(ModelFileError, match="alpha' is 6, but its metadata says 4"):
        load_lora(pipeline, tmp_path)
    save_file(kohya(to_q=4, to_v=4), tmp_path / NAME, config)
    assert scale_of(pipeline, tmp_path) == pytest.approx(2)
    save_file(kohya(to_q=[4, 6], to_v=4), tmp_path / NAME)
    with pytest.raises(ModelFileError, match=r"has the shape \(2,\)"):
        load_lora(pipeline, tmp_path)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_patterns_are_those_of_peft(pipeline, saved, tmp_path):
    """Every scale of a UNet that PEFT adapts by both of its tables."""
    peft = pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    config = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "time_emb_proj"],
        rank_pattern={r"attn\d.to_q": 2, "to_q": 4, r"up_blocks.*\.to_k": 1},
        alpha_pattern={
            "to_k": 2,
            "attn2.to_k": 5,
            r"down_blocks.*attn1\.to_(q|v)": 3,
            "^mid_block.attentions.0.transformer_blocks.0.attn1.to_v": 11,
            "resnets.0.conv1": 13,
            "o_out.0": 17,
        },
        init_lora_weights=False,
    )
    unet = diffusers.UNet2DConditionModel.from_pretrained(str(saved / "unet"))
    unet.add_adapter(config)
    state = peft.get_peft_model_state_dict(unet)
    # What diffusers writes, but for the order of patterns, which it loses.
    fields = {
        k: list(v) if isinstance(v, set) else v for k, v in config.to_dict().items()
    }
    header = {"lora_adapter_metadata": json.dumps(fields)}
    save_file({k: v.numpy() for k, v in state.items()}, tmp_path / NAME, header)
    expected = {
        f"unet.{name}": module.get_delta_weight("default").detach().numpy()
        for name, module in unet.named_modules()
        if getattr(module, "scaling", None)
    }
    actual = dict(iter_lora(load_lora(pipeline, tmp_path)))
    assert actual.keys() == expected.keys()
    for name, layer in actual.items():
        update = np.asarray(layer.update())
        update = update.transpose(3, 2, 0, 1) if update.ndim == 4 else update
        np.testing.assert_allclose(update, expected[name], 1e-4, 1e-5)


@pytest.fixture
def their_scales(saved):
    """Loads a file with diffusers, and gives the scale of each layer of the UNet."""
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")

    def load(path):
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
        pipe.load_lora_weights(str(path), weight_name=NAME)
        return {
            f"unet.{name}": next(iter(module.scaling.values()))
            for name, module in pipe.unet.named_modules()
            if getattr(module, "scaling", None)
        }

    return load


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_diffusers_gives_the_commonest_alpha_to_the_others(
    pipeline, their_scales, tmp_path
):
    arrays = kohya(to_v=6)
    save_file(arrays, tmp_path / NAME)
    assert their_scales(tmp_path)[TO_Q] == 3
    # What the warning says to do, which both then read so.
    layer = "lora_unet_" + TO_Q.removeprefix("unet.").replace(".", "_")
    arrays[f"{layer}.alpha"] = np.asarray(6, np.float32)
    save_file(arrays, tmp_path / NAME)
    assert their_scales(tmp_path)[TO_Q] == scale_of(pipeline, tmp_path) == 3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        [],
        {},
        {"lora_alpha": 4, "r": 2, "target_modules": ["to_q"]},
        {"transformer.lora_alpha": 4, "transformer.r": 2},
        {"text_encoder.lora_alpha": 4, "text_encoder.target_modules": ["q_proj"]},
    ],
)
def test_what_diffusers_cannot_load_either(pipeline, their_scales, tmp_path, config):
    path = tmp_path / NAME
    save_file(pair(sides=PEFT), path, {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        their_scales(tmp_path)
    with pytest.raises(ModelFileError, match="`lora_adapter_metadata` of"):
        load_lora(pipeline, path)
    for text in ("", "null"):
        save_file(pair(sides=PEFT), path, {"lora_adapter_metadata": text})
        assert their_scales(tmp_path)[TO_Q] == scale_of(pipeline, path) == 1
