"""Decoding a batch, on a TPU one image of each device after the other."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.lax as lax
from jax.sharding import Mesh
from jaxtyping import Array

from .._custom_types import Images, Latents
from ..kernels import target_device
from ..layers import checkpoint_if, Remat


class OneByOne(eqx.Module):
    """Decodes images of a batch in turn, whose gradient decodes them again in turn.

    A TPU pads what is in memory, the feature maps of one large image less than those of
    many: Stable Diffusion's decoder takes a quarter of the memory for it, and less
    time. Who looks at the images still sees the whole batch at once.

    **Arguments:**

    - `decoder`: Of any number of images, as `draftx.Pipeline.decode`.
    - `at_once`: Images of all devices together.
    """

    decoder: Callable[..., Images]
    at_once: int = eqx.field(static=True)

    def __call__(self, latents: Latents, *, remat: Remat = Remat.AUTO) -> Images:
        many = len(latents) > self.at_once and len(latents) % self.at_once == 0
        # Where nothing is to be computed again, all of it is kept.
        if not many or not remat.scoring:
            return self.decoder(latents, remat=remat)
        groups = into_groups(latents, self.at_once)
        # One image needs little: within it nothing is computed a third time.
        decode = lambda group: self.decoder(group, remat=Remat.NONE)
        images = lax.map(checkpoint_if(True, decode), groups)
        return joined(images)


def into_groups(x: Array, size: int) -> Array:
    """Divides rows `[batch, ...]` into `[groups, size, ...]`.

    Neighbors go to different groups: a batch that is split over as many devices as
    there are rows in a group then keeps all of them busy.

    **Arguments:**

    - `x`: Of any shape behind its rows.
    - `size`: Rows of a group; must divide them all.
    """
    return x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)


def joined(groups: Array) -> Array:
    """Makes rows `[batch, ...]` of `groups`, as `into_groups` made them."""
    return groups.swapaxes(0, 1).reshape(-1, *groups.shape[2:])


def decoding(
    decoder: Callable[..., Images], mesh: Mesh | None
) -> Callable[..., Images]:
    """Chooses how a batch is decoded, by the device that is compiled for.

    **Arguments:**

    - `decoder`: As for `OneByOne`.
    - `mesh`: Devices that the batch is divided over. Without one, and with more than
        one device, nothing is known of where images are: they stay together.
    """
    if target_device().platform != "tpu":
        return decoder
    if mesh is not None:
        return OneByOne(decoder, mesh.size)
    return OneByOne(decoder, 1) if jax.device_count() == 1 else decoder
