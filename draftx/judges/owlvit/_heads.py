"""What OWL-ViT has beyond CLIP: a class and a box for every patch."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import AbstractLinear, Linear


# Added to the length of a vector before dividing by it.
_EPSILON = 1e-6


class ClassHead(eqx.Module):
    """Says how much each patch is what each query says.

    A cosine, with a shift and a scale that the patch chooses for itself.
    """

    dense0: AbstractLinear
    logit_shift: AbstractLinear
    logit_scale: AbstractLinear

    def __init__(self, features: int, embedding: int, *, dtype, key: PRNGKeyArray):
        key_1, key_2, key_3 = jr.split(key, 3)
        self.dense0 = Linear(features, embedding, dtype=dtype, key=key_1)
        self.logit_shift = Linear(features, 1, dtype=dtype, key=key_2)
        self.logit_scale = Linear(features, 1, dtype=dtype, key=key_3)

    @jax.named_scope("class_head")
    def __call__(
        self,
        x: Float[Array, "batch patches features"],
        queries: Float[Array, "#batch queries embedding"],
    ) -> Float[Array, "batch patches queries"]:
        """Compares patches with queries.

        **Arguments:**

        - `x`: Of every patch.
        - `queries`: Embeddings, of any length: the same for all images, or of each.

        **Returns:**

        Logits, in float32.
        """
        wide = lambda y: y.astype(jnp.float32)
        patches = _unit(wide(self.dense0(x)))
        queries = jnp.broadcast_to(
            _unit(wide(queries)), (x.shape[0], *queries.shape[1:])
        )
        cosines = jnp.einsum("bpe,bqe->bpq", patches, queries)
        scale = jax.nn.elu(wide(self.logit_scale(x))) + 1
        return (cosines + wide(self.logit_shift(x))) * scale


class BoxHead(eqx.Module):
    """Predicts the box of what a patch shows, told from where the patch itself is."""

    dense0: AbstractLinear
    dense1: AbstractLinear
    dense2: AbstractLinear

    def __init__(self, features: int, *, dtype, key: PRNGKeyArray):
        key_1, key_2, key_3 = jr.split(key, 3)
        self.dense0 = Linear(features, features, dtype=dtype, key=key_1)
        self.dense1 = Linear(features, features, dtype=dtype, key=key_2)
        self.dense2 = Linear(features, 4, dtype=dtype, key=key_3)

    @jax.named_scope("box_head")
    def __call__(
        self, x: Float[Array, "batch patches features"]
    ) -> Float[Array, "batch patches 4"]:
        """Predicts the center, width and height of every box.

        In float32, as fractions of the image from its upper left corner.
        """
        y = jax.nn.gelu(self.dense0(x), approximate=False)
        y = jax.nn.gelu(self.dense1(y), approximate=False)
        bias = box_bias(round(x.shape[1] ** 0.5))
        return jax.nn.sigmoid(self.dense2(y).astype(jnp.float32) + bias[None])


def box_bias(side: int) -> Float[np.ndarray, "patches 4"]:
    """Computes the logits of the boxes that a head of zeros gives.

    Each is as large as a patch, and centered on the patch's lower right corner, as in
    the published model.

    **Arguments:**

    - `side`: Patches in a row and in a column.
    """
    corners = np.arange(1, side + 1, dtype=np.float32) / np.float32(side)
    x, y = np.meshgrid(corners, corners)
    sizes = np.full_like(x, 1 / side)
    boxes = np.stack([x, y, sizes, sizes], axis=-1).reshape(-1, 4)
    small = np.float32(1e-4)
    return np.log(boxes + small) - np.log1p(-boxes + small)


def _unit(
    x: Float[Array, "batch tokens features"],
) -> Float[Array, "batch tokens features"]:
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    # A vector of zeros has a finite gradient too.
    length = jnp.sqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny))
    return x / (length + _EPSILON)
