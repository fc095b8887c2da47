"""Images with, or without, what a text asks for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..._checks import check_is, finite
from ..._custom_types import Images, Real, RealLike
from ..._table import check_prompts, Rows, Table
from ...judges import Detections, OwlViTForObjectDetection
from ...layers import Remat
from ...models import CLIPTokenizer
from .._preprocess import stretch_preprocess
from ..contract import AbstractReward
from ..preference import check_tokenizer, text_embeddings


_CHOICES = {
    "kind": ("scores", "areas", "both"),
    "labels": ("all", "best"),
    "areas": ("weighted", "plain"),
}


class PromptQueries(NamedTuple):
    """Holds the queries of every prompt: as many places as the longest list has.

    **Fields:**

    - `embeddings`: Of unit length, in float32.
    - `is_query`: `False` for the places that are left over.
    """

    embeddings: Float[Array, "rows queries embedding"]
    is_query: Bool[Array, "rows queries"]


class DetectionReward(AbstractReward):
    r"""Scores what OWL-ViT finds of some queries, or their absence.

    By the scores of what it finds, their areas, or both.

    The detector gives each of its patches $b$ a box of width $w_b$ and height $h_b$, as
    fractions of the image, and each query $q$ a score $s_{bq} \in (0, 1)$ there. Of the
    scores above a threshold $t$,

    $$r_\mathrm{scores} = \sum_{s_{bq} > t} s_{bq} \qquad
      r_\mathrm{areas} = \sum_{s_{bq} > t} s_{bq} w_b h_b$$

    both at least 0, and at most the number of patches times that of queries (576 for
    each query). With `exclude` it is minus that.

    The paper has "the sum of scores for the localized objects corresponding to all
    queries, as well as the areas of their bounding boxes", and leaves open which boxes
    count, and how an area does. The defaults are the readings that have a gradient
    everywhere: every box counts, by its score. The others are options.

    Images are resized, bicubic and antialiased, to 768 pixels along both edges, as
    transformers does, and normalized by CLIP's mean and deviation.

    !!! info

        `draftx.rewards.load("owlvit", options={"queries": ["strawberries"]})` reads
        `model.safetensors` of `google/owlvit-base-patch32`. License: Apache 2.0.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), section 5.5 and appendix B.6;
        [OWL-ViT](https://arxiv.org/abs/2205.06230).
    """

    model: OwlViTForObjectDetection
    query_embeddings: Float[Array, "queries embedding"] | None
    tokenizer: CLIPTokenizer = eqx.field(static=True)
    prompt_queries: tuple[tuple[str, tuple[str, ...]], ...] | None = eqx.field(
        static=True
    )
    kind: str = eqx.field(static=True)
    exclude: bool = eqx.field(static=True)
    threshold: Real = eqx.field(static=True)
    labels: str = eqx.field(static=True)
    areas: str = eqx.field(static=True)
    area_weight: Real = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        model: OwlViTForObjectDetection,
        tokenizer: CLIPTokenizer,
        queries: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        *,
        kind: str = "scores",
        exclude: bool = False,
        threshold: RealLike = 0.0,
        labels: str = "all",
        areas: str = "weighted",
        area_weight: RealLike = 1.0,
        remat: Remat | str = Remat.BLOCK,
    ):
        r"""**Arguments:**

        - `model`: The detector.
        - `tokenizer`: Any of CLIP's; queries have as many tokens as `model` takes, 16.
        - `queries`: What to look for, such as `["strawberries"]`, in all images; or the
            queries of every prompt, by prompt; or `None`, by which a prompt is the
            query of its own images. They are embedded once: a list here, the others by
            `prepare`.
        - `kind`: `"scores"` is $r_\mathrm{scores}$, `"areas"` is $r_\mathrm{areas}$,
            and `"both"` is $r_\mathrm{scores}$ plus `area_weight` times
            $r_\mathrm{areas}$.
        - `exclude`: Whether what is found is to be avoided.
        - `threshold`: $t$. Detections are published with 0.1. Above 0, an image with no
            detection has no gradient: to bring objects into images, leave it at 0.
        - `labels`: With `"best"` every box counts for only the query that has the
            highest score there; with `"all"` for each query.
        - `areas`: With `"plain"` an area counts in full if its score is above the
            threshold, which must then be positive, and the gradient sees boxes only;
            with `"weighted"` it counts by its score, as above.
        - `area_weight`: For `kind="both"`.
        - `remat`: As in [`draftx.rewards.CLIPScore`][].
        """
        for name, value in (("kind", kind), ("labels", labels), ("areas", areas)):
            if value not in _CHOICES[name]:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, _CHOICES[name]))}; "
                    f"got {value!r}."
                )
        check_is("exclude", exclude, bool, "True")
        rule = "be at least 0 and less than 1"
        threshold = finite("threshold", threshold, rule, lambda x: 0 <= x < 1)
        area_weight = finite("area_weight", area_weight)
        if kind != "scores" and areas == "plain" and threshold == 0:
            raise ValueError(
                '`threshold` must be positive with `areas="plain"`: without one every '
                "box counts, whatever the queries; got 0. Detections are published "
                "with 0.1."
            )
        most = model.config.text.max_position_embeddings
        if tokenizer.max_length > most:
            tokenizer = tokenizer.with_max_length(most)
        check_tokenizer(tokenizer, model.owlvit)
        self.model = model
        self.tokenizer = tokenizer
        self.kind = kind
        self.exclude = exclude
        self.threshold = threshold
        self.labels = labels
        self.areas = areas
        self.area_weight = area_weight
        self.remat = Remat(remat)
        self.query_embeddings = None
        self.prompt_queries = None
        if isinstance(queries, Mapping):
            for some in queries.values():
                _check_queries(some)
            self.prompt_queries = tuple((p, tuple(q)) for p, q in queries.items())
        elif queries is not None:
            self.query_embeddings = self._embed(queries)

    def prepare(self, rows: Rows) -> PromptQueries | None:
        prompts = Table.of(rows).prompts
        if self.query_embeddings is not None:
            return None
        if self.prompt_queries is None:
            queries = [(prompt,) for prompt in prompts]
        else:
            known = dict(self.prompt_queries)
            unknown = [prompt for prompt in prompts if prompt not in known]
            if unknown:
                raise ValueError(
                    f"`queries` must have an entry for every prompt; {unknown[0]!r} "
                    "has none. A list in place of a mapping serves for all prompts."
                )
            queries = [known[prompt] for prompt in prompts]
        # Prompts share queries, and each is embedded once.
        words = list(dict.fromkeys(query for row in queries for query in row))
        place = {word: i for i, word in enumerate(words)}
        longest = max(len(row) for row in queries)
        indices = np.zeros((len(queries), longest), np.int32)
        is_query = np.zeros((len(queries), longest), bool)
        for i, row in enumerate(queries):
            indices[i, : len(row)] = [place[word] for word in row]
            is_query[i, : len(row)] = True
        return PromptQueries(self._embed(words)[indices], jnp.asarray(is_query))

    @jax.named_scope("draftx.rewards.DetectionReward")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        """Scores images by what is found in them, `[batch]`.

        **Arguments:**

        - `images`: Channels last, in $[0, 1]$.
        - `features`: The rows of `prepare` for these images; `None` if `queries` is a
            list.
        """
        pixels = stretch_preprocess(images, self.model.config.vision.image_size)
        queries, is_query = self._queries(features, images.shape[0])
        found = self.model(pixels, queries, remat=self.remat)
        total = self._total(found, is_query)
        return -total if self.exclude else total

    def detect(self, images: Images, features: Any = None) -> Detections:
        """Finds the queries in images, to look at.

        **Arguments:** those of `__call__`.

        **Arguments:**

        - `images`, `features`: As the reward is given them.
        """
        pixels = stretch_preprocess(images, self.model.config.vision.image_size)
        queries, _ = self._queries(features, images.shape[0])
        return self.model(pixels, queries, remat=self.remat)

    def _embed(self, queries: Sequence[str]) -> Float[Array, "queries embedding"]:
        _check_queries(queries)
        return text_embeddings(self.model.owlvit, self.tokenizer, queries)

    def _queries(
        self, features: Any, batch: int
    ) -> tuple[
        Float[Array, "rows queries embedding"], Bool[Array, "rows queries"] | None
    ]:
        """Embeddings, for all images or for each, and which of them count."""
        if self.query_embeddings is not None:
            return self.query_embeddings[None], None
        if not isinstance(features, PromptQueries):
            got = "None" if features is None else f"a {type(features).__name__}"
            raise ValueError(
                "`features` must be what `DetectionReward.prepare` gives, whose "
                f"queries depend on the prompt; got {got}. Call "
                "`reward(images, reward.prepare(rows))`, or give it a list of "
                "queries for all images."
            )
        if features.embeddings.shape[0] != batch:
            raise ValueError(
                f"`features` must have one row for each of the {batch} images; got "
                f"{features.embeddings.shape[0]}. `DetectionReward.prepare` gives one "
                "row for each prompt."
            )
        return features

    def _total(
        self, found: Detections, is_query: Bool[Array, "batch queries"] | None
    ) -> Float[Array, " batch"]:
        scores = jax.nn.sigmoid(found.logits)
        if is_query is not None:
            scores = jnp.where(is_query[:, None], scores, jnp.zeros_like(scores))
        if self.labels == "best":
            scores = jnp.max(scores, axis=-1, keepdims=True)
        is_kept = scores > self.threshold
        scores = jnp.where(is_kept, scores, jnp.zeros_like(scores))
        sum_of_scores = jnp.sum(scores, axis=(1, 2))
        if self.kind == "scores":
            return sum_of_scores
        weights = scores if self.areas == "weighted" else is_kept.astype(scores.dtype)
        area = found.boxes[..., 2] * found.boxes[..., 3]
        sum_of_areas = jnp.sum(weights * area[..., None], axis=(1, 2))
        if self.kind == "areas":
            return sum_of_areas
        return sum_of_scores + self.area_weight * sum_of_areas


def _check_queries(queries: Any) -> None:
    check_prompts(queries, "queries")
    if any(not query.strip() for query in queries):
        raise ValueError(
            f"`queries` must say what to look for; got {list(queries)!r}, one of which "
            "is empty."
        )
