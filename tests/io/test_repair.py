"""Old configs: what diffusers' pipeline repairs in them, and what it leaves."""

import dataclasses
import json
import os
import shutil
import warnings

import numpy as np
import pytest

from draftx import load, Sampling, save
from draftx.diffusion import SchedulerConfig
from draftx.io import load_component, ModelFileError
from draftx.models import UNet2DConditionModel
from draftx.pipeline._prepare import latent_shape


SCHEDULER = "scheduler/scheduler_config.json"
# As a script of 2022 wrote it: the defaults of PNDM's class, none of them said.
NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
OLD = dict(NOISE, _class_name="PNDMScheduler", set_alpha_to_one=False)


@pytest.fixture
def written(saved, tmp_path):
    """Makes a folder of the saved model with another scheduler or UNet's size."""

    def make(scheduler=None, **unet):
        folder = tmp_path / "model"
        shutil.copytree(saved, folder, copy_function=os.link)
        if scheduler is not None:
            _replace(folder / SCHEDULER, scheduler)
            index = folder / "model_index.json"
            entry = ["diffusers", scheduler["_class_name"]]
            _replace(index, json.loads(index.read_text()) | dict(scheduler=entry))
        path = folder / "unet/config.json"
        _replace(path, json.loads(path.read_text()) | unet)
        return folder

    return make


def _replace(path, content):
    path.unlink()
    path.write_text(json.dumps(content))


def _is_moved(steps):
    """Whether the last step goes to a smaller noise level."""
    return steps.prev_alpha[-1] > steps.alpha[-1]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({}, "does not say `steps_offset`, which then is 0; it is taken as 1"),
        (dict(steps_offset=0), "says `steps_offset: 0`; it is taken as 1"),
        (dict(steps_offset=2), "says `steps_offset: 2`; it is taken as 1"),
        (dict(steps_offset=None), "says `steps_offset: None`; it is taken as 1"),
    ],
)
def test_the_last_step_of_an_old_file_moves(written, tmp_path, said, text):
    folder = written(OLD | said)
    with pytest.warns(UserWarning, match=f"scheduler_config.json' {text}"):
        pipeline = load(folder)
    assert pipeline.sampler.config == SchedulerConfig()
    steps = pipeline.sampler.steps(50, 0.0)
    assert steps.timestep[-1] == 1
    assert _is_moved(steps)
    # What is saved needs no repair; warnings are errors.
    save(pipeline, tmp_path / "again")
    assert load(tmp_path / "again").sampler == pipeline.sampler


def test_a_config_made_in_python_is_left_alone():
    config = SchedulerConfig.from_dict(OLD | dict(clip_sample=True))
    assert (config.steps_offset, config.clip_sample) == (0, True)


def test_latents_are_not_clipped(written):
    folder = written(OLD | dict(steps_offset=1, clip_sample=True))
    with pytest.warns(UserWarning, match="`clip_sample: true`; it is taken as false"):
        pipeline = load(folder)
    assert pipeline.sampler.config == SchedulerConfig()


@pytest.mark.parametrize("name", ["DPMSolverSinglestep", "RePaint"])
def test_schedulers_without_an_offset_are_not_said_to_have_one(written, name):
    folder = written(NOISE | dict(_class_name=f"{name}Scheduler"))
    assert load(folder).sampler.config.steps_offset == 0


@pytest.mark.parametrize(
    ("version", "size", "expected"),
    [
        ("0.8.1", 32, 64),
        ("0.2.2", 8, 64),
        ("0.8.1", 32.0, 64),
        # What diffusers leaves: newer ones (0.9's own previews too), pairs, large ones.
        ("0.9.0.dev0", 32, 32),
        ("0.35.0", 32, 32),
        (None, 32, 32),
        ("0.8.1", [32, 48], (32, 48)),
        ("0.8.1", 96, 96),
    ],
)
def test_sizes_of_before_0_9(written, version, size, expected):
    folder = written(_diffusers_version=version, sample_size=size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline = load(folder)
    assert pipeline.unet.config.sample_size == expected
    texts = [str(w.message) for w in caught]
    assert len(texts) == (expected != size and size != [32, 48])
    assert all(f"`sample_size: {size}`; it is taken as 64" in text for text in texts)
    # A part alone is not a pipeline's, there as here.
    if isinstance(size, int):
        unet = load_component(UNet2DConditionModel, folder / "unet")
        assert unet.config.sample_size == size


def test_a_pair_is_height_and_width(written, tmp_path):
    pipeline = load(written(sample_size=[8, 16]))
    assert pipeline.latent_shape == (8, 16, 4)
    assert latent_shape(pipeline, Sampling()) == (8, 16, 4)
    # Two pixels a latent; the UNet halves once.
    assert latent_shape(pipeline, Sampling(height=4)) == (2, 16, 4)
    save(pipeline, tmp_path / "again")
    stored = json.loads((tmp_path / "again/unet/config.json").read_text())
    assert stored["sample_size"] == [8, 16]
    assert load(tmp_path / "again").unet.config == pipeline.unet.config


def test_a_size_that_cannot_be_halved_is_named(written):
    pipeline = load(written(sample_size=[8, 9]))
    text = "`width` must be a multiple of 4 .* got the model's own, 18. Use 16."
    with pytest.raises(ValueError, match=text):
        latent_shape(pipeline, Sampling())
    assert latent_shape(pipeline, Sampling(width=16)) == (8, 8, 4)


def test_a_size_of_three_numbers_is_refused(written):
    with pytest.raises(ModelFileError, match="unet/config.json' .*`sample_size` must"):
        load(written(sample_size=[8, 9, 3]))


def test_a_stretched_schedule_is_saved_as_such(pipeline, tmp_path):
    config = SchedulerConfig(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    sampler = dataclasses.replace(pipeline.sampler, config=config)
    save(dataclasses.replace(pipeline, sampler=sampler), tmp_path / "model")
    loaded = load(tmp_path / "model").sampler
    assert loaded == sampler
    assert np.isfinite(np.asarray(loaded.steps(4, 1.0).noise_scale)).all()
    assert json.loads((tmp_path / "model" / SCHEDULER).read_text())[
        "rescale_betas_zero_snr"
    ]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", [{}, dict(clip_sample=True), dict(clip_sample=False)])
@pytest.mark.parametrize("offset", [{}, *(dict(steps_offset=i) for i in range(3))])
@pytest.mark.parametrize("name", ["PNDM", "DDIM", "EulerDiscrete", "DDPM"])
def test_schedulers_are_those_of_diffusers_pipeline_live(written, name, offset, clip):
    diffusers = pytest.importorskip("diffusers")
    folder = written(NOISE | offset | clip | dict(_class_name=f"{name}Scheduler"))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder).scheduler.config
    ours = load(folder).sampler.config
    assert ours.steps_offset == theirs["steps_offset"]
    assert ours.clip_sample == theirs.get("clip_sample", False)
    said = dataclasses.asdict(ours)
    assert {field: theirs.get(field, value) for field, value in said.items()} == said


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", ["0.2.2", "0.8.1", "0.9.0.dev0", "0.35.0"])
@pytest.mark.parametrize("size", [8, 32, 64, [32, 48]])
def test_sizes_are_those_of_diffusers_pipeline_live(written, version, size):
    diffusers = pytest.importorskip("diffusers")
    folder = written(_diffusers_version=version, sample_size=size)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder).unet.config
    one, of_pair = load(folder).unet.config.latent_size, theirs.sample_size
    assert one == (tuple(of_pair) if isinstance(of_pair, list) else (of_pair,) * 2)
