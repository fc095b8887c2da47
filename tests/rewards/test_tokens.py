import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.spatial

from draftx import Table
from draftx.judges import Dinov2Model, EfficientNetLite
from draftx.models import CLIPVisionConfig
from draftx.rewards import (
    Degradation,
    FeatureDistance,
    load,
    LPIPS,
    ReferenceSimilarity,
    RewardError,
    TokenDistance,
)

from ..helpers import assert_close
from . import thin


_X, _Y = jr.uniform(jr.key(0), (2, 3, 16, 16, 3))


def _patches(images):
    """Pixels of squares of four: a network that has tokens."""
    return images.reshape(len(images), 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(-1, 16, 48)


def test_it_is_the_mean_cosine_distance_of_places():
    got = TokenDistance(_patches)(_X, _Y)
    cosine = scipy.spatial.distance.cosine
    wanted = [
        np.mean([cosine(a, b) for a, b in zip(x, y, strict=True)])
        for x, y in zip(_patches(_X), _patches(_Y), strict=True)
    ]
    assert_close(got, np.asarray(wanted, np.float32), scale=5.0)
    as_map = lambda x: _patches(x).reshape(-1, 4, 4, 48)
    assert_close(TokenDistance(as_map)(_X, _Y), got)


def test_of_several_maps_some_or_all_are_compared():
    both = lambda x: [_patches(x), x]
    one, other = TokenDistance(_patches)(_X, _Y), TokenDistance(lambda x: x)(_X, _Y)
    assert_close(TokenDistance(both)(_X, _Y), (one + other) / 2, scale=5.0)
    assert_close(TokenDistance(both, depths=(-1,))(_X, _Y), other)
    with pytest.raises(ValueError, match="`depths` must be of the 2 maps"):
        TokenDistance(both, depths=(2,))(_X, _Y)
    with pytest.raises(ValueError, match="`network` must give tokens"):
        TokenDistance(lambda x: x.mean(axis=(1, 2)))(_X, _Y)


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (lambda x: None, "got None"),
        (lambda x: [], r"got \[\]"),
        (lambda x: {"tokens": _patches(x)}, "got a dict"),
        (lambda x: [_patches(x), None], r"got \[\(3, 16, 48\) float32, None\]"),
        (lambda x: (9 * _patches(x)).astype(int), r"got \(3, 16, 48\) int32"),
        (lambda x: _patches(x)[:2], r"of 3 images; got \(2, 16, 48\) float32"),
        (lambda x: _patches(x)[:, :0], r"got \(3, 0, 48\) float32"),
    ],
)
def test_what_are_no_tokens_is_named(network, got):
    wanted = "`network` must give tokens .*or maps .*floats, or a list of such, "
    with pytest.raises(RewardError, match=f"(?s){wanted}.*{got}"):
        TokenDistance(network)(_X, _Y)
    with pytest.raises(RewardError, match="`network` must give tokens"):
        TokenDistance(network, depths=(-1,)).features(_X)


@pytest.mark.parametrize("make", [TokenDistance, FeatureDistance])
def test_a_network_that_fails_is_named(make):
    tower = load("tiny-clip").model.vision_model
    # Not of the size that it takes.
    distance = make(tower.hidden_states, preprocess=None)
    told = r"`network` must be a function .*\(3, 16, 16, 3\) it raised TypeError: .*"
    with pytest.raises(RewardError, match=told) as raised:
        distance(_X, _Y)
    assert isinstance(raised.value.__cause__, TypeError)
    distance = make(lambda x: jnp.asarray(np.asarray(x)))
    with pytest.raises(RewardError, match="that JAX can trace"):
        jax.jit(distance.features)(_X)
    # What is wrong with images is no fault of the network's.
    with pytest.raises(ValueError, match="^`images` must be in"):
        make(_patches)(9 * _X, _Y)


def test_what_are_no_features_is_named():
    for network, got in (
        (lambda x: None, "None"),
        (lambda x: x > 0.5, r"\(3, 16, 16, 3\) bool"),
        (lambda x: [x], r"\[\(3, 16, 16, 3\) float32\]"),
        (lambda x: x.mean(), r"\(\) float32"),
    ):
        with pytest.raises(RewardError, match=f"must give features, .*got {got}"):
            FeatureDistance(network)(_X, _Y)


