"""What noised latents are worth: learned, against a closed form; saved; one's own."""

import dataclasses
import io
import json
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import draftx
from draftx import search
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.io import ModelFileError
from draftx.search.values._regression import (
    begin,
    explain,
    learn,
    Learner,
    optimizer_of,
    Pairs,
)

from ..helpers import assert_close
from ..io.tiny import assert_equal
from ..toys import toy_reward
from .searcher import dies_at, Stop


_PROMPTS = ["cat", "do"]
_SAMPLING = draftx.Sampling(3, guidance_scale=2.0, eta=1.0)
_SIZES = search.ValueNetworkConfig(width=4, num_blocks=2, text_features=12)


def _jpeg_bytes(images):
    sizes = []
    for image in (images * 255).round().astype("uint8"):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        sizes.append(-len(file.getvalue()) / 1000)
    return sizes


BYTES = draftx.rewards.HostReward(_jpeg_bytes)


def _fit(pipeline, reward=toy_reward, prompts=_PROMPTS, sampling=_SAMPLING, **options):
    options = dict(num_images=6, num_train_steps=3, batch_size=4) | options
    options = dict(network=_SIZES, key=jr.key(1), progress=False) | options
    return search.fit_value(pipeline, reward, prompts, sampling, **options)


@pytest.fixture(scope="module")
def fit(short_pipeline):
    return _fit(short_pipeline)


def test_least_squares_find_the_conditional_mean():
    """Of Gaussian latents and a reward w x that is signal times w x_t."""
    sampler = DDIM(SchedulerConfig())
    steps = sampler.steps(4, eta=1.0)
    clean = jr.normal(jr.key(0), (6000, 2, 2, 2))
    # Its deviation is 1, so that standardized rewards are the rewards.
    weight = jnp.asarray([0.3, -0.4])
    of = lambda x: jnp.einsum("bhwc,c->b", x, weight)
    config = search.ValueNetworkConfig(in_channels=2, width=8, num_blocks=1)
    network = search.ValueNetwork(config, key=jr.key(1))
    optimizer = optimizer_of(0.01)
    learner = Learner(clean, of(clean), network, network, begin(optimizer, network))
    pairs, fitted = Pairs(sampler, steps, None), 5000
    errors = []
    for i in range(400):
        key = jr.fold_in(jr.key(2), i)
        learner, error = learn(learner, pairs, key, optimizer, (fitted, 128))
        errors.append(float(error))
    signal = np.sqrt(np.asarray(steps.alpha))
    noised = lambda i: pairs.noised(
        clean[fitted:], jnp.full(1000, i), jr.fold_in(jr.key(3), i)
    )
    for i in range(4):
        x, times = noised(i), jnp.broadcast_to(steps.timestep[i], 1000)
        expected = signal[i] * of(x)
        actual = learner.average(x, times)
        off = float(jnp.mean((actual - expected) ** 2))
        assert off < 0.02, (i, off)
    # What a conditional mean explains is the square of the signal.
    explained = explain(learner, pairs, jr.key(4), fitted)
    np.testing.assert_allclose(explained, signal**2, atol=0.06)
    assert np.mean(errors[:5]) > 0.9
    np.testing.assert_allclose(np.mean(errors[-100:]), 1 - np.mean(signal**2), atol=0.1)


def test_noise_of_pairs_is_that_of_the_chain():
    sampler = DDIM(SchedulerConfig())
    steps = sampler.steps(3, eta=1.0)
    clean, indices = jnp.ones((3, 1, 1, 2)), jnp.asarray([2, 0, 1])
    noised = Pairs(sampler, steps, None).noised(clean, indices, jr.key(0))
    noise = jr.normal(jr.key(0), clean.shape)
    a = steps.alpha[indices][:, None, None, None]
    assert_close(noised, jnp.sqrt(a) * clean + jnp.sqrt(1 - a) * noise)


