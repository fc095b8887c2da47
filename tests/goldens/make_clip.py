"""Writes `score_<name>.npz`: tiny CLIPs of random weights, and how they score images.

python tests/goldens/make_clip.py

Each file has the config of a `CLIPModel` (`config`, JSON), the state dict as published
(`shapes`, JSON, and `state`, all arrays one after the other), images and token ids
(`in/<name>`), `out/score`, and `grad/images`, the gradient of the sum of the scores.
The scores are computed as the authors of each reward compute them: CLIP and PickScore
by transformers, HPSv2 by PyTorch's own attention with the names of open_clip, and the
aesthetic predictor by a `Sequential` of linear and dropout layers. Resizing is
PyTorch's, bicubic with antialiasing. Everything is in float64, stored in float32;
weights are rounded to bfloat16. `preprocess.npz` has images resized by Pillow.
`manifests/clip_*.json.gz` are names and shapes of the tensors of CLIP ViT-L/14 and
ViT-H/14 in the names of transformers, and of ViT-H/14 in those of open_clip. Made with
PyTorch 2.13.0, transformers 5.23.0, Pillow 13.0.0.
"""

import gzip
import json
import pathlib
import zlib
from typing import Any

import numpy as np


FOLDER = pathlib.Path(__file__).parent
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_TEXT = dict(
    bos_token_id=29,
    eos_token_id=2,
    hidden_act="quick_gelu",
    hidden_size=12,
    intermediate_size=20,
    max_position_embeddings=9,
    num_attention_heads=3,
    num_hidden_layers=2,
    vocab_size=31,
)
_VISION = dict(
    hidden_act="quick_gelu",
    hidden_size=16,
    image_size=8,
    intermediate_size=24,
    num_attention_heads=2,
    num_hidden_layers=2,
    patch_size=4,
)
_CLIP = dict(text_config=_TEXT, vision_config=_VISION, projection_dim=10)
# As ViT-H/14 is.
_GELU = dict(
    text_config=_TEXT | dict(hidden_act="gelu", num_attention_heads=2),
    vision_config=_VISION | dict(hidden_act="gelu"),
    projection_dim=10,
)
# Name: config, height and width of the images.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "clip": (_CLIP, 19, 13),
    "pickscore": (
        _GELU | dict(text_config=_GELU["text_config"] | dict(eos_token_id=17)),
        6,
        11,
    ),
    "hpsv2": (_GELU, 21, 14),
    "aesthetic": (_CLIP, 16, 16),
}
WIDTHS = (12, 8, 6, 4)


def reference(name: str) -> dict[str, np.ndarray]:
    """The content of one golden file."""
    import torch

    config, height, width = CASES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    images = rng.uniform(size=(3, height, width, 3)).astype(np.float32)
    ids = _ids(config["text_config"], rng)
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    score, state = {
        "clip": _clip,
        "pickscore": _clip,
        "hpsv2": _hpsv2,
        "aesthetic": _aesthetic,
    }[name](name, config, pixels, torch.as_tensor(ids).long(), rng)
    (gradient,) = torch.autograd.grad(score.sum(), pixels)
    return {
        "config": np.asarray(json.dumps(config)),
        "shapes": np.asarray(json.dumps({k: list(x.shape) for k, x in state.items()})),
        "state": np.concatenate([x.detach().numpy().ravel() for x in state.values()]),
        "in/images": images,
        "in/input_ids": ids,
        "out/score": score.detach().numpy(),
        "grad/images": gradient.permute(0, 2, 3, 1).numpy(),
    }


def _ids(text, rng):
    """Prompts of 1, 4 and 7 tokens, then the end token, then padding."""
    highest = text["vocab_size"] - 1
    end = highest if text["eos_token_id"] == 2 else text["eos_token_id"]
    rows = []
    for length in (1, 4, 7):
        words = rng.choice([i for i in range(29) if i != end], size=length)
        row = [29, *words, end]
        # The end token pads, as in CLIP, or one with a higher id.
        padding = end if length == 1 or end == highest else highest
        rows.append(row + [padding] * (9 - len(row)))
    return np.asarray(rows, np.int32)


