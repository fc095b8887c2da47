import dataclasses
import math
from collections.abc import Callable
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PRNGKeyArray

from .._checks import check_is, check_whole
from .._compilation import compiled
from .._custom_types import Images, WholeLike
from .._mesh import by_batch, data_mesh, everywhere, mesh_of, to_mesh, whole
from .._planned_memory import warn_if_too_much
from .._table import Rows, Table
from ..diffusion import Part, run_frozen
from ._batch import Batch, take_rows
from ._decoding import decoding
from ._finite import finite_rows, not_finite
from ._pipeline import Pipeline
from ._prepare import prepare
from ._sampling import Sampling
from ._shard import spread
from ._texts import encode_texts


# One image of 512x512; for fewer, looking at the plan takes longer than it may save.
_MANY_PIXELS: Final = 2**18
_REMEDY: Final = (
    "Draw fewer at once (`images_at_once` of `draftx.sample`, `batch_size` of an "
    "evaluation), smaller ones (`height`, `width`), or load the model in bfloat16 "
    "(`dtype`)."
)


def sample(
    pipeline: Pipeline,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    images_at_once: WholeLike | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Images:
    r"""Draws one image for each prompt, `[batch, height, width, 3]`.

    **Arguments:**

    - `pipeline`: From `draftx.load`.
    - `prompts`: A non-empty list of strings, or a mapping of columns of equal length:
        `prompt`, `negative_prompt`, and what else the model is conditioned on:
        `conditioning_image` for one that sees an image
        (`draftx.add_conditioning_image`), or `conditioning`, what the UNet sees beside
        the latents as it is, at their resolution.
    - `sampling`: How: the steps, guidance, the size of the images.
    - `key`: Draws the starting noise, and the noise of the steps if they add any.
        `None` is `jax.random.key(0)`.
    - `latents`: Unit-variance starting noise, `[batch, height, width, channels]`,
        instead of one drawn from `key`. Its size sets the size of the images.
    - `images_at_once`: Draws so many at a time, which bounds the memory; the images
        are the same. `None` is all at once.
    - `tell`: Called before the first images and after every few, with how many are
        drawn and how many there will be.

    **Returns:**

    Images `[batch, height, width, 3]`, float32, in $[0, 1]$.

    Raises a `ValueError` that names the argument for anything out of range, and one
    that names the rows of images that are not finite, as where float16 overflows.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    if images_at_once is not None:
        images_at_once = check_whole("images_at_once", images_at_once)
    return sample_rows(
        pipeline,
        prompts,
        sampling,
        key=key,
        latents=latents,
        images_at_once=images_at_once,
        tell=tell,
    )


def sample_rows(
    pipeline: Pipeline,
    prompts: Rows,
    sampling: Sampling,
    *,
    key: PRNGKeyArray | None,
    latents: Any = None,
    images_at_once: int | None = None,
    tell: Callable[[int, int], None] | None = None,
    on_all: bool = False,
) -> Images:
    """Draws one image for each prompt, of arguments that are what they should be.

    **Arguments:**

    - `pipeline`, `prompts`, `sampling`, `key`, `latents`, `images_at_once`, `tell`: As
        for `sample`.
    - `on_all`: As for `draw`.
    """
    table, tell = Table.of(prompts), tell or _ignore
    batch = prepare(pipeline, table, sampling, key=key, latents=latents)
    pipeline, conditioning = encode_texts(pipeline, batch.conditioning)
    batch = dataclasses.replace(batch, conditioning=conditioning)
    total = len(table)
    size = min(images_at_once or total, total)
    drawn, found = [], []
    tell(0, total)
    for start in range(0, total, size):
        # The last images are filled up: one program for all.
        rows = np.arange(start, start + size) % total
        part = None if size == total else Part(jnp.asarray(rows), total)
        images, finite = _draw(pipeline, _take(batch, part), part, on_all)
        drawn.append(images)
        found.append(finite)
        done = min(start + size, total)
        wrong = not_finite(pipeline, jnp.concatenate(found, axis=1)[:, :done])
        if wrong is not None:
            raise ValueError(wrong)
        tell(done, total)
    return drawn[0] if size == total else jnp.concatenate(drawn)[:total]


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
    images, finite = _draw(pipeline, batch, None, on_all)
    return images, not_finite(pipeline, finite)


def _draw(
    pipeline: Pipeline, batch: Batch, part: Part | None, on_all: bool
) -> tuple[Images, Bool[Array, "2 batch"]]:
    """The images of a batch, which may be a part of another, and which are finite."""
    placed = mesh_of(pipeline)
    batch, mesh = spread(batch, placed)
    if placed is not None:
        part = to_mesh(part, everywhere(placed))
    if on_all and placed is None:
        local = data_mesh(local=True)
        # One device needs no program other than that of a user.
        if local.size > 1 and len(batch.latents) % local.size == 0:
            latents = to_mesh(batch.latents, by_batch(local))
            batch = dataclasses.replace(batch, latents=latents)
    args = (pipeline, batch, mesh, part)
    pixels = math.prod(batch.latents.shape[:3])
    pixels *= pipeline.vae.config.downsampling_factor**2
    if pixels >= _MANY_PIXELS:
        warn_if_too_much(_sample.plan(*args), "Drawing these images", _REMEDY)
    images, finite = _sample(*args)
    if placed is not None:
        # Those of other hosts too.
        finite, images = whole(finite), whole(images)
    return images, finite


def _take(batch: Batch, part: Part | None) -> Batch:
    if part is None:
        return batch
    conditioning = batch.conditioning.take(part.rows)
    latents = take_rows(batch.latents, part.rows)
    return dataclasses.replace(batch, conditioning=conditioning, latents=latents)


def _ignore(done: int, total: int) -> None:
    del done, total


@compiled()
def _sample(
    pipeline: Pipeline, batch: Batch, mesh: Mesh | None, part: Part | None
) -> tuple[Images, Bool[Array, "2 batch"]]:
    chain = pipeline.chain(batch.plan, batch.conditioning, key=batch.key, mesh=mesh)
    chain = dataclasses.replace(chain, part=part)
    state = run_frozen(chain, chain.begin(batch.latents), 0, len(chain))
    images = decoding(pipeline.decode, mesh)(state.latents)
    return images, finite_rows(state.latents, images)
