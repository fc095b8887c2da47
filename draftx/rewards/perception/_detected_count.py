"""Images with as many of what a text asks for as are wanted, by a detector's boxes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._checks import positive, within
from ..._custom_types import Images, Real, RealLike
from ..._table import Rows
from ...judges import OwlViTForObjectDetection
from ...layers import Remat
from ...models import CLIPTokenizer
from ..contract import AbstractReward
from ._count import (
    check_count,
    check_distance,
    nearness,
    wanted_counts,
    wanted_of_each,
)
from ._detection import DetectionReward, PromptQueries


# A box that is surely there leaves this much of one that is all in it.
_LEAST = 1e-6


class CountedQueries(NamedTuple):
    """Holds what is looked for in each image, and how many there are to be.

    **Fields:**

    - `queries`: Of each row, or `None` if they are those of all.
    - `wanted`: Of each row, or `None` if it is that of all.
    """

    queries: PromptQueries | None
    wanted: Float[Array, " rows"] | None


class DetectedCount(AbstractReward):
    r"""Scores images by how near the number of boxes of some queries is to a number.

    OWL-ViT gives each of its patches $b$ a box and a score $s_b$, the highest of the
    queries'. That the box is there is, softly,

    $$p_b = \sigma\left(\frac{\operatorname{logit} s_b - \operatorname{logit} t}{\tau}
      \right)$$

    for a threshold $t$, and several boxes of one thing are merged: with the boxes
    ordered by their scores, highest first, the soft count is

    $$n = \sum_b p_b \prod_{c < b} (1 - p_c\,o_{bc}), \qquad
      o_{bc} = \sigma\left(\frac{\mathrm{IoU}_{bc} - u}{v}\right)$$

    If each box were there by itself with probability $p_b$, and took away those below
    it that overlap it with probability $o_{bc}$, $n$ would be the expected number of
    those left over. For boxes that are all the same it is $1 - \prod_b (1 - p_b)$, for
    boxes apart their sum; with small $\tau$ and $v$ it is the count after the usual
    suppression of boxes that overlap by more than $u$, but for the chains in which a
    box that was taken away itself takes away others. It has a gradient in all scores
    and boxes; the order, in which two scores may swap, has none.

    The score is minus the distance of $n$ to the wanted number, as in
    [`draftx.rewards.CountReward`][]: at most 0.

    !!! info

        `options = {"queries": ["a strawberry"], "count": 3}` with
        `draftx.rewards.load("owlvit-count", options=options)` reads the weights of
        [`draftx.rewards.DetectionReward`][].

    ??? cite

        Object counting in [AlignProp](https://arxiv.org/abs/2310.03739), which leaves
        open how boxes are merged and counted. Suppression that fades scores is that of
        [Soft-NMS](https://arxiv.org/abs/1704.04503); all boxes at once, each by those
        of higher scores, that of [Matrix NMS](https://arxiv.org/abs/2003.10152).
    """

    detection: DetectionReward
    count: Real | None = eqx.field(static=True)
    column: str = eqx.field(static=True)
    distance: str = eqx.field(static=True)
    threshold: Real = eqx.field(static=True)
    temperature: Real = eqx.field(static=True)
    overlap: Real = eqx.field(static=True)
    overlap_temperature: Real = eqx.field(static=True)

    def __init__(
        self,
        model: OwlViTForObjectDetection,
        tokenizer: CLIPTokenizer,
        queries: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        count: RealLike | None = None,
        *,
        column: str = "count",
        distance: str = "absolute",
        threshold: RealLike = 0.1,
        temperature: RealLike = 0.25,
        overlap: RealLike = 0.5,
        overlap_temperature: RealLike = 0.05,
        remat: Remat | str = Remat.BLOCK,
    ):
        r"""**Arguments:**

        - `model`, `tokenizer`, `queries`, `remat`: As for
            [`draftx.rewards.DetectionReward`][]. A box is one thing, whichever of the
            queries it is.
        - `count`, `column`, `distance`: As for [`draftx.rewards.CountReward`][].
        - `threshold`: $t$, between 0 and 1. Detections are published with 0.1.
        - `temperature`: $\tau$, above 0. The smaller, the nearer is $n$ to a whole
            number, and the less do boxes far from the threshold feel.
        - `overlap`: $u$, between 0 and 1.
        - `overlap_temperature`: $v$, above 0.
        """
        self.detection = DetectionReward(model, tokenizer, queries, remat=remat)
        self.count = check_count(count)
        self.column = column
        self.distance = check_distance(distance)
        self.threshold = within("threshold", threshold, "(0, 1)")
        self.temperature = positive("temperature", temperature)
        self.overlap = within("overlap", overlap, "(0, 1)")
        self.overlap_temperature = positive("overlap_temperature", overlap_temperature)

    def prepare(self, rows: Rows) -> CountedQueries | None:
        wanted = None
        if self.count is None:
            wanted = wanted_counts(rows, self.column, "DetectedCount")
        queries = self.detection.prepare(rows)
        if wanted is None and queries is None:
            return None
        return CountedQueries(queries, wanted)

    @jax.named_scope("draftx.rewards.DetectedCount")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        wanted = features.wanted if isinstance(features, CountedQueries) else features
        wanted = wanted_of_each(self.count, wanted, images, "DetectedCount")
        return nearness(self.counts(images, features), wanted, self.distance)

    def counts(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        """Counts what is asked for in images, softly.

        **Arguments:**

        - `images`, `features`: As the reward is given them.
        """
        queries = features.queries if isinstance(features, CountedQueries) else features
        found = self.detection.detect(images, queries)
        logits = found.logits
        if queries is not None:
            missing = jnp.asarray(-jnp.inf, logits.dtype)
            logits = jnp.where(queries.is_query[:, None], logits, missing)
        logits = jnp.max(logits, axis=-1)
        threshold = jnp.log(self.threshold) - jnp.log1p(-self.threshold)
        presence = jax.nn.sigmoid((logits - threshold) / self.temperature)
        one = lambda presence, boxes: soft_count(
            presence, boxes, self.overlap, self.overlap_temperature
        )
        return jax.vmap(one)(presence, found.boxes)


def soft_count(
    presence: Float[Array, " boxes"],
    boxes: Float[Array, "boxes 4"],
    overlap: Real,
    temperature: Real,
) -> Float[Array, ""]:
    r"""Counts boxes, those that overlap as one: $n$ of `DetectedCount`.

    **Arguments:**

    - `presence`: $p$, in $[0, 1]$.
    - `boxes`: Center, width and height.
    - `overlap`, `temperature`: $u$ and $v$.
    """
    order = jnp.argsort(-jax.lax.stop_gradient(presence))
    presence, boxes = presence[order], boxes[order]
    overlaps = jax.nn.sigmoid((intersection_over_union(boxes) - overlap) / temperature)
    # Row b has what each column c takes away of it.
    is_above = jnp.tri(len(presence), k=-1, dtype=presence.dtype)
    taken = is_above * presence[None] * overlaps
    left = jnp.sum(jnp.log1p(-jnp.minimum(taken, 1 - _LEAST)), axis=1)
    return jnp.sum(presence * jnp.exp(left))


def intersection_over_union(
    boxes: Float[Array, "boxes 4"],
) -> Float[Array, "boxes boxes"]:
    """How much of what two boxes cover together is covered by both, in $[0, 1]$.

    **Arguments:**

    - `boxes`: Center, width and height.
    """
    low, high = (boxes[:, :2] + sign * boxes[:, 2:] / 2 for sign in (-1, 1))
    sides = jnp.minimum(high[:, None], high[None]) - jnp.maximum(
        low[:, None], low[None]
    )
    both = jnp.prod(jnp.maximum(sides, 0), axis=-1)
    area = boxes[:, 2] * boxes[:, 3]
    either = area[:, None] + area[None] - both
    # Two boxes of no area have nothing in common, and finite gradients.
    return both / jnp.where(either > 0, either, jnp.ones_like(either))
