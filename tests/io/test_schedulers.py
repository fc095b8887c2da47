"""The scheduler that a folder names: its class's defaults, or that it is no DDPM's."""

import dataclasses
import inspect
import json
import os
import shutil

import numpy as np
import pytest

from draftx import load
from draftx.diffusion import SchedulerConfig
from draftx.io import ModelFileError
from draftx.io.pipeline._schedulers import with_defaults


# Nothing in these is repaired.
BARE = dict(steps_offset=1, clip_sample=False)
SD14 = BARE | dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FOLDER = "scheduler/scheduler_config.json"
# As DDIM's class takes what a file does not say.
OF_DDIM = SchedulerConfig.from_dict(BARE)
LINSPACE = dict(timestep_spacing="linspace")
BETAS = dict(beta_start=0.00085, beta_end=0.012)
# Of the signatures in diffusers 0.42; a test below compares with those installed.
OTHER_DEFAULTS = [
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("PNDMScheduler", dict(set_alpha_to_one=False)),
    ("FlaxPNDMScheduler", dict(set_alpha_to_one=False)),
    ("LMSDiscreteScheduler", LINSPACE),
    ("EulerDiscreteScheduler", LINSPACE),
    ("EulerAncestralDiscreteScheduler", LINSPACE),
    ("DPMSolverMultistepScheduler", LINSPACE),
    ("DPMSolverSinglestepScheduler", LINSPACE),
    ("DPMSolverSDEScheduler", LINSPACE | BETAS),
    ("HeunDiscreteScheduler", LINSPACE | BETAS),
    ("KDPM2DiscreteScheduler", LINSPACE | BETAS),
    ("UniPCMultistepScheduler", LINSPACE),
    ("LCMScheduler", BETAS | dict(beta_schedule="scaled_linear")),
    ("TCDScheduler", BETAS | dict(beta_schedule="scaled_linear")),
]


@pytest.fixture
def written(saved, tmp_path):
    """Makes a folder of the saved model with another scheduler, named in both files."""

    def make(config, in_index=None):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder, copy_function=os.link)
        entry = in_index or config.get("_class_name")
        index = json.loads((folder / "model_index.json").read_text())
        for name, content in (
            (FOLDER, config),
            ("model_index.json", index | dict(scheduler=["diffusers", entry])),
        ):
            (folder / name).unlink()
            (folder / name).write_text(json.dumps(content))
        return folder

    return make


@pytest.mark.parametrize(("name", "others"), OTHER_DEFAULTS)
def test_what_a_file_leaves_out_is_as_in_its_class(written, name, others):
    expected = dataclasses.replace(OF_DDIM, **others)
    assert load(written(BARE | dict(_class_name=name))).sampler.config == expected


def test_what_a_file_says_counts_and_null_is_absent():
    name = "HeunDiscreteScheduler"
    config = dict(beta_start=0.001, beta_end=None, set_alpha_to_one=None)
    read = SchedulerConfig.from_dict(with_defaults(config, name))
    assert (read.beta_start, read.beta_end) == (0.001, 0.012)
    # At a switch it is "off".
    null = with_defaults(dict(set_alpha_to_one=None), "PNDMScheduler")
    assert null["set_alpha_to_one"] is None


def test_the_index_says_which_class_the_pipeline_makes(written):
    file = BARE | dict(_class_name="PNDMScheduler")
    config = load(written(file, "EulerDiscreteScheduler")).sampler.config
    assert config == dataclasses.replace(OF_DDIM, timestep_spacing="linspace")


def test_a_config_without_a_folder_has_the_defaults_of_ddim():
    name = dict(_class_name="EulerDiscreteScheduler")
    assert SchedulerConfig.from_dict(BARE | name) == OF_DDIM


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FlowMatchEulerDiscreteScheduler", "a flow between data and noise"),
        ("FlowMatchHeunDiscreteScheduler", "a flow"),
        ("FlaxKarrasVeScheduler", "noise levels, not of timesteps"),
        ("EDMEulerScheduler", "noise levels"),
        ("EDMDPMSolverMultistepScheduler", "noise levels"),
        ("CMStochasticIterativeScheduler", "noise levels"),
        ("ScoreSdeVeScheduler", "noise levels"),
        ("ScoreSdeVpScheduler", "a noise schedule of its own"),
        ("CogVideoXDDIMScheduler", "a noise schedule of its own"),
        ("UnCLIPScheduler", "a noise schedule of its own"),
        ("IPNDMScheduler", "a noise schedule of its own"),
        ("VQDiffusionScheduler", "discrete tokens"),
    ],
)
def test_schedulers_of_other_processes_are_refused(written, name, reason):
    text = f"scheduler_config.json' must be .* it is of {name}, which .*{reason}"
    # Betas that the class would pass over do not help, nor a name in one file alone.
    for config, in_index in (
        (SD14 | dict(_class_name=name), None),
        (SD14 | dict(_class_name=name), "DDIMScheduler"),
        (SD14 | dict(_class_name="DDIMScheduler"), name),
    ):
        with pytest.raises(ModelFileError, match=text):
            load(written(config, in_index))


