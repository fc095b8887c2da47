from collections.abc import Sequence
from typing import Any

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray

from .._checks import check_is, check_whole
from .._custom_types import WholeLike
from .._table import Rows, Table
from ..episodes import Budget
from ..finetuning.training import (
    adamw,
    as_optimizer,
    Callback,
    check_callbacks,
    Kind,
    Optimizer,
    ProgressBar,
    Run,
    Stopping,
    to_default_device,
)
from ..io.checkpoints import check_checkpoints, Checkpoints, describe
from ..pipeline import Pipeline, Sampling
from ..rewards import Reward
from ._descent import descend
from ._method import ScoreDistillation
from ._pictures import AbstractVisualPrompt
from ._renderer import Renderer
from ._result import DistillationResult, make_result
from ._task import gradient_of, make_task, Question, Task


def distill(
    pipeline: Pipeline,
    render: Renderer,
    params: Any,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray,
    num_train_steps: WholeLike,
    method: ScoreDistillation = ScoreDistillation(),
    reward: Reward | None = None,
    visual_prompt: AbstractVisualPrompt | None = None,
    optimizer: Optimizer = adamw(learning_rate=1e-2, weight_decay=0.0),
    stopping: Stopping = Stopping(),
    callbacks: Sequence[Callback] = (ProgressBar(name="distilling"),),
    checkpoints: Checkpoints | None = None,
) -> DistillationResult:
    r"""Optimizes the parameters of a renderer by the score of a model, and by rewards.

    Every step renders images, noises their latents, and moves the parameters so that
    the images become what the model takes them for: score distillation sampling. A
    reward of the same images is added:

    $$\nabla_\psi L - \nabla_\psi\,\tfrac1n \textstyle\sum_i r(g(\psi)_i)$$

    All that is random at a step comes from `key` and its number alone. A step that is
    not finite leaves parameters and optimizer as they were, and is counted.

    **Arguments:**

    - `pipeline`: The model, a constant; its adapter, if it has one, is on.
    - `render`: `render(params, key)` gives images `[batch, height, width, 3]` in
        $[0, 1]$, as many each time, of views that `key` draws. It must be
        differentiable. A function, or an `equinox.Module` with arrays of its own.
    - `params`: What is optimized: a tree whose floating-point arrays are; all else in
        it stays as it is.
    - `prompts`: One for all images of a step, or one for each in their order: strings,
        or columns as for `draftx.sample`.
    - `sampling`: Of it the guidance scale and the negative prompt count. Distillation
        asks for more guidance than sampling does.
    - `key`: Draws views, times and noise.
    - `num_train_steps`: At least 1.
    - `method`: The options of the score.
    - `reward`: Ascended besides, with its weight
        (`draftx.rewards.WeightedSum([reward], [10.0])`): the score's gradient is that
        of a sum over the numbers of a latent, some thousands. `None` is the score
        alone.
    - `visual_prompt`: A picture that the score is conditioned on besides the text:
        [`draftx.distillation.VisualPrompt`][] or [`draftx.distillation.TokenPrompt`][].
    - `optimizer`: Any of optax. Its rate is that of the parameters, which are yours.
    - `stopping`: When it ends before its last step.
    - `callbacks`: Each called after every step with the row of the history and the
        parameters as they are then. `()` is silent.
    - `checkpoints`: Where it is saved, and goes on from when it is called again;
        `None` is nowhere.

    **Returns:**

    The parameters and the history. A row of it has `step`, `timestep`, `residual` (the
    root mean square of $\hat\epsilon - \epsilon$), `gradient_norm`, `learning_rate` (if
    the optimizer injects it), `skipped`, and the numbers of a [`draftx.Budget`][]
    summed over the run; with a reward also `reward`, `reward_std` and those of its
    named parts, as for `draftx.finetune`.

    Raises a `ValueError` that names the argument before any long work, and a
    `RewardError` after too many steps in a row that are not finite; its attribute
    `result` holds what had been reached.

    !!! info

        A reward's gradient by pixels reaches parameters in ways that no picture of the
        model has; keep its weight small. VP3D has about 0.1 and 0.01 of the score's.

    ??? cite

        [DreamFusion](https://arxiv.org/abs/2209.14988);
        [VP3D](https://arxiv.org/abs/2403.17001).
    """
    optimizer = as_optimizer(optimizer)
    check_is("stopping", stopping, Stopping, "draftx.Stopping(max_skipped_steps=3)")
    check_callbacks(callbacks)
    check_checkpoints(checkpoints)
    num_train_steps = check_whole("num_train_steps", num_train_steps)
    asked = Question(pipeline, render, prompts, sampling, method, reward, visual_prompt)
    task = make_task(asked, params, key)
    cost = _cost(task)
    stopping.check(None, cost)
    facts = None
    if checkpoints is not None:
        options = dict(
            render=render,
            params=params,
            reward=task.reward,
            sampling=sampling,
            method=method,
            visual_prompt=visual_prompt,
            optimizer=optimizer,
        )
        facts = describe("distillation", pipeline, Table.of(prompts), key, options)
    trainable, frozen = eqx.partition(params, eqx.is_inexact_array)
    run = Run(
        whole=lambda trainable: eqx.combine(to_default_device(trainable), frozen),
        num_train_steps=num_train_steps,
        evaluation=None,
        stopping=stopping,
        cost=cost,
        callbacks=callbacks,
        checkpoints=checkpoints,
        facts=facts,
        kind=Kind(make_result, "`render` and `reward`"),
    )
    return descend(_Objective(task, frozen), trainable, optimizer, run)


class _Objective(eqx.Module):
    """The score and the rewards of what is rendered."""

    task: Task
    frozen: Any

    def __call__(
        self, trainable: Any, step: Int[Array, ""]
    ) -> tuple[dict[str, Any], Any, Any]:
        metrics, gradient = gradient_of(trainable, self.frozen, self.task, step)
        # A renderer may hide what is not finite in its images from the gradient.
        return metrics, (metrics["residual"], metrics.get("rewards")), gradient


def _cost(task: Task) -> Budget:
    """What a step costs: pictures may be images more wherever the model is asked."""
    score = task.score
    batch = score.conditioning.input_ids.shape[0]
    guided = score.guidance_scale is not None
    asked = batch * (2 if guided else 1)
    if score.pictures is not None:
        asked = score.pictures.num_evaluations(batch, guided)
    queries = 0 if task.reward is None else batch
    noises = score.method.noises
    return Budget(
        images=batch,
        reward_queries=queries + (0 if noises is None else batch * noises.num_noises),
        unet_forwards=asked * score.method.num_evaluations,
    )
