"""Writes `<kind>_<name>.npz`: thin networks of random weights, and how they score.

python tests/goldens/make_classifiers.py

Kinds are `resnet` and `efficientnet` (the log-probability of a class), and `lpips`.
Each file has the config (`config`, JSON), the state dict (`shapes`, JSON, and `state`),
the images (`in/<name>`, channels last, in [0, 1]), the scores (`out/score`) and the
gradient of their sum with respect to the pixels (`grad/images`). ResNet and LPIPS are
stated here in PyTorch, with torchvision's names, because torchvision's own come in one
width; EfficientNet-Lite is the package `efficientnet-lite-pytorch`. Weights are rounded
to bfloat16; everything is then computed in float64 and stored in float32.

Also writes `manifests/{resnet50,vgg16,alexnet,efficientnet_lite0}.json.gz`, the names
and shapes in published files. Made with PyTorch 2.13.0, torchvision 0.28.0 and
efficientnet-lite-pytorch 0.1.0.
"""

import gzip
import json
import pathlib
import zlib

import numpy as np


FOLDER = pathlib.Path(__file__).parent
_IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
CASES = {
    # Images are made larger here, and smaller in the next.
    "resnet_bottleneck": _IMAGENET
    | dict(
        depths=[2, 1, 1, 1],
        width=4,
        is_bottleneck=True,
        num_classes=7,
        target=[3],
        shape=[2, 28, 33, 3],
        resize=40,
        crop=32,
    ),
    "resnet_basic": _IMAGENET
    | dict(
        depths=[1, 2, 1, 1],
        width=4,
        is_bottleneck=False,
        num_classes=5,
        target=[0, 4],
        shape=[2, 55, 47, 3],
        resize=36,
        crop=32,
    ),
    "efficientnet_thin": dict(
        stages=[[1, 3, 1, 1, 4], [2, 3, 2, 6, 6], [2, 5, 2, 6, 8]],
        num_classes=5,
        target=[2],
        shape=[2, 30, 41, 3],
        resize=27,
        crop=25,
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
    ),
    "lpips_vgg16": dict(
        channels=[4, 5, 6, 7, 8, 8, 9, 6, 7, 8, 6, 7, 8], shape=[2, 19, 34, 3]
    ),
    "lpips_alexnet": dict(channels=[5, 6, 7, 8, 6], shape=[2, 38, 33, 3]),
}


def reference(name: str, config: dict) -> dict[str, np.ndarray]:
    """The content of one golden file."""
    import torch

    kind, _, rest = name.partition("_")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    draw = lambda: rng.uniform(size=config["shape"]).astype(np.float32)
    images, references = draw(), draw()
    if kind == "lpips":
        model = randomize(trunk(rest, config["channels"]), rng)
        heads = [
            torch.as_tensor(rng.uniform(size=c), dtype=torch.bfloat16).double()
            for c in _tapped(rest, config["channels"])
        ]
        score = lambda x: lpips(model, heads, x, channels_first(references))
        named = {
            f"lin{i}.model.1.weight": h[None, :, None, None]
            for i, h in enumerate(heads)
        }
    else:
        make = {"resnet": ResNet, "efficientnet": efficientnet}[kind]
        model, named = randomize(make(config), rng), {}
        score = lambda x: log_probability(model, config, x)
    scores, grad = score_and_gradient(score, images)
    state = {
        key: array.detach().numpy()
        for key, array in (model.state_dict() | named).items()
        if not key.endswith("num_batches_tracked")
    }
    arrays = {
        "state": np.concatenate([a.ravel() for a in state.values()]),
        "in/images": images,
        "out/score": scores,
        "grad/images": grad,
    } | ({"in/references": references} if kind == "lpips" else {})
    return {
        "config": np.asarray(json.dumps(config)),
        "shapes": np.asarray(json.dumps({k: a.shape for k, a in state.items()})),
    } | {key: array.astype(np.float32) for key, array in arrays.items()}


def channels_first(x):
    import torch

    return torch.as_tensor(x).double().permute(0, 3, 1, 2)


def score_and_gradient(score, images):
    """Scores, and the gradient of their sum with respect to channels-last pixels."""
    x = channels_first(images).requires_grad_()
    scores = score(x)
    scores.sum().backward()
    assert x.grad is not None
    return scores.detach().numpy(), x.grad.permute(0, 2, 3, 1).numpy()


def randomize(model, rng):
    """Every array, so that none can hide; float64, variances positive."""
    import torch

    model = model.double().eval()
    for key, array in sorted(model.state_dict().items()):
        if not array.is_floating_point():
            continue
        noise = rng.standard_normal(array.shape)
        if key.endswith("running_var"):
            noise = 0.5 + np.abs(noise)
        elif array.ndim == 1:
            noise = 0.3 * noise + (1.0 if key.endswith("weight") else 0.0)
        else:
            noise = noise * (2 / array[0].numel()) ** 0.5
        with torch.no_grad():
            array.copy_(torch.as_tensor(noise).to(torch.bfloat16).double())
    return model


