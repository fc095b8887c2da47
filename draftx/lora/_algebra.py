from collections.abc import Sequence
from typing import TypeVar

import jax.numpy as jnp

from .._checks import finite
from .._custom_types import RealLike
from ..layers import AbstractAffine
from ..models import iter_layers, map_layers
from ._interface import AbstractLoRA
from ._tree import has_lora, iter_lora, with_lora


_Tree = TypeVar("_Tree")


def scale_lora(pipeline: _Tree, scale: RealLike) -> _Tree:
    r"""Multiplies the adapter's update by a number: 0 is the base model, 1 the tuned.

    Scales between interpolate between the two models, scales above 1 extrapolate
    (DRaFT, section 5.5).

    **Arguments:**

    - `pipeline`: With an adapter.
    - `scale`: Any finite number.
    """
    _require_lora(pipeline)
    scale = finite("scale", scale)

    def one(_: str, layer: AbstractAffine) -> AbstractAffine:
        if not isinstance(layer, AbstractLoRA):
            return layer
        up = layer.lora_up * jnp.asarray(scale, layer.lora_up.dtype)
        return with_lora(layer, layer.lora_down, up, layer.lora_scale)

    return map_layers(one, pipeline)


def merge_lora(pipeline: _Tree) -> _Tree:
    r"""Adds the update to the weights, $W + \frac{\alpha}{r} U D$; drops the adapter.

    The sum is computed in float32 and rounded once to the dtype of the weight.

    **Arguments:**

    - `pipeline`: With an adapter; it stays as it is.
    """
    _require_lora(pipeline)

    return map_layers(
        lambda _, layer: layer.merged() if isinstance(layer, AbstractLoRA) else layer,
        pipeline,
    )


def mix_lora(pipelines: Sequence[_Tree], weights: Sequence[RealLike]) -> _Tree:
    r"""Mixes adapters into one whose update is the weighted sum of theirs.

    $$\Delta W = \sum_i w_i \frac{\alpha_i}{r_i} U_i D_i$$

    exactly, by putting the factors side by side: its rank is the sum of the ranks.

    **Arguments:**

    - `pipelines`: The same base model with different adapters; the base of the first
        is used. Ranks and targets may differ.
    - `weights`: One finite number for each.

    **Returns:**

    A pipeline with the mixed adapter.
    """
    if len(pipelines) == 0 or len(pipelines) != len(weights):
        raise ValueError(
            "`weights` must hold one number for each of `pipelines`, and there must be "
            f"at least one; got {len(weights)} weights for {len(pipelines)} pipelines."
        )
    for pipeline in pipelines:
        _require_lora(pipeline)
    weights = [finite("weights", weight) for weight in weights]
    factors: dict[str, list] = {}
    axes: dict[str, int] = {}
    for pipeline, weight in zip(pipelines, weights, strict=True):
        for name, layer in iter_lora(pipeline):
            up = layer.lora_up * jnp.asarray(weight, layer.lora_up.dtype)
            if layer.lora_scale is not None:
                up = layer.lora_scale * up
            factors.setdefault(name, []).append((layer.lora_down, up))
            axes[name] = layer.rank_axis
    names = {name for name, _ in iter_layers(pipelines[0])}
    if not factors.keys() <= names:
        raise ValueError(
            "`pipelines` must be the same model; the first lacks the layer "
            f"{min(factors.keys() - names)!r}."
        )

    def one(name: str, layer: AbstractAffine) -> AbstractAffine:
        if name not in factors:
            return layer
        downs, ups = zip(*factors[name], strict=True)
        down, up = jnp.concatenate(downs, axes[name]), jnp.concatenate(ups, axis=1)
        return with_lora(layer, down, up)

    return map_layers(one, pipelines[0])


def _require_lora(pipeline) -> None:
    if not has_lora(pipeline):
        raise ValueError(
            "`pipeline` must carry a LoRA adapter; it has none. Add one with "
            "`draftx.add_lora` or `draftx.load_lora`."
        )
