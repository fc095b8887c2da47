"""A picture that a score is conditioned on besides the text, by trained tokens."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_is, not_negative
from .._compilation import compiled
from .._custom_types import Images, RealLike
from ..diffusion import AbstractDenoiser, DDIMSteps, ImagePrompt
from ..layers import match_batch
from ..models import ImageTokens
from ..pipeline import Conditioning, Pipeline
from ._pictures import (
    AbstractPictures,
    AbstractVisualPrompt,
    check_count,
    read_pictures,
)


# Images [pictures, height, width, 3] in [0, 1] to [pictures, embedding].
Embed: TypeAlias = Callable[[Images], Float[Array, "pictures embedding"]]


class TokenPrompt(AbstractVisualPrompt):
    r"""Conditions the score on a picture by trained tokens: VP3D's visual prompt.

    The picture is given, or drawn before by `draftx.sample`. Its embedding becomes a
    few tokens, which every layer that attends to the text attends to as well, by keys
    and values of their own. Of the picture the model is told what an embedding tells,
    and so neither where nor how large anything is;
    [`draftx.distillation.VisualPrompt`][] shows it the whole picture.

    ??? cite

        [VP3D](https://arxiv.org/abs/2403.17001);
        [IP-Adapter](https://arxiv.org/abs/2308.06721) for the tokens.
    """

    tokens: ImageTokens
    embeddings: Float[Array, "pictures embedding"]
    scale: Float[Array, ""]
    in_negative: bool = eqx.field(static=True)

    def __init__(
        self,
        pictures: Any,
        tokens: ImageTokens,
        embed: Embed,
        *,
        scale: RealLike = 1.0,
        in_negative: bool = False,
    ):
        r"""**Arguments:**

        - `pictures`: In $[0, 1]$, of whatever size `embed` takes: one, or several, as
            many images of a step to each, one after the other.
        - `tokens`: From [`draftx.distillation.fit_image_tokens`][], or
            `draftx.io.load_image_tokens`.
        - `embed`: What they were trained with: embeds images `[pictures, height, width,
            3]` in $[0, 1]$ as `[pictures, embedding]`.
        - `scale`: How much the picture weighs; 0 is the text alone.
        - `in_negative`: As for [`draftx.distillation.VisualPrompt`][].

        Raises a `ValueError` that names the argument for anything else.
        """
        values = read_pictures(pictures)
        check_is("tokens", tokens, ImageTokens, "fit_image_tokens(...).tokens")
        check_is("in_negative", in_negative, bool, "True")
        self.scale = jnp.asarray(not_negative("scale", scale), jnp.float32)
        self.tokens = tokens
        self.embeddings = embed_pictures(embed, jnp.asarray(values))
        self.in_negative = in_negative
        features = tokens.embedding_features
        if self.embeddings.shape[1] != features:
            raise ValueError(
                f"`embed` must give the {features} features that `tokens` were trained "
                f"on; got {self.embeddings.shape[1]}."
            )

    def __len__(self) -> int:
        """The number of pictures."""
        return self.embeddings.shape[0]

    def bind(
        self, pipeline: Pipeline, image_shape: tuple[int, ...]
    ) -> AbstractPictures:
        batch = image_shape[0]
        check_count(len(self), batch)
        self.tokens.check(pipeline.unet.config)
        embeddings = match_batch(self.embeddings, batch)
        prompt = ImagePrompt(self.tokens, embeddings, self.scale, self.in_negative)
        return TokenPictures(prompt)


class TokenPictures(AbstractPictures):
    """Holds pictures whose tokens images attend to.

    **Arguments:**

    - `prompt`: One picture for each image.
    """

    prompt: ImagePrompt

    def denoiser(
        self,
        pipeline: Pipeline,
        conditioning: Conditioning,
        guidance_scale: Float[Array, ""] | None,
        steps: DDIMSteps,
        key: PRNGKeyArray,
    ) -> AbstractDenoiser:
        del key
        args = (steps.timestep, conditioning, guidance_scale)
        return pipeline.denoiser(*args, image_prompt=self.prompt)

    def num_evaluations(self, batch: int, is_guided: bool) -> int:
        return 2 * batch if is_guided else batch


def embed_pictures(
    embed: Embed, pictures: Images
) -> Float[Array, "pictures embedding"]:
    """Embeds pictures, in float32, or raises a `ValueError` that names `embed`.

    **Arguments:**

    - `embed`: A user's.
    - `pictures`: In $[0, 1]$.
    """
    if not callable(embed):
        raise ValueError(
            "`embed` must be a function of images, such as `lambda x: "
            f"clip.model.image_features(clip.preprocess(x))`; got {embed!r}."
        )
    found = _embed(embed, pictures)
    shape: tuple[int, ...] = getattr(found, "shape", ())
    is_float = eqx.is_inexact_array(found) and not jnp.iscomplexobj(found)
    if not is_float or len(shape) != 2 or shape[0] != len(pictures) or shape[1] == 0:
        is_array = eqx.is_array(found)
        got = f"{shape} {found.dtype}" if is_array else type(found).__name__
        raise ValueError(
            "`embed` must give floats of shape (pictures, embedding), one row for each "
            f"of {len(pictures)} pictures; got {got}."
        )
    if not bool(jnp.all(jnp.isfinite(found))):
        raise ValueError("`embed` must give finite numbers; some are not.")
    return found.astype(jnp.float32)


@compiled()
def _embed(embed: Embed, pictures: Images) -> Any:
    return embed(pictures)
