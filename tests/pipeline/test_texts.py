"""What is asked of the text encoder once: each text, and only where nothing changes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.pipeline import _texts, condition, encode_texts

from ..helpers import relative_error
from ..io.tiny import cast, random_lora


_ROWS = {
    "prompt": ["cat", "do", "cat", "do do"],
    "negative_prompt": ["", "do", "", "cat"],
}
_SHAPE = (2, 8, 8, 4)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return short_pipeline


@pytest.fixture
def asked(monkeypatch):
    """The token ids that the text encoder was given, chunk by chunk."""
    chunks, embed = [], _texts._embed

    def listen(encoder, input_ids):
        chunks.append(np.asarray(input_ids))
        return embed(encoder, input_ids)

    monkeypatch.setattr(_texts, "_embed", listen)
    return chunks


def _condition(pipeline, rows=_ROWS, **options):
    sampling = draftx.Sampling(2, 2.0, **options)
    return condition(pipeline, draftx.Table.of(rows), sampling, _SHAPE)


def _assert_known(pipeline, told, tolerance=1e-6):
    pairs = [
        (told.input_ids, told.embeddings),
        (told.negative_input_ids, told.negative_embeddings),
    ]
    for ids, known in pairs:
        expected = pipeline.text_encoder(ids)
        assert known.dtype == expected.dtype
        for row, as_expected in zip(known, expected, strict=True):
            assert relative_error(row, as_expected) < tolerance


@pytest.mark.parametrize("size", [2, 16])
def test_each_text_is_encoded_once(pipeline, asked, size, monkeypatch):
    monkeypatch.setattr(_texts, "_CHUNK", size)
    without, told = encode_texts(pipeline, _condition(pipeline))
    _assert_known(pipeline, told)
    # Of eight texts four differ. One program for all: each chunk is full.
    assert [len(chunk) for chunk in asked] == [size] * max(1, 4 // size)
    assert len(np.unique(np.concatenate(asked), axis=0)) == 4
    # Programs are given the rest, and nothing of the text encoder.
    assert not jax.tree.leaves(without.text_encoder)
    pairs = zip(
        jax.tree.leaves((without.unet, without.vae)),
        jax.tree.leaves((pipeline.unet, pipeline.vae)),
        strict=True,
    )
    assert all(x is y for x, y in pairs)
    adapted = draftx.add_lora(without, rank=1, key=jr.key(0))
    assert draftx.lora.has_lora(adapted.unet)


def test_rows_are_taken_with_what_is_known_of_them(pipeline):
    _, told = encode_texts(pipeline, _condition(pipeline))
    _assert_known(pipeline, told.take(jnp.asarray([3, 1, 1])))
    # One negative prompt is for all rows.
    plain = _condition(pipeline, _ROWS["prompt"], negative_prompt="do")
    some = encode_texts(pipeline, plain)[1].take(jnp.asarray([1, 0, 3]))
    assert some.negative_embeddings.shape[0] == 1
    _assert_known(pipeline, some)


def test_without_guidance_there_is_nothing_to_lead_away_from(pipeline):
    table, unguided = draftx.Table.of(["cat"]), draftx.Sampling(2, 1.0)
    plain = condition(pipeline, table, unguided, _SHAPE)
    _, told = encode_texts(pipeline, plain)
    assert told.negative_embeddings is None
    assert told.embeddings.shape == (1, *plain.input_ids.shape[1:], 12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_embeddings_are_in_the_precision_of_the_encoder(pipeline, dtype):
    half = cast(pipeline, dtype)
    told = encode_texts(half, _condition(half))[1]
    # One program rounds to half of the digits where another does not.
    _assert_known(half, told, 1e-2)
    # They come out as those of a program that asks.
    known = half.embed(told.input_ids, told.embeddings)
    assert known.dtype == half.embed(told.input_ids).dtype
    np.testing.assert_array_equal(known, told.embeddings.astype(known.dtype))


def test_an_adapter_of_the_text_encoder_is_asked_every_time(pipeline):
    adapted = random_lora(pipeline, targets=("self_attn.q_proj",))
    plain = _condition(adapted)
    same, told = encode_texts(adapted, plain)
    assert same is adapted
    assert told is plain


def test_a_table_that_is_too_large_is_asked_about_every_time(pipeline, monkeypatch):
    plain = _condition(pipeline)
    size = 4 * 12 * (plain.input_ids.size + plain.negative_input_ids.size)
    monkeypatch.setattr(_texts, "MAX_BYTES", size - 1)
    same, told = encode_texts(pipeline, plain)
    assert same is pipeline
    assert told is plain
    monkeypatch.setattr(_texts, "MAX_BYTES", size)
    assert encode_texts(pipeline, plain)[1].embeddings is not None
    assert encode_texts(cast(pipeline, jnp.bfloat16), plain)[1].embeddings is not None


def test_images_are_the_same_whoever_asks(pipeline, monkeypatch):
    draw = lambda pipeline: draftx.sample(pipeline, _ROWS, draftx.Sampling(1, 2.0))
    images = draw(pipeline)
    # While a program is traced nothing is known: it has to ask.
    within = eqx.filter_jit(draw)(pipeline)
    assert relative_error(images, within) < 1e-6
    monkeypatch.setattr(_texts, "MAX_BYTES", 0)
    assert relative_error(images, draw(pipeline)) < 1e-6
