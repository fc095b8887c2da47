import time
from collections.abc import Sequence
from typing import Any, Final

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from .._custom_types import Prompts, Real
from .._table import check_prompts
from ..finetuning import count, Reward
from ..pipeline import Pipeline
from ._result import SearchResult
from ._setup import draw, make_task


# DRaFT, appendix A.3.
TEMPLATE: Final = (
    "A stunning beautiful oil painting of a {:}, cinematic lighting, golden hour light"
)


def prompt_engineering(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    templates: Sequence[str] = (TEMPLATE,),
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    eta: Real = 0.0,
) -> SearchResult:
    """Puts each prompt into a phrase that is known to give good pictures.

    **Arguments:**

    - `prompts`: Such as "fox": what stands for the braces.
    - `templates`: Each with a `{}`. Of several, the one with the largest mean reward
        over all prompts is kept. The default is the paper's.
    - The others are those of `draftx.sample`, and the same for every template.

    **Returns:**

    The images of the best template. A row of the `history` is a template. The reward is
    told the prompts as they were, not the phrases.
    """
    if isinstance(templates, str) or len(templates) == 0:
        raise ValueError(
            f"`templates` must be a non-empty sequence of phrases; got {templates!r}."
        )
    check_prompts(prompts)
    phrases = [[_fill(template, p) for p in prompts] for template in templates]
    start = time.perf_counter()
    task = make_task(
        pipeline,
        reward,
        phrases[0],
        key=key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
        judged_prompts=prompts,
    )
    results = []
    for texts in phrases:
        task = eqx.tree_at(lambda t: t.input_ids, task, pipeline.tokenize(texts))
        results.append(draw(task))
    history = np.stack([np.asarray(rewards) for _, _, rewards in results])
    images, clean, rewards = results[int(np.argmax(history.mean(axis=1)))]
    n = len(phrases)
    budget = count(
        len(prompts),
        guided=task.negative_ids is not None,
        forwards=n * num_inference_steps,
        images=n,
        queries=n,
        seconds=time.perf_counter() - start,
    )
    return SearchResult(images, rewards, task.latents, clean, history, budget)


def _fill(template: str, prompt: str) -> str:
    marker = "\0"
    try:
        filled = template.format(marker)
    except (IndexError, KeyError, ValueError):
        filled = ""
    if marker not in filled:
        raise ValueError(
            "`templates` must each have one '{}' where the prompt goes; got "
            f"{template!r}."
        )
    return filled.replace(marker, prompt)
