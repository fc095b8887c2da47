"""Rewards of classifiers and of deep features: what every reward must do."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.judges import EfficientNetLite, PerceptualTrunk, ResNet
from draftx.rewards import (
    ClassifierReward,
    FeatureSimilarity,
    imagenet_classes,
    LPIPS,
    LPIPSSimilarity,
    ResizeAndCrop,
)
from draftx.rewards.perception._distance import check_one_shape
from draftx.rewards.perception._features import check_one_of, Distance
from draftx.rewards.perception._imagenet import class_index, EFFICIENTNET_LITE, IMAGENET
from draftx.rewards.perception._lpips import unit
from draftx.rewards.perception._network import default_preprocess

from ..helpers import assert_close


_SIZE = 32
_PREPROCESS = ResizeAndCrop(resize=36, crop=32)


def resnet(num_classes=4):
    return ResNet(
        depths=(1, 0, 0, 0),
        width=4,
        is_bottleneck=False,
        num_classes=num_classes,
        key=jr.key(1),
    )


def lpips():
    trunk = PerceptualTrunk("alexnet", channels=(4, 5, 6, 5, 4), key=jr.key(2))
    return LPIPS(trunk, tuple(jnp.ones(c) for c in trunk.channels))


def image(seed=3, size=_SIZE):
    return jr.uniform(jr.key(seed), (1, size, size, 3))


@pytest.fixture(scope="module")
def rewards():
    network = resnet()
    kwargs: dict[str, Any] = dict(preprocess=_PREPROCESS)
    return {
        "classifier": ClassifierReward(network, 2, **kwargs),
        "lpips": LPIPSSimilarity(lpips(), image()),
        "features": FeatureSimilarity(network.features, image(), **kwargs),
    }


@eqx.filter_jit
def _scores(rewards, images):
    return {name: reward(images) for name, reward in rewards.items()}


def test_silent_features_have_a_finite_gradient():
    """Where no channel responds, the norm is zero and its slope is infinite."""
    grad = jax.grad(lambda x: jnp.sum(unit(x) ** 2))(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(grad, 0)


def test_order_of_classes(rewards):
    images = jnp.concatenate([image(seed) for seed in range(7)])
    one = _scores(rewards, images)["classifier"]
    logits = eqx.filter_jit(resnet())(_PREPROCESS(images))
    log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
    np.testing.assert_allclose(one, log_probs[:, 2], rtol=1e-4, atol=1e-5)
    several = ClassifierReward(resnet(), [0, 2], preprocess=_PREPROCESS)
    expected = np.log(np.exp(log_probs[:, [0, 2]]).sum(1))
    actual = eqx.filter_jit(several)(images)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert jnp.all(actual > one)


@pytest.mark.parametrize("name", ["lpips", "features"])
def test_order_of_distances(name, rewards):
    steps = jnp.linspace(0, 1, 7)[:, None, None, None]
    images = (1 - steps) * image() + steps * (1 - image())
    scores = _scores(rewards, images)[name]
    np.testing.assert_allclose(scores[0], 0, atol=1e-6)
    assert jnp.all(scores[1:] < scores[0])
    if name == "lpips":
        assert jnp.all(jnp.diff(scores) < 0)


def test_several_references():
    references = jnp.concatenate([image(3, 4), image(7, 4)])
    make = lambda x, reduction: FeatureSimilarity(
        lambda x: x, x, distance="l2", reduction=reduction
    )
    each = [make(references[i : i + 1], "mean")(references) for i in range(2)]
    assert_close(make(references, "mean")(references), (each[0] + each[1]) / 2)
    assert_close(make(references, "nearest")(references), jnp.maximum(*each))


def test_feature_distances_match_numpy():
    images = jnp.concatenate([image(7, 4), image(8, 4)])
    make = lambda kind: FeatureSimilarity(lambda x: x, image(3, 4), distance=kind)
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
    f, g = flat(images), flat(image(3, 4))[0]
    norms = np.linalg.norm(f, axis=1) * np.linalg.norm(g)
    actual = make("cosine")(images)
    np.testing.assert_allclose(actual, f @ g / norms - 1, rtol=1e-3, atol=1e-6)
    actual = make("l2")(images)
    np.testing.assert_allclose(actual, -np.linalg.norm(f - g, axis=1), rtol=1e-4)


def test_a_function_is_a_classifier():
    """Images go to it as they are."""
    logits = lambda images: jnp.mean(images, axis=(1, 2))
    reward = ClassifierReward(logits, "green", class_names=("red", "green", "blue"))
    image = jnp.zeros((1, 4, 4, 3)).at[..., 1].set(1.0)
    np.testing.assert_allclose(reward(image), 1 - np.log(np.e + 2), rtol=1e-5)
    assert default_preprocess(logits, "auto") is None


def test_preprocessing_goes_with_the_network():
    for cls, expected in ((ResNet, IMAGENET), (EfficientNetLite, EFFICIENTNET_LITE)):
        network = eqx.filter_eval_shape(cls, key=jr.key(0))
        assert default_preprocess(network, "auto") is expected
        assert default_preprocess(network.features, "auto") is expected
        assert default_preprocess(network, None) is None
    images = jnp.full((1, 40, 30, 3), 127 / 255)
    seen = eqx.filter_jit(EFFICIENTNET_LITE)(images)
    assert seen.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(seen, 0, atol=1e-6)


def test_imagenet_classes():
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    known = {0: "tench", 281: "tabby", 652: "military uniform", 999: "toilet tissue"}
    assert {i: names[i] for i in known} == known
    assert ClassifierReward(resnet(1000), "Military_Uniform").targets == (652,)
    assert ClassifierReward(resnet(1000), ["tabby", 282]).targets == (281, 282)


def test_target_error_texts():
    near = (
        r"`target` must be one of the 1000 names .* got 'fox'. Near.*'red fox' \(277\)"
    )
    with pytest.raises(ValueError, match=near):
        ClassifierReward(resnet(1000), "fox")
    with pytest.raises(ValueError, match=r"'tabbi'. Near it are 'tabby' \(281\)"):
        ClassifierReward(resnet(1000), "tabbi")
    with pytest.raises(ValueError, match=r"got 'qqqq'\.$"):
        class_index("qqqq", ("red", "green"))
    with pytest.raises(ValueError, match=r"one class; 'a' is the name of \[0, 2"):
        class_index("a", ("a", "b", "A"))
    with pytest.raises(ValueError, match="an index where `class_names` is None; g"):
        ClassifierReward(resnet(), "a")
    with pytest.raises(ValueError, match="an index below 1000, from 0 on; got 1000"):
        ClassifierReward(resnet(1000), 1000)
    with pytest.raises(ValueError, match="an index, from 0 on; got -1"):
        ClassifierReward(resnet(), -1)
    with pytest.raises(ValueError, match="must be a class, or several; got none"):
        ClassifierReward(resnet(), [])
    with pytest.raises(ValueError, match="must name every class once"):
        ClassifierReward(resnet(1000), ["tabby", 281])
    reward = ClassifierReward(resnet(), 4, preprocess=_PREPROCESS)
    with pytest.raises(ValueError, match="the 4 classes of the classifier; got 4"):
        eqx.filter_eval_shape(reward, image())


def test_reference_error_texts(rewards):
    with pytest.raises(ValueError, match="`references` must be at least one"):
        LPIPSSimilarity(lpips(), jnp.zeros((0, _SIZE, _SIZE, 3)))
    with pytest.raises(ValueError, match="the references' size, 32x32; got 32x40"):
        rewards["lpips"](jnp.zeros((1, 32, 40, 3)))
    with pytest.raises(ValueError, match="`x` and `y` must have one shape; got .1, 32"):
        # Called without the annotations' own check, as a user's program would be.
        check_one_shape(image(), jnp.zeros((2, _SIZE, _SIZE, 3)))
    flat = FeatureSimilarity(lambda x: x, jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="as many features as the references, 48; got"):
        flat(jnp.zeros((1, 4, 5, 3)))
    with pytest.raises(ValueError, match="`distance` must be one of .*got 'l1'"):
        # Called without the annotations' own check, as a user's program would be.
        check_one_of("distance", "l1", Distance)


def test_crop_error_text():
    with pytest.raises(ValueError, match="`crop` must be positive and at most"):
        ResizeAndCrop(resize=200)
