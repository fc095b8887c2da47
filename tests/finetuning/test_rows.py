"""A reward that compares each image with its own row's reference, wherever rows are
drawn, shuffled or repeated."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.episodes import make_episode, make_task
from draftx.rewards import as_reward, ReferenceSimilarity

from ..helpers import assert_close


_SAMPLING = draftx.Sampling(1, 1.0)
_REFERENCES = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype("f")
# The last is far from all: a reward says which row an image is compared with.
_REFERENCES *= np.asarray([0.2, 0.6, 1.0], "f")[:, None, None, None]
_ROWS = {"prompt": ["cat", "do", "cat do"], "reference": _REFERENCES}
_MEMORY = draftx.Memory("none")


def _take(order):
    return {name: [column[i] for i in order] for name, column in _ROWS.items()}


def _expected(images, rows):
    references = _REFERENCES[np.asarray(rows)]
    return -np.mean((np.asarray(images) - references) ** 2, axis=(1, 2, 3))


def _of_rows(images, rows):
    return -jnp.mean((images - rows["reference"]) ** 2, axis=(1, 2, 3))


_REWARD = ReferenceSimilarity()


def test_gradients(pipeline):
    order = [2, 0, 1]
    latents = jr.normal(jr.key(1), (3, 8, 8, 4))[np.asarray(order)]
    options = dict(latents=latents, method=draftx.DRaFT(1), memory=_MEMORY)
    rewards, gradient = draftx.reward_gradient(
        pipeline, _REWARD, _take(order), _SAMPLING, **options
    )
    images = draftx.sample(pipeline, _take(order), _SAMPLING, latents=latents)
    np.testing.assert_allclose(rewards, _expected(images, order), rtol=1e-4)
    # The mean does not depend on the order, nor does its gradient.
    _, plain = draftx.reward_gradient(
        pipeline,
        _REWARD,
        _ROWS,
        _SAMPLING,
        **options | dict(latents=latents[np.argsort(order)]),
    )
    assert_close(gradient, plain, scale=10.0)


@pytest.mark.parametrize("reward", [_REWARD, _of_rows])
def test_images_are_told_of_their_own_rows_a_few_at_a_time(pipeline, reward):
    latents = jr.normal(jr.key(1), (4, 8, 8, 4))
    rows = jnp.asarray([1, 0, 2, 1])
    table = draftx.Table.of(_ROWS)
    rewards = []
    for size in (None, 2):
        task = make_task(
            pipeline,
            reward,
            table,
            _SAMPLING,
            shape=latents.shape,
            memory=draftx.Memory("none", size),
        )
        batch = task.batch(latents, jr.key(0), rows)

        @eqx.filter_jit
        def both(pipeline, batch, memory=task.memory):
            episode = make_episode(pipeline, as_reward(reward), batch, memory)
            return episode.rewards(latents), episode.rewards_alone(latents)

        rewards += both(pipeline, batch)
    images = eqx.filter_jit(lambda p: p.decode(latents))(pipeline)
    for one in rewards:
        np.testing.assert_allclose(one, _expected(images, rows), rtol=1e-4)


def test_training_compares_what_it_draws_with_its_own_rows(pipeline):
    """A flat image of each reference's shade: rewards tell the rows of a history."""
    names = {"prompt": _ROWS["prompt"], "shade": np.asarray([1.0, 10.0, 100.0])}
    shade = lambda images, rows: (
        rows["shade"].astype(jnp.float32) + 1e-3 * jnp.mean(images, axis=(1, 2, 3))
    )
    for train, method in (
        (draftx.finetune, draftx.DRaFT(1)),
        (draftx.finetune_in_rounds, draftx.DDPO()),
    ):
        result = train(
            pipeline,
            shade,
            names,
            _SAMPLING,
            method=method,
            key=jr.key(0),
            num_train_steps=3,
            batch_size=2,
            memory=_MEMORY,
            callbacks=(),
        )
        seen = set()
        for row in result.history:
            drawn = names["shade"][np.asarray(row["prompts"])]
            assert row["reward"] == pytest.approx(np.mean(drawn), rel=1e-2)
            seen |= set(row["prompts"])
        assert len(seen) > 1


def test_evaluation_compares_every_sample_with_its_own_row(pipeline):
    evaluation = draftx.Evaluation(
        _ROWS, {"own": _REWARD, "fn": _of_rows}, _SAMPLING, num_samples=2, batch_size=4
    )
    figures = evaluation(pipeline)
    scores = []
    for i in range(6):
        latents = evaluation.latents(pipeline, np.asarray([i]))
        one = draftx.sample(
            pipeline, [_ROWS["prompt"][i // 2]], _SAMPLING, latents=latents
        )
        scores.append(_expected(one, [i // 2]))
    assert figures["own"] == pytest.approx(np.mean(scores), rel=1e-4)
    assert figures["fn"] == pytest.approx(np.mean(scores), rel=1e-4)


def test_searches_compare_with_the_own_row(pipeline):
    result = draftx.search.best_of_n(pipeline, _REWARD, _ROWS, _SAMPLING, n=3)
    expected = _expected(result.images, [0, 1, 2])
    np.testing.assert_allclose(result.rewards, expected, rtol=1e-4)