def test_a_fit_says_what_it_has_cost_and_learned(short_pipeline, fit):
    assert fit.rewards.shape == (6,)
    # Two batches of four; the last fills up the six by two of the first again.
    assert (fit.budget.images, fit.budget.reward_queries) == (8, 8)
    assert fit.budget.unet_forwards == 8 * 2 * 3
    assert fit.history.shape == (3,)
    assert fit.explained.shape == (3,)
    assert np.all(np.isfinite(fit.explained))
    value = fit.value
    assert value.latent_shape == (8, 8, 4)
    assert len(value.timesteps) == 3
    np.testing.assert_allclose(value.mean, fit.rewards[:5].mean(), rtol=1e-5)
    np.testing.assert_allclose(value.std, fit.rewards[:5].std(), rtol=1e-4)


def test_one_candidate_is_sampling_whatever_the_value(short_pipeline, fit):
    options = dict(sampling=_SAMPLING, key=jr.key(5))
    one = search.svdd(
        short_pipeline,
        toy_reward,
        _PROMPTS,
        num_candidates=1,
        value=fit.value,
        **options,
    )
    images = draftx.sample(short_pipeline, _PROMPTS, **options)
    np.testing.assert_allclose(one.images, images, atol=1e-5)
    assert one.budget.unet_forwards == 2 * 2 * 3
    assert one.budget.reward_queries == 2


def test_a_learned_value_costs_no_evaluations(short_pipeline, fit):
    options = dict(sampling=_SAMPLING, key=jr.key(5), value=fit.value)
    found = search.svdd(
        short_pipeline, BYTES, _PROMPTS, num_candidates=5, select_last=False, **options
    )
    assert found.budget.unet_forwards == 2 * 2 * 3
    assert found.budget.reward_queries == 2
    assert found.history.shape == (3, 2)
    np.testing.assert_allclose(
        found.rewards, BYTES.on_host(np.asarray(found.images)), atol=1e-6
    )
    several = search.smc(short_pipeline, BYTES, _PROMPTS, num_particles=3, **options)
    assert several.budget.unet_forwards == 3 * 2 * 2 * 3
    assert several.budget.reward_queries == 3 * 2


def test_the_last_step_is_taken_by_the_reward_unless_it_is_not(short_pipeline):
    options = dict(sampling=_SAMPLING, key=jr.key(5), num_candidates=4)
    selected = search.svdd(short_pipeline, toy_reward, _PROMPTS, **options)
    drawn = search.svdd(
        short_pipeline, toy_reward, _PROMPTS, select_last=False, **options
    )
    np.testing.assert_array_equal(selected.history[:-1], drawn.history[:-1])
    assert np.all(selected.rewards >= drawn.rewards)
    assert np.any(selected.rewards > drawn.rewards)
    queries = selected.budget.reward_queries, drawn.budget.reward_queries
    assert queries == (2 * 4 * 3, 2 * (4 * 2 + 1))


class _Redness(search.AbstractValue):
    """How red the clean latents are: one's own, in one class."""

    needs_prediction: ClassVar[bool] = True
    asks_reward: ClassVar[bool] = False

    def __call__(self, outlook):
        assert outlook.embeddings.shape[0] == len(outlook.latents)
        return jnp.mean(outlook.jump()[..., 0], axis=(1, 2))


class _Wrong(search.AbstractValue):
    needs_prediction: ClassVar[bool] = False
    asks_reward: ClassVar[bool] = False

    def __call__(self, outlook):
        return jnp.mean(outlook.jump())


class _Flat(search.AbstractValue):
    needs_prediction: ClassVar[bool] = False
    asks_reward: ClassVar[bool] = False

    def __call__(self, outlook):
        return jnp.zeros(())


def test_a_value_of_ones_own_is_asked(short_pipeline, without_types):
    options = dict(sampling=_SAMPLING, key=jr.key(5), num_candidates=4)
    found = search.svdd(
        short_pipeline, toy_reward, _PROMPTS, value=_Redness(), **options
    )
    one = search.svdd(
        short_pipeline,
        toy_reward,
        _PROMPTS,
        value=_Redness(),
        **(options | dict(num_candidates=1)),
    )
    assert np.all(found.history[0] >= one.history[0] - 1e-5)
    # Only at the last step is the reward asked.
    assert found.budget.reward_queries == 2 * 4
    with pytest.raises(ValueError, match="must have `needs_prediction = True`"):
        search.svdd(short_pipeline, toy_reward, _PROMPTS, value=_Wrong(), **options)
    with pytest.raises(ValueError, match=r"_Flat gave shape \(\)"):
        search.svdd(short_pipeline, toy_reward, _PROMPTS, value=_Flat(), **options)


