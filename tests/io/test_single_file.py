"""Whole models in one file: names, round trips, what is passed over, and errors."""

import dataclasses
import gzip
import json
import os
import pickle
import tempfile

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import add_conditioning_image, load, Pipeline, save
from draftx.io import ModelFileError, published_config
from draftx.io.original import clip_tokenizer, Kind, KINDS, places
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)

from .test_manifests import FOLDER, skeleton
from .test_pickle import _Call, _Global, contiguous, write_zip, WRITERS
from .tiny import assert_equal, cast, random_model, text_config, UNET, VAE


EMA = "model_ema.decay"
GOLDEN = json.loads(gzip.decompress((FOLDER / "original_names.json.gz").read_bytes()))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_names_are_those_that_diffusers_converts(part):
    found = places(skeleton(part), is_open_clip=False)
    assert {key: place.key for key, place in found.items()} == GOLDEN[part]
    assert all(place.third is None for place in found.values())


def test_names_of_open_clip_are_those_that_diffusers_converts():
    config = CLIPTextConfig.from_dict(KINDS["v2"].text_encoder)
    model = eqx.filter_eval_shape(CLIPTextModel, config, key=jr.key(0))
    found = places(model, is_open_clip=True)
    assert {key: [*place] for key, place in found.items()} == GOLDEN["open_clip"]


def odd_pipeline(tokenizer):
    """Levels without attention around one that has it, three layers each."""
    unet = dataclasses.replace(
        UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8, 4),
        layers_per_block=3,
    )
    vae = dataclasses.replace(
        VAE,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        layers_per_block=3,
    )
    return _pipeline(unet, vae, text_config(tokenizer), tokenizer)


def open_clip_pipeline(tokenizer):
    """As Stable Diffusion 2.1: linear projections, another text encoder, velocity."""
    unet = dataclasses.replace(UNET, use_linear_projection=True)
    text = dataclasses.replace(text_config(tokenizer), hidden_act="gelu")
    return _pipeline(unet, VAE, text, tokenizer, KINDS["v2"].sampler)


def _pipeline(unet, vae, text, tokenizer, sampler=None):
    rng = np.random.default_rng(3)
    return Pipeline(
        random_model(UNet2DConditionModel, unet, rng),
        random_model(AutoencoderKL, vae, rng),
        random_model(CLIPTextModel, text, rng),
        KINDS["v1"].sampler if sampler is None else sampler,
        tokenizer,
    )


@pytest.fixture(scope="module", params=["v1", "open_clip", "odd"])
def kept(request, pipeline, tokenizer, tmp_path_factory):
    """A pipeline, its folder, and its single file."""
    made = {
        "v1": lambda: pipeline,
        "open_clip": lambda: open_clip_pipeline(tokenizer),
        "odd": lambda: odd_pipeline(tokenizer),
    }[request.param]()
    folder = tmp_path_factory.mktemp("kept")
    save(made, folder / "model")
    save(made, folder / "model.safetensors")
    return made, str(folder / "model"), folder / "model.safetensors"


@pytest.fixture(scope="session")
def v1(pipeline, saved, tmp_path_factory):
    """The arrays of a single file, and the folder with its configs."""
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save(pipeline, path)
    return load_file(path), str(saved)


