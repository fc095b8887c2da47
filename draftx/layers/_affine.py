import abc
from typing import Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp


# How checkpoints store an array: as we do, `OIHW` where we have `HWIO`, or as a 1x1
# convolution where we have a matrix.
Layout: TypeAlias = Literal["plain", "conv", "pointwise"]


class AbstractAffine(eqx.Module):
    """Maps activations by a weight and a bias: a linear layer or a convolution.

    Networks hold such a layer by its abstract kind, so that something else can take its
    place. What does keeps the layer that it replaces in a field `base`, under whose
    arrays' names it is found in checkpoints; its own arrays are in no checkpoint.
    """

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """The dtype of the weight as checkpoints have it."""

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """How checkpoints store the weight."""

    @abc.abstractmethod
    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Computes the shapes of the two factors of an update of the weight.

        **Arguments:**

        - `rank`: Of the update.

        **Returns:**

        The shape of the factor that sees the activations, a weight of this layer with
        `rank` outputs, and that of the matrix after it, `[outputs, rank]`.
        """
