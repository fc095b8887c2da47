"""Trains the embedded super-resolution model: from 16 pixels to 64.

python weights/train_sr.py --sprites weights/cache/sprites.npz

Its UNet sees, beside the noisy latents, those of the picture to be enlarged; nothing is
asked for in words. It starts as the embedded text-to-image model, whose autoencoder and
text encoder it keeps, without the attention at 4x4.
"""

import argparse
import dataclasses
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import data_sharding, fit, use_cpu_cores
from cutouts import Sprites
from degraded import degraded_batch, enlarge
from tqdm import trange
from train_unet import noise_loss, UNET

import draftx
from draftx.io import save
from draftx.models import UNet2DConditionModel


SR_UNET = dataclasses.replace(
    UNET,
    in_channels=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)


def start(tiny: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet with the arrays of another where it has them, and zeros for channels."""
    unet = UNet2DConditionModel(SR_UNET, key=jr.key(0))
    known = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tiny)[0]
    }

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        own = known[name].astype(jnp.float32)
        if own.shape == leaf.shape:
            return own
        # The first convolution: the channels of the picture come after the latents'.
        more = [(0, new - old) for new, old in zip(leaf.shape, own.shape, strict=True)]
        return jnp.pad(own, more)

    return jax.tree_util.tree_map_with_path(fill, unet)


def encode_pairs(sprites, vae, count, cache, *, batch_size=64):
    """Latents of images and of their enlarged small pictures, kept in a file.

    **Returns:**

    The scaled latents of images, and the unscaled ones of what the model sees: float16.
    """
    if cache.is_file():
        with np.load(cache) as file:
            if len(file["latents"]) == count:
                return file["latents"], file["seen"]
    both = jax.jit(lambda x, y: (vae.encode(x), vae.posterior(enlarge(y))[0]))
    by_batch, _ = data_sharding()
    parts = []
    for i in trange(0, count, batch_size, desc="encoding pairs"):
        rng = np.random.default_rng([8, i])
        _, images, small = degraded_batch(rng, sprites, batch_size)
        pair = both(*jax.device_put((images, small), by_batch))
        parts.append([np.asarray(x, np.float16) for x in pair])
    latents, seen = (np.concatenate(x)[:count] for x in zip(*parts, strict=True))
    np.savez(cache, latents=latents, seen=seen)
    return latents, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--start-from", default="tiny")
    parser.add_argument("--folder", type=pathlib.Path, default="weights/cache/sr")
    parser.add_argument("--out", type=pathlib.Path, default="weights/tiny-sr")
    parser.add_argument("--num-composites", type=int, default=12_800)
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--num-devices", type=int, default=2)
    args = parser.parse_args()
    use_cpu_cores(args.num_devices)
    args.folder.mkdir(parents=True, exist_ok=True)

    tiny = draftx.load(args.start_from, dtype=jnp.float32)
    latents, seen = encode_pairs(
        Sprites(args.sprites), tiny.vae, args.num_composites, args.folder / "pairs.npz"
    )
    words = tiny.embed(tiny.tokenize([""]))

    def loss_fn(unet, batch, key):
        latents, seen = batch
        context = jnp.broadcast_to(words, (len(latents), *words.shape[1:]))
        seen = seen.astype(jnp.float32)

        def predict(noisy, timesteps):
            return unet(jnp.concatenate([noisy, seen], -1), timesteps, context)

        return noise_loss(predict, latents, key)

    def choose(rng, step):
        del step
        rows = rng.integers(0, len(latents), args.batch_size)
        return latents[rows], seen[rows]

    def publish(unet, step):
        del step
        pipeline = dataclasses.replace(tiny, unet=unet)
        half = lambda x: x.astype(jnp.float16) if eqx.is_inexact_array(x) else x
        save(jax.tree.map(half, jax.device_get(pipeline)), args.out)

    fit(
        start(tiny.unet),
        loss_fn,
        choose,
        seed=9,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.995,
        folder=args.folder,
        save_every=args.save_every,
        on_save=publish,
    )


if __name__ == "__main__":
    main()
