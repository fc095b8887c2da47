import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import search
from draftx.search._doodl import noise_log_density

from ..toys import toy_reward


_PROMPTS = ["cat", "do"]
_CALLS = []


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return short_pipeline


@eqx.filter_jit
def _decode(pipeline, latents):
    return pipeline.decode(latents)


def _options(eta=0.0, **kwargs):
    sampling = draftx.Sampling(num_inference_steps=3, guidance_scale=2.0, eta=eta)
    return dict(sampling=sampling, key=jr.key(5)) | kwargs


def _check(pipeline, result):
    """The parts of a result belong together."""
    images = _decode(pipeline, result.clean_latents)
    np.testing.assert_allclose(result.images, images, atol=1e-5)
    np.testing.assert_allclose(result.rewards, toy_reward(result.images), atol=1e-6)
    assert result.latents.shape == result.clean_latents.shape
    assert result.budget.seconds > 0


def test_best_of_n_is_monotone_in_n(pipeline):
    results = [
        search.best_of_n(pipeline, toy_reward, _PROMPTS, n=n, **_options())
        for n in (1, 2, 5)
    ]
    for smaller, larger in zip(results[:-1], results[1:], strict=True):
        assert np.all(larger.rewards >= smaller.rewards)
        n = len(smaller.history)
        np.testing.assert_array_equal(larger.history[:n], smaller.history)
    best = results[-1]
    _check(pipeline, best)
    np.testing.assert_array_equal(best.rewards, best.history.max(axis=0))
    again = draftx.sample(pipeline, _PROMPTS, **_options(latents=best.latents))
    np.testing.assert_allclose(again, best.images, atol=1e-5)
    assert best.budget.images == best.budget.reward_queries == 10
    assert best.budget.unet_forwards == 5 * 2 * 2 * 3


def test_doodl_increases_thetoy_reward(pipeline):
    options = _options(num_steps=4, learning_rate=0.1)
    result = search.doodl(pipeline, toy_reward, _PROMPTS, **options)
    _check(pipeline, result)
    assert result.history.shape == (5, 2)
    assert np.all(result.history[-1] > result.history[0])
    np.testing.assert_allclose(result.rewards, result.history.max(axis=0), rtol=1e-4)
    norms = jnp.sqrt(jnp.sum(result.latents**2, axis=(1, 2, 3)))
    np.testing.assert_allclose(norms, np.sqrt(8 * 8 * 4), rtol=1e-4)
    assert result.budget.unet_backwards == 4 * 2 * 2 * 3
    start = draftx.sample(pipeline, _PROMPTS, **_options())
    np.testing.assert_allclose(result.history[0], toy_reward(start), atol=1e-6)


def test_noise_density_is_largest_near_its_radius():
    d = 8 * 8 * 4
    unit = jnp.ones((1, 8, 8, 4)) / jnp.sqrt(d)
    derivative = jax.grad(lambda radius: noise_log_density(radius * unit)[0])
    np.testing.assert_allclose(derivative(jnp.sqrt(d - 1.0)), 0, atol=1e-4)
    np.testing.assert_allclose(
        derivative(jnp.asarray(10.0)), (d - 1) / 10 - 10, rtol=1e-4
    )


def test_svdd_with_one_candidate_is_sampling(pipeline):
    result = search.svdd(
        pipeline, toy_reward, _PROMPTS, num_candidates=1, **_options(1.0)
    )
    images = draftx.sample(pipeline, _PROMPTS, **_options(eta=1.0))
    np.testing.assert_allclose(result.images, images, atol=1e-5)
    _check(pipeline, result)
    assert result.budget.unet_forwards == 2 * 2 * 3


def test_svdd_takes_the_best_of_what_it_sees(pipeline):
    def counted(images):
        jax.debug.callback(lambda: _CALLS.append(len(images)))
        return toy_reward(images)

    options = _options(1.0, num_candidates=6)
    result = search.svdd(pipeline, counted, _PROMPTS, **options)
    jax.effects_barrier()
    _check(pipeline, result)
    assert result.budget.reward_queries == sum(_CALLS)
    one = search.svdd(pipeline, toy_reward, _PROMPTS, **_options(1.0, num_candidates=1))
    assert float(result.rewards.mean()) > float(one.rewards.mean())
    assert np.all(result.history[0] >= one.history[0])
    assert result.budget.unet_forwards == 2 * 2 * (1 + 6 * 2)


def test_prompt_engineering_tells_the_reward_the_prompts(pipeline):
    told = []

    def reward(images, rows):
        told.extend(rows["prompt"])
        return [float(image.mean()) for image in images]

    host = draftx.rewards.HostReward(reward)
    options = _options(templates=["{}", "do {:}"])
    result = search.prompt_engineering(pipeline, host, _PROMPTS, **options)
    assert set(told) == set(_PROMPTS)
    best = int(np.argmax(result.history.mean(axis=1)))
    phrases = [_PROMPTS, ["do cat", "do do"]][best]
    images = draftx.sample(pipeline, phrases, **_options())
    np.testing.assert_allclose(result.images, images, atol=1e-5)
    assert result.budget.images == 4
    assert search.TEMPLATE.format("fox").startswith("A stunning beautiful oil painting")


@pytest.mark.parametrize(
    ("call", "kwargs", "message"),
    [
        (search.best_of_n, dict(n=0), "`n` must be a whole number of at least 1"),
        (search.best_of_n, dict(prompts=[]), "`prompts` must hold at least one"),
        (search.doodl, dict(num_steps=0), "`num_steps` must be a whole number"),
        (search.doodl, dict(learning_rate=0.0), "`learning_rate` must be finite"),
        (search.doodl, dict(noise_weight=-1.0), "`noise_weight` must be finite"),
        (search.doodl, dict(latents=np.zeros((2, 4, 8, 8), "f")), "channels last"),
        (search.doodl, dict(reward=lambda x: toy_reward(jnp.round(x))), "gradient"),
        (search.svdd, dict(num_candidates=0), "`num_candidates` must be a whole"),
        (search.svdd, dict(), "must leave a step that adds noise"),
        (search.svdd, dict(temperature=-1.0), "`temperature` must be finite"),
        (search.svdd, dict(reward=lambda x: jnp.mean(x)), r"`reward` must give one"),
        (
            search.prompt_engineering,
            dict(templates=["no braces"]),
            "must each have one",
        ),
        (search.prompt_engineering, dict(templates=[]), "non-empty sequence"),
    ],
)
def test_bad_input_is_named(pipeline, call, kwargs, message):
    arguments = dict(reward=toy_reward, prompts=_PROMPTS) | _options() | kwargs
    with pytest.raises(ValueError, match=message):
        call(pipeline, **arguments)
