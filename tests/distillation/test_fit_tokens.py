"""Training of tokens: its gradient, what it lowers, and how it goes on."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
from draftx.distillation import _token_loss, fit_image_tokens
from draftx.models import checkpoint_arrays, ImageTokens

from ..helpers import assert_close
from ..io.tiny import random_lora
from .test_token_prompt import embed
from .toys import KEY, PROMPTS, SAMPLING


IMAGES = np.random.default_rng(5).uniform(size=(2, 8, 8, 3)).astype(np.float32)


def _fit(pipeline, steps=4, **options):
    given = dict(
        key=KEY,
        num_train_steps=steps,
        images=IMAGES,
        batch_size=3,
        optimizer=draftx.adamw(0.02, weight_decay=0.0),
        callbacks=(),
    )
    return fit_image_tokens(pipeline, embed, PROMPTS, SAMPLING, **(given | options))


@pytest.fixture(scope="module")
def whole(short_pipeline):
    return _fit(short_pipeline)


def test_what_it_gives(whole):
    assert whole.stopped is None
    assert [row["step"] for row in whole.history] == [0, 1, 2, 3]
    last = whole.history[-1]
    assert last["learning_rate"] == pytest.approx(0.02)
    assert (last["unet_forwards"], last["unet_backwards"]) == (12, 12)
    assert last["skipped"] == 0


def test_a_step_follows_the_gradient_of_the_loss(short_pipeline, getkey):
    """With an adapter on, and the loss written out."""
    pipeline = random_lora(short_pipeline, scale=0.3)
    config = pipeline.unet.config
    start = ImageTokens(config, embedding_features=3, num_tokens=2, key=getkey())
    made = _fit(pipeline, 1, tokens=start, optimizer=optax.sgd(0.5))
    key = jr.fold_in(jr.split(KEY, 3)[2], 0)
    row_key, time_key, noise_key, drop_key = jr.split(key, 4)
    rows = np.asarray(jr.randint(row_key, (3,), 0, 2))
    times = jr.randint(time_key, (3,), 0, 1000)
    drawn = np.asarray(jr.uniform(drop_key, (3,)))
    clean = pipeline.vae.encode(jnp.asarray(IMAGES))[rows]
    noise = jr.normal(noise_key, clean.shape)
    alpha = np.asarray(pipeline.sampler.config.alphas_cumprod())[np.asarray(times)]
    signal, sigma = (
        jnp.asarray(x)[:, None, None, None]
        for x in (np.sqrt(alpha), np.sqrt(1 - alpha))
    )
    prompts = ["" if d < 0.1 else PROMPTS[r] for d, r in zip(drawn, rows, strict=True)]
    text = pipeline.embed(pipeline.tokenize(prompts))
    seen = embed(jnp.asarray(IMAGES))[rows] * jnp.asarray(
        [[0.0 if 0.05 <= d < 0.15 else 1.0] for d in drawn]
    )

    @jax.jit
    def loss(tokens):
        unet = pipeline.unet
        context = tokens.beside(unet.text_context(text), seen, jnp.ones(()))
        shifts = unet.time_shifts(times)
        found = unet.denoise(signal * clean + sigma * noise, shifts, context)
        return jnp.mean((found - noise) ** 2)

    value, gradient = jax.value_and_grad(loss)(start)
    assert made.history[0]["loss"] == pytest.approx(float(value), rel=1e-4)
    expected = jax.tree.map(lambda x, d: x - 0.5 * d, start, gradient)
    assert_close(made.tokens, expected, scale=5)


def test_keys_and_values_begin_as_those_of_the_text(short_pipeline):
    made = _fit(short_pipeline, 1, optimizer=optax.sgd(1e-12)).tokens
    arrays, unet = checkpoint_arrays(made), checkpoint_arrays(short_pipeline.unet)
    own = {k: x for k, x in unet.items() if "attn2.to_k" in k or "attn2.to_v" in k}
    ours = [x for k, x in arrays.items() if k.startswith("ip_adapter")]
    assert len(ours) == len(own) > 0
    for x, y in zip(ours, own.values(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert arrays["image_proj.proj.weight"].shape == (4 * 12, 3)


def test_the_loss_falls(short_pipeline):
    """Of pictures, times and noise that the training does not draw."""
    made = _fit(short_pipeline, 40)
    begun = _fit(short_pipeline, 1, optimizer=optax.sgd(1e-12))
    measure = lambda tokens: np.mean(
        [
            row["loss"]
            for row in _fit(
                short_pipeline,
                8,
                tokens=tokens,
                key=jr.key(99),
                batch_size=16,
                optimizer=optax.sgd(1e-12),
            ).history
        ]
    )
    assert measure(made.tokens) < measure(begun.tokens) - 0.01


class _Stop(Exception):
    pass


def test_it_goes_on_bit_for_bit(whole, short_pipeline, tmp_path):
    def stop(row, tokens):
        if row["step"] == 2:
            raise _Stop

    saved = draftx.Checkpoints(tmp_path, every=1)
    with pytest.raises(_Stop):
        _fit(short_pipeline, checkpoints=saved, callbacks=(stop,))
    result = _fit(short_pipeline, checkpoints=saved)
    pairs = zip(
        jax.tree.leaves(result.tokens), jax.tree.leaves(whole.tokens), strict=True
    )
    for mine, other in pairs:
        np.testing.assert_array_equal(mine, other)
    assert [r["loss"] for r in result.history] == [r["loss"] for r in whole.history]
    with pytest.raises(ValueError, match="must be gone on with as it was begun"):
        _fit(short_pipeline, checkpoints=saved, images=IMAGES[::-1])


def test_pictures_are_drawn(short_pipeline):
    options = dict(images=None, num_images=3, batch_size=2)
    made = _fit(short_pipeline, 1, **options)
    again = _fit(short_pipeline, 1, **options)
    assert made.history[0]["loss"] == again.history[0]["loss"]
    assert np.isfinite(made.history[0]["loss"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(images=IMAGES[:1]), r"`images` must have one image for each row.*got"),
        (dict(images=2 * IMAGES), r"`images` must lie in \[0, 1\]"),
        (dict(images=np.zeros((2, 16, 16, 3))), r"= \(2, 8, 8, 3\); got \(2, 16"),
        (dict(tokens=3), "`tokens` must be an ImageTokens"),
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(batch_size=0), "`batch_size` must be a whole number"),
        (dict(num_images=0), "`num_images` must be a whole number"),
        (dict(optimizer=3), "`optimizer`"),
        (dict(key=3), "`key` must be one key"),
    ],
)
def test_what_is_wrong_is_named(change, text, short_pipeline, without_types):
    with pytest.raises(ValueError, match=text):
        _fit(short_pipeline, **change)


def _never(images):
    raise AssertionError("a picture was looked at")


def test_what_the_model_sees_is_looked_at_before_any_picture(
    short_pipeline, monkeypatch
):
    seeing = draftx.add_conditioning_image(short_pipeline)
    call = lambda pipeline, embed, **rows: fit_image_tokens(
        pipeline,
        embed,
        {"prompt": PROMPTS, **rows},
        draftx.Sampling(2, 3.0, negative_prompt="do"),
        key=KEY,
        num_train_steps=1,
        images=IMAGES,
        callbacks=(),
    )
    with pytest.raises(ValueError, match="must have a column 'conditioning_image'"):
        call(seeing, _never)
    with pytest.raises(ValueError, match="must have no column 'conditioning_image'"):
        call(short_pipeline, _never, conditioning_image=IMAGES)
    monkeypatch.setattr(_token_loss, "encode", lambda pipeline, images: _never(images))
    with pytest.raises(ValueError, match="`negative_prompt` must be an option"):
        call(short_pipeline, embed, negative_prompt=PROMPTS)


def test_tokens_of_another_embedding_are_named(short_pipeline, base_pipeline):
    config = short_pipeline.unet.config
    other = ImageTokens(config, embedding_features=5, key=KEY)
    with pytest.raises(ValueError, match="`tokens` must take the 3 features"):
        _fit(short_pipeline, tokens=other)
    with pytest.raises(ValueError, match="`tokens` must be for a UNet"):
        _fit(base_pipeline, tokens=other, images=np.zeros((2, 16, 16, 3)))