def log_probability(model, config, x):
    """Of the target classes, from images in [0, 1]."""
    import torch
    import torch.nn.functional as F

    height, width = x.shape[2:]
    size, crop, shortest = config["resize"], config["crop"], min(height, width)
    scaled = (size * height // shortest, size * width // shortest)
    x = F.interpolate(x, scaled, mode="bilinear", antialias=True)
    top, left = (scaled[0] - crop) // 2, (scaled[1] - crop) // 2
    x = x[:, :, top : top + crop, left : left + crop]
    column = lambda values: torch.as_tensor(values, dtype=x.dtype)[:, None, None]
    logits = model((x - column(config["mean"])) / column(config["std"]))
    return F.log_softmax(logits, -1)[:, config["target"]].logsumexp(-1)


def ResNet(config):
    import torch
    from torch import nn

    conv = lambda i, o, k, s=1: nn.Conv2d(i, o, k, s, k // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, inner, stride):
            super().__init__()
            self.is_bottleneck = config["is_bottleneck"]
            outputs = 4 * inner if self.is_bottleneck else inner
            first = (1, 1) if self.is_bottleneck else (3, stride)
            self.conv1, self.bn1 = conv(inputs, inner, *first), nn.BatchNorm2d(inner)
            stride_2 = stride if self.is_bottleneck else 1
            self.conv2, self.bn2 = (
                conv(inner, inner, 3, stride_2),
                nn.BatchNorm2d(inner),
            )
            if self.is_bottleneck:
                self.conv3, self.bn3 = conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
            self.downsample = nn.Sequential()
            if stride != 1 or inputs != outputs:
                norm = nn.BatchNorm2d(outputs)
                self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), norm)

        def forward(self, x):
            y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            if self.is_bottleneck:
                y = self.bn3(self.conv3(y.relu()))
            return (y + self.downsample(x)).relu()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            width = inputs = config["width"]
            self.conv1, self.bn1 = conv(3, width, 7, 2), nn.BatchNorm2d(width)
            for i, depth in enumerate(config["depths"]):
                blocks, inner = [], width * 2**i
                for j in range(depth):
                    stride = 2 if i > 0 and j == 0 else 1
                    blocks.append(Block(inputs, inner, stride))
                    inputs = 4 * inner if config["is_bottleneck"] else inner
                setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            self.fc = nn.Linear(inputs, config["num_classes"])

        def forward(self, x):
            x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(torch.flatten(x.mean((2, 3)), 1))

    return Network()


def efficientnet(config):
    from efficientnet_lite_pytorch.model import EfficientNet
    from efficientnet_lite_pytorch.utils import BlockDecoder, GlobalParams

    strings, channels = [], 32
    for num, kernel, stride, expansion, outputs in config["stages"]:
        strings.append(
            f"r{num}_k{kernel}_s{stride}{stride}_e{expansion}_i{channels}_o{outputs}"
        )
        channels = outputs
    return EfficientNet(
        BlockDecoder.decode(strings),
        GlobalParams(
            batch_norm_momentum=0.99,
            batch_norm_epsilon=1e-3,
            dropout_rate=0.2,
            num_classes=config["num_classes"],
            relu_fn="relu6",
            fix_head_stem=True,
            local_pooling=False,
        ),
    )


def trunk(architecture, channels):
    """torchvision's `features` but the last pooling, with other numbers of channels."""
    from torch import nn

    vgg = "CRCRMCRCRMCRCRCRMCRCRCRMCRCRCR"
    alex = "CRMCRMCRCRCR"
    remaining, inputs, layers = list(channels), 3, []
    kernels = [(11, 4, 2), (5, 1, 2)] if architecture == "alexnet" else []
    for layer in alex if architecture == "alexnet" else vgg:
        if layer == "C":
            kernel = kernels.pop(0) if kernels else (3, 1, 1)
            layers.append(nn.Conv2d(inputs, inputs := remaining.pop(0), *kernel))
        elif layer == "R":
            layers.append(nn.ReLU())
        else:
            layers.append(nn.MaxPool2d(3 if architecture == "alexnet" else 2, 2))
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*layers))
    return model


def _tapped(architecture, channels):
    return channels if architecture == "alexnet" else [channels[i] for i in _VGG_CONVS]


_VGG_CONVS = (1, 3, 6, 9, 12)


def lpips(model, heads, x, y):
    import torch

    shift, scale = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    column = lambda values: torch.as_tensor(values).double()[:, None, None]

    def activations(x):
        x, found, convs = (2 * x - 1 - column(shift)) / column(scale), [], -1
        is_vgg = len(model.features) > 20
        for layer in model.features:
            x = layer(x)
            convs += isinstance(layer, torch.nn.Conv2d)
            tapped = not is_vgg or convs in _VGG_CONVS
            if isinstance(layer, torch.nn.ReLU) and tapped:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(activations(x), activations(y), heads, strict=True)
    return sum(
        ((a - b).square() * head[:, None, None]).sum(1).mean((1, 2))
        for a, b, head in pairs
    )


def write_manifests() -> None:
    import torch
    import torchvision
    from efficientnet_lite_pytorch import EfficientNet

    with torch.device("meta"):
        models = {
            "resnet50": torchvision.models.resnet50(),
            "vgg16": torchvision.models.vgg16(),
            "alexnet": torchvision.models.alexnet(),
            "efficientnet_lite0": EfficientNet.from_name("efficientnet-lite0"),
        }
    for name, model in models.items():
        shapes = {key: list(t.shape) for key, t in model.state_dict().items()}
        text = json.dumps(shapes, separators=(",", ":")).encode()
        path = FOLDER / "manifests" / f"{name}.json.gz"
        path.write_bytes(gzip.compress(text, mtime=0))


def main() -> None:
    for name, config in CASES.items():
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **reference(name, config))
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    write_manifests()


if __name__ == "__main__":
    main()
