"""What counts the things in an image, place by place."""

import itertools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images
from ..layers import Conv2d, GroupNorm, Linear, ResnetBlock
from .classifiers import with_arrays


_NORM: dict[str, Any] = dict(num_groups=8, epsilon=1e-5)


class ObjectCounter(eqx.Module):
    """Counts things by a density: cells of an image, whose sum is how many there are.

    Convolutions of stride 2, one for each of `channels`, then residual blocks, whose
    reach is the whole of a small image: a large thing is one, too. A cell's density is
    positive, and is raised or lowered wherever it is, so that the sum has a gradient
    where nothing is seen yet.

    ??? cite

        A density as what is learned: Lempitsky and Zisserman, Learning to count objects
        in images, NIPS 2010.
    """

    downs: tuple[Conv2d, ...]
    blocks: tuple[ResnetBlock, ...]
    norm: GroupNorm
    density_head: Linear

    def __init__(
        self,
        *,
        channels: tuple[int, ...] = (24, 48, 80),
        num_blocks: int = 3,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channels`: After each convolution of stride 2; the last is divisible by 8.
        - `num_blocks`: Residual blocks, at the last scale.
        - `key`: Used to initialize the weights.
        """
        head_key, *keys = jr.split(key, 1 + len(channels) + num_blocks)
        pairs = itertools.pairwise((3, *channels))
        self.downs = tuple(Conv2d(i, o, stride=2, key=keys.pop()) for i, o in pairs)
        last = channels[-1]
        self.blocks = tuple(
            ResnetBlock(last, last, time_features=None, key=keys.pop(), **_NORM)
            for _ in range(num_blocks)
        )
        self.norm = GroupNorm(last, **_NORM)
        self.density_head = Linear(last, 1, key=head_key)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "ObjectCounter":
        """Builds a network with trained weights; its sizes are read off the shapes.

        **Arguments:**

        - `arrays`: By the names of the fields, convolutions as PyTorch has them.

        **Returns:**

        The network, in float32.
        """
        numbers = range(len(arrays))
        weights = [
            f"downs.{i}.weight" for i in numbers if f"downs.{i}.weight" in arrays
        ]
        if not weights:
            raise ValueError(
                "`arrays` must be those of an ObjectCounter; 'downs.0.weight' is "
                f"missing, and there are {', '.join(list(arrays)[:5]) or 'none'}."
            )
        skeleton = eqx.filter_eval_shape(
            lambda key: cls(
                channels=tuple(arrays[name].shape[0] for name in weights),
                num_blocks=sum(f"blocks.{i}.norm1.weight" in arrays for i in numbers),
                key=key,
            ),
            jr.key(0),
        )
        return with_arrays(skeleton, arrays)

    def density(self, images: Images) -> Float[Array, "batch rows columns"]:
        """Says how many things there are in each cell of images.

        **Arguments:**

        - `images`: Channels last, in $[0, 1]$, of the size it was trained on.
        """
        x = 2 * images.astype(self.downs[0].weight.dtype) - 1
        for down in self.downs:
            x = jax.nn.silu(down(x))
        for block in self.blocks:
            x = block(x)
        logits = self.density_head(self.norm(x, silu=True))[..., 0]
        return jax.nn.softplus(logits.astype(jnp.float32))

    @jax.named_scope("draftx.object_counter")
    def __call__(self, images: Images) -> Float[Array, " batch"]:
        """Counts the things in images, softly, `[batch]`."""
        return jnp.sum(self.density(images), axis=(1, 2))
