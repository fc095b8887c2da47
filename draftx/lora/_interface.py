import abc
from typing import Any, TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Float

from ..layers import AbstractAffine


if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


class AbstractLoRA(AbstractAffine):
    r"""Wraps a layer, and adds a low-rank update to its weight, $\frac{\alpha}{r} U D$.

    A wrapper is also the abstract kind of layer that it takes the place of.
    """

    base: eqx.AbstractVar[Any]
    lora_down: eqx.AbstractVar[Float[Array, "..."]]
    lora_up: eqx.AbstractVar[Float[Array, "outputs rank"]]
    lora_scale: eqx.AbstractVar[Float[Array, ""] | None]
    # The axis of `lora_down` along which factors are put side by side.
    rank_axis: AbstractClassVar[int]

    @abc.abstractmethod
    def update(self) -> Float[Array, "..."]:
        r"""Computes what is added to the weight, $\frac{\alpha}{r} U D$."""

    @abc.abstractmethod
    def premerged(self) -> AbstractAffine:
        """Adds the update to the weight once for many calls, and stays trainable."""

    def merged(self) -> AbstractAffine:
        """Adds the update to the weight: a layer without an adapter.

        The sum is computed in the dtype of the factors, and rounded once to that of the
        weight.
        """
        return with_added(self.base, self.update())


def with_added(layer: Any, update: Array) -> Any:
    """Adds to the weight of a layer, in the dtype of what is added."""
    weight = layer.weight
    weight = (weight.astype(update.dtype) + update).astype(weight.dtype)
    return eqx.tree_at(lambda m: m.weight, layer, weight)
