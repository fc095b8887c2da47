"""Between the fields of our modules and the names in published checkpoints.

Fields are named after diffusers' and transformers' own, so that a path such as
`mid_block.resnets.0.conv1.weight` is already the checkpoint's key. What is left is the
table below, and the layout of the array itself.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from ..layers import AbstractAffine, AbstractLinear, Conv2d, Layout, Linear


# (pattern of our path, replacement), applied in order to every path.
_RENAMED = (
    (r"\bdownsampler\b", "downsamplers.0.conv"),
    (r"\bupsampler\b", "upsamplers.0.conv"),
    (r"\bto_out\b", "to_out.0"),
    (r"\bff\.proj_in\b", "ff.net.0.proj"),
    (r"\bff\.proj_out\b", "ff.net.2"),
    (r"\battentions\.(\d+)\.attention\b", r"attentions.\1"),
    # The text encoder, alone and in a pipeline.
    (
        r"^(text_encoder\.)?(token|position)_embedding$",
        r"\1text_model.embeddings.\2_embedding.weight",
    ),
    (r"^(text_encoder\.)?layers\b", r"\1text_model.encoder.layers"),
    (r"^(text_encoder\.)?final_layer_norm\b", r"\1text_model.final_layer_norm"),
    # Both towers of a whole CLIP, alone and in a detector.
    (
        r"^(owlvit\.)?(text|vision)_model\.(token|position|patch)_embedding$",
        r"\1\2_model.embeddings.\3_embedding.weight",
    ),
    (
        r"^(owlvit\.)?vision_model\.class_embedding$",
        r"\1vision_model.embeddings.class_embedding",
    ),
    (r"^(owlvit\.)?(text|vision)_model\.layers\b", r"\1\2_model.encoder.layers"),
    (r"^owlvit\.vision_model\.pre_layrnorm\b", "owlvit.vision_model.pre_layernorm"),
)
_Tree = TypeVar("_Tree")
_Layer = TypeVar("_Layer", bound=AbstractAffine)


def checkpoint_key(path: tuple[Any, ...]) -> str:
    """Names the module or array at a key path of a JAX tree as published files do.

    **Arguments:**

    - `path`: As `jax.tree_util` gives it.
    """
    parts = (p.name if isinstance(p, jtu.GetAttrKey) else p.idx for p in path)
    # What wraps a layer has it in `base`.
    name = ".".join(str(part) for part in parts if part != "base")
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


class Parameter(NamedTuple):
    """Describes one array of a model: its published name, its leaf, its layout.

    **Arguments:**

    - `key`: The published name.
    - `leaf`: The array, or its shape and dtype.
    - `layout`: `"conv"` where the file has `OIHW` and we `HWIO`, `"pointwise"` where
        the file has a 1x1 convolution and we a matrix, and `"plain"` elsewhere.
    """

    key: str
    leaf: Any
    layout: Layout

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape that the array has in the file."""
        shape = tuple(self.leaf.shape)
        if self.layout == "conv":
            height, width, inputs, outputs = shape
            return (outputs, inputs, height, width)
        return (*shape, 1, 1) if self.layout == "pointwise" else shape

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """Brings the file's array (of `file_shape`) into our layout."""
        if self.layout == "conv":
            return np.transpose(array, (2, 3, 1, 0))
        return array.reshape(self.leaf.shape)

    def to_file(self) -> np.ndarray:
        """Brings our array into the file's layout, contiguous."""
        array = np.asarray(self.leaf)
        if self.layout == "conv":
            array = np.transpose(array, (3, 2, 0, 1))
        # A safetensors writer given a strided array would store it wrong.
        return np.ascontiguousarray(array).reshape(self.file_shape)


def iter_linears(tree: Any) -> Iterator[tuple[str, AbstractLinear]]:
    """Yields the published name and the layer of every linear layer of a model.

    A layer that wraps another stands for both.

    **Arguments:**

    - `tree`: A model, or any part of one.
    """
    return _iter_kind(AbstractLinear, tree)


