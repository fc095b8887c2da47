"""LoRA files: what is written, what is read, and what is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, save, save_lora
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
    """What is added to the weights, by layer; of a convolution `[out, h * w * in]`."""
    result = {}
    for name, layer in iter_lora(pipeline):
        scale = 1 if layer.lora_scale is None else np.asarray(layer.lora_scale)
        down, up = np.asarray(layer.lora_down), np.asarray(layer.lora_up)
        down = down if down.ndim == 2 else down.reshape(-1, up.shape[1]).T
        result[name] = scale * up @ down
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
        (pair(TO_Q.replace("blocks.0.attn1", "blocks.1.attn1")), "trained on SDXL"),
        (
            {"unet.conv_in.lora.down.weight": shaped(2, 4, 1, 1)}
            | {"unet.conv_in.lora.up.weight": shaped(8, 2, 1, 1)},
            r"1 tensors have another shape.*\(2, 4, 1, 1\), not \(2, 4, 3, 3\)",
        ),
        ({"unet.conv_in.weight": shaped(1)}, r"pass it to `draftx\.load`"),
        (
            pair() | {"bundle_emb.cat.string_to_param.*": shaped(1, 12)},
            r"1 of them are learned words .*`draftx\.load_embedding`.*"
            r'\{"cat": tensors\["bundle_emb\.cat\.string_to_param\.\*"\]\}',
        ),
        ({"<cat>": shaped(1, 12)}, r"a learned word: pass it to `draftx\.load_emb"),
        ({"string_to_param.*": shaped(1, 12)}, "a learned word: pass it to"),
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
    mine = tmp_path / "mine.safetensors"
    mine.touch()
    with pytest.raises(ModelFileError, match=r"passed by name: \['mine.safetensors'\]"):
        load_lora(pipeline, tmp_path)
    mine.unlink()
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


def test_saving_a_model_with_an_adapter_says_first_what_to_do(adapted, tmp_path):
    with pytest.raises(ValueError, match="must be saved without LoRA") as error:
        save(adapted, tmp_path / "model")
    text = str(error.value)
    for remedy in ("draftx.save_lora", "draftx.merge_lora"):
        assert text.index(remedy) < text.index("of its layers")
    assert len(text) < 300
    assert list(tmp_path.iterdir()) == []
