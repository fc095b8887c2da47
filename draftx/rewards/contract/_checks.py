"""What is wrong with a reward, said before any long work."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._errors import RewardError, traced_by_jax
from ._reward import AbstractReward


def check_scores(
    reward: AbstractReward, image_spec: jax.ShapeDtypeStruct, features: Any
) -> None:
    """Raises unless the reward gives one floating-point score for each image.

    Found out by tracing alone. What runs on the host is no part of that:
    `probe_host_rewards` calls it.

    **Arguments:**

    - `reward`: Called as `reward.judge(images, features)`.
    - `image_spec`: Shape and dtype of a batch of images.
    - `features`: What `prepare` gave, for any number of rows.
    """
    batch = image_spec.shape[0]
    rows = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    of_batch = jax.tree.map(rows, features)
    with traced_by_jax():
        judged = eqx.filter_eval_shape(reward.judge, image_spec, of_batch)
    scores = judged.total
    got = getattr(scores, "shape", type(scores).__name__)
    if got != (batch,):
        raise RewardError(
            "`reward` must give one score for each image, shape "
            f"({batch},) for this batch; got {got}. Do not average over the batch."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise RewardError(
            f"`reward` must give floating-point scores; got {scores.dtype}."
        )
    for name, component in judged.components.items():
        if component.shape != (batch,):
            raise RewardError(
                "`reward.judge` must give one score for each image in every component, "
                f"shape ({batch},) for this batch; got {component.shape} in {name!r}."
            )


def check_finite(scores: Array | np.ndarray) -> None:
    """Raises if a reward came out as NaN or infinite.

    **Arguments:**

    - `scores`: Of one batch.
    """
    values = np.asarray(scores, np.float32)
    if not np.all(np.isfinite(values)):
        raise RewardError(
            f"`reward` must give finite scores; got {values.tolist()}. Check it on the "
            "images of `draftx.sample`, in float32."
        )