def iter_layers(tree: Any) -> Iterator[tuple[str, AbstractAffine]]:
    """Yields the published name and the layer of what has a weight and a bias.

    Those are the linear layers and the convolutions of a model; a layer that wraps
    another stands for both.

    **Arguments:**

    - `tree`: A model, or any part of one.
    """
    return _iter_kind(AbstractAffine, tree)


def map_linears(
    fn: Callable[[str, AbstractLinear], AbstractLinear], tree: _Tree
) -> _Tree:
    """Replaces every linear layer of a model by `fn(published name, layer)`.

    A layer that wraps another stands for both.

    **Arguments:**

    - `fn`: Gives what takes the place of the layer.
    - `tree`: A model, or any part of one.
    """
    return _map_kind(AbstractLinear, fn, tree)


def map_layers(
    fn: Callable[[str, AbstractAffine], AbstractAffine], tree: _Tree
) -> _Tree:
    """Replaces every linear layer and convolution by `fn(published name, layer)`.

    A layer that wraps another stands for both.

    **Arguments:**

    - `fn`: Gives what takes the place of the layer.
    - `tree`: A model, or any part of one.
    """
    return _map_kind(AbstractAffine, fn, tree)


def named_parameters(model: eqx.Module) -> list[Parameter]:
    """Lists the arrays of a model that checkpoints have, in the order of its leaves.

    **Arguments:**

    - `model`: Or any part of one.
    """
    return [p for p in _parameters(model) if p is not None]


def checkpoint_arrays(model: eqx.Module) -> dict[str, np.ndarray]:
    """Collects the state dict that diffusers or transformers would save.

    **Arguments:**

    - `model`: Or any part of one.
    """
    return {p.key: p.to_file() for p in named_parameters(model)}


def replace_parameters(model: _Tree, new_leaf: Callable[[Parameter], Any]) -> _Tree:
    """Replaces the arrays of a model that checkpoints have by `new_leaf(parameter)`.

    **Arguments:**

    - `model`: Its arrays may be shapes and dtypes only.
    - `new_leaf`: Makes the array of a `Parameter`.
    """
    leaves, treedef = jax.tree.flatten(model)
    parameters = _parameters(model)
    new = [
        leaf if parameter is None else new_leaf(parameter)
        for leaf, parameter in zip(leaves, parameters, strict=True)
    ]
    return jax.tree.unflatten(treedef, new)


def _iter_kind(kind: type[_Layer], tree: Any) -> Iterator[tuple[str, _Layer]]:
    is_layer = lambda node: isinstance(node, kind)
    for path, leaf in jtu.tree_flatten_with_path(tree, is_leaf=is_layer)[0]:
        if isinstance(leaf, kind):
            yield checkpoint_key(path), leaf


def _map_kind(kind: type, fn: Callable[[str, Any], Any], tree: _Tree) -> _Tree:
    is_layer = lambda node: isinstance(node, kind)
    return jtu.tree_map_with_path(
        lambda path, leaf: fn(checkpoint_key(path), leaf) if is_layer(leaf) else leaf,
        tree,
        is_leaf=is_layer,
    )


def _parameters(model: Any) -> list[Parameter | None]:
    """One for each leaf of a model, `None` for those that no checkpoint has."""
    layouts, wrappers = {}, set()
    is_layer = lambda node: isinstance(node, AbstractAffine)
    for path, layer in jtu.tree_flatten_with_path(model, is_leaf=is_layer)[0]:
        if isinstance(layer, AbstractAffine):
            layouts[f"{checkpoint_key(path)}.weight"] = layer.layout
            if not isinstance(layer, Linear | Conv2d):
                wrappers.add(path)
    parameters = []
    for path, leaf in jtu.tree_flatten_with_path(model)[0]:
        key = checkpoint_key(path)
        is_added = path[:-1] in wrappers
        layout = layouts.get(key, "plain")
        parameters.append(None if is_added else Parameter(key, leaf, layout))
    return parameters
