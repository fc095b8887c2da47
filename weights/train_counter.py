"""Trains a small network to count the animals of the embedded model.

python weights/train_counter.py --sprites weights/cache/sprites.npz

It learns where they are, as a density whose sum is how many, so that there is a
gradient at the places where one would have to go or to come.
"""

import argparse
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import fit, save_arrays, use_cpu_cores
from augmentations import augment
from composites import draw_scenes
from counted import densities, density_loss, MOST, scenes_to_count
from cutouts import Sprites
from scenes import SIZE

from draftx.judges import ObjectCounter
from draftx.models import checkpoint_arrays


def draw_batch(rng, sprites, n, *, held_out=False):
    """Images (uint8) and their densities."""
    scenes = scenes_to_count(rng, sprites, n, held_out=held_out)
    return draw_scenes(sprites, scenes), densities(scenes)


def loss_fn(counter, batch, key):
    """Squared errors of the densities and of their sums."""
    images, wanted = batch
    density = counter.density(augment(images.astype(jnp.float32) / 255, key))
    loss, error = density_loss(density, wanted)
    is_right = jnp.abs(error) < 0.5
    return loss, {
        "loss": loss,
        "error": jnp.mean(jnp.abs(error)),
        "right": jnp.mean(is_right.astype(jnp.float32)),
    }


def save_counter(counter: ObjectCounter, folder: pathlib.Path) -> None:
    """Writes `model.safetensors`, in half precision, and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = checkpoint_arrays(jax.device_get(counter))
    arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_arrays(folder / "model.safetensors", arrays, {"format": "pt"})
    config = dict(architecture="ObjectCounter", image_size=SIZE, most=MOST)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--folder", type=pathlib.Path, default="weights/cache/counter")
    parser.add_argument("--out", type=pathlib.Path, default="weights/counter")
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    args = parser.parse_args()
    use_cpu_cores(1)
    sprites = Sprites(args.sprites)

    counter = ObjectCounter(key=jr.key(0))
    # Nearly nothing everywhere, to begin with.
    head = lambda c: c.density_head.bias
    counter = eqx.tree_at(head, counter, jnp.full_like(counter.density_head.bias, -3.0))
    counter = fit(
        counter,
        loss_fn,
        lambda rng, _: draw_batch(rng, sprites, args.batch_size),
        seed=6,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.99,
        folder=args.folder,
    )
    save_counter(counter, args.out)

    rng = np.random.default_rng([6, 10**7])
    images, wanted = draw_batch(rng, sprites, 1024, held_out=True)
    images = jnp.asarray(images, jnp.float32) / 255
    wanted = wanted.sum((1, 2))
    for kind, seen in (("clean", images), ("augmented", augment(images, jr.key(9)))):
        error = np.abs(np.asarray(eqx.filter_jit(counter)(seen)) - wanted)
        right = np.mean(error < 0.5)
        print(f"held-out, {kind}: error {error.mean():.3f}, right {right:.2%}")


if __name__ == "__main__":
    main()
