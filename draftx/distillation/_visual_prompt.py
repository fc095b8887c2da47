"""A picture that a score is conditioned on besides the text, without training."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_is
from .._custom_types import Images, Latents
from ..diffusion import AbstractDenoiser, DDIMSteps, Guided, Reference
from ..pipeline import Conditioning, Pipeline
from ._pictures import (
    AbstractPictures,
    AbstractVisualPrompt,
    check_count,
    encode,
    read_pictures,
)


class VisualPrompt(AbstractVisualPrompt):
    r"""Conditions the score on a picture besides the text: VP3D's visual prompt.

    The picture is given, or drawn before by `draftx.sample`. With reference attention
    it is noised to the time of the rendering, goes through the model beside it, and in
    every self-attention its keys and values are appended to the rendering's own: the
    model draws what is in the picture where it fits. This needs no training.

    !!! info

        VP3D conditions on the picture by a network that was trained to, an IP-Adapter:
        [`draftx.distillation.TokenPrompt`][] does. That consistency with the picture
        can be rewarded as well is for `reward`, as with
        `draftx.rewards.FeatureSimilarity(network, picture)`.

    ??? cite

        [VP3D](https://arxiv.org/abs/2403.17001); [draftx.diffusion.Reference][] for
        reference attention.
    """

    pictures: Images
    in_negative: bool = eqx.field(static=True)

    def __init__(self, pictures: Any, *, in_negative: bool = False):
        """**Arguments:**

        - `pictures`: Of the size of what is rendered, in $[0, 1]$: one, or several, as
            many images of a step to each, one after the other.
        - `in_negative`: Whether what guidance leads away from sees the picture as well:
            guidance then strengthens the text alone. With `False` it strengthens both.

        Raises a `ValueError` that names the argument for anything else.
        """
        self.pictures = jnp.asarray(read_pictures(pictures))
        check_is("in_negative", in_negative, bool, "True")
        self.in_negative = in_negative

    def __len__(self) -> int:
        """The number of pictures."""
        return self.pictures.shape[0]

    def bind(
        self, pipeline: Pipeline, image_shape: tuple[int, ...]
    ) -> AbstractPictures:
        batch = image_shape[0]
        if self.pictures.shape[1:] != image_shape[1:]:
            raise ValueError(
                "`pictures` must have the size of what is rendered, "
                f"{image_shape[1]}x{image_shape[2]}; got "
                f"{self.pictures.shape[1]}x{self.pictures.shape[2]}."
            )
        check_count(len(self), batch)
        rows = jnp.arange(0, batch, batch // len(self))
        return ReferencePictures(
            encode(pipeline, self.pictures), rows, self.in_negative
        )


class ReferencePictures(AbstractPictures):
    """Holds pictures that images attend to, noised as they are.

    **Arguments:**

    - `latents`: Of the pictures, clean.
    - `rows`: The images whose texts are the pictures' too.
    - `in_negative`: As for `VisualPrompt`.
    """

    latents: Latents
    rows: Int[Array, " pictures"]
    in_negative: bool = eqx.field(static=True)

    def denoiser(
        self,
        pipeline: Pipeline,
        conditioning: Conditioning,
        guidance_scale: Float[Array, ""] | None,
        steps: DDIMSteps,
        key: PRNGKeyArray,
    ) -> AbstractDenoiser:
        make, times = pipeline.denoiser, steps.timestep
        noise = jr.normal(key, self.latents.shape, self.latents.dtype)
        levels = jnp.sqrt(steps.alpha), jnp.sqrt(1 - steps.alpha)
        reference = Reference(self.latents, noise, *levels)
        batch = conditioning.input_ids.shape[0]
        beside = conditioning.take(jnp.concatenate([jnp.arange(batch), self.rows]))
        positive = make(times, _positive(beside), None, reference=reference)
        if guidance_scale is None:
            return positive
        if self.in_negative:
            negative = make(times, _negative(beside), None, reference=reference)
        else:
            negative = make(times, _negative(conditioning), None)
        return Guided(positive, negative, guidance_scale)

    def num_evaluations(self, batch: int, is_guided: bool) -> int:
        branches = 2 if is_guided else 1
        seeing = branches if self.in_negative else 1
        return branches * batch + seeing * len(self.rows)


def _positive(conditioning: Conditioning) -> Conditioning:
    """The prompts alone, without guidance."""
    return dataclasses.replace(
        conditioning, negative_input_ids=None, negative_embeddings=None
    )


def _negative(conditioning: Conditioning) -> Conditioning:
    """The negative prompts alone, in place of the prompts."""
    rows = conditioning.input_ids.shape[0]
    of_all = lambda x: jnp.broadcast_to(x, (rows, *x.shape[1:]))
    return Conditioning(
        of_all(conditioning.negative_input_ids),
        channels=conditioning.channels,
        embeddings=jax.tree.map(of_all, conditioning.negative_embeddings),
    )
