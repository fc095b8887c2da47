"""Images that look like a reference of their own, a column of the table of prompts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import check_is
from ..._custom_types import Images
from ..._table import Rows, Table
from .._preprocess import check_images
from ..contract import AbstractReward
from ._distance import AbstractDistance, MeanSquaredError


# As many references as a network is given at once.
_CHUNK = 8


class ReferenceSimilarity(AbstractReward):
    r"""Scores each image by minus its distance to its own row's reference: at most 0.

    $$r(x_i) = -d(x_i, y_i)$$

    where [`draftx.rewards.LPIPSSimilarity`][] and
    [`draftx.rewards.FeatureSimilarity`][] have the same references for all images. The
    references are a column of the prompts' table, images of the size that is drawn:

        prompts = {"prompt": ["a cat", "a fox"], "reference": cat_and_fox}
        reward = draftx.rewards.ReferenceSimilarity(draftx.rewards.load_lpips("alex"))

    What a network makes of a reference is computed once, by `prepare`, and kept.

    Where there is no truth, as for a picture that was enlarged, an image can be put
    through what its reference went through before they are compared:

        ReferenceSimilarity(distance, column="small", degrade=Degradation(4, blur=1.0))
    """

    distance: AbstractDistance
    degrade: Callable[..., Any] | None
    column: str = eqx.field(static=True)

    def __init__(
        self,
        distance: Any = None,
        *,
        column: str = "reference",
        degrade: Any = None,
    ):
        self.distance = MeanSquaredError() if distance is None else distance
        check_is("distance", self.distance, AbstractDistance, "MeanSquaredError()")
        if degrade is not None and not callable(degrade):
            raise ValueError(
                "`degrade` must be None or a function of images, such as "
                f"`Degradation(4)`; got {degrade!r}."
            )
        self.degrade = degrade
        self.column = column

    __init__.__doc__ = """**Arguments:**

    - `distance`: [`draftx.rewards.LPIPS`][], [`draftx.rewards.FeatureDistance`][], or
        another [`draftx.rewards.AbstractDistance`][]. `None` is
        [`draftx.rewards.MeanSquaredError`][].
    - `column`: Has the references, `[rows, height, width, 3]`, floats in $[0, 1]$.
    - `degrade`: Makes of images what is compared, of the references' size, such as
        [`draftx.rewards.Degradation`][], which draws no noise here. `None` compares the
        images themselves.
    """

    def prepare(self, rows: Rows) -> Any:
        table = Table.of(rows)
        if self.column not in table:
            raise ValueError(
                f"`prompts` must have the column {self.column!r}, an image for each "
                f"row, for `ReferenceSimilarity`; got {table.names}. Give it with "
                f"them: {{'prompt': [...], {self.column!r}: images}}."
                f"{table.slip(self.column)}"
            )
        references = table[self.column]
        try:
            check_images(references)
        except ValueError as e:
            raise ValueError(
                f"`prompts[{self.column!r}]` must be images for `ReferenceSimilarity`: "
                f"{e}"
            ) from e
        wrong = [i for i, x in enumerate(references) if not np.isfinite(x).all()]
        if wrong:
            raise ValueError(
                f"`prompts[{self.column!r}]` must be finite for `ReferenceSimilarity`; "
                f"got rows with numbers that are not: {wrong[:5]}."
            )
        chunks = [
            _features(self.distance, jnp.asarray(references[i : i + _CHUNK]))
            for i in range(0, len(references), _CHUNK)
        ]
        features = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chunks)
        return _Prepared(features, references.shape[1:3])

    @jax.named_scope("draftx.rewards.ReferenceSimilarity")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        if features is None:
            raise ValueError(
                "`features` must be what `ReferenceSimilarity.prepare` gives, which "
                "compares images with their rows' references; got None. Call "
                "`reward(images, reward.prepare(rows))`."
            )
        if self.degrade is not None:
            images = self.degrade(images)
        check_images(images)
        count = jax.tree.leaves(features)[0].shape[0]
        if len(images) != count:
            raise ValueError(
                f"`prompts[{self.column!r}]` must have images, one for each row; "
                f"got {len(images)} images and {count} references."
            )
        if images.shape[1:3] != features.size:
            raise ValueError(
                f"`prompts[{self.column!r}]` must have images of the size that is "
                f"{'drawn' if self.degrade is None else 'degraded to'}, "
                f"{images.shape[1]}x{images.shape[2]}; got {features.size[0]}x"
                f"{features.size[1]}. Resize the references."
            )
        own = self.distance.features(images)
        return -self.distance.between(own, features.features)


class _Prepared(eqx.Module):
    """What is compared of the references, and of which size they were."""

    features: Any
    size: tuple[int, ...] = eqx.field(static=True)


@eqx.filter_jit
def _features(distance: AbstractDistance, images: Images) -> Any:
    return distance.features(images)
