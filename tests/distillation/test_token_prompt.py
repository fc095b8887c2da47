"""A picture as tokens: what it does to the gradient, and what is no such prompt."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.distillation import (
    distillation_gradient,
    ScoreDistillation,
    TokenPrompt,
)
from draftx.distillation._task import gradient_of, make_task, Question
from draftx.models import ImageTokens

from ..helpers import operations, relative_error
from .toys import KEY, params, PROMPTS, render, SAMPLING


PICTURES = np.random.default_rng(3).uniform(size=(2, 6, 5, 3)).astype(np.float32)


def embed(images):
    """The mean color, far from gray."""
    return 8 * (jnp.mean(images, axis=(1, 2)) - 0.5)


@pytest.fixture(scope="module")
def tokens(short_pipeline):
    config = short_pipeline.unet.config
    return ImageTokens(config, embedding_features=3, key=jr.key(7))


def _gradient(pipeline, prompt):
    given = dict(key=KEY, visual_prompt=prompt)
    found = distillation_gradient(
        pipeline, render, params(), PROMPTS, SAMPLING, **given
    )
    return found[1]["colors"]


def test_each_image_has_its_picture(short_pipeline, tokens):
    make = lambda pictures: TokenPrompt(pictures, tokens, embed, scale=3)
    both = _gradient(short_pipeline, make(PICTURES))
    first = _gradient(short_pipeline, make(PICTURES[0]))
    assert relative_error(first[0], both[0]) < 1e-4
    assert relative_error(first[1], both[1]) > 0.01


def test_without_weight_a_picture_is_none(short_pipeline, tokens):
    alone = _gradient(short_pipeline, None)
    prompt = TokenPrompt(PICTURES, tokens, embed, scale=0)
    assert relative_error(_gradient(short_pipeline, prompt), alone) < 1e-4
    seen = TokenPrompt(PICTURES, tokens, embed, scale=3, in_negative=True)
    assert relative_error(_gradient(short_pipeline, seen), alone) > 0.01


def test_a_score_without_a_picture_has_no_trace_of_one(short_pipeline, tokens):
    """Whatever of the rest of the gradient may be traced with a picture, too."""

    def trace(prompt):
        asked = Question(
            short_pipeline,
            render,
            PROMPTS,
            SAMPLING,
            ScoreDistillation(),
            reward=None,
            visual_prompt=prompt,
        )
        task = make_task(asked, params(), KEY)
        trainable, frozen = eqx.partition(params(), eqx.is_inexact_array)
        call = lambda *args: gradient_of(*args, jnp.asarray(0))
        jaxpr = eqx.filter_make_jaxpr(call)(trainable, frozen, task)[0].jaxpr
        found = [*operations(jaxpr)]
        names = [scope for scope, _ in found if "image_tokens" in scope]
        return len(names), sum(name == "dot_general" for _, name in found)

    none, alone = trace(None)
    some, seeing = trace(TokenPrompt(PICTURES, tokens, embed))
    assert none == 0
    assert some > 0
    # Keys and values, scores and what they weigh; and the projection.
    assert seeing - alone == 4 * len(tokens.layers) + 1


def test_a_picture_is_no_image_more(short_pipeline, tokens):
    pictures = TokenPrompt(PICTURES, tokens, embed).bind(short_pipeline, (6, 8, 8, 3))
    assert [pictures.num_evaluations(6, guided) for guided in (False, True)] == [6, 12]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(pictures=PICTURES[..., :1]), "`pictures` must have shape"),
        (dict(pictures=3 * PICTURES), r"`pictures` must lie in \[0, 1\]"),
        (dict(tokens=3), "`tokens` must be an ImageTokens"),
        (dict(embed=3), "`embed` must be a function of images.*got 3"),
        (
            dict(embed=lambda x: x),
            r"shape \(pictures, embedding\).*\(2, 6, 5, 3\) float32",
        ),
        (dict(embed=lambda x: {"x": x}), r"\(pictures, embedding\).*got dict"),
        (dict(embed=lambda x: embed(x)[:1]), r"for each of 2 pictures; got \(1, 3\)"),
        (dict(embed=lambda x: embed(x) > 0), "must give floats.*bool"),
        (dict(embed=lambda x: jnp.log(-1 - embed(x) ** 2)), "must give finite numbers"),
        (dict(embed=lambda x: embed(x)[:, :2]), "the 3 features.*trained on; got 2"),
        (dict(scale=-1), "`scale` must be finite and not negative"),
    ],
)
def test_what_is_no_prompt(change, text, tokens, without_types):
    given = dict(pictures=PICTURES, tokens=tokens, embed=embed, scale=1) | change
    scale = given.pop("scale")
    with pytest.raises(ValueError, match=text):
        TokenPrompt(**given, scale=scale)


def test_what_does_not_fit_is_named(short_pipeline, base_pipeline, tokens):
    three = TokenPrompt(np.repeat(PICTURES[:1], 3, axis=0), tokens, embed)
    with pytest.raises(ValueError, match="divide the images of a step, 2; got 3"):
        _gradient(short_pipeline, three)
    with pytest.raises(ValueError, match="`tokens` must be for a UNet with cross-att"):
        _gradient(base_pipeline, TokenPrompt(PICTURES, tokens, embed))
