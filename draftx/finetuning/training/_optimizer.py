"""The paper's optimizer, and the one update that every training makes."""

import functools as ft
import warnings
from typing import Any, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ..._checks import not_negative, positive
from ..._custom_types import Real, RealLike
from ._joined import join, on_vectors


_State = TypeVar("_State")


def adamw(
    learning_rate: RealLike | optax.Schedule = 4e-4,
    weight_decay: RealLike = 0.1,
    max_gradient_norm: RealLike | None = None,
) -> optax.GradientTransformation:
    """Makes AdamW with the paper's other parameters, 0.9 and 0.999, after clipping.

    The same object for the same arguments, so that nothing is compiled again. Guidance
    weights that are learned (`draftx.add_learned_inputs`) are not decayed, and have a
    rate of their own.

    **Arguments:**

    - `learning_rate`: A number or an optax schedule. The paper uses 4e-4 with batches
        of 4 for 2,000 steps, and 2e-4 with 16 for 10,000.
    - `weight_decay`: At least 0.
    - `max_gradient_norm`: Clips the gradient by its global norm; the paper does not.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.1.
    """
    rate = learning_rate
    if not callable(rate):
        rate = positive("learning_rate", rate)
    norm = max_gradient_norm
    if norm is not None:
        norm = positive("max_gradient_norm", norm)
    decay = not_negative("weight_decay", weight_decay)
    return _cached_adamw(rate, decay, norm)


@ft.lru_cache
def _cached_adamw(
    learning_rate: Any, weight_decay: float, max_gradient_norm: float | None
) -> optax.GradientTransformation:
    # Injected, so that the rate of a schedule can be read off the state.
    optimizer = optax.inject_hyperparams(_adamw, static_args=("weight_decay",))(
        learning_rate=learning_rate, weight_decay=weight_decay
    )
    if max_gradient_norm is not None:
        clip = optax.clip_by_global_norm(max_gradient_norm)
        optimizer = optax.chain(clip, optimizer)
    return on_vectors(optimizer, lambda tree: _guidance_scales(tree) is None)


def _adamw(learning_rate: Any, weight_decay: Real) -> optax.GradientTransformation:
    steps = optax.adamw(
        learning_rate,
        b1=0.9,
        b2=0.999,
        weight_decay=weight_decay,
        mask=_all_but_guidance,
    )
    return optax.chain(steps, optax.stateless(_scale_guidance))


def _guidance_scales(tree: Any) -> Any:
    """The learned guidance weights of a pipeline, or `None`."""
    learned = getattr(tree, "learned", None)
    return None if learned is None else learned.guidance_scales


def _all_but_guidance(tree: Any) -> Any:
    """A tree of booleans, false at learned guidance weights only.

    They are not decayed: no guidance is not what to fall back to.
    """
    chosen = jax.tree.map(lambda _: True, tree)
    if _guidance_scales(tree) is None:
        return chosen
    return eqx.tree_at(lambda p: p.learned.guidance_scales, chosen, False)


def _scale_guidance(updates: Any, params: Any) -> Any:
    """Multiplies updates of learned guidance weights by their `guidance_rate`."""
    del params
    scales = _guidance_scales(updates)
    if scales is None:
        return updates
    rate = jnp.asarray(updates.learned.guidance_rate, scales.dtype)
    return eqx.tree_at(lambda u: u.learned.guidance_scales, updates, rate * scales)


# What optax has for optimizers.
Optimizer: TypeAlias = optax.GradientTransformation | optax.MultiSteps


def ascend(
    optimizer: optax.GradientTransformation,
    gradient: Any,
    opt_state: Any,
    trainable: Any,
    is_finite: Bool[Array, ""],
) -> tuple[Any, Any]:
    """Takes one optimizer step up a gradient, or none where something is not finite.

    **Arguments:**

    - `optimizer`: Minimizes, as all of optax: it is given the negative.
    - `gradient`: Of what is to rise.
    - `opt_state`, `trainable`: As they are.
    - `is_finite`: Whether to take it.

    **Returns:**

    The arrays and the state of the optimizer after the step.
    """
    vector, split = join(gradient)
    descent = split(jax.tree.map(jnp.negative, vector))
    # optax raises an integer count to a power, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, new_state = optimizer.update(descent, opt_state, trainable)
    old, split = join(trainable)
    new = eqx.apply_updates(old, join(updates)[0]), new_state
    keep = lambda new, old: jnp.where(is_finite, new, old)
    vector, opt_state = jax.tree.map(keep, new, (old, opt_state))
    return split(vector), opt_state


def learning_rate(opt_state: Any) -> Float[Array, ""] | None:
    """Reads the rate of the latest update off the state of an optimizer.

    `None` unless the optimizer, or one inside of it, injects it
    (`optax.inject_hyperparams`), as `adamw` does. Of several the first.

    **Arguments:**

    - `opt_state`: After the update.
    """
    found = [
        value
        for _, value in optax.tree_utils.tree_get_all_with_path(
            opt_state, "learning_rate"
        )
        if eqx.is_array(value) and value.ndim == 0
    ]
    return found[0] if found else None


def as_optimizer(optimizer: Any) -> optax.GradientTransformation:
    """Makes a gradient transformation of what optax has for optimizers.

    Raises unless `optimizer` is one, made and not its maker.
    """
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "`optimizer` must be an optax.GradientTransformation, such as "
            "`draftx.adamw(4e-4)` or `optax.adam(1e-3)`, or an optax.MultiSteps of "
            f"one; got {optimizer!r}."
        )
    return optimizer


def warn_of_unused_gradients(opt_state: Any) -> None:
    """Warns if a training ends with gradients that were gathered and not followed.

    **Arguments:**

    - `opt_state`: After the last step.
    """
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "mini_step")
    left = max((int(x) for _, x in found if eqx.is_array(x) and x.ndim == 0), default=0)
    if left:
        warnings.warn(
            f"Training ended with {left} gradients that `optax.MultiSteps` had "
            "accumulated for its next update: they were not used. Let the number of "
            "updates be a multiple of its `every_k_schedule`.",
            stacklevel=5,
        )


def as_own(state: _State) -> _State:
    """Copies all arrays of a state, which steps will update in place.

    What it was made of stays its user's. Some optimizers begin with the arrays that
    they train.

    **Arguments:**

    - `state`: What is trained, and the state of its optimizer.
    """
    copied: Any = lambda x: jnp.array(x, copy=True) if eqx.is_array(x) else x
    return jax.tree.map(copied, state)
