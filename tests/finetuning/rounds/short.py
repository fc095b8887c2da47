"""A short training in rounds on a random pipeline, and rewards of files."""

import dataclasses
import io

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import PIL.Image

import draftx


# One object each, so that the tests share their programs.
OPTIMIZER = optax.adam(1e-2)
BROKEN = [False]
SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=2.0)
UPDATES = draftx.Updates(minibatch_size=2, steps_per_update=1)


def darkness(images):
    return -jnp.mean(images, axis=(1, 2, 3))


def jpeg_size(images):
    if BROKEN[0]:
        return [np.nan] * len(images)
    sizes = []
    for image in (np.asarray(images) * 255).round().astype(np.uint8):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, "JPEG", quality=95)
        sizes.append(-len(file.getvalue()))
    return sizes


JPEG = draftx.rewards.HostReward(jpeg_size)


def train(pipeline, method, reward=darkness, prompts=("cat", "do"), **options):
    """Two rounds of four images, unless the options say otherwise.

    `updates` are those of the method.
    """
    updates = options.pop("updates", UPDATES)
    method = dataclasses.replace(method, updates=updates)
    defaults = dict(
        sampling=SAMPLING,
        method=method,
        key=jr.key(0),
        num_train_steps=2,
        batch_size=4,
        optimizer=OPTIMIZER,
        callbacks=(),
    )
    if not isinstance(prompts, dict):
        prompts = list(prompts)
    return draftx.finetune_in_rounds(pipeline, reward, prompts, **(defaults | options))
