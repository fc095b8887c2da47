"""The gradient of score distillation, against PyTorch's autograd through diffusers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx import distillation

from ..goldens import make_distillation as reference, make_gradient
from ..helpers import relative_error
from ..toys import make_pipeline, TOKENIZER


# What the others are made of is in these.
_QUICK = ("reward", "reference", "noises")


def _check(data, case, expected):
    fraction = reference.TIMESTEP / 999
    noises = prompt = None
    if case.get("noises"):
        noises = distillation.RewardedNoises(
            make_gradient.reward,
            distillation.Softmax(reference.TEMPERATURE),
            num_noises=reference.NUM_NOISES,
            num_steps=reference.NUM_STEPS,
        )
    if "pictures" in case:
        prompt = distillation.VisualPrompt(
            data["pictures"][: case["pictures"]],
            in_negative=case.get("in_negative", False),
        )
    space = "latents" if case.get("latents") else "images"
    figures, gradient = distillation.distillation_gradient(
        make_pipeline(data),
        lambda params, key: params,
        jnp.asarray(data[space]),
        json.loads(str(data["prompts"])),
        draftx.Sampling(guidance_scale=make_gradient.GUIDANCE),
        key=reference.KEY,
        method=distillation.ScoreDistillation(
            (fraction, fraction),
            weighting="uniform" if case.get("uniform") else "sigma_squared",
            renders=space,
            noises=noises,
        ),
        reward=make_gradient.reward if case.get("reward") else None,
        visual_prompt=prompt,
    )
    assert figures["timestep"] == reference.TIMESTEP
    assert relative_error(figures["residual"], expected["residual"]) < 1e-4
    assert relative_error(gradient, expected["gradient"]) < 1e-3


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
        for name in reference.CASES
    ],
)
def test_gradient_equals_golden(name):
    with np.load(make_gradient.PATH) as file:
        data = dict(file) | reference.inputs()
    with np.load(reference.PATH) as file:
        expected = {k: file[f"{name}/{k}"] for k in ("gradient", "residual")}
    _check(data, reference.CASES[name], expected)


def test_cases_differ():
    with np.load(reference.PATH) as file:
        plain = file["text/gradient"]
        for name in ("uniform", "reward", "reference", "noises"):
            assert relative_error(file[f"{name}/gradient"], plain) > 0.01, name


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_gradient_equals_autograd():
    for name in ("torch", "diffusers", "peft"):
        pytest.importorskip(name)
    names = ("reference", "reference_in_negative", "noises")
    cases = {name: reference.CASES[name] for name in names}
    data, found = reference.reference(TOKENIZER, cases, seed=5)
    for name, case in cases.items():
        _check(data, case, found[name])