def test_given_images_are_learned_from(short_pipeline):
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype("f")
    fit = _fit(short_pipeline, BYTES, ["cat", "do", "a", "b"], images=images)
    np.testing.assert_allclose(fit.rewards, BYTES.on_host(images), atol=1e-6)
    assert fit.budget.unet_forwards == 0
    wrong = dict(prompts=["cat", "do", "a", "b"])
    for bad, message in (
        (images[:3], r"one image for each row of `prompts`.*\(4, 8, 8, 3\); got \(3"),
        (images[:, :4], r"\(4, 8, 8, 3\); got \(4, 4"),
        ((255 * images).astype(np.uint8), "floating point.*Divide bytes by 255"),
        (2 * images, r"`images` must lie in \[0, 1\]; got numbers from"),
        (images * np.nan, r"`images` must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            _fit(short_pipeline, images=bad, **wrong)


def test_a_saved_value_is_the_same(fit, tmp_path):
    search.save_value(fit.value, tmp_path / "value")
    assert_equal(search.load_value(tmp_path / "value"), fit.value)
    # Replaced as a whole.
    search.save_value(fit.value, tmp_path / "value")
    names = sorted(path.name for path in (tmp_path / "value").iterdir())
    assert names == ["config.json", "model.safetensors"]
    (tmp_path / "value" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be new, empty or a saved val"):
        search.save_value(fit.value, tmp_path / "value")
    assert (tmp_path / "value" / "notes.txt").read_text() == "mine"


def _break(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(_class_name="UNet"), "must describe a LearnedValue"),
        (dict(width=8), "does not fit the ValueNetwork"),
        (dict(width=3), "`width` must be"),
        (dict(width="4"), "`width` of the value must be a whole number; got '4'"),
        (dict(latent_shape=[8, 8]), "`latent_shape` of the value"),
        (dict(latent_shape=[8, 8, 3]), "`latent_shape` of the value"),
        (dict(reward_std=0.0), "`reward_std` of the value must be above 0"),
        (dict(timesteps=None), "timesteps"),
        (dict(scheduler=3), "`scheduler` must be an object"),
    ],
)
def test_a_damaged_file_is_named(fit, tmp_path, changes, message):
    search.save_value(fit.value, tmp_path / "value")
    _break(tmp_path / "value", **changes)
    with pytest.raises(ModelFileError, match=message):
        search.load_value(tmp_path / "value")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelFileError, match="config.json' is missing"):
        search.load_value(tmp_path)
    with pytest.raises(ModelFileError, match="`folder` must be .* is no folder"):
        search.load_value(tmp_path / "nowhere")


def test_a_config_that_does_not_say_all_is_named(fit, tmp_path):
    search.save_value(fit.value, tmp_path / "value")
    path = tmp_path / "value" / "config.json"
    config = json.loads(path.read_text())
    del config["timesteps"], config["reward_std"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"must say \['reward_std', 'timesteps'\]"):
        search.load_value(tmp_path / "value")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(height=16), r"of the shape that is drawn, \(16, 8, 4\)"),
        (dict(num_inference_steps=4), "at the timesteps of the chain; it was not at"),
        (dict(sampler=draftx.Ancestral), None),
    ],
)
def test_a_value_of_other_latents_is_refused(short_pipeline, fit, options, message):
    sampling = draftx.Sampling(
        **(dict(num_inference_steps=3, guidance_scale=2.0) | options),
        eta=0.0 if "sampler" in options else 1.0,
    )
    ask = lambda: search.svdd(
        short_pipeline, toy_reward, ["cat"], sampling, value=fit.value
    )
    if message is None:
        assert len(ask().images) == 1
        return
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_value_of_another_schedule_or_text_encoder_is_refused(short_pipeline, fit):
    other = SchedulerConfig(beta_end=0.02)
    pipeline = dataclasses.replace(short_pipeline, sampler=DDIM(other))
    for call in (search.svdd, search.smc):
        with pytest.raises(ValueError, match="with beta_end=0.012, not 0.02. Fit"):
            call(pipeline, toy_reward, ["cat"], _SAMPLING, value=fit.value)
    sizes = dataclasses.replace(_SIZES, text_features=6)
    network = search.ValueNetwork(sizes, key=jr.key(0))
    value = dataclasses.replace(fit.value, network=network)
    with pytest.raises(ValueError, match="with 12 features; it was fitted to 6"):
        search.svdd(short_pipeline, toy_reward, ["cat"], _SAMPLING, value=value)


