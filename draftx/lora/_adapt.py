import math
from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._checks import check_whole, positive
from .._custom_types import RealLike, WholeLike
from .._keys import check_key
from ..layers import AbstractAffine
from ..models import iter_layers, map_layers
from ._targets import DEFAULT_TARGETS, find_targets
from ._tree import with_lora


_Tree = TypeVar("_Tree")


def add_lora(
    pipeline: _Tree,
    *,
    rank: WholeLike,
    alpha: RealLike | None = None,
    targets: Sequence[str] | str = DEFAULT_TARGETS,
    key: PRNGKeyArray,
) -> _Tree:
    r"""Puts a fresh low-rank adapter on linear layers and convolutions of a pipeline.

    A fresh adapter changes nothing: $U = 0$, and $D$ is Gaussian with variance
    $1 / r$. Adapters already there on other layers are kept; on the same layers they
    are replaced.

    **Arguments:**

    - `pipeline`: Whose UNet (and text encoder, if targeted) is adapted.
    - `rank`: $r$, at least 1 and at most the smaller side of every targeted layer; one
        side of a convolution is its window times its input channels.
    - `alpha`: $\alpha$; the update is scaled by $\alpha / r$. `None` is $\alpha = r$.
    - `targets`: As PEFT's `target_modules`: ends of published layer names such as
        `"to_q"`, `"attn2.to_k"` or `"conv1"`, each of which must match, or one string,
        a regular expression of whole names with or without the `unet.` in front. A
        list may also have names of `draftx.lora.TARGET_GROUPS`. PEFT's string
        `"all-linear"` is every linear layer of the UNet that files store as a matrix:
        without convolutions, 1x1 ones included, and without the text encoder, whose
        layers are the group `"text_encoder"`. The default is the
        paper's choice. The autoencoder is never adapted: no format of adapter files
        knows it.
    - `key`: Draws $D$.

    **Returns:**

    The pipeline with float32 `lora_down` and `lora_up` on the targeted layers.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), section 4.1.
    """
    rank = check_whole("rank", rank)
    alpha = None if alpha is None else positive("alpha", alpha)
    layers = dict(iter_layers(pipeline))
    linear = {name for name, layer in layers.items() if layer.layout == "plain"}
    chosen = find_targets(targets, [*layers], linear)
    keys = dict(zip(sorted(chosen), jr.split(check_key(key), len(chosen)), strict=True))

    def adapt(name: str, layer: AbstractAffine) -> AbstractAffine:
        if name not in keys:
            return layer
        limit = min(math.prod(shape) for shape in layer.factor_shapes(1))
        if rank > limit:
            raise ValueError(
                f"`rank` must be at most {limit}, the smaller side of {name!r}; got "
                f"{rank}."
            )
        down_shape, up_shape = layer.factor_shapes(rank)
        down = jr.normal(keys[name], down_shape) / jnp.sqrt(rank)
        scale = None if alpha is None else jnp.asarray(alpha / rank, jnp.float32)
        return with_lora(layer, down, jnp.zeros(up_shape), scale)

    return map_layers(adapt, pipeline)
