"""Single files of published kinds, which need no config: what draftx knows of them."""

import dataclasses
import tempfile

import numpy as np
import pytest

from draftx import add_conditioning_image, load, save
from draftx.io import published_config
from draftx.io.original import clip_tokenizer, Kind, KINDS
from draftx.models import AutoencoderConfig, CLIPTextConfig, UNetConfig

from .single_files import pipeline_of
from .tiny import assert_equal, UNET, VAE


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
        return pipeline_of(
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