@pytest.mark.parametrize("step", [2, 4])
def test_a_fit_goes_on_bit_for_bit(short_pipeline, fit, tmp_path, step):
    """Killed while images are drawn, and while the network learns."""
    checkpoints = draftx.Checkpoints(tmp_path, every=1)
    killing = dataclasses.replace(checkpoints, store=dies_at(step))
    with pytest.raises(Stop):
        _fit(short_pipeline, checkpoints=killing)
    again = _fit(short_pipeline, checkpoints=checkpoints)
    assert_equal(again.value, fit.value)
    for name in ("rewards", "history", "explained"):
        np.testing.assert_array_equal(getattr(again, name), getattr(fit, name))
    assert again.budget.images == fit.budget.images
    with pytest.raises(ValueError, match="changed since:\n  learning_rate: was 0.002"):
        _fit(short_pipeline, checkpoints=checkpoints, learning_rate=0.1)
    message = r"`num_train_steps \+ 2` must be at least 5, .* got 4"
    with pytest.raises(ValueError, match=message):
        _fit(short_pipeline, checkpoints=checkpoints, num_train_steps=2)
    longer = _fit(short_pipeline, checkpoints=checkpoints, num_train_steps=4)
    assert_equal(longer.value, _fit(short_pipeline, num_train_steps=4).value)


def test_progress_says_which_part_it_is(short_pipeline, capfd):
    _fit(short_pipeline, progress=True)
    text = capfd.readouterr().err
    assert "fit_value" in text
    assert "error=" in text


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            dict(images=[np.zeros((8, 8, 3)), np.zeros((4, 8, 3))]),
            r"`images` must have rows of one shape; got \(8, 8, 3\) and \(4, 8, 3\)",
        ),
        (dict(num_images=1), "`num_images` must be a whole number of at least 3"),
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(batch_size=0), "`batch_size` must be a whole number"),
        (dict(learning_rate=0.0), "`learning_rate` must be finite and positive"),
        (dict(network=3), "`network` must be a ValueNetworkConfig"),
        (
            dict(network=search.ValueNetworkConfig(in_channels=3)),
            "`network` must have `in_channels` 4",
        ),
        (dict(prompts=[]), "`prompts` must hold at least one"),
        (dict(reward=lambda x: jnp.zeros(len(x))), "`reward` must tell the images"),
        (
            dict(reward=lambda x: toy_reward(x) + jnp.log(jnp.zeros(len(x)))),
            "`reward` must give finite numbers",
        ),
    ],
)
def test_bad_input_is_named(short_pipeline, kwargs, message, without_types):
    with pytest.raises(ValueError, match=message):
        _fit(short_pipeline, **kwargs)


def test_sizes_are_checked():
    for name, value in (("width", 6), ("num_blocks", 0), ("text_features", -1)):
        with pytest.raises(ValueError, match=f"`{name}` must be a "):
            search.ValueNetworkConfig(**{name: value})
    network = search.ValueNetwork(_SIZES, key=jr.key(0))
    with pytest.raises(ValueError, match="`text` must be given"):
        network(jnp.zeros((1, 8, 8, 4)), jnp.zeros(1))
    said = eqx.filter_jit(network)(
        jnp.ones((2, 8, 8, 4)), jnp.zeros(2), jnp.ones((2, 12))
    )
    np.testing.assert_array_equal(said, [0, 0])