def _clip(name, config, pixels, ids, rng):
    model = randomize(_transformers(config), rng)
    features = lambda x: getattr(x, "pooler_output", x)
    image = _unit(features(model.get_image_features(_crop(pixels))))
    text = _unit(features(model.get_text_features(ids)))
    score = (image * text).sum(-1)
    if name == "pickscore":
        score = model.logit_scale.exp() * score
    return score, _state(model)


def _aesthetic(name, config, pixels, ids, rng):
    import torch

    model = randomize(_transformers(config), rng)
    sizes = (config["projection_dim"], *WIDTHS, 1)
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(torch.nn.Linear(inputs, outputs))
        if i < 3:
            layers.append(torch.nn.Dropout(0.2))
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(*layers)
    randomize(head, rng)
    image = model.get_image_features(_crop(pixels))
    score = head.layers(_unit(getattr(image, "pooler_output", image)))[:, 0]
    return score, _state(model) | _state(head)


def _hpsv2(name, config, pixels, ids, rng):
    model = randomize(open_clip(config), rng)
    return (
        (_unit(model.image(_pad(pixels))) * _unit(model.text(ids))).sum(-1),
        _state(model),
    )


def open_clip(config: dict[str, Any]):
    """The tensors of open_clip's `CLIP` in `image` and `text`, by its names."""
    import torch
    from torch import nn

    text, vision = config["text_config"], config["vision_config"]

    class Block(nn.Module):
        def __init__(self, width, heads, inner):
            super().__init__()
            self.ln_1 = nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.ln_2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential()
            self.mlp.add_module("c_fc", nn.Linear(width, inner))
            self.mlp.add_module("gelu", nn.GELU())
            self.mlp.add_module("c_proj", nn.Linear(inner, width))

        def forward(self, x, mask):
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            return x + self.mlp(self.ln_2(x))

    class Transformer(nn.Module):
        def __init__(self, tower):
            super().__init__()
            block = lambda: Block(
                tower["hidden_size"],
                tower["num_attention_heads"],
                tower["intermediate_size"],
            )
            depth = tower["num_hidden_layers"]
            self.resblocks = nn.ModuleList([block() for _ in range(depth)])

        def forward(self, x, mask=None):
            for block in self.resblocks:
                x = block(x, mask)
            return x

    class Visual(nn.Module):
        def __init__(self):
            super().__init__()
            width, patch = vision["hidden_size"], vision["patch_size"]
            tokens = 1 + (vision["image_size"] // patch) ** 2
            self.class_embedding = nn.Parameter(torch.zeros(width))
            self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
            self.proj = nn.Parameter(torch.zeros(width, config["projection_dim"]))
            self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
            self.ln_pre = nn.LayerNorm(width)
            self.transformer = Transformer(vision)
            self.ln_post = nn.LayerNorm(width)

    class CLIP(nn.Module):
        def __init__(self):
            super().__init__()
            width, length = text["hidden_size"], text["max_position_embeddings"]
            self.positional_embedding = nn.Parameter(torch.zeros(length, width))
            self.text_projection = nn.Parameter(
                torch.zeros(width, config["projection_dim"])
            )
            self.logit_scale = nn.Parameter(torch.zeros(()))
            self.visual = Visual()
            self.transformer = Transformer(text)
            self.token_embedding = nn.Embedding(text["vocab_size"], width)
            self.ln_final = nn.LayerNorm(width)

        def image(self, pixels):
            visual = self.visual
            x = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
            first = visual.class_embedding.expand(x.shape[0], 1, -1)
            x = torch.cat([first, x], dim=1) + visual.positional_embedding
            x = visual.transformer(visual.ln_pre(x))
            return visual.ln_post(x[:, 0]) @ visual.proj

        def text(self, ids):
            length = ids.shape[1]
            mask = torch.full((length, length), -torch.inf, dtype=torch.float64)
            x = self.token_embedding(ids) + self.positional_embedding[:length]
            x = self.ln_final(self.transformer(x, mask.triu(1)))
            return x[torch.arange(len(ids)), ids.argmax(-1)] @ self.text_projection

    return CLIP()


def _transformers(config):
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**config))


