"""Trains the autoencoder of the embedded model.

python weights/train_vae.py --sprites weights/cache/sprites.npz
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from _training import fit, use_cpu_cores
from composites import autoencoder_batch, Sprites
from draftx.models import AutoencoderConfig, AutoencoderKL


CONFIG = AutoencoderConfig(
    sample_size=64,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(24, 48, 96),
    layers_per_block=1,
    norm_num_groups=8,
    scaling_factor=1.0,  # While training; `weights/assemble.py` folds in the real one.
)


def _differences(x):
    return x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]


def loss_fn(vae, batch, key):
    """Squared and absolute error, absolute error of differences, a little KL."""
    (images,) = batch
    images = images.astype(jnp.float32) / 255
    mean, log_variance = vae.posterior(images)
    noise = jr.normal(key, mean.shape)
    decoded = vae.decode_unclipped(mean + jnp.exp(0.5 * log_variance) * noise)
    error = 2 * (decoded - images)
    squared = jnp.mean(error**2)
    edges = sum(jnp.mean(jnp.abs(d)) for d in _differences(error))
    kl = jnp.mean(0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance))
    loss = squared + 0.3 * jnp.mean(jnp.abs(error)) + 0.2 * edges + 2e-4 * kl
    psnr = -10 * jnp.log10(squared / 4)
    return loss, {"loss": loss, "psnr": psnr, "kl": kl}


def reconstruction_psnr(vae, images, batch_size=64):
    """Decibels between pictures and their round trip, over all pixels together."""
    roundtrip = jax.jit(lambda x: vae.decode(vae.encode(x)))
    squared = []
    for i in range(0, len(images), batch_size):
        x = images[i : i + batch_size].astype(np.float32) / 255
        squared.append(np.mean((np.asarray(roundtrip(jnp.asarray(x))) - x) ** 2))
    return float(-10 * np.log10(np.mean(squared)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--folder", type=pathlib.Path, default="weights/cache/vae")
    parser.add_argument("--num-steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--crop", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--num-devices", type=int, default=2)
    args = parser.parse_args()
    use_cpu_cores(args.num_devices)

    sprites = Sprites(args.sprites)
    held_out = autoencoder_batch(np.random.default_rng(0), sprites, 256, held_out=True)

    def batches(step):
        while True:
            rng = np.random.default_rng([1, step])
            images = autoencoder_batch(rng, sprites, args.batch_size)
            # Crops see more pictures for the same work; the last fifth sees whole ones.
            if step < 0.8 * args.num_steps and args.crop < 64:
                row, column = rng.integers(0, 64 - args.crop + 1, 2)
                images = images[:, row : row + args.crop, column : column + args.crop]
            else:
                images = images[: max(8, args.batch_size * args.crop**2 // 64**2)]
            yield (np.ascontiguousarray(images),)
            step += 1

    def report(vae, step):
        print(
            f"\nstep {step}: held-out PSNR {reconstruction_psnr(vae, held_out):.2f} dB"
        )

    fit(
        AutoencoderKL(CONFIG, key=jr.key(0)),
        loss_fn,
        batches,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.995,
        folder=pathlib.Path(args.folder),
        on_save=report,
    )


if __name__ == "__main__":
    main()
