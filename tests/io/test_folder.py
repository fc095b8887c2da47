"""Whole pipelines and single networks, saved and loaded."""

import json
import pathlib
import shutil

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx.io.pipeline._save as save_module
from draftx import load, merge_lora, save
from draftx.io import (
    EMBEDDED_MODELS,
    EmbeddedFolder,
    load_component,
    ModelFileError,
    save_component,
)
from draftx.models import AutoencoderKL, CLIPTextModel, UNet2DConditionModel

from .tiny import assert_equal, cast, random_lora, random_model, UNET


UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_encoder/model.safetensors"


def edit_tensors(path, edit):
    arrays = load_file(path)
    save_file(edit(arrays) or arrays, path)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip_is_exact(pipeline, saved):
    loaded = load(saved)
    assert_equal(loaded, pipeline)
    prompts = ["a cat", "Do!", "dog \u00e9"]
    np.testing.assert_array_equal(loaded.tokenize(prompts), pipeline.tokenize(prompts))


def test_files_are_those_of_diffusers(saved):
    files = {str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file()}
    assert files == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        TEXT_FILE,
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        UNET_FILE,
        "unet/config.json",
        VAE_FILE,
        "vae/config.json",
    }
    # Fields that diffusers would ask for or guess.
    config = json.loads((saved / "text_encoder/config.json").read_text())
    vocab = json.loads((saved / "tokenizer/vocab.json").read_text())
    assert config["bos_token_id"] == vocab["<|startoftext|>"]
    assert config["eos_token_id"] == vocab["<|endoftext|>"]
    assert all(k.startswith("text_model.") for k in load_file(saved / TEXT_FILE))


def test_dtypes_of_files_and_of_computation(pipeline, folder, tmp_path):
    half = load(folder, dtype=jnp.bfloat16)
    assert_equal(half, cast(pipeline, jnp.bfloat16))
    save(half, tmp_path / "half")
    stored = load_file(tmp_path / "half" / UNET_FILE)
    assert {str(a.dtype) for a in stored.values()} == {"bfloat16"}
    assert_equal(load(tmp_path / "half"), cast(half, jnp.float32))


def test_float16_variant_is_used_when_alone(pipeline, folder):
    path = folder / UNET_FILE
    edit_tensors(path, lambda a: {k: v.astype(np.float16) for k, v in a.items()})
    path.rename(path.with_suffix(".fp16.safetensors"))
    unet = load(folder).unet
    half = cast(pipeline.unet, jnp.float16)
    assert_equal(unet, cast(half, jnp.float32))


