"""Each rule of the options, where it is said."""

import jax
import jaxtyping
import numpy as np
import pytest

import draftx
from draftx import Sampling
from draftx.diffusion import Ancestral, DDIM, Euler, SchedulerConfig
from draftx.pipeline import make_plan


_CONFIG = SchedulerConfig()


def test_the_defaults():
    options = Sampling()
    assert (options.num_inference_steps, options.guidance_scale) == (50, 7.5)
    assert (options.eta, options.negative_prompt) == (0.0, None)
    assert options.is_guided
    assert not Sampling(guidance_scale=1).is_guided
    assert jax.tree.leaves(options) == []


@pytest.mark.parametrize("scale", [0, 0.5, 1])
def test_guidance_up_to_1_is_off(base_pipeline, scale):
    """As in diffusers, whose turbo models are sampled with 0."""
    options = Sampling(2, scale)
    assert not options.is_guided
    assert make_plan(base_pipeline, options).guidance_scale is None
    assert Sampling(2, 1.01).is_guided


def test_a_negative_prompt_that_is_not_asked_for_is_named():
    with pytest.warns(UserWarning, match="'fog' has no effect.*1.0 guidance is off"):
        Sampling(2, 1.0, negative_prompt="fog")


def test_equal_options_are_equal():
    make = lambda: Sampling(4, 2.0, negative_prompt="a", sampler=DDIM(_CONFIG))
    assert make() == make()
    assert jax.tree.structure(make()) == jax.tree.structure(make())
    assert jax.tree.structure(make()) != jax.tree.structure(Sampling(4, 2.0))


def test_a_sampler_or_what_makes_one():
    assert Sampling().sampler_for(_CONFIG) is None
    euler = Euler(_CONFIG)
    assert Sampling(sampler=euler).sampler_for(SchedulerConfig(steps_offset=0)) is euler
    assert Sampling(sampler=Ancestral).sampler_for(_CONFIG) == Ancestral(_CONFIG)
    made = Sampling(sampler=lambda config: Ancestral(config, "fixed_large"))
    assert made.sampler_for(_CONFIG).variance_type == "fixed_large"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_inference_steps=0), "`num_inference_steps` must be a whole number"),
        (dict(num_inference_steps=2.0), "`num_inference_steps` must be a whole number"),
        (dict(guidance_scale=float("nan")), "`guidance_scale` must be finite; got nan"),
        (dict(guidance_scale=-0.5), "`guidance_scale` must be at least 0.*got -0.5"),
        (dict(eta=1.5), r"`eta` must lie in \[0, 1\]; got 1.5"),
        (dict(eta=float("nan")), r"`eta` must be finite; got nan"),
        (dict(negative_prompt=["a"]), "one text for all .* One for each is a column"),
        (
            dict(num_inference_steps=3, lora_schedule=draftx.LoRAWindow(last=4)),
            "`last` must be at most 3",
        ),
        (dict(eta=0.5, sampler=Euler(_CONFIG)), "`eta` must be 0 for Euler.*got 0.5"),
        (dict(eta=1.0, sampler=Ancestral(_CONFIG)), "`eta` must be 0 for Ancestral"),
        (dict(sampler="euler"), "`sampler` must be a sampler, a class of one"),
        (dict(height=0), "`height` must be a whole number of at least 1; got 0"),
        (dict(width=6.5), "`width` must be a whole number of at least 1; got 6.5"),
    ],
)
def test_bad_input_is_named(options, message, monkeypatch):
    # As for a user, whose types nobody checks.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("sampler", [Euler, Ancestral])
def test_eta_is_refused_once_the_sampler_is_made(base_pipeline, sampler):
    with pytest.raises(ValueError, match=f"`eta` must be 0 for {sampler.__name__}"):
        draftx.sample(base_pipeline, ["a"], Sampling(2, eta=0.5, sampler=sampler))


def test_other_samplers_draw_other_images(base_pipeline):
    draw = lambda **options: np.asarray(
        draftx.sample(base_pipeline, ["cat"], Sampling(2, 2.0, **options))
    )
    images = [draw(), draw(sampler=Euler), draw(sampler=Ancestral)]
    for i in range(3):
        assert images[i].shape == (1, 16, 16, 3)
        assert np.abs(images[i] - images[i - 1]).max() > 1e-3
    np.testing.assert_array_equal(draw(sampler=DDIM), images[0])
