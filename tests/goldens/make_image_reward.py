"""Writes `image_reward.npz`: a tiny ImageReward of random weights, and its scores.

python -m tests.goldens.make_image_reward

The file has the state dict with the names of the published file (`shapes`, JSON, and
`state`, all arrays one after the other), images, token ids and how many of them are no
padding (`in/<name>`), `out/score`, and `grad/images`, the gradient of the sum of the
scores. They are computed by the BLIP of transformers, whose tensors are renamed here,
and by a `Sequential` of linear and dropout layers. Resizing is PyTorch's, bicubic with
antialiasing, and the crop is where torchvision has it. Everything is in float64, stored
in float32; weights are rounded to bfloat16. `manifests/image_reward` are names and
shapes of `ImageReward.pt`, made in the same way. `bert_ids.json` has a small
vocabulary, prompts, and the ids that transformers' `BertTokenizer` gives them. Made
with PyTorch 2.13.0, transformers 5.23.0.
"""

import gzip
import json
import pathlib
import re
import tempfile
from typing import Any

import numpy as np

from . import make_clip


PATH = make_clip.FOLDER / "image_reward.npz"
MANIFEST = make_clip.FOLDER / "manifests" / "image_reward.json.gz"
BERT = make_clip.FOLDER / "bert_ids.json"

# Of the tiny model, and of the published one.
TEXT = dict(
    vocab_size=52,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=40,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
)
WIDTHS = (12, 8, 6, 4)
TEXT_FULL = dict(
    vocab_size=30524,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=512,
)
VISION_FULL = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=224,
    patch_size=16,
)
WIDTHS_FULL = (1024, 128, 64, 16)

# Names of transformers' vision model to those of BLIP's authors.
_RENAMED = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding", "pos_embed"),
    (r"embeddings\.patch_embedding", "patch_embed.proj"),
    (r"encoder\.layers", "blocks"),
    (r"layer_norm([12])", r"norm\1"),
    (r"self_attn\.qkv", "attn.qkv"),
    (r"self_attn\.projection", "attn.proj"),
    (r"post_layernorm", "norm"),
)


def modules(text: dict[str, int], vision: dict[str, int], widths: tuple[int, ...]):
    """Image encoder, text encoder and head, in PyTorch."""
    import torch
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    image_encoder = BlipVisionModel(
        BlipVisionConfig(**vision, hidden_act="gelu", layer_norm_eps=1e-6)
    )
    text_encoder = BlipTextModel(
        BlipTextConfig(**text, encoder_hidden_size=vision["hidden_size"]),
        add_pooling_layer=False,
    )
    sizes = (text["hidden_size"], *widths, 1)
    layers = []
    for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(torch.nn.Linear(inputs, outputs))
        if i < 3:
            layers.append(torch.nn.Dropout(0.2))
    head = torch.nn.Module()
    head.layers = torch.nn.Sequential(*layers)
    return image_encoder, text_encoder, head


def published_state(image_encoder, text_encoder, head) -> dict[str, Any]:
    """All tensors by the names of the published file."""
    state = {}
    for key, array in make_clip._state(image_encoder).items():
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        state[f"blip.visual_encoder.{key}"] = array
    for key, array in make_clip._state(text_encoder).items():
        state[f"blip.text_encoder.{key}"] = array
    return state | {f"mlp.{key}": x for key, x in head.state_dict().items()}


def score(image_encoder, text_encoder, head, images, ids, lengths) -> Any:
    """What each image scores.

    **Arguments:**

    - `images`: In [0, 1], channels first.
    - `ids`, `lengths`: Of the prompts.
    """
    import torch

    size = image_encoder.config.image_size
    height, width = images.shape[2:]
    short = min(height, width)
    pixels = make_clip._resize(
        images, int(size * height / short), int(size * width / short)
    )
    top, left = (int(round((n - size) / 2.0)) for n in pixels.shape[2:])
    pixels = make_clip._normalize(pixels[:, :, top : top + size, left : left + size])
    tokens = image_encoder(pixel_values=pixels).last_hidden_state
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    hidden = text_encoder(
        input_ids=ids,
        attention_mask=mask,
        encoder_hidden_states=tokens,
        encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long),
        is_decoder=False,
    ).last_hidden_state
    rating = head.layers(hidden[:, 0])[:, 0]
    return (rating - 0.16717362830052426) / 1.0333394966054072


