"""A random model and two adapters of it, as the commands are given them."""

import dataclasses

import pytest

from draftx import save, save_lora
from draftx.runs import read_config, write_config

from ..io.tiny import random_lora


@pytest.fixture(scope="session")
def model(short_pipeline, tmp_path_factory):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("model") / "model"
    save(short_pipeline, folder)
    return folder


@pytest.fixture(scope="session")
def adapters(short_pipeline, tmp_path_factory):
    """Files of two adapters, of other ranks and layers."""
    folder = tmp_path_factory.mktemp("adapters")
    files = folder / "a.safetensors", folder / "b.safetensors"
    for i, (file, targets) in enumerate(zip(files, (("to_q",), None), strict=True)):
        adapted = random_lora(short_pipeline, 2 + i, targets=targets, seed=i)
        save_lora(adapted, file)
    return files


@pytest.fixture
def run(model, short_pipeline, tmp_path):
    """The folder of a run that has ended."""
    folder = tmp_path / "run"
    folder.mkdir()
    flags = ["--sampling.num-inference-steps", "2", "--sampling.guidance-scale", "1"]
    flags += ["--evaluation.num-samples", "2", "--evaluation.batch-size", "4"]
    flags += ["--validation-prompt", "a cat", "a dog", "--train-batch-size", "1"]
    flags += ["--held-out-prompts", str(tmp_path / "held_out.txt")]
    (tmp_path / "held_out.txt").write_text("a cat\na dog\na do\n")
    config = read_config(None, ["--preset", "tiny", *flags])
    config = dataclasses.replace(config, model=str(model), output_dir=str(folder))
    (folder / "config.toml").write_text(write_config(config))
    adapted = random_lora(short_pipeline, 2, targets=("to_q", "to_v"))
    save_lora(adapted, folder / "lora.safetensors")
    save_lora(adapted, folder / "lora_kohya.safetensors", format="kohya")
    return folder
