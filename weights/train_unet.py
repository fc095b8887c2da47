"""Trains the UNet and the text encoder of the embedded model together.

python weights/train_unet.py --sprites weights/cache/sprites.npz

Needs the results of `train_vae.py` and `tokenizer.py`, and writes the whole pipeline
in half precision at every checkpoint. With `--start-from` a pipeline's networks are
trained on, and its autoencoder and tokenizer are used.
"""

import argparse
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _training import data_sharding, fit, use_cpu_cores
from composites import batch as draw_batch
from counted import counted_batch
from cutouts import Sprites
from tqdm import trange

from draftx.diffusion import DDIM, SchedulerConfig
from draftx.io import load_component, save
from draftx.models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    UNet2DConditionModel,
    UNetConfig,
)
from draftx.pipeline import Pipeline


UNET = UNetConfig(
    sample_size=16,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(64, 96, 128),
    layers_per_block=1,
    norm_num_groups=16,
    cross_attention_dim=128,
    attention_head_dim=4,
)
TEXT = CLIPTextConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=32,
)
SCHEDULER = SchedulerConfig()  # Stable Diffusion 1.4's.
_CAPTION_DROPOUT = 0.12
_MIN_SNR = 5.0


class Model(eqx.Module):
    """The two networks that are trained together."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel


def noise_loss(predict, latents, key):
    """Squared error of the predicted noise, weighted by min(SNR, 5) / SNR.

    **Arguments:**

    - `predict`: `(noisy, timesteps) -> noise`.
    """
    size = latents.shape[0]
    offset_key, noise_key = jr.split(key)
    # Evenly spread timesteps in a random order: less variance than independent ones.
    offset = jr.uniform(offset_key)
    spread = (jnp.arange(size) * 0.6180339887 + offset) % 1.0
    timesteps = (spread * SCHEDULER.num_train_timesteps).astype(jnp.int32)
    noise = jr.normal(noise_key, latents.shape)
    alpha = jnp.asarray(SCHEDULER.alphas_cumprod())[timesteps][:, None, None, None]
    noisy = jnp.sqrt(alpha) * latents.astype(jnp.float32) + jnp.sqrt(1 - alpha) * noise
    squared = jnp.mean((predict(noisy, timesteps) - noise) ** 2, axis=(1, 2, 3))
    snr = (alpha / (1 - alpha))[:, 0, 0, 0]
    weight = jnp.minimum(snr, _MIN_SNR) / snr
    return jnp.mean(weight * squared), {
        "loss": jnp.mean(weight * squared),
        "mse": jnp.mean(squared),
    }


def loss_fn(model, batch, key):
    """That of the noise, given what the text encoder makes of captions."""
    latents, input_ids = batch
    context = model.text_encoder(input_ids)
    predict = lambda noisy, timesteps: model.unet(noisy, timesteps, context)
    return noise_loss(predict, latents, key)


def encode_composites(sprites, vae, tokenizer, count, cache, *, share, batch_size=128):
    """Latents (float16) and token ids of `count` composites, kept in a file.

    With a `share` above 0 so many of them show several of an animal.
    """
    if cache.is_file():
        with np.load(cache) as file:
            if len(file["latents"]) == count:
                return file["latents"], file["input_ids"]
    encode = jax.jit(lambda x: vae.encode(x.astype(jnp.float32) / 255))
    by_batch, _ = data_sharding()
    latents, input_ids = [], []
    for i in trange(0, count, batch_size, desc="encoding composites"):
        rng = np.random.default_rng([2, i])
        images, captions, _ = (
            counted_batch(rng, sprites, batch_size, share=share)
            if share > 0
            else draw_batch(rng, sprites, batch_size)
        )
        latents.append(np.asarray(encode(jax.device_put(images, by_batch)), np.float16))
        input_ids.append(tokenizer(captions))
    latents = np.concatenate(latents)[:count]
    input_ids = np.concatenate(input_ids)[:count]
    np.savez(cache, latents=latents, input_ids=input_ids)
    return latents, input_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument(
        "--start-from", type=pathlib.Path, help="the folder of a trained pipeline"
    )
    parser.add_argument(
        "--counted-share",
        type=float,
        default=0.0,
        help="of the composites, those with two, three or four animals",
    )
    parser.add_argument("--vae", type=pathlib.Path, default="weights/cache/vae/model")
    parser.add_argument(
        "--tokenizer", type=pathlib.Path, default="weights/cache/tokenizer"
    )
    parser.add_argument("--folder", type=pathlib.Path, default="weights/cache/unet")
    parser.add_argument("--out", type=pathlib.Path, default="weights/tiny")
    parser.add_argument("--num-composites", type=int, default=38_400)
    parser.add_argument("--num-steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--num-devices", type=int, default=2)
    args = parser.parse_args()
    use_cpu_cores(args.num_devices)
    args.folder.mkdir(parents=True, exist_ok=True)

    if args.start_from is not None:
        args.vae = args.start_from / "vae"
        args.tokenizer = args.start_from / "tokenizer"
    tokenizer = CLIPTokenizer.from_folder(args.tokenizer)
    vae = load_component(AutoencoderKL, args.vae)
    latents, input_ids = encode_composites(
        Sprites(args.sprites),
        vae,
        tokenizer,
        args.num_composites,
        args.folder / "composites.npz",
        share=args.counted_share,
    )
    empty = tokenizer([""])[0]

    def choose(rng, step):
        del step
        rows = rng.integers(0, len(latents), args.batch_size)
        ids = input_ids[rows].copy()
        ids[rng.random(args.batch_size) < _CAPTION_DROPOUT] = empty
        return latents[rows], ids

    def publish(model, step):
        del step
        pipeline = Pipeline(
            unet=model.unet,
            vae=vae,
            text_encoder=model.text_encoder,
            sampler=DDIM(SCHEDULER),
            tokenizer=tokenizer,
        )
        half = lambda x: x.astype(jnp.float16) if eqx.is_inexact_array(x) else x
        save(jax.tree.map(half, jax.device_get(pipeline)), args.out)

    if args.start_from is not None:
        unet = load_component(
            UNet2DConditionModel, args.start_from / "unet", dtype=jnp.float32
        )
        text_encoder = load_component(
            CLIPTextModel, args.start_from / "text_encoder", dtype=jnp.float32
        )
    else:
        unet_key, text_key = jr.split(jr.key(0))
        unet = UNet2DConditionModel(UNET, key=unet_key)
        # The first prediction is zero: no step is spent on undoing a random one.
        zeros = jnp.zeros_like
        unet = eqx.tree_at(lambda u: u.conv_out.weight, unet, replace_fn=zeros)
        text_encoder = CLIPTextModel(TEXT, key=text_key)
    fit(
        Model(unet, text_encoder),
        loss_fn,
        choose,
        seed=3,
        num_steps=args.num_steps,
        learning_rate=args.learning_rate,
        ema_decay=0.998,
        folder=args.folder,
        save_every=args.save_every,
        on_save=publish,
    )


if __name__ == "__main__":
    main()