def test_shards(pipeline, folder):
    path = folder / UNET_FILE
    arrays = load_file(path)
    path.unlink()
    weight_map = {}
    for i, keys in enumerate(np.array_split(sorted(arrays), 3)):
        name = f"diffusion_pytorch_model-{i + 1:05d}-of-00003.safetensors"
        save_file({k: arrays[k] for k in keys.tolist()}, path.with_name(name))
        weight_map |= dict.fromkeys(keys.tolist(), name)
    index = path.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_equal(load(folder).unet, pipeline.unet)

    path.with_name("diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelFileError, match="1 are missing: .*00002-of-00003"):
        load(folder)
    for name in (
        "../../secret.safetensors",
        "/etc/secret.safetensors",
        "..safetensors",
    ):
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
        with pytest.raises(ModelFileError, match="files in its own folder"):
            load(folder)
    index.write_text("{}")
    with pytest.raises(ModelFileError, match="`weight_map`"):
        load(folder)


def test_old_names(pipeline, folder):
    """Autoencoders from before 2023, and text encoders with and without a prefix."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_vae(arrays):
        renamed = {}
        for key, array in arrays.items():
            for new, name in old.items():
                if f".attentions.0.{new}." in key:
                    key = key.replace(new, name)
                    array = array[..., None, None] if array.ndim == 2 else array
            renamed[key] = array
        assert renamed.keys() != arrays.keys()
        return renamed

    def bare_text(arrays):
        bare = {k.removeprefix("text_model."): v for k, v in arrays.items()}
        return bare | {"embeddings.position_ids": np.arange(9)[None]}

    edit_tensors(folder / VAE_FILE, old_vae)
    edit_tensors(folder / TEXT_FILE, bare_text)
    assert_equal(load(folder), pipeline)


def test_components(pipeline, tmp_path):
    for name, cls in (
        ("unet", UNet2DConditionModel),
        ("vae", AutoencoderKL),
        ("text_encoder", CLIPTextModel),
    ):
        model = getattr(pipeline, name)
        save_component(model, tmp_path / name)
        assert_equal(load_component(cls, tmp_path / name), model)
    with pytest.raises(ModelFileError, match="must describe a AutoencoderKL"):
        load_component(AutoencoderKL, tmp_path / "unet")
    with pytest.raises(ModelFileError, match="must describe a CLIPTextModel"):
        load_component(CLIPTextModel, tmp_path / "vae")
    with pytest.raises(ValueError, match="`model` must be a UNet2DConditionModel"):
        save_component(pipeline.vae.quant_conv, tmp_path / "linear")


def test_number_of_heads_is_written_where_diffusers_reads_it(tmp_path):
    changes = dict(num_attention_heads=(2, 4), attention_head_dim=99)
    config = type(UNET)(**(vars(UNET) | changes))
    rng = np.random.default_rng(0)
    save_component(random_model(UNet2DConditionModel, config, rng), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["attention_head_dim"] == [2, 4]
    assert written["num_attention_heads"] is None
    assert load_component(UNet2DConditionModel, tmp_path).config.num_heads == (2, 4)


def test_tensors_that_do_not_fit_are_listed(folder):
    def edit(arrays):
        for key in sorted(k for k in arrays if k.startswith("down"))[:7]:
            del arrays[key]
        arrays["extra.weight"] = np.zeros(3, np.float32)
        arrays["conv_out.bias"] = np.zeros(5, np.float32)
        return arrays

    edit_tensors(folder / UNET_FILE, edit)
    with pytest.raises(ModelFileError) as caught:
        load(folder)
    text = str(caught.value)
    assert "diffusion_pytorch_model.safetensors" in text
    assert "7 missing: " in text
    assert "and 2 more" in text
    assert "1 unexpected: extra.weight" in text
    assert "1 of the wrong shape: conv_out.bias: (5,), not (4,)" in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(pipeline, folder, tmp_path, value):
    edit_tensors(folder / UNET_FILE, lambda a: a["conv_in.bias"].__setitem__(0, value))
    with pytest.raises(ModelFileError, match="'conv_in.bias' are not finite"):
        load(folder)
    bias = jnp.full(8, value)
    broken = eqx.tree_at(lambda p: p.unet.conv_in.bias, pipeline, bias)
    with pytest.raises(ValueError, match="must be finite; 1 of .*: conv_in.bias"):
        save(broken, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_overflow_in_a_smaller_dtype_is_refused(folder):
    edit_tensors(folder / UNET_FILE, lambda a: a["conv_in.bias"].__setitem__(0, 1e6))
    load(folder, dtype=jnp.bfloat16)
    with pytest.raises(
        ModelFileError, match="'conv_in.bias' are too large for float16"
    ):
        load(folder, dtype=jnp.float16)


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_quantized_weights_are_refused(folder, dtype):
    edit = lambda a: a.update({"conv_in.bias": np.zeros(8, jnp.dtype(dtype))})
    edit_tensors(folder / UNET_FILE, edit)
    with pytest.raises(ModelFileError, match="1 are not: conv_in.bias: (I8|F8_E4M3)"):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "holds none"),
        (lambda f: (f / "model_index.json").write_text("{"), "cannot be read as JSON"),
        (
            lambda f: (f / "model_index.json").write_text("[]"),
            "must hold a JSON object",
        ),
        (lambda f: shutil.rmtree(f / "vae"), "missing are vae"),
        (lambda f: (f / "unet/config.json").unlink(), "config.json' is missing"),
        (lambda f: (f / VAE_FILE).unlink(), "must hold diffusion_pytorch_model.safe"),
        (
            lambda f: (f / VAE_FILE).rename(f / "vae/diffusion_pytorch_model.bin"),
            "must be a file of `torch.save`",
        ),
        (lambda f: (f / "tokenizer/merges.txt").unlink(), "holds no CLIP tokenizer"),
        (
            lambda f: edit_json(f / "model_index.json", text_encoder_2=["a", "b"]),
            "SDXL has two text encoders",
        ),
        (
            lambda f: edit_json(
                f / "model_index.json", _class_name="FluxPipeline", unet=None
            ),
            "whose unet is a UNet2DConditionModel; that of .*FluxPipeline",
        ),
        (
            lambda f: edit_json(f / "unet/config.json", act_fn="mish"),
            "config.json' describes no UNet2DConditionModel: `act_fn`",
        ),
        (
            lambda f: edit_json(f / "unet/config.json", layers_per_block=10**8),
            "unet/config.json' must describe .*`layers_per_block` is 100000000, and",
        ),
        (
            lambda f: edit_json(f / "unet/config.json", layers_per_block=[1, 10**300]),
            "`layers_per_block` is 10{199}... and 101 more letters, and there are",
        ),
        (
            lambda f: edit_json(f / "text_encoder/config.json", num_hidden_layers=9999),
            "`num_hidden_layers` is 9999, and there are 36 tensors",
        ),
        (
            lambda f: edit_json(f / "vae/config.json", scaling_factor=float("nan")),
            "`scaling_factor` in .*vae/config.json' must be finite and not 0; got nan",
        ),
        (
            lambda f: edit_json(f / "vae/config.json", scaling_factor=0),
            "must be finite and not 0; got 0",
        ),
        (
            lambda f: edit_json(f / "unet/config.json", block_out_channels=["8", "16"]),
            "config.json' describes no UNet2DConditionModel",
        ),
        (
            lambda f: edit_json(
                f / "scheduler/scheduler_config.json", beta_schedule="?"
            ),
            "describes no scheduler",
        ),
        (
            lambda f: edit_json(f / "text_encoder/config.json", vocab_size=100),
            "must fit the text encoder|of the wrong shape",
        ),
        (
            lambda f: edit_json(
                f / "tokenizer/tokenizer_config.json", model_max_length=77
            ),
            "77 tokens a prompt, and the text encoder takes 9",
        ),
        (
            lambda f: edit_json(f / "unet/config.json", in_channels=9),
            "conv_in.weight: .* not \\(8, 9, 3, 3\\)",
        ),
    ],
)
def test_folders_that_are_no_model(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ModelFileError, match=message):
        load(folder)


def test_sources_that_are_no_folder(folder, tmp_path):
    with pytest.raises(ModelFileError, match="there is no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="pass the folder above it"):
        load(folder / "unet")
    with pytest.raises(ModelFileError, match="must hold a whole model"):
        load(folder / UNET_FILE)
    with pytest.raises(ValueError, match="`revision` must be None unless"):
        load(folder, revision="main")
    for dtype in ("int8", "float64", "nonsense", 3):
        with pytest.raises(ValueError, match="`dtype` must be None or one of"):
            load(folder, dtype=dtype)


def test_an_embedded_model_that_is_not_there_says_so(monkeypatch):
    find = lambda self, what: pathlib.Path(f"/nowhere/{self.name}") / what
    monkeypatch.setattr(EmbeddedFolder, "find", find)
    for name, what in EMBEDDED_MODELS.items():
        with pytest.raises(ModelFileError, match=f"/nowhere/{name}/{what}' holds none"):
            load(name)
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match=r"^The embedded thing is missing from.*"):
        EmbeddedFolder("nowhere").find("the embedded thing")


def test_a_lora_given_as_a_model(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"unet.a.lora.up.weight": np.zeros(1, np.float32)}, path)
    for source in (path, tmp_path):
        with pytest.raises(ModelFileError, match=r"is a LoRA.*draftx\.load_lora"):
            load(source)


def test_a_pipeline_with_lora_is_not_saved_without_it(pipeline, tmp_path):
    adapted = random_lora(pipeline, targets="attn2.to_k")
    with pytest.raises(ValueError, match="draftx.save_lora.*draftx.merge_lora"):
        save(adapted, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    save(merge_lora(adapted), tmp_path / "new")


def test_only_own_folders_are_replaced(pipeline, folder, tmp_path):
    (folder / "unet/old.txt").write_text("from before")
    save(pipeline, folder)
    assert not (folder / "unet/old.txt").exists()
    (tmp_path / "empty").mkdir()
    save(pipeline, tmp_path / "empty")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="`folder` must be new, empty or a saved"):
        save(pipeline, other)
    with pytest.raises(ValueError, match="is a file"):
        save(pipeline, other / "thesis.tex")
    assert (other / "thesis.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_all_as_it_was(
    pipeline, folder, tmp_path, monkeypatch
):
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_module, "save_component", full)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            save(pipeline, target)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
