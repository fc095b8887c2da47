"""Trains a small CLIP on composites and their captions.

python weights/train_clip.py --sprites weights/cache/sprites.npz

The text tower starts as the text encoder of the embedded model, whose tokenizer it
shares; everything is trained. Writes the folder of a `CLIPModel` in half precision at
every checkpoint.
"""

import argparse
import json
import math
import pathlib
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import fit, save_arrays
from augmentations import augment
from composites import draw_scenes
from cutouts import Sprites
from scenes import ANIMALS, attributes, COLORS, named_scenes, PATTERNS, phrase
from train_unet import TEXT

from draftx.io import load_component
from draftx.judges import CLIPModel
from draftx.models import (
    checkpoint_arrays,
    CLIPConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from draftx.rewards._preprocess import clip_preprocess


VISION = CLIPVisionConfig(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    image_size=64,
    patch_size=8,
)
_END = TEXT.vocab_size - 1
CONFIG = CLIPConfig(text=TEXT, vision=VISION, projection_dim=128, eos_token_id=_END)
# No caption of a composite is longer; what follows the end of one changes nothing.
_MAX_TOKENS = 24
# As in CLIP's own training, the scale of the logits does not go beyond 100.
_MAX_LOGIT_SCALE = math.log(100)


def draw_batch(rng, sprites, tokenizer, n):
    """Images, token ids, and which caption is true of which image.

    A caption often leaves something out, and so is true of several images. Half of
    the batches are hard: all of their backgrounds are alike, so that images differ by
    their animals alone, or all of their animals are.
    """
    choices = {}
    animal, style, background = rng.random((3, n)) >= [[0.1], [0.25], [0.25]]
    match rng.integers(4):
        case 0:
            choices["colors"] = tuple(rng.choice(list(COLORS), 2, replace=False))
            choices["patterns"] = tuple(rng.choice(PATTERNS, 2, replace=False))
            animal[:] = True
        case 1:
            choices["animals"] = tuple(rng.choice(ANIMALS, 3, replace=False))
            background[:] = True
    background |= ~animal
    style &= animal
    scenes = named_scenes(rng, sprites, n, **choices)
    captions = [
        phrase(
            scene,
            animal=animal[i],
            style=style[i],
            background=background[i],
            plain=rng.random() < 0.5,
        )
        for i, scene in enumerate(scenes)
    ]
    shown = np.asarray([attributes(scene) for scene in scenes])
    says = np.stack([animal, style, background, background], axis=1)
    is_true = np.all((shown[:, None] == shown) | ~says, axis=-1)
    input_ids = tokenizer(captions)
    if (input_ids[:, _MAX_TOKENS:] != _END).any():
        raise ValueError(f"A caption has more than {_MAX_TOKENS} tokens.")
    return draw_scenes(sprites, scenes), input_ids[:, :_MAX_TOKENS], is_true


def _unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def loss_fn(model, batch, key):
    """Cross entropy of captions given images, and of images given captions."""
    images, input_ids, is_true = batch
    images = augment(images.astype(jnp.float32) / 255, key)
    pixels = clip_preprocess(images, VISION.image_size)
    seen = _unit(model.image_features(pixels))
    said = _unit(model.text_features(input_ids))
    logits = jnp.exp(jnp.minimum(model.logit_scale, _MAX_LOGIT_SCALE)) * seen @ said.T
    target = is_true.astype(jnp.float32)
    losses = []
    for axis in (0, 1):
        share = target / jnp.sum(target, axis, keepdims=True)
        losses.append(-jnp.sum(share * jax.nn.log_softmax(logits, axis)) / len(images))
    best = jnp.take_along_axis(is_true, jnp.argmax(logits, 1, keepdims=True), axis=1)
    loss = 0.5 * (losses[0] + losses[1])
    return loss, {
        "loss": loss,
        "accuracy": jnp.mean(best.astype(jnp.float32)),
        "logit_scale": jnp.exp(model.logit_scale),
    }


def save_clip(model: CLIPModel, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
    """Writes a folder as transformers writes it, in half precision.

    **Arguments:**

    - `folder`: Gets `config.json`, `model.safetensors` and the tokenizer's files.
    - `tokenizer`: The folder of the tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    tower = lambda c, **more: vars(c) | {"projection_dim": CONFIG.projection_dim} | more
    config = dict(
        architectures=["CLIPModel"],
        model_type="clip",
        projection_dim=CONFIG.projection_dim,
        logit_scale_init_value=math.log(1 / 0.07),
        text_config=tower(
            TEXT,
            model_type="clip_text_model",
            bos_token_id=_END - 1,
            eos_token_id=_END,
            pad_token_id=_END,
        ),
        vision_config=tower(VISION, model_type="clip_vision_model", num_channels=3),
        torch_dtype="float16",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    arrays = checkpoint_arrays(jax.device_get(model))
    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_arrays(folder / "model.safetensors", arrays, {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument(
        "--text-encoder", type=pathlib.Path, default="weights/tiny/text_encoder"
    )
    parser.add_argument(
        "--tokenizer", type=pathlib.Path, default="weights/tiny/tokenizer"
    )
    parser.add_argument("--folder", type=pathlib.Path, default="weights/cache/clip")
    parser.add_argument("--out", type=pathlib.Path, default="weights/clip")
    parser.add_argument("--num-steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    args = parser.parse_args()

    sprites = Sprites(args.sprites)
    tokenizer = CLIPTokenizer.from_folder(args.tokenizer)
    model = CLIPModel(CONFIG, key=jr.key(0))
    text = load_component(CLIPTextModel, args.text_encoder)
    model = eqx.tree_at(lambda m: m.text_model, model, text)

    fit(
        model,
        loss_fn,
        lambda rng, _: draw_batch(rng, sprites, tokenizer, args.batch_size),
        seed=4,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.998,
        folder=args.folder,
        save_every=250,
        log_every=25,
        on_save=lambda model, _: save_clip(model, args.out, args.tokenizer),
        convolutions="OIHW",
    )


if __name__ == "__main__":
    main()
