from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, PRNGKeyArray

from .._checks import check_is
from .._custom_types import Images
from .._table import Rows, Table
from ..diffusion import run_frozen
from ._batch import Batch
from ._finite import finite_rows, not_finite
from ._pipeline import Pipeline
from ._prepare import prepare
from ._sampling import Sampling


def sample(
    pipeline: Pipeline,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
) -> Images:
    r"""Draws one image for each prompt, `[batch, height, width, 3]`.

    **Arguments:**

    - `pipeline`: From `draftx.load`.
    - `prompts`: A non-empty list of strings, or a mapping of columns of equal length:
        `prompt`, `negative_prompt`, and what else the model is conditioned on.
    - `sampling`: How: the steps, guidance, the size of the images.
    - `key`: Draws the starting noise, and the noise of the steps if they add any.
        `None` is `jax.random.key(0)`.
    - `latents`: Unit-variance starting noise, `[batch, height, width, channels]`,
        instead of one drawn from `key`. Its size sets the size of the images.

    **Returns:**

    Images `[batch, height, width, 3]`, float32, in $[0, 1]$.

    Raises a `ValueError` that names the argument for anything out of range, and one
    that names the rows of images that are not finite, as where float16 overflows.
    """
    images, wrong = sample_anyway(pipeline, prompts, sampling, key=key, latents=latents)
    if wrong is not None:
        raise ValueError(wrong)
    return images


def sample_anyway(
    pipeline: Pipeline,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
) -> tuple[Images, str | None]:
    """Does as `sample`, but gives images even if they are not finite.

    For who would lose more by an error, as in the middle of a training.

    **Arguments:**

    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `sample`.

    **Returns:**

    The images, and what is wrong with them; `None` if all are finite.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    table = Table.of(prompts)
    images, finite = _sample(
        pipeline, prepare(pipeline, table, sampling, key=key, latents=latents)
    )
    return images, not_finite(pipeline, finite)


@eqx.filter_jit
def _sample(pipeline: Pipeline, batch: Batch) -> tuple[Images, Bool[Array, "2 batch"]]:
    chain = pipeline.chain(batch.plan, batch.conditioning, key=batch.key)
    state = run_frozen(chain, chain.begin(batch.latents), 0, len(chain))
    images = pipeline.decode(state.latents)
    return images, finite_rows(state.latents, images)
