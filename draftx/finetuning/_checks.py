"""What is wrong with a reward or an option, said before any long work."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._custom_types import Prompts
from ..layers import check_remat
from ..lora import has_lora
from ..pipeline import Pipeline
from ..rewards import AbstractReward
from ._estimator import call_reward, Reward


class RewardError(ValueError):
    """A reward gave something other than one finite score for each image, or has no
    gradient although a method needs it.

    Raised by `finetune`, its `result` is what had been reached before.
    """

    result: Any = None


def check_whole(name: str, value: Any) -> None:
    """Raises unless a number is a whole one of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"`{name}` must be a whole number of at least 1; got {value!r}."
        )


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
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or batch % size:
        raise ValueError(
            "`images_at_once` must be None or a whole number that divides the batch, "
            f"{batch}; got {size!r}."
        )


def prepare_prompts(reward: Reward, prompts: Prompts) -> Any:
    """What the reward wants to be given of the prompts, one row for each."""
    return reward.prepare(prompts) if isinstance(reward, AbstractReward) else None


def check_reward(
    pipeline: Pipeline, reward: Reward, shape: tuple[int, ...], prompt_features: Any
) -> None:
    """Traces the reward, without running it, and raises unless it gives `[batch]`."""
    images = decoded_spec(pipeline, shape)
    rows = lambda x: jax.ShapeDtypeStruct((shape[0], *x.shape[1:]), x.dtype)
    prompt_features = jax.tree.map(rows, prompt_features)
    scores = eqx.filter_eval_shape(call_reward, reward, images, prompt_features)
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
