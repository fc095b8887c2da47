"""Trains the autoencoder of the embedded model.

python weights/train_vae.py --sprites weights/cache/sprites.npz
"""

import argparse
import dataclasses
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import fit, use_cpu_cores
from composites import autoencoder_batch, batch
from cutouts import Sprites
from tqdm import trange

from draftx.io import save_component
from draftx.models import AutoencoderConfig, AutoencoderKL


CONFIG = AutoencoderConfig(
    sample_size=64,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(24, 48, 96),
    layers_per_block=1,
    norm_num_groups=8,
    scaling_factor=1.0,  # While training; `fold_statistics` puts in the real one.
)
_CROP = 32


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
    """Decibels between images and their round trip, over all pixels together."""
    roundtrip = jax.jit(lambda x: vae.decode(vae.encode(x)))
    squared = []
    for i in range(0, len(images), batch_size):
        x = images[i : i + batch_size].astype(np.float32) / 255
        squared.append(np.mean((np.asarray(roundtrip(jnp.asarray(x))) - x) ** 2))
    return float(-10 * np.log10(np.mean(squared)))


def fold_statistics(vae, images, scaling_factor=0.18215):
    """The same autoencoder, with scaled latents of zero mean and unit variance.

    Mean and deviation of every latent channel over `images` move into the two 1x1
    convolutions, so that Stable Diffusion's literal scaling factor is right here too.
    """
    moments = jax.jit(lambda x: vae.posterior(x.astype(jnp.float32) / 255)[0])
    latents = [moments(images[i : i + 64]) for i in range(0, len(images), 64)]
    latents = np.concatenate([np.asarray(x) for x in latents])
    mean, deviation = latents.mean((0, 1, 2)), latents.std((0, 1, 2))
    unit = deviation * scaling_factor  # One unit of the new unscaled latents.
    gain = np.concatenate([1 / unit, np.ones_like(unit)])
    shift = np.concatenate([-mean / unit, -2 * np.log(unit)])
    quant, post = vae.quant_conv, vae.post_quant_conv
    vae = eqx.tree_at(
        lambda v: (
            v.quant_conv.weight,
            v.quant_conv.bias,
            v.post_quant_conv.weight,
            v.post_quant_conv.bias,
        ),
        vae,
        (
            quant.weight * gain[:, None],
            quant.bias * gain + shift,
            post.weight * unit[None],
            post.bias + post.weight @ mean,
        ),
    )
    config = dataclasses.replace(CONFIG, scaling_factor=scaling_factor)
    folded = AutoencoderKL(config, key=jr.key(0))
    arrays = lambda v: (v.encoder, v.decoder, v.quant_conv, v.post_quant_conv)
    return eqx.tree_at(arrays, folded, arrays(vae))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument(
        "--folder", type=pathlib.Path, default=pathlib.Path("weights/cache/vae")
    )
    parser.add_argument("--num-steps", type=int, default=1650)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-images", type=int, default=16384)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--num-devices", type=int, default=2)
    args = parser.parse_args()
    use_cpu_cores(args.num_devices)

    sprites = Sprites(args.sprites)
    held_out = autoencoder_batch(np.random.default_rng(0), sprites, 256, held_out=True)

    images = np.concatenate(
        [
            autoencoder_batch(np.random.default_rng([1, i]), sprites, 256)
            for i in trange(args.num_images // 256, desc="drawing composites")
        ]
    )

    def choose(rng, step):
        # Crops see more images for the same work; the last fifth sees whole ones.
        if step < 0.8 * args.num_steps:
            rows = rng.integers(0, len(images), args.batch_size)
            top, left = rng.integers(0, 64 - _CROP + 1, 2)
            return (images[rows, top : top + _CROP, left : left + _CROP],)
        rows = rng.integers(0, len(images), args.batch_size // 4)
        return (images[rows],)

    def report(vae, step):
        print(
            f"\nstep {step}: held-out PSNR {reconstruction_psnr(vae, held_out):.2f} dB"
        )

    vae = fit(
        AutoencoderKL(CONFIG, key=jr.key(0)),
        loss_fn,
        choose,
        seed=2,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.995,
        folder=args.folder,
        on_save=report,
    )
    animals, _, _ = batch(np.random.default_rng(3), sprites, 1024)
    vae = fold_statistics(vae, animals)
    psnr = reconstruction_psnr(vae, held_out)
    print(f"with statistics folded in: held-out PSNR {psnr:.2f} dB")
    save_component(vae, args.folder / "model")


if __name__ == "__main__":
    main()
