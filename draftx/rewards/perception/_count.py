"""Images with as many things in them as are wanted."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._checks import check_is, not_negative
from ..._custom_types import Images, Real, RealLike
from ..._table import Rows, Table
from ..contract import AbstractReward
from ._network import Preprocess, preprocessed


_DISTANCES = ("absolute", "squared")


class CountReward(AbstractReward):
    r"""Scores images by how near a soft count of something in them is to a number.

    $$r(x) = -|n(x) - m| \quad \text{or} \quad r(x) = -(n(x) - m)^2$$

    at most 0. $n$ is any function that counts softly: it changes a little with the
    images, and may lie between whole numbers. $m$ is one number for all images, or that
    of each one's own row, a column of the prompts' table:

        counter = draftx.rewards.load("tiny-counter", options={"count": 3})
        by_row = draftx.rewards.load("tiny-counter")
        prompts = {"prompt": ["two foxes", "three cats"], "count": [2, 3]}
        scores = by_row(images, by_row.prepare(prompts))

    With the square, images far from the number are pulled most; without it, all are
    pulled alike.

    !!! info

        `draftx.rewards.load("tiny-counter")` counts the animals of the embedded model.
        [`draftx.rewards.DetectedCount`][] counts what a text asks for.

    ??? cite

        Object counting is among the rewards of [AlignProp](
        https://arxiv.org/abs/2310.03739), which leaves open how far from the number is
        scored, and how boxes are counted.
    """

    counter: Callable[..., Any]
    preprocess: Preprocess
    count: Real | None = eqx.field(static=True)
    column: str = eqx.field(static=True)
    distance: str = eqx.field(static=True)

    def __init__(
        self,
        counter: Any,
        count: RealLike | None = None,
        *,
        column: str = "count",
        distance: str = "absolute",
        preprocess: Preprocess = None,
    ):
        """**Arguments:**

        - `counter`: Preprocessed images to a number for each.
        - `count`: What is wanted of all images, at least 0; `None` for what `column`
            says of each.
        - `column`: Of the prompts' table, numbers of at least 0. It is not looked at if
            `count` is given.
        - `distance`: `"absolute"` or `"squared"`.
        - `preprocess`: Images in $[0, 1]$ to what the counter takes; `None` is nothing.
        """
        if not callable(counter):
            raise ValueError(
                "`counter` must be a function of images, such as an `ObjectCounter`; "
                f"got {counter!r}."
            )
        check_is("column", column, str, '"count"')
        self.counter = counter
        self.preprocess = preprocess
        self.count = check_count(count)
        self.column = column
        self.distance = check_distance(distance)

    def prepare(self, rows: Rows) -> Float[Array, " rows"] | None:
        if self.count is not None:
            return None
        return wanted_counts(rows, self.column, "CountReward")

    @jax.named_scope("draftx.rewards.CountReward")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        counts = self.counter(preprocessed(self.preprocess, images))
        if jnp.shape(counts) != images.shape[:1]:
            raise ValueError(
                "`counter` must give one number for each image, of shape "
                f"{images.shape[:1]}; got {jnp.shape(counts)}."
            )
        wanted = wanted_of_each(self.count, features, images, "CountReward")
        return nearness(counts, wanted, self.distance)


def check_count(count: RealLike | None) -> Real | None:
    """Makes a plain number of the argument `count`; raises if it is below 0."""
    if count is None:
        return None
    return not_negative("count", count)


def check_distance(distance: str) -> str:
    """Raises unless the argument `distance` is one that there is."""
    if distance not in _DISTANCES:
        raise ValueError(
            f"`distance` must be one of {', '.join(map(repr, _DISTANCES))}; got "
            f"{distance!r}."
        )
    return distance


def wanted_counts(rows: Rows, column: str, reward: str) -> Float[Array, " rows"]:
    """Reads the wanted number of every row off a column of the prompts' table.

    **Arguments:**

    - `rows`: As for `prepare`.
    - `column`: Its name.
    - `reward`: The name of the class, for error texts.
    """
    table = Table.of(rows)
    if column not in table:
        raise ValueError(
            f"`prompts` must have the column {column!r}, a number for each row, for "
            f"`{reward}` without `count`; got {table.names}. Give it with them: "
            f"{{'prompt': [...], {column!r}: [...]}}; or `count`, for all of them."
            f"{table.slip(column)}"
        )
    wanted = np.asarray(table[column], np.float32)
    bad = wanted[~(np.isfinite(wanted) & (wanted >= 0))]
    if wanted.ndim != 1 or bad.size:
        got = f"shape {wanted.shape}" if wanted.ndim != 1 else f"{bad.flat[0]:g}"
        raise ValueError(
            f"`prompts[{column!r}]` must be one number of at least 0 for each row, for "
            f"`{reward}`: how many there are to be; got {got}."
        )
    return jnp.asarray(wanted)


def wanted_of_each(
    count: Real | None, features: Any, images: Images, reward: str
) -> Float[Array, " #batch"]:
    """Finds the wanted number of each image, or the one for all.

    **Arguments:**

    - `count`: For all images, or `None`.
    - `features`: Those of `wanted_counts` for these images, if `count` is `None`.
    - `images`: Whose they are.
    - `reward`: The name of the class, for error texts.
    """
    if count is not None:
        return jnp.full((1,), count, jnp.float32)
    if getattr(features, "shape", None) != images.shape[:1]:
        got = getattr(features, "shape", type(features).__name__)
        raise ValueError(
            f"`features` must be what `{reward}.prepare` gives, the wanted number of "
            f"each of the {images.shape[0]} images; got {got}. Call "
            "`reward(images, reward.prepare(rows))`, or give it a `count` for all."
        )
    return features


def nearness(
    counts: Float[Array, " batch"], wanted: Float[Array, " #batch"], distance: str
) -> Float[Array, " batch"]:
    """Scores soft counts by minus their distance to what is wanted.

    **Arguments:**

    - `counts`: Of images.
    - `wanted`: Of each, or one for all.
    - `distance`: `"absolute"` or `"squared"`.
    """
    off = counts.astype(jnp.float32) - wanted
    return -jnp.square(off) if distance == "squared" else -jnp.abs(off)
