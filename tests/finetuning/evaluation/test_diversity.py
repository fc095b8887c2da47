import jax.numpy as jnp
import numpy as np
import pytest

from draftx.finetuning import coarse_pixels, diversity


def test_diversity_is_the_mean_distance_of_pairs():
    x = np.random.default_rng(0).normal(size=(3, 2, 5)) + 100
    figures = diversity(x)
    within = [np.linalg.norm(x[i, 0] - x[i, 1]) for i in range(3)]
    across = [
        np.linalg.norm(x[i, a] - x[j, b])
        for i in range(3)
        for j in range(3)
        for a in range(2)
        for b in range(2)
        if i != j
    ]
    assert figures["diversity"] == pytest.approx(np.mean(within))
    assert figures["diversity_across"] == pytest.approx(np.mean(across))
    assert set(diversity(x[:1])) == {"diversity"}
    assert set(diversity(x[:, :1])) == {"diversity_across"}


def test_black_and_white_are_as_far_apart_as_can_be():
    images = jnp.stack([jnp.zeros((24, 24, 3)), jnp.ones((24, 24, 3))])
    features = np.asarray(coarse_pixels(images))[None]
    assert diversity(features)["diversity"] == pytest.approx(1)
