"""Tuned models that the scripts share, and images drawn with them."""

import argparse
import io
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _common import load
from _runs import HELD_OUT, path_of, Recipe, sampling_of, train
from PIL import Image

import draftx


def add_training_options(options: argparse.ArgumentParser) -> None:
    """Of DRaFT-1's runs; equal ones are found again by the other scripts."""
    options.add_argument("--num-train-steps", type=int, help="40, in full 2000")
    options.add_argument("--learning-rate", type=float, help="1e-3, in full 4e-4")


def load_short(args: argparse.Namespace) -> draftx.Pipeline:
    """As `_common.load`, with 10 steps of sampling on the embedded model."""
    if args.num_inference_steps is None and not args.full:
        args.num_inference_steps = 10
    if args.num_train_steps is None:
        args.num_train_steps = 2000 if args.full else 40
    if args.learning_rate is None:
        args.learning_rate = 4e-4 if args.full else 1e-3
    args.seeds = args.seeds or 3
    return load(args)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What tells rows of one setting from those of another."""
    return {
        "model": args.model,
        "steps": args.num_inference_steps,
        "batch": args.batch,
        "rank": args.rank,
        "learning_rate": args.learning_rate,
        "num_train_steps": args.num_train_steps,
    }


def tuned(
    pipeline: draftx.Pipeline, args: argparse.Namespace, reward: str, seed: int
) -> draftx.Pipeline:
    """The model after training on a reward with DRaFT-1."""
    recipe = Recipe(draftx.DRaFT(1), args.num_train_steps, reward)
    row = train(pipeline, recipe, args, seed=seed, learning_rate=args.learning_rate)
    return draftx.load_lora(pipeline, path_of(row))


def draw(
    pipeline: draftx.Pipeline,
    args: argparse.Namespace,
    *,
    sampling: draftx.Sampling | None = None,
    num_samples: int = 4,
) -> np.ndarray:
    """Images of the held-out prompts, one after the other, always from the same noise.

    **Arguments:**

    - `sampling`: `None` is what `args` say.
    - `num_samples`: Of each prompt.
    """
    sampling = sampling_of(args) if sampling is None else sampling
    drawn = [
        draftx.sample(pipeline, HELD_OUT, sampling, key=jr.key(100 + i))
        for i in range(num_samples)
    ]
    return np.concatenate([np.asarray(images) for images in drawn])


def score(reward: draftx.AbstractReward, images: np.ndarray) -> float:
    """The mean of a reward that asks no prompt."""
    return float(np.mean(reward(jnp.asarray(images))))


def to_uint8(images: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def jpeg_bytes(images: np.ndarray, quality: int = 80) -> np.ndarray:
    """The sizes of real JPEG files, less that of a flat image: its headers."""

    def size(pixels: np.ndarray) -> int:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return file.tell()

    flat = size(to_uint8(np.full_like(images[0], 0.5)))
    return np.array([size(image) - flat for image in to_uint8(images)])


def show(axis: Any, image: np.ndarray, *, title: str = "", below: str = "") -> None:
    """One image of a grid."""
    axis.imshow(to_uint8(image), interpolation="lanczos")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(below, fontsize=7)
