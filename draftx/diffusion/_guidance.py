from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from .._autodiff import known_value
from .._custom_types import Latents, TextEmbeddings
from ..layers import Remat
from ..lora import premerge
from ..models import TextContext, TimeShifts, UNet2DConditionModel
from ._denoiser import AbstractDenoiser
from ._image_prompt import ImagePrompt
from ._reference import Reference


class Denoiser(AbstractDenoiser):
    r"""Holds a UNet with its conditioning, made ready for all the steps of a chain.

    With negative text embeddings, classifier-free guidance in one batched call:

    $$\hat\epsilon = \epsilon_\varnothing + w\,(\epsilon_c - \epsilon_\varnothing)$$

    What is the same at every step is computed once: the keys and values of the text,
    what the blocks are told of the time, and the weights with the adapter's update
    added. What is the same for an image and its unguided twin, all that comes before
    the first cross-attention, is computed once for both.

    ??? cite

        [Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598),
        equation 6.
    """

    unet: UNet2DConditionModel
    text_embeddings: TextEmbeddings
    text_context: list[TextContext]
    time_shifts: Float[Array, "steps all_blocks"]
    time_widths: tuple[int, ...] = eqx.field(static=True)
    time_structure: Any = eqx.field(static=True)
    guidance_scale: Float[Array, "*steps"] | None
    channels: Float[Array, "batch height width extra"] | None
    reference: Reference | None
    image_prompt: ImagePrompt | None
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        unet: UNet2DConditionModel,
        timesteps: Num[Array, " steps"],
        text_embeddings: TextEmbeddings,
        negative_text_embeddings: TextEmbeddings | None = None,
        guidance_scale: Float[Array, "*steps"] | None = None,
        *,
        channels: Float[Array, "batch height width extra"] | None = None,
        reference: Reference | None = None,
        image_prompt: ImagePrompt | None = None,
        remat: Remat = Remat.NONE,
    ):
        """**Arguments:**

        - `unet`: With or without an adapter.
        - `timesteps`: Those of the chain, noisiest first.
        - `text_embeddings`: Of the prompts.
        - `negative_text_embeddings`, `guidance_scale`: `None` for no guidance. The
            scale $w$ is one number, or one for each step.
        - `channels`: What the UNet sees beside the latents, after them, if any.
        - `reference`: Pictures that the images attend to. The last rows of the texts
            and of the channels are then theirs, and there is no guidance, which is for
            `Guided` to do.
        - `image_prompt`: Pictures whose tokens the images attend to beside the text,
            one for each image.
        - `remat`: What the backward pass of a call computes again.
        """
        if reference is not None and negative_text_embeddings is not None:
            raise ValueError(
                "`negative_text_embeddings` must be None beside a `reference`; got "
                "both. Guide by `draftx.diffusion.Guided`."
            )
        if negative_text_embeddings is not None and guidance_scale is not None:
            # The two halves alternate instead of standing one after the other: an
            # image and its twin then stay on one device when the batch is sharded.
            pairs = jnp.stack([negative_text_embeddings, text_embeddings], axis=1)
            text_embeddings = pairs.reshape(-1, *text_embeddings.shape[1:])
            if image_prompt is not None:
                image_prompt = image_prompt.in_pairs()
        else:
            guidance_scale = None
        self.unet = premerge(unet)
        self.text_embeddings = text_embeddings
        self.text_context = _context(self.unet, text_embeddings, image_prompt)
        # Side by side: a step takes one row of one array, not one for each block.
        shifts, structure = jax.tree.flatten(self.unet.time_shifts(timesteps))
        self.time_shifts = jnp.concatenate(shifts, axis=1)
        self.time_widths = tuple(shift.shape[1] for shift in shifts)
        self.time_structure = structure
        self.guidance_scale = guidance_scale
        self.channels = channels
        self.reference = reference
        self.image_prompt = image_prompt
        self.remat = remat

    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        # Their gradient, as large as they are, does not pass from step to step.
        args = (self.unet, self.text_embeddings, self.image_prompt)
        context = known_value(self.text_context, _context, *args)
        num_images, num_references = latents.shape[0], 0
        if self.reference is not None:
            num_references = len(self.reference)
            pictures = self.reference.at(index).astype(latents.dtype)
            latents = jnp.concatenate([latents, pictures])
        if self.channels is not None:
            channels = self.channels.astype(latents.dtype)
            latents = jnp.concatenate([latents, channels], axis=-1)
        shifts = self._shifts(index)
        prediction = self.unet.denoise(
            latents, shifts, context, remat=self.remat, num_references=num_references
        )
        prediction = prediction.astype(jnp.float32)
        if self.reference is not None:
            return prediction[:num_images]
        if self.guidance_scale is None:
            return prediction
        pairs = prediction.reshape(-1, 2, *prediction.shape[1:])
        negative, positive = pairs[:, 0], pairs[:, 1]
        scale = self.guidance_scale
        scale = scale if scale.ndim == 0 else scale[index]
        return negative + scale * (positive - negative)

    def _shifts(self, index: Int[Array, ""]) -> list[TimeShifts]:
        row = jax.lax.optimization_barrier(self.time_shifts[index][None])
        ends = np.cumsum(self.time_widths)[:-1].tolist()
        return jax.tree.unflatten(self.time_structure, jnp.split(row, ends, axis=1))


def _context(
    unet: UNet2DConditionModel,
    text_embeddings: TextEmbeddings,
    image_prompt: ImagePrompt | None,
) -> list[TextContext]:
    context = unet.text_context(text_embeddings)
    return context if image_prompt is None else image_prompt.beside(context)