def test_unknown_schedulers_must_say_their_betas(written):
    name = dict(_class_name="SomebodysScheduler")
    expected = dataclasses.replace(SchedulerConfig(), set_alpha_to_one=True)
    assert load(written(SD14 | name)).sampler.config == expected
    text = "must say at least one of beta_start, .* 'SomebodysScheduler' .* says none"
    with pytest.raises(ModelFileError, match=text):
        load(written(dict(shift=3.0) | name))


@pytest.mark.parametrize(
    ("field", "said", "means"),
    [
        ("num_train_timesteps", 1000.0, 1000),
        ("steps_offset", 1.0, 1),
        ("trained_betas", [0.01] * 999 + [1], (0.01,) * 999 + (1,)),
        ("set_alpha_to_one", 1, True),
    ],
)
def test_whole_numbers_may_be_said_as_others(written, field, said, means):
    folder = written(SD14 | dict(_class_name="DDIMScheduler") | {field: said})
    read = getattr(load(folder).sampler.config, field)
    assert read == means
    assert type(read) is type(means)


@pytest.mark.parametrize(
    ("field", "said", "kind"),
    [
        ("num_train_timesteps", 1000.5, "a whole number; got 1000.5"),
        ("num_train_timesteps", "1000", "a whole number; got '1000'"),
        ("num_train_timesteps", True, "a whole number; got True"),
        ("steps_offset", "1", "a whole number; got '1'"),
        ("steps_offset", True, "a whole number; got True"),
        ("steps_offset", [0, 1], "a whole number; got .0, 1."),
        ("beta_start", "0.00085", "a number; got '0.00085'"),
        ("beta_end", {}, "a number; got {}"),
        ("trained_betas", ["0.1", "0.2"], "a list, a number each; got .'0.1'"),
        ("trained_betas", 0.1, "a list, a number each; got 0.1"),
        ("set_alpha_to_one", "false", "true or false; got 'false'"),
        ("prediction_type", 1, "a text; got 1"),
    ],
)
def test_what_is_no_number_is_refused_by_file_and_field(written, field, said, kind):
    folder = written(SD14 | dict(_class_name="DDIMScheduler") | {field: said})
    text = f"scheduler_config.json' .*: `{field}` of the scheduler must be {kind}"
    with pytest.raises(ModelFileError, match=text):
        load(folder)


def _classes():
    """Those of the diffusers that is installed, by name."""
    diffusers = pytest.importorskip("diffusers")
    found = {}
    for name in sorted(dir(diffusers)):
        # Not those for JAX, nor the stand-ins for what cannot be imported here.
        cls = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if getattr(cls, "__module__", "").startswith("diffusers.schedulers."):
            found[name] = cls
    return found


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_every_class_of_diffusers_is_read_as_it_is_or_refused_live(written):
    read = set()
    for name, cls in _classes().items():
        folder = written(dict(_class_name=name))
        parameters = inspect.signature(cls).parameters
        shifted = name.startswith("CogVideoX")
        if shifted or not {"beta_start", "beta_schedule"} <= parameters.keys():
            with pytest.raises(ModelFileError, match=f"it is of {name}, which"):
                load(folder)
            continue
        ours = load(folder).sampler.config
        read.add(name)
        theirs = cls()
        for field in {"beta_start"} | dataclasses.asdict(ours).keys():
            # What the pipeline repairs has tests of its own.
            if field in parameters and field not in ("steps_offset", "clip_sample"):
                assert getattr(ours, field) == parameters[field].default, (name, field)
        assert ours.steps_offset == ("steps_offset" in parameters), name
        np.testing.assert_allclose(
            ours.alphas_cumprod(), theirs.alphas_cumprod, rtol=1e-4, err_msg=name
        )
    assert {name for name, _ in OTHER_DEFAULTS} & _classes().keys() <= read


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_the_index_names_the_class_of_diffusers_pipeline_live(written):
    diffusers = pytest.importorskip("diffusers")
    file = BARE | dict(_class_name="PNDMScheduler")
    folder = written(file, "EulerDiscreteScheduler")
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder).scheduler
    assert type(theirs) is diffusers.EulerDiscreteScheduler
    assert theirs.config.timestep_spacing == "linspace"
    assert load(folder).sampler.config.timestep_spacing == "linspace"
    # What the class filled in does not outlive it; why draftx does not go by that.
    forgotten = diffusers.DDIMScheduler.from_config(theirs.config).config
    assert forgotten.timestep_spacing == "leading"
