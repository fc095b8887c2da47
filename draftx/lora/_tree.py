"""Adapters of whole models: which layers have one, and how it is put on and taken off.

A tree may also be a part of a model, such as a gradient, in which other arrays are
`None`.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import jax.tree_util as jtu
from jaxtyping import Array

from ..layers import AbstractAffine, Conv2d, Linear
from ..models import iter_layers, map_layers
from ._conv import LoRAConv2d
from ._interface import AbstractLoRA
from ._linear import LoRALinear


_Tree = TypeVar("_Tree")
_Layer = TypeVar("_Layer", bound=AbstractAffine)
# What a layer without an adapter is wrapped in.
_WRAPPERS: dict[type, Any] = {Linear: LoRALinear, Conv2d: LoRAConv2d}


def with_lora(
    layer: _Layer,
    down: Array | None,
    up: Array | None,
    scale: Array | None = None,
) -> _Layer:
    r"""Puts an adapter on a layer, in place of any other.

    **Arguments:**

    - `layer`: With or without an adapter.
    - `down`, `up`: The factors, as in [`draftx.lora.LoRALinear`][] or, for a
        convolution, [`draftx.lora.LoRAConv2d`][]; both `None` for the layer without an
        adapter.
    - `scale`: $\alpha / r$; `None` is 1.
    """
    if (down is None) != (up is None):
        raise ValueError(
            "`down` and `up` must be both arrays or both None; got "
            f"{'None and an array' if down is None else 'an array and None'}."
        )
    base: Any = layer.base if isinstance(layer, AbstractLoRA) else layer
    if type(base) not in _WRAPPERS:
        raise ValueError(
            "`layer` must be a `Linear` or a `Conv2d`, with or without LoRA; got a "
            f"{type(layer).__name__}. Put the adapter on the model that it came from."
        )
    if down is None or up is None:
        return base
    return _WRAPPERS[type(base)](base, down, up, scale)


def iter_lora(tree: Any) -> Iterator[tuple[str, AbstractLoRA]]:
    """Yields the published name and the layer of every adapter in a tree.

    **Arguments:**

    - `tree`: A pipeline, or any part of one.
    """
    for name, layer in iter_layers(tree):
        # In a part of a model without the adapter, the layer is there and empty.
        if isinstance(layer, AbstractLoRA) and layer.lora_down is not None:
            yield name, layer


def has_lora(tree: Any) -> bool:
    """Tells whether any layer of a tree carries an adapter.

    **Arguments:**

    - `tree`: A pipeline, or any part of one.
    """
    return any(True for _ in iter_lora(tree))


def without_lora(tree: _Tree) -> _Tree:
    """Takes the adapters off a model; its weights are shared, not copied.

    **Arguments:**

    - `tree`: A pipeline, or any part of one, with or without an adapter.
    """
    return map_layers(
        lambda _, layer: layer.base if isinstance(layer, AbstractLoRA) else layer, tree
    )


def premerge(tree: _Tree) -> _Tree:
    """Adds the update of every adapter to its weight, once for many calls of the model.

    The adapters stay trainable: see [`draftx.lora.PremergedLinear`][] and
    [`draftx.lora.PremergedConv2d`][].

    **Arguments:**

    - `tree`: A pipeline, or any part of one, with or without an adapter.
    """

    def one(_: str, layer: AbstractAffine) -> AbstractAffine:
        return layer.premerged() if isinstance(layer, AbstractLoRA) else layer

    return map_layers(one, tree)


def lora_filter(tree: _Tree) -> _Tree:
    """Marks the adapters' arrays in a tree of booleans: for `eqx.partition`.

    **Arguments:**

    - `tree`: A pipeline, or any part of one, with or without an adapter.
    """

    def mark(path, _):
        return getattr(path[-1], "name", None) in ("lora_down", "lora_up")

    return jtu.tree_map_with_path(mark, tree)


def lora_state_dict(tree: Any) -> dict[str, Array]:
    """Collects the adapters' arrays by the names of diffusers' training scripts.

    **Arguments:**

    - `tree`: A pipeline with an adapter, or a gradient with respect to one.

    **Returns:**

    `unet.<layer>.lora.down.weight`, `[rank, in_features]`, and
    `unet.<layer>.lora.up.weight`, `[out_features, rank]`, as the tree has them: the
    scale `alpha / rank` is not multiplied in, 1x1 convolutions are matrices, and what
    is down of another convolution is `[height, width, in_channels, rank]`.
    """
    arrays = {}
    for name, layer in iter_lora(tree):
        arrays[f"{name}.lora.down.weight"] = layer.lora_down
        arrays[f"{name}.lora.up.weight"] = layer.lora_up
    return arrays
