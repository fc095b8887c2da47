"""Learned inputs of the sampler: in sampling, in training, and in files."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.io import ModelFileError
from draftx.pipeline import LearnedInputs

from ..helpers import relative_error
from ..io.tiny import random_lora
from ..toys import toy_reward, with_options


_PROMPTS = ["cat", "do"]
_SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=2.0)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, targets=("attn2.to_v",), scale=0.3)


@pytest.fixture(scope="module")
def learned(pipeline):
    """Three steps' worth, the adapter kept."""
    return draftx.add_learned_inputs(pipeline, _SAMPLING)


def _sample(pipeline, **options):
    sampling = with_options(_SAMPLING, **options)
    return np.asarray(draftx.sample(pipeline, _PROMPTS, sampling, key=jr.key(4)))


def test_learned_inputs_change_nothing_at_first(pipeline, learned):
    np.testing.assert_allclose(_sample(learned), _sample(pipeline), atol=1e-5)


def test_learned_inputs_take_the_place_of_the_chosen(pipeline, learned):
    inputs = LearnedInputs(
        jnp.full(3, 5.0), jnp.zeros((12, 12)), jnp.full(12, 0.5), 50.0
    )
    changed = eqx.tree_at(lambda p: p.learned, learned, inputs)
    guided = _sample(pipeline, guidance_scale=5.0)
    only_scale = eqx.tree_at(lambda p: p.learned.negative_bias, changed, jnp.zeros(12))
    np.testing.assert_allclose(_sample(only_scale), guided, atol=1e-5)
    assert np.abs(_sample(changed) - guided).max() > 1e-4
    restored = draftx.remove_learned_inputs(changed)
    np.testing.assert_array_equal(_sample(restored), _sample(pipeline))


def test_guidance_weights_are_interpolated():
    inputs = LearnedInputs(jnp.asarray([1.0, 3.0, 7.0]), None, None)
    np.testing.assert_allclose(inputs.guidance(3), [1, 3, 7])
    np.testing.assert_allclose(inputs.guidance(5), [1, 2, 3, 5, 7])
    np.testing.assert_allclose(inputs.guidance(2), [1, 7])
    np.testing.assert_allclose(inputs.guidance(1), [1])


def test_negative_embedding_is_affine_in_the_prompt():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    weight, bias, negative, text = draw(4, 4), draw(4), draw(2, 3, 4), draw(2, 3, 4)
    actual = LearnedInputs(None, weight, bias).negative(negative, text)
    expected = np.asarray(negative) + np.asarray(text) @ np.asarray(weight).T
    np.testing.assert_allclose(actual, expected + np.asarray(bias), rtol=1e-5)


def test_gradient_of_learned_inputs_meets_finite_differences(learned):
    method = draftx.DRaFT()
    _, gradient = draftx.reward_gradient(
        learned,
        toy_reward,
        _PROMPTS,
        _SAMPLING,
        method=method,
        key=jr.key(4),
        memory=draftx.Memory("none"),
    )
    inputs = gradient.learned
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(inputs))
    # Along the gradient itself, by the sampler in float32: hence two wide steps, and
    # the limit that they point to.
    for part in ("guidance_scales", "negative_weight", "negative_bias"):
        slope = getattr(inputs, part)
        direction = slope / jnp.linalg.norm(slope)
        size = 0.3 if part == "guidance_scales" else 0.03

        def moved(step, part=part, direction=direction):
            value = getattr(learned.learned, part) + step * direction
            where = lambda p: getattr(p.learned, part)
            return np.mean(toy_reward(_sample(eqx.tree_at(where, learned, value))))

        wide = (moved(size) - moved(-size)) / (2 * size)
        narrow = (moved(size / 2) - moved(-size / 2)) / size
        numeric = (4 * narrow - wide) / 3
        assert relative_error(numeric, np.linalg.norm(slope)) < 0.01, part


@pytest.mark.slow
def test_learned_inputs_are_trained_without_an_adapter(pipeline):
    alone = draftx.add_learned_inputs(pipeline.without_lora(), draftx.Sampling(2, 2.0))
    result = draftx.finetune(
        alone,
        toy_reward,
        _PROMPTS,
        draftx.Sampling(2, 2.0, eta=0.5),
        method=draftx.DRaFT(),
        key=jr.key(0),
        num_train_steps=1,
        batch_size=2,
        optimizer=draftx.adamw(1e-3),
        callbacks=(),
    )
    inputs = result.pipeline.learned
    # Adam's first step is the learning rate, whatever the gradient.
    np.testing.assert_allclose(np.abs(inputs.guidance_scales - 2), 0.05, rtol=1e-2)
    moved = np.abs(np.asarray(inputs.negative_bias))
    np.testing.assert_allclose(np.median(moved), 1e-3, rtol=1e-2)


def test_learned_inputs_go_through_a_file(learned, pipeline, tmp_path):
    path = tmp_path / "inputs.safetensors"
    inputs = LearnedInputs(
        jnp.asarray([1.0, 2.0]), jnp.full((12, 12), 0.5), jnp.ones(12)
    )
    saved = eqx.tree_at(lambda p: p.learned, learned, inputs)
    draftx.save_learned_inputs(saved, path)
    loaded = draftx.load_learned_inputs(pipeline, path).learned
    assert eqx.tree_equal(loaded, inputs)
    only = LearnedInputs(jnp.asarray([1.0]), None, None)
    draftx.save_learned_inputs(eqx.tree_at(lambda p: p.learned, saved, only), path)
    loaded = draftx.load_learned_inputs(pipeline, path).learned
    assert loaded.negative_weight is None
    draftx.save_lora(pipeline, tmp_path / "lora.safetensors")
    with pytest.raises(ModelFileError, match="must hold the learned inputs"):
        draftx.load_learned_inputs(pipeline, tmp_path / "lora.safetensors")
    with pytest.raises(ModelFileError, match="does not exist"):
        draftx.load_learned_inputs(pipeline, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="it has none"):
        draftx.save_learned_inputs(pipeline, path)
    with pytest.raises(ValueError, match="must have no learned inputs"):
        draftx.save(learned.without_lora(), tmp_path / "whole")


def test_nothing_to_learn_is_named(pipeline):
    add = draftx.add_learned_inputs
    with pytest.raises(ValueError, match="nothing would be learned"):
        add(pipeline, guidance=False, negative_embedding=False)
    with pytest.raises(ValueError, match="without guidance.*got 1"):
        add(pipeline, draftx.Sampling(guidance_scale=1))
    one = add(pipeline, draftx.Sampling(7, 3.0), negative_embedding=False).learned
    np.testing.assert_array_equal(one.guidance_scales, [3.0] * 7)
    assert one.negative_weight is None
