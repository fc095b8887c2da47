"""What a renderer, a picture or a pipeline may not be is said before any long work."""

import types

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.distillation import (
    _task,
    distillation_gradient,
    RewardedNoises,
    ScoreDistillation,
    VisualPrompt,
)

from ..toys import toy_reward
from .toys import KEY, params, PROMPTS, render, SAMPLING


def _ask(pipeline, render=render, start=None, prompts=PROMPTS, **options):
    start = params() if start is None else start
    given = dict(sampling=SAMPLING, key=KEY) | options
    return distillation_gradient(pipeline, render, start, prompts, **given)


_LATENTS = ScoreDistillation(renders="latents")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: 255 * x, r"in \[0, 1\]; got values from .* to 2"),
        (lambda x: 255 * x, "Divide bytes by 255"),
        (lambda x: np.asarray(x), "`render` must be computed by `jax.numpy`"),
        (lambda x: x if x.mean() > 0 else -x, "`render` must be computed by"),
        (lambda x: 2 * x - 1, r"in \[0, 1\]; got values from -"),
        (lambda x: x.at[0, 0, 0, 0].set(jnp.nan), "finite images; 1 of 384 numbers"),
        (lambda x: x[..., :1], r"\(batch, height, width, 3\).*got \(2, 8, 8, 1\)"),
        (lambda x: x[0], r"images of shape .* got \(8, 8, 3\)"),
        (lambda x: x[:0], r"got \(0, 8, 8, 3\)"),
        (lambda x: jnp.round(x), "gradient with respect to `params`; got zero"),
        (lambda x: x.astype(jnp.int32), "`render` must give floats; got int32"),
        (lambda x: {"images": x}, "images of shape .* got dict"),
        (lambda x: jnp.sqrt(jnp.maximum(x - 2, 0)), "`render` must have a finite grad"),
    ],
)
def test_what_a_renderer_gives(change, text, short_pipeline, without_types):
    with pytest.raises(ValueError, match=text):
        _ask(short_pipeline, lambda *args: change(render(*args)))


def test_a_size_that_does_not_fit(base_pipeline):
    with pytest.raises(ValueError, match="`render` must give images of a size.*Use 8"):
        _ask(base_pipeline, start=params(side=6))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            dict(render=3),
            "`render` must be a function of parameters and a key; got int",
        ),
        (
            dict(render=lambda params: params),
            r"`render` must take parameters and a key, .* <lambda>\(params\): too many",
        ),
        (dict(start={"n": 3}), "`params` must have arrays of floats"),
        (dict(prompts=["a"] * 3), "one for each of the 2 that `render` gives; got 3"),
        (dict(method=_LATENTS), r"latents of shape \(batch, height, width, 4\)"),
        (dict(method="sds"), "`method` must be a ScoreDistillation"),
        (dict(sampling=3), "`sampling` must be a Sampling"),
        (dict(visual_prompt=3), "`visual_prompt` must be an AbstractVisualPrompt"),
        (
            dict(sampling=draftx.Sampling(2, height=16)),
            "`height` of `sampling` must be that of what `render` gives, 8; got 16",
        ),
        (dict(reward=jnp.round), "`reward` must give one score"),
        (
            dict(reward=lambda x: jnp.round(x.mean((1, 2, 3)))),
            "`reward` must have a gradient",
        ),
        (
            dict(visual_prompt=VisualPrompt(np.zeros((4, 4, 3), np.float32))),
            "`pictures` must have the size of what is rendered, 8x8; got 4x4",
        ),
        (
            dict(visual_prompt=VisualPrompt(np.zeros((3, 8, 8, 3), np.float32))),
            "`pictures` must be one, or divide the images of a step, 2; got 3",
        ),
        (
            dict(
                method=ScoreDistillation(noises=RewardedNoises(lambda x: jnp.mean(x)))
            ),
            "`reward` must give one score for each image",
        ),
    ],
)
def test_what_else_is_wrong_is_named(options, text, short_pipeline, without_types):
    with pytest.raises(ValueError, match=text):
        _ask(short_pipeline, **options)


@pytest.mark.parametrize(
    ("pictures", "text"),
    [
        (np.zeros((8, 8), np.float32), r"channels last; got \(8, 8\)"),
        (np.zeros((1, 3, 8, 8), np.float32), r"channels last; got \(1, 3, 8, 8\)"),
        (
            np.zeros((8, 8, 3), np.uint8),
            "must be floating point.* got uint8. Divide",
        ),
        (np.full((8, 8, 3), 1.5), r"must lie in \[0, 1\]; got numbers from 1.5 to 1.5"),
        (np.full((8, 8, 3), np.nan), r"must lie in \[0, 1\]; got numbers from nan"),
    ],
)
def test_what_is_no_picture(pictures, text):
    with pytest.raises(ValueError, match=text):
        VisualPrompt(pictures)


def test_pipelines_that_cannot_be_distilled_of(short_pipeline, monkeypatch):
    learning = draftx.add_learned_inputs(short_pipeline, SAMPLING)
    with pytest.raises(ValueError, match="`pipeline` must have no learned inputs"):
        _ask(learning)
    two = types.SimpleNamespace(size=2)
    monkeypatch.setattr(_task, "mesh_of", lambda pipeline: two)
    with pytest.raises(ValueError, match="`pipeline` must be on one device.*on 2"):
        _ask(short_pipeline)


def test_times_without_signal_are_named(short_pipeline):
    config = SchedulerConfig(rescale_betas_zero_snr=True)
    pipeline = eqx.tree_at(lambda p: p.sampler, short_pipeline, DDIM(config))
    method = ScoreDistillation((0.5, 1.0))
    with pytest.raises(ValueError, match="without signal"):
        _ask(pipeline, method=method)


def test_a_key_of_old_will_do(short_pipeline):
    figures, _ = _ask(short_pipeline, key=jr.PRNGKey(3), reward=toy_reward)
    assert np.all(np.isfinite(figures["rewards"]))
