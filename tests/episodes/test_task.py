import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import draftx
from draftx.episodes import image_spec, make_task, Memory

from ..helpers import assert_close
from ..toys import toy_reward


_ROWS = {
    "prompt": ["cat", "do", "cat do"],
    "negative_prompt": ["", "cat", "do"],
    "weight": np.asarray([1.0, 2.0, 3.0], np.float32),
}
_SHAPE = (2, 8, 8, 4)


def _weighed(images, rows):
    return rows["weight"] * toy_reward(images)


def _task(pipeline, rows=_ROWS, reward=_weighed, **options):
    sampling = options.pop("sampling", draftx.Sampling(2, 2.0))
    table = draftx.Table.of(rows)
    return make_task(pipeline, reward, table, sampling, shape=_SHAPE, **options)


def test_rows_keep_together(base_pipeline):
    task = _task(base_pipeline)
    assert len(task) == 3
    rows = jnp.asarray([2, 0])
    batch = task.batch(jnp.zeros(_SHAPE), jr.key(0), rows)
    tokenize = base_pipeline.tokenize
    ids = batch.conditioning.input_ids
    np.testing.assert_array_equal(ids, tokenize(["cat do", "cat"]))
    negative = batch.conditioning.negative_input_ids
    np.testing.assert_array_equal(negative, tokenize(["do", ""]))
    np.testing.assert_array_equal(batch.features["weight"], [3, 1])
    whole = task.batch(jnp.zeros((3, *_SHAPE[1:])), jr.key(0))
    np.testing.assert_array_equal(whole.features["weight"], [1, 2, 3])


def test_one_negative_prompt_is_not_a_row(base_pipeline):
    task = _task(base_pipeline, ["cat", "do"], toy_reward)
    batch = task.batch(jnp.zeros(_SHAPE), jr.key(0), jnp.asarray([1, 1]))
    assert batch.conditioning.negative_input_ids.shape[0] == 1
    assert batch.features is None
    unguided = _task(base_pipeline, ["cat"], toy_reward, sampling=draftx.Sampling(2, 1))
    assert unguided.conditioning.negative_input_ids is None
    assert unguided.plan.guidance_scale is None


def test_texts_are_encoded_once_for_all_batches(base_pipeline):
    task = _task(base_pipeline)
    encoded = task.encoded()
    rows = jnp.asarray([2, 0])
    batch = encoded.batch(jnp.zeros(_SHAPE), jr.key(0), rows)
    plain = task.batch(jnp.zeros(_SHAPE), jr.key(0), rows)
    told, ids = batch.conditioning, plain.conditioning
    np.testing.assert_array_equal(told.input_ids, ids.input_ids)
    embed = base_pipeline.embed
    assert_close(told.embeddings, embed(ids.input_ids))
    assert_close(told.negative_embeddings, embed(ids.negative_input_ids))
    assert batch.features["weight"].tolist() == [3, 1]
    # Nothing that a program is given has the text encoder in it.
    assert not jax.tree.leaves(encoded.pipeline.text_encoder)
    assert jax.tree.leaves(task.pipeline.text_encoder)
    assert plain.conditioning.embeddings is None


def test_a_reward_may_be_told_other_rows(base_pipeline):
    other = draftx.Table.of(_ROWS | {"weight": np.asarray([4.0, 5.0, 6.0], "f")})
    task = _task(base_pipeline, judged=other)
    np.testing.assert_array_equal(task.features["weight"], [4, 5, 6])


def test_the_images_of_latents(base_pipeline):
    spec = image_spec(base_pipeline, (3, 6, 10, 4))
    assert (spec.shape, spec.dtype) == ((3, 12, 20, 3), jnp.float32)


def test_the_noise_of_a_method(base_pipeline):
    assert float(_task(base_pipeline, eta=0.5).plan.eta) == 0.5
    assert _task(base_pipeline, eta=0.5).plan.is_random
    euler = draftx.Sampling(2, sampler=draftx.Euler)
    assert not _task(base_pipeline, eta=0.5, sampling=euler).plan.is_random
    with pytest.raises(ValueError, match="must be 0 or that of `method`, 1.0; got 0.5"):
        _task(base_pipeline, eta=1.0, sampling=draftx.Sampling(2, eta=0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(memory=Memory(images_at_once=3)), "divides the batch, 2; got 3"),
        (dict(reward=lambda images: jnp.mean(images)), "one score for each image"),
        (dict(reward=3), "`reward` must be a function of images or a reward; got int"),
        (dict(rows=["a"], reward=lambda images, rows: rows["weight"]), "weight"),
        (dict(sampling=draftx.Sampling(1001)), "got 1001"),
    ],
)
def test_what_does_not_fit_is_named(base_pipeline, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises((ValueError, KeyError), match=message):
        _task(base_pipeline, **options)
