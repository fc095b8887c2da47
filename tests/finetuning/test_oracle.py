"""Every estimator that autograd can express, against PyTorch through diffusers."""

import json

import jax.random as jr
import numpy as np
import pytest

import draftx

from ..goldens import make_gradient as reference
from ..helpers import relative_error
from ..toys import make_pipeline, TOKENIZER


_KEY = jr.key(3)
_TOTAL = reference.NUM_STEPS

_REFL = draftx.ReFL(max_steps=4, min_steps=2)
_ALIGNPROP = draftx.AlignProp(min_steps=2, max_steps=4)
_DRTUNE = draftx.DRTune(num_trained_steps=2)


def _method_key():
    """What `reward_gradient` gives a method of its key."""
    return jr.split(_KEY)[1]


def _alignprop(model):
    k = int(_ALIGNPROP.draw(_TOTAL, _method_key()))
    latents = model.run(model.start, 0, _TOTAL - k)
    return model.score(model.run(latents, _TOTAL - k, _TOTAL, train=True))


def _refl(model):
    draw = jr.randint(_method_key(), (), _REFL.min_steps, _REFL.max_steps + 1)
    return reference.refl(model, int(draw))


def _drtune(model):
    trained = _DRTUNE.indices(_TOTAL, _method_key()).tolist()
    return reference.drtune(model, trained)


def _lv(model, *, single_reward):
    batch, channels, height, width = model.start.shape
    shape = (batch, height, width, channels)
    draws = [np.asarray(jr.normal(k, shape)) for k in jr.split(_method_key(), 2)]
    return reference.draft_lv(model, draws, single_reward=single_reward)


_CASES = {
    "refl": (_REFL, _refl),
    "alignprop": (_ALIGNPROP, _alignprop),
    "drtune": (_DRTUNE, _drtune),
    "draft-lv": (draftx.DRaFTLV(), lambda m: _lv(m, single_reward=False)),
    "single-reward": (draftx.SingleRewardLV(), lambda m: _lv(m, single_reward=True)),
    "penalty": (
        draftx.Penalized(draftx.DRaFT(2), weight=0.3),
        lambda m: reference.penalized(m, 2, 0.3),
    ),
}
# Of the others, finite differences and identities tell as much.
_QUICK = ("drtune", "single-reward", "penalty")


@pytest.fixture(scope="module")
def model():
    for name in ("torch", "diffusers", "peft"):
        pytest.importorskip(name)
    return reference.make_model(TOKENIZER, seed=5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
        for name in _CASES
    ],
)
def test_gradient_equals_autograd(name, model):
    data, torch_model = model
    method, objective = _CASES[name]
    _, gradient = draftx.reward_gradient(
        make_pipeline(data),
        reference.reward,
        json.loads(str(data["prompts"])),
        draftx.Sampling(_TOTAL, reference.GUIDANCE),
        method=method,
        key=_KEY,
        latents=data["latents"],
        memory=draftx.Memory("none"),
    )
    theirs = torch_model.gradient("", objective(torch_model))
    ours = draftx.lora_state_dict(gradient)
    assert {f"/{name}" for name in ours} == theirs.keys()
    assert all(np.any(x != 0) for x in theirs.values())
    names = sorted(ours)
    actual = np.concatenate([np.ravel(ours[n]) for n in names])
    expected = np.concatenate([np.ravel(theirs[f"/{n}"]) for n in names])
    assert relative_error(actual, expected) < 1e-3