def test_images_are_made_what_transformers_take():
    """As the rewards do that have the same towers."""
    clip = load("tiny-clip")
    tower = clip.model.vision_model
    images = jr.uniform(jr.key(4), (2, 40, 50, 3))
    for network in (tower, tower.hidden_states, clip.model.image_features):
        seen = FeatureDistance(network).preprocess(images)
        assert_close(seen, clip.preprocess(images))
    own = TokenDistance(tower.hidden_states, preprocess=clip.preprocess)
    distance = TokenDistance(tower.hidden_states)
    assert_close(distance(images, images[::-1]), own(images, images[::-1]))
    config = CLIPVisionConfig(**thin._VISION)
    dinov2 = thin.random_model(Dinov2Model, config)
    # Not to the size of its places: others are in between.
    assert (
        TokenDistance(dinov2.hidden_states).preprocess(images).shape[1:3] == (224,) * 2
    )


def test_with_equal_heads_lpips_is_the_same_form():
    trunk = thin.lpips().trunk
    lpips = LPIPS(trunk, tuple(jnp.ones(width) for width in trunk.channels))
    x, y = jax.image.resize(jnp.stack([_X, _Y]), (2, 3, 64, 64, 3), "linear")
    # A list of five maps, of norm one already; the sum of five squared distances, each
    # twice one minus the cosine.
    got = TokenDistance(lpips.features)(x, y)
    assert_close(got, lpips(x, y) / 10, scale=20.0)


def test_of_equal_images_the_gradient_is_finite():
    gradient = jax.grad(lambda x: jnp.sum(TokenDistance(_patches)(x, _X)))(_X)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    zeros = jnp.zeros_like(_X)
    gradient = jax.grad(lambda x: jnp.sum(TokenDistance(_patches)(x, _X)))(zeros)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_its_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        x = jr.uniform(jr.key(2), (1, 8, 8, 3), jnp.float64)
        # `features` computes in float32: the directions of largest slope suffice.
        distance = TokenDistance(lambda images: images)
        loss = lambda x: jnp.sum(distance(x, x[:, ::-1]))
        gradient = jax.grad(loss)(x)
        step = 1e-3 * gradient / jnp.linalg.norm(gradient)
        slope = (loss(x + step) - loss(x - step)) / 2e-3
        assert float(slope) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-2)


def test_networks_of_draftx_have_tokens_and_maps():
    clip = load("tiny-clip")
    images = jr.uniform(jr.key(3), (2, 64, 64, 3))
    tokens = TokenDistance(clip.model.vision_model.hidden_states)
    # The class token, and 8x8 patches.
    assert [x.shape for x in tokens.features(images)] == [(2, 1 + 64, 128)]
    resnet = load("tiny-classifier", options={"target": 0}).classifier
    maps = resnet.feature_maps(images)
    assert [x.shape[1] for x in maps] == [16, 8, 4, 2]
    assert_close(resnet.features(images), jnp.mean(maps[-1], axis=(1, 2)))
    lite0 = thin.random_model(EfficientNetLite, num_classes=2)
    maps = jax.eval_shape(lite0.feature_maps, images)
    assert [x.shape[1] for x in maps] == [32, 16, 8, 4, 2]
    # A single pixel has no smaller map, and is one of another depth all the same.
    maps = jax.eval_shape(lite0.feature_maps, images[:, :16, :16])
    assert [x.shape[1] for x in maps] == [8, 4, 2, 1, 1]
    assert [x.shape[3] for x in maps] == [16, 24, 40, 112, 320]


def test_an_image_is_degraded_again_where_there_is_no_truth():
    degrade = Degradation(4, blur=1.0)
    small = degrade(_X)
    reward = ReferenceSimilarity(
        TokenDistance(lambda x: x), column="small", degrade=degrade
    )
    rows = Table({"prompt": [""] * 3, "small": np.asarray(small)})
    features = reward.prepare(rows)
    assert_close(reward(_X, features), np.zeros(3, np.float32), scale=10.0)
    assert bool(jnp.all(reward(_Y, features) < -1e-3))
    plain = ReferenceSimilarity(
        FeatureDistance(lambda x: x.mean((1, 2))), column="small", degrade=degrade
    )
    assert plain(_Y, plain.prepare(rows)).shape == (3,)
    wrong = ReferenceSimilarity(column="small", degrade=Degradation(2))
    with pytest.raises(ValueError, match="of the size that is degraded to"):
        wrong(_X, wrong.prepare(rows))
