"""Images that are not finite are an error, not images; force_upcast avoids them."""

import dataclasses
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.finetuning import Evaluation
from draftx.models import AutoencoderConfig, AutoencoderKL, ConfigError

from ..helpers import assert_close
from ..io.tiny import cast, random_model, SHORT_VAE
from ..toys import toy_reward


_SAMPLING = draftx.Sampling(num_inference_steps=1, guidance_scale=1.0)
_LATENTS = np.random.default_rng(0).standard_normal((2, 8, 8, 4), np.float32)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return short_pipeline


def _with_infinite_pixels(pipeline):
    """Clipping to [0, 1] would make them white."""
    return eqx.tree_at(
        lambda p: p.vae.decoder.conv_out.bias,
        pipeline,
        replace_fn=lambda bias: bias.at[0].set(jnp.inf),
    )


def _overflowing(force_upcast):
    """An autoencoder whose activations exceed 65504, though its weights do not."""
    config = dataclasses.replace(SHORT_VAE, force_upcast=force_upcast)
    vae = random_model(AutoencoderKL, config, np.random.default_rng(2))
    block = lambda v: v.decoder.up_blocks[0].resnets[0].conv2.weight
    return eqx.tree_at(block, vae, replace_fn=lambda w: w * 5e4)


def test_the_rows_that_are_not_finite_are_named(pipeline):
    latents = _LATENTS.copy()
    latents[1, 0, 0, 0] = np.nan
    draw = lambda: draftx.sample(pipeline, ["cat", "do"], _SAMPLING, latents=latents)
    with pytest.raises(ValueError, match=r"rows \[1\] of 2 are not.*float32"):
        draw()


@pytest.mark.filterwarnings("ignore:overflow")
def test_infinite_pixels_are_not_white(pipeline):
    draw = lambda p: draftx.sample(p, ["cat", "do"], _SAMPLING, latents=_LATENTS)
    with pytest.raises(ValueError, match=r"rows \[0, 1\] of 2.*in the autoencoder"):
        draw(_with_infinite_pixels(pipeline))
    # Where it is only being traced, nobody can be told.
    traced = eqx.filter_jit(draw)(_with_infinite_pixels(pipeline))
    assert np.all(np.isnan(traced[..., 0]))
    assert np.all(np.isfinite(traced[..., 1:]))


def test_searches_say_so_too(pipeline):
    broken = _with_infinite_pixels(pipeline)
    args = (broken, toy_reward, ["cat"], draftx.Sampling(2, 1.0, eta=1.0))
    with pytest.raises(ValueError, match=r"rows \[0\] of 1 are not"):
        draftx.search.best_of_n(*args, n=1)
    with pytest.raises(ValueError, match=r"rows \[0\] of 1 are not"):
        draftx.search.svdd(*args, num_candidates=2)
    with pytest.raises(ValueError, match=r"rows \[0\] of 1 are not"):
        draftx.search.smc(*args, num_particles=2)


def test_an_evaluation_goes_on_with_a_warning(pipeline):
    evaluation = Evaluation(["cat", "do"], {"mean": toy_reward}, _SAMPLING)
    with pytest.warns(UserWarning, match="are not .*figures are not numbers"):
        figures = evaluation(_with_infinite_pixels(pipeline))
    assert np.isnan(figures["score"])


def test_force_upcast_decodes_in_float32(pipeline):
    vae = cast(_overflowing(True), jnp.float16)
    latents = jnp.asarray(_LATENTS)
    wide = cast(vae, jnp.float32)
    expected = jax.jit(AutoencoderKL.decode_unclipped)(wide, latents)
    actual = jax.jit(AutoencoderKL.decode_unclipped)(vae, latents)
    np.testing.assert_array_equal(actual, expected)
    assert np.all(np.isfinite(actual))
    mean, _ = jax.jit(AutoencoderKL.posterior)(vae, vae.decode(latents))
    assert_close(mean, jax.jit(AutoencoderKL.posterior)(wide, wide.decode(latents))[0])

    half = eqx.tree_at(lambda p: p.vae, cast(pipeline, jnp.float16), vae)
    images = draftx.sample(half, ["cat", "do"], _SAMPLING, latents=_LATENTS)
    assert np.all(np.isfinite(images))
    low = cast(_overflowing(False), jnp.float16)
    half = eqx.tree_at(lambda p: p.vae, half, low)
    with pytest.raises(
        ValueError, match=r'float16 ends at 65504.*"force_upcast": true'
    ):
        draftx.sample(half, ["cat", "do"], _SAMPLING, latents=_LATENTS)


def test_other_dtypes_are_computed_in_as_ever():
    """As in diffusers, which upcasts float16 alone."""
    latents = jnp.asarray(_LATENTS)
    programs = []
    for force_upcast in (True, False):
        config = dataclasses.replace(SHORT_VAE, force_upcast=force_upcast)
        vae = random_model(AutoencoderKL, config, np.random.default_rng(2))
        low = cast(vae, jnp.bfloat16)
        programs.append(str(jax.make_jaxpr(low.decode)(latents)))
    assert programs[0] == programs[1]
    assert "bf16" in programs[0]


@pytest.mark.parametrize(
    ("said", "means"),
    [({}, True), ({"force_upcast": True}, True), ({"force_upcast": False}, False)],
)
def test_force_upcast_of_a_file_is_kept(pipeline, tmp_path, said, means):
    """Absent it is true: what diffusers takes, and writes when it saves the model."""
    fields = dataclasses.asdict(SHORT_VAE)
    del fields["force_upcast"]
    config = AutoencoderConfig.from_dict(fields | said)
    assert config.force_upcast is means
    vae = random_model(AutoencoderKL, config, np.random.default_rng(2))
    draftx.save(eqx.tree_at(lambda p: p.vae, pipeline, vae), tmp_path / "model")
    path: pathlib.Path = tmp_path / "model/vae/config.json"
    assert json.loads(path.read_text())["force_upcast"] is means
    assert draftx.load(tmp_path / "model").vae.config == config


def test_force_upcast_is_true_or_false(without_types):
    with pytest.raises(ConfigError, match="`force_upcast` of the autoencoder must be"):
        AutoencoderConfig.from_dict({"force_upcast": "yes"})