def randomize(parts, rng) -> None:
    """As for CLIP; BERT spells the norms in its own way."""
    import torch

    for part in parts:
        make_clip.randomize(part, rng)
        for key, array in part.state_dict().items():
            if key.endswith("LayerNorm.weight"):
                with torch.no_grad():
                    array.copy_((1 + array).to(torch.bfloat16).double())


def reference() -> dict[str, np.ndarray]:
    """The content of the golden file."""
    import torch

    rng = np.random.default_rng(7)
    parts = modules(TEXT, VISION, WIDTHS)
    randomize(parts, rng)
    # One pixel more on one side than on the other is cut.
    images = rng.uniform(size=(3, 13, 18, 3)).astype(np.float32)
    lengths = np.asarray([3, 6, 9], np.int32)
    ids = np.zeros((3, 9), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [2, *rng.choice(np.arange(5, 52), size=length - 2), 3]
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    scores = score(
        *parts, pixels, torch.as_tensor(ids).long(), torch.as_tensor(lengths)
    )
    (gradient,) = torch.autograd.grad(scores.sum(), pixels)
    state = {k: x.detach().numpy() for k, x in published_state(*parts).items()}
    return {
        "shapes": np.asarray(json.dumps({k: list(x.shape) for k, x in state.items()})),
        "state": np.concatenate([x.ravel() for x in state.values()]),
        "in/images": images,
        "in/input_ids": ids,
        "in/lengths": lengths,
        "out/score": scores.detach().numpy(),
        "grad/images": gradient.permute(0, 2, 3, 1).numpy(),
    }


def manifest() -> dict[str, list[int]]:
    """Names and shapes of the published file."""
    import torch

    with torch.device("meta"):
        parts = modules(TEXT_FULL, VISION_FULL, WIDTHS_FULL)
    return {k: list(x.shape) for k, x in published_state(*parts).items()}


PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("a", "the", "fox", "cat", "on", "red", "car", "cafe", "!", ",", "-", "'", "##s"),
    *("##ing", "##ed", "paint", "play", "un", "##aff", "##able", "1", "2", "##0", "b"),
    *("##b", "c", "##c", "d", "##d", "e", "##e", "i", "##i", "n", "##n", "o", "##o"),
    *("r", "##r", "t", "##t", "\u732b", "[", "]", "##a"),
)
PROMPTS = (
    "a red fox on the car",
    "A Fox, painting!",
    "unaffable cats played",
    "Caf\u00e9 \u732b\u732b a",
    "",
    "  a\t\tcat\n",
    "xylophone the fox",
    "red-fox's",
    "[SEP] a [MASK] fox [ENC]",
    "a\u0000cat\ufffd \u200bfox",
    "12000 b" + "b" * 120,
    "the " * 50 + "fox",
)


def bert_ids() -> dict[str, Any]:
    """A vocabulary, and what transformers makes of prompts with it."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "vocab.txt"
        path.write_text("\n".join(PIECES) + "\n", "utf-8")
        tokenizer = transformers.BertTokenizer(str(path), do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    encoded = tokenizer(
        list(PROMPTS), padding="max_length", truncation=True, max_length=35
    )
    return {
        "pieces": PIECES,
        "prompts": PROMPTS,
        "ids": encoded["input_ids"],
        "lengths": [sum(row) for row in encoded["attention_mask"]],
        "vocab_size": len(tokenizer),
    }


def main() -> None:
    narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    np.savez_compressed(PATH, **{k: narrow(x) for k, x in reference().items()})
    print(f"{PATH.name}: {PATH.stat().st_size / 1e3:.0f} kB")
    text = json.dumps(manifest(), separators=(",", ":"))
    MANIFEST.write_bytes(gzip.compress(text.encode(), mtime=0))
    BERT.write_text(json.dumps(bert_ids()) + "\n")


if __name__ == "__main__":
    main()
