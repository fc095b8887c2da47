"""Inputs of the sampler that can be trained instead of chosen."""

from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_is, positive
from .._custom_types import Real, RealLike, TextEmbeddings
from ..kernels import at_least_float32
from ._sampling import Sampling


class LearnedInputs(eqx.Module):
    r"""Learns guidance weights for each step, and a negative embedding of each prompt.

    $$e_\varnothing(c) = e_\varnothing + W e(c) + b$$

    token by token, with $W$ and $b$ zero at first. Either part may be `None`. They
    take the place of `guidance_scale`, and are added to the embedding of the negative
    prompts, wherever guidance is on (`guidance_scale` is above 1).

    **Arguments:**

    - `guidance_scales`: One weight for each step, noisiest first.
    - `negative_weight`, `negative_bias`: $W$ and $b$.
    - `guidance_rate`: Learning rate of the guidance weights, in units of that of the
        rest.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.11. How the negative
        embedding depends on the prompt is a choice of this package.
    """

    guidance_scales: Float[Array, " steps"] | None
    negative_weight: Float[Array, "features features"] | None
    negative_bias: Float[Array, " features"] | None
    guidance_rate: Real = eqx.field(static=True, default=50.0)

    def guidance(self, num_inference_steps: int) -> Float[Array, " steps"] | None:
        """Interpolates the weights to a chain of `num_inference_steps`, if need be."""
        scales = self.guidance_scales
        if scales is None or scales.shape[0] == num_inference_steps:
            return scales
        known = jnp.linspace(0, 1, scales.shape[0])
        return jnp.interp(jnp.linspace(0, 1, num_inference_steps), known, scales)

    def negative(
        self, negative: TextEmbeddings, embeddings: TextEmbeddings
    ) -> TextEmbeddings:
        """Computes what guidance leads away from, given what it leads to.

        **Arguments:**

        - `negative`: Embeddings of the negative prompts.
        - `embeddings`: Those of the prompts.
        """
        if self.negative_weight is None or self.negative_bias is None:
            return negative
        dtype = at_least_float32(embeddings.dtype)
        moved = jnp.einsum(
            "btf,gf->btg", embeddings.astype(dtype), self.negative_weight.astype(dtype)
        )
        moved = moved + self.negative_bias.astype(dtype)[None, None]
        return (negative.astype(dtype) + moved).astype(negative.dtype)


_Pipeline = TypeVar("_Pipeline")


def add_learned_inputs(
    pipeline: _Pipeline,
    sampling: Sampling = Sampling(),
    *,
    guidance: bool = True,
    negative_embedding: bool = True,
    guidance_rate: RealLike = LearnedInputs.guidance_rate,
) -> _Pipeline:
    """Makes inputs of the sampler trainable, in place of any learned before.

    `draftx.finetune` and `draftx.reward_gradient` then train them besides the adapter,
    if there is one, with `method=draftx.DRaFT()`: every step must be differentiated.

    **Arguments:**

    - `pipeline`: With or without an adapter.
    - `sampling`: Whose `num_inference_steps` say how many guidance weights there are,
        one a step (chains of another length interpolate them), and whose
        `guidance_scale` all of them start from.
    - `guidance`: Whether to learn the guidance weights.
    - `negative_embedding`: Whether to learn the negative embedding.
    - `guidance_rate`: The learning rate of the guidance weights is that of the rest
        times this, and they are not decayed, with `draftx.adamw`.

    **Returns:**

    A pipeline that samples as before with these options.
    """
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_is("guidance", guidance, bool, "True")
    check_is("negative_embedding", negative_embedding, bool, "True")
    if not (guidance or negative_embedding):
        raise ValueError(
            "`guidance` or `negative_embedding` must be true; got neither: nothing "
            "would be learned."
        )
    if not sampling.is_guided:
        raise ValueError(
            "`sampling` must have a `guidance_scale` above 1: without guidance the "
            f"learned inputs have no effect; got {sampling.guidance_scale}."
        )
    guidance_rate = positive("guidance_rate", guidance_rate)
    features = pipeline.unet.config.cross_attention_dim  # pyright: ignore
    n, scale = sampling.num_inference_steps, sampling.guidance_scale
    learned = LearnedInputs(
        jnp.full(n, scale, jnp.float32) if guidance else None,
        jnp.zeros((features, features)) if negative_embedding else None,
        jnp.zeros(features) if negative_embedding else None,
        guidance_rate,
    )
    return eqx.tree_at(
        lambda p: p.learned, pipeline, learned, is_leaf=lambda node: node is None
    )


def remove_learned_inputs(pipeline: _Pipeline) -> _Pipeline:
    """Takes off what was learned: inputs are chosen again.

    **Arguments:**

    - `pipeline`: With or without learned inputs.
    """
    return eqx.tree_at(
        lambda p: p.learned, pipeline, None, is_leaf=lambda node: node is None
    )
