"""What is wrong with a reward or an option, said before any long work."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import is_whole
from .._custom_types import Prompts
from ..layers import check_remat
from ..lora import has_lora
from ..pipeline import Pipeline
from ..rewards import AbstractReward, probe_host_rewards
from ._estimator import call_reward, Reward


class RewardError(ValueError):
    """A reward gave something other than one finite score for each image, or has no
    gradient although a method needs it.

    Raised by `finetune`, its `result` is what had been reached before.
    """

    result: Any = None


def check_trainable(pipeline: Pipeline) -> None:
    """Raises unless the pipeline has an adapter to train."""
    if not has_lora(pipeline):
        raise ValueError(
            "`pipeline` must carry a LoRA adapter to be trained; it has none. Add one "
            "with `draftx.add_lora(pipeline, rank=8, key=...)`."
        )


def check_memory_options(remat: str, images_at_once: int | None, batch: int) -> None:
    """Raises unless both are possible for a batch of this size."""
    check_remat(remat)
    size = images_at_once
    if size is None:
        return
    if not is_whole(size) or batch % size:
        raise ValueError(
            "`images_at_once` must be None or a whole number that divides the batch, "
            f"{batch}; got {size!r}."
        )


def prepare_prompts(reward: Reward, prompts: Prompts) -> Any:
    """What the reward wants to be given of the prompts, one row for each."""
    return reward.prepare(prompts) if isinstance(reward, AbstractReward) else None


def prepare_reward(
    pipeline: Pipeline, reward: Reward, prompts: Prompts, shape: tuple[int, ...]
) -> Any:
    """What the reward prepares of the prompts, once it is clear that it works.

    Raises unless it gives `[batch]` for images of latents of this shape, found out by
    tracing alone. What runs on the host is no part of that, and is called once.
    """
    prompt_features = prepare_prompts(reward, prompts)
    images = decoded_spec(pipeline, shape)
    rows = lambda x: jax.ShapeDtypeStruct((shape[0], *x.shape[1:]), x.dtype)
    of_batch = jax.tree.map(rows, prompt_features)
    scores = eqx.filter_eval_shape(call_reward, reward, images, of_batch)
    got = getattr(scores, "shape", type(scores).__name__)
    if got != (shape[0],):
        raise RewardError(
            "`reward` must give one score for each image, shape "
            f"({shape[0]},) for this batch; got {got}. Do not average over the batch."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise RewardError(
            f"`reward` must give floating-point scores; got {scores.dtype}."
        )
    probe_host_rewards(reward, images.shape, prompts)
    return prompt_features


def check_finite(rewards: Array | np.ndarray) -> None:
    """Raises if a reward came out as NaN or infinite."""
    values = np.asarray(rewards, np.float32)
    if not np.all(np.isfinite(values)):
        raise RewardError(
            f"`reward` must give finite scores; got {values.tolist()}. Check it on the "
            "images of `draftx.sample`, in float32."
        )


def decoded_spec(pipeline: Pipeline, shape: tuple[int, ...]) -> Any:
    """Shape and dtype of the images of latents."""
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
    return eqx.filter_eval_shape(pipeline.decode, latents)
