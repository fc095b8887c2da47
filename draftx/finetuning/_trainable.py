"""Which arrays of a pipeline are trained, and what that asks of the rest."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._custom_types import Real
from ..diffusion import AbstractLoRASchedule, LoRAWindow
from ..lora import lora_filter
from ..pipeline import check_lora_schedule, LearnedInputs, Pipeline
from ._checks import check_trainable
from ._draft import DRaFT, DRaFTLV
from ._estimator import AbstractGradientEstimator
from ._penalty import Penalized
from ._single_reward import SingleRewardLV


def trainable_filter(pipeline: Pipeline) -> Any:
    """A tree of booleans, true at the adapters' arrays and the learned inputs."""
    chosen = lora_filter(pipeline)
    if pipeline.learned is None:
        return chosen
    learned = jax.tree.map(lambda _: True, pipeline.learned)
    return eqx.tree_at(lambda p: p.learned, chosen, learned)


def check_trained(
    pipeline: Pipeline,
    method: AbstractGradientEstimator,
    lora_schedule: AbstractLoRASchedule | None,
    *,
    num_inference_steps: int,
    guidance_scale: Real,
) -> None:
    """Raises unless there is something to train and the method reaches all of it."""
    if pipeline.learned is None:
        check_trainable(pipeline)
    else:
        _check_learned(method, num_inference_steps, guidance_scale)
    check_lora_schedule(pipeline, lora_schedule, num_inference_steps)
    _check_window(method, lora_schedule, num_inference_steps)


def _check_learned(method, total, guidance_scale):
    k = _differentiated_steps(method, total)
    if k is None or k < total:
        raise ValueError(
            "`method` must differentiate every step of a pipeline with learned inputs, "
            f"as `draftx.DRaFT()` does; got {method}. Drop the inputs with "
            "`draftx.remove_learned_inputs(pipeline)` to train the adapter alone."
        )
    if guidance_scale == 1:
        raise ValueError(
            "`guidance_scale` must not be 1 for a pipeline with learned inputs: "
            "guidance is then off, and they have no effect."
        )


def _check_window(method, schedule, total):
    if not isinstance(schedule, LoRAWindow):
        return
    k = _differentiated_steps(method, total)
    first, last = schedule.first, schedule.last
    missed = k is not None and first is not None and first <= total - k
    if missed or 0 in (first, last):
        raise ValueError(
            "`lora_schedule` must have the adapter on in a step that `method` "
            f"differentiates; got {schedule} and {method} with {total} steps."
        )


def _differentiated_steps(method, total) -> int | None:
    """How many steps at the end of a chain; `None` for other estimators."""
    method = method.method if isinstance(method, Penalized) else method
    if isinstance(method, DRaFT):
        return total if method.truncation_steps is None else method.truncation_steps
    return 1 if isinstance(method, DRaFTLV | SingleRewardLV) else None


def without_guidance_scales(tree: Any) -> Any:
    """A tree of booleans, false at learned guidance weights only.

    They are not decayed: no guidance is not what to fall back to.
    """
    chosen = jax.tree.map(lambda _: True, tree)
    if tree.learned is None or tree.learned.guidance_scales is None:
        return chosen
    return eqx.tree_at(lambda p: p.learned.guidance_scales, chosen, False)


def scale_guidance_rate() -> optax.GradientTransformation:
    """Multiplies updates of learned guidance weights by their `guidance_rate`."""

    def scale(updates: Any, params: Any) -> Any:
        del params
        learned: LearnedInputs = updates.learned
        if learned.guidance_scales is None:
            return updates
        rate = jnp.asarray(learned.guidance_rate, learned.guidance_scales.dtype)
        scaled = rate * learned.guidance_scales
        return eqx.tree_at(lambda u: u.learned.guidance_scales, updates, scaled)

    return optax.stateless(scale)
