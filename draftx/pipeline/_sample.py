import dataclasses
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array, Bool, PRNGKeyArray

from .._checks import check_is
from .._compilation import compiled
from .._custom_types import Images
from .._mesh import by_batch, data_mesh, mesh_of, to_mesh, whole
from .._table import Rows, Table
from ..diffusion import run_frozen
from ._batch import Batch
from ._finite import finite_rows, not_finite
from ._pipeline import Pipeline
from ._prepare import prepare
from ._sampling import Sampling
from ._shard import spread
from ._texts import encode_texts


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
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    return sample_rows(pipeline, prompts, sampling, key=key, latents=latents)


def sample_rows(
    pipeline: Pipeline,
    prompts: Rows,
    sampling: Sampling,
    *,
    key: PRNGKeyArray | None,
    latents: Any = None,
    on_all: bool = False,
) -> Images:
    """Draws one image for each prompt, of arguments that are what they should be.

    **Arguments:**

    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `sample`.
    - `on_all`: As for `draw`.
    """
    table = Table.of(prompts)
    batch = prepare(pipeline, table, sampling, key=key, latents=latents)
    pipeline, conditioning = encode_texts(pipeline, batch.conditioning)
    batch = dataclasses.replace(batch, conditioning=conditioning)
    images, wrong = draw(pipeline, batch, on_all=on_all)
    if wrong is not None:
        raise ValueError(wrong)
    return images


def draw(
    pipeline: Pipeline, batch: Batch, *, on_all: bool = False
) -> tuple[Images, str | None]:
    """Draws a batch, and gives its images even if they are not finite.

    For who would lose more by an error, as in the middle of a training.

    **Arguments:**

    - `pipeline`, `batch`: What draws, and what is to be drawn.
    - `on_all`: Whether a pipeline that is not on a mesh draws on all devices of this
        host, if they divide the batch.

    **Returns:**

    The images, and what is wrong with them; `None` if all are finite.
    """
    placed = mesh_of(pipeline)
    batch, mesh = spread(batch, placed)
    if on_all and placed is None:
        local = data_mesh(local=True)
        # One device needs no program other than that of a user.
        if local.size > 1 and len(batch.latents) % local.size == 0:
            latents = to_mesh(batch.latents, by_batch(local))
            batch = dataclasses.replace(batch, latents=latents)
    images, finite = _sample(pipeline, batch, mesh)
    if placed is not None:
        # Those of other hosts too.
        finite, images = whole(finite), whole(images)
    return images, not_finite(pipeline, finite)


@compiled()
def _sample(
    pipeline: Pipeline, batch: Batch, mesh: Mesh | None
) -> tuple[Images, Bool[Array, "2 batch"]]:
    chain = pipeline.chain(batch.plan, batch.conditioning, key=batch.key, mesh=mesh)
    state = run_frozen(chain, chain.begin(batch.latents), 0, len(chain))
    images = pipeline.decode(state.latents)
    return images, finite_rows(state.latents, images)