def randomize(model, rng):
    """Every array, norms and biases included, so that none can hide; float64."""
    import torch

    model = model.double().eval()
    for key, array in sorted(model.state_dict().items()):
        if not array.is_floating_point():
            continue
        noise = rng.standard_normal(tuple(array.shape))
        is_norm = any(part in key for part in ("norm", "ln_", "layrnorm"))
        if key == "logit_scale":
            noise = np.asarray(2.5)
        elif array.ndim <= 1:
            noise = 0.3 * noise + (1.0 if is_norm and "weight" in key else 0.0)
        elif "embedding" not in key or "patch" in key:
            # Keeps activations of order one.
            noise = noise / (array[0].numel()) ** 0.5
        with torch.no_grad():
            array.copy_(torch.as_tensor(noise).to(torch.bfloat16).double())
    return model


def _state(model):
    return {
        key: array
        for key, array in model.state_dict().items()
        if not key.endswith("position_ids")
    }


def _unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def _resize(pixels, height, width):
    import torch

    return torch.nn.functional.interpolate(
        pixels, (height, width), mode="bicubic", antialias=True, align_corners=False
    )


def _normalize(pixels):
    import torch

    column = lambda values: torch.as_tensor(values).double()[:, None, None]
    return (pixels - column(MEAN)) / column(STD)


def _crop(pixels, size=8):
    height, width = pixels.shape[2:]
    short = min(height, width)
    pixels = _resize(pixels, int(size * height / short), int(size * width / short))
    top, left = (pixels.shape[2] - size) // 2, (pixels.shape[3] - size) // 2
    return _normalize(pixels[:, :, top : top + size, left : left + size])


def _pad(pixels, size=8):
    import torch

    scale = size / max(pixels.shape[2:])
    height, width = (round(n * scale) for n in pixels.shape[2:])
    down, right = size - height, size - width
    margins = (right // 2, right - right // 2, down // 2, down - down // 2)
    pixels = torch.nn.functional.pad(_resize(pixels, height, width), margins)
    return _normalize(pixels)


SIZES = ((7, 5), (40, 30), (11, 40))


def pillow() -> dict[str, np.ndarray]:
    """One picture of 20x16 in three sizes, each channel as floats."""
    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.uniform(size=(20, 16, 3)).astype(np.float32)
    resized = {}
    for height, width in SIZES:
        planes = [
            Image.fromarray(image[:, :, i]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for i in range(3)
        ]
        resized[f"out/{height}x{width}"] = np.stack(
            [np.asarray(p) for p in planes], axis=-1
        )
    return {"in/image": image} | resized


def manifests() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the published files."""
    import torch

    large = dict(
        text_config=dict(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12
        ),
        vision_config=dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=24,
            patch_size=14,
        ),
        projection_dim=768,
    )
    huge = dict(
        text_config=dict(
            hidden_size=1024,
            intermediate_size=4096,
            max_position_embeddings=77,
            num_attention_heads=16,
            num_hidden_layers=24,
            vocab_size=49408,
        ),
        vision_config=dict(
            hidden_size=1280,
            image_size=224,
            intermediate_size=5120,
            num_attention_heads=16,
            num_hidden_layers=32,
            patch_size=14,
        ),
        projection_dim=1024,
    )
    with torch.device("meta"):
        models = {
            "clip_l14": _transformers(large),
            "clip_h14": _transformers(huge),
            "clip_h14_open_clip": open_clip(huge),
        }
    return {
        name: {key: list(x.shape) for key, x in _state(model).items()}
        for name, model in models.items()
    }


def main() -> None:
    for name in CASES:
        arrays = reference(name)
        narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
        path = FOLDER / f"score_{name}.npz"
        np.savez_compressed(path, **{key: narrow(x) for key, x in arrays.items()})
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    np.savez_compressed(FOLDER / "preprocess.npz", **pillow())
    for name, shapes in manifests().items():
        text = json.dumps(shapes, separators=(",", ":"))
        path = FOLDER / "manifests" / f"{name}.json.gz"
        path.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
