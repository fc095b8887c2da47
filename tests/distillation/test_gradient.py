"""The gradient is that of the surrogate, and of the reward besides."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx import distillation
from draftx.diffusion import AbstractDenoiser
from draftx.distillation._score import Score
from draftx.distillation._task import make_task, Question

from ..helpers import assert_close
from ..toys import toy_reward
from .toys import KEY, params, PROMPTS, render, SAMPLING


_STEP = 3


@pytest.fixture(scope="module")
def task(short_pipeline):
    """A score, and a reward besides."""
    asked = Question(
        short_pipeline,
        render,
        PROMPTS,
        SAMPLING,
        distillation.ScoreDistillation(),
        toy_reward,
        None,
    )
    return make_task(asked, params(), KEY)


def test_it_is_autodiff_of_the_surrogate(task, short_pipeline):
    start, step = params(), jnp.asarray(_STEP)
    colors, rest = eqx.partition(start, eqx.is_inexact_array)
    render_key, score_key, _ = jr.split(jr.fold_in(KEY, step), 3)
    draw = lambda colors: render(eqx.combine(colors, rest), render_key)
    encode = lambda colors: task.encode(draw(colors))
    residual, figures = eqx.filter_jit(task.score.residual)(
        encode(colors), score_key, step
    )

    def surrogate(colors):
        return jnp.sum(residual * encode(colors)) / 2

    def reward(colors):
        return jnp.mean(toy_reward(draw(colors)))

    expected = jax.tree.map(
        jnp.subtract, jax.grad(surrogate)(colors), jax.grad(reward)(colors)
    )
    found, gradient = distillation.distillation_gradient(
        short_pipeline,
        render,
        start,
        PROMPTS,
        SAMPLING,
        key=KEY,
        reward=toy_reward,
        step=_STEP,
    )
    assert gradient["shift"] is None
    assert_close(gradient, expected)
    # Both parts are in it.
    assert np.abs(jax.grad(reward)(colors)["colors"]).max() > 1e-5
    assert_close(found["rewards"], toy_reward(draw(colors)))
    for name, figure in figures.items():
        assert float(found[name]) == pytest.approx(float(figure), rel=1e-4)


def test_every_step_draws_its_own(task):
    residual = eqx.filter_jit(task.score.residual)
    latents = task.encode(render(params(), KEY))
    drawn = [residual(latents, jr.fold_in(KEY, i), jnp.asarray(i)) for i in range(4)]
    assert len({int(figures["timestep"]) for _, figures in drawn}) > 2
    again, _ = residual(latents, jr.fold_in(KEY, 2), jnp.asarray(2))
    np.testing.assert_array_equal(again, drawn[2][0])


class _Knows(AbstractDenoiser):
    """Stands for a model that knows the noise."""

    noise: jax.Array

    def __call__(self, latents, index):
        return self.noise


def test_a_model_that_is_right_leaves_nothing(task, monkeypatch):
    """Where the prediction is the noise of the latents, there is nothing to follow."""
    latents = task.encode(render(params(), KEY))
    noise = jr.normal(jr.split(KEY, 3)[2], latents.shape)
    monkeypatch.setattr(Score, "_denoiser", lambda *args: _Knows(noise))
    residual, figures = task.score.residual(latents, KEY, jnp.asarray(0))
    assert float(jnp.abs(residual).max()) == 0 == float(figures["residual"])


def test_one_prompt_is_that_of_all_images(short_pipeline):
    gradient = lambda prompts: distillation.distillation_gradient(
        short_pipeline, render, params(), prompts, SAMPLING, key=KEY
    )[1]["colors"]
    assert_close(gradient(["cat"]), gradient(["cat", "cat"]))
