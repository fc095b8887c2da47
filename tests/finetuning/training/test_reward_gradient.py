import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx

from ...helpers import relative_error
from ...toys import toy_reward


_PROMPTS = ["cat", "do"]
# The same everywhere: a program is then compiled once for all tests.
_OPTIONS = dict(
    sampling=draftx.Sampling(num_inference_steps=3, guidance_scale=2.0), key=jr.key(4)
)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    targets = ["attn2.to_v"]
    base = draftx.add_lora(short_pipeline, rank=2, targets=targets, key=jr.key(0))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x + 0.2 if getattr(path[-1], "name", "") == "lora_up" else x,
        base,
    )


def _gradient(pipeline, method, *, reward=toy_reward, **kwargs):
    rewards, gradient = draftx.reward_gradient(
        pipeline, reward, _PROMPTS, method=method, **(_OPTIONS | kwargs)
    )
    state = draftx.lora_state_dict(gradient)
    return rewards, np.concatenate([np.ravel(state[name]) for name in sorted(state)])


# What does not need a real model, such as the identities, is tested on toys.
def test_gradient_is_of_the_adapter_only(pipeline):
    _, gradient = draftx.reward_gradient(
        pipeline, toy_reward, _PROMPTS, method=draftx.DRaFT(1), **_OPTIONS
    )
    arrays = [x for x in jax.tree.leaves(gradient) if eqx.is_array(x)]
    assert len(arrays) == len(draftx.lora_state_dict(pipeline))


def test_bfloat16_base_gives_float32_gradients_that_agree(pipeline):
    half = jax.tree_util.tree_map_with_path(
        lambda path, x: (
            x if ".lora_" in jax.tree_util.keystr(path) else x.astype(jnp.bfloat16)
        ),
        pipeline,
    )
    rewards, gradient = _gradient(half, draftx.DRaFT(1))
    _, expected = _gradient(pipeline, draftx.DRaFT(1))
    assert rewards.dtype == jnp.float32
    assert gradient.dtype == np.float32
    cosine = gradient @ expected / np.linalg.norm(gradient) / np.linalg.norm(expected)
    assert cosine > 0.99


def test_k_beyond_the_chain_is_named(pipeline):
    with pytest.raises(ValueError, match=r"must lie in \[1, 3\].*got 4"):
        _gradient(pipeline, draftx.DRaFT(4))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x: jnp.mean(x), r"one score for each image, shape \(2,\).*got \(\)"),
        (lambda x: x[:, 0, 0, 0] > 0, "floating-point"),
        (lambda x: jnp.log(x[:, 0, 0, 0] * 0 - 1), "finite scores; got .*nan"),
    ],
)
def test_bad_rewards_are_named(pipeline, reward, message):
    with pytest.raises(draftx.RewardError, match=message):
        _gradient(pipeline, draftx.DRaFT(1), reward=reward)


def test_pipeline_without_adapter_is_named(pipeline):
    with pytest.raises(ValueError, match="Add one with `draftx.add_lora"):
        _gradient(draftx.merge_lora(pipeline), draftx.DRaFT(1))


@pytest.mark.slow
def test_one_image_at_a_time_is_all_at_once(pipeline):
    rewards, gradient = _gradient(pipeline, draftx.DRaFTLV(num_samples=1))
    apart = _gradient(
        pipeline, draftx.DRaFTLV(num_samples=1), memory=draftx.Memory("step", 1)
    )
    np.testing.assert_allclose(apart[0], rewards, rtol=1e-5)
    assert relative_error(apart[1], gradient) < 1e-5


def test_a_batch_that_cannot_be_split_is_named(pipeline):
    with pytest.raises(ValueError, match="divides the batch, 2; got 3"):
        _gradient(pipeline, draftx.DRaFT(1), memory=draftx.Memory(images_at_once=3))


@pytest.mark.parametrize("name", ["pipeline", "key", "latents"])
def test_inside_of_a_users_jit_it_says_so(pipeline, name):
    values = {
        "pipeline": pipeline,
        "key": jr.key(0),
        "latents": jnp.zeros((2, *pipeline.latent_shape)),
    }

    def call(value):
        given = dict(reward=toy_reward, prompts=_PROMPTS, **{name: value})
        options = {"pipeline": pipeline, "sampling": _OPTIONS["sampling"]} | given
        return draftx.reward_gradient(method=draftx.DRaFT(), **options)

    with pytest.raises(ValueError, match="must be known numbers.*outside of them"):
        eqx.filter_jit(call)(values[name])
