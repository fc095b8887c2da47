"""Writes `owlvit.npz`: a tiny OWL-ViT of random weights, and what it finds in images.

python -m tests.goldens.make_owlvit

The file has the state dict of an `OwlViTForObjectDetection` (`shapes`, JSON, and
`state`, all arrays one after the other), images, token ids of two queries for each
(`in/<name>`), what transformers makes of them (`out/logits` and `out/boxes`), and for
each of `CASES` the rewards (`out/<case>`) and the gradient of their sum
(`grad/<case>`). Resizing is PyTorch's, bicubic with antialiasing. Everything is in
float64, stored in float32; weights are rounded to bfloat16. `manifests/owlvit_b32` are
names and shapes of the tensors of `google/owlvit-base-patch32`. Made with PyTorch
2.13.0, transformers 5.23.0.
"""

import gzip
import json
from typing import Any

import numpy as np

from . import make_clip


PATH = make_clip.FOLDER / "owlvit.npz"
MANIFEST = make_clip.FOLDER / "manifests" / "owlvit_b32.json.gz"
CONFIG: dict[str, Any] = dict(
    text_config=make_clip._TEXT | dict(max_position_embeddings=7),
    vision_config=make_clip._VISION | dict(image_size=12),
    projection_dim=12,
)
# Options of the reward.
CASES: dict[str, dict[str, Any]] = {
    "scores": dict(),
    "areas": dict(kind="areas", exclude=True),
    "both": dict(
        kind="both", threshold=0.4, labels="best", areas="plain", area_weight=3.0
    ),
}


def model(config: dict[str, Any]):
    """An OWL-ViT of transformers; its attention written out, for float64."""
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    return OwlViTForObjectDetection(OwlViTConfig(**config))


def detect(owlvit, images, ids) -> tuple[Any, Any]:
    """Logits and boxes.

    **Arguments:**

    - `images`: In [0, 1], channels first.
    - `ids`: Image by image.
    """
    size = owlvit.config.vision_config.image_size
    pixels = make_clip._normalize(make_clip._resize(images, size, size))
    found = owlvit(input_ids=ids, pixel_values=pixels)
    return found.logits, found.pred_boxes


def reward(logits, boxes, **options) -> Any:
    """What each image scores, one detection after the other."""
    kind, threshold = options.get("kind", "scores"), options.get("threshold", 0)
    best, plain = options.get("labels") == "best", options.get("areas") == "plain"
    totals = []
    for scores, places in zip(logits.sigmoid(), boxes, strict=True):
        total = scores.new_zeros(())
        for row, (_, _, width, height) in zip(scores, places, strict=True):
            for score in [row.max()] if best else row:
                if score <= threshold:
                    continue
                area = width * height * (1 if plain else score)
                if kind != "areas":
                    total = total + score
                if kind != "scores":
                    total = total + options.get("area_weight", 1) * area
        totals.append(-total if options.get("exclude") else total)
    import torch

    return torch.stack(totals)


def reference() -> dict[str, np.ndarray]:
    """The content of the golden file."""
    import torch

    rng = np.random.default_rng(5)
    owlvit = make_clip.randomize(model(CONFIG), rng)
    images = rng.uniform(size=(3, 17, 10, 3)).astype(np.float32)
    ids = np.full((6, 7), 30, np.int32)
    ids[:, 0] = 29
    for row, length in zip(ids, (1, 2, 3, 4, 5, 5), strict=True):
        row[1 : 1 + length] = rng.choice(29, size=length)
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    logits, boxes = detect(owlvit, pixels, torch.as_tensor(ids).long())
    state = {k: x.numpy() for k, x in make_clip._state(owlvit).items()}
    arrays = {
        "shapes": np.asarray(json.dumps({k: list(x.shape) for k, x in state.items()})),
        "state": np.concatenate([x.ravel() for x in state.values()]),
        "in/images": images,
        "in/input_ids": ids,
        "out/logits": logits.detach().numpy(),
        "out/boxes": boxes.detach().numpy(),
    }
    for name, options in CASES.items():
        scores = reward(logits, boxes, **options)
        (gradient,) = torch.autograd.grad(scores.sum(), pixels, retain_graph=True)
        arrays[f"out/{name}"] = scores.detach().numpy()
        arrays[f"grad/{name}"] = gradient.permute(0, 2, 3, 1).numpy()
    return arrays


def manifest() -> dict[str, list[int]]:
    """Names and shapes of the published file, which has the default sizes."""
    import torch

    with torch.device("meta"):
        return {k: list(x.shape) for k, x in make_clip._state(model({})).items()}


def main() -> None:
    narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    np.savez_compressed(PATH, **{k: narrow(x) for k, x in reference().items()})
    print(f"{PATH.name}: {PATH.stat().st_size / 1e3:.0f} kB")
    text = json.dumps(manifest(), separators=(",", ":"))
    MANIFEST.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
