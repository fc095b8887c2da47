"""Whether a reward has a gradient, found out before any long work."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._custom_types import Images
from ._checks import check_finite
from ._errors import RewardError
from ._reward import AbstractReward


_NOT_DIFFERENTIABLE = (
    "`reward` must have a gradient with respect to the images for this method; {}. "
    "DDPO (`draftx.finetune_in_rounds`) needs none."
)


def check_differentiable(
    reward: AbstractReward, image_spec: jax.ShapeDtypeStruct, features: Any
) -> None:
    """Raises unless the reward has a gradient with respect to images.

    First by tracing alone: rounding, comparisons and calls of the host end every path
    from the images to the scores. Then on two images of noise and of shades, which
    finds what is flat or not finite.

    **Arguments:**

    - `reward`: Called as `reward(images, features)`.
    - `image_spec`: Shape and dtype of a batch of images. The probe is of two where the
        reward takes a batch of two.
    - `features`: What `prepare` gave, for any number of rows.
    """
    inputs = _probe(reward, image_spec, features)
    try:
        is_reached = _is_reached(reward, *inputs)
    except Exception as error:
        raise RewardError(
            _NOT_DIFFERENTIABLE.format(f"it has none: {error}")
        ) from error
    if not is_reached:
        raise RewardError(
            _NOT_DIFFERENTIABLE.format(
                "nothing differentiable leads from the images to the scores. "
                "`jnp.round`, comparisons and integers have no gradient"
            )
        )
    scores, gradient = _score_and_gradient(reward, *inputs)
    check_finite(scores)
    if not np.any(np.asarray(gradient)):
        raise RewardError(
            _NOT_DIFFERENTIABLE.format(
                "it is zero in every pixel of an image of noise and of one of shades. "
                "If it is so on these alone, add a term that is not, such as "
                "1e-6 times the mean of the pixels"
            )
        )


def _probe(
    reward: AbstractReward, image_spec: jax.ShapeDtypeStruct, features: Any
) -> tuple[Images, Any]:
    """A batch that is not constant, and features for it; small if possible."""
    batch, *one = image_spec.shape
    for size in (min(2, batch), batch):
        spec = jax.ShapeDtypeStruct((size, *one), image_spec.dtype)
        rows = lambda x, size=size: x[np.arange(size) % len(x)]
        of_probe = jax.tree.map(rows, features)
        try:
            scores = eqx.filter_eval_shape(reward, spec, of_probe)
        except Exception:
            if size == batch:
                raise
            continue  # Some compare with as many references as there are images.
        if scores.shape == (size,):
            break
    height, width, channels = one
    noise = np.random.default_rng(0).uniform(size=spec.shape)
    y, x, c = np.meshgrid(
        *(np.linspace(0.1, 0.9, n) for n in (height, width, channels)), indexing="ij"
    )
    shades = (0.5 * x + 0.3 * y + 0.2 * c)[None]
    is_odd = (np.arange(size) % 2 == 1)[:, None, None, None]
    return jnp.asarray(np.where(is_odd, shades, noise), spec.dtype), of_probe


def _is_reached(reward: AbstractReward, images: Images, features: Any) -> bool:
    """Whether JAX knows of a derivative of the scores by the images, without a run."""
    perturbed = []

    @jax.custom_vjp
    def watch(scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return scores

    def forward(scores):
        perturbed.append(scores.perturbed)
        return scores.value, None

    watch.defvjp(forward, lambda _, cotangent: (None,), symbolic_zeros=True)
    total = lambda images, features: _total(watch)(images, reward, features)[0]
    eqx.filter_eval_shape(jax.grad(total), images, features)
    return any(perturbed)


def _total(watch: Callable[[Array], Array]):
    def total(images: Images, reward: AbstractReward, features: Any):
        scores = watch(reward(images, features))
        return jnp.sum(scores), scores

    return total


@eqx.filter_jit
def _score_and_gradient(reward: AbstractReward, images: Images, features: Any):
    gradient_of = jax.grad(_total(lambda scores: scores), has_aux=True)
    gradient, scores = gradient_of(images, reward, features)
    return scores, gradient
