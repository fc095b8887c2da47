"""Which arrays of a pipeline are trained, and what that asks of the rest."""

import warnings
from typing import Any

import equinox as eqx
import jax

from ...diffusion import noise_levels
from ...lora import has_lora, lora_filter
from ...pipeline import Pipeline, Plan, Sampling
from ..estimators import AbstractGradientEstimator, DRaFT


def trainable_filter(pipeline: Pipeline) -> Any:
    """Makes a tree of booleans, true at the adapters' arrays and the learned inputs.

    **Arguments:**

    - `pipeline`: With an adapter, with learned inputs, or both.
    """
    chosen = lora_filter(pipeline)
    if pipeline.learned is None:
        return chosen
    learned = jax.tree.map(lambda _: True, pipeline.learned)
    return eqx.tree_at(lambda p: p.learned, chosen, learned)


def check_trainable(pipeline: Pipeline) -> None:
    """Raises unless `pipeline` has an adapter to train."""
    if not has_lora(pipeline):
        raise ValueError(
            "`pipeline` must carry a LoRA adapter to be trained; it has none. Add one "
            "with `draftx.add_lora(pipeline, rank=8, key=...)`."
        )


def check_trained(
    pipeline: Pipeline, method: AbstractGradientEstimator, sampling: Sampling
) -> None:
    """Raises unless there is something to train and the method reaches all of it."""
    if pipeline.learned is None:
        check_trainable(pipeline)
    else:
        _check_learned(method, sampling)
    _check_window(method, sampling)


def _check_learned(method: AbstractGradientEstimator, sampling: Sampling) -> None:
    total = sampling.num_inference_steps
    if len(method.trained_steps(total).always) < total:
        raise ValueError(
            "`method` must differentiate every step of a pipeline with learned inputs, "
            f"as `draftx.DRaFT()` does; got {method}. Drop the inputs with "
            "`draftx.remove_learned_inputs(pipeline)` to train the adapter alone."
        )
    if not sampling.is_guided:
        raise ValueError(
            "`guidance_scale` must be above 1 for a pipeline with learned inputs: "
            "without guidance they have no effect; got "
            f"{sampling.guidance_scale}."
        )


def _check_window(method: AbstractGradientEstimator, sampling: Sampling) -> None:
    total, schedule = sampling.num_inference_steps, sampling.lora_schedule
    if schedule is None:
        return
    if not method.trained_steps(total).ever & schedule.active_steps(total):
        raise ValueError(
            "`lora_schedule` must have the adapter on in a step that `method` "
            f"differentiates; got {schedule} and {method} with {total} steps."
        )


def check_reach(method: AbstractGradientEstimator, plan: Plan) -> None:
    """Raises unless a differentiated step can move the images; warns if one cannot.

    What is left of the gradient at a step that cannot is rounding, which an optimizer
    such as Adam scales up to updates of the usual size.

    **Arguments:**

    - `method`: Says which steps it differentiates.
    - `plan`: The options of sampling.
    """
    steps, total = plan.steps(), plan.num_inference_steps
    trained = method.trained_steps(total).ever
    if plan.lora_schedule is not None:
        trained = trained & plan.lora_schedule.active_steps(total)
    idle = sorted(trained & method.idle_steps(plan.sampler, steps))
    if not idle:
        return
    before, after = noise_levels(plan.sampler, steps)
    named = ", ".join(
        f"step {i} of 0 to {total - 1} (timestep {float(steps.timestep[i]):g}) goes "
        f"from noise level {before[i]:.4g} to {after[i]:.4g}"
        for i in idle[:5]
    )
    remedy = (
        "Train with a sampler whose chain ends without noise, "
        "`draftx.Sampling(sampler=draftx.DDIM(dataclasses.replace("
        "pipeline.sampler.config, set_alpha_to_one=True)))`, with `steps_offset=1` "
        "there if that is what the model was published with"
    )
    whose = "all of whose steps"
    if len(idle) < len(trained):
        whose = "some of whose draws are of steps alone that"
    if len(idle) < len(trained) and not method.draws_only(frozenset(idle), total):
        warnings.warn(
            f"{len(idle)} of the {len(trained)} steps that `method` differentiates "
            f"move nothing whatever the model predicts, and train nothing: {named}. "
            f"{remedy}.",
            stacklevel=4,
        )
        return
    raise ValueError(
        "`method` must differentiate a step that can move the images; got "
        f"{method}, {whose} move nothing whatever the model predicts: {named}. "
        f"{remedy}{_longer(plan)}."
    )


def _longer(plan: Plan) -> str:
    """What method reaches a step that moves, where there is one."""
    steps, total = plan.steps(), plan.num_inference_steps
    moving = {*range(total)} - DRaFT().idle_steps(plan.sampler, steps)
    if plan.lora_schedule is not None:
        moving &= plan.lora_schedule.active_steps(total)
    if not moving:
        return ""
    return (
        ", or with a method that differentiates more steps, such as "
        f"`draftx.DRaFT({total - max(moving)})`"
    )
