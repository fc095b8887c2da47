import equinox as eqx

from .._checks import is_whole, plain
from .._custom_types import WholeLike
from ..layers import Remat


class Memory(eqx.Module):
    """Says how memory is traded for time; gradients stay the same."""

    remat: Remat = eqx.field(static=True)
    images_at_once: int | None = eqx.field(static=True)

    def __init__(
        self, remat: Remat | str = "auto", images_at_once: WholeLike | None = None
    ):
        """**Arguments:**

        - `remat`: What the backward pass computes again instead of keeping it.
            `"auto"`: the fastest of the following that fits into the memory there is,
            estimated from the sizes of images, batch and networks; a training that goes
            on keeps the one that it began with. `"none"`: nothing. `"ff"`: the
            feed-forward layers. `"block"`: the transformers; what is kept is little
            more than the feature maps between blocks. `"step"`: whole sampling steps,
            so that one latent is kept a step. `"nested"`: steps, and while that is done
            their blocks, the least memory. With the last three the decoder and the
            reward are computed again block by block as well, on a TPU the decoder image
            by image.
        - `images_at_once`: Decodes and rewards so many images at a time; must divide
            the batch, and the reward must look at every image on its own. `None` is
            all at once. With several devices it counts the images of all of them.

        Raises a `ValueError` that names the argument for anything else.
        """
        size = plain(images_at_once)
        if size is not None and not is_whole(size):
            raise ValueError(
                "`images_at_once` must be None or a whole number of at least 1; got "
                f"{images_at_once!r}."
            )
        self.remat = Remat(remat)
        self.images_at_once = size

    def check(self, batch_size: int) -> None:
        """Raises unless a batch of `batch_size` can be split as the options say."""
        size = self.images_at_once
        if size is not None and batch_size % size:
            raise ValueError(
                "`images_at_once` must be None or a whole number that divides the "
                f"batch, {batch_size}; got {size!r}."
            )
