import time
from collections.abc import Sequence
from typing import Any, Final

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from .._table import Rows, Table
from ..episodes import count
from ..pipeline import Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, draw


# DRaFT, appendix A.3.
TEMPLATE: Final = (
    "A stunning beautiful oil painting of a {:}, cinematic lighting, golden hour light"
)


def prompt_engineering(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    templates: Sequence[str] = (TEMPLATE,),
    key: PRNGKeyArray | None = None,
    latents: Any = None,
) -> SearchResult:
    """Puts each prompt into a phrase that is known to give good images.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `prompts`: Such as "fox": what stands for the braces.
    - `templates`: Each with a `{}`. Of several, the one with the largest mean reward
        over all prompts is kept. The default is the paper's.
    - `pipeline`, `sampling`, `key`, `latents`: As for `draftx.sample`, and the same for
        every template.

    **Returns:**

    The images of the best template. A row of the `history` is a template. The reward is
    told the prompts as they were, not the phrases.
    """
    if isinstance(templates, str) or len(templates) == 0:
        raise ValueError(
            f"`templates` must be a non-empty sequence of phrases; got {templates!r}."
        )
    table = Table.of(prompts)
    phrases = [
        table.with_prompts([_fill(template, prompt) for prompt in table.prompts])
        for template in templates
    ]
    start = time.perf_counter()
    question = ask(
        pipeline,
        reward,
        phrases[0],
        sampling,
        key=key,
        latents=latents,
        judged=table,
    )
    results = []
    for phrased in phrases:
        question = eqx.tree_at(
            lambda q: q.batch.conditioning.input_ids,
            question,
            pipeline.tokenize(phrased.prompts),
        )
        results.append(draw(question))
    history = np.stack([np.asarray(rewards) for _, _, rewards in results])
    images, clean, rewards = results[int(np.argmax(history.mean(axis=1)))]
    n = len(phrases)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=n * sampling.num_inference_steps,
        images=n,
        queries=n,
        seconds=time.perf_counter() - start,
    )
    return SearchResult(images, rewards, question.batch.latents, clean, history, budget)


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
