import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images, Latents
from .._table import Rows, Table
from ..episodes import count
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..pipeline import encode_texts, Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, draw, facts, no_images
from ._steps import Naming, take_steps


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
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    """Puts each prompt into a phrase that is known to give good images.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `prompts`: Such as "fox": what stands for the braces.
    - `templates`: Each with a `{}`. Of several, the one with the largest mean reward
        over all prompts is kept. The default is the paper's.
    - `pipeline`, `sampling`, `key`, `latents`: As for `draftx.sample`, and the same for
        every template.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again; a template is a step. `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The images of the best template, of those until then if the search was `stopped`. A
    row of the `history` is a template. A mean that is not a number is never the
    largest, unless there is no other. The reward is told the prompts as they were, not
    the phrases.
    """
    check_checkpoints(checkpoints)
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

    def take_step(best: _Best, i: int):
        told = dataclasses.replace(
            question.batch.conditioning,
            input_ids=pipeline.tokenize(phrases[i].prompts),
        )
        _, told = encode_texts(pipeline, told)
        asked = eqx.tree_at(lambda q: q.batch.conditioning, question, told)
        images, clean, rewards = draw(asked)
        mean = np.asarray(rewards).mean()
        if mean > best.mean or np.isnan(best.mean):
            best = _Best(images, clean, rewards, mean)
        return best, rewards

    taken = take_steps(
        take_step,
        _Best(*no_images(pipeline, question), np.asarray(np.nan, np.float32)),
        len(phrases),
        Naming("prompt_engineering", "len(templates)"),
        checkpoints=checkpoints,
        facts=facts(
            "prompt_engineering",
            pipeline,
            question,
            table,
            dict(sampling=sampling, templates=templates),
        ),
        progress=progress,
        start=start,
    )
    best, done = taken.state, len(taken.history)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=done * sampling.num_inference_steps,
        images=done,
        queries=done,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    return SearchResult(
        best.images,
        best.rewards,
        question.batch.latents,
        best.clean,
        np.stack(taken.history),
        budget,
        taken.stopped,
    )


class _Best(NamedTuple):
    """Holds the images of the best template until now."""

    images: Images
    clean: Latents
    rewards: Float[Array, " batch"]
    mean: Any


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
