"""A generator that sees an image beside the latents: what it is given, and by whom."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import search, Table
from draftx._checks import check_pictures
from draftx.diffusion import Denoiser
from draftx.models import UNet2DConditionModel
from draftx.pipeline import _channels

from ..goldens import make_models
from ..helpers import assert_close, relative_error
from ..io.tiny import assert_equal, random_lora
from ..models.parity import build, GRADIENT_TOLERANCE, VALUE_TOLERANCE
from ..toys import toy_reward, with_options


_PROMPTS = ["cat", "do", "cat"]
_GUIDED = draftx.Sampling(2, 2.0)
_PLAIN = draftx.Sampling(1, 1.0)
_LITTLE = draftx.Memory("none")
_TRAINING = dict(
    key=jr.key(0), num_train_steps=1, batch_size=2, memory=_LITTLE, callbacks=()
)


def _images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


# The size of a model whose autoencoder has one level.
_ROWS = {"prompt": _PROMPTS, "conditioning_image": _images(3, 8, 8, 3)}
_TWO = {name: column[:2] for name, column in _ROWS.items()}


@pytest.fixture(scope="module")
def blind(short_pipeline):
    """As the function leaves it: it could see, but looks at nothing."""
    return draftx.add_conditioning_image(short_pipeline)


@pytest.fixture(scope="module")
def seeing(blind):
    weight = blind.unet.conv_in.weight
    drawn = np.random.default_rng(1).normal(size=weight.shape) / 6
    weight = weight + jnp.asarray(drawn, jnp.float32).at[:, :, :4].set(0)
    return eqx.tree_at(lambda p: p.unet.conv_in.weight, blind, weight)


@pytest.fixture(scope="module")
def adapted(seeing):
    targets = ("conv_in", "attn2.to_v")
    return draftx.add_lora(seeing, rank=2, targets=targets, key=jr.key(0))


def _raw(pipeline, rows):
    """The same rows with what the UNet sees as it is."""
    channels, _ = pipeline.vae.posterior(jnp.asarray(rows["conditioning_image"]))
    return {"prompt": rows["prompt"], "conditioning": np.asarray(channels)}


def test_an_image_is_seen_as_the_mode_of_its_posterior(seeing, monkeypatch):
    raw, sizes = _raw(seeing, _ROWS), []
    expected = draftx.sample(seeing, raw, _GUIDED)
    assert_close(draftx.sample(seeing, _ROWS, _GUIDED), expected)
    # Two at a time: the second chunk is filled up.
    encode = _channels._encode
    monkeypatch.setattr(_channels, "_MOST", 2)
    monkeypatch.setattr(
        _channels, "_encode", lambda vae, x: (sizes.append(len(x)), encode(vae, x))[1]
    )
    rows = _ROWS | {"conditioning_image": _ROWS["conditioning_image"].astype("f8")}
    assert_close(draftx.sample(seeing, rows, _GUIDED), expected)
    assert sizes == [2, 2]


def test_each_row_sees_its_own(seeing):
    latents = jnp.broadcast_to(jr.normal(jr.key(0), (8, 8, 4)), (3, 8, 8, 4))
    images = draftx.sample(seeing, _ROWS, _GUIDED, latents=latents)
    # The first and the last have the same prompt.
    assert jnp.abs(images[0] - images[2]).max() > 1e-3
    parts = draftx.sample(seeing, _ROWS, _GUIDED, images_at_once=2, latents=latents)
    assert_close(parts, images, scale=5)


def test_it_is_encoded_once_also_while_arrays_are_traced(seeing):
    table = Table.of(_ROWS)
    make = lambda p: _channels.make_channels(p, table, (3, 8, 8, 4))
    traced = eqx.filter_eval_shape(make, seeing)
    assert (traced.shape, traced.dtype) == ((3, 8, 8, 4), jnp.float32)


def test_before_it_is_trained_nothing_changes(short_pipeline, blind):
    assert blind.unet.config.in_channels == 8
    assert blind.conditioning_channels == 4
    expected = draftx.sample(short_pipeline, _PROMPTS, _GUIDED)
    found = draftx.sample(blind, _ROWS, _GUIDED)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # An adapter stays, but the convolution must have none.
    kept = random_lora(short_pipeline, targets="attn2.to_v")
    assert_equal(draftx.add_conditioning_image(kept).without_lora(), blind)
    found = draftx.sample(draftx.add_conditioning_image(kept), _ROWS, _GUIDED)
    expected = draftx.sample(kept, _PROMPTS, _GUIDED)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_what_cannot_be_made_to_see(short_pipeline, blind):
    with pytest.raises(ValueError, match="has 4 channels beside the latents already"):
        draftx.add_conditioning_image(blind)
    on_it = draftx.add_lora(short_pipeline, rank=1, targets=["conv_in"], key=jr.key(0))
    with pytest.raises(ValueError, match="is a LoRAConv2d. Merge its adapter"):
        draftx.add_conditioning_image(on_it)


@pytest.mark.usefixtures("without_types")
def test_what_is_no_pipeline():
    with pytest.raises(ValueError, match="`pipeline` must be a Pipeline"):
        draftx.add_conditioning_image("tiny")  # pyright: ignore


def test_an_adapter_learns_to_look(blind):
    adapted = random_lora(
        draftx.add_lora(blind, rank=2, targets=["conv_in"], key=jr.key(0)),
        targets="attn2.to_v",
    )
    up = jnp.ones_like(adapted.unet.conv_in.lora_up)
    adapted = eqx.tree_at(lambda p: p.unet.conv_in.lora_up, adapted, up)
    rewards, gradient = draftx.reward_gradient(
        adapted, toy_reward, _TWO, _PLAIN, method=draftx.DRaFT(1), memory=_LITTLE
    )
    assert_close(rewards, toy_reward(draftx.sample(adapted, _TWO, _PLAIN)))
    down = gradient.unet.conv_in.lora_down
    assert down.shape == (3, 3, 8, 2)
    assert jnp.abs(down[:, :, 4:]).max() > 1e-6


def test_it_is_trained_and_measured(adapted):
    raw = _raw(adapted, _TWO)
    ends = []
    for rows in (_TWO, raw):
        evaluation = draftx.Evaluation(rows, {"it": toy_reward}, _PLAIN, num_samples=1)
        result = draftx.finetune(
            adapted,
            toy_reward,
            rows,
            _PLAIN,
            method=draftx.DRaFT(1),
            evaluation=evaluation,
            **_TRAINING,
        )
        row = result.history[0]
        assert row["gradient_norm"] > 0
        ends.append([row[n] for n in ("reward", "gradient_norm", "held_out/it")])
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_it_is_trained_in_rounds(adapted):
    rounds = [
        draftx.finetune_in_rounds(
            adapted, toy_reward, rows, _PLAIN, method=draftx.DDPO(), **_TRAINING
        ).history[0]
        for rows in (_TWO, _raw(adapted, _TWO))
    ]
    assert rounds[0]["gradient_norm"] > 0
    np.testing.assert_allclose(
        *[[row["reward"], row["gradient_norm"]] for row in rounds], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("find", "options"),
    [(search.best_of_n, dict(n=2)), (search.svdd, dict(num_candidates=2))],
    ids=["best_of_n", "svdd"],
)
def test_it_is_searched_with(seeing, find, options):
    sampling = with_options(_PLAIN, eta=float(find is search.svdd))
    found = [
        find(seeing, toy_reward, rows, sampling, progress=False, **options)
        for rows in (_TWO, _raw(seeing, _TWO))
    ]
    assert_close(found[0].images, found[1].images)
    assert_close(toy_reward(found[0].images), found[0].rewards)


def _bad(**columns):
    return {"prompt": _PROMPTS, **columns}


_NAN = _ROWS["conditioning_image"] * np.where(np.arange(3) == 1, np.nan, 1)[
    :, None, None, None
].astype("f")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            _bad(),
            r"a column 'conditioning_image', images in \[0, 1\] of .* = \(3, 8, 8, 3\)"
            r", or a column 'conditioning' of .* = \(3, 8, 8, 4\).*\['prompt'\]\.$",
        ),
        (
            _bad(conditionning_image=_images(3, 8, 8, 3)),
            "Did you mean 'conditioning_image' where it says 'conditionning_image'",
        ),
        (
            _bad(conditioning_image=_images(3, 16, 16, 3)),
            r"size that is drawn.*= \(3, 8, 8, 3\); got \(3, 16, 16, 3\). Resize them",
        ),
        (
            _bad(conditioning_image=_images(3, 3, 8, 8)),
            r"\(3, 8, 8, 3\); got \(3, 3, 8, 8\). Put channels last",
        ),
        (_bad(conditioning_image=_images(3, 8, 8, 1)), r"got \(3, 8, 8, 1\). Put"),
        (_bad(conditioning_image=_images(2, 8, 8, 3)), "columns of one length"),
        (
            _bad(conditioning_image=np.ones((3, 8, 8, 3), np.uint8)),
            r"\['conditioning_image'\]\[0\]` must be floating point.*Divide bytes",
        ),
        (
            _bad(conditioning_image=2 * _images(3, 8, 8, 3) - 1),
            r"\['conditioning_image'\]\[0\]` must lie in \[0, 1\]; got numbers from -",
        ),
        (_bad(conditioning_image=_NAN), r"\[1\]` must lie in \[0, 1\]; got.* nan"),
        (
            _bad(**(_ROWS | {"conditioning": np.zeros((3, 8, 8, 4))})),
            "one of the columns 'conditioning' and 'conditioning_image'; got both",
        ),
        (
            _bad(conditioning=np.full((3, 8, 8, 4), np.inf)),
            r"`prompts\['conditioning'\]` must be finite",
        ),
    ],
)
def test_images_that_it_cannot_be_shown(seeing, rows, message, monkeypatch):
    monkeypatch.setattr(_channels, "_encode", None)
    with pytest.raises(ValueError, match=message):
        draftx.sample(seeing, rows, _PLAIN)
    if len(rows["prompt"]) != len(rows.get("conditioning_image", _PROMPTS)):
        return
    # Before the reward is asked for anything, and before the images are encoded.
    evaluation = draftx.Evaluation(rows, {"it": toy_reward}, _PLAIN)
    with pytest.raises(ValueError, match=message):
        evaluation.check(seeing)


def test_a_training_with_what_the_evaluation_lacks_does_not_begin(adapted, monkeypatch):
    monkeypatch.setattr(_channels, "_encode", None)
    evaluation = draftx.Evaluation(["cat"], {"it": toy_reward}, _PLAIN)
    for train, method in (
        (draftx.finetune, draftx.DRaFT(1)),
        (draftx.finetune_in_rounds, draftx.DDPO()),
    ):
        options = dict(_TRAINING, method=method, evaluation=evaluation)
        message = "`evaluation` must have rows .* must have a column 'conditioning_im"
        with pytest.raises(ValueError, match=message):
            train(adapted, toy_reward, _TWO, _PLAIN, **options)


@pytest.mark.parametrize("name", ["conditioning", "conditioning_image"])
def test_a_model_that_sees_the_text_alone_takes_no_image(short_pipeline, name):
    rows = {"prompt": ["cat"], name: np.zeros((1, 8, 8, 4), np.float32)}
    with pytest.raises(ValueError, match=f"no column '{name}'.*add_conditioning_im"):
        draftx.sample(short_pipeline, rows, _PLAIN)


def test_other_channels_are_given_as_they_are(short_pipeline):
    """Such as a mask and what is left, of models that paint what is missing."""
    unet = short_pipeline.unet.with_more_channels(5)
    painting = eqx.tree_at(lambda p: p.unet, short_pipeline, unet)
    message = r"must have a column 'conditioning' .*= \(3, 8, 8, 5\).*got None and"
    with pytest.raises(ValueError, match=message):
        draftx.sample(painting, _ROWS, _PLAIN)
    rows = {"prompt": _PROMPTS, "conditioning": np.zeros((3, 8, 8, 5), np.float32)}
    assert draftx.sample(painting, rows, _PLAIN).shape == (3, 8, 8, 3)


def test_the_latents_come_first_and_then_what_it_sees():
    """Through the chain's denoiser, the values and gradients of diffusers' UNet."""
    path = pathlib.Path(make_models.__file__).with_name("unet_seeing.npz")
    with np.load(path) as file:
        golden = dict(file)
    unet = build("unet_seeing", golden)
    given = {name: jnp.asarray(golden[f"in/{name}"]) for name in _GIVEN}
    ct = jnp.asarray(golden["ct/prediction"])

    @jax.jit
    def row(unet: UNet2DConditionModel, i):
        both, text = given["latents"][i][None], given["text_embeddings"][i][None]

        def predict(latents, channels):
            times = given["timesteps"]
            return Denoiser(unet, times, text, channels=channels)(latents, i)

        out, vjp = jax.vjp(predict, both[..., :4], both[..., 4:])
        return out, jnp.concatenate(vjp(ct[i][None]), axis=-1)

    rows = [row(unet, jnp.asarray(i)) for i in range(3)]
    out, gradient = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    assert relative_error(out, golden["out/prediction"]) < VALUE_TOLERANCE
    assert relative_error(gradient, golden["grad/latents"]) < GRADIENT_TOLERANCE


_GIVEN = ("latents", "text_embeddings", "timesteps")


def test_bfloat16_is_floating_point():
    """To NumPy it is not."""
    images = np.asarray(jnp.full((1, 2, 2, 3), 0.5, jnp.bfloat16))
    np.testing.assert_array_equal(check_pictures("images", images), 0.5)
