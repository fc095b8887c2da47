"""The gradient through sampling, against PyTorch's autograd."""

import json

import numpy as np
import pytest

import draftx

from ..goldens import make_gradient as reference
from ..helpers import relative_error
from ..toys import make_pipeline, TOKENIZER


_SAMPLING = draftx.Sampling(reference.NUM_STEPS, reference.GUIDANCE)
_LIMIT = 1e-3  # Of the relative error of the whole gradient.


def _check(data, k):
    pipeline = make_pipeline(data)
    rewards, gradient = draftx.reward_gradient(
        pipeline,
        reference.reward,
        json.loads(str(data["prompts"])),
        _SAMPLING,
        method=draftx.DRaFT(truncation_steps=None if k == reference.NUM_STEPS else k),
        latents=data["latents"],
    )
    assert relative_error(rewards, data["rewards"]) < 1e-4
    ours = draftx.lora_state_dict(gradient)
    prefix = f"gradient{k}/"
    theirs = {
        n.removeprefix(prefix): x for n, x in data.items() if n.startswith(prefix)
    }
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.any(theirs[name]), name  # A zero gradient would prove nothing.
    join = lambda state: np.concatenate(
        [np.ravel(state[name]) for name in sorted(ours)]
    )
    assert relative_error(join(ours), join(theirs)) < _LIMIT


@pytest.fixture(scope="module")
def golden():
    with np.load(reference.PATH) as file:
        return dict(file)


@pytest.mark.parametrize("k", [1, 2, reference.NUM_STEPS])
def test_gradient_equals_golden(golden, k):
    _check(golden, k)


def test_images_equal_golden(golden):
    images = draftx.sample(
        make_pipeline(golden),
        json.loads(str(golden["prompts"])),
        _SAMPLING,
        latents=golden["latents"],
    )
    assert relative_error(images, golden["images"]) < 1e-4


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [1, 3])
def test_gradient_equals_autograd(k):
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    _check(reference.make(TOKENIZER, truncations=(k,), seed=k), k)
