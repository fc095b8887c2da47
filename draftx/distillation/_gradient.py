from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._compilation import Program
from .._custom_types import WholeLike
from .._table import Rows
from ..pipeline import Pipeline, Sampling
from ..rewards import Reward
from ._method import ScoreDistillation
from ._pictures import AbstractVisualPrompt
from ._renderer import Renderer
from ._task import gradient_of, make_task, Question


def distillation_gradient(
    pipeline: Pipeline,
    render: Renderer,
    params: Any,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray,
    method: ScoreDistillation = ScoreDistillation(),
    reward: Reward | None = None,
    visual_prompt: AbstractVisualPrompt | None = None,
    step: WholeLike = 0,
) -> tuple[dict[str, Any], Any]:
    """Computes the gradient that `distill` follows down at one of its steps.

    **Arguments:**

    - `pipeline`, `render`, `params`, `prompts`, `sampling`, `key`, `method`, `reward`,
        `visual_prompt`: As for `distill`.
    - `step`: Which; the first is 0.

    **Returns:**

    The `timestep`, the size of the `residual`, and the `rewards` and `components` of
    the images if there is a reward; and a tree like `params` with the gradient of the
    loss at its floating-point arrays, `None` elsewhere.
    """
    step = check_whole("step", step, least=0)
    asked = Question(pipeline, render, prompts, sampling, method, reward, visual_prompt)
    task = make_task(asked, params, key)
    trainable, frozen = eqx.partition(params, eqx.is_inexact_array)
    return _gradient(trainable, frozen, task, jnp.asarray(step))


_gradient = Program(gradient_of)
