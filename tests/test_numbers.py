"""Numbers may be scalars of NumPy and of JAX wherever a number is asked for, and what
is no number is named. A public function that asks for one must be in the table."""

import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import rewards, search

from .public_numbers import IMAGES, public, TABLE
from .toys import toy_reward


# What stands in for a network here is none; a data class has the types that it keeps.
_UNTYPED = (
    rewards.AestheticDropout,
    draftx.Checkpoints,
    search.ValueNetworkConfig,
)
# What others make, what asks for a whole network beside the number, and several at
# once, which have tests below.
_EXEMPT = {
    "AestheticHead": {"features", "widths"},
    "PerPrompt": {"choose"},
    "probe_host_rewards": {"shape"},
    "Evaluation": {"weights"},
    "WeightedSum": {"weights"},
    "mix_lora": {"weights"},
    "sweep_lora_scale": {"scales", "known", "tell"},
    "sample": {"images_at_once", "tell"},
    "CLIPScore": {"scale"},
    "PickScore": {"scale"},
    "split_cpu": {"batch_size", "devices"},
    "settle": {"batch_size", "steps"},  # Of arguments that others have checked.
    "FinetuneResult": {"step"},
    "HPSResult": {"mean", "std"},
    "DetectionReward": {"threshold", "area_weight"},
    "DetectedCount": {
        "count",
        "threshold",
        "temperature",
        "overlap",
        "overlap_temperature",
    },
    "quantization_tables": {"quality"},
    "LoRAWindow": {"first"},
    "ScoreDistillation": {"time_range"},
    "TimeAnnealing": {"final_time_range"},
    "ClassifierReward": {"target"},
    "RotationAntiCorrelation": {"angles"},
    "ResizeAndCrop": {"mean", "std"},
    "AestheticDropout": {"rate"},
    "TrainedSteps": {"always", "ever"},
    "LearnedValue": {"timesteps", "latent_shape"},
}
_CASES = [(fn, name) for fn, (_, options) in TABLE.items() for name in options]
_IDS = [f"{fn.__name__}-{name}" for fn, name in _CASES]


def _asks_for_numbers(fn):
    def is_number(parameter):
        default, kind = parameter.default, parameter.annotation
        if isinstance(default, int | float) and not isinstance(default, bool):
            return True
        return re.search(r"\b(int|float|integer)\b", str(kind)) is not None

    try:
        parameters = inspect.signature(fn).parameters
    except ValueError:
        return set()
    return {name for name, parameter in parameters.items() if is_number(parameter)}


def test_the_table_has_every_number_that_a_user_gives():
    missing = {
        f"{fn.__name__}({name})"
        for fn in public()
        for name in _asks_for_numbers(fn)
        if name not in TABLE.get(fn, (None, ()))[1]
        and name not in _EXEMPT.get(fn.__name__, ())
    }
    assert sorted(missing) == []


@pytest.mark.parametrize(("fn", "name"), _CASES, ids=_IDS)
def test_scalars_of_numpy_and_jax_are_numbers(fn, name, adapted, request):
    if fn in _UNTYPED:
        request.getfixturevalue("without_types")
    call, options = TABLE[fn]
    value = options[name]
    expected = call(adapted, **{name: value})
    hash(jax.tree.structure(expected))
    whole = isinstance(value, int)
    kinds = (np.int64, np.uint16) if whole else (np.float64, np.float32)
    for written in (
        *(kind(value) for kind in kinds),
        np.asarray(value, kinds[1]),
        jnp.asarray(value, jnp.int32 if whole else jnp.float32),
    ):
        actual = call(adapted, **{name: written})
        hash(jax.tree.structure(actual))
        assert eqx.tree_equal(actual, expected), type(written)


# Equinox's own, before the error.
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize(("fn", "name"), _CASES, ids=_IDS)
def test_what_is_no_number_is_named(fn, name, adapted, without_types):
    call, _ = TABLE[fn]
    is_named = re.escape(name)
    texts = fn is rewards.ClassifierReward
    wrongs = ["2", True, 2j, np.ones(2), jnp.ones((1,))]
    if fn is draftx.Checkpoints and name == "resume":
        wrongs.remove(True)
    for wrong in wrongs[texts:]:
        with pytest.raises(ValueError, match=is_named):
            call(adapted, **{name: wrong})
    if fn is draftx.jpeg_roundtrip:
        return  # Takes a number that is not known yet.
    with pytest.raises(ValueError, match=is_named):
        jax.jit(lambda x: call(adapted, **{name: x}) and x)(1)


def test_several_numbers_are_numbers_each(adapted):
    weights = [np.float32(0.5), jnp.asarray(2)]
    made = rewards.WeightedSum([toy_reward] * 2, weights)
    np.testing.assert_array_equal(made.weights, [0.5, 2])
    mixed = draftx.mix_lora([adapted] * 2, weights)
    expected = draftx.mix_lora([adapted] * 2, [0.5, 2])
    assert eqx.tree_equal(mixed, expected)
    # Weights of a reward are arrays, which may be learned.
    score = lambda w: rewards.WeightedSum([toy_reward], [w])(IMAGES)[0]
    np.testing.assert_allclose(jax.grad(score)(3.0), toy_reward(IMAGES)[0], rtol=1e-5)


@pytest.mark.parametrize("wrong", ["2", True, float("nan"), np.ones(2)])
def test_of_several_the_wrong_one_is_named(wrong, adapted, without_types):
    with pytest.raises(ValueError, match="`weights` must be finite"):
        rewards.WeightedSum([toy_reward] * 2, [1.0, wrong])
    with pytest.raises(ValueError, match="`weights` must be finite"):
        draftx.mix_lora([adapted] * 2, [1.0, wrong])
    with pytest.raises(ValueError, match=r"`weights\['light'\]` must be finite"):
        draftx.Evaluation(["a"], {"light": toy_reward}, weights={"light": wrong})
    with pytest.raises(ValueError, match="`scales` must be finite"):
        draftx.sweep_lora_scale(
            adapted, [1.0, wrong], draftx.Evaluation(["a"], {"light": toy_reward})
        )


@pytest.fixture(scope="module")
def adapted(short_pipeline):
    return draftx.add_lora(
        short_pipeline, rank=2, targets=["attn2.to_q"], key=jr.key(1)
    )
