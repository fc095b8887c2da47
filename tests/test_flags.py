"""What is neither `True` nor `False` is named wherever one of them is asked for."""

import inspect

import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx import distillation, models, rewards

from .public_numbers import IMAGES, public, TABLE


# Whether a bar is shown; and what may be a number as well, which has a test of its own.
_EXEMPT = {"progress", "resume"}
# What the table of numbers makes otherwise, or not at all.
_MADE = {
    distillation.VisualPrompt: lambda _, **options: distillation.VisualPrompt(
        IMAGES, **options
    ),
    distillation.TokenPrompt: lambda pipeline, **options: distillation.TokenPrompt(
        IMAGES,
        models.ImageTokens(pipeline.unet.config, embedding_features=3, key=jr.key(0)),
        lambda images: jnp.mean(images, axis=(1, 2)),
        **options,
    ),
    rewards.DetectionReward: lambda _, **options: rewards.DetectionReward(
        object(), object(), **options
    ),
}
# Errors have no signature, and programs no hash.
_FUNCTIONS = {
    f"{fn.__module__}.{fn.__name__}": fn
    for fn in public()
    if not fn.__name__.endswith("Error")
}
_CASES = [
    (fn, name)
    for fn in _FUNCTIONS.values()
    for name, parameter in inspect.signature(fn).parameters.items()
    if isinstance(parameter.default, bool) and name not in _EXEMPT
]


def test_flags_are_found():
    assert (draftx.EarlyStopping, "require_rising") in _CASES
    assert (distillation.TokenPrompt, "in_negative") in _CASES


@pytest.mark.parametrize(
    ("fn", "name"), _CASES, ids=[f"{fn.__name__}-{name}" for fn, name in _CASES]
)
def test_what_is_no_flag_is_named(fn, name, short_pipeline, without_types):
    call = _MADE.get(fn) or TABLE[fn][0]
    for wrong in ("no", 1, None):
        with pytest.raises(ValueError, match=f"`{name}` must be a bool"):
            call(short_pipeline, **{name: wrong})