def test_a_file_goes_there_and_back(kept):
    pipeline, folder, file = kept
    assert_equal(load(file, config=folder), pipeline)
    names = load_file(file)
    is_open_clip = pipeline.text_encoder.config.hidden_act == "gelu"
    assert any(key.endswith("attn.in_proj_weight") for key in names) == is_open_clip
    assert any(".self_attn.q_proj." in key for key in names) != is_open_clip
    # The autoencoder's attention is made of convolutions there.
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    assert names[key].shape[2:] == (1, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_stored_is_the_dtype_of_the_file(pipeline, v1, tmp_path, dtype):
    half = cast(pipeline, dtype)
    save(half, tmp_path / "half.safetensors")
    assert_equal(
        load(tmp_path / "half.safetensors", dtype="stored", config=v1[1]), half
    )
    assert_equal(
        load(tmp_path / "half.safetensors", config=v1[1]), cast(half, "float32")
    )


def test_a_file_that_is_there_is_not_replaced(pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="`folder` must not exist if it names a file"):
        save(pipeline, path)
    assert path.read_bytes() == b"mine"


def _write(path, arrays):
    save_file({key: np.ascontiguousarray(x) for key, x in arrays.items()}, path)
    return path


def test_old_names_of_the_text_encoder(pipeline, v1, tmp_path):
    arrays, folder = v1
    old = {key.replace(".text_model.", "."): array for key, array in arrays.items()}
    assert old.keys() != arrays.keys()
    assert_equal(load(_write(tmp_path / "x.safetensors", old), config=folder), pipeline)


def test_what_training_left_is_passed_over(kept, tmp_path):
    pipeline, folder, file = kept
    arrays = load_file(file)
    one = np.ones(3, np.float32)
    text = "cond_stage_model.transformer.text_model"
    extra = [EMA, "model_ema.diffusion_modelout2weight", "betas", "alphas_cumprod"]
    extra += ["posterior_variance", "logvar", "first_stage_model.loss.logvar"]
    extra += ["first_stage_model.model_ema.decay"]
    if pipeline.text_encoder.config.hidden_act == "gelu":
        text = "cond_stage_model.model"
        extra += [
            f"{text}.{k}" for k in ("logit_scale", "text_projection", "attn_mask")
        ]
        extra += [f"{text}.transformer.resblocks.23.ln_1.weight"]
    arrays |= dict.fromkeys(extra, one)
    arrays[f"{text}.embeddings.position_ids"] = np.arange(9)[None]
    loaded = load(_write(tmp_path / "x.safetensors", arrays), config=folder)
    assert_equal(loaded, pipeline)


def _checkpoint(arrays):
    """As Lightning keeps it: callbacks by their classes, scalars of NumPy."""
    scalar = _Call(
        _Global("numpy.core.multiarray", "scalar"),
        _Call(_Global("numpy", "dtype"), "f8", 0, 1, state=(3, "<", None)),
        b"\0" * 8,
    )
    callback = _Global(
        "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"
    )
    state = {
        key: contiguous(
            array, str(i), f"{'Half' * (array.itemsize == 2) or 'Float'}Storage"
        )
        for i, (key, array) in enumerate(arrays.items())
    }
    return {
        "epoch": 6,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": scalar, "monitor": "val/loss"}},
        "lr_schedulers": [_Call(_Global("omegaconf.dictconfig", "DictConfig"), {})],
        # Imported it would be an error, and run it would be worse.
        "hyper_parameters": _Call(
            _Global("numpy.testing.none", "runstring"), "1/0", {}
        ),
        "state_dict": state,
    }


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_checkpoints_of_a_trainer(pipeline, v1, tmp_path, suffix):
    arrays, folder = v1
    write = WRITERS["legacy" if suffix == ".pt" else "zip"]
    path = tmp_path / f"model{suffix}"
    write(path, _checkpoint(arrays))
    assert_equal(load(path, config=folder), pipeline)
    half = {key: array.astype(np.float16) for key, array in arrays.items()}
    write(path, _checkpoint(half))
    assert (
        load(path, dtype="stored", config=folder).unet.conv_in.bias.dtype == "float16"
    )


def test_a_flipped_bit_in_an_archive_is_found(v1, tmp_path):
    arrays, folder = v1
    write_zip(tmp_path / "x.ckpt", _checkpoint(arrays))
    data = bytearray((tmp_path / "x.ckpt").read_bytes())
    place = data.find(arrays["model.diffusion_model.out.2.bias"].tobytes())
    data[place] ^= 1
    (tmp_path / "x.ckpt").write_bytes(data)
    with pytest.raises(ModelFileError, match="cannot be read: .*checksum"):
        load(tmp_path / "x.ckpt", config=folder)


class _Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_nothing_of_a_checkpoint_is_run(tmp_path):
    target = tmp_path / "made"
    data = pickle.dumps({"callbacks": _Malicious(f"touch {target}")}, 2)
    write_zip(tmp_path / "x.ckpt", {}, pickled=data)
    with pytest.raises(ModelFileError, match="names `posix.system`, which was not run"):
        load(tmp_path / "x.ckpt")
    assert not target.exists()
    pickle.loads(data)
    assert target.exists()


UNET_KEY = "model.diffusion_model.out.2.bias"
_WRONG = {
    "missing": (lambda a: a.pop(UNET_KEY), "1 missing: conv_out.bias"),
    "unexpected": (
        lambda a: a.update({"model.diffusion_model.more": a[UNET_KEY]}),
        "1 unexpected: model.diffusion_model.more.$",
    ),
    "misshaped": (
        lambda a: a.update({UNET_KEY: a[UNET_KEY][:2]}),
        r"1 of the wrong shape: conv_out.bias: \(2,\), not \(4,\)",
    ),
    "class labels": (
        lambda a: a.update({"model.diffusion_model.label_emb.0.0.bias": a[UNET_KEY]}),
        "It looks like SDXL",
    ),
    "SDXL": (
        lambda a: a.update({"conditioner.embedders.0.x": a[UNET_KEY]}),
        "looks like SDXL, which has two text encoders. It is not supported",
    ),
    "SD3": (
        lambda a: a.update({"model.diffusion_model.joint_blocks.0.x": a[UNET_KEY]}),
        "looks like Stable Diffusion 3",
    ),
    "Flux": (
        lambda a: a.update({"model.diffusion_model.double_blocks.0.x": a[UNET_KEY]}),
        "looks like Flux",
    ),
    "ControlNet": (
        lambda a: a.update({"control_model.input_blocks.0.x": a[UNET_KEY]}),
        "looks like a ControlNet",
    ),
    "no text encoder": (
        lambda a: [a.pop(k) for k in [*a] if k.startswith("cond_stage_model.")],
        "has no text encoder, whose names",
    ),
    "an autoencoder": (
        lambda a: [a.pop(k) for k in [*a] if not k.startswith("first_stage_model.")],
        "has no UNet, no text encoder",
    ),
}


@pytest.mark.parametrize("name", _WRONG)
def test_what_does_not_fit_is_named(v1, tmp_path, name):
    arrays, folder = dict(v1[0]), v1[1]
    change, text = _WRONG[name]
    change(arrays)
    with pytest.raises(ModelFileError, match=text):
        load(_write(tmp_path / "x.safetensors", arrays), config=folder)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("unet.mid_block.to_q.lora.down.weight", "is a LoRA.*draftx.load_lora"),
        ("lora_unet_mid_block.lora_down.weight", "is a LoRA"),
        ("emb_params", "is a learned word.*draftx.load_embedding"),
        ("double_blocks.0.img_attn.qkv.weight", "a diffusion transformer"),
        ("control_model.input_blocks.0.0.weight", "looks like a ControlNet"),
        ("decoder.up_blocks.0.resnets.0.norm1.weight", "looks like an autoencoder"),
        ("decoder.mid.block_1.norm1.weight", "has none|learned word"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, key, text):
    arrays = {key: np.ones((2, 3), np.float32)}
    with pytest.raises(ModelFileError, match=f"must hold a whole model.*({text})"):
        load(_write(tmp_path / "x.safetensors", arrays))


def test_what_is_asked_for_wrongly(v1, saved, tmp_path):
    path = _write(tmp_path / "x.safetensors", v1[0])
    with pytest.raises(ModelFileError, match=r"attends to \[12\] features of the text"):
        load(path)
    with pytest.raises(ModelFileError, match="or `config` name a folder"):
        load(path, config="v1")
    with pytest.raises(ValueError, match="`config` must be None, one of .*'v3'"):
        load(path, config="v3")
    with pytest.raises(ModelFileError, match="must be a folder with a model_index"):
        load(path, config=tmp_path)
    with pytest.raises(ValueError, match="`config` must be None unless `source` is a"):
        load(saved, config="v1")
    with pytest.raises(ValueError, match="`variant` must be None for a single file"):
        load(path, variant="fp16")
    with pytest.raises(ValueError, match="`revision` must be None unless"):
        load(path, revision="main")
    for name in ("x.gguf", "x"):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(ModelFileError, match=r"ends in \.safetensors, \.ckpt"):
            load(tmp_path / name)
    with pytest.raises(ModelFileError, match="and there is no such"):
        load(tmp_path / "absent.ckpt")


def test_the_vocabulary_is_clips():
    """Ids that every program for Stable Diffusion gives."""
    prompts = ["a photo of an astronaut riding a horse on mars", "a sks dog, cat"]
    astronaut = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    dog = [49406, 320, 48136, 1929, 267, 2368, 49407]
    for pad, i in (("<|endoftext|>", 49407), ("!", 0)):
        tokenizer = clip_tokenizer(pad)
        ids = np.asarray(tokenizer(prompts))
        assert ids.shape == (2, 77)
        for row, expected in zip(ids, (astronaut, dog), strict=True):
            assert row.tolist() == expected + [i] * (77 - len(expected))
        assert tokenizer.vocab_size == 49408


def test_the_vocabulary_needs_no_room_on_disk(monkeypatch):
    """A model can be loaded where nothing can be written."""

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert clip_tokenizer("!").max_length == 77


@pytest.fixture
def published(monkeypatch):
    """The published kinds, a few channels wide; gives the pipeline of one."""

    def small(kind):
        unet = dict(
            kind.unet,
            sample_size=8,
            down_block_types=list(UNET.down_block_types),
            up_block_types=list(UNET.up_block_types),
            block_out_channels=[8, 16],
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=12,
            attention_head_dim=2,
        )
        vae = dataclasses.asdict(VAE)
        text = dict(kind.text_encoder, hidden_size=12, intermediate_size=20)
        text |= dict(num_hidden_layers=2, num_attention_heads=2)
        return Kind(unet, vae, text, kind.scheduler, kind.pad_token)

    for name, kind in KINDS.items():
        monkeypatch.setitem(KINDS, name, small(kind))

    def make(name):
        kind = KINDS[name]
        return _pipeline(
            UNetConfig.from_dict(kind.unet),
            AutoencoderConfig.from_dict(kind.vae),
            CLIPTextConfig.from_dict(kind.text_encoder),
            clip_tokenizer(kind.pad_token),
            kind.sampler,
        )

    return make


def test_version_1_needs_no_config(published, tmp_path):
    pipeline = published("v1")
    assert published_config(pipeline) == "v1"
    save(pipeline, tmp_path / "x.safetensors")
    assert_equal(load(tmp_path / "x.safetensors"), pipeline)
    seeing = add_conditioning_image(pipeline)
    assert published_config(seeing) == "v1"
    save(seeing, tmp_path / "y.safetensors")
    assert_equal(load(tmp_path / "y.safetensors"), seeing)
    other = dataclasses.replace(pipeline, tokenizer=clip_tokenizer("!"))
    assert published_config(other) is None


def test_version_2_is_told_by_its_config(published, tmp_path):
    pipeline, path = published("v2"), tmp_path / "x.safetensors"
    save(pipeline, path)
    with pytest.warns(UserWarning, match='does not say what .*config="v2-base"'):
        assert_equal(load(path), pipeline)
    assert_equal(load(path, config="v2"), pipeline)
    for name, prediction, spacing in (
        ("v2", "v_prediction", "leading"),
        ("v2-base", "epsilon", "leading"),
        ("turbo", "epsilon", "trailing"),
    ):
        loaded = load(path, config=name)
        config = loaded.sampler.config
        assert config.prediction_type == prediction
        assert config.timestep_spacing == spacing
        assert loaded.tokenizer.pad_token == "!"
        assert published_config(loaded) == name
    # SD-Turbo is trained at these.
    assert loaded.sampler.steps(1, 0.0).timestep.tolist() == [999]
    assert loaded.sampler.steps(4, 0.0).timestep.tolist() == [999, 749, 499, 249]
