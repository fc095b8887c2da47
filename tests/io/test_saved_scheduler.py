"""What is left of another scheduler when a model is saved, which then has DDIM's."""

import json
import os
import shutil

import pytest

from draftx import load, save


SCHEDULER = "scheduler/scheduler_config.json"
SAID = {
    "beta_start": 0.001,
    "beta_end": 0.011,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 900,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}


@pytest.fixture
def resaved(saved, tmp_path):
    """Loads and saves the model with the scheduler of another class, said or not."""

    def run(name, **fields):
        folder = shutil.copytree(saved, tmp_path / "old", copy_function=os.link)
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", name]
        config = {"_class_name": name} | SAID | fields
        for path, content in (("model_index.json", index), (SCHEDULER, config)):
            (folder / path).unlink()
            (folder / path).write_text(json.dumps(content))
        loaded = load(folder)
        save(loaded, tmp_path / "new")
        assert load(tmp_path / "new").sampler == loaded.sampler
        return tmp_path / "new"

    return run


@pytest.mark.parametrize(
    ("name", "fields", "kept"),
    [
        (
            "EulerDiscreteScheduler",
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
        # Defaults of the class, not of DDIM, are written out.
        ("EulerDiscreteScheduler", {}, {"timestep_spacing": "linspace"}),
        ("PNDMScheduler", {"skip_prk_steps": True}, {"set_alpha_to_one": False}),
        ("DPMSolverMultistepScheduler", {"solver_order": 2}, {"steps_offset": 1}),
    ],
)
def test_what_the_noise_is_made_of_is_kept(resaved, name, fields, kept):
    folder = resaved(name, **fields)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    config = json.loads((folder / SCHEDULER).read_text())
    assert config["_class_name"] == "DDIMScheduler"
    assert config | SAID | kept == config
    assert not {"skip_prk_steps", "solver_order"} & set(config)
