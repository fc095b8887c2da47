import math
import re
from collections.abc import Sequence
from typing import Final, TypeVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._custom_types import Real
from ..layers import AbstractLinear
from ..models import iter_linears, map_linears
from ._tree import with_lora


_Tree = TypeVar("_Tree")

# Named groups of layers, as patterns of their published names.
TARGET_GROUPS: Final = {
    "self_attention": r"unet\..*\.attn1\.(to_q|to_k|to_v|to_out\.0)",
    "cross_attention": r"unet\..*\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "feed_forward": r"unet\..*\.ff\.net\.(0\.proj|2)",
    "projections": r"unet\..*\.attentions\.\d+\.(proj_in|proj_out)",
    "text_encoder": r"text_encoder\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}
# DRaFT, section 4: "cross-attention and feed-forward layers" of the UNet.
DEFAULT_TARGETS: Final = ("cross_attention", "feed_forward")


def add_lora(
    pipeline: _Tree,
    *,
    rank: int,
    alpha: Real | None = None,
    targets: Sequence[str] = DEFAULT_TARGETS,
    key: PRNGKeyArray,
) -> _Tree:
    r"""Puts a fresh low-rank adapter on linear layers of a pipeline.

    A fresh adapter changes nothing: $U = 0$, and $D$ is Gaussian with variance
    $1 / r$. Adapters already there on other layers are kept; on the same layers they
    are replaced.

    **Arguments:**

    - `pipeline`: Whose UNet (and text encoder, if targeted) is adapted.
    - `rank`: $r$, at least 1 and at most the smaller side of every targeted layer.
    - `alpha`: $\alpha$; the update is scaled by $\alpha / r$. `None` is $\alpha = r$.
    - `targets`: Names of `draftx.lora.TARGET_GROUPS`, or ends of published layer names
        such as `"to_q"` or `"attn2.to_k"`. The default is the paper's choice.
    - `key`: Draws $D$.

    **Returns:**

    The pipeline with float32 `lora_down` and `lora_up` on the targeted layers.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), section 4.1.
    """
    check_whole("rank", rank)
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"`alpha` must be finite and positive; got {alpha}.")
    if isinstance(targets, str) or len(targets) == 0:
        raise ValueError(
            f"`targets` must be a non-empty sequence of names; got {targets!r}."
        )
    names = [name for name, _ in iter_linears(pipeline)]
    chosen: set[str] = set()
    for target in targets:
        matched = {name for name in names if _matches(name, target)}
        if not matched:
            raise ValueError(
                f"`targets` must each match a linear layer; got {target!r}, which "
                f"matches none. Groups are {sorted(TARGET_GROUPS)}; otherwise give the "
                "end of a layer's name, such as 'attn2.to_k'."
            )
        chosen |= matched
    keys = dict(zip(sorted(chosen), jr.split(key, len(chosen)), strict=True))

    def adapt(name: str, layer: AbstractLinear) -> AbstractLinear:
        if name not in keys:
            return layer
        limit = min(layer.in_features, layer.out_features)
        if rank > limit:
            raise ValueError(
                f"`rank` must be at most {limit}, the smaller side of {name!r}; got "
                f"{rank}."
            )
        down = jr.normal(keys[name], (rank, layer.in_features)) / jnp.sqrt(rank)
        up = jnp.zeros((layer.out_features, rank))
        scale = None if alpha is None else jnp.asarray(alpha / rank, jnp.float32)
        return with_lora(layer, down, up, scale)

    return map_linears(adapt, pipeline)


def _matches(name: str, target: str) -> bool:
    if target in TARGET_GROUPS:
        return re.fullmatch(TARGET_GROUPS[target], name) is not None
    # No format of adapter files knows the autoencoder.
    return not name.startswith("vae.") and (
        name == target or name.endswith(f".{target}")
    )
