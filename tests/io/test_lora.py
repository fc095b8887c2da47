"""LoRA files in every spelling."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, save_lora
from draftx.io import ModelFileError
from draftx.lora import iter_lora, with_lora

from .tiny import assert_equal, cast, random_lora


NAME = "pytorch_lora_weights.safetensors"
TO_Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PROJ_IN = "unet.down_blocks.0.attentions.0.proj_in"
WORD = "lora_linear_layer"
TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="session")
def adapted(pipeline):
    return random_lora(pipeline)


@pytest.fixture
def path(adapted, tmp_path):
    save_lora(adapted, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def updates(pipeline):
    """What is added to the weights, by layer."""
    result = {}
    for name, layer in iter_lora(pipeline):
        scale = 1 if layer.lora_scale is None else np.asarray(layer.lora_scale)
        result[name] = scale * np.asarray(layer.lora_up) @ np.asarray(layer.lora_down)
    return result


def assert_same_updates(actual, expected, *, factor=1.0):
    actual, expected = updates(actual), updates(expected)
    assert actual.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(actual[name], factor * update, 1e-5, 1e-5)


def pair(layer=TO_Q, *, features=(8, 8), rank=2, sides=(".lora.down", ".lora.up")):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    down, up = draw(rank, features[0]), draw(features[1], rank)
    return {f"{layer}{sides[0]}.weight": down, f"{layer}{sides[1]}.weight": up}


def test_round_trip(pipeline, adapted, path, tmp_path):
    loaded = load_lora(pipeline, path)
    assert_equal(loaded, adapted)
    save_lora(adapted, tmp_path / "folder")
    assert_equal(load_lora(pipeline, tmp_path / "folder"), adapted)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == [NAME]


def test_the_file_is_that_of_diffusers(adapted, path):
    arrays = load_file(path)
    assert arrays.keys() == {
        f"{name}.{'lora' if name.startswith('unet.') else WORD}.{side}.weight"
        for name, _ in iter_lora(adapted)
        for side in ("down", "up")
    }
    assert {str(a.dtype) for a in arrays.values()} == {"float32"}
    assert arrays[f"{TO_Q}.lora.down.weight"].shape == (2, 8)
    assert arrays[f"{PROJ_IN}.lora.down.weight"].shape == (2, 8, 1, 1)
    assert arrays[f"{PROJ_IN}.lora.up.weight"].shape == (8, 2, 1, 1)
    assert f"{TEXT}.{WORD}.down.weight" in arrays


def test_scales_are_multiplied_in(pipeline, tmp_path):
    scaled = random_lora(pipeline, rank=3, scale=4 / 3, targets="to_v")
    save_lora(scaled, tmp_path)
    loaded = load_lora(pipeline, tmp_path)
    assert_same_updates(loaded, scaled)
    assert all(layer.lora_scale is None for _, layer in iter_lora(loaded))
    assert_same_updates(load_lora(pipeline, tmp_path, scale=-0.5), scaled, factor=-0.5)
    zero = load_lora(pipeline, tmp_path, scale=0.0)
    assert all((update == 0).all() for update in updates(zero).values())
    for scale in (np.nan, np.inf):
        with pytest.raises(ValueError, match="`scale` must be finite; got"):
            load_lora(pipeline, tmp_path, scale=float(scale))


def test_a_lora_is_replaced_whole(pipeline, adapted, tmp_path):
    few = random_lora(pipeline, rank=1, targets="attn2.to_k", seed=2)
    save_lora(few, tmp_path)
    assert_equal(load_lora(adapted, tmp_path), few)


def test_a_half_precision_model_and_file(pipeline, adapted, path):
    arrays = {k: v.astype(jnp.bfloat16) for k, v in load_file(path).items()}
    save_file(arrays, path)
    half = cast(pipeline, jnp.bfloat16)
    loaded = load_lora(half, path)
    layer = dict(iter_lora(loaded))[TO_Q]
    assert layer.base.weight.dtype == jnp.bfloat16
    assert layer.lora_down.dtype == layer.lora_up.dtype == jnp.float32


def to_peft(key, prefix):
    key = key.replace(f".{WORD}.", ".lora.")
    for side, letter in (("down", "A"), ("up", "B")):
        key = key.replace(f".lora.{side}.", f".lora_{letter}.")
    return prefix + key


def to_old(key):
    for name in ("q", "k", "v", "out"):
        for layer in (f".to_{name}.lora.", f".to_{name}.0.lora."):
            key = key.replace(layer, f".processor.to_{name}_lora.")
    return key


@pytest.mark.parametrize(
    "rename",
    [
        lambda k: to_peft(k, ""),
        lambda k: to_peft(k, "base_model.model."),
        lambda k: to_peft(k.removeprefix("unet."), "base_model.model."),
        lambda k: to_peft(k.removeprefix("unet."), ""),
        lambda k: to_peft(k, "").replace(".weight", ".default.weight"),
        lambda k: k.replace("text_encoder.text_model.", "text_encoder."),
        lambda k: k.replace(f".{WORD}.", ".lora."),
        to_old,
    ],
)
def test_spellings(pipeline, adapted, path, rename):
    renamed = {rename(key): array for key, array in load_file(path).items()}
    save_file(renamed, path)
    assert_same_updates(load_lora(pipeline, path), adapted)


def test_kohya(pipeline, adapted, path):
    arrays = {}
    for key, array in load_file(path).items():
        layer, side = key.replace(f".{WORD}.", ".lora.").split(".lora.")
        side = side.removesuffix(".weight")
        model, layer = layer.split(".", 1)
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[model]
        layer = prefix + layer.replace(".", "_")
        arrays[f"{layer}.lora_{side}.weight"] = array.astype(np.float16)
        arrays[f"{layer}.alpha"] = np.asarray(1.0, np.float16)  # Of rank 2.
    save_file(arrays, path)
    loaded, expected = updates(load_lora(pipeline, path)), updates(adapted)
    assert loaded.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(loaded[name], update / 2, atol=1e-2)
    # Without alphas they are the rank.
    save_file({k: v for k, v in arrays.items() if "alpha" not in k}, path)
    loaded = updates(load_lora(pipeline, path))
    np.testing.assert_allclose(loaded[TO_Q], expected[TO_Q], atol=1e-2)


def test_alpha_of_metadata(pipeline, tmp_path):
    path = tmp_path / NAME
    arrays = pair(sides=(".lora_A", ".lora_B"))
    plain = arrays[f"{TO_Q}.lora_B.weight"] @ arrays[f"{TO_Q}.lora_A.weight"]
    for config, factor in (
        ({}, 1),
        ({"unet.lora_alpha": 6}, 3),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn2.to_q": 1}}, 3),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / 2**0.5),
        ({"text_encoder.lora_alpha": 6}, 1),
        ({"lora_alpha": 6}, 3),
    ):
        save_file(arrays, path, {"lora_adapter_metadata": json.dumps(config)})
        update = updates(load_lora(pipeline, path))[TO_Q]
        np.testing.assert_allclose(update, factor * plain, 1e-5, 1e-6)
    for config, message in (
        ("{", "is no JSON"),
        ("[1]", "is no JSON"),
        ('{"unet.lora_alpha": "many"}', "must be a number; got 'many'"),
        ('{"unet.use_dora": true}', "`use_dora`"),
    ):
        save_file(arrays, path, {"lora_adapter_metadata": config})
        with pytest.raises(ModelFileError, match=message):
            load_lora(pipeline, path)


def test_a_folder_of_peft(pipeline, tmp_path):
    layer = "base_model.model." + TO_Q.removeprefix("unet.")
    arrays = pair(layer, sides=(".lora_A", ".lora_B"))
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 2}')
    down, up = arrays.values()
    update = updates(load_lora(pipeline, tmp_path))[TO_Q]
    np.testing.assert_allclose(update, 4 * up @ down, 1e-5, 1e-6)


def shaped(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "must hold a LoRA; it holds no tensors"),
        (pair("unet.nowhere"), "2 tensors belong to no linear layer.*unet.nowhere"),
        (pair() | pair("unet.nowhere"), "2 tensors belong to no .*Nothing was loaded"),
        (pair() | {"note": shaped(1)}, "1 tensors belong to no linear layer.*note"),
        (pair("lora_te2_text_model", sides=(".lora_down", ".lora_up")), "SDXL"),
        (
            {"unet.conv_in.lora.down.weight": shaped(2, 4, 3, 3)}
            | {"unet.conv_in.lora.up.weight": shaped(8, 2, 1, 1)},
            "LoRA of 3x3 convolutions is not implemented",
        ),
        ({"unet.conv_in.weight": shaped(1)}, r"pass it to `draftx\.load`"),
        ({f"{TO_Q}.lora.up.weight": shaped(8, 2)}, "1 tensors lack the other half"),
        ({"lora_unet_mid.alpha": shaped()}, "belong to no linear layer"),
        (
            pair(features=(9, 8)),
            r"1 tensors have another shape.*\(2, 9\), not \(2, 8\)",
        ),
        (
            pair(features=(8, 9)),
            r"1 tensors have another shape.*\(9, 2\), not \(8, 2\)",
        ),
        (pair() | {f"{TO_Q}.lora.down.weight": shaped(2, 8, 3, 3)}, "another shape"),
        (pair() | {f"{TO_Q}.lora.down.weight": shaped()}, "another shape"),
        (pair(rank=0), "another shape"),
        (pair() | {f"{TO_Q}.dora_scale": shaped(8, 1)}, "it is a DoRA.*dora_scale"),
        ({f"{TO_Q}.hada_w1_a": shaped(8, 2)}, "it is a LoHa"),
        ({f"{TO_Q}.lokr_w1": shaped(8, 2)}, "it is a LoKr"),
        ({f"{TO_Q}.lora_mid.weight": shaped(8, 2)}, "Tucker"),
        (pair() | {f"{TO_Q}.lora.down.weight": np.ones((2, 8), np.int8)}, "I8"),
        (pair() | {f"{TO_Q}.lora.down.weight": shaped(2, 8) + np.inf}, "not finite"),
    ],
)
def test_files_that_do_not_fit(pipeline, tmp_path, arrays, message):
    path = tmp_path / "x.safetensors"
    save_file(arrays, path)
    with pytest.raises(ModelFileError, match=message):
        load_lora(pipeline, path)


def test_paths(pipeline, adapted, tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        load_lora(pipeline, tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="has neither"):
        load_lora(pipeline, tmp_path)
    pickle = tmp_path / "pytorch_lora_weights.bin"
    pickle.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelFileError, match="Pickles are not read"):
        load_lora(pipeline, pickle)
    with pytest.raises(ValueError, match="`path` must end in .safetensors or be"):
        save_lora(adapted, pickle)
    with pytest.raises(ValueError, match="`pipeline` must carry a LoRA adapter"):
        save_lora(pipeline, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == [pickle.name]


def test_what_no_file_can_hold(pipeline, adapted, tmp_path):
    conv = adapted.vae.quant_conv
    new = (jnp.ones((1, conv.in_features)), jnp.ones((conv.out_features, 1)))
    with_vae = eqx.tree_at(lambda p: p.vae.quant_conv, adapted, with_lora(conv, *new))
    with pytest.raises(ValueError, match=r"'vae\.quant_conv' has it"):
        save_lora(with_vae, tmp_path)
    diverged = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), adapted)
    with pytest.raises(ValueError, match="must be finite"):
        save_lora(diverged, tmp_path)
    assert list(tmp_path.iterdir()) == []
