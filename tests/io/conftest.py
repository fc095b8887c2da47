"""One random pipeline for all tests of the folder, what `save` made of it, and adapters
of it."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from draftx import Pipeline, save
from draftx.lora import iter_lora
from draftx.models import CLIPTextModel, map_layers, UNet2DConditionModel, UNetConfig

from .single_files import odd_pipeline, open_clip_pipeline
from .tiny import random_lora, random_model, text_config


@pytest.fixture(scope="session")
def pipeline(base_pipeline):
    return base_pipeline


@pytest.fixture(scope="session")
def saved(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(pipeline, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="session")
def scaled_everywhere(pipeline):
    """On all linear layers and convolutions, with a scale that is no power of two."""
    return random_lora(pipeline, rank=3, scale=0.3, mapped=map_layers)


@pytest.fixture(scope="session")
def uneven(pipeline):
    """Ranks differ from layer to layer."""
    some = random_lora(pipeline, rank=3, targets=("to_q", "fc1", "conv1"))
    few = random_lora(pipeline, rank=1, scale=0.7, mapped=map_layers)
    layers = dict(iter_lora(some))
    return map_layers(lambda name, layer: layers.get(name, layer), few)


@pytest.fixture(scope="session")
def like_sd1(pipeline):
    """Stable Diffusion 1.4's layers, all of them, a few channels wide."""
    unet = UNetConfig(
        sample_size=8,
        block_out_channels=(4, 8, 16, 16),
        norm_num_groups=2,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    text = dataclasses.replace(text_config(pipeline.tokenizer), num_hidden_layers=12)
    rng = np.random.default_rng(0)
    return Pipeline(
        random_model(UNet2DConditionModel, unet, rng),
        pipeline.vae,
        random_model(CLIPTextModel, text, rng),
        pipeline.sampler,
        pipeline.tokenizer,
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
